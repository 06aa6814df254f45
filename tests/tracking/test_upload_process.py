"""Records sent by a process of their own: silent when asked, none lost when it is killed, gone when its owner is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mtexp.spec import TrackingSpec
from mtexp.testing.records import stored
from mtexp.tracking.store import open_store
from mtexp.tracking.upload import log_or_defer, pending
from mtexp.tracking.upload_process import UploadsApart

pytestmark = pytest.mark.process

SOON_S = 60.0


@pytest.fixture
def uploads() -> Iterator[UploadsApart]:
    made = UploadsApart()
    yield made
    made.abandon()


def test_records_are_sent_in_their_order_with_their_picture(
    uploads: UploadsApart, tmp_path: Path, tracking: TrackingSpec
) -> None:
    """As by the thread: in MLflow, in that order, the picture among the artifacts, no marker left."""
    folders = [tmp_path / str(number) for number in range(3)]
    for seed, folder in enumerate(folders):
        stored(folder, seed=seed)
        uploads.send(folder, tracking, draw=True)
    uploads.drain()
    results = list(uploads.results())
    assert [upload.directory for upload in results] == folders
    assert not list(pending(tmp_path))
    with open_store(tracking, write=False) as store:
        for upload in results:
            assert [file.path for file in store.client.list_artifacts(upload.run_id, "plots")] == ["plots/latency.png"]


def test_in_silence_nothing_is_sent(uploads: UploadsApart, tmp_path: Path, tracking: TrackingSpec) -> None:
    """Handed over in silence, a record is not sent until it ends."""
    stored(tmp_path / "run")
    with uploads.silence():
        sent = uploads.send(tmp_path / "run", tracking)
        time.sleep(1.0)  # in which it would have begun: nothing else is to be done
        assert not sent.done()
    assert sent.result(SOON_S).run_id


def test_what_a_killed_process_had_is_deferred_and_the_next_is_sent(
    uploads: UploadsApart, tmp_path: Path, tracking: TrackingSpec
) -> None:
    """SIGKILL while a record waits: it is told with its reason and can be sent later; the next has a new process."""
    for seed, name in enumerate(("a", "b")):
        stored(tmp_path / name, seed=seed)
    with uploads.silence():
        lost = uploads.send(tmp_path / "a", tracking)
        os.kill(uploads.pid, signal.SIGKILL)
        upload = lost.result(SOON_S)
    assert (upload.run_id, "has ended (exit code -9)" in upload.reason) == ("", True)
    assert list(pending(tmp_path)) == [tmp_path / "a"]
    with uploads.silence():  # of a process that has gone: nobody to wait for
        pass
    assert uploads.send(tmp_path / "b", tracking).result(SOON_S).run_id
    assert log_or_defer(tmp_path / "a", tracking).run_id
    assert not list(pending(tmp_path))


def test_a_process_that_is_stopped_is_given_up_and_its_record_deferred(
    uploads: UploadsApart, tmp_path: Path, tracking: TrackingSpec
) -> None:
    """SIGSTOP: neither the end of a sweep nor its next run waits for it without limit."""
    stored(tmp_path / "run")
    with uploads.silence():
        uploads.send(tmp_path / "run", tracking)
        stopped = uploads.pid
        os.kill(stopped, signal.SIGSTOP)
    with uploads.silence():
        pass
    uploads.drain()
    (upload,) = uploads.results()
    assert "has ended (exit code -9)" in upload.reason
    assert list(pending(tmp_path)) == [tmp_path / "run"]
    assert not psutil.pid_exists(stopped)


def test_a_process_of_which_nothing_comes_is_given_up(
    uploads: UploadsApart, tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtexp.tracking.upload_process.NO_NEWS_S", 0.0)
    stored(tmp_path / "run")
    with uploads.silence():
        uploads.send(tmp_path / "run", tracking)
        uploads.drain()
        assert [upload.run_id for upload in uploads.results()] == [""]


def test_abandoned_records_keep_their_marker(uploads: UploadsApart, tmp_path: Path, tracking: TrackingSpec) -> None:
    """Nobody waits: what is not sent says so, and no process is left."""
    stored(tmp_path / "run")
    with uploads.silence():
        uploads.send(tmp_path / "run", tracking)
        uploads.abandon()
    (upload,) = uploads.results()
    assert upload.reason.startswith("Interrupted: nobody wanted to wait")
    assert list(pending(tmp_path)) == [tmp_path / "run"]
    assert not psutil.pid_exists(uploads.pid)


OWNER = """
import time
from mtexp.tracking.upload_process import UploadsApart
if __name__ == "__main__":
    uploads = UploadsApart()
    print(uploads.pid, flush=True)
    time.sleep(float({seconds!r}))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, None])
def test_it_ends_with_its_owner(tmp_path: Path, number: signal.Signals | None) -> None:
    """However that ends: killed, interrupted (Ctrl-C, which this process does not get), or at its end."""
    script = tmp_path / "owner.py"
    script.write_text(OWNER.format(seconds=60 if number else 0))
    repository = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": repository},
        start_new_session=True,
    ) as owner:
        assert owner.stdout is not None
        sender = psutil.Process(int(owner.stdout.readline()))
        if number == signal.SIGINT:
            time.sleep(0.5)
            os.killpg(owner.pid, number)  # as a terminal does it
        elif number:
            owner.send_signal(number)
    psutil.wait_procs([sender], timeout=20)
    assert not sender.is_running()

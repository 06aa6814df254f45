"""Records sent behind the runs that follow: in order, silent while somebody measures, none lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtexp.errors import TrackingError
from mtexp.spec import TrackingSpec
from mtexp.testing.records import stored
from mtexp.tracking import background, store
from mtexp.tracking.background import Uploads
from mtexp.tracking.upload import Upload, log_or_defer, pending

SOON_S = 20.0


@pytest.fixture
def uploads() -> Iterator[Uploads]:
    made = Uploads()
    yield made
    made.abandon()
    made.drain()


def in_steps(record_dir: Path, tracking: TrackingSpec, step: store.Step) -> Upload:
    """Sends nothing, in three steps."""
    for _ in range(3):
        with step():
            pass
    return Upload(record_dir, "sent")


def test_records_are_sent_in_their_order_and_each_is_told_once(tmp_path: Path, tracking: TrackingSpec) -> None:
    """Three records at once: in MLflow in that order; what became of them is said once, in that order."""
    uploads = Uploads()
    folders = [tmp_path / str(number) for number in range(3)]
    for seed, folder in enumerate(folders):
        stored(folder, seed=seed)
        uploads.send(folder, tracking)
    uploads.drain()
    results = list(uploads.results())
    assert [upload.directory for upload in results] == folders
    assert all(upload.run_id for upload in results)
    assert list(uploads.results()) == []
    assert list(pending(tmp_path)) == []


def test_waiting_for_what_is_sent_ends_in_time(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that takes long is not waited for longer than asked."""
    go_on = threading.Event()

    def slow(record_dir: Path, tracking: TrackingSpec, step: store.Step) -> Upload:
        assert go_on.wait(SOON_S)
        return Upload(record_dir, "sent")

    monkeypatch.setattr(background, "log_or_defer", slow)
    assert uploads.sent_within(0)
    uploads.send(tmp_path, TrackingSpec())
    assert not uploads.sent_within(0.01)
    go_on.set()
    assert uploads.sent_within(SOON_S)


def test_nothing_begins_in_silence_and_silence_waits_for_the_step_that_goes_on(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement begins when the step in progress has ended; the next one begins when it has."""
    order: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def draw(record_dir: Path) -> None:
        begun.set()
        go_on.wait(SOON_S)
        order.append("picture")

    def send(record_dir: Path, tracking: TrackingSpec, step: store.Step) -> Upload:
        with step():
            order.append("store")
        return Upload(record_dir, "sent")

    monkeypatch.setattr(background, "draw_run", draw)
    monkeypatch.setattr(background, "log_or_defer", send)
    sent = uploads.send(tmp_path, TrackingSpec(), draw=True)
    assert begun.wait(SOON_S)
    threading.Timer(0.05, go_on.set).start()
    with uploads.paused():
        order.append("measured from here")
        time.sleep(0.05)  # in which it would begin, if it did
        order.append("to here")
        assert not sent.done()
    assert sent.result(SOON_S).run_id == "sent"
    assert order == ["picture", "measured from here", "to here", "store"]


def test_a_call_that_hangs_holds_no_measurement_up(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that answers nothing any more: said, and the run measures; the call that waits takes nothing."""
    hanging, over = threading.Event(), threading.Event()

    def send(record_dir: Path, tracking: TrackingSpec, step: store.Step) -> Upload:
        with step():
            hanging.set()
            over.wait(SOON_S)
        return Upload(record_dir, "sent")

    monkeypatch.setattr(background, "SILENCE_S", 0.05)
    monkeypatch.setattr(background, "log_or_defer", send)
    sent = uploads.send(tmp_path, TrackingSpec())
    assert hanging.wait(SOON_S)
    with uploads.paused():
        assert not sent.done()
        over.set()
    assert "has not answered" in caplog.text
    assert sent.result(SOON_S).run_id == "sent"


def test_the_marker_is_there_before_the_turn_comes(uploads: Uploads, tmp_path: Path) -> None:
    """Killed while a record waits, the process leaves what finds it again."""
    stored(tmp_path / "run")
    with uploads.paused():
        uploads.send(tmp_path / "run", TrackingSpec())
        assert list(pending(tmp_path)) == [tmp_path / "run"]
        assert uploads.left == 1
        uploads.abandon()


def test_without_a_store_nothing_is_left_to_send(uploads: Uploads, tmp_path: Path) -> None:
    """The terminal does not say that it sends: only the picture of the run waits for its turn."""
    stored(tmp_path / "run")
    with uploads.paused():
        uploads.send(tmp_path / "run", TrackingSpec(enabled=False), draw=True)
        assert uploads.left == 0
        assert list(pending(tmp_path)) == []


def test_abandoned_records_are_deferred_and_can_be_sent_later(tmp_path: Path, tracking: TrackingSpec) -> None:
    """Nobody waits: none is in MLflow, each keeps its marker with the reason, and later each is sent."""
    uploads = Uploads()
    for name in ("a", "b"):
        stored(tmp_path / name, seed=ord(name))
    with uploads.paused():
        for name in ("a", "b"):
            uploads.send(tmp_path / name, tracking)
        uploads.abandon()
    uploads.drain()
    results = list(uploads.results())
    assert [(upload.run_id, upload.reason[:11]) for upload in results] == [("", "Interrupted")] * 2
    assert sorted(pending(tmp_path)) == [tmp_path / "a", tmp_path / "b"]
    assert all(log_or_defer(tmp_path / name, tracking).run_id for name in ("a", "b"))
    assert list(pending(tmp_path)) == []


def test_a_record_that_cannot_be_sent_does_not_keep_the_next_back(tmp_path: Path, tracking: TrackingSpec) -> None:
    """The first is deferred with its reason, the second is sent."""
    uploads = Uploads()
    for seed, name in enumerate(("broken", "whole")):
        stored(tmp_path / name, seed=seed)
    (tmp_path / "broken" / "record.json").write_text("{")
    for name in ("broken", "whole"):
        uploads.send(tmp_path / name, tracking)
    uploads.drain()
    first, second = uploads.results()
    assert not first.run_id
    assert second.run_id


@pytest.mark.parametrize("where", ["picture", "store"])
def test_what_nobody_foresaw_is_a_reason_of_that_record(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Matplotlib's own errors, MLflow's own: nothing is raised where results are read, and the next one is sent."""
    uploads = Uploads()
    broken = tmp_path / "broken"

    def picture(directory: Path, *args: Any) -> Path:
        raise ValueError("nobody foresaw this")

    def log_record(directory: Path, *args: Any) -> str:
        if directory == broken:
            raise ValueError("nobody foresaw this")
        return "run"

    if where == "picture":
        monkeypatch.setattr("mtexp.records.picture.write_latency_plot", picture)
    else:
        monkeypatch.setattr("mtexp.tracking.upload.log_record", log_record)
    for seed, folder in enumerate((broken, tmp_path / "whole")):
        stored(folder, seed=seed)
        uploads.send(folder, tracking, draw=True)
    uploads.drain()
    first, second = uploads.results()
    assert bool(first.run_id) is (where == "picture")
    assert where == "picture" or "ValueError: nobody foresaw this" in first.reason
    assert second.run_id
    assert list(pending(tmp_path)) == ([] if where == "picture" else [broken])


def test_the_command_goes_on_after_what_nobody_foresaw(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One record of two is sent, the other is named; exit code 1."""
    from mtexp.tracking import upload

    for seed, name in enumerate("ab"):
        stored(tmp_path / name, seed=seed)
    real = upload.load

    def load(directory: Path) -> Any:
        if directory.name == "a":
            raise ZeroDivisionError("nobody foresaw this")
        return real(directory)

    monkeypatch.setattr(upload, "load", load)
    assert upload.main([str(tmp_path), "--uri", tracking.uri]) == 1
    out = capsys.readouterr().out
    assert "ZeroDivisionError: nobody foresaw this" in out
    assert "1 of 2 records are in MLflow" in out


def test_a_slow_store_is_waited_for(uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a few records, with their samples, wait in memory."""

    def slow(record_dir: Path, tracking: TrackingSpec, step: store.Step) -> Upload:
        time.sleep(0.01)
        return in_steps(record_dir, tracking, step)

    monkeypatch.setattr(background, "log_or_defer", slow)
    for _ in range(20):
        uploads.send(tmp_path, TrackingSpec())
        assert uploads.left <= background.WAITING


@pytest.mark.parametrize(
    "call", ["search_runs", "create_run", "update_run", "log_batch", "log_artifact", "set_terminated", "set_tag"]
)
def test_every_call_of_the_store_is_in_a_step(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whatever writes to MLflow can be told to wait: each call is in a step, and in one only."""
    from contextlib import contextmanager

    from mlflow import MlflowClient

    inside: list[int] = []
    seen: list[int] = []
    real = getattr(MlflowClient, call)

    @contextmanager
    def step() -> Iterator[None]:
        inside.append(1)
        yield
        inside.pop()

    def watched(*arguments: Any, **named: Any) -> Any:
        seen.append(len(inside))
        return real(*arguments, **named)

    monkeypatch.setattr(MlflowClient, call, watched)
    stored(tmp_path / "run")
    assert log_or_defer(tmp_path / "run", tracking, step).run_id
    assert set(seen) == {1}


def test_a_step_of_the_writer_that_is_refused_defers(tmp_path: Path, tracking: TrackingSpec) -> None:
    """The reason is that of the step, not one of MLflow's."""

    def step() -> Any:
        raise TrackingError("Interrupted: so be it.")

    stored(tmp_path / "run")
    assert log_or_defer(tmp_path / "run", tracking, step).reason.startswith("Interrupted: so be it.")

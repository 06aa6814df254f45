"""Terminals and readers that go away while tenants measure, and interrupts that a library catches."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mtexp.records.record import load
from tests.run.run_helpers import ENDLESS, SMALL, Workplace, kind

pytestmark = pytest.mark.process

RUN = Path(__file__).parents[2] / "run.py"


def _until_said(terminal: int, text: bytes) -> None:
    said, end = b"", time.monotonic() + 90
    while text not in said:
        assert select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0], said
        said += os.read(terminal, 65536)


def test_a_terminal_that_is_closed_ends_the_run_in_order(workplace: Workplace) -> None:
    """Exit code 129, no further point; samples, telemetry and reason on disk and in MLflow, as after Ctrl-C."""
    terminal, theirs = pty.openpty()
    name = os.ttyname(theirs)
    command = [sys.executable, str(RUN), "-m", *SMALL, "mix=pair,solo,bert_base", "baseline=skip", "sweep=s", *ENDLESS]
    run = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(name, os.O_RDWR)),  # it becomes the terminal of the session
    )
    try:
        os.close(theirs)
        _until_said(terminal, b"measuring")
        board = workplace.folder / "multirun/s/0/board.bin"
        assert board.is_file()
        time.sleep(0.5)
    finally:
        os.close(terminal)
        code = run.wait(90)
    assert code == 129
    (place,) = (workplace.folder / "multirun/s").glob("*/record.json")
    record = load(place.parent)
    assert record.failure == "interrupted: SIGHUP"
    assert (place.parent / "telemetry.parquet").is_file()
    assert "telemetry-missing" not in {finding.code for finding in record.findings}
    (sent,) = workplace.mlflow_runs(kind("mix"))
    assert sent.data.tags["mtexp.failure"] == "interrupted: SIGHUP"


def test_ctrl_c_after_the_reader_has_gone_ends_the_sweep(workplace: Workplace) -> None:
    """``run.py -m ... 2>&1 | tee log``: the reader dies of the same Ctrl-C, and first."""
    command = [sys.executable, str(RUN), "-m", *SMALL, "mix=bert_base,distilgpt2", "baseline=skip", "sweep=s", *ENDLESS]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        assert run.stdout is not None
        assert any(b"measuring" in line for line in run.stdout)
        run.stdout.close()
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
        assert run.wait(90) == 130
    finally:
        run.kill()
    (place,) = (workplace.folder / "multirun/s").rglob("record.json")
    assert load(place.parent).failure == "interrupted: Ctrl-C"
    (sent,) = workplace.mlflow_runs(kind("mix"))
    assert sent.data.tags["mtexp.failure"] == "interrupted: Ctrl-C"


@pytest.mark.parametrize("kept", [True, False])
def test_an_interrupt_that_a_library_catches_ends_the_sweep_all_the_same(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Hydra's YAML writer, in the middle of something: swallowed, or turned into an error of its own."""
    from hydra.core import utils

    write = utils._save_config

    def interrupted(*arguments: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            if not kept:
                raise UnboundLocalError("value") from None
        write(*arguments)

    monkeypatch.setattr(utils, "_save_config", interrupted)
    ran = workplace.run("-m", "mix=bert_base,distilgpt2", "baseline=skip", "sweep=s")
    assert ran.code == 130
    assert "Traceback" not in ran.err
    assert not workplace.records()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_it_starts_leaves_nothing(tmp_path: Path, signum: int, code: int) -> None:
    """The forkserver has begun to import torch; the command line is not yet read."""
    command = [sys.executable, str(RUN), *SMALL, "mix=solo"]
    with tempfile.TemporaryDirectory() as temporary:  # in a longer one the forkserver has its address elsewhere
        environment = os.environ | {"TMPDIR": temporary}
        run = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
        while not list(Path(temporary).glob("pymp-*")):
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signum)
        assert run.wait(90) == code
        assert not list(Path(temporary).glob("pymp-*"))

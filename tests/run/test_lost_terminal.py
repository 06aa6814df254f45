"""The terminal is closed while tenants measure: every process of it gets SIGHUP, every line to it is an error."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtexp.records.record import load
from mtexp.terminal import console
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


def test_only_a_terminal_is_given_up(capfd: pytest.CaptureFixture[str]) -> None:
    """What goes to a file or a pipe goes on: a full disk there is still an error."""
    assert not console.lose_terminal()
    console.say("still here")
    assert capfd.readouterr().out == "still here\n"

"""A sweep whose records are sent behind the points that follow: silent in windows, complete at the end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mtexp.host import cpu_device
from mtexp.leases import lease
from mtexp.records import keys
from mtexp.terminal import points
from mtexp.tracking import background, mlflow_writer
from mtexp.tracking.upload import PENDING
from tests.run.run_helpers import Workplace, kind

pytestmark = pytest.mark.process

SWEEP = ("-m", "mix=solo", "seed=1,2,3", "baseline=skip", "sweep=s")
CALLS = ("create_run", "update_run", "log_batch", "log_artifact", "set_terminated", "set_tag", "search_runs")
SLOW_S = 0.02


def slow_store(place: Workplace) -> list[tuple[int, int]]:
    """Make each call of the store take longer; returns when each began and ended (monotonic ns)."""
    from mlflow import MlflowClient

    calls: list[tuple[int, int]] = []

    def slowed(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            begin_ns = time.monotonic_ns()
            time.sleep(SLOW_S)
            try:
                return real(*arguments, **named)
            finally:
                calls.append((begin_ns, time.monotonic_ns()))

        return call

    for name in CALLS:
        place.patch.setattr(MlflowClient, name, slowed(getattr(MlflowClient, name)))
    return calls


def test_the_store_is_silent_in_every_window(workplace: Workplace) -> None:
    """A slow store and three points: they overlap with the runs that follow, and never with a window."""
    calls = slow_store(workplace)
    drawn: list[tuple[int, int]] = []
    real = background.draw_run

    def draw(folder: Path) -> None:
        begin_ns = time.monotonic_ns()
        real(folder)
        drawn.append((begin_ns, time.monotonic_ns()))

    workplace.patch.setattr(background, "draw_run", draw)
    assert workplace.run(*SWEEP).code == 0
    records = sorted(workplace.records("multirun/s").values(), key=lambda record: record.clock[0])
    windows = [(record.window["t0_ns"], record.window["t1_ns"]) for record in records]
    assert len(windows) == 3
    assert len(calls) >= 3 * 10
    for begin_ns, end_ns in (*calls, *drawn):
        assert all(end_ns <= t0_ns or begin_ns >= t1_ns for t0_ns, t1_ns in windows)
    spans = [(record.clock[0][0], record.clock[-1][0]) for record in records[1:]]
    beside = [call for call in calls if any(begin_ns < call[0] < end_ns for begin_ns, end_ns in spans)]
    assert beside, "nothing was sent while the next point started"


def test_order_and_completeness(workplace: Workplace) -> None:
    """Runs are in MLflow in the order of the points, each complete, before the command ends."""
    assert workplace.run(*SWEEP).code == 0
    runs = workplace.mlflow_runs(kind("mix"))
    assert [run.data.tags[keys.UPLOAD] for run in runs] == [keys.UPLOAD_COMPLETE] * 3
    in_order = [workplace.records("multirun/s")[str(number)].record_id for number in range(3)]
    assert [run.data.tags[keys.RECORD_ID] for run in runs] == in_order
    assert not list(workplace.folder.rglob(PENDING))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_in_a_later_point_loses_no_earlier_record(workplace: Workplace, number: int, code: int) -> None:
    """Ctrl-C or SIGTERM while the second point measures: both points are in MLflow when the command ends."""
    slow_store(workplace)
    phases: list[str] = []

    def hook(text: str) -> None:
        phases.append(text)
        if phases.count("measuring") == 2 and text == "measuring":
            os.kill(os.getpid(), number)

    ran = workplace.run(*SWEEP, on_phase=hook)
    assert ran.code == code
    assert "1 of 3 runs failed, 1 did not run" in ran.out
    assert "not in MLflow" not in ran.out
    assert sorted(run.info.status for run in workplace.mlflow_runs(kind("mix"))) == ["FAILED", "FINISHED"]
    assert not list(workplace.folder.rglob(PENDING))


def test_an_interrupt_while_the_last_records_are_sent_leaves_them_for_later(workplace: Workplace) -> None:
    """The command ends soon, says what is missing and how to send it; the record is whole and its marker there."""
    slow_store(workplace)
    workplace.patch.setattr(points, "_QUIET_S", 0)

    def hook(text: str) -> None:
        if text.startswith("tracking: "):
            os.kill(os.getpid(), signal.SIGINT)

    ran = workplace.run("-m", "mix=solo", "seed=1,2", "baseline=skip", "sweep=s", on_phase=hook)
    assert ran.code == 130
    assert "not in MLflow. To send" in ran.out
    assert len(workplace.records("multirun/s")) == 2
    assert list(workplace.folder.rglob(PENDING))
    assert "Traceback" not in ran.err


def test_a_run_that_is_ended_while_it_is_sent_has_finished(workplace: Workplace) -> None:
    """SIGTERM while MLflow takes the record: the run has not failed; meanwhile its device was another's to take."""
    slow_store(workplace)
    workplace.patch.setattr(points, "_QUIET_S", 0)
    taken: list[str] = []

    def hook(text: str) -> None:
        if text.startswith("tracking: "):
            with lease([cpu_device()], wait_s=0, label="another") as device:
                taken.append(device.kind)
            os.kill(os.getpid(), signal.SIGTERM)

    ran = workplace.run("mix=solo", "baseline=skip", "sweep=s", on_phase=hook)
    assert ran.code == 143
    assert taken == ["cpu"]
    assert "runs failed" not in ran.out
    assert workplace.jobs("outputs/s") == ["FINISHED"]
    assert "1 record is not in MLflow" in ran.out


def test_what_a_store_refuses_behind_a_run_is_said_and_counts(workplace: Workplace) -> None:
    """Two points, the first refused: its reason and its number are said, the second is in MLflow, exit code 1."""
    refused: list[str] = []
    real = mlflow_writer._send

    def send(store: Any, record: Any, record_dir: Path, histories: Any) -> str:
        if not refused:
            refused.append(record.record_id)
            raise OSError(5, "the store broke")
        return real(store, record, record_dir, histories)

    workplace.patch.setattr(mlflow_writer, "_send", send)
    ran = workplace.run("-m", "mix=solo", "seed=1,2", "baseline=skip", "sweep=s")
    assert ran.code == 1
    assert ran.out.count("NOT sent: ") == 1
    assert "the store broke" in ran.out
    assert "1 record is not in MLflow" in ran.out
    assert len(workplace.mlflow_runs(kind("mix"))) == 1


def test_a_baseline_measured_behind_is_linked(workplace: Workplace) -> None:
    """The baseline is on its way to MLflow when its mix is measured; the record and the child run name its run."""
    slow_store(workplace)
    assert workplace.run("-m", "mix=solo", "seed=1,2", "sweep=s").code == 0
    baseline = workplace.mlflow_runs(kind("baseline"))[-1]  # on a busy host the first may have been measured again
    for run in workplace.mlflow_runs(kind("mix")):
        (child,) = workplace.children(run).values()
        assert child.data.tags[keys.BASELINE_RUN_ID] == baseline.info.run_id
    mixes = [record for record in workplace.records("multirun/s").values() if record.kind == "mix"]
    assert [record.tenants[0].baseline.run_id for record in mixes] == [baseline.info.run_id] * 2

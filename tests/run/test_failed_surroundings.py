"""What breaks around a run: sampler, MLflow, the disk. The run stands, or one message says why not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from mtexp.launch import CorePlan
from mtexp.processes import start_forkserver
from mtexp.running import measurement, pinning
from mtexp.tracking import upload
from tests.run.run_helpers import Workplace, kind

pytestmark = pytest.mark.process

POINT = ("mix=solo", "baseline=skip", "sweep=s")


def test_a_sampler_that_dies_costs_the_telemetry_only(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning says how the sampler ended; the run is not INVALID because of it."""
    opened: list[Any] = []
    real = measurement.open_sampler
    monkeypatch.setattr(
        measurement, "open_sampler", lambda *args, **options: opened.append(real(*args, **options)) or opened[-1]
    )

    def kill(text: str) -> None:
        if text == "measuring":
            os.kill(opened[-1].pid, signal.SIGKILL)

    ran = workplace.run(*POINT, on_phase=kill)
    assert ran.code == 0
    record = workplace.records("outputs/s")["."]
    assert record.status == "FINISHED"
    (finding,) = [f for f in record.findings if f.code == "telemetry-missing"]
    assert finding.level == "warning"  # a busy host may make the run INVALID for reasons of its own
    assert "died (exit code -9)" in finding.message
    assert record.telemetry == {}


def test_tenants_without_cores_of_their_own_are_told(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning in the record, and in the terminal: what slows them there is not the GPU."""
    found = CorePlan(processes=((), ()), sampler=(), parent=(), missing=3)
    monkeypatch.setattr(measurement, "leased_cores", lambda *args, **options: nullcontext(found))
    ran = workplace.run("mix=pair", "baseline=skip", "sweep=s")
    assert ran.code == 0
    (finding,) = [f for f in workplace.records("outputs/s")["."].findings if f.code == "cores-few"]
    assert finding.message in ran.out + ran.err


@pytest.mark.parametrize(
    ("code", "plan"),
    [("cores-held", {"held_by_others": 3}), ("cores-shared", {"on_shared_cores": 2}), ("cores-few", {"missing": 3})],
)
def test_a_warning_says_how_many_cores_are_wanting(code: str, plan: dict[str, int]) -> None:
    (finding,) = pinning.core_findings(CorePlan(processes=((), ()), sampler=(), parent=(), **plan), 2)
    assert (finding.level, finding.code) == ("warning", code)
    assert f"{next(iter(plan.values()))} " in finding.message


@pytest.mark.parametrize(("limit", "codes"), [(1.5, ["cpu-limit"]), (3.0, []), (None, [])])
def test_a_quota_of_cpu_time_that_tenants_use_up_is_told(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, codes: list[str]
) -> None:
    """A container with 64 cores in its list and the time of 1.5: nothing else shows that tenants will be stopped."""
    monkeypatch.setattr(pinning, "cpu_limit", lambda: limit)
    cores = CorePlan(processes=((4,), (5,)), sampler=(3,), parent=(0, 1, 2))
    assert [finding.code for finding in pinning.core_findings(cores, 2)] == codes


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing to be confined to")
def test_what_is_not_pinned_may_use_every_core_whatever_the_forkserver_was_started_on(
    workplace: Workplace, bare_server: None
) -> None:
    """A run before may have pinned the thread that started the forkserver: its children would inherit that."""
    everywhere = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(everywhere)})
        start_forkserver()
    finally:
        os.sched_setaffinity(0, everywhere)
    ran = workplace.run("mix=stress_launch", "baseline=skip", "sweep=s", "measure.pin_cores=false")
    assert ran.code == 0, ran.err
    (tenant,) = workplace.records("outputs/s")["."].tenants
    assert set(tenant.facts_before["cores"]) == everywhere


def test_an_unreachable_mlflow_loses_nothing(workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    """The record is on disk, the summary and the exit code say that it is not in MLflow, and later it is: once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    ran = workplace.run(*POINT, f"tracking.uri={uri}")
    assert ran.code == 2  # asked before anything starts
    assert not Path("outputs").exists()
    workplace.patch.setattr("mtexp.terminal.cli.ask_store", lambda tracking: None)  # it answers, and goes away
    ran = workplace.run(*POINT, f"tracking.uri={uri}")
    assert ran.code == 1
    assert f"1 record is not in MLflow. To send it:\npython -m mtexp.tracking.upload {Path('outputs/s')}" in ran.out
    assert "Traceback" not in ran.err + ran.out
    assert workplace.jobs("outputs/s") == ["FINISHED"]
    assert (workplace.folder / "outputs/s/upload.pending").is_file()

    store = f"sqlite:///{workplace.folder / 'mlflow.db'}"
    for _ in range(2):
        assert upload.main(["outputs/s", "--uri", store]) == 0
    assert "1 of 1 records are in MLflow" in capsys.readouterr().out
    (run,) = workplace.mlflow_runs(kind("mix"))
    assert run.data.tags["mtexp.upload"] == "complete"
    assert not (workplace.folder / "outputs/s/upload.pending").exists()


def test_a_folder_that_cannot_be_made_is_one_message(workplace: Workplace) -> None:
    """Before anything starts: what, why, what to do; nothing in MLflow."""
    (workplace.folder / "file").write_text("")
    ran = workplace.run(*POINT, "hydra.run.dir=file/run")
    assert ran.code == 2
    assert ran.err == (
        "file/run cannot be written: Not a directory. Make room or choose another place with hydra.run.dir "
        "(hydra.sweep.dir in a sweep).\n"
    )
    assert not workplace.phases


@pytest.fixture
def small_disk(workplace: Workplace) -> Iterator[Path]:
    """A disk of 4 MiB, mounted below the workplace."""
    disk = workplace.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk of its own: {mounted.stderr.decode().strip() or 'mount is not allowed'}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_without_room_for_samples_fails_the_run(workplace: Workplace, small_disk: Path) -> None:
    """Before it measures, with one message; the run is FAILED, on disk and in MLflow, and the next one runs."""
    ran = workplace.run(
        "-m",
        "mix=solo",
        "measure.max_iterations=1000000,1000",
        "baseline=skip",
        "sweep=s",
        f"hydra.sweep.dir={small_disk}/runs",
    )
    assert ran.code == 1
    assert "No space left on device. Make room, or choose another place with hydra.run.dir" in ran.out
    assert "Traceback" not in ran.out + ran.err
    assert [r.status for r in workplace.records("disk/runs").values()] == ["FAILED", "FINISHED"]
    assert sorted(run.info.status for run in workplace.mlflow_runs(kind("mix"))) == ["FAILED", "FINISHED"]


def fill(disk: Path) -> None:
    """Leave no byte."""
    with (disk / "filler").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_disk_that_is_full_ends_a_sweep_with_one_message(workplace: Workplace, small_disk: Path) -> None:
    """What is measured goes to MLflow from what is on the disk; no folder for the next point is no traceback."""
    ran = workplace.run(
        "-m",
        "mix=solo",
        "seed=1,2",
        "baseline=skip",
        "sweep=s",
        "measure.max_iterations=20000",
        f"hydra.sweep.dir={small_disk}/runs",
        on_phase=lambda text: fill(small_disk) if text == "tracking" else None,
    )
    assert ran.code == 1
    assert "2 did not run" in ran.out
    assert "job.json cannot be written: [Errno 28] No space left on device" in ran.err
    assert f"{small_disk}/runs cannot be written: No space left on device. Make room or choose" in ran.err
    assert "Traceback" not in ran.err + ran.out
    (run,) = workplace.mlflow_runs(kind("mix"))
    assert run.data.tags["mtexp.upload"] == "complete"


def test_a_disk_that_fills_while_measuring_costs_the_telemetry_only(workplace: Workplace, small_disk: Path) -> None:
    """Room for the samples was taken before: they are written in its place."""

    ran = workplace.run(
        *POINT,
        "measure.max_iterations=50000",
        f"hydra.run.dir={small_disk}/run",
        on_phase=lambda text: fill(small_disk) if text == "measuring" else None,
    )
    assert ran.code == 0, ran.err
    record = workplace.records("disk/run")["."]
    assert (record.status, record.verdict) == ("FINISHED", "VALID")
    assert "No space left on device" in next(f.message for f in record.findings if f.code == "telemetry-missing")


def test_a_read_only_disk_is_one_message(workplace: Workplace, small_disk: Path) -> None:
    """Before anything starts."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ran = workplace.run(*POINT, f"hydra.run.dir={small_disk}/run")
    assert ran.code == 2
    assert "cannot be written: Read-only file system" in ran.err
    assert "Traceback" not in ran.err

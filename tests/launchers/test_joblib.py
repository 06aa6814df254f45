"""Several runs at once on one host: the device lease gives each a device of its own."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from joblib import Parallel, delayed

from mtexp.host import Device
from mtexp.launch import leased_cores
from mtexp.running import runner
from mtexp.running.runner import Job, Runner
from mtexp.telemetry.nvml import find_devices
from mtexp.testing.nvml import FakeGpu, FakeNvml
from mtexp.testing.records import example
from tests.launchers.launcher_helpers import TWO_POINTS, Place, check_two_points

pytestmark = pytest.mark.process

GPUS = ("GPU-aaaa", "GPU-bbbb")
RUNS = 4
DEADLINE_S = 60.0
SPEC = example()[0].run_spec


class Held(NamedTuple):
    """Which GPU a run had, from when to when, and on which CPU cores."""

    gpu: str
    begin_ns: int
    end_ns: int
    cores: set[int]


def _run_with_two_gpus(number: int, folder: Path) -> Held:
    """In a worker of joblib: one run of two tenants on a host with two fake GPUs and 16 cores.

    Everything is the runner's own but NVML and the measurement. The first run to hold a GPU waits for a second one.
    """

    class Point:
        uploads = ()

        def __init__(self, job: Job, device: Device, *_: object) -> None:
            self.job, self.device = job, device

        def run(self, attempt: int) -> SimpleNamespace:
            begin_ns = time.monotonic_ns()
            with leased_cores([1, 1]) as plan:
                (folder / f"{number}.started").touch()
                end = time.monotonic() + DEADLINE_S
                while len(list(folder.glob("*.started"))) < 2 and time.monotonic() < end:
                    time.sleep(0.01)
            cores = {core for own in (*plan.processes, plan.sampler) for core in own}
            held.append(Held(self.device.uuid, begin_ns, time.monotonic_ns(), cores))
            return SimpleNamespace(status="FINISHED")

    held: list[Held] = []
    os.environ["MTEXP_LEASE_DIR"] = str(folder / "lease")
    fake = FakeNvml(*(FakeGpu(uuid) for uuid in GPUS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "find_devices", lambda: find_devices(fake, {}))
        patch.setattr(runner, "_Point", Point)
        patch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
        Runner().run(Job(spec=replace(SPEC, mix=f"run{number}", runtime="gpu"), folder=folder))
    return held[0]


def test_each_run_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    """Two workers, two GPUs, four runs: both GPUs are in use at once, none by two runs at once, and no CPU core by
    tenants of both."""
    held = Parallel(n_jobs=2)(delayed(_run_with_two_gpus)(number, tmp_path) for number in range(RUNS))
    by_gpu = {gpu: sorted((run for run in held if run.gpu == gpu), key=lambda run: run.begin_ns) for gpu in GPUS}
    assert sorted(len(spans) for spans in by_gpu.values()) in ([1, 3], [2, 2])
    for spans in by_gpu.values():
        assert all(before.end_ns <= after.begin_ns for before, after in pairwise(spans))
    first, second = (spans[0] for spans in by_gpu.values())
    assert max(first.begin_ns, second.begin_ns) < min(first.end_ns, second.end_ns)
    assert len(first.cores) == len(second.cores) == 3
    assert not first.cores & second.cores


def test_a_worker_that_is_killed(place: Place) -> None:
    """SIGKILL of one of two workers: one line says so, the summary counts; what job.json files of an earlier sweep say
    is not what became of this one's points. With resume=true both points run, as in any sweep with joblib on one
    device: they take turns, share one baseline and one MLflow file."""
    sweep = [*TWO_POINTS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "resume=true"]
    folder = place.folder / "multirun" / "two"
    for number in range(3):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "job.json").write_text(json.dumps({"num": number, "status": "FINISHED", "unsent": 0}))
    endless = ("measure.iterations=100000", "measure.max_iterations=110000", "baseline=skip", "tracking=none")
    command = place.start(*sweep, *endless)
    try:
        end = time.monotonic() + DEADLINE_S
        while not (begun := list(folder.glob("*/begun.json"))) and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(json.loads(begun[0].read_text())["run"]["pid"], signal.SIGKILL)
        out, err = command.communicate(timeout=DEADLINE_S)
    finally:
        command.kill()
    assert command.returncode == 1
    assert "Traceback" not in out + err
    assert "sweep stopped early" in err
    assert "sweep=two resume=true" in err
    assert "0 of 2 runs failed, 2 did not run" in out
    check_two_points(place, place.run(*sweep))
    killed = {path.parent for path in folder.glob("*/begun.json")}
    assert killed == {path.parents[1] for path in folder.glob("*/run-2/record.json")} != set()

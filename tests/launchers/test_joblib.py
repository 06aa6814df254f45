"""Several runs at once on one host: the device lease gives each a device of its own."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from joblib import Parallel, delayed

from mtexp import runner
from mtexp.host import Device
from mtexp.runner import Job, Runner
from mtexp.telemetry.nvml import find_devices
from mtexp.testing.nvml import FakeGpu, FakeNvml
from mtexp.testing.records import example
from tests.launchers.launcher_helpers import TWO_POINTS, Place, check_two_points

pytestmark = pytest.mark.process

GPUS = ("GPU-aaaa", "GPU-bbbb")
RUNS = 4
DEADLINE_S = 60.0
SPEC = example()[0].run_spec


def _run_with_two_gpus(number: int, folder: Path) -> tuple[str, int, int]:
    """In a worker of joblib: one run on a host with two fake GPUs; returns (GPU, first ns, last ns) of holding it.

    Everything is the runner's own but NVML and the measurement. The first run to hold a GPU waits for a second one.
    """

    class Point:
        uploads = ()

        def __init__(self, job: Job, device: Device, *_: object) -> None:
            self.device = device

        def run(self, attempt: int) -> SimpleNamespace:
            begin_ns = time.monotonic_ns()
            (folder / f"{number}.started").touch()
            end = time.monotonic() + DEADLINE_S
            while len(list(folder.glob("*.started"))) < 2 and time.monotonic() < end:
                time.sleep(0.01)
            held.append((self.device.uuid, begin_ns, time.monotonic_ns()))
            return SimpleNamespace(status="FINISHED")

    held: list[tuple[str, int, int]] = []
    os.environ["MTEXP_LEASE_DIR"] = str(folder / "lease")
    fake = FakeNvml(*(FakeGpu(uuid) for uuid in GPUS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "find_devices", lambda: find_devices(fake, {}))
        patch.setattr(runner, "_Point", Point)
        Runner().run(Job(spec=replace(SPEC, mix=f"run{number}", runtime="gpu"), folder=folder))
    return held[0]


def test_each_run_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    """Two workers, two GPUs, four runs: both GPUs are in use at once, none by two runs at once."""
    held = Parallel(n_jobs=2)(delayed(_run_with_two_gpus)(number, tmp_path) for number in range(RUNS))
    by_gpu = {gpu: sorted((begin, end) for uuid, begin, end in held if uuid == gpu) for gpu in GPUS}
    assert sorted(len(spans) for spans in by_gpu.values()) in ([1, 3], [2, 2])
    for spans in by_gpu.values():
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    first, second = (spans[0] for spans in by_gpu.values())
    assert max(first[0], second[0]) < min(first[1], second[1])


def test_a_sweep_with_joblib(place: Place) -> None:
    """hydra/launcher=joblib on one device: the runs take turns, share one baseline and one MLflow file."""
    done = place.run(*TWO_POINTS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    check_two_points(place, done)

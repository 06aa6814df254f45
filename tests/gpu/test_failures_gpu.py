"""Tenants that fail on a real GPU, time sliced and under CUDA MPS: named, recorded, and the next run has the GPU."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest

from mtexp.host import Device
from mtexp.telemetry import Sampler
from mtexp.testing.faults import BUILD, Fault
from tests.run.conftest import nothing_left, workplace
from tests.run.run_helpers import SMALL, Workplace, kind

__all__ = ["nothing_left", "workplace"]

pytestmark = [pytest.mark.gpu, pytest.mark.process]

GPU = tuple("runtime=gpu" if text == "runtime=cpu" else text for text in SMALL)
SHORT = ("baseline=skip", "sweep=s", "measure.iterations=200", "deadlines.stall_s=4", "deadlines.stop_s=4")
MODES = ("disabled", "default")
WARMUP, MEASURE = 0, 20

FAULTS = {
    "raises in build": (Fault(kind="raise", at=BUILD), "build", "a fault was asked for"),
    "raises in warm-up": (Fault(kind="raise", at=WARMUP), "warm-up", "a fault was asked for"),
    "raises while measuring": (Fault(kind="raise", at=MEASURE), "measure", "a fault was asked for"),
    "no device memory in build": (Fault(kind="device_memory", at=BUILD), "build", "out of memory"),
    "no device memory": (Fault(kind="device_memory", at=MEASURE), "measure", "out of memory"),
    "segfault": (Fault(kind="segfault", at=MEASURE), "measure", "SIGSEGV"),
    "killed": (Fault(kind="kill", at=MEASURE), "measure", "SIGKILL"),
    "stopped": (Fault(kind="stop", at=MEASURE), "measure", "no iteration for 4 s"),
    "hangs": (Fault(kind="hang", at=MEASURE), "measure", "no iteration for 4 s"),
}


def _mps_processes() -> list[str]:
    return [p.info["name"] for p in psutil.process_iter(["name"]) if "cuda-mps" in (p.info["name"] or "")]


def _sweep(place: Workplace, mode: str, fault: Fault) -> Any:
    """The record of ``mix=pair`` whose second tenant has ``fault``; ``mix=solo``, after it, has finished."""
    ran = place.run("-m", "mix=pair,solo", f"mps_settings={mode}", *SHORT, small=GPU, faults={"b": fault})
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert place.jobs("multirun/s") == ["FAILED", "FINISHED"]
    assert not _mps_processes()
    records = place.records("multirun/s")
    assert records["1"].status == "FINISHED"
    assert sorted(run.info.status for run in place.mlflow_runs(kind("mix"))) == ["FAILED", "FINISHED"]
    return records["0"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FAULTS)
def test_a_tenant_that_fails_on_a_gpu(gpu: Device, workplace: Workplace, name: str, mode: str) -> None:
    """The tenant, its phase and the cause are named; the neighbour is not blamed, and its samples are kept."""
    fault, phase, cause = FAULTS[name]
    record = _sweep(workplace, mode, fault)
    assert (record.status, record.verdict) == ("FAILED", "INVALID")
    assert cause in record.failure
    assert [(t.status, t.phase) for t in record.tenants] == [("FINISHED", ""), ("FAILED", phase)]
    if phase == "measure":
        assert all(t.metrics["iterations_measured"] > 0 for t in record.tenants)


@pytest.mark.parametrize("mode", MODES)
def test_a_trap_on_the_gpu(gpu: Device, workplace: Workplace, mode: str) -> None:
    """Time sliced, the tenant fails alone; under MPS its neighbours share its fate, and whoever is named, is named with
    CUDA's words."""
    record = _sweep(workplace, mode, Fault(kind="device_fault", at=MEASURE))
    assert record.status == "FAILED"
    assert "CUDA" in record.failure
    if mode == "disabled":
        assert [t.status for t in record.tenants] == ["FINISHED", "FAILED"]


@pytest.mark.parametrize("mode", MODES)
def test_a_sampler_that_is_killed(
    gpu: Device, workplace: Workplace, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """It costs the telemetry, nothing else."""
    stop = Sampler.stop

    def killed_first(sampler: Sampler) -> Any:
        if sampler.pid is not None:
            os.kill(sampler.pid, signal.SIGKILL)
        return stop(sampler)

    monkeypatch.setattr(Sampler, "stop", killed_first)
    ran = workplace.run("mix=pair", f"mps_settings={mode}", *SHORT, small=GPU)
    assert ran.code == 0
    record = workplace.records("outputs/s")["."]
    assert record.status == "FINISHED"
    assert "telemetry-missing" in {finding.code for finding in record.findings}
    assert not (workplace.folder / "outputs/s/telemetry.parquet").exists()

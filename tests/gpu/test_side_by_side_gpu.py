"""On a real GPU: time slicing, CUDA MPS and MPS with half of the SMs side by side, each proven."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from mtexp.host import Device
from mtexp.testing.faults import BUILD, Fault
from tests.run.conftest import nothing_left, workplace
from tests.run.run_helpers import SMALL, Workplace

__all__ = ["nothing_left", "workplace"]

pytestmark = [pytest.mark.gpu, pytest.mark.process]

GPU = tuple("runtime=gpu" if text == "runtime=cpu" else text for text in SMALL)
SESSION = (
    *("-m", "mix=bert_base+distilgpt2", "mps_settings=disabled,default,half", "execution=cuda_graph", "sweep=s"),
    *("measure.design=crossover", "measure.max_time_s=2", "measure.foreign=ignore"),
)


def _mps_processes() -> list[str]:
    return [p.info["name"] for p in psutil.process_iter(["name"]) if "cuda-mps" in (p.info["name"] or "")]


def test_two_daemons_and_time_slicing_on_one_device(gpu: Device, workplace: Workplace) -> None:
    """Each mode is proven before and after; what a mode costs comes with its interval; nothing is left."""
    ran = workplace.run(*SESSION, "side_by_side=require", small=GPU)
    assert ran.code == 0, ran.err
    records = workplace.records("multirun/s")
    sliced, others = records["0"], (records["1"], records["2"])
    assert {record.session for record in records.values()} == {sliced.session}
    assert [record.sharing["mode"] for record in records.values()] == ["time_slicing", "mps", "mps"]
    assert all(record.sharing["proven"] for record in records.values())
    for record in others:
        assert record.session_reference == sliced.record_id
        for tenant in record.tenants:
            assert tenant.metrics["mode_cost_ci_low"] <= tenant.metrics["mode_cost"]
            assert tenant.metrics["mode_cost"] > 0.9  # a mode makes nobody faster
    counts = {record.spec["sharing"]["mps"]: record.tenants[0].facts_before["sm_count"] for record in records.values()}
    assert counts["half"] < counts["default"] == counts["disabled"]
    assert not _mps_processes()


def test_a_mode_that_finds_no_memory_is_measured_by_itself(gpu: Device, workplace: Workplace, tmp_path: Path) -> None:
    """The others go on, and its daemon is stopped."""
    fault = Fault(kind="device_memory", at=BUILD, once=str(tmp_path / "once"))
    ran = workplace.run(*SESSION, small=GPU, faults={"distilgpt2": fault})
    assert ran.code == 0, ran.err
    records = workplace.records("multirun/s")
    assert {record.status for record in records.values()} == {"FINISHED"}
    assert sorted(bool(record.session) for record in records.values()) == [False, True, True]
    assert not _mps_processes()

"""The shipped recording of a real H200: five tenants under MPS, 6.7 s of window, the power cap at work."""

from pathlib import Path

import pytest

import mtexp.testing
from mtexp.metrics.clock import POWER_CAP, THROTTLE_BITS
from mtexp.telemetry.summary import read
from mtexp.telemetry.table import load
from mtexp.testing.nvml import FakeGpu
from mtexp.testing.replay import replay

RECORDING = Path(mtexp.testing.__file__).parent / "data" / "h200-mixed-mps.parquet"
T0_NS, T1_NS = 521_835_689_934, 528_570_454_464


def test_summary_of_a_real_trace():
    """What the H200 said comes out in the units and with the causes it had: the power cap, and nothing graver."""
    summary = read(RECORDING, T0_NS, T1_NS)

    assert summary.values["gpu_power_w_mean"] == pytest.approx(680.5, abs=0.1)
    assert summary.values["gpu_sm_active_pct_mean"] == pytest.approx(97.2, abs=0.1)
    assert summary.values["gpu_dram_bw_pct_mean"] == pytest.approx(26.0, abs=0.1)
    assert summary.energy_source == "counter+power"
    assert summary.energy_j == pytest.approx(4593.5, abs=0.5)
    assert summary.power_source == "instant (field 186)"
    assert summary.throttle_bits & POWER_CAP
    assert not any(summary.throttle_bits & bit for bit in THROTTLE_BITS)
    assert "counts nothing" in summary.absent["gpm context switches"]
    assert not any(name.startswith("tenant_gpu_util") for name in summary.tenants["a"]), "means nothing under MPS"
    assert summary.tenants["e"]["tenant_gpu_memory_mib_mean"] > 14_000, "Mistral-7B in fp16"


def test_the_trace_plays_again():
    """A fake GPU repeats the trace, so that code may be tried against a busy H200 on a host without a GPU."""
    gpu = FakeGpu(values=replay(load(RECORDING), start_ns=0))

    assert gpu.values(5_000_000_000)["gpu_util_pct"] > 90
    assert 1500 < gpu.values(5_000_000_000)["gpu_sm_clock_mhz"] < 1980

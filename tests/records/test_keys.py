from __future__ import annotations

import numpy as np
import pytest

from mtexp.metrics.samples import Samples
from mtexp.metrics.summary import Baseline, Measured, summarise_run
from mtexp.metrics.window import Series, common_window
from mtexp.records import keys
from mtexp.telemetry import gpu

DESIGN = (
    *("latency_ms", "gpu_time_ms", "latency_mean_ms", "latency_p50_ms", "latency_p90_ms", "latency_p95_ms"),
    *("latency_p99_ms", "throughput_rps", "slowdown", "normalized_progress", "memory_peak_mib"),
    *("stp", "antt", "jain_fairness", "fairness", "overlap_pct", "window_s", "energy_j_per_request"),
    *("gpu_util_pct", "gpu_memory_used_mib", "gpu_power_w", "gpu_sm_clock_mhz", "gpu_temperature_c"),
    *("gpu_sm_active_pct", "gpu_sm_occupancy_pct", "gpu_tensor_active_pct", "gpu_dram_bw_pct"),
    *("cpu_util_pct", "memory_used_mib"),
)
PARAMETERS = (
    *("mix", "precision", "mps_settings", "sharing", "workload", "arrival", "execution", "batch_size", "seq_len"),
    *("iterations", "warmup", "num_tenants", "tenant", "model"),
)


@pytest.mark.parametrize("name", DESIGN)
def test_metric_of_the_design_is_registered(name: str) -> None:
    """Every metric that the design promises has an entry."""
    assert keys.metric(name).name == name


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_of_the_design_is_registered(name: str) -> None:
    """Every parameter that the design promises has an entry."""
    assert name in keys.PARAMS


def test_misspelt_metric_is_an_error_that_suggests_the_right_one() -> None:
    """A typo never becomes a new metric."""
    with pytest.raises(KeyError, match="nearest: latency_p99_ms"):
        keys.metric("latncy_p99_ms")
    assert keys.unknown(["stp", "stp_ci_low", "nonsense"]) == ["metric nonsense is not in mtexp.records.keys"]


def test_interval_ends_belong_to_their_metric() -> None:
    """Both ends of an interval are known, with the unit of the metric."""
    for end in keys.interval("throughput_rps"):
        assert keys.metric(end).unit == "rps"


def test_everything_the_metrics_compute_is_registered() -> None:
    """No figure of a run, closed or open loop, fails to reach MLflow for want of an entry."""
    steps = np.arange(200)
    start = 10_000_000 + steps * 1_000_000
    for arrival in (start, start - 1000 * (steps % 7)):
        samples = Samples(
            phase=np.ones(200, dtype=np.uint8),
            arrival_ns=arrival,
            start_ns=start,
            end_ns=start + 900_000 + steps * 10,
            first_token_ns=start + 100_000,
            gpu_time_ns=np.full(200, 800_000),
        )
        alone = Baseline(Series.closed(samples.latency_ms), 1980.0)
        measured = Measured(samples=samples, alone=alone, partitioned=alone, slo_ms=2.0, new_tokens=8)
        summary = summarise_run(
            {"a": measured, "b": measured},
            common_window([samples, samples]),
            energy_j=5.0,
            sm_clock_mhz=1900.0,
            draws=20,
        )
        assert keys.unknown(summary.metrics) == []
        assert keys.unknown(summary.tenants["a"]) == []


def test_everything_the_sampler_reads_is_registered() -> None:
    """Every telemetry column has its entry, as a history or, for a cumulative counter, as its growth."""
    sampled = {*gpu.POLLED, *gpu.GPM_METRICS, *gpu.CONTEXT_SWITCHES, "cpu_util_pct", "memory_used_mib"}
    assert sampled <= set(keys.TELEMETRY_COLUMNS)
    assert keys.unknown([*gpu.COUNTERS, *gpu.RARE_COUNTERS]) == []
    assert keys.unknown(keys.telemetry_summary(name, "mean") for name in sampled) == []


def test_what_older_records_have_of_open_loop_is_not_shown() -> None:
    """STP and slowdown of queues go, with their intervals; throughput and a closed-loop run's figures stay."""
    stored = {"stp": 0.3, "stp_ci_low": 0.2, "slowdown_p99": 9.0, "throughput_rps": 5.0, "gpu_busy_pct": 50.0}
    assert keys.current(stored, "closed") == {name: stored[name] for name in stored if name != "gpu_busy_pct"}
    for arrival in ("poisson", "closed,constant", "trace"):
        assert keys.current(stored, arrival) == {"throughput_rps": 5.0}

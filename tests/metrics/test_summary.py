"""The figures that the terminal, the record, MLflow and analysis share."""

from dataclasses import replace

import numpy as np
import pytest

from mtexp.metrics.samples import Samples
from mtexp.metrics.summary import Baseline, Measured, insufficient_keys, summarise_run, summarise_tenant
from mtexp.metrics.window import Series, Window, common_window
from mtexp.records import keys
from tests.strategies import MS, closed_loop, open_loop

T0 = 10**15
DRAWS = 100
RNG = np.random.default_rng(4)


def _alone(latency_ms: float, iterations: int = 700, sm_clock_mhz: float | None = None) -> Baseline:
    return Baseline(Series.whole(closed_loop(latency_ms * RNG.lognormal(0, 0.05, iterations))), sm_clock_mhz)


def _shared(latency_ms: float, length_ms: float = 8000, gpu_ms: float | None = None) -> Samples:
    lengths = latency_ms * RNG.lognormal(0, 0.05, int(length_ms / latency_ms) + 50)
    kept = lengths[: int(np.searchsorted(np.cumsum(lengths), length_ms)) + 1]
    return closed_loop(kept, gpu_ms=gpu_ms)


def _run(**tenants: Measured) -> tuple[dict[str, Measured], Window]:
    window = common_window([tenant.samples for tenant in tenants.values()])
    assert window is not None
    return tenants, window


def test_tenant_alone_has_latency_and_throughput_only() -> None:
    """What needs a GPU, a baseline or a service level is absent without one, never 0."""
    samples = closed_loop([9, 9, 55, 10, 20, 30], warmup=2)
    window = common_window([samples])
    assert summarise_tenant(samples, window) == pytest.approx(
        {
            "iterations_measured": 4,
            "iterations_in_window": 3,
            "overlap_pct": 100,
            "window_share_pct": 100,
            "throughput_rps": 50,
            "latency_mean_ms": 20,
            "latency_stdev_ms": 10,
            "latency_min_ms": 10,
            "latency_p50_ms": 20,
            "latency_p90_ms": 28,
            "latency_p95_ms": 29,
            "latency_p99_ms": 29.8,
            "latency_max_ms": 30,
        }
    )


def test_percentiles_without_enough_iterations_are_named() -> None:
    """They are stored, and flagged."""
    samples = closed_loop([10] * 100, gpu_ms=4)
    metrics = summarise_tenant(samples, common_window([samples]))
    assert set(insufficient_keys(metrics)) == {
        f"{q}_{p}_ms" for q in ("latency", "gpu_time", "wait") for p in ("p95", "p99")
    }


def test_a_tenant_beside_its_baseline() -> None:
    """Slowed twofold: slowdown 2, progress 1/2, every supported percentile, and the clock's part of it."""
    samples = _shared(20, 16000, gpu_ms=8)
    metrics = summarise_tenant(samples, common_window([samples]), _alone(10, 1000, 1980), slo_ms=20, sm_clock_mhz=1800)
    assert metrics["slowdown"] == pytest.approx(2, rel=0.02)
    assert metrics["normalized_progress"] == pytest.approx(0.5, rel=0.02)
    assert metrics["slowdown_p50"] == pytest.approx(2, rel=0.02)
    assert metrics["slowdown_p99"] == pytest.approx(2, rel=0.05)
    assert metrics["tail_inflation"] == pytest.approx(1, rel=0.05)
    assert metrics["slowdown_clock"] == pytest.approx(1.1)
    assert metrics["slowdown_clock"] * metrics["slowdown_rest"] == pytest.approx(metrics["slowdown"])
    assert metrics["gpu_time_mean_ms"] == 8
    assert metrics["wait_mean_ms"] == pytest.approx(metrics["latency_mean_ms"] - 8)
    assert metrics["slo_attainment_pct"] == pytest.approx(50, abs=5)
    assert metrics["goodput_rps"] == pytest.approx(25, abs=3)
    assert abs(metrics["drift_pct"]) < 2


def test_percentile_slowdowns_need_iterations_on_both_sides() -> None:
    """A p99 from a baseline of 100 iterations supports no p99 slowdown."""
    samples = _shared(20, 16000)
    metrics = summarise_tenant(samples, common_window([samples]), _alone(10, 100))
    assert "slowdown_p90" in metrics
    assert "slowdown_p95" not in metrics
    assert "tail_inflation" not in metrics


def test_generating_requests_have_token_times() -> None:
    """Time to first token, and time per token after it."""
    samples = closed_loop([50] * 21)
    generated = replace(samples, first_token_ns=samples.start_ns + 10 * MS)
    metrics = summarise_tenant(generated, common_window([generated]), new_tokens=5)
    assert (metrics["ttft_p50_ms"], metrics["tpot_mean_ms"]) == (10, 10)
    assert "tpot_mean_ms" not in summarise_tenant(generated, common_window([generated]))


def test_an_open_loop_tenant_shows_queue_and_service() -> None:
    """One that keeps up has a latency beside the rate at which requests came."""
    samples = open_loop(np.arange(100) * 20.0, service_ms=10)
    metrics = summarise_tenant(samples, common_window([samples]), _alone(10))
    assert metrics["saturated"] == 0
    assert metrics["offered_rps"] == pytest.approx(50)
    assert metrics["service_mean_ms"] == pytest.approx(10)
    assert metrics["queue_mean_ms"] == pytest.approx(0.001)
    assert metrics["service_slowdown"] == pytest.approx(1, rel=0.02)


def test_a_saturated_tenant_has_no_latency() -> None:
    """Its latency says how long was measured: neither it nor a slowdown is shown, its throughput is."""
    samples = open_loop(np.arange(100) * 5.0, service_ms=10)
    metrics = summarise_tenant(samples, common_window([samples]), _alone(10), slo_ms=100)
    assert metrics["saturated"] == 1
    assert metrics["throughput_rps"] == pytest.approx(100, rel=0.02)
    assert metrics["service_slowdown"] == pytest.approx(1, rel=0.02)
    assert metrics["slo_attainment_pct"] < 50
    assert not [key for key in metrics if key.startswith(("latency", "slowdown", "normalized", "queue", "drift"))]


@pytest.mark.parametrize("window", [None, Window(T0 + MS, T0 + 2 * MS)], ids=["no window", "nothing inside"])
def test_a_tenant_without_kept_iterations_has_counts_only(window: Window | None) -> None:
    """Nothing is made up for a tenant of which the window keeps nothing."""
    metrics = summarise_tenant(closed_loop([50, 50]), window, _alone(10))
    assert metrics["iterations_measured"] == 2
    assert metrics["iterations_in_window"] == 0
    assert not set(metrics) - {"iterations_measured", "iterations_in_window", "overlap_pct", "window_share_pct"}


def test_one_open_loop_request_has_no_rate() -> None:
    """A rate needs two arrivals."""
    samples = open_loop([0], service_ms=10)
    metrics = summarise_tenant(samples, common_window([samples]))
    assert "offered_rps" not in metrics
    assert metrics["service_mean_ms"] == 10


def test_run_of_two() -> None:
    """STP, ANTT, Jain, fairness with intervals that hold them, per tenant and per run; energy and skew beside them."""
    late = _shared(30)
    late = replace(late, arrival_ns=late.arrival_ns + MS, start_ns=late.start_ns + MS, end_ns=late.end_ns + MS)
    tenants, window = _run(
        a=Measured(samples=_shared(20, gpu_ms=5), alone=_alone(10), slo_ms=25),
        b=Measured(samples=late, alone=_alone(10), slo_ms=25),
    )
    found = summarise_run(tenants, window, energy_j=1000.0, sm_clock_mhz=1900.0, draws=DRAWS)
    run, a = found.metrics, found.tenants["a"]
    assert run["stp"] == pytest.approx(1 / 2 + 1 / 3, rel=0.01)
    for metrics in found.tenants.values():
        assert metrics["slowdown"] * metrics["normalized_progress"] == pytest.approx(1)
    assert run["antt"] == pytest.approx(2.5, rel=0.02)
    assert run["fairness"] == pytest.approx(2 / 3, rel=0.03)
    assert run["jain_fairness"] == pytest.approx(25 / 26, rel=0.02)
    assert run["start_skew_ms"] == 1
    assert run["window_share_pct"] > 98
    assert run["window_s"] == pytest.approx(8, rel=0.02)
    cycles_s = [found.tenants[name]["latency_mean_ms"] / 1e3 for name in "ab"]  # without gaps
    assert run["throughput_rps"] == pytest.approx(sum(1 / cycle_s for cycle_s in cycles_s))
    assert run["energy_j_per_request"] == pytest.approx(1000 / sum(run["window_s"] / cycle_s for cycle_s in cycles_s))
    assert run["goodput_rps"] == pytest.approx(a["goodput_rps"] + found.tenants["b"]["goodput_rps"])
    assert 55 < run["slo_attainment_pct"] < 65
    for metrics in (run, *found.tenants.values()):
        for key in (key.removesuffix("_ci_low") for key in metrics if key.endswith("_ci_low")):
            assert metrics[f"{key}_ci_low"] <= metrics[key] <= metrics[f"{key}_ci_high"]
    assert {"stp_ci_low", "antt_ci_low", "jain_fairness_ci_low", "fairness_ci_low"} <= set(run)
    assert {"slowdown_ci_low", "normalized_progress_ci_low", "slowdown_p90_ci_low", "latency_mean_ms_ci_low"} <= set(a)
    assert "wait_mean_ms_ci_high" in a
    assert "wait_mean_ms_ci_high" not in found.tenants["b"]
    assert found.insufficient["b"] == ("latency_p99_ms",)


def test_partitioned_baselines_are_a_second_comparison() -> None:
    """STP against the run's own MPS limits stands beside the one against the whole device."""
    tenants, window = _run(
        a=Measured(samples=_shared(20), alone=_alone(10), partitioned=_alone(16)),
        b=Measured(samples=_shared(20), alone=_alone(10), partitioned=_alone(20)),
    )
    found = summarise_run(tenants, window, draws=DRAWS)
    assert found.metrics["stp_partitioned"] == pytest.approx(0.8 + 1.0, rel=0.02)
    assert found.metrics["antt_partitioned"] == pytest.approx((1.25 + 1) / 2, rel=0.02)
    assert found.metrics["stp_partitioned_ci_low"] < found.metrics["stp_partitioned"]
    assert found.tenants["a"]["slowdown_partitioned"] == pytest.approx(1.25, rel=0.02)
    assert "slowdown_partitioned_ci_low" in found.tenants["a"]
    assert "fairness_partitioned" not in found.metrics


def test_without_every_baseline_there_is_no_stp() -> None:
    """A sum over some of the tenants is not the run's throughput; the others keep their slowdown."""
    tenants, window = _run(a=Measured(samples=_shared(20), alone=_alone(10)), b=Measured(samples=_shared(20)))
    found = summarise_run(tenants, window, draws=DRAWS)
    assert "stp" not in found.metrics
    assert found.tenants["a"]["slowdown"] == pytest.approx(2, rel=0.02)
    assert "slowdown" not in found.tenants["b"]
    assert "energy_j" not in found.metrics
    assert "slo_attainment_pct" not in found.metrics


def test_queueing_is_no_interference() -> None:
    """Loads of 0.3 and 0.8 of tenants that do not slow each other at all: no STP, ANTT, fairness, slowdown, progress.

    Against their closed-loop baselines these would be the loads (1.1 of 2) and the queues (2 and more).
    """
    rng = np.random.default_rng(3)
    arrivals = {
        name: np.cumsum(rng.exponential(10 / load, round(800 * load))) for name, load in (("a", 0.3), ("b", 0.8))
    }
    tenants, window = _run(
        **{
            name: Measured(samples=open_loop(at, service_ms=10), alone=_alone(10), partitioned=_alone(10))
            for name, at in arrivals.items()
        }
    )
    found = summarise_run(tenants, window, draws=DRAWS)
    interference = ("stp", "antt", "jain", "fairness", "slowdown", "normalized_progress", "tail_inflation")
    assert not [
        key for figures in (found.metrics, *found.tenants.values()) for key in figures if key.startswith(interference)
    ]
    assert found.tenants["b"]["latency_mean_ms"] > 15
    for metrics in found.tenants.values():
        assert metrics["service_slowdown"] == pytest.approx(1, rel=0.02)
        assert metrics["service_slowdown_ci_low"] < 1.01 < 1.03 * metrics["service_slowdown_ci_high"]
    assert found.metrics["throughput_rps"] == pytest.approx(110, rel=0.15)
    assert "start_skew_ms" not in found.metrics


def test_latency_in_open_loop_is_compared_with_itself_at_the_same_arrivals() -> None:
    """A queue with Poisson arrivals and constant service, M/D/1: 6 ms a request alone, 8 ms shared, 100 requests/s.

    The mean latency is s (1 + load / (2 (1 - load))), by Pollaczek and Khinchine: 10.5 ms alone, 24 ms shared. Requests
    that only one of the two runs served count in neither.
    """
    arrivals_ms = np.cumsum(np.random.default_rng(5).exponential(10, 40_000))
    alone = open_loop(arrivals_ms[:30_000], service_ms=6)
    tenants, window = _run(
        a=Measured(
            samples=open_loop(arrivals_ms, service_ms=8),
            alone=_alone(6),
            at_arrivals=Baseline(Series.whole(alone)),
        ),
        b=Measured(samples=closed_loop(np.full(35_000, 10.0)), alone=_alone(6)),
    )
    metrics = summarise_run(tenants, window, draws=DRAWS).tenants["a"]
    assert metrics["iterations_alone"] == 30_000
    assert metrics["alone_latency_mean_ms"] == pytest.approx(10.5, rel=0.03)
    assert metrics["latency_slowdown"] == pytest.approx(24 / 10.5, rel=0.06)
    assert metrics["service_slowdown"] == pytest.approx(8 / 6, rel=0.02)
    for name in ("p50", "p90", "p95", "p99"):
        assert metrics[f"alone_latency_{name}_ms"] == np.percentile(alone.latency_ms, float(name[1:]))
        shared_ms = open_loop(arrivals_ms[:30_000], service_ms=8).latency_ms
        slowed = np.percentile(shared_ms, float(name[1:])) / metrics[f"alone_latency_{name}_ms"]
        assert metrics[f"latency_slowdown_{name}"] == pytest.approx(slowed)
    assert not [key for key in metrics if key.startswith("slowdown")]


def test_the_requests_of_both_runs_are_paired_by_arrival_whatever_the_order_served() -> None:
    """Also where a run's window leaves out the first requests, and where answers come out of order."""
    arrivals_ms = np.arange(40) * 20.0
    slow = open_loop(arrivals_ms, service_ms=np.linspace(10, 14, 40))
    mixed = slow.select(np.random.default_rng(1).permutation(40))
    window = Window(T0 + 90 * MS, T0 + 10_000 * MS)
    tenant = Measured(samples=mixed, alone=_alone(5), at_arrivals=Baseline(Series.whole(open_loop(arrivals_ms, 5))))
    metrics = summarise_run({"a": tenant}, window, draws=DRAWS).tenants["a"]
    assert metrics["iterations_alone"] == 35
    assert metrics["latency_slowdown"] == pytest.approx(np.linspace(10, 14, 40)[5:].mean() / 5, rel=0.001)


def test_a_saturated_tenant_has_a_latency_alone_and_nothing_compared_with_it() -> None:
    """Its latency says how long was measured; percentiles alone need their requests too."""
    arrivals_ms = np.arange(100) * 5.0
    at_arrivals = Baseline(Series.whole(open_loop(arrivals_ms, service_ms=4)))
    tenants, window = _run(
        a=Measured(samples=open_loop(arrivals_ms, service_ms=10), alone=_alone(4), at_arrivals=at_arrivals)
    )
    metrics = summarise_run(tenants, window, draws=DRAWS).tenants["a"]
    assert metrics["saturated"] == 1
    assert metrics["alone_latency_p50_ms"] == pytest.approx(4, rel=0.01)
    assert "alone_latency_p99_ms" not in metrics
    assert not [key for key in metrics if key.startswith("latency")]


def test_a_closed_loop_tenant_beside_open_loop_keeps_its_slowdown() -> None:
    """It is compared with itself alone; a sum over both would be half load."""
    tenants, window = _run(
        a=Measured(samples=_shared(20), alone=_alone(10)),
        b=Measured(samples=open_loop(np.arange(0, 8000, 20.0), service_ms=15), alone=_alone(10)),
    )
    found = summarise_run(tenants, window, draws=DRAWS)
    assert found.tenants["a"]["slowdown"] == pytest.approx(2, rel=0.02)
    assert found.tenants["a"]["slowdown_ci_low"] < found.tenants["a"]["slowdown"]
    assert found.tenants["b"]["service_slowdown"] == pytest.approx(1.5, rel=0.02)
    assert "stp" not in found.metrics


def test_a_single_iteration_has_figures_but_no_interval() -> None:
    """Nothing is claimed from one request."""
    tenants, window = _run(a=Measured(samples=closed_loop([20, 20]), alone=_alone(10)))
    found = summarise_run(tenants, window, draws=DRAWS)
    assert found.metrics["stp"] == pytest.approx(0.5, rel=0.02)
    assert "stp_ci_low" not in found.metrics
    assert "latency_mean_ms_ci_low" not in found.tenants["a"]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (None, {"overlap_pct"}),
        (Window(T0 + MS, T0 + 2 * MS), {"overlap_pct", "window_share_pct", "window_s", "start_skew_ms"}),
    ],
)
def test_a_run_of_which_nothing_is_kept(window: Window | None, expected: set[str]) -> None:
    """No window, or none of anyone's iterations in it: no figure but those."""
    tenants = {"a": Measured(samples=closed_loop([50, 50]), alone=_alone(10))}
    assert set(summarise_run(tenants, window, energy_j=5.0, draws=DRAWS).metrics) == expected


def test_equal_data_gives_equal_figures() -> None:
    """A record computed again from its samples agrees to the last digit."""
    tenants, window = _run(a=Measured(samples=_shared(20), alone=_alone(10)))
    assert summarise_run(tenants, window, draws=DRAWS) == summarise_run(tenants, window, draws=DRAWS)


def test_every_key_is_in_the_registry() -> None:
    """Whatever is summarised can be logged."""
    generated = _shared(20, 16000, gpu_ms=5)
    generated = replace(generated, first_token_ns=generated.start_ns + MS)
    tenants, window = _run(
        a=Measured(samples=generated, alone=_alone(10, 900, 1980), partitioned=_alone(12), slo_ms=25, new_tokens=4),
        b=Measured(samples=open_loop(np.arange(0, 16000, 20.0), 10), alone=_alone(10), partitioned=_alone(12)),
    )
    found = summarise_run(tenants, window, energy_j=10.0, sm_clock_mhz=1900, draws=DRAWS)
    assert keys.unknown([*found.metrics, *found.tenants["a"], *found.tenants["b"]]) == []

"""Intervals: what they hold, how often, and that everything in a run comes from the same draws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtexp.metrics.bootstrap import (
    Interval,
    block_length,
    interference_intervals,
    mean_interval,
    percentile_interval,
    percentile_slowdown_intervals,
    relative_half_width_pct,
)
from mtexp.metrics.interference import antt, fairness, jain_fairness, stp
from mtexp.metrics.window import Series
from tests.strategies import ar1, noisy

DRAWS = 200


def _holds(interval: Interval, value: float) -> bool:
    return interval.low <= value <= interval.high


@given(
    tenants=st.integers(1, 6), iterations=st.integers(20, 200), seed=st.integers(0, 1000), factor=st.floats(1.0, 5.0)
)
@settings(deadline=None, max_examples=30)
def test_every_interval_holds_what_was_measured(tenants: int, iterations: int, seed: int, factor: float) -> None:
    """The figures are those of the plain formulas, and lie in their intervals."""
    shared = [noisy(seed + i, iterations, 10 * factor) for i in range(tenants)]
    alone = [noisy(seed + 100 + i, iterations) for i in range(tenants)]
    found = interference_intervals(shared, alone, draws=DRAWS)
    progress = [s.throughput_rps / a.throughput_rps for s, a in zip(shared, alone, strict=True)]
    slowdowns = [s.latency_ms.mean() / a.latency_ms.mean() for s, a in zip(shared, alone, strict=True)]
    expected = {"stp": stp(progress), "antt": antt(slowdowns)}
    assert {key: found.run[key].value for key in expected} == pytest.approx(expected)
    for key, formula in {"fairness": fairness, "jain_fairness": jain_fairness}.items():
        assert found.run[key].value >= 0.98 * formula(progress)  # noise is taken off
    assert all(_holds(interval, interval.value) for interval in found.run.values())
    assert found.run["fairness"].high <= 1 + 1e-12
    for i, intervals in enumerate(found.tenants):
        assert intervals["slowdown"].value == pytest.approx(slowdowns[i])
        assert intervals["normalized_progress"].value == pytest.approx(progress[i])
        assert all(_holds(interval, interval.value) for interval in intervals.values())


def test_equal_seeds_give_equal_intervals() -> None:
    """A record computed again gives the same figures; another seed does not."""
    shared, alone = [noisy(1, 100, 20.0)], [noisy(2, 100)]
    first = interference_intervals(shared, alone, draws=DRAWS, seed=7)
    assert first == interference_intervals(shared, alone, draws=DRAWS, seed=7)
    assert first != interference_intervals(shared, alone, draws=DRAWS, seed=8)


def test_undisturbed_constant_tenants_have_no_width() -> None:
    """Without any variation there is nothing to doubt."""
    steady = Series.closed(np.full(50, 4.0))
    found = interference_intervals([steady] * 3, [steady] * 3, draws=DRAWS)
    assert found.run["stp"] == Interval(3, 3, 3)
    assert found.run["fairness"] == Interval(1, 1, 1)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_coverage_on_autocorrelated_latencies(rho: float) -> None:
    """Roughly 95 of 100 intervals hold the truth, though neighbouring iterations resemble each other."""
    held, runs, slowed = (
        dict.fromkeys(("stp", "antt", "fairness", "slowdown", "mean", "p50"), 0),
        120,
        np.array([2.0, 3.0]),
    )
    progress = 1 / slowed
    truth = {"stp": stp(progress), "antt": antt(slowed), "fairness": fairness(progress)}
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        shared = [Series.closed(factor * ar1(rng, 600, rho=rho)) for factor in slowed]
        alone = [Series.closed(ar1(rng, 600, rho=rho)) for _ in slowed]
        found = interference_intervals(shared, alone, draws=DRAWS, seed=seed)
        for key, value in truth.items():
            held[key] += _holds(found.run[key], value)
        held["slowdown"] += _holds(found.tenants[0]["slowdown"], slowed[0])
        held["mean"] += _holds(mean_interval(shared[0].latency_ms), 10 * slowed[0])
        held["p50"] += _holds(percentile_interval(shared[0].latency_ms, 50), 10 * slowed[0])
    assert all(count / runs >= 0.85 for count in held.values()), held


def test_equally_slowed_tenants_may_be_perfectly_fair() -> None:
    """Noise alone makes four equal tenants look unequal; the interval does not take it for unfairness."""
    held = 0
    for seed in range(60):
        shared = [noisy(10 * seed + i, 200, 40.0) for i in range(4)]
        alone = [noisy(10 * seed + 5 + i, 200) for i in range(4)]
        run = interference_intervals(shared, alone, draws=DRAWS, seed=seed).run
        held += run["fairness"].high == 1 and run["jain_fairness"].high == 1
    assert held >= 50


def test_tenants_with_one_baseline_share_its_error() -> None:
    """Four tenants compared with the same baseline: its error does not average out over them."""
    shared = [noisy(i, 400, 20.0) for i in range(4)]
    rough = Series.closed(ar1(np.random.default_rng(9), 100, spread=2.0))
    same = interference_intervals(shared, [rough] * 4, draws=2000).run["stp"]
    apart = interference_intervals(
        shared, [Series.closed(np.roll(rough.latency_ms, i)) for i in range(4)], draws=2000
    ).run["stp"]
    assert same.half_width_pct > 1.6 * apart.half_width_pct


def test_open_loop_progress_follows_the_cycles() -> None:
    """A tenant served at a steady rate has a certain throughput, however uncertain its latency."""
    rng = np.random.default_rng(3)
    steady = Series(rng.lognormal(2.0, 1.0, 300), np.full(300, 20.0), 50.0)
    found = interference_intervals([steady], [Series.closed(np.full(300, 10.0))], draws=DRAWS).tenants[0]
    assert found["normalized_progress"].half_width_pct == pytest.approx(0, abs=1e-9)
    assert found["slowdown"].half_width_pct > 5


def test_percentile_slowdowns() -> None:
    """A tenant slowed twofold as a whole: every percentile's interval holds 2, and the tail has not grown."""
    found = percentile_slowdown_intervals(noisy(1, 800, 20.0), noisy(2, 800))
    assert list(found) == ["slowdown_p50", "slowdown_p90", "slowdown_p95", "slowdown_p99", "tail_inflation"]
    assert all(_holds(found[f"slowdown_p{p}"], 2.0) for p in (50, 90, 95))
    assert _holds(found["tail_inflation"], 1.0)
    assert list(percentile_slowdown_intervals(noisy(1, 20), noisy(2, 20), (50,))) == ["slowdown_p50"]
    with pytest.raises(ValueError, match="the baseline has 1"):
        percentile_slowdown_intervals(noisy(1, 20), noisy(2, 1))


@given(iterations=st.integers(2, 300), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_percentile_draws_lie_within_the_latencies(iterations: int, seed: int) -> None:
    """Whatever is resampled was measured: against a constant baseline no draw leaves the range, ties included."""
    series = Series.closed(np.round(noisy(seed, iterations).latency_ms, 1))
    found = percentile_slowdown_intervals(series, Series.closed(np.ones(5)), draws=50, seed=seed)
    low, high = series.latency_ms.min() * (1 - 1e-12), series.latency_ms.max() * (1 + 1e-12)
    for percentile in (50, 90, 95, 99):
        interval = found[f"slowdown_p{percentile}"]
        assert interval.value == pytest.approx(np.percentile(series.latency_ms, percentile))
        assert low <= interval.low <= interval.high <= high


SERIES = noisy(0, 10)
SINGLE = noisy(0, 1)


@pytest.mark.parametrize(
    ("shared", "alone", "message"),
    [
        ([], [], "found 0 and 0"),
        ([SERIES, SERIES], [SERIES], "found 2 and 1"),
        ([SERIES, SINGLE], [SERIES, SERIES], "tenant 1 has 1"),
        ([SERIES], [SINGLE], "baseline of tenant 0 has 1"),
    ],
)
def test_what_has_no_interval_is_refused(shared: list[Series], alone: list[Series], message: str) -> None:
    """The message says which tenant lacks what."""
    with pytest.raises(ValueError, match=message):
        interference_intervals(shared, alone, draws=10)


@pytest.mark.parametrize(("rho", "iterations", "share"), [(0.5, 100, 0.89), (0.5, 1000, 0.94), (0.8, 100, 0.77)])
def test_coverage_falls_with_the_memory_as_the_module_says(rho: float, iterations: int, share: float) -> None:
    """Within 4 points of the figures in its first lines."""
    rng, runs = np.random.default_rng(iterations), 600
    intervals = [mean_interval(ar1(rng, iterations, rho=rho)) for _ in range(runs)]
    held = sum(interval.low <= 10 <= interval.high for interval in intervals)
    assert held / runs == pytest.approx(share, abs=0.04)


def test_blocks_grow_with_the_cube_root() -> None:
    """n^(1/3), and never none."""
    assert [block_length(n) for n in (1, 8, 100, 1000)] == [1, 2, 5, 10]


def test_intervals_are_unbounded_until_there_is_enough() -> None:
    """A stop rule that looks early goes on measuring."""
    assert mean_interval(np.array([3.0])) == Interval(3, -math.inf, math.inf)
    assert percentile_interval(np.array([3.0]), 50) == Interval(3, -math.inf, math.inf)
    assert relative_half_width_pct(np.array([3.0])) == math.inf
    few = np.random.default_rng(0).normal(10, 1, 100)
    assert percentile_interval(few, 99).high == math.inf
    assert relative_half_width_pct(few, "p99") == math.inf
    assert percentile_interval(few, 1).low == -math.inf


def test_order_statistics_of_independent_values() -> None:
    """The median of 100 lies between the 40th and the 61st value with 95 % confidence (David, Order Statistics)."""
    values = np.random.default_rng(5).permutation(np.arange(1.0, 101.0))
    found = percentile_interval(values, 50)
    assert found.value == 50.5
    assert found.low <= 40
    assert found.high >= 61
    assert found.high - found.low < 40


def test_the_stop_rule_narrows_with_more_iterations() -> None:
    """Four times the iterations, about half the width; resemblance of neighbours widens it."""
    rng = np.random.default_rng(11)
    values = rng.normal(10, 1, 4000)
    assert relative_half_width_pct(values) == pytest.approx(100 * 1.96 / 10 / 4000**0.5, rel=0.15)
    for statistic in ("mean", "p90"):
        ratio = relative_half_width_pct(values[:1000], statistic) / relative_half_width_pct(values, statistic)
        assert 1.5 < ratio < 2.7
    alike = ar1(rng, 4000, rho=0.8)
    assert relative_half_width_pct(alike) > 1.8 * relative_half_width_pct(values)
    assert relative_half_width_pct(alike, "p50") > 1.5 * relative_half_width_pct(values, "p50")


def test_constant_latencies_have_no_width() -> None:
    """A clock that always shows the same stops any rule at once."""
    assert relative_half_width_pct(np.full(100, 7.0)) == 0
    assert relative_half_width_pct(np.full(100, 7.0), "p50") == 0


@pytest.mark.parametrize("statistic", ["median", "p0", "p100"])
def test_an_unknown_statistic_is_refused(statistic: str) -> None:
    """The message names what is allowed."""
    with pytest.raises(ValueError, match=r"allowed|needs a value"):
        relative_half_width_pct(np.arange(1.0, 50.0), statistic)


def test_nothing_has_no_interval() -> None:
    """No value, no figure."""
    with pytest.raises(ValueError, match="found none"):
        mean_interval(np.array([]))
    with pytest.raises(ValueError, match="needs a value"):
        percentile_interval(np.array([]), 50)

"""Intervals over runs hold the truth as often as they say, however few the runs are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtexp.metrics.repeats import (
    Estimate,
    NormalDraws,
    Reading,
    Together,
    correlation,
    discoveries_limit,
    geometric_mean,
    readings,
    run_errors,
)
from mtexp.metrics.spread import NOT_KNOWN, Between, Group, LikeRuns, likeness
from mtexp.metrics.window import Series
from tests.strategies import noisy, points_of_few_runs

ALIKE = Together(0.2, [[1.0]] * 20)


def errors_of(
    logs: Sequence[float], spread: Between, *, draws: int = 20_000, within: float = 1e-3, seed: int = 0
) -> np.ndarray:
    """Draws of the error of a mean over runs of one tenant."""
    runs = [[{"mean": Reading(log, within)}] for log in logs]
    found: np.ndarray = run_errors(runs, ["mean"], [[spread]], ALIKE, NormalDraws(draws, np.random.default_rng(seed)))[
        0, 0
    ]
    return found


def half_width(errors: np.ndarray) -> float:
    """Of a 95 % interval."""
    low, high = np.quantile(errors, [0.025, 0.975])
    return float(high - low) / 2


def two_states(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of a host that is slow in three runs of ten; mean 0, standard deviation 1."""
    slow = rng.random(shape) < 0.3
    return np.where(slow, math.sqrt(0.7 / 0.3), -math.sqrt(0.3 / 0.7))


@pytest.mark.parametrize("noise", ["normal", "two states"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_coverage_with_a_spread_shrunk_to_that_of_like_runs(noise: str, count: int) -> None:
    """Runs apart by 15 %, in studies of forty points of one to three runs: means of any number of runs are held."""
    held = 0
    studies = 400
    for seed in range(studies):
        rng = np.random.default_rng(seed)

        def throw(*shape: int, rng: np.random.Generator = rng) -> np.ndarray:
            return 0.15 * (rng.standard_normal(shape) if noise == "normal" else two_states(rng, shape))

        own = throw(count)
        like = LikeRuns.of(points_of_few_runs(rng, throw(40, 3))).expected(("a",))
        spread = like.with_own(float(((own - own.mean()) ** 2).sum()), count - 1)
        low, high = np.quantile(errors_of(own, spread, draws=1000, seed=seed), [0.025, 0.975])
        held += low <= -own.mean() <= high
    assert held / studies >= 0.91, held / studies
    if noise == "normal":
        assert held / studies <= 0.99, held / studies


def test_another_run_that_is_like_the_others_never_widens_an_interval() -> None:
    """Three runs used to be 1.55 times as wide as two: t of two degrees of freedom."""
    like = Between(0.15, 30)
    widths = []
    for count in range(1, 8):
        squares = 0.15**2 * (count - 1)  # as far apart as runs like them
        widths.append(half_width(errors_of([0.0] * count, like.with_own(squares, count - 1))))
    assert all(more < 1.02 * fewer for fewer, more in pairwise(widths)), widths
    assert widths[2] < 0.9 * widths[1]


def test_a_third_run_seldom_widens_an_interval_whatever_it_is() -> None:
    """Over many points, each with its own chance of a far-off third run, the mean width falls."""
    like = Between(0.15, 30)
    rng = np.random.default_rng(0)
    two, three = [], []
    for _ in range(300):
        logs = rng.normal(0, 0.15, 3)
        for runs, widths in ((logs[:2], two), (logs, three)):
            spread = like.with_own(float(((runs - runs.mean()) ** 2).sum()), len(runs) - 1)
            widths.append(spread.sd / math.sqrt(len(runs)))
    wider = np.array(three) > np.array(two)
    assert np.mean(wider) < 0.02, np.mean(wider)
    assert np.mean(three) < 0.85 * np.mean(two)


def test_factors_of_what_runs_are_like_are_found() -> None:
    """A model twice as steady, a mode 1.5 times as shaky: known from few runs of each, also where the two meet."""
    rng = np.random.default_rng(1)
    sds = {(a, b): 0.1 * x * y for a, x in (("m", 1), ("n", 0.5)) for b, y in (("p", 1), ("q", 1.5))}
    groups = []
    for path, sd in sds.items():
        count = 5 if path == ("n", "q") else 60
        groups += [Group(path, float(sd**2 * squares), 2) for squares in rng.chisquare(2, count)]
    like = LikeRuns.of(groups)
    for path, sd in sds.items():
        assert like.expected(path).sd == pytest.approx(sd, rel=0.15), path
    assert like.expected(("unseen", "q")).freedom < like.expected(("m", "q")).freedom


def test_groups_that_differ_in_spread_count_for_less() -> None:
    """Where variances differ from group to group by a factor, a group's like say little; where they do not, much."""
    rng = np.random.default_rng(2)
    alike = [(math.sqrt(rng.chisquare(2) / 2), 2.0) for _ in range(200)]
    apart = [(own * math.exp(rng.normal(0, 1)), freedom) for own, freedom in alike]
    assert likeness(alike) > 3 * likeness(apart)
    assert likeness(apart) < 8


def test_nothing_repeated_leaves_what_iterations_say() -> None:
    """No spread is invented."""
    assert LikeRuns.of([Group(("a",), 0.0, 0.0)]).expected(("a",)) == NOT_KNOWN
    errors = errors_of([0.0, 0.0], NOT_KNOWN, within=0.01)
    assert np.std(errors) == pytest.approx(0.01 / math.sqrt(2), rel=0.05)


def test_an_error_is_no_smaller_than_iterations_show() -> None:
    """A steady model whose run was short: what its few iterations leave open counts."""
    assert np.std(errors_of([0.0], Between(0.001, 50), within=0.05)) == pytest.approx(0.05, rel=0.05)


def test_tenants_of_one_run_have_as_much_in_common_as_was_measured() -> None:
    """Neither the same throw for all nor each on its own."""
    runs = [[{"mean": Reading(0.0, 0.001)}] * 2]
    how = Together(0.4, [[1.0], [1.0]])
    found = run_errors(runs, ["mean"], [[Between(0.1, 500)]] * 2, how, NormalDraws(40_000, np.random.default_rng(0)))[
        :, 0
    ]
    assert np.corrcoef(found)[0, 1] == pytest.approx(0.4, abs=0.02)


def test_correlation_is_pooled_and_never_certain() -> None:
    """Few groups are put together with what is usual; many speak for themselves; it stays between 0 and 0.95."""
    assert correlation([]) == pytest.approx(0.15)
    assert correlation([(0.6, 1.0, 200.0)]) == pytest.approx(0.59, abs=0.02)
    assert correlation([(-5.0, 1.0, 50.0)]) == 0
    assert correlation([(5.0, 1.0, 50.0)]) == 0.95


def test_iterations_alone_would_not_know() -> None:
    """What is fixed here: the interval within one run holds the truth in a minority of such studies."""
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        run, alone = (
            readings(Series.closed(mean * math.exp(rng.normal(0, 0.1)) * rng.lognormal(0, 0.05, 60)))["mean"]
            for mean in (20.0, 10.0)
        )
        error = math.hypot(run.error, alone.error)
        inside += abs(run.log - alone.log - math.log(2)) < 1.96 * error
    assert inside < 50


def test_readings_are_those_of_the_series() -> None:
    """Throughput, mean and the percentiles that enough iterations bound, as logarithms; other times by name."""
    series = noisy(1, 200)
    found = readings(series, gpu_time=series.latency_ms / 2)
    assert list(found) == ["throughput", "mean", "gpu_time", "p50", "p90", "p95"]
    assert found["mean"].log == pytest.approx(math.log(series.latency_ms.mean()))
    assert found["gpu_time"].log == pytest.approx(found["mean"].log - math.log(2))
    assert found["throughput"].log == pytest.approx(math.log(series.throughput_rps))
    assert found["p50"].error > 0
    with pytest.raises(ValueError, match="found 1"):
        readings(noisy(1, 1))


def test_a_percentile_that_its_iterations_do_not_bound_has_a_value_and_no_error() -> None:
    """Requests that come in streaks say where a p90 is, and not how far it may reach; three runs do."""
    found = readings(Series.closed(np.linspace(1, 2, 70)))
    assert found["p90"].log == pytest.approx(math.log(1.9))
    assert math.isnan(found["p90"].error)
    names, spreads, how = ["mean", "p90"], [[Between(0.1, 10)] * 2], Together(0.2, [[1.0, 0.9]])
    normals = NormalDraws(10, np.random.default_rng(0))
    few, enough = (run_errors([[found]] * runs, names, spreads, how, normals)[0] for runs in (2, 3))
    assert np.isfinite(few[0]).all()
    assert np.isnan(few[1]).all()
    assert np.isfinite(enough).all()
    interval = Estimate(1.5, few[1]).interval
    assert (interval.value, interval.low, interval.high) == (1.5, 0.0, math.inf)


def test_a_statistic_that_a_tenant_lacks_costs_no_other_theirs() -> None:
    """NaN where it is absent, errors where it is not."""
    runs = [[{"mean": Reading(0.0, 0.1), "p90": Reading(0.0, 0.1)}, {"mean": Reading(0.0, 0.1)}]]
    spreads, how = [[Between(0.1, 9)] * 2] * 2, Together(0.2, [[1.0, 0.9]] * 2)
    errors = run_errors(runs, ["mean", "p90"], spreads, how, NormalDraws(5, np.random.default_rng(0)))
    assert np.isfinite(errors).all(axis=2).tolist() == [[True, True], [True, False]]


def test_draws_of_a_spread_are_those_of_an_inverse_chi_square() -> None:
    """The t table, within the few percent of the approximation."""
    rng = np.random.default_rng(0)
    for freedom, quantile in ((8, 2.306), (3, 3.182)):
        drawn = Between(1.0, freedom).draws(rng.standard_normal(200_000)) * rng.standard_normal(200_000)
        assert np.quantile(drawn, 0.975) == pytest.approx(quantile, rel=0.05), freedom


ERRORS = st.lists(st.floats(-0.5, 0.5), min_size=20, max_size=20).map(np.array)
ESTIMATES = st.builds(Estimate, st.floats(0.1, 10), ERRORS)


@given(ESTIMATES, ESTIMATES)
def test_a_ratio_turned_round_is_its_inverse(first: Estimate, second: Estimate) -> None:
    """a/b and b/a say the same, and each holds its figure."""
    forth, back = (first / second).interval, (second / first).interval
    assert np.allclose([forth.value, forth.low, forth.high], [1 / back.value, 1 / back.high, 1 / back.low])
    assert forth.low <= forth.value <= forth.high


@given(st.lists(ESTIMATES, min_size=1, max_size=5))
def test_a_mean_lies_among_its_figures(figures: list[Estimate]) -> None:
    """A geometric mean lies between the least and the most."""
    mean = geometric_mean(figures).interval
    assert min(f.value for f in figures) * 0.999 <= mean.value <= max(f.value for f in figures) * 1.001
    assert mean.low <= mean.value <= mean.high


def test_what_two_figures_share_cancels() -> None:
    """Two mixes against one baseline: their ratio does not know its error."""
    baseline = np.random.default_rng(0).normal(0, 0.2, 500)
    first, second = Estimate(3.0, -baseline), Estimate(2.0, -baseline)
    assert (first / second).interval.half_width_pct == pytest.approx(0)
    assert first.interval.half_width_pct > 20


def test_no_figure_has_no_mean() -> None:
    """An average of nothing is refused, not invented."""
    with pytest.raises(ValueError, match="at least one"):
        geometric_mean([])


def test_a_p_value_is_that_of_its_interval() -> None:
    """1 at the end of a 95 % interval is a p-value of 5 %; no error known, none is claimed."""
    errors = np.random.default_rng(0).normal(0, 0.1, 10_000)
    assert Estimate(math.exp(0.196), errors).p_value() == pytest.approx(0.05, rel=0.15)
    assert Estimate(1.0, errors).p_value() > 0.9
    assert Estimate(9.0, np.full(10, np.nan)).p_value() == 1


def test_of_many_claims_few_are_false() -> None:
    """Benjamini and Hochberg: among a hundred questions of which half are nothing, 5 % of claims are false at most."""
    false = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        p_values = [*rng.random(50), *rng.random(50) * 1e-4]
        limit = discoveries_limit(p_values)
        claims = sum(p <= limit for p in p_values)
        false.append(sum(p <= limit for p in p_values[:50]) / max(claims, 1))
    assert np.mean(false) < 0.04
    assert discoveries_limit([0.04] + [0.9] * 50) == 0
    assert discoveries_limit([]) == 0

"""Latency statistics and the rule for percentiles."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtexp.metrics.latency import (
    PERCENTILES,
    insufficient,
    latency_statistics,
    min_iterations,
    percentile_name,
    supported,
)
from tests.strategies import latencies_ms


@pytest.mark.parametrize(("percentile", "needed"), [(50, 11), (90, 64), (95, 130), (97, 219), (99, 662), (99.9, 6636)])
def test_iterations_needed_match_loadgen(percentile: float, needed: int) -> None:
    """The figures of MLPerf LoadGen's early stopping at 99 % confidence."""
    assert min_iterations(percentile) == needed


@given(st.floats(0.01, 99.99))
def test_iterations_needed_are_the_fewest_that_pass_the_bound(percentile: float) -> None:
    """One less and the chance that at most one iteration lies beyond exceeds 1 %; p and 100 - p need the same."""
    needed, below = min_iterations(percentile), max(percentile, 100 - percentile) / 100

    def chance(n: int) -> float:
        return below**n + n * (1 - below) * below ** (n - 1)

    assert chance(needed) <= 0.01 * (1 + 1e-9)
    assert chance(needed - 1) > 0.01 * (1 - 1e-9)


@pytest.mark.parametrize("percentile", [0, 100, -1, 150, float("nan")])
def test_a_percentile_outside_0_to_100_is_refused(percentile: float) -> None:
    """The message names the value and what is allowed."""
    with pytest.raises(ValueError, match="between 0 and 100"):
        min_iterations(percentile)


def test_unsupported_percentiles_say_how_many_iterations_to_ask_for() -> None:
    """100 iterations, the default, support p50 and p90."""
    assert supported(100) == (50.0, 90.0)
    assert insufficient(100) == {"p95": 130, "p99": 662}
    assert insufficient(662) == {}
    assert insufficient(10_000, (99.9,)) == {}
    assert percentile_name(99.9) == "p99.9"


@given(latencies_ms)
def test_statistics_are_ordered_and_agree_with_numpy(values: list[float]) -> None:
    """min <= p50 <= p90 <= p95 <= p99 <= max; percentiles are numpy's default, which pandas shares."""
    found = latency_statistics(np.array(values))
    order = [found[key] for key in ("min", "p50", "p90", "p95", "p99", "max")]
    assert all(low <= high * (1 + 1e-12) for low, high in itertools.pairwise(order))
    assert [found[percentile_name(p)] for p in PERCENTILES] == pytest.approx(
        [np.quantile(values, p / 100) for p in PERCENTILES]
    )
    assert found["mean"] == pytest.approx(np.mean(values))
    assert ("stdev" in found) == (len(values) > 1)


def test_stdev_is_that_of_a_sample() -> None:
    """n - 1, as pandas and the statistics module have it."""
    assert latency_statistics(np.array([1.0, 3.0]))["stdev"] == pytest.approx(2**0.5)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_statistics_of_nothing_or_of_no_number_are_refused(values: list[float]) -> None:
    """No figure is drawn from what was not measured."""
    with pytest.raises(ValueError, match="latency statistics need"):
        latency_statistics(np.array(values))

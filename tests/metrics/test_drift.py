"""Drift of latency within the window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtexp.metrics.drift import Drift, drift

T0 = 10**18 + 7  # past what a float holds to the nanosecond


def _at(values: np.ndarray) -> np.ndarray:
    return T0 + np.arange(values.size) * 10_000_000


@pytest.mark.parametrize("iterations", [30, 100, 401, 5000])
@pytest.mark.parametrize("change_pct", [10.0, -10.0])
def test_a_steady_rise_is_found_whatever_the_number_of_iterations(iterations: int, change_pct: float) -> None:
    """10 % from the start of the window to its end, in noise of 1 %."""
    rng = np.random.default_rng(iterations)
    values = 20 * (1 + change_pct / 100 * np.linspace(-0.5, 0.5, iterations)) * rng.normal(1, 0.01, iterations)
    found = drift(values, _at(values))
    assert found.flagged
    assert found.slope_pct == pytest.approx(change_pct, abs=2)
    assert found.thirds_pct == pytest.approx(change_pct * 2 / 3, abs=2)
    assert found.pct * change_pct > 0


def test_a_latency_never_falls_by_more_than_all_of_it() -> None:
    """From 20 ms to 2 ms it fell by nine tenths, from 2 to 20 it grew nine-fold: the two undo each other."""
    values = np.geomspace(20, 2, 100)
    fell, rose = drift(values, _at(values)), drift(values[::-1], _at(values))
    assert fell.slope_pct == pytest.approx(-90)
    assert rose.slope_pct == pytest.approx(900)
    late = np.concatenate([np.linspace(20, 1, 50), np.linspace(1, 0.9, 50)])
    assert -100 < drift(late, _at(late)).pct < -90


def test_a_burst_is_not_drawn_out_to_the_end_of_the_window() -> None:
    """Nine requests within a millisecond that double, and one much later: the change is what was seen."""
    at_ns = np.append(np.arange(9) * 100_000, 10**12)
    found = drift(np.append(np.geomspace(10, 20, 9), 20), at_ns)
    assert found.slope_pct == pytest.approx(100)


def test_noise_is_not_drift() -> None:
    """Steady latencies with 10 % of noise move by more than 2 % at times, but show no trend."""
    flagged = 0
    for seed in range(100):
        values = np.random.default_rng(seed).lognormal(2, 0.1, 100)
        flagged += drift(values, _at(values)).flagged
    assert flagged <= 5


def test_a_small_trend_is_not_flagged() -> None:
    """Below 2 % a drift is real but does not matter."""
    values = np.linspace(10, 10.1, 100)
    found = drift(values, _at(values))
    assert found.trend
    assert not found.flagged


def test_outliers_do_not_make_a_drift() -> None:
    """A tenth of the iterations ten times as long, at the end: medians stand firm."""
    values = np.random.default_rng(1).normal(10, 0.01, 100)
    values[[60, 71, 77, 80, 85, 88, 91, 93, 96, 99]] *= 10
    assert abs(drift(values, _at(values)).slope_pct) < 1


@given(st.floats(0.01, 1e4), st.integers(6, 60))
def test_constant_latency_does_not_drift(value: float, iterations: int) -> None:
    """No change, no trend."""
    values = np.full(iterations, value)
    assert drift(values, _at(values)) == Drift(0.0, 0.0, False)


def test_too_few_iterations_show_nothing() -> None:
    """Five values cannot be told from chance: no figure rather than a wild one."""
    assert drift(np.arange(1.0, 6.0), np.arange(5)) is None


def test_iterations_of_one_instant_have_no_slope() -> None:
    """A clock that stood still gives no division by zero."""
    assert drift(np.arange(1.0, 11.0), np.zeros(10)).slope_pct == 0

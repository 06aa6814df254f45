"""The formulas of interference and their properties."""

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtexp.metrics.interference import (
    antt,
    clock_attribution,
    energy_per_request,
    fairness,
    jain_fairness,
    normalized_progress,
    offered_rps,
    percentile_slowdown,
    saturated,
    slo_attainment_pct,
    slowdown,
    stp,
    tail_inflation,
)
from tests.strategies import closed_loop, open_loop, progresses, ratios

OF_RUN = [stp, antt, jain_fairness, fairness]


def test_published_pair() -> None:
    """Llama-3.2-1B and Mistral-7B time-sliced on an H200 (13.4 and 89.1 ms against 8.7 and 34.3 ms)."""
    slowdowns = slowdown([13.4, 89.1], [8.7, 34.3])
    assert slowdowns == pytest.approx([1.540, 2.598], abs=1e-3)
    assert antt(slowdowns) == pytest.approx(2.069, abs=1e-3)
    assert stp(1 / slowdowns) == pytest.approx(1.034, abs=1e-3)
    assert fairness(1 / slowdowns) == pytest.approx(0.593, abs=1e-3)


@pytest.mark.parametrize("tenants", [1, 2, 7, 48])
def test_undisturbed_tenants(tenants: int) -> None:
    """All slowdowns 1: STP n, ANTT 1, perfectly fair."""
    ones = slowdown(np.full(tenants, 8.25), np.full(tenants, 8.25))
    assert stp(ones) == tenants
    assert antt(ones) == jain_fairness(ones) == fairness(ones) == 1


def test_scalars_give_scalars() -> None:
    """One tenant's figures need no array."""
    assert float(normalized_progress(50, 100)) == 0.5
    assert float(slowdown(20, 10)) == 2


@pytest.mark.parametrize("metric", OF_RUN)
@given(values=progresses, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_tenants_is_irrelevant(metric: Callable[..., float], values: list[float], seed: int) -> None:
    """A run is a set of tenants."""
    shuffled = np.random.default_rng(seed).permutation(values)
    assert metric(shuffled) == pytest.approx(metric(values))


@given(values=progresses, scale=ratios)
def test_scaling_shared_and_alone_together_changes_nothing(values: list[float], scale: float) -> None:
    """Units and a faster device cancel out."""
    alone = np.arange(1.0, len(values) + 1)
    shared = alone * values
    assert slowdown(scale * shared, scale * alone) == pytest.approx(slowdown(shared, alone))
    assert normalized_progress(scale * shared, scale * alone) == pytest.approx(normalized_progress(shared, alone))


@given(values=progresses, scale=ratios)
def test_fairness_does_not_depend_on_scale(values: list[float], scale: float) -> None:
    """Both indices compare tenants with each other only."""
    scaled = np.array(values) * scale
    assert jain_fairness(scaled) == pytest.approx(jain_fairness(values))
    assert fairness(scaled) == pytest.approx(fairness(values))


@given(progresses)
def test_stp_times_antt_is_at_least_n(slowdowns: list[float]) -> None:
    """In closed loop (NP = 1 / S); equality where all are slowed alike."""
    progress = 1 / np.array(slowdowns)
    assert stp(progress) * antt(slowdowns) >= len(slowdowns) * (1 - 1e-9)


@given(progresses)
def test_indices_stay_in_their_ranges(values: list[float]) -> None:
    """Jain in [1/n, 1], fairness in (0, 1]."""
    assert 1 / len(values) * (1 - 1e-9) <= jain_fairness(values) <= 1 + 1e-9
    assert 0 < fairness(values) <= 1


@given(slowdowns=progresses, factor=st.floats(1.0, 100.0), which=st.integers(0, 47))
def test_more_slowdown_never_raises_stp(slowdowns: list[float], factor: float, which: int) -> None:
    """Nor does it lower ANTT."""
    worse = np.array(slowdowns)
    worse[which % worse.size] *= factor
    assert stp(1 / worse) <= stp(1 / np.array(slowdowns)) * (1 + 1e-12)
    assert antt(worse) >= antt(slowdowns) * (1 - 1e-12)


@pytest.mark.parametrize("metric", OF_RUN)
@pytest.mark.parametrize("bad", [[], [1.0, 0.0], [1.0, -2.0], [float("nan")], [float("inf"), 1.0]])
def test_input_that_means_nothing_is_refused(metric: Callable[..., float], bad: list[float]) -> None:
    """The message names the metric and the value found."""
    with pytest.raises(ValueError, match=f"{metric.__name__}: (no value|found )"):
        metric(bad)


@pytest.mark.parametrize("function", [slowdown, normalized_progress])
def test_a_baseline_of_zero_is_refused(function: Callable[..., object]) -> None:
    """No division by what was not measured."""
    with pytest.raises(ValueError, match=r"alone: found 0\.0"):
        function([1.0], [0.0])


@pytest.mark.parametrize("function", [slowdown, normalized_progress])
@pytest.mark.parametrize("alone", [[1.0], [1.0, 2.0, 3.0], 1.0])
def test_tenants_without_a_baseline_of_their_own_are_refused(function: Callable[..., object], alone: object) -> None:
    """Nothing is broadcast: the message names both and their shapes."""
    with pytest.raises(ValueError, match=rf"has shape \(2,\), \w+ {re.escape(str(np.shape(alone)))}; both must"):
        function([1.0, 2.0], alone)


def test_tail_inflation_compares_the_tail_with_the_middle() -> None:
    """A distribution stretched as a whole has none; one with a longer tail has."""
    alone = np.linspace(1, 2, 1001)
    assert percentile_slowdown(3 * alone, alone, 99) == pytest.approx(3)
    assert tail_inflation(3 * alone, alone) == pytest.approx(1)
    longer = np.where(alone > np.percentile(alone, 98), 4 * alone, 2 * alone)
    assert tail_inflation(longer, alone) == pytest.approx(2)


def test_energy_is_shared_by_all_requests() -> None:
    """Of the window, of all tenants."""
    assert energy_per_request(120.0, 60) == pytest.approx(2)
    with pytest.raises(ValueError, match="requests"):
        energy_per_request(120.0, 0)


@pytest.mark.parametrize(
    ("total", "shared_mhz", "alone_mhz", "clock", "rest"),
    [
        (2.0, 1500, 1800, 1.2, 2 / 1.2),
        (2.0, 1800, 1800, 1.0, 2.0),
        (2.0, 1980, 1200, 1.0, 2.0),
        (1.1, 900, 1800, 1.1, 1.0),
        (0.9, 900, 1800, 1.0, 0.9),
    ],
    ids=["part", "same clock", "clock rose", "clock explains all", "no slowdown"],
)
def test_clock_attribution(total: float, shared_mhz: float, alone_mhz: float, clock: float, rest: float) -> None:
    """The clock explains at most the slowdown there is, never less than none; both parts multiply to the whole."""
    parts = clock_attribution(total, shared_mhz, alone_mhz)
    assert (parts.clock, parts.rest) == pytest.approx((clock, rest))
    assert parts.clock * parts.rest == pytest.approx(total)


def test_service_levels() -> None:
    """Attainment is a share of requests, goodput a rate over the window; the level itself is kept."""
    latency_ms = [8.0, 10.0, 12.0, 50.0]
    assert slo_attainment_pct(latency_ms, 10) == 50


def test_a_tenant_that_cannot_keep_up_is_saturated() -> None:
    """Arrivals every 5 ms, 10 ms of service: the queue grows throughout."""
    behind = open_loop(np.arange(50) * 5.0, service_ms=10)
    assert saturated(behind)
    assert offered_rps(behind) == pytest.approx(200)


@pytest.mark.parametrize("gap_ms", [10.5, 20.0, 500.0])
def test_a_tenant_that_keeps_up_is_not_saturated(gap_ms: float) -> None:
    """However near its capacity the rate is."""
    assert not saturated(open_loop(np.arange(50) * gap_ms, service_ms=10))


def test_a_burst_that_drains_is_not_saturation() -> None:
    """A queue at the start of the window that goes away again says nothing about the rate."""
    arrivals = np.concatenate([np.zeros(10), 20.0 * np.arange(1, 41)])
    assert not saturated(open_loop(arrivals, service_ms=10))


def test_closed_loop_and_few_requests_are_never_saturated() -> None:
    """A tenant that asks only when it has its answer has no queue; five requests show no trend."""
    assert not saturated(closed_loop([10] * 50))
    assert not saturated(open_loop([0, 1, 2, 3, 4], service_ms=10))


def test_an_offered_rate_needs_two_arrivals() -> None:
    """One request has no rate, nor have requests of one instant."""
    with pytest.raises(ValueError, match="at least two"):
        offered_rps(open_loop([0], service_ms=1))
    with pytest.raises(ValueError, match="span between arrivals"):
        offered_rps(open_loop([0, 0], service_ms=1))

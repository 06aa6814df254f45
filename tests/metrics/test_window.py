"""The common window: which iterations count."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given

from mtexp.metrics.samples import Samples
from mtexp.metrics.window import Series, Window, common_window, measuring_ns, window_share_pct
from tests.strategies import MS, closed_loop, mixes, open_loop

T0 = 10**15


def test_window_runs_from_the_last_first_start_to_the_first_last_end() -> None:
    """Only iterations fully inside are kept; what the edges cut off does not change the throughput."""
    early = closed_loop([10] * 10, start_ns=T0)
    late = closed_loop([30] * 4, start_ns=T0 + 25 * MS)
    window = common_window([early, late])
    assert window == Window(T0 + 25 * MS, T0 + 100 * MS)
    assert window.mask(early).tolist() == [False] * 3 + [True] * 7
    assert window.mask(late).tolist() == [False, True, False, False]
    assert window.throughput_rps(early) == pytest.approx(100)
    assert window.throughput_rps(late) == pytest.approx(1000 / 30)
    assert window_share_pct(window, [early]) == pytest.approx(75)
    assert window_share_pct(window, [late]) == pytest.approx(100 * 75 / 120)
    assert window_share_pct(window, [early, late]) == pytest.approx(62.5)


def test_warm_up_neither_opens_the_window_nor_counts_in_it() -> None:
    """A neighbour's warm-up inside the window is not one of its iterations."""
    warming = closed_loop([10] * 10, start_ns=T0, warmup=5)
    window = common_window([warming])
    assert window == Window(T0 + 50 * MS, T0 + 100 * MS)
    assert Window(T0, T0 + 100 * MS).mask(warming).sum() == 5
    assert window.mask(warming).sum() == 4


def test_the_first_iteration_of_every_tenant_is_left_out() -> None:
    """It is slower than the others: neither latency nor throughput may know of it, whoever started last."""
    tenants = [closed_loop([100] + [10] * 20, start_ns=T0 + skew) for skew in (0, 0, 20_000)]
    window = common_window(tenants)
    assert window is not None
    for samples in tenants:
        series = Series.of(samples, window)
        assert series.latency_ms.max() == 10
        assert series.throughput_rps == pytest.approx(100)
    assert Series.whole(tenants[0]).throughput_rps == pytest.approx(100)
    assert window_share_pct(window, tenants) == pytest.approx(100, abs=0.01)


def test_pauses_between_iterations_count_in_the_cycle_and_not_in_the_latency() -> None:
    """Throughput follows from first start to last end of what is kept."""
    samples = closed_loop([8] * 11)
    ends = samples.start_ns + 8 * MS + np.arange(11) * 2 * MS
    paused = replace(samples, arrival_ns=ends - 8 * MS, start_ns=ends - 8 * MS, end_ns=ends)
    series = Series.whole(paused)
    assert series.latency_ms.tolist() == [8] * 10
    assert series.cycle_ms.tolist() == [10] * 9 + [8]
    assert series.throughput_rps == pytest.approx(1000 / 9.8)


def test_sustained_neighbours_cost_the_window_at_most_an_iteration() -> None:
    """Under sustained overlap everyone runs until told to stop: the overlap stays near 100 %."""
    fast = closed_loop([1] * 1010)
    slow = closed_loop([100] * 10)
    window = common_window([fast, slow])
    assert window is not None
    assert window_share_pct(window, [fast, slow]) > 99
    assert window.mask(slow).tolist() == [False] + [True] * 9


@pytest.mark.parametrize(
    "tenants",
    [
        [],
        [closed_loop([10]), closed_loop([10], start_ns=T0 + 50 * MS)],
        [closed_loop([10]), closed_loop([10], start_ns=T0 + 10 * MS)],
        [closed_loop([10]), closed_loop([])],
        [closed_loop([10]), closed_loop([10], warmup=1)],
    ],
    ids=["no tenant", "apart", "one after the other", "no sample", "only warm-up"],
)
def test_without_common_time_there_is_no_window(tenants: list[Samples]) -> None:
    """No overlap is None and 0 %, not a window of negative length."""
    assert common_window(tenants) is None
    assert window_share_pct(None, tenants) == 0


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    """Windows are made of real time."""
    with pytest.raises(ValueError, match="ends after it starts"):
        Window(5, 5)


@given(mixes)
def test_window_lies_within_every_tenants_span(tenants: list[Samples]) -> None:
    """No tenant is idle at either edge of the window."""
    window = common_window(tenants)
    assume(window is not None)
    for samples in tenants:
        measured = samples.measured
        assert measured.start_ns.min() <= window.t0_ns < window.t1_ns <= measured.end_ns.max()
    assert 0 < window_share_pct(window, tenants) <= 100
    assert all(window_share_pct(window, tenants) <= window_share_pct(window, [samples]) for samples in tenants)


@given(mixes)
def test_the_same_window_twice_is_once(tenants: list[Samples]) -> None:
    """What a window keeps, it keeps again."""
    window = common_window(tenants)
    assume(window is not None)
    for samples in tenants:
        kept = window.keep(samples)
        assert window.mask(kept).all()
        assert window.throughput_rps(kept) == window.throughput_rps(samples)
        assert measuring_ns(kept) <= window.t1_ns - window.t0_ns


def test_closed_loop_throughput_is_the_inverse_of_mean_latency() -> None:
    """In closed loop an iteration's latency is the time it takes of the tenant."""
    series = Series.closed(np.array([4.0, 6.0]))
    assert series.throughput_rps == pytest.approx(200)
    kept = Series.whole(closed_loop([9, 4, 6]))
    assert kept.throughput_rps == pytest.approx(200)
    assert kept.cycle_ms.tolist() == [4, 6]


def test_open_loop_cycles_are_the_times_between_ends() -> None:
    """In open loop throughput follows from when requests end, not from how long they take."""
    samples = open_loop([0, 100, 200], service_ms=10)
    series = Series.of(samples, Window(T0, T0 + 220 * MS))
    assert series.latency_ms == pytest.approx([10.001] * 3)
    assert series.cycle_ms == pytest.approx([10.001, 100, 100])
    assert series.throughput_rps == pytest.approx(3 / 0.22)


def test_a_series_of_nothing() -> None:
    """A window that keeps nothing of a tenant gives an empty series; a baseline of nothing is an error."""
    samples = closed_loop([50, 50])
    assert Series.of(samples, Window(T0 + MS, T0 + 2 * MS)).latency_ms.size == 0
    for nothing in (replace(samples, phase=np.zeros(2, dtype=np.uint8)), closed_loop([50])):
        with pytest.raises(ValueError, match="found fewer"):
            Series.whole(nothing)

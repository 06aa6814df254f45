"""A tenant that stops for part of the window is found; one that is only slow, or idle by design, is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtexp.metrics.activity import active_together_pct, activity, activity_findings
from mtexp.metrics.samples import Samples
from mtexp.metrics.window import Window, common_window
from tests.strategies import MS, closed_loop, open_loop


def _window(*tenants: Samples) -> Window:
    window = common_window(tenants)
    assert window is not None
    return window


def _found(**tenants: Samples) -> dict[str, str]:
    """Level by code."""
    window = _window(*tenants.values())
    return {f.code: f.level for f in activity_findings({n: activity(s, window) for n, s in tenants.items()})}


def _paused(samples: Samples, after: int, pause_ms: float) -> Samples:
    """The same requests, with a pause between two of them."""
    late = (np.arange(len(samples)) > after) * round(pause_ms * MS)
    return replace(
        samples,
        arrival_ns=samples.arrival_ns + late,
        start_ns=samples.start_ns + late,
        end_ns=samples.end_ns + late,
    )


STEADY = closed_loop(np.full(1250, 4.0))  # 5 s


def test_tenants_that_work_throughout_are_not_mentioned() -> None:
    """Noise, two states of the host and a neighbour ten times as slow are no stops."""
    noisy = closed_loop(np.random.default_rng(1).lognormal(np.log(4), 0.3, 1250))
    states = closed_loop(np.where(np.arange(1250) // 60 % 2, 4.0, 8.0))
    slow = closed_loop(np.full(125, 40.0))
    assert _found(a=noisy, b=states, c=slow) == {}
    assert activity(noisy, _window(noisy)).active_pct == 100


def test_a_tenant_that_stops_for_most_of_the_window_makes_it_invalid() -> None:
    """SIGSTOP between two requests, for 3 of 5 s: first and last time stamp see nothing of it."""
    stopped = _paused(closed_loop(np.full(500, 4.0)), 200, 3000)
    assert _found(a=STEADY, b=stopped) == {"overlap": "invalid"}
    assert activity(stopped, _window(STEADY, stopped)).active_pct == pytest.approx(40, abs=0.2)


def test_a_tenant_that_stops_within_a_request_is_found_too() -> None:
    """One request of 3 s is one that stood still, not 3 s of work."""
    latencies = np.full(500, 4.0)
    latencies[200] = 3000
    assert _found(a=STEADY, b=closed_loop(latencies)) == {"overlap": "invalid"}


def test_many_short_stops_add_up() -> None:
    """A CPU quota that runs out after 40 of every 100 ms."""
    latencies = np.where(np.arange(500) % 10 == 9, 64.0, 4.0)
    assert _found(a=closed_loop(latencies)) == {"overlap": "invalid"}


@pytest.mark.parametrize(("requests", "code", "level"), [(1000, "overlap", "invalid"), (10_000, "stall", "warning")])
def test_one_request_of_500_ms_counts_by_its_share_of_the_window(requests: int, code: str, level: str) -> None:
    """11 % of 4.5 s makes it INVALID; 1.2 % of 40 s is said."""
    latencies = np.full(requests, 4.0)
    latencies[100] = 500
    assert _found(a=closed_loop(latencies)) == {code: level}


def test_a_short_stop_in_a_short_window_is_said_only() -> None:
    """70 ms of 0.5 s are more than 5 %, and yet what any host does."""
    latencies = np.full(100, 4.0)
    latencies[50] = 70
    assert _found(a=closed_loop(latencies)) == {"stall": "warning"}


def test_an_open_loop_tenant_is_idle_between_arrivals_by_design() -> None:
    """A second without arrivals is no stop."""
    sparse = open_loop([0, 10, 20, 1000, 1010, 3000, 3010, 5000], service_ms=4)
    assert _found(a=STEADY, b=sparse) == {}


def test_an_open_loop_tenant_that_lets_its_requests_wait_has_stopped() -> None:
    """They arrived every 10 ms, and nothing was served for 3 of 5 s."""
    served = open_loop(np.arange(500) * 10.0, service_ms=4)
    waiting = (served.arrival_ns > served.arrival_ns[0] + 1000 * MS) & (
        served.arrival_ns < served.arrival_ns[0] + 4000 * MS
    )
    starts = np.where(waiting, served.arrival_ns[0] + 4000 * MS, served.start_ns)
    starts[waiting] += np.arange(waiting.sum()) * 4 * MS
    later = np.flatnonzero(waiting)[-1] + 1
    for i in range(later, starts.size):
        starts[i] = max(starts[i], starts[i - 1] + 4 * MS)
    stopped = replace(served, start_ns=starts, end_ns=starts + 4 * MS)
    assert _found(a=stopped) == {"overlap": "invalid"}


def test_stops_of_several_tenants_are_not_counted_twice() -> None:
    """Two that stop at the same time for a fifth of the window leave four fifths; at other times, three."""
    early, late = _paused(STEADY, 100, 1250), _paused(STEADY, 1000, 1250)
    window = _window(early, late)
    one, other = activity(early, window), activity(late, window)
    assert active_together_pct([one, one]) == pytest.approx(80, abs=0.1)
    assert active_together_pct([one, other]) == pytest.approx(60, abs=0.2)
    assert active_together_pct([]) == 0


def test_a_stop_outside_the_window_does_not_count() -> None:
    """The tail of the fixed protocol is in no statistic."""
    short, tail = closed_loop(np.full(250, 4.0)), _paused(STEADY, 1000, 3000)
    assert _found(a=short, b=tail) == {}

"""Figures of churn events against small exact answers."""

import numpy as np
import pytest

from mtexp.metrics.churn import KINDS, Event, Served, figures_of, joined, latencies_of, next_cycle, seen
from mtexp.metrics.churn_rows import churn_rows

MS = 1_000_000


def _event(kind: str, start_ms: float, end_ms: float, **more: object) -> Event:
    start_ns, end_ns = round(start_ms * MS), round(end_ms * MS)
    return Event(kind=kind, cycle=0, start_ns=start_ns, done_ns=start_ns, end_ns=end_ns, **more)  # type: ignore[arg-type]


def _life(arrivals_ms: list[float], ends_ms: list[float]) -> Served:
    arrival, end = (np.array([round(v * MS) for v in values], dtype=np.int64) for values in (arrivals_ms, ends_ms))
    start = np.maximum(arrival, np.concatenate([[0], end[:-1]])) if len(end) else arrival
    return Served.of(arrival, start, end)


def test_a_stall_is_the_longest_wait_without_a_completion() -> None:
    """Requests at 0, 10, 20 ms; the second takes until 35: from 10 to 35 nothing was completed, though one waited."""
    requests = _life([1, 10, 20], [2, 35, 36])
    event = seen(_event("load", 5, 50), requests)
    assert event.stall_ms == pytest.approx(25)
    assert (event.requests, event.lost, event.p99_ms) == (2, 0, None)
    assert event.back_s == pytest.approx(0.030)


def test_time_without_requests_is_no_stall() -> None:
    """Nothing came for a second, so nobody waited."""
    assert seen(_event("quiet", 0, 2000), _life([1, 1500], [2, 1501])).stall_ms == pytest.approx(1)


def test_only_the_part_inside_the_window_counts() -> None:
    """A request in flight from 1 to 101 ms, and a window that ends at 21."""
    assert seen(_event("memory", 11, 21), _life([1], [101])).stall_ms == pytest.approx(10)


def test_requests_are_lost_from_the_death_until_the_tenant_serves_again() -> None:
    """Every 10 ms one: that of 20 was in flight at the kill (25), those of 30 to 80 came while it was dead; it is back
    at 85 with a schedule of its own."""
    schedule = np.arange(0, 200, 10, dtype=np.int64) * MS
    first, second = _life([0, 10], [2, 12]), _life([85, 95], [88, 97])
    requests = joined([first, second], [schedule, schedule + 85 * MS], [26 * MS, 200 * MS])
    before = seen(_event("memory", 15, 24), requests)
    kill = seen(_event("kill", 24, 99), requests)
    assert (before.lost, kill.lost) == (0, 7)
    assert kill.stall_ms == pytest.approx(88 - 24)  # of the window: the request in flight had waited before
    assert kill.back_s == pytest.approx(0.088 - 0.024)
    assert requests.arrival_ns.tolist() == sorted(requests.arrival_ns.tolist())


def test_requests_between_a_fault_and_the_death_are_not_the_return() -> None:
    """The fault is asked for at 5, a request begun at 10 succeeds, the tenant dies at 25 and is back at 85."""
    schedule = np.arange(0, 200, 10, dtype=np.int64) * MS
    requests = joined([_life([0, 10], [2, 12]), _life([85], [88])], [schedule, schedule + 85 * MS], [25 * MS, 200 * MS])
    fault = seen(_event("fault", 5, 99), requests)
    assert fault.lost == 7
    assert fault.back_s == pytest.approx(0.088 - 0.005)


def test_what_still_waits_when_the_run_ends_is_not_lost() -> None:
    """The schedule goes on after the last process was stopped."""
    requests = joined([_life([0], [1])], [np.arange(5, dtype=np.int64) * MS], [2 * MS])
    assert requests.arrival_ns.size == 1


def test_thirty_events_have_an_interval_and_fewer_none() -> None:
    """Stalls of 5 to 15 ms: the interval holds their mean, and is narrower than they spread."""
    requests = _life(list(np.arange(0, 40_000, 10.0)), list(np.arange(0, 40_000, 10.0) + 1))
    events = [_event("kill", 1000 * i, 1000 * i + 500, died=("b",), lost=2, stall_ms=5 + i % 11) for i in range(33)]
    (kill,) = figures_of(events, latencies_of(events, requests), "a")
    low, high = kill.stall_ci_ms or (0, 0)
    assert low < 10 < high < 13
    assert (kill.events, kill.lost, kill.died) == (33, 66, {"b": 33})
    assert kill.stall_ms == pytest.approx(10)
    assert kill.p99_ms == pytest.approx(1)
    assert kill.p99_ci_ms == pytest.approx((1, 1))
    assert kill.stall_p50_ms == pytest.approx(10)
    low, high = kill.stall_p50_ci_ms or (0, 0)
    assert 5 <= low < 10 < high <= 15
    assert kill.steady_died_pct == 0
    assert kill.steady_died_ci_pct == pytest.approx((0, 10.43), abs=0.01)  # z^2 / (n + z^2)
    (few,) = figures_of(events[:29], latencies_of(events[:29], requests), "b")
    assert few.steady_died_pct == 100
    assert few.stall_ci_ms is few.stall_p50_ci_ms is few.steady_died_ci_pct is few.p99_ci_ms is None


def test_windows_without_a_request_break_no_figure() -> None:
    """Of 33 windows three have requests: a draw of events may have none. p99 stands, its interval does not."""
    requests = _life(list(np.arange(0, 1500, 10.0)), list(np.arange(0, 1500, 10.0) + 2))
    events = [_event("memory", 500 * i, 500 * i + 500, stall_ms=5.0) for i in range(33)]
    (memory,) = figures_of(events, latencies_of(events, requests), "a")
    assert memory.p99_ms == pytest.approx(2)
    assert memory.p99_ci_ms is None
    assert memory.stall_ci_ms == pytest.approx((5, 5))
    longer = [_event("memory", 50 * i, 50 * i + 50) for i in range(40)]  # 30 of them have requests
    (memory,) = figures_of(longer, latencies_of(longer, requests), "a")
    assert memory.p99_ci_ms == pytest.approx((2, 2))


def test_no_window_with_a_request_is_no_p99() -> None:
    """Not one request was served in any of 31 windows: the figures that need none are there."""
    events = [_event("memory", 500 * i, 500 * i + 400) for i in range(31)]
    none = Served.of(*[np.zeros(0, dtype=np.int64)] * 3)
    (memory,) = figures_of([seen(event, none) for event in events], latencies_of(events, none), "a")
    assert (memory.p99_ms, memory.p99_ci_ms, memory.back_s, memory.requests) == (None, None, None, 0)
    assert memory.stall_ci_ms == (0, 0)


def _behind() -> Served:
    """A request each ms for 1 s; each takes 4 ms, and the run ends after 1 s: 250 of 1000 were served."""
    schedule = np.arange(0, 2000, dtype=np.int64) * MS
    return joined([_life(list(range(250)), [4.0 * i + 4 for i in range(250)])], [schedule], [1000 * MS])


def test_a_tenant_that_falls_behind_has_no_p99() -> None:
    """What still waits when the run ends is slower than all that was served: p99 lies among it."""
    requests = _behind()
    first, second, last = (seen(_event("memory", t, t + 200), requests) for t in (0, 200, 800))
    assert [(event.requests, event.waiting) for event in (first, second, last)] == [(200, 0), (200, 150), (200, 200)]
    assert first.p99_ms == pytest.approx(np.percentile(np.arange(200) * 3.0 + 4, 99))
    assert second.p99_ms is last.p99_ms is None
    latencies_ms = latencies_of([first, second], requests)
    assert figures_of([first], latencies_ms[:1], "a")[0].p99_ms == pytest.approx(first.p99_ms)
    (both,) = figures_of([first, second], latencies_ms, "a")
    assert (both.p99_ms, both.requests, both.waiting) == (None, 400, 150)


def test_a_few_that_wait_are_the_slowest_of_all() -> None:
    """One of 201 requests waits: p99 is the rank that it has among all."""
    schedule = np.arange(201, dtype=np.int64) * MS
    requests = joined([_life(list(range(200)), [t + 0.1 + t / 1e3 for t in range(200)])], [schedule], [300 * MS])
    event = seen(_event("quiet", 0, 300), requests)
    assert (event.requests, event.waiting) == (201, 1)
    assert event.p99_ms == pytest.approx(0.1 + 198 / 1e3)


def test_a_tenant_that_serves_no_more_stalls_to_the_end_of_the_window() -> None:
    """The last request was completed at 12 ms, the next waits since 20, and nobody has served it."""
    schedule = np.arange(0, 200, 10, dtype=np.int64) * MS
    requests = joined([_life([0, 10], [2, 12])], [schedule], [100 * MS])
    assert seen(_event("memory", 15, 90), requests).stall_ms == pytest.approx(70)
    assert seen(_event("memory", 30, 90), requests).stall_ms == pytest.approx(60)
    assert seen(_event("quiet", 0, 11), requests).stall_ms == pytest.approx(2)


def test_a_life_has_what_is_missing_and_the_steps_on_the_way() -> None:
    """To be killed a neighbour has to be started; that is not looked at again once there are enough starts."""
    assert next_cycle(["kill"], {}, 1) == [
        *((kind, False) for kind in ("start", "build", "warm_up", "load")),
        ("kill", True),
    ]
    done = dict.fromkeys(KINDS, 2)
    assert next_cycle(KINDS, done, 2) == []
    assert [kind for kind, looked_at in next_cycle(KINDS, done | {"fault": 1}, 2) if looked_at] == ["fault"]
    assert next_cycle(KINDS, done | {"quiet": 1}, 2) == [("quiet", True)]
    assert next_cycle(["memory"], {}, 1)[-2:] == [("memory", True), ("end", False)]
    several = [kind for kind, _ in next_cycle(["quiet", "memory", "kill"], {"memory": 1}, 5, per_life=3)]
    assert several == ["quiet"] * 3 + ["start", "build", "warm_up", "load"] + ["memory"] * 3 + ["kill"]
    assert next_cycle(["memory"], {"memory": 4}, 5, per_life=3)[-2:] == [("memory", True), ("end", False)]


def test_a_table_has_no_powers_of_ten() -> None:
    """A stall of more than a second is 1390 ms."""
    figures = {"fault_events": 30.0, "fault_lost": 7058.0, "fault_stall_ms": 1386.77}
    figures |= {f"fault_{name}": 1.0 for name in ("stall_p50_ms", "steady_died_pct", "back_s", "took_s")}
    metrics = {f"churn_{key}": value for key, value in figures.items()}
    event = {"kind": "fault", "died": [], "stall_ms": 12692.7}
    (row,) = churn_rows({"metrics": metrics, "events": [event]})
    assert (row["stall ms"], row["worst ms"]) == ("1387", "12693")

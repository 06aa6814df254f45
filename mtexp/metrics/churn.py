"""What an event of a neighbour does to a steady tenant: stalls, latencies, requests lost, time until it serves again.

Lives here: :class:`Event`, :class:`Served`, and the figures of a kind of event. Pure. An interval is over events, which
are drawn anew with replacement: what it says is about further events of the same run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from mtexp.metrics.bootstrap import percentile_interval

QUIET, BESIDE = "quiet", "beside"
STARTS = ("start", "build", "warm_up", "load")
ENDINGS = ("end", "kill", "fault")
KINDS = (QUIET, *STARTS, BESIDE, "memory", "oom", *ENDINGS)
"""In the order of a neighbour's life. In ``quiet`` and ``beside`` nothing happens: without a neighbour, and beside one
that serves back to back."""
NEED_GPU = ("oom", "fault")
MIN_EVENTS = 30
"""Fewest events of a kind for an interval."""
WITHOUT_REQUESTS = "no-requests"
"""Code of the finding of windows in which no request of the steady tenant came that was served."""
_DRAWS = 1000
_P99_DRAWS = 400
_FEWEST_FOR_P99 = 100
_NS_PER_MS, _NS_PER_S = 1e6, 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event, and what was seen of the steady tenant around it."""

    kind: str
    cycle: int
    """Which life of a neighbour it belongs to, from 0."""
    start_ns: int
    """When it was asked for."""
    done_ns: int
    """When the neighbour had done it, or its end was seen."""
    end_ns: int
    """End of what is looked at: of the window, or later where the neighbour was not done or the steady tenant dead."""
    died: tuple[str, ...] = ()
    """Tenants whose process ended, asked to or not, but for the event ``end``."""
    error: str = ""
    """What the neighbour answered, where that was an error: first line."""
    neighbour_back_s: float | None = None
    """For an ending: seconds that the next neighbour took until its first request was served, without pauses."""
    requests: int = 0
    """Requests of the steady tenant that came in the window."""
    waiting: int = 0
    """Those of them that still waited when the run ended: the steady tenant was behind. 0 in older records."""
    lost: int = 0
    """Requests that were lost in it: in flight or waiting when the tenant died, or come while it was dead."""
    stall_ms: float = 0.0
    """Longest time in the window in which a request was waiting or being served and none was completed."""
    p99_ms: float | None = None
    """Latency of those that were served or still wait; None for fewer than 100 served, or if it is one that waits."""
    back_s: float | None = None
    """From the event until the steady tenant completed a request that it began after the event, and after its own
    death where it died; None = never."""


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """All requests of the steady tenant in order of arrival; arrays of shape (n,), ns of the monotonic clock."""

    arrival_ns: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    """0 = never begun."""
    end_ns: NDArray[np.int64]
    """0 = lost."""
    lost_ns: NDArray[np.int64]
    """When it was lost; 0 = it was not."""
    waiting_ns: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Arrivals of further requests: they had come, and none was completed yet when the tenant was last looked at."""

    @property
    def lost(self) -> NDArray[np.bool_]:
        """Which were never served."""
        mask: NDArray[np.bool_] = self.lost_ns > 0
        return mask

    @classmethod
    def of(cls, arrival_ns: NDArray[np.int64], start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> Served:
        """Requests of which none was lost."""
        return cls(arrival_ns, start_ns, end_ns, np.zeros_like(arrival_ns))


def joined(lives: Sequence[Served], scheduled_ns: Sequence[NDArray[np.int64]], ended_ns: Sequence[int]) -> Served:
    """Requests of a tenant whose process ended and was started again, with those that were lost in between.

    Args:
        lives: What each process served, in order.
        scheduled_ns: When the requests of each were to come. Those that came before the next process served its first
            and were not served are lost. What came before the last process ended and was not served still waits.
        ended_ns: When each process ended.
    """
    parts, waiting = [], np.zeros(0, dtype=np.int64)
    for number, (life, schedule) in enumerate(zip(lives, scheduled_ns, strict=True)):
        parts.append(life)
        missed = schedule[life.arrival_ns.size :]
        if number + 1 == len(lives):
            waiting = missed[missed < ended_ns[number]]
            break
        back_ns = next(
            (later.start_ns[0] for later in lives[number + 1 :] if later.start_ns.size), np.iinfo(np.int64).max
        )
        missed = missed[missed < back_ns]
        none = np.zeros(missed.size, dtype=np.int64)
        parts.append(Served(missed, none, none, np.maximum(missed, ended_ns[number])))
    names = [f.name for f in fields(Served) if f.name != "waiting_ns"]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    order = np.argsort(columns["arrival_ns"], kind="stable")
    return Served(**{name: column[order] for name, column in columns.items()} | {"waiting_ns": waiting})


def seen(event: Event, requests: Served) -> Event:
    """Return ``event`` with what happened to the requests around it."""
    (latency_ms,) = latencies_of([event], requests)
    came = _inside(event, requests.arrival_ns)
    waiting = _inside(event, requests.waiting_ns)
    lost_ns = requests.lost_ns[(requests.lost_ns >= event.start_ns) & (requests.lost_ns < event.end_ns)]
    # a fault may take effect some requests after it was asked for: these are not the tenant's return
    gone_ns = max(event.start_ns, int(lost_ns.max(initial=0)))
    later = requests.end_ns[(requests.start_ns >= gone_ns) & ~requests.lost]
    return replace(
        event,
        requests=came.stop - came.start + waiting.stop - waiting.start,
        waiting=waiting.stop - waiting.start,
        lost=lost_ns.size,
        stall_ms=_longest_stall_ms(event, requests),
        p99_ms=_p99_ms(latency_ms) if np.isfinite(latency_ms).sum() >= _FEWEST_FOR_P99 else None,
        back_s=(int(later.min()) - event.start_ns) / _NS_PER_S if later.size else None,
    )


def _inside(event: Event, arrival_ns: NDArray[np.int64]) -> slice:
    """Which of the requests, in order of arrival, came in the window."""
    first, last = np.searchsorted(arrival_ns, (event.start_ns, event.end_ns))
    return slice(int(first), int(last))


def _longest_stall_ms(event: Event, requests: Served) -> float:
    """Longest of the stretches of the event's window in which a request waited and none was completed."""
    for_good_ns = max(event.end_ns, int(requests.end_ns.max(initial=0)))
    # a lost request was waited for until the tenant served again, or for good
    after = np.append(np.sort(requests.end_ns[~requests.lost]), for_good_ns)
    until = np.where(requests.lost, after[np.searchsorted(after[:-1], requests.lost_ns)], requests.end_ns)
    first = requests.waiting_ns[:1]  # from the last completion on, the first of those that still wait is waited for
    until = np.maximum.accumulate(np.append(until, np.full(first.size, for_good_ns)))
    since = np.maximum(np.append(requests.arrival_ns, first), np.concatenate([[0], until])[:-1])
    return float(np.max(np.minimum(until, event.end_ns) - np.maximum(since, event.start_ns), initial=0) / _NS_PER_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFigures:
    """The events of one kind. An interval is (low, high), and None for fewer than :data:`MIN_EVENTS` events."""

    kind: str
    events: int
    stall_ms: float
    """Mean over events of the longest stall."""
    stall_ci_ms: tuple[float, float] | None = None
    stall_p50_ms: float = 0.0
    """Median over events of the longest stall; its interval lies between two of the events."""
    stall_p50_ci_ms: tuple[float, float] | None = None
    stall_max_ms: float = 0.0
    p99_ms: float | None = None
    """Percentile of the requests of all events; None where it is one that still waited when the run ended."""
    p99_ci_ms: tuple[float, float] | None = None
    """None also for fewer than :data:`MIN_EVENTS` events with a request that was served."""
    requests: int = 0
    waiting: int = 0
    lost: int = 0
    died: Mapping[str, int] = field(default_factory=dict)
    """In how many events a tenant died."""
    steady_died_pct: float = 0.0
    """Events in which the steady tenant died."""
    steady_died_ci_pct: tuple[float, float] | None = None
    """Wilson's interval (JASA 1927), which holds even if none or all died."""
    back_s: float | None = None
    """Mean over events."""
    back_max_s: float | None = None
    neighbour_back_s: float | None = None
    """Mean over events."""
    took_s: float = 0.0
    """Mean time from the event until the neighbour had done it."""


def figures_of(
    events: Sequence[Event], latencies_ms: Sequence[NDArray[np.float64]], steady: str, *, seed: int = 0
) -> list[KindFigures]:
    """The figures of each kind that occurred, in the order of :data:`KINDS`.

    Args:
        events: Of one run, or of several of the same kind.
        latencies_ms: Of the requests of each event (:func:`latencies_of`).
        steady: Id of the steady tenant.
        seed: Of the draws.
    """
    found = []
    for kind in KINDS:
        own = [(event, ms) for event, ms in zip(events, latencies_ms, strict=True) if event.kind == kind]
        if own:
            found.append(_of_a_kind(kind, [event for event, _ in own], [ms for _, ms in own], steady, seed))
    return found


def latencies_of(events: Sequence[Event], requests: Served) -> list[NDArray[np.float64]]:
    """Latencies in ms of the requests of each event, without those lost; infinite for one that still waits.

    Of samples alone it is not known what waits: then :attr:`Event.waiting` says how many do.
    """
    latencies_ms = []
    for event in events:
        rows = _inside(event, requests.arrival_ns)
        kept = ~requests.lost[rows]
        served_ms = (requests.end_ns[rows][kept] - requests.arrival_ns[rows][kept]) / _NS_PER_MS
        waiting = _inside(event, requests.waiting_ns)
        count = max(event.waiting, waiting.stop - waiting.start)
        latencies_ms.append(np.append(served_ms, np.full(count, math.inf)))
    return latencies_ms


def _p99_ms(latency_ms: NDArray[np.float64]) -> float | None:
    """The percentile of latencies of which some may be infinite; None where it lies among these, or of nothing."""
    served = latency_ms[np.isfinite(latency_ms)]
    place = 0.99 * (latency_ms.size - 1)
    if not latency_ms.size or math.ceil(place) >= served.size:
        return None
    return float(np.percentile(served, min(100 * place / max(served.size - 1, 1), 100)))


def _of_a_kind(
    kind: str, events: Sequence[Event], latencies_ms: Sequence[NDArray[np.float64]], steady: str, seed: int
) -> KindFigures:
    stalls_ms = np.array([event.stall_ms for event in events])
    pooled = np.concatenate(latencies_ms)
    with_requests = sum(bool(np.isfinite(ms).any()) for ms in latencies_ms)
    p99_ms = _p99_ms(pooled) if np.isfinite(pooled).sum() >= _FEWEST_FOR_P99 else None
    stall_ci_ms = stall_p50_ci_ms = steady_died_ci_pct = p99_ci_ms = None
    median = percentile_interval(stalls_ms, 50)
    died = sum(steady in event.died for event in events)
    if len(events) >= MIN_EVENTS:
        from scipy.stats import binomtest  # half a second to import: not before a run is checked

        rng = np.random.Generator(np.random.SFC64(seed))
        draws = rng.integers(len(events), size=(_DRAWS, len(events)))
        stall_ci_ms = _middle(stalls_ms[draws].mean(axis=1))
        stall_p50_ci_ms = (median.low, median.high)
        share = binomtest(died, len(events)).proportion_ci(method="wilson")
        steady_died_ci_pct = (100 * float(share.low), 100 * float(share.high))
        if p99_ms is not None and with_requests >= MIN_EVENTS:
            drawn = [_p99_ms(np.concatenate([latencies_ms[i] for i in draw])) for draw in draws[:_P99_DRAWS]]
            known = [ms for ms in drawn if ms is not None]
            p99_ci_ms = _middle(known) if len(known) == len(drawn) else None
    back_s = [event.back_s for event in events if event.back_s is not None]
    neighbour_back_s = [event.neighbour_back_s for event in events if event.neighbour_back_s is not None]
    names = [name for event in events for name in event.died]
    return KindFigures(
        kind=kind,
        events=len(events),
        stall_ms=float(stalls_ms.mean()),
        stall_ci_ms=stall_ci_ms,
        stall_p50_ms=median.value,
        stall_p50_ci_ms=stall_p50_ci_ms,
        stall_max_ms=float(stalls_ms.max()),
        p99_ms=p99_ms,
        p99_ci_ms=p99_ci_ms,
        requests=sum(event.requests for event in events),
        waiting=sum(event.waiting for event in events),
        lost=sum(event.lost for event in events),
        died={name: names.count(name) for name in dict.fromkeys(names)},
        steady_died_pct=100 * died / len(events),
        steady_died_ci_pct=steady_died_ci_pct,
        back_s=float(np.mean(back_s)) if back_s else None,
        back_max_s=max(back_s) if back_s else None,
        neighbour_back_s=float(np.mean(neighbour_back_s)) if neighbour_back_s else None,
        took_s=float(np.mean([(event.done_ns - event.start_ns) / _NS_PER_S for event in events])),
    )


def _middle(draws: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def next_cycle(
    wanted: Sequence[str], done: Mapping[str, int], repeats: int, per_life: int = 1
) -> list[tuple[str, bool]]:
    """The steps of the next neighbour's life, each with whether it is looked at; empty when all kinds have enough.

    A neighbour has to be started to be killed: steps on the way are taken all the same, without waiting for a window.

    Args:
        wanted: Kinds to be looked at.
        done: Events of each so far.
        repeats: Events of each kind that are asked for.
        per_life: Most events of a kind that does not change the neighbour in one life.
    """

    def some(kind: str) -> list[str]:
        return [kind] * min(per_life, repeats - done.get(kind, 0)) if kind in missing else []

    missing = {kind for kind in wanted if done.get(kind, 0) < repeats}
    if not missing:
        return []
    if missing == {QUIET}:
        return [(QUIET, True)] * len(some(QUIET))
    ending = min((kind for kind in ENDINGS if kind in missing), key=lambda kind: done.get(kind, 0), default="end")
    extra = [kind for name in (BESIDE, "memory", "oom") for kind in some(name)]
    return [(kind, kind in missing) for kind in (*some(QUIET), *STARTS, *extra, ending)]

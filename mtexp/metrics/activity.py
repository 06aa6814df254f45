"""Was every tenant at work throughout the window? Lives here: Activity, active_together_pct. May touch: numpy.

A tenant is active while it has a request in flight or has just ended one. It is stopped (SIGSTOP, swap, a host that
takes its core away) where a request that is due does not start, or one in flight takes far longer than its requests
do. Both are measured against its own median service time: :data:`STALL_FACTOR` of it is a stop, and beyond one median
the time does not count as activity. In closed loop the next request is due when the last one ended; in open loop not
before it arrives, for between arrivals such a tenant is idle by design.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtexp.metrics.finding import Finding
from mtexp.metrics.samples import Samples
from mtexp.metrics.window import Window
from mtexp.text_tables import rounded

STALL_FACTOR = 10.0
"""A pause or a request of so many median service times is a stop: of 1600 tenants in ``docs/results`` one has any, a
request of 77 ms among those of 6.7 ms."""
STALL_MIN_MS = 50.0
"""Shorter ones are never a stop: a host suspends any process for some milliseconds."""
OVERLAP_LIMIT_PCT = 95.0
GRAVE_MS = 100.0
"""Stops that are shorter in sum are reported and leave the run VALID, even if they are more than 5 % of a short
window."""

Intervals = NDArray[np.int64]
"""Shape (n, 2): starts and ends in ns, ascending, disjoint."""


@dataclass(frozen=True, slots=True, eq=False)
class Activity:
    """When a tenant was stopped in a window."""

    stopped_ns: Intervals
    typical_ms: float
    """Its median service time."""
    length_ns: int
    """Length of the window."""

    @property
    def active_pct(self) -> float:
        """Share of the window in which it had a request in flight or had just ended one."""
        return 100 * (1 - float(np.diff(self.stopped_ns).sum()) / self.length_ns)

    @property
    def stopped_ms(self) -> float:
        """All its stops together."""
        return float(np.diff(self.stopped_ns).sum()) / 1e6

    @property
    def longest_ms(self) -> float:
        """Its longest stop; 0 without one."""
        return float(np.diff(self.stopped_ns).max(initial=0)) / 1e6


def activity(samples: Samples, window: Window) -> Activity:
    """When a tenant with measured iterations was stopped in ``window``, which lies within the time that it measured."""
    measured = samples.measured
    typical_ns = float(np.median(measured.end_ns - measured.start_ns))
    limit_ns = max(STALL_FACTOR * typical_ns, STALL_MIN_MS * 1e6)
    due_ns = measured.end_ns[:-1]
    if measured.open_loop:
        due_ns = np.maximum(due_ns, measured.arrival_ns[1:])
    spans = [
        np.stack([measured.start_ns, measured.end_ns], axis=1),
        np.stack([due_ns, measured.start_ns[1:]], axis=1),
    ]
    spans_ns = np.concatenate(spans).astype(np.int64)
    stopped = spans_ns[np.diff(spans_ns)[:, 0] > limit_ns]
    stopped[:, 0] += round(typical_ns)
    stopped = np.clip(stopped, window.t0_ns, window.t1_ns)
    stopped = stopped[stopped[:, 1] > stopped[:, 0]]
    return Activity(stopped[stopped[:, 0].argsort()], typical_ns / 1e6, window.t1_ns - window.t0_ns)


def active_together_pct(tenants: Sequence[Activity]) -> float:
    """Share of the window in which no tenant was stopped, in percent; 0 without tenants."""
    if not tenants:
        return 0.0
    stopped = np.concatenate([tenant.stopped_ns for tenant in tenants])
    if not stopped.size:
        return 100.0
    stopped = stopped[stopped[:, 0].argsort()]
    reach = np.maximum.accumulate(stopped[:, 1])
    starts = np.maximum(stopped[:, 0], np.concatenate([[np.iinfo(np.int64).min], reach[:-1]]))
    return 100 * (1 - float(np.clip(reach - starts, 0, None).sum()) / tenants[0].length_ns)


def activity_findings(tenants: Mapping[str, Activity]) -> Iterator[Finding]:
    """INVALID where all tenants were active together for less than 95 % of the window; any other stop is a warning."""
    together_pct = active_together_pct(list(tenants.values()))
    stopped_ms = sum(tenant.stopped_ms for tenant in tenants.values())
    if together_pct < OVERLAP_LIMIT_PCT and stopped_ms >= GRAVE_MS:
        worst = min(tenants, key=lambda name: tenants[name].active_pct)
        yield Finding(
            "invalid",
            "overlap",
            f"all tenants were active together for {together_pct:.1f} % of the window, expected at least "
            f"{OVERLAP_LIMIT_PCT:g} %: {_stopped(worst, tenants[worst])}",
            "See whether it was suspended, swapped out or without a CPU core, then repeat the run.",
        )
        return
    for name, tenant in tenants.items():
        if tenant.stopped_ns.size:
            remedy = (
                "See whether it was suspended, swapped out or without a CPU core; its mean and its tail hold the stop."
            )
            yield Finding("warning", "stall", _stopped(name, tenant), remedy, name)


def _stopped(name: str, tenant: Activity) -> str:
    stops = len(tenant.stopped_ns)
    how = "once, for" if stops == 1 else f"in {stops} stops of up to"
    return (
        f"{name} stood still for {100 - tenant.active_pct:.1f} % of the window ({how} {tenant.longest_ms:.0f} ms), "
        f"while its typical request takes {rounded(tenant.typical_ms, 3)} ms"
    )

"""The search for the highest rate at which every tenant keeps its service level. May touch: the standard library.

Lives here: which rate to try next (:func:`next_value`), whether a run kept the level (:func:`judge`), what is known at
the end (:func:`conclude`). All are functions of what has been measured, so a search that is started again goes on where
it stopped, and ``analysis`` gets the same answer from the same runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mtexp.metrics.latency import min_iterations
from mtexp.text_tables import rounded

WINDOW_LEVELS = 20
"""Levels that fit the window of a probe at least: a queue that grows by less than a level meanwhile means arrivals that
exceed service by at most a twentieth."""

_WHOLE_REQUESTS = 0.9
"""The window ends with the last whole request, so it is a little shorter than the time that was asked for."""

FOUND, ABOVE, BELOW, PROBES, STOPPED, OPEN = "found", "above", "below", "probes", "stopped", "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How to search."""

    by: str = "load"
    """What a value is: ``load`` (share of each tenant's baseline throughput) or ``rate`` (requests a second)."""
    attainment_pct: float = 99.0
    """Share of each tenant's requests that must be within its level."""
    low: float
    """Lowest value tried; positive."""
    high: float
    """Highest value tried."""
    tolerance_pct: float = 5.0
    """Done when the lowest missed value is at most so much above the highest kept one."""
    max_probes: int = 12


@dataclass(frozen=True, slots=True)
class Probe:
    """One value that was tried."""

    value: float
    kept: bool | None
    """None: the run says neither (failed, INVALID, too few requests)."""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """The result of the probes so far."""

    outcome: str
    """``found``, ``above`` (the upper bound keeps), ``below`` (the lower bound misses), ``probes`` (as many as are
    allowed), ``stopped`` (an inconclusive probe) or ``open``."""
    kept: float | None
    """Highest value that kept the level below the lowest that missed it."""
    missed: float | None
    """Lowest value that missed it."""


def next_value(rule: Rule, probes: Sequence[Probe]) -> float | None:
    """The value to try next; None when the search is over.

    The upper bound first (its run is the shortest), then bisection on the logarithm of the rate between the highest
    kept and the lowest missed value, so that the tolerance is relative. The lower bound, whose run is the longest, is
    tried only when everything down to its tolerance has missed.
    """
    found = conclude(rule, probes)
    if found.outcome != OPEN:
        return None
    if found.missed is None:
        return rule.high
    if found.kept is None and _close(rule, rule.low, found.missed):
        return rule.low
    low = rule.low if found.kept is None else found.kept
    middle = float(f"{math.sqrt(low * found.missed):.3g}")
    return middle if low < middle < found.missed else math.sqrt(low * found.missed)


def conclude(rule: Rule, probes: Sequence[Probe]) -> Conclusion:
    """What is known after ``probes``.

    An inconclusive probe ends the search: counted as kept or missed, it would mislead the rest.
    """
    missed = min((p.value for p in probes if p.kept is False), default=None)
    below = [p.value for p in probes if p.kept and (missed is None or p.value < missed)]
    kept = max(below, default=None)
    return Conclusion(outcome=_outcome(rule, probes, kept, missed), kept=kept, missed=missed)


def _outcome(rule: Rule, probes: Sequence[Probe], kept: float | None, missed: float | None) -> str:
    if any(p.kept is None for p in probes):
        return STOPPED
    if missed is not None and missed <= rule.low:
        return BELOW
    if kept is not None and kept >= rule.high:
        return ABOVE
    if kept is not None and missed is not None and _close(rule, kept, missed):
        return FOUND
    return PROBES if len(probes) >= rule.max_probes else OPEN


def _close(rule: Rule, low: float, high: float) -> bool:
    return high <= low * (1 + rule.tolerance_pct / 100)


def judge(
    tenants: Mapping[str, Mapping[str, float]], attainment_pct: float, levels: Collection[str] = ()
) -> tuple[bool | None, str]:
    """Whether a run kept the level, and why (not); None when it cannot tell.

    It kept the level when no tenant is saturated and every tenant with a service level served ``attainment_pct`` of its
    requests within it. Keeping is believed only of as many requests as support that percentile (99 %: 662), over a
    window in which a queue that grows would have shown (:data:`WINDOW_LEVELS`).

    Args:
        tenants: Metrics by tenant id: ``saturated``, ``slo_ms``, ``slo_attainment_pct``, ``iterations_in_window``,
            ``throughput_rps``.
        attainment_pct: Share of requests within the level that is asked for.
        levels: Tenants that must have a level.
    """
    saturated = [name for name, metrics in tenants.items() if metrics.get("saturated")]
    if saturated:
        return False, f"{', '.join(saturated)} saturated"
    attained = {name: m["slo_attainment_pct"] for name, m in tenants.items() if "slo_attainment_pct" in m}
    said = ", ".join(f"{name} {value:.2f} %" for name, value in attained.items())
    if any(value < attainment_pct for value in attained.values()):
        return False, said
    if without := [name for name in levels if name not in attained]:
        return None, f"{', '.join(without)} has no service level: the baseline it is a multiple of is not VALID"
    for name in attained:
        if doubt := _doubt(tenants[name], attainment_pct):
            return None, f"{said}, but {name} {doubt}"
    return True, said


def _doubt(metrics: Mapping[str, float], attainment_pct: float) -> str:
    """Why a tenant that kept its level may not do so for long; empty when nothing speaks against it."""
    requests, needed = int(metrics["iterations_in_window"]), min_iterations(attainment_pct)
    if requests < needed:
        return f"had {requests} requests in the window and {needed} are needed: raise measure.iterations"
    window_s, needed_s = requests / metrics["throughput_rps"], needed_window_s(metrics["slo_ms"])
    if window_s < _WHOLE_REQUESTS * needed_s:
        took = f"was measured for {rounded(window_s, 2)} s"
        return f"{took} and {rounded(needed_s, 2)} s are needed: raise measure.min_time_s"
    return ""


def needed_window_s(slo_ms: float) -> float:
    """Seconds in which a queue that grows shows in a level of ``slo_ms``."""
    return WINDOW_LEVELS * slo_ms / 1e3

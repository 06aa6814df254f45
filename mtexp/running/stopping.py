"""When to stop a run that is not measured in blocks, and its progress until then. May touch: the tenant group."""

from __future__ import annotations

import math
from collections.abc import Callable

from mtexp.launch import TenantGroup
from mtexp.metrics.bootstrap import percentile_interval, relative_half_width_pct
from mtexp.running.jobs import protocol
from mtexp.spec import MeasureSpec, RunSpec
from mtexp.text_tables import rounded

CAPTURE_S = 30.0
"""Longest measuring time of a traced run (nsys, torch): each of its kernels is an event to keep, send and read."""
_CI_EVERY_S = 0.1
_STATUS_EVERY_S = 1.0
_LAST = 2000
"""Latest requests of a tenant that the live line uses: that costs this process, on its own cores, a millisecond."""
_SHOWN = 3
"""Most tenants in the live line."""
_LEAST = 11
"""Fewest requests for the interval of a median."""


def enough_of(
    spec: RunSpec, tenants: TenantGroup, status: Callable[[str], None] | None
) -> Callable[[int, int, float], bool]:
    """The stopping rule: iterations and time together, or an interval narrow enough, with a cap; traces end sooner."""
    rule = protocol(spec)
    traced = spec.kind == "profile" and spec.profiler.kind != "ncu"
    last_look: dict[int, float] = {}
    said_s = 0.0

    def enough(slot: int, iterations: int, elapsed_s: float) -> bool:
        nonlocal said_s
        if status is not None and elapsed_s - said_s >= _STATUS_EVERY_S:
            said_s = elapsed_s
            status(so_far(iterations, elapsed_s, rule) + medians(spec, tenants))
        if traced and elapsed_s >= CAPTURE_S:
            return True
        if iterations < rule.iterations or elapsed_s < rule.min_time_s:
            return False
        if not rule.until_ci_pct or iterations >= rule.max_iterations:
            return True
        if elapsed_s - last_look.get(slot, 0.0) < _CI_EVERY_S:
            return False
        last_look[slot] = elapsed_s
        latency_ms = tenants.sample(slot).measured.latency_ms[1:]
        return relative_half_width_pct(latency_ms, rule.until_ci_statistic) <= rule.until_ci_pct

    return enough


def medians(spec: RunSpec, tenants: TenantGroup) -> str:
    """The median latency of the first tenants so far, each with its interval: ``; p50 ms a 4.21 +- 0.08``.

    It is read from the memory that the tenants write to, and costs them nothing.
    """
    said = []
    for slot, tenant in enumerate(spec.tenants[:_SHOWN]):
        latency_ms = tenants.sample(slot).measured.latency_ms[1:][-_LAST:]
        if latency_ms.size >= _LEAST:
            found = percentile_interval(latency_ms, 50)
            half_ms = (found.high - found.low) / 2
            said.append(
                f"{tenant.id} {rounded(found.value, 4)}" + (f" +- {rounded(half_ms, 1)}" if half_ms < math.inf else "")
            )
    more = " ..." if len(spec.tenants) > _SHOWN else ""
    return f"; p50 ms {', '.join(said)}{more}" if said else ""


def so_far(iterations: int, elapsed_s: float, rule: MeasureSpec) -> str:
    """Progress of the slowest tenant: ``measuring: 45 of 100 iterations, about 12 s left``."""
    by_count = elapsed_s * (rule.iterations / max(iterations, 1) - 1)
    left_s = max(by_count, rule.min_time_s - elapsed_s, 0.0)
    text = f"measuring: {iterations} of {rule.iterations} iterations"
    if rule.until_ci_pct and left_s == 0.0:
        return f"{text}, until the interval is within +- {rule.until_ci_pct:g} %"
    return f"{text}, about {left_s:.0f} s left"

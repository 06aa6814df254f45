"""Impossible figures: an STP above the number of tenants, a slowdown below 1. Lives here: Compared, impossible. Pure.

Sharing cannot make a tenant faster than it is alone. A figure that says so has a baseline that does not fit its run: it
was measured while the host was busier, or the device slower. A figure is *surely* impossible when it exceeds its limit
by more than 5 %, and by more than these three explain, at a level of 2.5 % for all figures of the run together:

- an SM clock higher than that of the baseline,
- the error within the run and its baseline (the interval of the figure),
- the spread between fresh runs, once for the run and once for the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy.special import ndtri

from mtexp.metrics.bootstrap import LEVEL
from mtexp.metrics.finding import Finding
from mtexp.text_tables import rounded

IMPOSSIBLE = "impossible"
TOLERANCE = 1.05
"""Beyond a limit by less than this factor nothing is called impossible."""
_Z = float(ndtri((1 + LEVEL) / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A closed-loop tenant against its baseline."""

    id: str
    baseline: str
    """Names the baseline: tenants with the same one share its error."""
    baseline_ms: float
    """Mean latency of the baseline."""
    slowdown: float
    slowdown_high: float
    """Upper end of its 95 % interval within the run; infinite where there is none."""
    progress: float
    """Normalized progress."""
    runs_sd: float
    """Standard deviation of log mean latency over fresh runs of the tenant; 0 where the interval has it already."""
    least: float = 1.0
    """Smallest slowdown that is possible: below 1 where the clock was higher than the baseline's."""


def impossible(tenants: Sequence[Compared], stp: float, stp_low: float) -> tuple[Finding, ...]:
    """The impossible figures of a run, one finding each. That of a slowdown names its tenant, that of STP does not.

    Args:
        tenants: All of the run that have a slowdown.
        stp: Of the run; NaN where it has none.
        stp_low: Lower end of its 95 % interval within the run; 0 where there is none.
    """
    z = float(ndtri(1 - (1 - LEVEL) / 2 / (len(tenants) + 1)))
    return (*_slowdowns(tenants, z), *_stp(tenants, stp, stp_low, z))


def _slowdowns(tenants: Sequence[Compared], z: float) -> Iterator[Finding]:
    for tenant in tenants:
        within = math.log(tenant.slowdown_high / tenant.slowdown) / _Z
        if _sure(tenant.least / tenant.slowdown, z * math.hypot(within, math.sqrt(2) * tenant.runs_sd)):
            yield Finding(
                "invalid",
                IMPOSSIBLE,
                f"{tenant.id} has a slowdown of {tenant.slowdown:.2f}, surely below {tenant.least:.2f}: no tenant is "
                f"faster beside others than alone; its baseline took {rounded(tenant.baseline_ms, 4)} ms a request",
                tenant=tenant.id,
            )


def _stp(tenants: Sequence[Compared], stp: float, stp_low: float, z: float) -> Iterator[Finding]:
    if not stp_low > 0:
        return
    most = sum(1 / tenant.least for tenant in tenants)
    within = math.log(stp / stp_low) / _Z
    variance = 0.0
    for baseline in {tenant.baseline for tenant in tenants}:
        parts = [tenant.progress / stp * tenant.runs_sd for tenant in tenants if tenant.baseline == baseline]
        variance += sum(parts) ** 2 + sum(part**2 for part in parts)  # of the baseline, of the run
    if _sure(stp / most, z * math.sqrt(within**2 + variance)):
        yield Finding(
            "invalid",
            IMPOSSIBLE,
            f"STP is {stp:.2f}, surely above {most:.3g} for {len(tenants)} tenants: no sharing gives more than all of "
            "them undisturbed, so the baselines do not fit the run",
        )


def _sure(factor: float, error: float) -> bool:
    """Whether a figure exceeds its limit by ``factor`` surely, given the error of its logarithm."""
    return factor > TOLERANCE and math.log(factor) > error

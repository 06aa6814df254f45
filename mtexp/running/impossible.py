"""Impossible figures of a run, against the baselines or the alone blocks it is compared with. May touch: metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from mtexp.metrics.crossover_summary import BlockTelemetry
from mtexp.metrics.drift import runs_sd
from mtexp.metrics.finding import Finding
from mtexp.metrics.impossible import Compared, impossible
from mtexp.metrics.summary import Metrics, RunSummary
from mtexp.running.baselines import BaselineRun
from mtexp.text_tables import rounded

_ONCE = "Set baseline.max_age_h=0, so that baselines are measured just before the run, and run it on a quiet host."
_TWICE = (
    "The baseline was measured again right after the run, with the same result: something other than sharing differs "
    "between them (CPU cores, clocks, other work on the host). Repeat the run on a quiet host."
)
_IN_BLOCKS = (
    "Alone and together were measured in turns, in the same processes: the host or the device changed with the blocks "
    "(clocks, power, other work on the host). Repeat the run on a quiet host."
)


def impossible_findings(
    summary: RunSummary,
    sm_clock_mhz: float | None,
    alone: Mapping[str, BaselineRun],
    before: Mapping[str, BaselineRun],
) -> tuple[Finding, ...]:
    """Impossible figures of a run that has separate baselines, and the baselines that were measured again.

    Args:
        summary: Figures of the run.
        sm_clock_mhz: Mean SM clock in its window; None = not measured.
        alone: Baselines that it is compared with, by tenant id.
        before: The first measurement of baselines that were measured again. How far the two differ shows how far runs
            differ on this host: a smaller difference proves nothing.
    """
    compared = [
        _compared(name, metrics, sm_clock_mhz, alone[name], before.get(name))
        for name, metrics in summary.tenants.items()
        if name in alone and "slowdown" in metrics
    ]
    run = summary.metrics
    found = impossible(compared, run.get("stp", math.nan), run.get("stp_ci_low", 0.0)) if compared else ()
    if found:
        return tuple(replace(finding, remedy=_TWICE if before else _ONCE) for finding in found)
    return tuple(
        _again(name, first.ref.latency_mean_ms, alone[name].ref.latency_mean_ms) for name, first in before.items()
    )


def impossible_in_blocks(summary: RunSummary, clocks: BlockTelemetry) -> tuple[Finding, ...]:
    """Impossible figures of a crossover run.

    There is no baseline to measure again: the alone blocks belong to the run. The spread between fresh runs plays no
    part: the interval of each figure holds it.

    Args:
        summary: Figures of the run.
        clocks: SM clocks in the blocks of all, and alone.
    """
    alone_mhz, together_mhz = clocks.alone_clock_mhz or {}, clocks.together_clock_mhz
    compared = [
        Compared(
            id=name,
            baseline=name,
            baseline_ms=metrics["alone_latency_mean_ms"],
            slowdown=metrics["slowdown"],
            slowdown_high=metrics.get("slowdown_ci_high", math.inf),
            progress=metrics["normalized_progress"],
            runs_sd=0.0,
            least=1.0 if together_mhz is None else min(1.0, alone_mhz.get(name, together_mhz) / together_mhz),
        )
        for name, metrics in summary.tenants.items()
        if metrics.keys() >= {"slowdown", "normalized_progress"}
    ]
    run = summary.metrics
    found = impossible(compared, run.get("stp", math.nan), run.get("stp_ci_low", 0.0)) if compared else ()
    return tuple(replace(finding, remedy=_IN_BLOCKS) for finding in found)


def _again(tenant: str, first_ms: float, second_ms: float) -> Finding:
    apart_pct = 100 * (max(first_ms, second_ms) / min(first_ms, second_ms) - 1)
    return Finding(
        "warning",
        "baseline-again",
        f"figures against the first baseline of {tenant} were impossible; it was measured again after the run "
        f"({rounded(second_ms, 4)} ms a request, {rounded(first_ms, 4)} before: {apart_pct:.0f} % apart), "
        "which is used",
        "Slowdowns against such a baseline are as uncertain. Repeat the run on a quiet host.",
        tenant,
    )


def _compared(
    name: str, metrics: Metrics, sm_clock_mhz: float | None, alone: BaselineRun, before: BaselineRun | None
) -> Compared:
    spread = runs_sd(alone.launch_bound_pct)
    if before is not None:
        spread = max(spread, abs(math.log(alone.ref.latency_mean_ms / before.ref.latency_mean_ms)) / math.sqrt(2))
    own_mhz = alone.baseline.sm_clock_mhz
    risen = sm_clock_mhz / own_mhz if sm_clock_mhz is not None and own_mhz is not None else 1.0
    return Compared(
        id=name,
        baseline=alone.ref.record_id,
        baseline_ms=alone.ref.latency_mean_ms,
        slowdown=metrics["slowdown"],
        slowdown_high=metrics.get("slowdown_ci_high", math.inf),
        progress=metrics["normalized_progress"],
        runs_sd=spread,
        least=1 / max(1.0, risen),
    )

"""VALID or INVALID, with every reason and its remedy. Lives here: Evidence, judge. Pure.

One rule is one function from the evidence to its findings. A fact that could not be measured is None or empty in the
evidence, and its rule stays silent: what a host cannot see is no reason to reject a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mtexp.metrics.activity import OVERLAP_LIMIT_PCT, Activity, activity_findings
from mtexp.metrics.clock import CLOCK_LIMIT, POWER_CAP, THROTTLE_BITS, ClockLoss, clock_findings
from mtexp.metrics.drift import DRIFT_LIMIT_PCT, Drift
from mtexp.metrics.finding import INVALID, VALID, Finding, sentences, verdict_of
from mtexp.metrics.foreign import Foreign, foreign_findings
from mtexp.metrics.latency import PERCENTILES, insufficient, min_iterations
from mtexp.text_tables import rounded

__all__ = [
    "CLOCK_LIMIT",
    "INVALID",
    "POWER_CAP",
    "THROTTLE_BITS",
    "VALID",
    "Evidence",
    "Finding",
    "TenantEvidence",
    "judge",
    "sentences",
    "verdict_of",
]

BASELINE_DRIFT_LIMIT_PCT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantEvidence:
    """What is known of one tenant."""

    id: str
    failure: str = ""
    """Why it failed; empty = it did not."""
    measured: int = 0
    """Iterations measured, in the window or not."""
    kept: int = 0
    """Iterations in the window."""
    window_share_pct: float = 0.0
    """Window as a share of the time this tenant measured."""
    activity: Activity | None = None
    """When it was stopped in the window; None without a window."""
    drift: Drift | None = None
    saturated: bool = False
    """An open-loop tenant that did not keep up."""
    samples_full: bool = False
    """There was no room for another sample."""
    baseline_drift_pct: float | None = None
    """Mean latency of the baseline after the mix against the one compared with; None = no re-check."""
    baseline_noise_pct: float = 0.0
    """How far noise alone moves that mean."""
    baseline_age_s: float | None = None
    """How long before the run the one compared with was measured; None = not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a run; None and empty mean not measured, or nothing found."""

    tenants: tuple[TenantEvidence, ...]
    overlap: str = "sustained"
    """``sustained`` or ``fixed``."""
    window_share_pct: float = 0.0
    """Window as a share of the longest tenant's measuring time; 0 without a window."""
    percentiles: tuple[float, ...] = ()
    """Percentiles the user demands."""
    iterations_key: str = "measure.iterations"
    """Configuration key that asks for more iterations."""
    foreign: Foreign = field(default_factory=Foreign)
    """Processes on the device that are none of this run's, and how they are judged."""
    throttle_bits: int = 0
    """NVML's clocks-event reasons seen in the window, or whose cumulative counter grew in it."""
    clock: ClockLoss | None = None
    """What the run lacked of the SM clock that it should have had."""
    xid_errors: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = field(default=())
    """Findings of other parts, the proof of the sharing mode above all; they are judged along."""


def judge(evidence: Evidence) -> tuple[str, tuple[Finding, ...]]:
    """Return ``VALID`` or ``INVALID`` and all findings, the gravest first.

    INVALID with at least one finding of level ``invalid``; warnings and notes leave a run VALID.
    """
    findings = in_order([*evidence.findings, *(finding for rule in RULES for finding in rule(evidence))])
    return verdict_of(findings), findings


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings, the gravest first."""
    order = {"invalid": 0, "warning": 1, "note": 2}
    return tuple(sorted(findings, key=lambda finding: order[finding.level]))


def _failed(evidence: Evidence) -> Iterator[Finding]:
    for tenant in evidence.tenants:
        if tenant.failure:
            yield Finding(
                "invalid",
                "tenant-failed",
                f"tenant {tenant.id} failed: {tenant.failure}; every tenant must measure to the end",
                "See its log in logs/; the others were stopped with it.",
                tenant.id,
            )


def _overlap(evidence: Evidence) -> Iterator[Finding]:
    if any(tenant.failure for tenant in evidence.tenants):
        return  # that is the reason, not another one
    if evidence.window_share_pct <= 0:
        without = [tenant.id for tenant in evidence.tenants if not tenant.measured]
        why = f"{', '.join(without)} measured no iteration" if without else "their measuring times do not overlap"
        yield Finding(
            "invalid",
            "no-window",
            f"there is no time in which every tenant measured: {why}",
            f"Ask for more ({evidence.iterations_key}), or use measure.overlap=sustained.",
        )
        return
    if evidence.window_share_pct < OVERLAP_LIMIT_PCT:
        longest = min(evidence.tenants, key=lambda tenant: tenant.window_share_pct).id
        sustained = evidence.overlap == "sustained"
        yield Finding(
            "invalid" if sustained else "warning",
            "window-share",
            f"all tenants measured together for {evidence.window_share_pct:.1f} % of the time that {longest} measured; "
            f"expected at least {OVERLAP_LIMIT_PCT:g} %",
            f"Raise {evidence.iterations_key}: start and end then weigh less."
            if sustained
            else "Iterations outside the window are tail and enter no statistic; measure.overlap=sustained has none.",
        )
    yield from activity_findings({t.id: t.activity for t in evidence.tenants if t.activity is not None})


def _foreign(evidence: Evidence) -> Iterator[Finding]:
    yield from foreign_findings(evidence.foreign)


def _clock(evidence: Evidence) -> Iterator[Finding]:
    yield from clock_findings(evidence.clock, evidence.throttle_bits)


def _xid(evidence: Evidence) -> Iterator[Finding]:
    if evidence.xid_errors:
        codes = ", ".join(str(code) for code in sorted(set(evidence.xid_errors)))
        yield Finding(
            "invalid",
            "xid",
            f"the driver reported XID errors while measuring: {codes}; expected none",
            "Look them up in NVIDIA's XID list and the kernel log; reset or replace the device if they come back.",
        )


def _baseline_drift(evidence: Evidence) -> Iterator[Finding]:
    for tenant in evidence.tenants:
        pct, since = tenant.baseline_drift_pct, _before(tenant.baseline_age_s)
        if pct is None or abs(pct) <= BASELINE_DRIFT_LIMIT_PCT:
            continue
        moved = f"the baseline of {tenant.id} moved by {pct:+.1f} % from {since} the mix to after it"
        if abs(math.log1p(pct / 100)) <= math.log1p(tenant.baseline_noise_pct / 100):
            yield Finding(
                "note",
                "baseline-noise",
                f"{moved}; noise alone moves it by up to {tenant.baseline_noise_pct:.0f} %, so it shows nothing",
                "Longer baselines (baseline.min_time_s) and execution=cuda_graph have less noise.",
                tenant.id,
            )
        else:
            yield Finding(
                "invalid",
                "baseline-drift",
                f"{moved}; expected at most {rounded(max(BASELINE_DRIFT_LIMIT_PCT, tenant.baseline_noise_pct), 3)} %",
                "Let the device reach a steady temperature and clock, then repeat the run; baseline.max_age_h=0 "
                "measures its baselines just before it.",
                tenant.id,
            )


def _before(age_s: float | None) -> str:
    """``3 h before``, in the largest unit of which there are two."""
    if age_s is None:
        return "before"
    units = (("days", 86_400), ("h", 3600), ("min", 60))
    unit, length_s = next((found for found in units if age_s >= 2 * found[1]), ("s", 1))
    return f"{age_s / length_s:.0f} {unit} before"


def _percentiles(evidence: Evidence) -> Iterator[Finding]:
    """Demanded ones are warned about, tenant by tenant; the others share one note."""
    for tenant in evidence.tenants:
        for name, needed in insufficient(tenant.kept, evidence.percentiles).items():
            yield Finding(
                "warning",
                "percentile-iterations",
                f"{name} of {tenant.id} rests on {tenant.kept} iterations in the window; it needs {needed}",
                f"Set {evidence.iterations_key}={needed + max(0, tenant.measured - tenant.kept)} or more.",
                tenant.id,
            )
    fewest = min((tenant.kept for tenant in evidence.tenants if tenant.kept), default=0)
    others = tuple(p for p in PERCENTILES if p not in evidence.percentiles)
    missing = insufficient(fewest, others) if fewest else {}
    if missing:
        needs = ", ".join(f"{name} needs {needed}" for name, needed in missing.items())
        yield Finding(
            "note",
            "insufficient",
            f"with {fewest} iterations in the window not every percentile is supported: {needs}",
            f"Set {evidence.iterations_key} a little above {max(missing.values())} to see all of them.",
        )


def _few(evidence: Evidence) -> Iterator[Finding]:
    needed = min_iterations(50)
    for tenant in evidence.tenants:
        if not tenant.failure and evidence.window_share_pct > 0 and tenant.kept < needed:
            yield Finding(
                "invalid" if tenant.kept == 0 else "warning",
                "few-iterations",
                f"{tenant.id} has {tenant.kept} iterations in the window; even its median needs {needed}",
                f"Set {evidence.iterations_key}={needed + max(0, tenant.measured - tenant.kept)} or more.",
                tenant.id,
            )


def _drift(evidence: Evidence) -> Iterator[Finding]:
    for tenant in evidence.tenants:
        if tenant.drift is not None and tenant.drift.flagged:
            yield Finding(
                "warning",
                "drift",
                f"the latency of {tenant.id} moved by {tenant.drift.pct:+.1f} % within the window; "
                f"expected at most {DRIFT_LIMIT_PCT:g} %",
                "Warm up longer, or look at clocks and temperature in the telemetry.",
                tenant.id,
            )


def _saturated(evidence: Evidence) -> Iterator[Finding]:
    for tenant in evidence.tenants:
        if tenant.saturated:
            yield Finding(
                "warning",
                "saturated",
                f"requests of {tenant.id} arrived faster than it served them: its queue grew throughout; "
                "it has a throughput, but no latency",
                "Lower its rate or load.",
                tenant.id,
            )


def _samples_full(evidence: Evidence) -> Iterator[Finding]:
    for tenant in evidence.tenants:
        if tenant.samples_full:
            yield Finding(
                "warning",
                "samples-full",
                f"{tenant.id} stopped after {tenant.measured} iterations: there was no room for more samples",
                "Raise measure.max_iterations, or lower measure.iterations or measure.min_time_s.",
                tenant.id,
            )


RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _failed,
    _overlap,
    _foreign,
    _clock,
    _xid,
    _baseline_drift,
    _percentiles,
    _few,
    _drift,
    _saturated,
    _samples_full,
)

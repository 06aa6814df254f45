"""From what was measured to the record: figures, findings, verdict. May touch: metrics, the telemetry file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtexp.errors import MtexpError
from mtexp.metrics.activity import activity
from mtexp.metrics.clock import ClockLoss, lost
from mtexp.metrics.drift import drift
from mtexp.metrics.guarded import Attempts, summarise_guarded
from mtexp.metrics.interference import saturated
from mtexp.metrics.samples import ALONE, Samples
from mtexp.metrics.summary import Baseline, Measured, RunSummary
from mtexp.metrics.verdict import Evidence, Finding, TenantEvidence, in_order, judge
from mtexp.metrics.window import Window, window_share_pct
from mtexp.profiling.cost_model import launch_bound_pct
from mtexp.records import salvage
from mtexp.records.record import BaselineRef, RunRecord, TenantRecord, save_figures
from mtexp.records.room import save_in_room
from mtexp.records.salvage import KILLED
from mtexp.running.bare_record import RecordContext, bare_tenant, of_failure, record_of, window_of, without_figures
from mtexp.running.baselines import Alone, missing_baselines
from mtexp.running.crossover_figures import (
    Reference,
    block_figures,
    block_findings,
    block_telemetry,
    block_views,
    own_spans,
)
from mtexp.running.foreign_processes import foreign_notes, foreign_of
from mtexp.running.impossible import impossible_findings, impossible_in_blocks
from mtexp.running.measured import TELEMETRY, Measurement
from mtexp.running.outputs import output_findings
from mtexp.running.rates import served
from mtexp.running.shared_weights import shared_findings
from mtexp.spec import RunSpec, TenantSpec
from mtexp.telemetry import TelemetrySummary, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a run is compared with, by tenant id."""

    alone: Mapping[str, Alone] = field(default_factory=dict)
    partitioned: Mapping[str, Alone] = field(default_factory=dict)
    at_arrivals: Mapping[str, Alone] = field(default_factory=dict)
    """Of tenants in open loop, alone at the same arrivals."""
    drift_pct: Mapping[str, float] = field(default_factory=dict)
    """Mean latency of the baseline after the mix against before (``baseline.recheck``), in percent."""
    noise_pct: Mapping[str, float] = field(default_factory=dict)
    """How far noise alone moves it, in percent."""
    before: Mapping[str, Alone] = field(default_factory=dict)
    """The first baselines of tenants whose figures were impossible, so that the baseline was measured again."""
    reference: Reference | None = None
    """The run beside it, of another sharing mode, whose blocks took turns with its own."""


def begin(spec: RunSpec, folder: Path, origin: RecordContext, config: str = "") -> RecordContext:
    """Leave in ``folder`` what a run needs to be recorded should it be killed; returns ``origin`` with its record's id.

    See :mod:`mtexp.records.salvage`.
    """
    killed = without_figures(spec, Measurement(failure=MtexpError(KILLED)), origin)
    salvage.begin(killed, folder, config=config)
    return replace(origin, record_id=killed.record_id)


def evaluate(
    spec: RunSpec, measured: Measurement, folder: Path, compared: Comparison, origin: RecordContext
) -> RunRecord:
    """Judge a measurement.

    Args:
        spec: What was measured.
        measured: What came of it.
        folder: The run's directory, with its telemetry.
        compared: Baselines.
        origin: Where the record belongs.
    """
    samples, window = measured.samples, window_of(spec, measured)
    attempts = Attempts()
    telemetry = attempts.of(
        "the summary of the telemetry", lambda: _telemetry(folder, window, measured), TelemetrySummary()
    )
    summary = _summary(spec, measured, window, telemetry, compared, attempts, folder)
    nothing: tuple[Finding, ...] = ()
    if spec.measure.design == "crossover":
        of_blocks = attempts.of(
            "findings of the blocks", lambda: tuple(block_findings(spec, measured, summary)), nothing
        )
        measured = replace(measured, findings=[*measured.findings, *of_blocks])
    doubts = attempts.of(
        "impossible figures", lambda: _doubts(spec, measured, folder, summary, telemetry, compared), nothing
    )
    clock = attempts.of("the clock lost to limits", lambda: _clock(origin, telemetry, compared), None)

    def judged() -> tuple[str, tuple[Finding, ...]]:
        evidence = replace(_evidence(spec, measured, samples, window, telemetry, compared), clock=clock)
        evidence = replace(evidence, findings=(*evidence.findings, *doubts))
        return judge(_with_baselines(evidence, spec, measured, compared))

    _, findings = attempts.of(
        "the verdict",
        judged,
        ("INVALID", (*measured.findings, *of_failure(measured))),
        level="invalid",
    )
    tenants = tuple(_tenant(t, measured, summary, telemetry, compared, spec, attempts) for t in spec.tenants)
    return replace(
        record_of(spec, measured, origin, findings=in_order((*findings, *attempts.findings))),
        tenants=tenants,
        metrics=summary.metrics | (clock.metrics if clock else {}) | _costs(measured, window),
        telemetry=telemetry.values,
        telemetry_notes=telemetry.notes | foreign_notes(spec, measured, telemetry),
    )


def keep(
    spec: RunSpec, measured: Measurement, folder: Path, compared: Comparison, origin: RecordContext, config: str
) -> RunRecord:
    """Write the record: first what was measured, then, in its place, the record with figures and verdict.

    Args:
        spec: What was measured.
        measured: What came of it.
        folder: The run's directory.
        compared: Baselines.
        origin: Where the record belongs, with its id.
        config: The composed configuration, as YAML.

    Raises:
        RecordError: The directory cannot be written.
    """
    bare = without_figures(spec, measured, origin)
    save_in_room(bare, folder, measured.samples, config=config, final=False)
    return save_figures(evaluate(spec, measured, folder, compared, replace(origin, record_id=bare.record_id)), folder)


def doubted(spec: RunSpec, measured: Measurement, folder: Path, compared: Comparison) -> tuple[Finding, ...]:
    """Impossible figures of a run, before it is judged; empty where figures cannot be computed."""
    attempts = Attempts()  # what fails here fails again in evaluate, which reports it
    window = window_of(spec, measured)
    telemetry = attempts.of("telemetry", lambda: _telemetry(folder, window, measured), TelemetrySummary())
    summary = _summary(spec, measured, window, telemetry, compared, attempts, folder)
    nothing: tuple[Finding, ...] = ()
    return attempts.of(
        "impossible figures", lambda: _doubts(spec, measured, folder, summary, telemetry, compared), nothing
    )


def _doubts(
    spec: RunSpec,
    measured: Measurement,
    folder: Path,
    summary: RunSummary,
    telemetry: TelemetrySummary,
    compared: Comparison,
) -> tuple[Finding, ...]:
    if spec.measure.design == "crossover":
        return impossible_in_blocks(summary, block_telemetry(measured, folder))
    sm_clock_mhz = telemetry.values.get("gpu_sm_clock_mhz_mean")
    return impossible_findings(summary, sm_clock_mhz, compared.alone, compared.before)


def _telemetry(folder: Path, window: Window | None, measured: Measurement) -> TelemetrySummary:
    path = folder / TELEMETRY
    if window is None or not path.is_file():
        return TelemetrySummary()
    return read(path, window.t0_ns, window.t1_ns, own_spans(measured))


def _summary(
    spec: RunSpec,
    measured: Measurement,
    window: Window | None,
    telemetry: TelemetrySummary,
    compared: Comparison,
    attempts: Attempts,
    folder: Path,
) -> RunSummary:
    tenants, samples = {}, measured.samples
    for tenant in spec.tenants:
        if tenant.id not in samples:
            continue
        alone = compared.alone.get(tenant.id)
        tenants[tenant.id] = Measured(
            samples=samples[tenant.id],
            alone=_baseline(compared.alone, tenant),
            partitioned=_baseline(compared.partitioned, tenant),
            at_arrivals=_baseline(compared.at_arrivals, tenant),
            slo_ms=_slo_ms(tenant, alone, samples[tenant.id]),
            new_tokens=tenant.workload.new_tokens if tenant.workload.kind == "generate" else 0,
        )
    if spec.measure.design == "crossover":
        nothing = RunSummary({}, {}, {})
        return attempts.of(
            "the figures", lambda: block_figures(spec, measured, tenants, folder, compared.reference), nothing
        )
    sm_clock_mhz = telemetry.values.get("gpu_sm_clock_mhz_mean")
    return summarise_guarded(
        tenants, window, attempts, energy_j=telemetry.energy_j, sm_clock_mhz=sm_clock_mhz, seed=spec.seed
    )


def _baseline(found: Mapping[str, Alone], tenant: TenantSpec) -> Baseline | None:
    return found[tenant.id].baseline if tenant.id in found else None


def _ref(found: Mapping[str, Alone], tenant: TenantSpec) -> BaselineRef | None:
    return found[tenant.id].ref if tenant.id in found else None


def _slo_ms(tenant: TenantSpec, alone: Alone | None, samples: Samples) -> float:
    """The service level in ms; one given as a multiple of a latency alone that is not there is none."""
    in_blocks = samples.select(samples.phase == ALONE)
    if tenant.slo_factor and len(in_blocks):
        return tenant.slo_factor * float(in_blocks.latency_ms.mean())
    if tenant.slo_factor and alone is not None:
        return tenant.slo_factor * alone.ref.latency_mean_ms
    return tenant.slo_ms


def _evidence(
    spec: RunSpec,
    measured: Measurement,
    samples: Mapping[str, Samples],
    window: Window | None,
    telemetry: TelemetrySummary,
    compared: Comparison,
) -> Evidence:
    findings = (
        *measured.findings,
        *output_findings(spec, measured, compared.alone),
        *shared_findings(spec, measured),
        *_recompiled(measured),
        *_without_switches(spec, telemetry),
        *of_failure(measured),
    )
    seen = {name: (own, window) for name, own in samples.items()}
    if spec.measure.design == "crossover":
        seen = block_views(measured)
    tenants = tuple(_tenant_evidence(t.id, measured, *seen.get(t.id, (None, None))) for t in spec.tenants)
    if spec.kind == "profile":  # a profiler stops tenants as it starts and writes
        tenants = tuple(replace(tenant, activity=None) for tenant in tenants)
    return Evidence(
        tenants=tenants,
        overlap=spec.measure.overlap,
        window_share_pct=window_share_pct(window, list(samples.values())),
        percentiles=spec.measure.percentiles,
        iterations_key="profiler.iterations" if spec.kind == "profile" else "measure.iterations",
        foreign=foreign_of(spec, measured, telemetry),
        throttle_bits=telemetry.throttle_bits,
        xid_errors=telemetry.xid_errors,
        findings=findings,
    )


def _clock(origin: RecordContext, telemetry: TelemetrySummary, compared: Comparison) -> ClockLoss | None:
    """What the run lacks of its baselines' clock: the highest of them, where one is slower by its own power."""
    baselines_mhz = [a.baseline.sm_clock_mhz for a in compared.alone.values() if a.baseline.sm_clock_mhz is not None]
    set_to = (origin.environment.get(key) for key in ("application_sm_clock_mhz", "max_sm_clock_mhz"))
    highest_mhz = min((mhz for mhz in set_to if mhz), default=None)
    return lost(telemetry.clock, max(baselines_mhz, default=None), highest_mhz)


def _recompiled(measured: Measurement) -> Iterator[Finding]:
    for tenant, after in measured.facts_after.items():
        more = after.get("compiled_graphs", 0) - measured.facts_before.get(tenant, {}).get("compiled_graphs", 0)
        if more:
            yield Finding(
                "warning",
                "recompiled",
                f"torch.compile compiled {more} more graphs of {tenant} while it measured; expected none",
                "Part of its latency is compiling: raise measure.warmup, or use execution=eager for it.",
                tenant,
            )


def _without_switches(spec: RunSpec, telemetry: TelemetrySummary) -> Iterator[Finding]:
    if telemetry.no_context_switches and len(spec.tenants) > 1:
        yield Finding(
            "note",
            "no-context-switches",
            f"the driver tells nothing of context switches: {telemetry.no_context_switches}",
            "Telemetry is no evidence of time slicing then, nor against it; the sharing mode has its own proof, and "
            "profiler=nsys shows when whose kernels ran.",
        )


def _with_baselines(evidence: Evidence, spec: RunSpec, measured: Measurement, compared: Comparison) -> Evidence:
    """Add what is known of the baselines: their drift, and which are missing."""
    without = spec.kind != "mix" or spec.baseline.mode == "skip"
    in_blocks = spec.measure.design == "crossover" and not compared.alone
    if without or in_blocks or measured.failure is not None:
        return evidence
    started_s = {name: alone.started_ms / 1e3 for name, alone in compared.alone.items() if alone.started_ms}
    began_s = measured.clock[0][1] / 1e9
    ages_s = {name: began_s - at_s for name, at_s in started_s.items() if at_s <= began_s}  # not of one measured again
    tenants = tuple(
        replace(
            t,
            baseline_drift_pct=compared.drift_pct.get(t.id),
            baseline_noise_pct=compared.noise_pct.get(t.id, 0.0),
            baseline_age_s=ages_s.get(t.id),
        )
        for t in evidence.tenants
    )
    missing = missing_baselines(spec, compared.alone, compared.drift_pct, compared.at_arrivals)
    return replace(evidence, tenants=tenants, findings=(*evidence.findings, *missing))


def _tenant_evidence(
    tenant: str, measured: Measurement, samples: Samples | None, window: Window | None
) -> TenantEvidence:
    failure = str(measured.failure) if tenant in measured.failed_tenant.split(",") else ""
    if samples is None or window is None:
        return TenantEvidence(id=tenant, failure=failure, measured=0 if samples is None else len(samples.measured))
    kept = window.keep(samples)
    return TenantEvidence(
        id=tenant,
        failure=failure,
        measured=len(samples.measured),
        kept=len(kept),
        window_share_pct=window_share_pct(window, [samples]),
        activity=activity(samples, window),
        drift=drift(kept.latency_ms, kept.start_ns),
        saturated=kept.open_loop and saturated(kept),
        samples_full=tenant in measured.full,
    )


def _tenant(
    tenant: TenantSpec,
    measured: Measurement,
    summary: RunSummary,
    telemetry: TelemetrySummary,
    compared: Comparison,
    spec: RunSpec,
    attempts: Attempts,
) -> TenantRecord:
    own = summary.tenants.get(tenant.id, {})
    metrics = attempts.of(
        f"memory, tokens and launch-bound share of {tenant.id}",
        lambda: _completed(tenant, own, measured, telemetry, compared, spec),
        own,
        tenant=tenant.id,
    )
    return replace(
        bare_tenant(tenant, measured),
        metrics=metrics,
        insufficient=summary.insufficient.get(tenant.id, ()),
        baseline=_ref(compared.alone, tenant),
        partitioned_baseline=_ref(compared.partitioned, tenant),
        arrivals_baseline=_ref(compared.at_arrivals, tenant),
    )


def _completed(
    tenant: TenantSpec,
    own: Mapping[str, float],
    measured: Measurement,
    telemetry: TelemetrySummary,
    compared: Comparison,
    spec: RunSpec,
) -> dict[str, float]:
    """The figures of a tenant with those that do not come of its samples."""
    own_process = not spec.sharing.one_process
    metrics, after = dict(own), measured.facts_after.get(tenant.id, {})
    metrics |= telemetry.tenants.get(tenant.id, {})
    if own_process and "memory_peak_mib" in after:  # of the process: what each of several tenants has is not known
        metrics["memory_peak_mib"] = after["memory_peak_mib"]
    if tenant.model.role != "stressor" and "throughput_rps" in metrics:
        metrics |= served(tenant, measured.samples[tenant.id], metrics["throughput_rps"])
    if tenant.id in compared.drift_pct:
        metrics["baseline_drift_pct"] = compared.drift_pct[tenant.id]
        if tenant.id in compared.noise_pct:
            metrics["baseline_noise_pct"] = compared.noise_pct[tenant.id]
    if "lock_wait_pct" in after:
        metrics["lock_wait_pct"] = after["lock_wait_pct"]
    alone = compared.alone.get(tenant.id)
    if "busy_ms" in after and "latency_mean_ms" in metrics:
        metrics["launch_bound_pct"] = launch_bound_pct(after["busy_ms"], metrics["latency_mean_ms"])
    elif alone is not None and alone.launch_bound_pct is not None:
        metrics["launch_bound_pct"] = alone.launch_bound_pct
    return metrics


def _costs(measured: Measurement, window: Window | None) -> dict[str, float]:
    """How long the run took, and how much of that it did not measure."""
    wall_s = (measured.clock[-1][0] - measured.clock[0][0]) / 1e9
    if window is None:
        return {"wall_s": wall_s}
    return {"wall_s": wall_s, "overhead_s": wall_s - (window.t1_ns - window.t0_ns) / 1e9}

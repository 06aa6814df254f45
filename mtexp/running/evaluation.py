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
from mtexp.running.baselines import BaselineRun, linked, measures_alone, missing_baselines
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

    alone: dict[str, BaselineRun] = field(default_factory=dict)
    partitioned: dict[str, BaselineRun] = field(default_factory=dict)
    at_arrivals: dict[str, BaselineRun] = field(default_factory=dict)
    """For tenants in open loop: their runs alone at the same arrivals."""
    drift_pct: dict[str, float] = field(default_factory=dict)
    """Mean latency of the baseline after the mix against before (``baseline.recheck``), in percent."""
    noise_pct: dict[str, float] = field(default_factory=dict)
    """How far noise alone moves it, in percent."""
    before: dict[str, BaselineRun] = field(default_factory=dict)
    """The first baselines of tenants whose figures were impossible, so that the baseline was measured again."""
    reference: Reference | None = None
    """The run beside it, of another sharing mode, whose blocks took turns with its own."""

    def linked(self) -> Comparison:
        """This with the MLflow run of each baseline; waits until pending uploads have ended."""
        return replace(
            self,
            alone=linked(self.alone),
            partitioned=linked(self.partitioned),
            at_arrivals=linked(self.at_arrivals),
        )


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
    return _Evaluation(spec, measured, folder, compared).record(origin)


def doubted(spec: RunSpec, measured: Measurement, folder: Path, compared: Comparison) -> tuple[Finding, ...]:
    """Impossible figures of a run, before it is judged; empty where figures cannot be computed."""
    return _Evaluation(spec, measured, folder, compared).impossible()  # what fails here fails again in evaluate


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


class _Evaluation:
    """Computes the figures of one measurement and judges them. A figure that fails becomes a finding."""

    def __init__(self, spec: RunSpec, measured: Measurement, folder: Path, compared: Comparison) -> None:
        self.spec, self.measured, self.folder, self.compared = spec, measured, folder, compared
        self.in_blocks = spec.measure.design == "crossover"
        self.attempts = Attempts()
        self.window = window_of(spec, measured)
        self.telemetry = self.attempts.of("the summary of the telemetry", self._telemetry, TelemetrySummary())
        self.sm_clock_mhz = self.telemetry.values.get("gpu_sm_clock_mhz_mean")
        self.summary = self._summary()

    def _telemetry(self) -> TelemetrySummary:
        path = self.folder / TELEMETRY
        if self.window is None or not path.is_file():
            return TelemetrySummary()
        return read(path, self.window.t0_ns, self.window.t1_ns, own_spans(self.measured))

    def _summary(self) -> RunSummary:
        tenants, samples, compared = {}, self.measured.samples, self.compared
        itself = measures_alone(self.spec)  # slowed by nobody: against its baseline, the ratio would be noise
        for tenant in self.spec.tenants:
            if tenant.id not in samples:
                continue
            tenants[tenant.id] = Measured(
                samples=samples[tenant.id],
                alone=None if itself and tenant.arrival.kind == "closed" else _baseline(compared.alone, tenant),
                partitioned=_baseline(compared.partitioned, tenant),
                at_arrivals=_baseline(compared.at_arrivals, tenant),
                slo_ms=_slo_ms(tenant, compared.alone.get(tenant.id), samples[tenant.id]),
                new_tokens=tenant.workload.new_tokens if tenant.workload.kind == "generate" else 0,
            )
        if self.in_blocks:
            return self.attempts.of(
                "the figures",
                lambda: block_figures(self.spec, self.measured, tenants, self.folder, compared.reference),
                RunSummary({}, {}, {}),
            )
        options = {"energy_j": self.telemetry.energy_j, "sm_clock_mhz": self.sm_clock_mhz, "seed": self.spec.seed}
        return summarise_guarded(tenants, self.window, self.attempts, **options)

    def impossible(self) -> tuple[Finding, ...]:
        """Figures that cannot be."""
        nothing: tuple[Finding, ...] = ()
        return self.attempts.of("impossible figures", self._impossible, nothing)

    def _impossible(self) -> tuple[Finding, ...]:
        if self.in_blocks:
            return impossible_in_blocks(self.summary, block_telemetry(self.measured, self.folder))
        return impossible_findings(self.summary, self.sm_clock_mhz, self.compared.alone, self.compared.before)

    def record(self, origin: RecordContext) -> RunRecord:
        """The record with figures, findings and verdict."""
        spec, measured, attempts = self.spec, self.measured, self.attempts
        of_blocks: tuple[Finding, ...] = ()
        if self.in_blocks:
            of_blocks = attempts.of(
                "findings of the blocks", lambda: tuple(block_findings(spec, measured, self.summary)), of_blocks
            )
        known = (*measured.findings, *of_blocks)
        impossible = self.impossible()
        clock = attempts.of("the clock lost to limits", lambda: self._clock(origin), None)
        unjudged = ("INVALID", (*known, *of_failure(measured)))
        _, findings = attempts.of(
            "the verdict", lambda: judge(self._evidence(known, impossible, clock)), unjudged, level="invalid"
        )
        tenants = tuple(self._tenant(tenant) for tenant in spec.tenants)
        return replace(
            record_of(spec, measured, origin, findings=in_order((*findings, *attempts.findings))),
            tenants=tenants,
            metrics=self.summary.metrics | (clock.metrics if clock else {}) | _costs(measured, self.window),
            telemetry=self.telemetry.values,
            telemetry_notes=self.telemetry.notes | foreign_notes(spec, measured, self.telemetry),
        )

    def _clock(self, origin: RecordContext) -> ClockLoss | None:
        """What the run lacks of its baselines' clock: the highest of them, where one is slower by its own power."""
        baselines = [alone.baseline for alone in self.compared.alone.values()]
        baselines_mhz = [one.sm_clock_mhz for one in baselines if one.sm_clock_mhz is not None]
        set_to = (origin.environment.get(key) for key in ("application_sm_clock_mhz", "max_sm_clock_mhz"))
        highest_mhz = min((mhz for mhz in set_to if mhz), default=None)
        return lost(self.telemetry.clock, max(baselines_mhz, default=None), highest_mhz)

    def _evidence(
        self, known: tuple[Finding, ...], impossible: tuple[Finding, ...], clock: ClockLoss | None
    ) -> Evidence:
        spec, measured, telemetry = self.spec, self.measured, self.telemetry
        findings = (
            *known,
            *output_findings(spec, measured, self.compared.alone),
            *shared_findings(spec, measured),
            *_recompiled(measured),
            *_other_graphs(measured),
            *_without_switches(spec, telemetry),
            *of_failure(measured),
            *impossible,
        )
        seen = {name: (own, self.window) for name, own in measured.samples.items()}
        if self.in_blocks:
            seen = block_views(measured)
        tenants = tuple(_tenant_evidence(t.id, measured, *seen.get(t.id, (None, None))) for t in spec.tenants)
        if spec.kind == "profile":  # a profiler stops tenants as it starts and writes
            tenants = tuple(replace(tenant, activity=None) for tenant in tenants)
        evidence = Evidence(
            tenants=tenants,
            overlap=spec.measure.overlap,
            window_share_pct=window_share_pct(self.window, list(measured.samples.values())),
            percentiles=spec.measure.percentiles,
            iterations_key="profiler.iterations" if spec.kind == "profile" else "measure.iterations",
            foreign=foreign_of(spec, measured, telemetry),
            throttle_bits=telemetry.throttle_bits,
            xid_errors=telemetry.xid_errors,
            clock=clock,
            findings=findings,
        )
        return _with_baselines(evidence, spec, measured, self.compared)

    def _tenant(self, tenant: TenantSpec) -> TenantRecord:
        own = self.summary.tenants.get(tenant.id, {})
        metrics = self.attempts.of(
            f"memory, tokens and launch-bound share of {tenant.id}",
            lambda: self._completed(tenant, own),
            own,
            tenant=tenant.id,
        )
        return replace(
            bare_tenant(tenant, self.measured),
            metrics=metrics,
            insufficient=self.summary.insufficient.get(tenant.id, ()),
            baseline=_ref(self.compared.alone, tenant),
            partitioned_baseline=_ref(self.compared.partitioned, tenant),
            arrivals_baseline=_ref(self.compared.at_arrivals, tenant),
        )

    def _completed(self, tenant: TenantSpec, own: Mapping[str, float]) -> dict[str, float]:
        """The figures of a tenant with those that do not come of its samples."""
        compared, after = self.compared, self.measured.facts_after.get(tenant.id, {})
        metrics = {**own, **self.telemetry.tenants.get(tenant.id, {})}
        if not self.spec.sharing.one_process and "memory_peak_mib" in after:  # else it is that of all tenants
            metrics["memory_peak_mib"] = after["memory_peak_mib"]
        if tenant.model.role != "stressor" and "throughput_rps" in metrics:
            metrics |= served(tenant, self.measured.samples[tenant.id], metrics["throughput_rps"])
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


def _baseline(found: Mapping[str, BaselineRun], tenant: TenantSpec) -> Baseline | None:
    return found[tenant.id].baseline if tenant.id in found else None


def _ref(found: Mapping[str, BaselineRun], tenant: TenantSpec) -> BaselineRef | None:
    return found[tenant.id].ref if tenant.id in found else None


def _slo_ms(tenant: TenantSpec, alone: BaselineRun | None, samples: Samples) -> float:
    """The service level in ms; one given as a multiple of a latency alone that is not there is none."""
    in_blocks = samples.select(samples.phase == ALONE)
    if tenant.slo_factor and len(in_blocks):
        return tenant.slo_factor * float(in_blocks.latency_ms.mean())
    if tenant.slo_factor and alone is not None:
        return tenant.slo_factor * alone.ref.latency_mean_ms
    return tenant.slo_ms


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


def _other_graphs(measured: Measurement) -> Iterator[Finding]:
    for tenant, facts in measured.facts_before.items():
        if differs := facts.get("graph_differs"):
            listed = "; ".join(differs[:2]) + (f"; and {len(differs) - 2} more" if len(differs) > 2 else "")
            yield Finding(
                "warning",
                "graph-differs",
                f"the CUDA graph of {tenant} computes other products than its requests in eager mode: {listed}",
                "Compare it with other graphs only, not with execution=eager: the model asks whether it is captured.",
                tenant,
            )


def _without_switches(spec: RunSpec, telemetry: TelemetrySummary) -> Iterator[Finding]:
    if telemetry.no_context_switches and len(spec.tenants) > 1:
        yield Finding(
            "note",
            "no-context-switches",
            f"the driver does not report context switches: {telemetry.no_context_switches}",
            "Telemetry can then neither confirm nor rule out time slicing. The sharing mode has its own proof, and "
            "profiler=nsys shows which tenant's kernels ran when.",
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


def _costs(measured: Measurement, window: Window | None) -> dict[str, float]:
    """How long the run took, and how much of that it did not measure."""
    wall_s = (measured.clock[-1][0] - measured.clock[0][0]) / 1e9
    if window is None:
        return {"wall_s": wall_s}
    return {"wall_s": wall_s, "overhead_s": wall_s - (window.t1_ns - window.t0_ns) / 1e9}

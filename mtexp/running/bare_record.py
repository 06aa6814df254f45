"""The record of a measurement before any figure is computed. May touch: what is in the measurement.

Written to disk first (:func:`mtexp.running.evaluation.keep`), so that an error in a formula costs no sample.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mtexp.metrics.crossover_summary import real_window
from mtexp.metrics.verdict import Finding, verdict_of
from mtexp.metrics.window import Window, common_window
from mtexp.records.record import NO_FIGURES, RunRecord, TenantRecord
from mtexp.running.measured import Measurement
from mtexp.spec import RunSpec, TenantSpec, spec_hash, to_json

_REPORTED_ONCE = ("torch_version", "transformers_version", "torch_cuda_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordContext:
    """Where a record belongs; it changes no figure."""

    sweep: str = ""
    position: int = 0
    """How many points of the sweep ran before."""
    swept: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1
    baseline_hash: str = ""
    profile_of: str = ""
    record_id: str = ""
    """Id of the record to be made; empty = a new one."""
    session: str = ""
    """Names the runs that are measured side by side."""
    session_reference: str = ""
    """Record of the one that the others are compared with."""
    environment: Mapping[str, Any] = field(default_factory=dict)


def without_figures(spec: RunSpec, measured: Measurement, origin: RecordContext) -> RunRecord:
    """The record of a measurement before any figure is computed: what it was, how it ended, and no figure at all.

    It is INVALID until it has been judged. :func:`evaluate` makes the record that takes its place.
    """
    remedy = "resume=true runs the point again. Every sample that was measured is in iterations.parquet."
    pending = Finding("invalid", NO_FIGURES, "no figures were computed of this run", remedy)
    return record_of(spec, measured, origin, findings=(*of_failure(measured), pending))


def record_of(
    spec: RunSpec, measured: Measurement, origin: RecordContext, *, findings: tuple[Finding, ...]
) -> RunRecord:
    """The record with its findings and without any figure."""
    window = window_of(spec, measured)
    return RunRecord(
        record_id=origin.record_id or uuid.uuid4().hex,
        kind=spec.kind,
        sweep=origin.sweep,
        spec=to_json(spec),
        spec_hash=spec_hash(spec),
        baseline_hash=origin.baseline_hash,
        status="FAILED" if measured.failure else "FINISHED",
        failure=str(measured.failure or ""),
        started_at=_iso(measured.clock[0][1]),
        ended_at=_iso(measured.clock[-1][1]),
        clock=tuple(measured.clock),
        environment=_environment(origin, measured),
        window=None if window is None else {"t0_ns": window.t0_ns, "t1_ns": window.t1_ns},
        tenants=tuple(bare_tenant(t, measured) for t in spec.tenants),
        sharing=measured.proof,
        blocks=tuple(measured.blocks),
        verdict=verdict_of(findings),
        findings=findings,
        profile_of=origin.profile_of,
        attempt=origin.attempt,
        sweep_position=origin.position,
        swept=dict(origin.swept),
        session=origin.session,
        session_reference=origin.session_reference,
    )


def window_of(spec: RunSpec, measured: Measurement) -> Window | None:
    """The common window of all tenants of ``spec``; None if one has no samples, or they never measured together."""
    samples = measured.samples
    if len(samples) < len(spec.tenants):
        return None
    in_blocks = spec.measure.design == "crossover"
    return real_window(samples) if in_blocks else common_window(list(samples.values()))


def of_failure(measured: Measurement) -> Iterator[Finding]:
    """Why the run ended early, where that was no tenant's fault."""
    if measured.failure is not None and not measured.failed_tenant:
        yield Finding("invalid", "interrupted" if measured.stop else "host", str(measured.failure))


def bare_tenant(tenant: TenantSpec, measured: Measurement) -> TenantRecord:
    """A tenant without its figures: how it ended, and the facts that it reported."""
    failed = tenant.id in measured.failed_tenant.split(",")
    return TenantRecord(
        id=tenant.id,
        model=tenant.model.name,
        status="FAILED" if failed else "FINISHED",
        error=str(measured.failure) if failed else "",
        phase=getattr(measured.failure, "phase", "") if failed else "",
        facts_before=measured.facts_before.get(tenant.id, {}),
        facts_after=measured.facts_after.get(tenant.id, {}),
    )


def _environment(origin: RecordContext, measured: Measurement) -> dict[str, Any]:
    facts = next(iter((measured.facts_after or measured.facts_before).values()), {})
    found = {key: facts[key] for key in _REPORTED_ONCE if facts.get(key)} | dict(origin.environment)
    if measured.cores is not None:
        found["cores_pinned"] = measured.cores.pinned
    return found


def _iso(realtime_ns: int) -> str:
    return datetime.fromtimestamp(realtime_ns / 1e9, UTC).isoformat(timespec="milliseconds")

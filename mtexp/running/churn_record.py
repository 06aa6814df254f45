"""From the events of a churn run to its record: figures, findings, metrics. May touch: the telemetry file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtexp.metrics.churn import MIN_EVENTS, Event, KindFigures, Served, figures_of, latencies_of
from mtexp.metrics.churn_rows import metrics_of
from mtexp.metrics.finding import Finding
from mtexp.metrics.foreign import foreign_findings
from mtexp.records.record import RunRecord
from mtexp.records.room import save_in_room
from mtexp.running.bare_record import RecordContext, of_failure, record_of
from mtexp.running.foreign_processes import foreign_notes, foreign_of
from mtexp.running.measured import TELEMETRY, Measurement
from mtexp.running.outputs import output_findings
from mtexp.spec import RunSpec
from mtexp.telemetry import TelemetrySummary, read


@dataclass(slots=True)
class Churned:
    """What a churn run produced, also when it failed half way."""

    measured: Measurement = field(default_factory=Measurement)
    events: list[Event] = field(default_factory=list)
    served: Served | None = None


def keep_churn(spec: RunSpec, churned: Churned, folder: Path, origin: RecordContext, config: str) -> RunRecord:
    """Write the record of a churn run.

    Raises:
        RecordError: The directory cannot be written.
    """
    measured = churned.measured
    figures: list[KindFigures] = []
    if churned.served is not None:
        latencies_ms = latencies_of(churned.events, churned.served)
        figures = figures_of(churned.events, latencies_ms, spec.tenants[0].id, seed=spec.seed)
    path = folder / TELEMETRY
    first_ns, last_ns = measured.clock[0][0], measured.clock[-1][0]
    telemetry = read(path, first_ns, last_ns) if path.is_file() else TelemetrySummary()
    steady = replace(spec, tenants=spec.tenants[:1])
    findings = (
        *measured.findings,
        *output_findings(steady, measured, {}),
        *of_failure(measured),
        *_failed(measured),
        *foreign_findings(foreign_of(spec, measured, telemetry)),
        *_few(spec, figures),
    )
    record = replace(
        record_of(spec, measured, origin, findings=findings),
        events=tuple(churned.events),
        metrics=metrics_of(figures) | {"wall_s": (last_ns - first_ns) / 1e9},
        telemetry=telemetry.values,
        telemetry_notes=telemetry.notes | foreign_notes(spec, measured, telemetry),
    )
    return save_in_room(record, folder, measured.samples, config=config)


def _failed(measured: Measurement) -> Iterator[Finding]:
    if measured.failed_tenant:
        remedy = "Its log says more; the events before it are in the record."
        yield Finding(
            "invalid", "tenant-failed", str(measured.failure).partition("\n")[0], remedy, measured.failed_tenant
        )


def _few(spec: RunSpec, figures: list[KindFigures]) -> Iterator[Finding]:
    few = [kind.kind for kind in figures if kind.events < MIN_EVENTS]
    if few:
        what = f"fewer than {MIN_EVENTS} events: no intervals ({', '.join(few)})"
        remedy = f"Set churn.repeats={MIN_EVENTS} or more, or more repetitions: mtexp churn FOLDER pools them."
        yield Finding("note", "few-events", what, remedy)
    found = {kind.kind for kind in figures}
    if missing := [kind for kind in spec.churn.events if kind not in found]:
        yield Finding("warning", "no-events", f"no event was seen of: {', '.join(missing)}", "See the logs.")

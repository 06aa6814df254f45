"""From the events of a churn run to its record: figures, findings, metrics. May touch: the telemetry file.

As for every run, what was measured is on disk before a figure is computed, and a figure that fails is a finding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mtexp.metrics.churn import MIN_EVENTS, WITHOUT_REQUESTS, Event, Served, latencies_of, seen
from mtexp.metrics.churn_rows import metrics_of
from mtexp.metrics.finding import Finding
from mtexp.metrics.foreign import foreign_findings
from mtexp.metrics.guarded import Attempts, churn_guarded
from mtexp.metrics.samples import Floats
from mtexp.metrics.verdict import in_order
from mtexp.records.record import RunRecord, save_figures
from mtexp.records.room import save_in_room
from mtexp.running.bare_record import RecordContext, of_failure, record_of, without_figures
from mtexp.running.foreign_processes import foreign_notes, foreign_of
from mtexp.running.measured import TELEMETRY, Measurement
from mtexp.running.outputs import output_findings
from mtexp.spec import RunSpec
from mtexp.telemetry import TelemetrySummary, read
from mtexp.text_tables import rounded

_FEW_WAITING = 0.01
"""Share of the requests above which p99 is one of those that wait."""
_TIMES_AN_EVENT = 3
"""Time to catch up at a load of up to two thirds of what the steady tenant serves beside its neighbour."""
_REQUESTS_A_WINDOW = 5


@dataclass(slots=True)
class Churned:
    """What a churn run produced, also when it failed half way."""

    measured: Measurement = field(default_factory=Measurement)
    events: list[Event] = field(default_factory=list)
    """As they happened, without what was seen of the steady tenant."""
    served: Served | None = None
    attempts: Attempts = field(default_factory=Attempts)


def keep_churn(spec: RunSpec, churned: Churned, folder: Path, origin: RecordContext, config: str) -> RunRecord:
    """Write the record of a churn run: first what was measured, then, in its place, the record with figures.

    Raises:
        RecordError: The directory cannot be written.
    """
    bare = without_figures(spec, churned.measured, origin)
    save_in_room(bare, folder, churned.measured.samples, config=config, final=False)
    return save_figures(_with_figures(spec, churned, folder, replace(origin, record_id=bare.record_id)), folder)


def _with_figures(spec: RunSpec, churned: Churned, folder: Path, origin: RecordContext) -> RunRecord:
    measured, attempts = churned.measured, churned.attempts
    events, latencies_ms = _looked_at(churned)
    figures = churn_guarded(events, latencies_ms, spec.tenants[0].id, attempts, seed=spec.seed)
    first_ns, last_ns = measured.clock[0][0], measured.clock[-1][0]
    path = folder / TELEMETRY
    telemetry = attempts.of(
        "the summary of the telemetry",
        lambda: read(path, first_ns, last_ns) if path.is_file() else TelemetrySummary(),
        TelemetrySummary(),
    )
    known = (*measured.findings, *of_failure(measured), *_failed(measured))
    nothing: tuple[Finding, ...] = ()
    judged = attempts.of("the verdict", lambda: _judged(spec, measured, telemetry), nothing, level="invalid")
    of_events = attempts.of(
        "findings of the events",
        lambda: (*_few(spec, churned), *_without_requests(spec, churned, events, latencies_ms)),
        nothing,
    )
    notes: dict[str, Any] = {}
    notes = attempts.of("notes of other processes", lambda: foreign_notes(spec, measured, telemetry), notes)
    findings = in_order((*known, *judged, *of_events, *dict.fromkeys(attempts.findings)))
    return replace(
        record_of(spec, measured, origin, findings=findings),
        events=tuple(events),
        metrics=metrics_of(figures) | {"wall_s": (last_ns - first_ns) / 1e9},
        telemetry=telemetry.values,
        telemetry_notes=telemetry.notes | notes,
    )


def _judged(spec: RunSpec, measured: Measurement, telemetry: TelemetrySummary) -> tuple[Finding, ...]:
    steady = replace(spec, tenants=spec.tenants[:1])
    return (*output_findings(steady, measured, {}), *foreign_findings(foreign_of(spec, measured, telemetry)))


def _looked_at(churned: Churned) -> tuple[list[Event], list[Floats]]:
    """The events with what was seen of the steady tenant, and its latencies; without those of which that failed."""
    served, found, latencies_ms = churned.served, [], []
    if served is None:
        return [], []
    for event in churned.events:
        own = churned.attempts.of(f"what an event of {event.kind} did", partial(_look, event, served), None)
        if own is not None:
            found.append(own[0])
            latencies_ms.append(own[1])
    return found, latencies_ms


def _look(event: Event, served: Served) -> tuple[Event, Floats]:
    event = seen(event, served)
    return event, latencies_of([event], served)[0]


def _failed(measured: Measurement) -> Iterator[Finding]:
    if measured.failed_tenant:
        remedy = "Its log says more; the events before it are in the record."
        yield Finding(
            "invalid", "tenant-failed", str(measured.failure).partition("\n")[0], remedy, measured.failed_tenant
        )


def _few(spec: RunSpec, churned: Churned) -> Iterator[Finding]:
    counts = Counter(event.kind for event in churned.events)
    few = [kind for kind in spec.churn.events if 0 < counts[kind] < MIN_EVENTS]
    if few:
        what = f"fewer than {MIN_EVENTS} events: no intervals ({', '.join(few)})"
        remedy = f"Set churn.repeats={MIN_EVENTS} or more, or more repetitions: mtexp churn FOLDER pools them."
        yield Finding("note", "few-events", what, remedy)
    if missing := [kind for kind in spec.churn.events if not counts[kind]]:
        yield Finding("warning", "no-events", f"no event was seen of: {', '.join(missing)}", "See the logs.")


def _without_requests(
    spec: RunSpec, churned: Churned, events: Sequence[Event], latencies_ms: Sequence[Floats]
) -> Iterator[Finding]:
    """Kinds with windows in which no request of the steady tenant came that was served, and what to do about it."""
    if churned.events and not churned.measured.samples:
        what = f"the steady tenant served no request: nothing is known of {len(churned.events)} events"
        yield Finding("warning", WITHOUT_REQUESTS, what, "See its log; where requests are rare, raise arrival.rate.")
    for kind in spec.churn.events:
        own = [event for event in events if event.kind == kind]
        own_ms = [ms for event, ms in zip(events, latencies_ms, strict=True) if event.kind == kind]
        empty = sum(not np.isfinite(ms).any() for ms in own_ms)
        requests, waiting = sum(event.requests for event in own), sum(event.waiting for event in own)
        if waiting > _FEW_WAITING * requests:
            what = (
                f"the steady tenant was behind: {waiting} of the {requests} requests that came in windows of {kind} "
                f"still waited when the run ended, all that came in {empty} of {len(own)} windows; there is no p99"
            )
            yield Finding("warning", WITHOUT_REQUESTS, what, _to_catch_up(spec, own))
        elif nothing := sum(not event.requests for event in own):
            few = len(own) - empty < MIN_EVENTS <= len(own)
            what = f"no request came in {nothing} of {len(own)} windows of {kind}: their stall counts as 0"
            what += f", and p99 has no interval (it needs {MIN_EVENTS} windows with requests)" if few else ""
            yield Finding("note", WITHOUT_REQUESTS, what, _to_have_requests(spec))


def _to_catch_up(spec: RunSpec, events: Sequence[Event]) -> str:
    """A tenant that an event stalls from end to end needs the window to last 1 / (1 - load) times as long."""
    took_s = max(max((event.done_ns - event.start_ns) / 1e9, event.stall_ms / 1e3) for event in events)
    window_s = math.ceil(_TIMES_AN_EVENT * took_s)
    if window_s <= spec.churn.window_s:
        return "It does not keep up beside this neighbour: set a lower arrival.load or arrival.rate."
    return (
        f"Set churn.window_s={window_s}: an event took up to {rounded(took_s, 2)} s, and the next one came before the "
        "steady tenant had caught up. With a lower arrival.load it catches up sooner."
    )


def _to_have_requests(spec: RunSpec) -> str:
    arrival, window_s = spec.tenants[0].arrival, spec.churn.window_s
    if not arrival.rate_rps:
        return "Set churn.window_s longer than the pauses of the trace, and use a trace that lasts as long as the run."
    needed_s = _REQUESTS_A_WINDOW / arrival.rate_rps
    if needed_s <= window_s:
        return f"{rounded(arrival.rate_rps, 3)} requests were to come in a second: see the log of the steady tenant."
    return f"A request comes every {rounded(1 / arrival.rate_rps, 2)} s: set churn.window_s={math.ceil(needed_s)}."

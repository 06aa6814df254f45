"""Churn runs summarised: repetitions of a mix under a sharing mode put together, and a sentence for the report.

Lives here: :class:`Pooled`, :func:`pooled`, :func:`of_frame`, :func:`sentence`. May touch: samples of records on disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mtexp.metrics.churn import KINDS, MIN_EVENTS, QUIET, Event, Served, latencies_of
from mtexp.metrics.churn_rows import metrics_of
from mtexp.metrics.finding import Finding
from mtexp.metrics.guarded import Attempts, churn_guarded
from mtexp.records.files import ITERATIONS
from mtexp.records.record import RunRecord
from mtexp.records.samples_file import read_samples
from mtexp.text_tables import rounded

from .frames import rows_of
from .pooling import in_order, sharing_name

MODES = {"time_slicing": "time slicing", "mps": "MPS", "green_contexts": "green contexts", "mig": "MIG", "cpu": "CPU"}
_DOES = {
    "start": "starts",
    "build": "builds its model",
    "warm_up": "warms up",
    "load": "takes load",
    "beside": "serves beside it",
    "memory": "frees and refills its memory",
    "oom": "runs out of memory",
    "end": "ends",
    "kill": "is killed",
    "fault": "makes the device fault",
}


@dataclass(frozen=True, slots=True)
class Pooled:
    """Churn runs of one mix under one sharing mode."""

    mix: str
    mode: str
    window_s: float
    metrics: Mapping[str, float]
    """As in a record, of all events together."""
    events: tuple[Event, ...]
    records: tuple[RunRecord, ...]
    """None where only figures are known (:func:`of_frame`)."""
    findings: tuple[Finding, ...] = ()
    """Figures that could not be computed."""


def mode_of(record: RunRecord) -> str:
    """The sharing mode of a run, in words."""
    mode = str(record.sharing.get("mode", "")) or record.run_spec.sharing.mode
    name = MODES.get(mode, mode.replace("_", " "))
    setting = record.run_spec.mps_settings
    if mode == "cpu" and record.run_spec.sharing.mode != "processes":
        return f"{name}, {record.run_spec.sharing.mode}"
    return f"{name} {setting}" if mode == "mps" and setting not in ("default", "external") else name


def pooled(runs: Sequence[tuple[RunRecord, Path]]) -> list[Pooled]:
    """Runs that differ in nothing but when they ran, and in which and how many events: their events together.

    Args:
        runs: Churn runs, each with its folder.
    """
    ordered = sorted(runs, key=lambda run: (*_same(run[0]), run[0].started_at))
    found = []
    for (mix, mode, window_s, _), group in itertools.groupby(ordered, key=lambda run: _same(run[0])):
        own = list(group)
        events = [event for record, _ in own for event in record.events]
        latencies = [ms for record, folder in own for ms in _latencies(record, folder)]
        attempts = Attempts()
        figures = churn_guarded(events, latencies, own[0][0].run_spec.tenants[0].id, attempts)
        records, findings = tuple(record for record, _ in own), tuple(attempts.findings)
        found.append(Pooled(mix, mode, window_s, metrics_of(figures), tuple(events), records, findings))
    return found


def _same(record: RunRecord) -> tuple[str, str, float, str]:
    spec = record.run_spec
    tenants = [
        (t.model.name, t.precision, t.execution, t.workload, t.arrival.kind, round(t.arrival.rate_rps))
        for t in spec.tenants
    ]
    return spec.mix, mode_of(record), spec.churn.window_s, f"{tenants} {spec.sharing}"


def _latencies(record: RunRecord, folder: Path) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Latencies of the requests of each event; none for a salvaged record."""
    tenant = record.run_spec.tenants[0].id
    salvaged = any(finding.code == "salvaged" for finding in record.findings)
    samples = read_samples(folder / ITERATIONS).get(tenant) if (folder / ITERATIONS).is_file() else None
    if samples is None or salvaged:
        return [np.zeros(0) for _ in record.events]
    rows = samples.measured
    return latencies_of(record.events, Served.of(rows.arrival_ns, rows.start_ns, rows.end_ns))


def of_frame(runs: pd.DataFrame) -> list[Pooled]:
    """Runs of a dataset (:attr:`analysis.dataset.Dataset.churn`), each by itself: their events are not in it."""
    found = []
    for row in rows_of(runs):
        metrics = {key: float(value) for key, value in row.items() if key.startswith("churn_") and pd.notna(value)}
        found.append(Pooled(str(row["mix"]), sharing_name(row), 0.0, metrics, (), ()))
    order = in_order([one.mode for one in found])
    return sorted(found, key=lambda one: (one.mix, order.index(one.mode)))


def sentence(found: Sequence[Pooled]) -> tuple[str, bool]:
    """The event that stalls the steady tenant longest, by mode; and whether each figure in it has an interval."""
    parts, firm = [], True
    several = len({one.mix for one in found}) > 1
    for one in found:
        stalls = {k: one.metrics[f"churn_{k}_stall_ms"] for k in KINDS if f"churn_{k}_stall_ms" in one.metrics}
        worst = max((kind for kind in stalls if kind != QUIET), key=lambda kind: stalls[kind], default="")
        if not worst:
            continue
        stem, where = f"churn_{worst}", f"under {one.mode}{f' ({one.mix})' if several else ''}"
        count, died = int(one.metrics[f"{stem}_events"]), one.metrics.get(f"{stem}_steady_died_pct", 0.0)
        firm &= count >= MIN_EVENTS
        beside = f" ({rounded(stalls[QUIET], 3)} ms when nothing happens)" if QUIET in stalls else ""
        end = f", and dies in {died:.0f} % of them" if died else ""
        interval = _interval(one.metrics, f"{stem}_stall_ms")
        parts.append(
            f"{where} the steady tenant stalls longest when its neighbour {_DOES[worst]}: "
            f"{rounded(stalls[worst], 3)} ms{interval}, mean of {count} events{beside}{end}"
        )
    text = "; ".join(parts)
    return (f"{text[:1].upper()}{text[1:]}." if text else ""), bool(parts) and firm


def _interval(metrics: Mapping[str, float], key: str) -> str:
    low, high = metrics.get(f"{key}_ci_low"), metrics.get(f"{key}_ci_high")
    return "" if low is None or high is None else f" [{rounded(low, 3)}, {rounded(high, 3)}]"

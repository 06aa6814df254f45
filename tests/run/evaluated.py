"""A run of two tenants of one model as it was measured, with baselines, and the record that becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mtexp.metrics.summary import Baseline
from mtexp.metrics.window import Series
from mtexp.records.record import BaselineRef, RunRecord
from mtexp.running.bare_record import RecordContext
from mtexp.running.baselines import BaselineRun
from mtexp.running.evaluation import Comparison, evaluate
from mtexp.running.measured import TELEMETRY, Measurement
from mtexp.spec import ModelSpec, RunSpec, TenantSpec
from mtexp.telemetry.probes import FAST
from mtexp.telemetry.table import Table
from tests.strategies import MS, closed_loop

MODEL = ModelSpec(name="bert_base", role="encoder", architecture="bert")


RUN = RunSpec(mix="x", tenants=(TenantSpec(id="a", model=MODEL), TenantSpec(id="b", model=MODEL)))


ALONE = BaselineRun(
    BaselineRef(record_id="0" * 32, baseline_hash="h", throughput_rps=100.0, latency_mean_ms=10.0),
    Baseline(Series.closed(np.full(50, 10.0))),
)


BOTH = Comparison(alone={"a": ALONE, "b": ALONE})


def measurement(**changes: Any) -> Measurement:
    """Two tenants that measured 100 iterations of 20 ms together."""
    samples = {name: closed_loop(np.full(100, 20.0), warmup=2) for name in "ab"}
    measured = Measurement(samples=samples, facts_before={"a": {}, "b": {}}, facts_after={"a": {}, "b": {}})
    for name, value in changes.items():
        setattr(measured, name, value)
    return measured


def record(
    measured: Measurement, compared: Comparison = BOTH, spec: RunSpec = RUN, folder: Path = Path("nowhere")
) -> RunRecord:
    return evaluate(spec, measured, folder, compared, RecordContext())


def write_telemetry(
    folder: Path, measured: Measurement, *, columns: tuple[str, ...] = ("gpu_power_w",), **notes: Any
) -> None:
    """Every 50 ms from before the first iteration to after the last, 500 of each column."""
    table = Table({FAST: columns})
    times = np.concatenate([[s.start_ns.min(), s.end_ns.max()] for s in measured.samples.values()])
    for time_ns in range(int(times.min()) - 50 * MS, int(times.max()) + 100 * MS, 50 * MS):
        table.append(time_ns, {FAST: [500.0] * len(columns)})
    table.write(folder / TELEMETRY, notes)


def codes(found: RunRecord) -> set[str]:
    return {finding.code for finding in found.findings} - {"insufficient"}

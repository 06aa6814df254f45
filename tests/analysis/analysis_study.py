"""A study that was never measured: records of pairs, mixes and scaling on a made-up GPU, with known slowdowns.

Under time slicing tenants take turns: everyone's latency grows by what the others need, and the event timer does not
see it. Under MPS they overlap: everyone is slowed by 30 % for each neighbour, and the timer sees it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from analysis import plots
from analysis.pooling import Results
from mtexp.metrics.samples import Samples
from mtexp.metrics.summary import Baseline, Measured, summarise_run
from mtexp.metrics.window import Series, Window, common_window
from mtexp.records.files import TELEMETRY
from mtexp.records.record import BaselineRef, RunRecord, TenantRecord, save
from mtexp.spec import (
    ArrivalSpec,
    MeasureSpec,
    ModelSpec,
    MpsLimits,
    RunSpec,
    SharingSpec,
    TenantSpec,
    WorkloadSpec,
    spec_hash,
    to_json,
)
from mtexp.testing.records import ENVIRONMENT

ALONE_MS = {
    "bert_base": 3.5,
    "deberta_v3_base": 10.0,
    "distilgpt2": 3.1,
    "llama_3_2_1b": 9.0,
    "mistral_7b": 34.0,
    "stress_sm": 5.0,
    "stress_dram": 5.0,
}
PERCENTAGES = {"half": 50.0, "quarter": 25.0}
DECODERS = ("distilgpt2", "llama_3_2_1b", "mistral_7b")
_ORIGIN_NS = 1_000_000_000_000


def role(model: str) -> str:
    return "stressor" if model.startswith("stress") else "decoder" if model in DECODERS else "encoder"


def figure_of(results: Results, name: str) -> go.Figure | None:
    """One figure alone: to draw all takes seconds."""
    (found,) = (figure for figure in plots.FIGURES if figure.name == name)
    return found.draw(results)


class Study:
    """Writes records below a folder, each with its baselines."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 0,
        iterations: int = 120,
        sweep: str = "study",
        spread: float = 0.01,
        **environment: str,
    ):
        """``spread``: standard deviation by which whole runs are faster or slower."""
        self.folder, self.iterations, self.sweep, self.spread = folder, iterations, sweep, spread
        self.environment = {**ENVIRONMENT, **environment}
        self._rng = np.random.default_rng(seed)
        self._baselines: dict[tuple[str, str], tuple[BaselineRef, Baseline]] = {}
        self._count = 0

    def run(
        self,
        models: Sequence[str],
        mps: str = "disabled",
        *,
        repetitions: int = 1,
        workload: str = "forward",
        load: float = 0.0,
        slo_ms: float = 0.0,
        mix: str = "",
        baseline: bool = True,
        overlap: str = "sustained",
        new_tokens: int = 32,
        limits: MpsLimits | None = None,
        **changes: Any,
    ) -> list[RunRecord]:
        """Measure ``models`` together, as often as asked; ``changes`` replaces fields of the record."""
        specs = tuple(
            TenantSpec(
                id=f"{'abcdefghijklmnop'[position]}",
                model=ModelSpec(name=m, role=role(m), architecture=m),
                workload=WorkloadSpec(kind=workload if role(m) == "decoder" else "forward", new_tokens=new_tokens),
                slo_ms=slo_ms,
                mps=limits or MpsLimits(active_thread_pct=PERCENTAGES.get(mps, 0)),
                arrival=ArrivalSpec(kind="poisson", rate_rps=load * 1e3 / ALONE_MS[m]) if load else ArrivalSpec(),
            )
            for position, m in enumerate(models)
        )
        compared = {spec.id: self._baseline(spec) for spec in specs} if baseline else {}
        records = []
        for repetition in range(repetitions):
            samples = dict(self._together(specs, mps))
            name = mix or "+".join(models)
            records.append(self._store(specs, mps, samples, compared, name, repetition, changes, overlap=overlap))
        return records

    def _together(self, specs: Sequence[TenantSpec], mps: str) -> Iterator[tuple[str, Samples]]:
        between_runs = self._rng.normal(1, self.spread)
        length_ms = self.iterations * max(self._latency_ms(spec, specs, mps) for spec in specs) * between_runs
        for spec in specs:
            yield spec.id, self._samples(spec, specs, mps, length_ms, between_runs)

    @staticmethod
    def _latency_ms(spec: TenantSpec, specs: Sequence[TenantSpec], mps: str) -> float:
        own, others = ALONE_MS[spec.model.name], [ALONE_MS[o.model.name] for o in specs if o is not spec]
        return own + sum(min(own, other) for other in others) if mps == "disabled" else own * (1 + 0.3 * len(others))

    def _samples(
        self, spec: TenantSpec, specs: Sequence[TenantSpec], mps: str, length_ms: float, factor: float
    ) -> Samples:
        latency_ms = self._latency_ms(spec, specs, mps) * factor
        count = round(length_ms / latency_ms)
        service_ns = (latency_ms * self._rng.lognormal(0, 0.05, count) * 1e6).astype(np.int64)
        if spec.arrival.kind == "closed":
            end_ns = _ORIGIN_NS + np.cumsum(service_ns)
            start_ns = end_ns - service_ns
            arrival_ns = start_ns
        else:
            gaps_ns = self._rng.exponential(1e9 / spec.arrival.rate_rps, count).astype(np.int64)
            arrival_ns = _ORIGIN_NS + np.cumsum(gaps_ns)
            end_ns = np.zeros(count, dtype=np.int64)
            free_ns = 0
            for i in range(count):
                free_ns = max(free_ns, int(arrival_ns[i])) + int(service_ns[i])
                end_ns[i] = free_ns
            start_ns = end_ns - service_ns
        alone = self._latency_ms(spec, [spec], mps) / self._latency_ms(spec, specs, mps) if mps == "disabled" else 1.0
        tokens = spec.workload.kind == "generate"
        return Samples(
            phase=np.ones(count, dtype=np.uint8),
            arrival_ns=arrival_ns,
            start_ns=start_ns,
            end_ns=end_ns,
            first_token_ns=start_ns + service_ns // 4 if tokens else np.zeros(count, dtype=np.int64),
            gpu_time_ns=(service_ns * alone * 0.98).astype(np.int64),
        )

    def _baseline(self, spec: TenantSpec) -> tuple[BaselineRef, Baseline]:
        spec = replace(spec, id="alone", slo_ms=0, arrival=ArrivalSpec(), mps=MpsLimits())
        key = spec.model.name, spec.workload.kind
        if key not in self._baselines:
            samples = dict(self._together([spec], "disabled"))
            (record,) = [self._store([spec], "disabled", samples, {}, spec.model.name, 0, {}, kind="baseline")]
            path = self.folder / f"{self._count - 1:03d}"
            metrics = record.tenants[0].metrics
            reference = BaselineRef(
                record_id=record.record_id,
                baseline_hash=record.baseline_hash,
                path=str(path),
                throughput_rps=metrics["throughput_rps"],
                latency_mean_ms=metrics["latency_mean_ms"],
            )
            window = common_window(list(samples.values()))
            assert window is not None
            self._baselines[key] = reference, Baseline(Series.of(samples["alone"], window))
        return self._baselines[key]

    def _store(
        self,
        specs: Sequence[TenantSpec],
        mps: str,
        samples: dict[str, Samples],
        compared: dict[str, tuple[BaselineRef, Baseline]],
        mix: str,
        repetition: int,
        changes: dict[str, Any],
        kind: str = "mix",
        overlap: str = "sustained",
    ) -> RunRecord:
        run = RunSpec(
            kind=kind,
            mix=mix,
            tenants=tuple(specs),
            measure=MeasureSpec(iterations=self.iterations, warmup=0, overlap=overlap),
            sharing=SharingSpec(mps=mps, mps_mode="disabled" if mps == "disabled" else "managed"),
            runtime="gpu",
            repetition=repetition,
        )
        window = common_window(list(samples.values()))
        assert window is not None
        measured = {
            spec.id: Measured(
                samples=samples[spec.id],
                alone=compared[spec.id][1] if spec.id in compared else None,
                slo_ms=spec.slo_ms,
                new_tokens=32 if spec.workload.kind == "generate" else 0,
            )
            for spec in specs
        }
        summary = summarise_run(measured, window, energy_j=500 * window.length_s, draws=200)
        record = RunRecord(
            record_id=uuid.UUID(int=int(self._rng.integers(2**62)), version=4).hex,
            kind=kind,
            sweep=self.sweep,
            spec=to_json(run),
            spec_hash=spec_hash(run),
            baseline_hash=f"{self._count:016x}" if kind == "baseline" else "",
            status="FINISHED",
            started_at=f"2025-11-22T08:{self._count // 60 % 60:02d}:{self._count % 60:02d}+00:00",
            ended_at=f"2025-11-22T08:{self._count // 60 % 60:02d}:{self._count % 60:02d}+00:00",
            clock=((_ORIGIN_NS, 1_763_800_000_000_000_000),),
            environment=dict(self.environment),
            window={"t0_ns": window.t0_ns, "t1_ns": window.t1_ns},
            tenants=tuple(
                TenantRecord(
                    id=spec.id,
                    model=spec.model.name,
                    status="FINISHED",
                    metrics=summary.tenants[spec.id],
                    insufficient=summary.insufficient[spec.id],
                    baseline=compared[spec.id][0] if spec.id in compared else None,
                )
                for spec in specs
            ),
            metrics=summary.metrics,
            verdict="VALID",
        )
        folder = self.folder / f"{self._count:03d}"
        self._count += 1
        record = replace(record, **changes)
        saved = save(record, folder, samples)
        _telemetry(folder / TELEMETRY, window, self._rng)
        return saved


def _telemetry(path: Path, window: Window, rng: np.random.Generator) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    times_ns = np.arange(window.t0_ns, window.t1_ns, 50_000_000)
    columns: dict[str, Any] = {"monotonic_ns": times_ns}
    for name, level in (("gpu_power_w", 500), ("gpu_sm_clock_mhz", 1900), ("gpu_util_pct", 99)):
        columns[name] = rng.normal(level, 0.02 * level, len(times_ns))
    pq.write_table(pa.table(columns), path)

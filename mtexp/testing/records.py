"""Records that look like measured ones, for tests of what reads records. Lives here: :func:`example`, :func:`stored`.

May touch: the directory it is given. Numbers are drawn from a seeded generator; nothing is measured.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mtexp.metrics.latency import latency_statistics
from mtexp.metrics.samples import Samples
from mtexp.metrics.window import common_window
from mtexp.records import keys
from mtexp.records.files import TELEMETRY
from mtexp.records.record import RunRecord, TenantRecord, save
from mtexp.spec import MeasureSpec, ModelSpec, RunSpec, SharingSpec, TenantSpec, spec_hash, to_json

ENVIRONMENT = {
    "host": "node-1",
    "gpu_name": "NVIDIA H200",
    "gpu_uuid": "GPU-00000000-0000-0000-0000-000000000001",
    "driver_version": "580.95.05",
    "cuda_version": "13.0",
    "torch_version": "2.11.0",
    "transformers_version": "5.17.0",
}
_ORIGIN_NS = 1_000_000_000_000
_REALTIME_NS = 1_763_800_000_000_000_000


def example(
    models: Sequence[str] = ("bert_base", "gpt2"),
    *,
    mix: str = "mixed",
    kind: str = "mix",
    iterations: int = 20,
    gpu: bool = True,
    seed: int = 0,
    **changes: Any,
) -> tuple[RunRecord, dict[str, Samples]]:
    """Return a record and its samples; ``changes`` replaces fields of the record.

    Args:
        models: One tenant each, with the ids ``t0``, ``t1`` ...
        mix: Name of the mix.
        kind: ``mix``, ``baseline`` or ``profile``.
        iterations: Measured iterations of each tenant; two warm-ups come before them.
        gpu: With gpu times and GPU telemetry, or as on a CPU.
        seed: Of the generator.
    """
    generator = np.random.default_rng(seed)
    tenants = tuple(
        TenantSpec(id=f"t{i}", model=ModelSpec(name=m, role="encoder", architecture=m)) for i, m in enumerate(models)
    )
    spec = RunSpec(
        kind=kind,
        mix=mix,
        tenants=tenants,
        measure=MeasureSpec(iterations=iterations, warmup=2),
        sharing=SharingSpec(),
        runtime="gpu" if gpu else "cpu",
        seed=seed,
    )
    samples = {tenant.id: _samples(generator, iterations, gpu=gpu) for tenant in tenants}
    window = common_window(list(samples.values()))
    assert window is not None
    records: list[TenantRecord] = []
    for tenant in tenants:
        latency = latency_statistics(window.keep(samples[tenant.id]).latency_ms)
        metrics = {f"latency_{name}_ms": value for name, value in latency.items()}
        metrics |= {"throughput_rps": window.throughput_rps(samples[tenant.id])}
        if kind == "mix":
            metrics |= {"slowdown": 1.5 + 0.1 * len(records), "normalized_progress": 0.6}
        records.append(TenantRecord(id=tenant.id, model=tenant.model.name, status="FINISHED", metrics=metrics))
    record = RunRecord(
        record_id=uuid.UUID(int=int(generator.integers(2**63)), version=4).hex,
        kind=kind,
        sweep="example",
        spec=to_json(spec),
        spec_hash=spec_hash(spec),
        status="FINISHED",
        started_at="2025-11-22T08:26:40+00:00",
        ended_at="2025-11-22T08:26:45+00:00",
        clock=((_ORIGIN_NS, _REALTIME_NS), (_ORIGIN_NS + 5_000_000_000, _REALTIME_NS + 5_000_000_000)),
        environment=dict(ENVIRONMENT) if gpu else {"host": "node-1", "cpu_model": "a CPU", "torch_version": "2.13.0"},
        window={"t0_ns": window.t0_ns, "t1_ns": window.t1_ns},
        tenants=tuple(records),
        metrics={"stp": 1.2, "stp_ci_low": 1.1, "stp_ci_high": 1.3, "antt": 1.6, "window_s": window.length_s},
        verdict="VALID",
    )
    return replace(record, **changes), samples


def stored(directory: Path, **arguments: Any) -> RunRecord:
    """Write an example record with telemetry, a log and a configuration to ``directory``; return it."""
    record, samples = example(**arguments)
    gpu = record.environment.get("gpu_name") is not None
    (directory / "logs").mkdir(parents=True)
    for tenant in record.tenants:
        (directory / "logs" / f"{tenant.id}.log").write_text("ready\n")
    _write_telemetry(directory / TELEMETRY, record, gpu=gpu)
    return save(record, directory, samples, config=f"mix: {record.spec['mix']}\n")


def _samples(generator: np.random.Generator, iterations: int, *, gpu: bool) -> Samples:
    count = iterations + 2
    service_ns = generator.integers(4_000_000, 6_000_000, count)
    end_ns = _ORIGIN_NS + generator.integers(0, 1_000_000) + np.cumsum(service_ns)
    start_ns = end_ns - service_ns
    return Samples(
        phase=(np.arange(count) >= 2).astype(np.uint8),
        arrival_ns=start_ns,
        start_ns=start_ns,
        end_ns=end_ns,
        first_token_ns=np.zeros(count, dtype=np.int64),
        gpu_time_ns=service_ns - 500_000 if gpu else np.full(count, -1),
    )


def _write_telemetry(path: Path, record: RunRecord, *, gpu: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 11
    columns: dict[str, Any] = {"monotonic_ns": _ORIGIN_NS + np.arange(count) * 50_000_000}
    names = ("gpu_util_pct", "gpu_power_w", "gpu_sm_clock_mhz") if gpu else ("cpu_util_pct", "memory_used_mib")
    columns |= {name: np.linspace(50.0, 100.0, count) for name in names}
    tenant_column = keys.TENANT_TELEMETRY_COLUMNS[0 if gpu else 2]
    columns |= {keys.of_tenant(tenant_column, t.id): np.linspace(1.0, 2.0, count) for t in record.tenants}
    columns[names[1]][3] = np.nan
    pq.write_table(pa.table(columns), path)

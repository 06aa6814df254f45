"""The profiling pass after a timed run: its own run (``mtexp.kind=profile``), linked to the timed one.

May touch: profiling, sharing, the session that a profiler wraps. Timed results never depend on it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from mtexp.errors import HostError, ProfilerError, RecordError, TenantFailed
from mtexp.evaluation import Comparison, Origin, evaluate
from mtexp.host import Device
from mtexp.launch import ForkserverStarter
from mtexp.measurement import measure
from mtexp.metrics.verdict import Finding, verdict_of
from mtexp.profile_session import Session
from mtexp.profiling import ncu, nsys
from mtexp.profiling.result import ProfileResult, collect, collect_torch, write_rooflines
from mtexp.profiling.roofline import device_peaks
from mtexp.profiling.rooflines import RooflineRow, kernel_rows, roofline_row
from mtexp.sharing import open_sharing
from mtexp.spec import BaselineSpec, RunSpec, SharingSpec, TelemetrySpec, TenantSpec, to_json
from mtexp.tracking import record as records
from mtexp.tracking.iterations import read_samples
from mtexp.tracking.record import RunRecord

Progress = Callable[[str], None]
_SESSION_S = 900.0
_NCU_PASS_S = 1800.0
"""Of all models together."""
_NCU_WARMUP = 2
_GPU_METRICS_HZ = 10_000
_OF_SHORT_RUNS = ("few-iterations", "insufficient", "drift")
"""What is said of latencies of too few iterations; a profiled run's are not for reading."""


def profile(
    spec: RunSpec, device: Device, timed: RunRecord, folder: Path, origin: Origin, progress: Progress
) -> Iterator[Path]:
    """Profile ``spec`` and yield the folders of the records made.

    Raises:
        ProfilerError: The profiler is missing, too old, without permission, or produced nothing.
    """
    kind = spec.profiler.kind
    if spec.runtime == "cpu" and kind in ("nsys", "ncu"):
        raise ProfilerError(f"profiler={kind} traces a GPU, and this run is on the CPU. Use profiler=torch there.")
    progress(f"profiling with {kind}")
    passes = {"nsys": _with_nsys, "ncu": _with_ncu, "torch": _with_torch}
    out = folder / f"profile-{kind}"
    out.mkdir(parents=True, exist_ok=True)
    try:
        made = passes[kind](_profiled(spec), device, timed, out, origin)
        for line in _told(records.load(made)):
            progress(line)
    except (HostError, RecordError, TenantFailed) as error:
        raise ProfilerError(str(error)) from error
    yield made


def _told(record: RunRecord) -> Iterator[str]:
    """What a reader of the terminal wants to know at once; tables and pictures are among the artifacts."""
    if "kernel_overlap_pct" in record.metrics:
        names = ("kernel_overlap_pct", "gpu_idle_pct")
        yield ", ".join(f"{name} {record.metrics[name]:.1f}" for name in names)
    for finding in record.findings:
        if finding.code not in _OF_SHORT_RUNS:
            yield f"{finding.level}: {finding.message}"


def _profiled(spec: RunSpec) -> RunSpec:
    measure = replace(spec.measure, iterations=spec.profiler.iterations, percentiles=(), min_time_s=0.0)
    return replace(
        spec,
        kind="profile",
        launcher="interpreter",
        measure=replace(measure, until_ci_pct=0.0),
        telemetry=TelemetrySpec(enabled=False),
        baseline=BaselineSpec(mode="skip"),
    )


def _with_nsys(spec: RunSpec, device: Device, timed: RunRecord, out: Path, origin: Origin) -> Path:
    tool = nsys.find_nsys()
    with contextlib.ExitStack() as stack:
        pipe_directory = ""
        if spec.sharing.mps_mode == "managed":
            sharing = stack.enter_context(open_sharing(spec, device, work_dir=out))
            pipe_directory = sharing.environment([spec.tenants[0].id])["CUDA_MPS_PIPE_DIRECTORY"]
        session = _write_session(Session.of(spec, device, out, origin, pipe_directory), out)
        metrics_hz = _GPU_METRICS_HZ if spec.profiler.gpu_metrics else 0
        command = nsys.profile_command(tool, session, out / "tenants", gpu_metrics_hz=metrics_hz)
        report = nsys.capture(tool, command, out / "tenants", timeout_s=_SESSION_S, log=out / "nsys.log")
    record = records.load(out)
    slicing = spec.sharing.mode == "processes" and spec.sharing.mps_mode == "disabled" and len(spec.tenants) > 1
    pids = {t.facts_before["pid"]: t.id for t in record.tenants if "pid" in t.facts_before}
    result = collect(tool, report, out, time_slicing=slicing, tenants=pids)
    return _finish(record, timed, out, result)


def _with_torch(spec: RunSpec, device: Device, timed: RunRecord, out: Path, origin: Origin) -> Path:
    if spec.sharing.mode == "streams" and len(spec.tenants) > 1:
        raise ProfilerError("profiler=torch traces a process a tenant, and streams share one. Use profiler=nsys.")
    traces = out / "traces"
    traces.mkdir(exist_ok=True)
    measured = measure(spec, device, out, ForkserverStarter(), lambda text: None, trace_folder=str(traces))
    if measured.stop is not None:
        raise measured.stop
    if measured.failure is not None:
        raise ProfilerError(f"the traced run failed: {measured.failure}")
    record = evaluate(spec, measured, out, Comparison(), origin)
    records.save(record, out, measured.samples)
    slicing = spec.sharing.mode == "processes" and spec.sharing.mps_mode == "disabled" and len(spec.tenants) > 1
    result = collect_torch(
        {t.id: traces / f"{t.id}.trace.json" for t in spec.tenants}, out, time_slicing=slicing and spec.runtime == "gpu"
    )
    return _finish(record, timed, out, result)


def _with_ncu(spec: RunSpec, device: Device, timed: RunRecord, out: Path, origin: Origin) -> Path:
    """Each model of the mix alone; the record has a row for each. One that fails costs the others nothing."""
    tool = ncu.find_ncu()
    available = ncu.query_metrics(tool, log=out / "ncu-metrics.log")
    peaks, deadline = device_peaks(device.name), time.monotonic() + _NCU_PASS_S
    bound = {t.model: t.metrics.get("launch_bound_pct") for t in timed.tenants}
    models = {tenant.model.name: tenant for tenant in spec.tenants}
    rows: list[RooflineRow] = []
    table, failed = [], []
    for name, tenant in models.items():
        (out / name).mkdir(exist_ok=True)
        metrics = ncu.choose_metrics(available, tenant.precision)
        try:
            kernels = _profile_alone(spec, tenant, device, out / name, origin, tool, metrics, deadline)
        except (ProfilerError, RecordError) as error:
            if not rows:
                raise  # ncu does not work here: the next model would fail in the same way
            reason = str(error).partition("\n")[0]
            failed.append(Finding("warning", "ncu-failed", f"{name} was not profiled: {reason}", tenant=tenant.id))
            continue
        limit = spec.profiler.kernels
        rows.append(roofline_row(kernels, tenant, kernel_limit=limit, peaks=peaks, launch_bound_pct=bound.get(name)))
        table += kernel_rows(name, kernels)
    result = write_rooflines(rows, peaks, out, table)
    profiled = [tenant for tenant in models.values() if tenant.id in result.tenants]
    record = _joined([records.load(out / tenant.model.name) for tenant in profiled], spec, profiled)
    samples = {t.id: read_samples(out / t.model / records.ITERATIONS)[t.id] for t in record.tenants}
    records.save(record, out, samples)
    findings = (*result.findings, *failed)
    return _finish(record, timed, out, replace(result, findings=findings))


def _profile_alone(
    spec: RunSpec,
    tenant: TenantSpec,
    device: Device,
    folder: Path,
    origin: Origin,
    tool: Path,
    metrics: Sequence[str],
    deadline: float,
) -> list[ncu.CountedKernel]:
    """The kernels of one model under ncu."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise ProfilerError(f"the pass has had its {_NCU_PASS_S:g} s. Profile fewer models at once.")
    session = _write_session(Session.of(_alone(spec, tenant, left_s), device, folder, origin), folder)
    # report, table and log lie beside the folder of the model, where a record's artifacts are looked for
    command = ncu.profile_command(tool, session, folder, kernels=spec.profiler.kernels, metrics=metrics)
    return ncu.profile(tool, command, folder, timeout_s=left_s)[1]


def _joined(alone: Sequence[RunRecord], spec: RunSpec, tenants: Sequence[TenantSpec]) -> RunRecord:
    """One record of several models profiled alone; no time that ncu stretched is kept as a latency."""
    findings = {(f.code, f.tenant): f for record in alone for f in record.findings if f.code not in _OF_SHORT_RUNS}
    return replace(
        alone[-1],
        spec=to_json(replace(spec, tenants=tuple(tenants))),
        tenants=tuple(replace(record.tenants[0], metrics={}, insufficient=()) for record in alone),
        metrics={},
        window=None,
        findings=tuple(findings.values()),
    )


def _alone(spec: RunSpec, tenant: TenantSpec, left_s: float) -> RunSpec:
    measure = replace(spec.measure, iterations=1, warmup=_NCU_WARMUP)
    deadlines = replace(spec.deadlines, measure_s=left_s, stall_s=left_s)  # 0.1 to 0.5 s a kernel
    return replace(spec, tenants=(tenant,), sharing=SharingSpec(), measure=measure, deadlines=deadlines)


def _write_session(session: Session, folder: Path) -> list[str]:
    path = folder / "session.json"
    path.write_text(json.dumps(asdict(session)))
    return [sys.executable, "-m", "mtexp.profile_session", str(path)]


def _finish(record: RunRecord, timed: RunRecord, out: Path, result: ProfileResult) -> Path:
    """Put what the profiler saw into the record, beside the traced slowdown."""
    alike = {tenant.id: tenant.metrics for tenant in timed.tenants}
    tenants = tuple(
        replace(t, metrics={**t.metrics, **result.tenants.get(t.id, {}), **_traced(t.metrics, alike.get(t.id, {}))})
        for t in record.tenants
    )
    every = (*record.findings, *result.findings)
    final = replace(
        record,
        tenants=tenants,
        metrics={**record.metrics, **result.metrics},
        findings=every,
        verdict=verdict_of(every),
        profile_of=timed.record_id,
    )
    records.save(final, out, read_samples(out / records.ITERATIONS))
    return out


def _traced(traced: Mapping[str, float], timed: Mapping[str, float]) -> dict[str, float]:
    """Mean latency under the profiler against the timed run's: what tracing cost."""
    key = "latency_mean_ms"
    return {"traced_slowdown": traced[key] / timed[key]} if key in traced and key in timed else {}

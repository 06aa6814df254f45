"""The profiling pass after a timed run: its own run (``mtexp.kind=profile``), linked to the timed one.

May touch: profiling, sharing, the session that a profiler wraps. Timed results never depend on it, and no latency,
throughput or history of its iterations is kept: the profiler stretches them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mtexp.errors import MtexpError, ProfilerError, ProfilerUnusable, RecordError
from mtexp.metrics.verdict import Finding, verdict_of
from mtexp.profiling import ncu, nsys
from mtexp.profiling.cost_model import device_peaks
from mtexp.profiling.ncu_roofline import RooflineRow, kernel_rows, roofline_row
from mtexp.profiling.result import ProfileResult, collect, collect_torch, write_rooflines
from mtexp.records import record as records
from mtexp.records.record import RunRecord
from mtexp.running.bare_record import RecordContext, without_figures
from mtexp.running.baselines import baseline_spec
from mtexp.running.evaluation import Comparison, evaluate
from mtexp.running.measured import Measurement, Setup
from mtexp.running.measurement import measure
from mtexp.running.profile_session import Session
from mtexp.running.stopping import CAPTURE_S
from mtexp.sharing import open_sharing
from mtexp.spec import BaselineSpec, RunSpec, SharingSpec, TelemetrySpec, TenantSpec, content_hash, spec_hash, to_json

log = logging.getLogger(__name__)

_SESSION_S = 900.0
_NCU_PASS_S = 1800.0
"""Seconds for all models together."""
_NCU_WARMUP = 2
_GPU_METRICS_HZ = 10_000
_OF_LATENCIES = ("few-iterations", "insufficient", "drift", "saturated")
"""Findings about latencies, of which a pass keeps none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    spec: RunSpec
    setup: Setup
    timed: RunRecord
    out: Path
    """Its folder: record, logs, artifacts."""
    origin: RecordContext


def profile(timed: RunRecord, folder: Path, origin: RecordContext, setup: Setup) -> Path | None:
    """Profile what ``timed`` measured; return the folder of the record of the pass, ``folder/profile-<kind>``.

    A pass that fails brings a warning with the reason and a FAILED record without a profile; None where not even that
    can be written.
    """
    kind = timed.run_spec.profiler.kind
    setup.progress(f"profiling with {kind}")
    the_pass = _Pass(
        spec=_profiled(timed.run_spec),
        setup=setup,
        timed=timed,
        out=folder / f"profile-{kind}",
        origin=replace(origin, record_id=uuid.uuid4().hex, profile_of=timed.record_id),
    )
    try:
        the_pass.out.mkdir(parents=True, exist_ok=True)
        record = _finish(the_pass, *{"nsys": _with_nsys, "ncu": _with_ncu, "torch": _with_torch}[kind](the_pass))
        records.save(record, the_pass.out, {})
    except MtexpError as error:
        return _failed(the_pass, str(error))
    except OSError as error:
        remedy = "Make room, or choose another place with hydra.run.dir (hydra.sweep.dir in a sweep)."
        return _failed(the_pass, f"{error.filename or the_pass.out}: {error.strerror or error}. {remedy}")
    for line in _lines_of(record):
        setup.progress(line)
    return the_pass.out


def _failed(the_pass: _Pass, reason: str) -> Path | None:
    """Log why there is no profile, and leave a record with the reason."""
    log.warning("No profile; the timed results stand. %s", reason)
    nothing = Measurement(failure=ProfilerError(reason))
    record = without_figures(the_pass.spec, nothing, the_pass.origin)
    with contextlib.suppress(RecordError):  # what cannot be written is the reason already
        records.save(replace(record, findings=(Finding("invalid", "no-profile", reason),)), the_pass.out, {})
        return the_pass.out
    return None


def _lines_of(record: RunRecord) -> Iterator[str]:
    """The main figures and findings, for the terminal; tables and pictures are among the artifacts."""
    if "kernel_overlap_pct" in record.metrics:
        names = ("kernel_overlap_pct", "gpu_idle_pct")
        yield ", ".join(f"{name} {record.metrics[name]:.1f}" for name in names)
    for finding in record.findings:
        yield f"{finding.level}: {finding.message}"


def _profiled(spec: RunSpec) -> RunSpec:
    measure = replace(spec.measure, iterations=spec.profiler.iterations, percentiles=(), min_time_s=0.0)
    return replace(
        spec,
        kind="profile",
        launcher=spec.launcher if spec.profiler.kind == "torch" else "interpreter",
        measure=replace(measure, until_ci_pct=0.0, design="sustained"),
        telemetry=TelemetrySpec(enabled=False),
        baseline=BaselineSpec(mode="skip"),
    )


def _with_nsys(the_pass: _Pass) -> tuple[RunRecord, ProfileResult]:
    spec, device, out = the_pass.spec, the_pass.setup.device, the_pass.out
    tool = nsys.find_nsys()
    with _session_folder(out) as folder, contextlib.ExitStack() as stack:
        pipe_directory = ""
        if spec.sharing.mps_mode == "managed":
            sharing = stack.enter_context(open_sharing(spec, device, work_dir=out))
            pipe_directory = sharing.environment([spec.tenants[0].id])["CUDA_MPS_PIPE_DIRECTORY"]
        session = _write_session(Session.of(spec, device, out, the_pass.origin, pipe_directory), folder)
        metrics_hz = _GPU_METRICS_HZ if spec.profiler.gpu_metrics else 0
        command = nsys.profile_command(tool, session, out / "profile", gpu_metrics_hz=metrics_hz)
        report = nsys.capture(tool, command, out / "profile", timeout_s=_SESSION_S, log=out / "nsys.log")
        record = records.load(folder)
    names: dict[int, str] = {}
    for tenant in record.tenants:
        if pid := tenant.facts_before.get("pid"):
            names[pid] = f"{names[pid]}+{tenant.id}" if pid in names else tenant.id
    return record, collect(tool, report, out, time_slicing=_time_sliced(spec), tenants=names)


def _with_torch(the_pass: _Pass) -> tuple[RunRecord, ProfileResult]:
    spec, out = the_pass.spec, the_pass.out
    traces = out / "traces"
    traces.mkdir(exist_ok=True)
    measured = measure(spec, out, Setup(the_pass.setup.device, the_pass.setup.starter), str(traces))
    if measured.stop is not None:
        raise measured.stop
    if measured.failure is not None:
        raise measured.failure
    record = evaluate(spec, measured, out, Comparison(), the_pass.origin)
    paths = {t.id: traces / f"{t.id}.trace.json" for t in spec.tenants}
    on_gpu = spec.runtime == "gpu"
    return record, collect_torch(paths, out, time_slicing=_time_sliced(spec), on_gpu=on_gpu)


def _time_sliced(spec: RunSpec) -> bool:
    """Whether several tenants share the GPU by the driver's time slicing."""
    return spec.sharing.mode == "processes" and spec.sharing.mps_mode == "disabled" and len(spec.tenants) > 1


def _with_ncu(the_pass: _Pass) -> tuple[RunRecord, ProfileResult]:
    """Each model of the mix alone; the record has a row for each. One that fails costs the others nothing."""
    spec, out = the_pass.spec, the_pass.out
    tool = ncu.find_ncu()
    available = ncu.query_metrics(tool, log=out / "ncu-metrics.log")
    peaks, deadline = device_peaks(the_pass.setup.device.name), time.monotonic() + _NCU_PASS_S
    bound = {t.id: t.metrics.get("launch_bound_pct") for t in the_pass.timed.tenants}
    alone: list[RunRecord] = []
    rows: list[RooflineRow] = []
    table, failed = [], []
    for name, tenant in _models(spec).items():
        metrics = ncu.choose_metrics(available, tenant.precision)
        try:
            record, kernels = _profile_alone(the_pass, tenant, name, tool, metrics, deadline)
            row = roofline_row(
                kernels,
                tenant,
                name=name,
                kernel_limit=spec.profiler.kernels,
                peaks=peaks,
                launch_bound_pct=bound.get(tenant.id),
            )
        except MtexpError as error:
            if isinstance(error, ProfilerUnusable) and not rows:
                raise  # the next model would fail in the same way
            reason = str(error).partition("\n")[0]
            failed.append(Finding("warning", "ncu-failed", f"{name} was not profiled: {reason}", tenant=tenant.id))
            continue
        alone.append(record)
        rows.append(row)
        table += kernel_rows(tenant, kernels)
    if not rows:
        raise ProfilerError(" ".join(finding.message for finding in failed))
    result = write_rooflines(rows, peaks, out, table)
    return _joined(alone, spec), replace(result, findings=(*result.findings, *failed))


def _models(spec: RunSpec) -> dict[str, TenantSpec]:
    """What the tenants run alone, each once, by its name: the model, with the tenant where it runs in several ways."""
    different: dict[str, TenantSpec] = {}
    for tenant in spec.tenants:
        (alone,) = baseline_spec(tenant, spec).tenants
        different.setdefault(content_hash(to_json(alone)), replace(alone, id=tenant.id))
    ways = Counter(tenant.model.name for tenant in different.values())
    return {
        tenant.model.name if ways[tenant.model.name] == 1 else f"{tenant.model.name}-{tenant.id}": tenant
        for tenant in different.values()
    }


def _profile_alone(
    the_pass: _Pass, tenant: TenantSpec, name: str, tool: Path, metrics: Sequence[str], deadline: float
) -> tuple[RunRecord, list[ncu.CountedKernel]]:
    """The kernels of one model under ncu, and the record of its session."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise ProfilerError(f"the pass took more than {_NCU_PASS_S:g} s. Profile fewer models at once.")
    spec, out = the_pass.spec, the_pass.out
    alone = replace(
        spec,
        tenants=(tenant,),
        sharing=SharingSpec(),
        measure=replace(spec.measure, iterations=1, warmup=_NCU_WARMUP),
        deadlines=replace(spec.deadlines, measure_s=left_s, stall_s=left_s),  # 0.1 to 0.5 s a kernel
    )
    with _session_folder(out) as folder:
        session = _write_session(Session.of(alone, the_pass.setup.device, out, the_pass.origin), folder)
        command = ncu.profile_command(tool, session, out / name, kernels=spec.profiler.kernels, metrics=metrics)
        _, kernels = ncu.profile(tool, command, out / name, timeout_s=left_s)
        return records.load(folder), kernels


def _joined(alone: Sequence[RunRecord], spec: RunSpec) -> RunRecord:
    """One record of several models profiled alone, one request each; no mean latency comes of that."""
    specs = tuple(record.run_spec.tenants[0] for record in alone)
    findings = {(f.code, f.tenant): f for record in alone for f in record.findings}
    return replace(
        alone[-1],
        spec=to_json(replace(spec, tenants=specs)),
        spec_hash=spec_hash(replace(spec, tenants=specs)),
        started_at=alone[0].started_at,
        clock=(*alone[0].clock, *alone[-1].clock),
        tenants=tuple(replace(record.tenants[0], metrics={}) for record in alone),
        findings=tuple(findings.values()),
    )


@contextlib.contextmanager
def _session_folder(out: Path) -> Iterator[Path]:
    """A hidden folder for the arguments of a session and for its record, which is not the record of the pass."""
    with tempfile.TemporaryDirectory(prefix=".session-", dir=out) as folder:
        yield Path(folder)


def _write_session(session: Session, folder: Path) -> list[str]:
    path = folder / "session.json"
    path.write_text(json.dumps(asdict(session)))
    return [sys.executable, "-m", "mtexp.running.profile_session", str(path)]


def _finish(the_pass: _Pass, record: RunRecord, result: ProfileResult) -> RunRecord:
    """``record`` with what the profiler saw in place of what it stretched, and by how much that was."""
    timed = {tenant.id: tenant.metrics.get("latency_mean_ms") for tenant in the_pass.timed.tenants}
    asked = the_pass.spec.measure.iterations
    tenants, findings = [], [f for f in record.findings if f.code not in _OF_LATENCIES]
    for tenant in record.tenants:
        metrics = dict(result.tenants.get(tenant.id, {}))
        timed_ms, traced_ms = timed.get(tenant.id), tenant.metrics.get("latency_mean_ms")
        if timed_ms and traced_ms:
            metrics["traced_slowdown"] = traced_ms / timed_ms
        count = tenant.metrics.get("iterations_measured", asked)
        if count < asked:
            found = f"{tenant.id} reached {count:.0f} of {asked} iterations; a capture measures at most {CAPTURE_S:g} s"
            findings.append(Finding("warning", "short-capture", found, "Ask for fewer profiler.iterations.", tenant.id))
        tenants.append(replace(tenant, metrics=metrics, insufficient=()))
    findings += result.findings
    return replace(
        record,
        tenants=tuple(tenants),
        metrics=dict(result.metrics),
        window=None,
        findings=tuple(findings),
        verdict=verdict_of(findings),
    )

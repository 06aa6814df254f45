"""One measured run, from sharing mode up to tenants gone: what was measured, before anybody judges it.

Lives here: the order of design section 4, steps 4 to 6. May touch: launch, sharing, telemetry, host.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtexp.cgroup import cpu_limit
from mtexp.errors import HostError, MtexpError, TenantFailed, interrupted_twice
from mtexp.host import Device
from mtexp.launch import CorePlan, Starter, TenantGroup, leased_cores
from mtexp.metrics.bootstrap import relative_half_width_pct
from mtexp.metrics.crossover import Block, mark
from mtexp.metrics.finding import Finding
from mtexp.metrics.samples import Samples
from mtexp.records.files import BLOCKS
from mtexp.run.crossover import measure_rounds
from mtexp.sharing import SharingMode, open_sharing
from mtexp.spec import MeasureSpec, RunSpec
from mtexp.telemetry import GpuProcess, Occupants, Sampler, identify, open_sampler, processes
from mtexp.tenant.job import ProcessJob, TenantJob

Facts = dict[str, dict[str, Any]]
Progress = Callable[[str], None]
Silence = Callable[[], contextlib.AbstractContextManager[None]]
"""Entered while tenants warm up and measure: this process does nothing else meanwhile."""

TELEMETRY = "telemetry.parquet"
CAPTURE_S = 30.0
"""Longest measuring time of a traced run (nsys, torch): each of its kernels is an event to keep, send and read."""
_CI_EVERY_S = 0.1
_STATUS_EVERY_S = 1.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


@dataclass(slots=True)
class Measurement:
    """Everything one run produced, also when it failed half way."""

    samples: dict[str, Samples] = field(default_factory=dict)
    """By tenant; of a crossover run with the block, round and phase of each request."""
    blocks: list[Block] = field(default_factory=list)
    """Of a crossover run, those that ended."""
    facts_before: Facts = field(default_factory=dict)
    facts_after: Facts = field(default_factory=dict)
    proof: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    full: list[str] = field(default_factory=list)
    occupants: Occupants = field(default_factory=Occupants)
    """Who was on the device while the tenants were."""
    clock: list[tuple[int, int]] = field(default_factory=lambda: [_clock_pair()])
    """(monotonic ns, realtime ns) pairs, at the start and at the end."""
    cores: CorePlan | None = None
    failure: MtexpError | None = None
    stop: KeyboardInterrupt | None = None
    """Somebody wants the run to end (Ctrl-C, SIGTERM): to be raised again once the record is safe."""

    @property
    def failed_tenant(self) -> str:
        """Id of the tenant that failed, or empty."""
        return self.failure.tenant if isinstance(self.failure, TenantFailed) else ""

    @property
    def hurried(self) -> bool:
        """True after a second Ctrl-C or signal while the tenants were being stopped."""
        return interrupted_twice(self.stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    spec: RunSpec
    device: Device
    folder: Path
    starter: Starter
    progress: Progress
    trace_folder: str
    silence: Silence
    status: Progress
    listed_before: list[GpuProcess] = field(default_factory=list)
    """Processes on the device before the run started anything."""


def measure(
    spec: RunSpec,
    device: Device,
    folder: Path,
    starter: Starter,
    progress: Progress,
    *,
    trace_folder: str = "",
    silence: Silence = contextlib.nullcontext,
    status: Progress = lambda text: None,
) -> Measurement:
    """Bring the sharing mode up and measure ``spec`` on ``device``; samples, logs and telemetry go to ``folder``.

    A failure of a tenant or of the host, and Ctrl-C, end the run and are returned in the measurement with all that had
    been measured; the tenants are gone, the sharing mode is down, and nothing is left behind.
    """
    result = Measurement()
    context = _Context(
        spec=spec,
        device=device,
        folder=folder,
        starter=starter,
        progress=progress,
        trace_folder=trace_folder,
        silence=silence,
        status=status,
    )
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        context.listed_before.extend(_listed(device))
        with open_sharing(spec, device, work_dir=folder) as sharing:
            _measure_in(context, sharing, result)
    except MtexpError as error:
        result.failure = error
    except OSError as error:
        result.failure = HostError(_explain(error, folder))
    except KeyboardInterrupt as stop:
        result.failure, result.stop = MtexpError(f"interrupted: {str(stop) or 'Ctrl-C'}"), stop
    return result


def _measure_in(context: _Context, sharing: SharingMode, result: Measurement) -> None:
    """Measure under a sharing mode that is up, into ``result``.

    Raises:
        TenantFailed: With all that had been measured in ``result``.
    """
    _clear(context.folder)
    try:
        _measure_shared(context, sharing, result)
    finally:
        # the samples of a profiling pass are not used; those of other runs stay until their record is on disk
        if context.spec.kind == "profile":
            _clear(context.folder, "*.bin")
        result.clock.append(_clock_pair())


def _clear(folder: Path, *patterns: str) -> None:
    """Remove what a run of this folder that was killed has left, or only the sample buffers."""
    for pattern in patterns or ("*.bin", BLOCKS, TELEMETRY):
        for path in folder.glob(pattern):
            path.unlink()


def _explain(error: OSError, folder: Path) -> str:
    text = f"{error.filename or folder}: {error.strerror or error}"
    if error.errno in _NO_ROOM:
        text += ". Make room, or choose another place with hydra.run.dir (hydra.sweep.dir in a sweep)"
    return text


def _measure_shared(context: _Context, sharing: SharingMode, result: Measurement) -> None:
    spec, progress = context.spec, context.progress
    groups, crossover = sharing.groups(), spec.measure.design == "crossover"
    with (
        leased_cores([len(g) for g in groups], pin=spec.measure.pin_cores, spare=crossover) as cores,
        _keep_off(cores),
        TenantGroup(context.starter, spec.deadlines, context.folder, release=sharing.release) as tenants,
    ):
        result.cores = cores
        result.findings += _about_cores(cores, len(spec.tenants))
        try:
            progress("starting 1 tenant" if len(spec.tenants) == 1 else f"starting {len(spec.tenants)} tenants")
            tenants.start(_jobs(context, sharing, cores, tenants))
            with _sampler(context, sharing, cores, tenants) as sampler:
                progress("building models")
                tenants.build()
                with context.silence():  # from here on: waiting for it between warm-up and window would cool them down
                    progress("warming up")
                    tenants.begin_warm_up()
                    observed = sharing.observe()  # meanwhile: a device that waits for it would cool down
                    listed = _listed(context.device)
                    result.occupants = _occupants(context, sharing, tenants, listed)
                    result.facts_before = tenants.warm_up()
                    progress("measuring")
                    if crossover:
                        measure_rounds(spec, tenants, cores, result.blocks, context.folder / BLOCKS, context.status)
                    else:
                        tenants.measure(_enough(spec, tenants, context.status))
                    observed_after = sharing.observe()
                    listed += _listed(context.device)
                    result.occupants = _occupants(context, sharing, tenants, listed)
                    tenants.begin_finish()
                    result.findings += sampler.stop()
                    result.facts_after = tenants.finish()
            result.proof, findings = sharing.prove(result.facts_before, result.facts_after, observed, observed_after)
            result.findings += findings
        except TenantFailed as failure:
            failure.remedy = sharing.explain(f"{failure.cause}\n{failure.log_tail}") or ""
            raise
        finally:
            result.samples, result.full = mark(tenants.samples(), result.blocks), tenants.full()


def _sampler(context: _Context, sharing: SharingMode, cores: CorePlan, tenants: TenantGroup) -> Sampler:
    pids = {tenant: pid for group, pid in zip(sharing.groups(), tenants.pids, strict=True) for tenant in group}
    return open_sampler(
        context.spec.telemetry,
        context.spec.runtime,
        context.device.uuid,
        pids,
        context.folder / TELEMETRY,
        cores.sampler[0] if cores.sampler else None,
        mps=context.spec.sharing.mps_mode != "disabled",
    )


def _listed(device: Device) -> list[GpuProcess]:
    return processes(device.uuid) if device.kind == "gpu" else []


def _occupants(
    context: _Context, sharing: SharingMode, tenants: TenantGroup, listed: Sequence[GpuProcess]
) -> Occupants:
    """Whose the processes on the device are."""
    if context.device.kind != "gpu":
        return Occupants()
    others = (os.getpid(), *sharing.pids())
    external = context.spec.sharing.mps_mode == "external"
    return identify(context.listed_before, listed, tenants.pids, others, external_mps=external)


def _jobs(context: _Context, sharing: SharingMode, cores: CorePlan, tenants: TenantGroup) -> list[ProcessJob]:
    """One job a process, as the sharing mode groups the tenants."""
    spec, folder = context.spec, context.folder
    rows = spec.measure.warmup + protocol(spec).max_iterations
    board, samples = tenants.allocate([t.id for t in spec.tenants], rows)
    sms = sharing.sm_counts()
    by_id = {
        tenant.id: TenantJob(tenant=tenant, slot=slot, samples=str(samples[slot]), sm_count=sms.get(tenant.id, 0))
        for slot, tenant in enumerate(spec.tenants)
    }
    everywhere = tuple(sorted(os.sched_getaffinity(0)))  # said to each: the forkserver may have been pinned itself
    return [
        ProcessJob(
            name=_name(group),
            tenants=tuple(by_id[i] for i in group),
            address=tenants.address,
            board=str(board),
            log=str(folder / "logs" / f"{_name(group)}.log"),
            runtime=spec.runtime,
            measure=protocol(spec),
            environment=sharing.environment(group),
            cores=cores.processes[index] or everywhere,
            probe_busy=spec.kind == "baseline" and spec.runtime == "gpu",
            nvtx=_nvtx(spec),
            torch_trace=context.trace_folder,
        )
        for index, group in enumerate(sharing.groups())
    ]


def protocol(spec: RunSpec) -> MeasureSpec:
    """What the tenants are asked for: one iteration more, for the first of each is left out of its figures.

    A profiler's pass has no such figures: it measures as many as it is asked for.
    """
    rule = spec.measure
    if spec.kind == "profile":
        return rule
    return replace(rule, iterations=rule.iterations + 1, max_iterations=rule.max_iterations + 1)


def _nvtx(spec: RunSpec) -> str:
    """Which NVTX ranges the tenants emit: those of their profiler, none in a timed run."""
    marked = spec.kind == "profile" and spec.runtime == "gpu" and spec.profiler.kind in ("nsys", "ncu")
    return spec.profiler.kind if marked else ""


def _name(group: Sequence[str]) -> str:
    return group[0] if len(group) == 1 else "tenants"


def _enough(spec: RunSpec, tenants: TenantGroup, status: Progress) -> Callable[[int, int, float], bool]:
    """The stopping rule: iterations and time together, or an interval narrow enough, with a cap; traces end sooner."""
    rule = protocol(spec)
    traced = spec.kind == "profile" and spec.profiler.kind != "ncu"
    last_look: dict[int, float] = {}
    said_s = 0.0

    def enough(slot: int, iterations: int, elapsed_s: float) -> bool:
        nonlocal said_s
        if elapsed_s - said_s >= _STATUS_EVERY_S:
            said_s = elapsed_s
            status(so_far(iterations, elapsed_s, rule))
        if traced and elapsed_s >= CAPTURE_S:
            return True
        if iterations < rule.iterations or elapsed_s < rule.min_time_s:
            return False
        if not rule.until_ci_pct or iterations >= rule.max_iterations:
            return True
        if elapsed_s - last_look.get(slot, 0.0) < _CI_EVERY_S:
            return False
        last_look[slot] = elapsed_s
        latency_ms = tenants.sample(slot).measured.latency_ms[1:]
        return relative_half_width_pct(latency_ms, rule.until_ci_statistic) <= rule.until_ci_pct

    return enough


def so_far(iterations: int, elapsed_s: float, rule: MeasureSpec) -> str:
    """Progress of the slowest tenant: ``measuring: 45 of 100 iterations, about 12 s left``."""
    by_count = elapsed_s * (rule.iterations / max(iterations, 1) - 1)
    left_s = max(by_count, rule.min_time_s - elapsed_s, 0.0)
    text = f"measuring: {iterations} of {rule.iterations} iterations"
    if rule.until_ci_pct and left_s == 0.0:
        return f"{text}, until the interval is within +- {rule.until_ci_pct:g} %"
    return f"{text}, about {left_s:.0f} s left"


def _about_cores(cores: CorePlan, tenants: int) -> list[Finding]:
    """What to say where tenants are not pinned for want of cores, or pinned to threads of one physical core."""
    if cores.held_by_others:
        found = (
            f"other runs on this host hold {cores.held_by_others} CPU cores: too few are left to pin each tenant to one"
        )
        remedy = "Run fewer side by side, or set measure.pin_cores=false for all."
        return [Finding("warning", "cores-held", found, remedy)]
    if cores.missing and tenants > 1:  # a single tenant has no contention
        found = (
            f"no tenant is pinned to a CPU core of its own: {cores.missing} cores more are needed for {tenants} "
            "tenants, sampler and parent; contention for CPU cores looks like interference on the GPU"
        )
        remedy = "Run fewer tenants, or use more cores; baselines of this run are not pinned either."
        return [Finding("warning", "cores-few", found, remedy)]
    limit = cpu_limit()
    if limit is not None and limit < tenants + 1:
        found = (
            f"this container or job may use the time of {limit:g} CPUs (a cgroup quota); {tenants} tenants and the "
            f"sampler need up to {tenants + 1}: the kernel stops them when it is used up, which looks like interference"
        )
        remedy = "Raise the limit (docker run --cpus, limits.cpu of a pod), or remove it."
        return [Finding("warning", "cpu-limit", found, remedy)]
    if cores.on_shared_cores:
        found = (
            f"{cores.on_shared_cores} tenants share a physical CPU core with another tenant or run, as threads of it: "
            "what slows them there looks like interference on the GPU"
        )
        return [Finding("warning", "cores-shared", found, "Run fewer tenants, or use a host with more physical cores.")]
    return []


@contextlib.contextmanager
def _keep_off(cores: CorePlan) -> Iterator[None]:
    """Keep this process off the tenants' cores while they run."""
    before = os.sched_getaffinity(0)
    if cores.pinned:
        os.sched_setaffinity(0, cores.parent)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _clock_pair() -> tuple[int, int]:
    return time.monotonic_ns(), time.time_ns()

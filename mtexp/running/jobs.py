"""The jobs of the tenant processes of a run: one a process, as the sharing mode groups the tenants. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mtexp.launch import CorePlan, Servers, TenantGroup
from mtexp.sharing import SharingMode
from mtexp.spec import MeasureSpec, RunSpec, TenantSpec
from mtexp.tenant.job import ProcessJob, TenantJob


def jobs_of(
    spec: RunSpec,
    folder: Path,
    sharing: SharingMode,
    cores: CorePlan,
    tenants: TenantGroup,
    servers: Servers,
    trace_folder: str,
) -> list[ProcessJob]:
    """One job a process; each tenant has the core of its place in ``cores``, whatever the processes.

    Args:
        spec: The run.
        folder: Where logs go.
        sharing: Its sharing mode, entered.
        cores: Planned for as many tenants.
        tenants: The group that the processes will be in.
        servers: Of the tenants that are servers, ready.
        trace_folder: Where torch traces go; empty = none.
    """
    rows = max(map(partial(_warmups, spec.measure.warmup), spec.tenants)) + protocol(spec).max_iterations
    board, samples = tenants.allocate([t.id for t in spec.tenants], rows)
    sms = sharing.sm_counts()
    shared = spec.sharing.share_weights and len(spec.tenants) > 1
    by_id = {
        tenant.id: TenantJob(
            tenant=tenant,
            slot=slot,
            samples=str(samples[slot]),
            sm_count=sms.get(tenant.id, 0),
            url=servers.url(tenant.id),
            values=servers.values(tenant.id),
            weights=f"{tenants.address}-weights" if shared else "",
            keeps_weights=shared and slot == 0,
            request_s=0.8 * spec.deadlines.stall_s,  # before the parent gives up
        )
        for slot, tenant in enumerate(spec.tenants)
    }
    return [
        ProcessJob(
            name=_name(group),
            tenants=tuple(by_id[i] for i in group),
            address=tenants.address,
            board=str(board),
            log=str(folder / "logs" / f"{_name(group)}.log"),
            runtime="cpu" if servers.url(group[0]) else spec.runtime,  # a client never opens the device
            measure=protocol(spec),
            environment=sharing.environment(group),
            cores=own or cores.everywhere,
            probe_busy=spec.kind == "baseline" and spec.runtime == "gpu",
            nvtx=_nvtx(spec),
            torch_trace=trace_folder,
        )
        for group, own in _with_cores(sharing.groups(), cores)
    ]


def _warmups(asked: int, tenant: TenantSpec) -> int:
    """Most requests of a tenant's warm-up: those of a trace are more where it has many shapes."""
    server = tenant.model.server
    return max(tenant.arrival.lengths.warmups(asked), server.warmup if server is not None else 0)


def _with_cores(
    groups: Sequence[tuple[str, ...]], cores: CorePlan
) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Each process's tenants, and their cores."""
    each = [core for process in cores.processes for core in process]
    for group in groups:
        yield group, tuple(each[: len(group)])
        del each[: len(group)]


def protocol(spec: RunSpec) -> MeasureSpec:
    """The protocol that tenants follow: one iteration more than asked for, because figures leave out the first.

    A profiling pass has no such figures, and no further iteration.
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

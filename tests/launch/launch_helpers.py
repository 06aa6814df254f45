"""Tenant groups of stressors: real processes that build nothing large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtexp.launch import ForkserverStarter, Starter, TenantGroup
from mtexp.launch.starters import Child
from mtexp.spec import ArrivalSpec, DeadlineSpec, MeasureSpec, ModelSpec, TenantSpec, to_json
from mtexp.tenant.job import ProcessJob, TenantJob

DEADLINES = DeadlineSpec(start_s=60, build_s=30, warmup_s=30, measure_s=60, stall_s=30, stop_s=20)
MEASURE = MeasureSpec(iterations=20, warmup=3, max_iterations=65_536)


def stressor(name: str, repeats: int = 20, arrival: ArrivalSpec | None = None) -> TenantSpec:
    """A tenant whose request is so many tiny kernels."""
    model = ModelSpec(name="stress_launch", role="stressor", architecture="launch", shape={"repeats": repeats})
    return TenantSpec(id=name, model=model, arrival=arrival or ArrivalSpec(), precision="fp32")


@dataclass
class Exits:
    """Starts through another starter and remembers how each process ended."""

    starter: Starter
    codes: dict[str, int | None] = field(default_factory=dict)

    def start(self, job: ProcessJob) -> Child:
        return _Watched(self.starter.start(job), job.name, self.codes)  # type: ignore[return-value]


class _Watched:
    def __init__(self, child: Child, name: str, codes: dict[str, int | None]) -> None:
        self._child, self._name, self._codes = child, name, codes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._child, name)

    def close(self) -> None:
        self._codes[self._name] = self._child.exit_code()
        self._child.close()


@contextmanager
def group_of(
    folder: Path,
    tenants: Sequence[TenantSpec],
    *,
    starter: Starter | None = None,
    deadlines: DeadlineSpec = DEADLINES,
    measure: MeasureSpec = MEASURE,
    together: bool = False,
    capacity: int = 65_536,
    **options: Any,
) -> Iterator[tuple[TenantGroup, list[ProcessJob]]]:
    """A group that is up, and its jobs, not started: one process a tenant, or one for all (``together``)."""
    (folder / "logs").mkdir(exist_ok=True)
    cores = options.pop("cores", ())
    with TenantGroup(starter or ForkserverStarter(), deadlines, folder, **options) as group:
        board, samples = group.allocate([t.id for t in tenants], capacity)
        entries = [TenantJob(tenant=t, slot=i, samples=str(samples[i])) for i, t in enumerate(tenants)]
        processes = [entries] if together else [[entry] for entry in entries]
        yield (
            group,
            [
                ProcessJob(
                    name="+".join(e.tenant.id for e in members),
                    tenants=tuple(members),
                    address=group.address,
                    board=str(board),
                    log=str(folder / "logs" / f"{members[0].tenant.id}.log"),
                    runtime="cpu",
                    measure=measure,
                    cores=cores,
                )
                for members in processes
            ],
        )


def lead(group: TenantGroup, jobs: Sequence[ProcessJob], iterations: int = 20) -> dict[str, dict[str, Any]]:
    """Through all phases; returns the facts of the last one."""
    group.start(jobs)
    group.build()
    group.begin_warm_up()
    group.warm_up()
    group.measure(lambda slot, count, elapsed_s: count >= iterations)
    group.begin_finish()
    return group.finish()


def lead_to_gate(group: TenantGroup, jobs: Sequence[ProcessJob]) -> None:
    """Through all phases before the first block."""
    group.start(jobs)
    group.build()
    group.begin_warm_up()
    group.warm_up()
    group.begin_blocks()


class SlowExport(ForkserverStarter):
    """Tenants whose torch trace takes seconds to write."""

    def start(self, job: ProcessJob) -> Child:
        return self.fork(job.name, _serve_with_slow_export, to_json(job))


def _serve_with_slow_export(data: dict[str, Any]) -> None:
    import time

    import torch

    from mtexp.tenant.process import serve

    def export(profile: Any, path: str) -> None:
        time.sleep(2.0)
        Path(path).write_text("{}")

    torch.profiler.profile.export_chrome_trace = export  # type: ignore[method-assign]
    serve(data)

"""Which CPU cores tenants, sampler and parent get.

May touch: the affinity of this process and the kernel's list of cores (reading), core leases. A *core* is what the
kernel schedules on; with simultaneous multithreading (Hyper-Threading) two of them are threads of one physical core.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mtexp.host import lease_cores

_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorePlan:
    """Disjoint cores; all empty when there are not enough, and then nothing is pinned."""

    processes: tuple[tuple[int, ...], ...]
    sampler: tuple[int, ...]
    parent: tuple[int, ...]
    held_by_others: int = 0
    """Cores that other runs of this host held, when that is why there were not enough."""
    on_shared_cores: int = 0
    """Tenants whose physical core another tenant computes on as well."""

    @property
    def pinned(self) -> bool:
        """True when tenants have cores of their own."""
        return bool(self.parent)


def plan_cores(tenants_per_process: Sequence[int], available: Sequence[int], *, pin: bool = True) -> CorePlan:
    """Give every tenant one core, the sampler one, the parent the rest; tenants get the last of ``available``.

    One core a tenant whatever the mix, so that a tenant has the same alone and shared: contention for CPU cores looks
    like interference on the GPU.
    """
    tenants = sum(tenants_per_process)
    if not pin or len(available) < tenants + 2:
        return CorePlan(processes=((),) * len(tenants_per_process), sampler=(), parent=())
    own = iter(available[-tenants:])
    rest = available[:-tenants]
    processes = tuple(tuple(next(own) for _ in range(count)) for count in tenants_per_process)
    return CorePlan(processes=processes, sampler=(rest[-1],), parent=tuple(rest[:-1]))


def by_physical_core(available: Sequence[int]) -> list[int]:
    """Order ``available`` so that one thread of each physical core comes last, where tenants get theirs.

    Two threads of one physical core slow each other, which looks like interference on the GPU.
    """
    threads: Counter[str] = Counter()
    ranks = {}
    for core in available:
        ranks[core] = threads[_siblings(core)]
        threads[_siblings(core)] += 1
    return sorted(available, key=lambda core: (-ranks[core], core))


def _siblings(core: int) -> str:
    """The threads of the physical core that ``core`` is one of, in the kernel's words."""
    try:
        return (_CPUS / f"cpu{core}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:  # not told, as in some containers
        return str(core)


@contextmanager
def leased_cores(tenants_per_process: Sequence[int], *, pin: bool = True) -> Iterator[CorePlan]:
    """Plan with the cores that no other run of this host measures on; the others keep off these until the block ends.

    Two runs on two GPUs of a host would otherwise pin their tenants to the same cores. What is leased are the cores of
    tenants and sampler; the parent, which sleeps while they run, may use all that nobody had leased when they began.

    Raises:
        HostError: The lease directory cannot be used.
    """
    available = by_physical_core(sorted(os.sched_getaffinity(0)))
    if not plan_cores(tenants_per_process, available, pin=pin).pinned:
        yield plan_cores(tenants_per_process, available, pin=False)
        return

    def choose(free: Sequence[int]) -> tuple[CorePlan, Sequence[int]]:
        plan = plan_cores(tenants_per_process, free)
        if not plan.pinned:
            plan = replace(plan, held_by_others=len(available) - len(free))
        tenants = Counter(_siblings(core) for own in plan.processes for core in own)
        plan = replace(plan, on_shared_cores=sum(count for count in tenants.values() if count > 1))
        return plan, [core for own in (*plan.processes, plan.sampler) for core in own]

    with lease_cores(available, choose) as plan:
        yield plan

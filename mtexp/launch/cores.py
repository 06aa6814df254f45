"""Which CPU cores tenants, sampler and parent get. May touch: the affinity of this process (reading), core leases."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mtexp.host import lease_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class CorePlan:
    """Disjoint cores; all empty when there are not enough, and then nothing is pinned."""

    processes: tuple[tuple[int, ...], ...]
    sampler: tuple[int, ...]
    parent: tuple[int, ...]
    held_by_others: int = 0
    """Cores that other runs of this host held, when that is why there were not enough."""

    @property
    def pinned(self) -> bool:
        """True when tenants have cores of their own."""
        return bool(self.parent)


def plan_cores(tenants_per_process: Sequence[int], available: Sequence[int], *, pin: bool = True) -> CorePlan:
    """Give every tenant one core, the sampler one, the parent the rest.

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


@contextmanager
def leased_cores(tenants_per_process: Sequence[int], *, pin: bool = True) -> Iterator[CorePlan]:
    """Plan with the cores that no other run of this host measures on; the others keep off these until the block ends.

    Two runs on two GPUs of a host would otherwise pin their tenants to the same cores. What is leased are the cores of
    tenants and sampler; the parent, which sleeps while they run, may use all that nobody had leased when they began.

    Raises:
        HostError: The lease directory cannot be used.
    """
    available = sorted(os.sched_getaffinity(0))
    if not plan_cores(tenants_per_process, available, pin=pin).pinned:
        yield plan_cores(tenants_per_process, available, pin=False)
        return

    def choose(free: Sequence[int]) -> tuple[CorePlan, Sequence[int]]:
        plan = plan_cores(tenants_per_process, free)
        if not plan.pinned:
            plan = replace(plan, held_by_others=len(available) - len(free))
        return plan, [core for own in (*plan.processes, plan.sampler) for core in own]

    with lease_cores(available, choose) as plan:
        yield plan

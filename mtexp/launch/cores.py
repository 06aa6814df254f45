"""Assigns CPU cores to tenants, sampler and parent.

May touch: the affinity of this process and the kernel's list of cores (reading), core leases. A *core* is what the
kernel schedules on; with simultaneous multithreading (Hyper-Threading) two of them are threads of one physical core.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mtexp.leases import lease_cores

_CPUS = Path("/sys/devices/system/cpu")
_SPARE_A_TENANT = 3  # a host with eight GPUs may have eight runs: they must all find cores


@dataclass(frozen=True, slots=True, kw_only=True)
class CorePlan:
    """Disjoint cores; all empty if there are too few, in which case nothing is pinned."""

    processes: tuple[tuple[int, ...], ...]
    servers: tuple[tuple[int, ...], ...] = ()
    """For each process that is the client of a server, the cores of that server; tenants do not move to them."""
    sampler: tuple[int, ...]
    parent: tuple[int, ...]
    spare: tuple[int, ...] = ()
    """More cores, each a physical core of which no other part of the run uses a thread: tenants may move to them."""
    held_by_others: int = 0
    """Cores held by other runs on this host, if that is why there were too few."""
    missing: int = 0
    """Missing cores to pin every tenant, not counting those held by other runs."""
    on_shared_cores: int = 0
    """Tenants that share their physical core with another tenant or another run."""

    @property
    def pinned(self) -> bool:
        """True if every tenant has its own core."""
        return bool(self.parent)

    @property
    def everywhere(self) -> tuple[int, ...]:
        """Cores of a process that has none of its own. It is pinned to them: the forkserver may have fewer."""
        return tuple(sorted(os.sched_getaffinity(0)))

    @property
    def pool(self) -> tuple[int, ...]:
        """Cores from which those of the tenants may be drawn anew; empty where there are no spare ones."""
        return (*(core for own in self.processes for core in own), *self.spare) if self.spare else ()


def missing_cores(tenants: int, available: Sequence[int] | None = None) -> int:
    """Return how many cores are missing: each tenant, the sampler and the parent need one.

    Args:
        tenants: All tenants of the run, and the cores of their servers.
        available: Cores; by default those that this process may use.
    """
    return max(0, tenants + 2 - len(os.sched_getaffinity(0) if available is None else available))


def plan_cores(
    tenants_per_process: Sequence[int], available: Sequence[int], *, pin: bool = True, servers: Sequence[int] = ()
) -> CorePlan:
    """Give every tenant one core, the sampler one, the parent the rest; tenants get the last of ``available``.

    Each server gets as many as ``servers`` says, process by process.

    A tenant always gets one core, so that it has the same alone and shared. Contention for CPU cores would look like
    interference on the GPU.
    """
    tenants = sum(tenants_per_process) + sum(servers)
    missing = missing_cores(tenants, available) if pin else 0
    if not pin or missing:
        none: tuple[tuple[int, ...], ...] = ((),) * len(tenants_per_process)
        return CorePlan(processes=none, servers=none if servers else (), sampler=(), parent=(), missing=missing)
    own = iter(available[-tenants:])
    rest = available[:-tenants]
    processes, served = (
        tuple(tuple(next(own) for _ in range(count)) for count in counts) for counts in (tenants_per_process, servers)
    )
    return CorePlan(processes=processes, servers=served, sampler=(rest[-1],), parent=tuple(rest[:-1]))


def by_physical_core(free: Sequence[int], held: Collection[int] = ()) -> list[int]:
    """Order ``free`` so that one thread of each physical core comes last: tenants get the last cores.

    Two threads of one physical core slow each other, which looks like interference on the GPU; so a thread of a core
    that another run has ``held`` a thread of comes early too.
    """
    threads = Counter(map(_siblings, held))
    ranks = {}
    for core in sorted(free):
        ranks[core] = threads[_siblings(core)]
        threads[_siblings(core)] += 1
    return sorted(free, key=lambda core: (-ranks[core], core))


def _siblings(core: int) -> str:
    """The threads of the physical core of ``core``, as the kernel writes them."""
    try:
        return (_CPUS / f"cpu{core}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:  # unknown, as in some containers
        return str(core)


def with_spare(plan: CorePlan, held: Collection[int]) -> CorePlan:
    """Give ``plan`` spare cores from those of its parent, at most three for each tenant.

    Args:
        plan: Pinned or not.
        held: Cores of other runs.
    """
    tenants = [core for own in plan.processes for core in own]
    served = [core for own in plan.servers for core in own]
    used = {_siblings(core) for core in (*tenants, *served, *plan.sampler, *held)}
    spare: list[int] = []
    for core in reversed(plan.parent):
        if _siblings(core) not in used and len(spare) < _SPARE_A_TENANT * len(tenants):
            spare.append(core)
            used.add(_siblings(core))
    if len(spare) == len(plan.parent):
        del spare[-1:]
    return replace(plan, spare=tuple(spare), parent=tuple(core for core in plan.parent if core not in spare))


@contextmanager
def leased_cores(
    tenants_per_process: Sequence[int], *, pin: bool = True, spare: bool = False, servers: Sequence[int] = ()
) -> Iterator[CorePlan]:
    """Plan with the cores that no other run of this host measures on; the others keep off these until the block ends.

    Two runs on two GPUs of a host would otherwise pin their tenants to the same cores. What is leased are the cores of
    tenants and sampler; the parent, which sleeps while they run, may use all that were free when the run began.

    Args:
        tenants_per_process: How many tenants each process has.
        pin: Whether to pin at all.
        spare: Also lease cores that tenants may move to (:attr:`CorePlan.spare`), where there are enough.
        servers: How many cores the server of each process has; empty = there are no servers.

    Raises:
        HostError: The lease directory cannot be used.
    """
    available = sorted(os.sched_getaffinity(0))
    plan = plan_cores(tenants_per_process, available, pin=pin, servers=servers)
    if not plan.pinned:
        yield plan
        return

    def choose(free: Sequence[int]) -> tuple[CorePlan, Sequence[int]]:
        held = set(available).difference(free)
        plan = plan_cores(tenants_per_process, by_physical_core(free, held), servers=servers)
        own = [_siblings(core) for cores in (*plan.processes, *plan.servers) for core in cores]
        used = Counter([*own, *map(_siblings, held)])
        if plan.pinned:
            plan = replace(plan, on_shared_cores=sum(used[physical] > 1 for physical in own))
            plan = with_spare(plan, held) if spare else plan
        else:
            plan = replace(plan, held_by_others=len(held), missing=0)
        return plan, [core for own in (*plan.processes, *plan.servers, plan.sampler, plan.spare) for core in own]

    with lease_cores(available, choose) as plan:
        yield plan

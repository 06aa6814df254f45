"""Which CPU cores tenants, sampler and parent get. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CorePlan:
    """Disjoint cores; all empty when there are not enough, and then nothing is pinned."""

    processes: tuple[tuple[int, ...], ...]
    sampler: tuple[int, ...]
    parent: tuple[int, ...]

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

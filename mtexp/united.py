"""Which runs one set of tenant processes can serve, and what such a set has in it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mtexp.spec import ArrivalSpec, MpsLimits, RunSpec, SharingSpec, TenantSpec


def without_sharing(spec: RunSpec) -> str:
    """Name everything of a run but how its tenants share."""
    tenants = tuple(replace(t, mps=MpsLimits(), sm_count=0, sm_pct=0.0, mig="") for t in spec.tenants)
    return repr(replace(spec, sharing=SharingSpec(), tenants=tenants))


def without_mix(spec: RunSpec) -> str:
    """Name everything of a run but its mix and how its tenants share; eager mode and graphs stay apart."""
    execution = sorted({tenant.execution for tenant in spec.tenants})
    return repr((replace(spec, mix="", sharing=SharingSpec(), tenants=()), execution))


def by_set(specs: Sequence[RunSpec]) -> list[list[int]]:
    """Group runs of a session by the set of processes that serves them: those of one sharing mode, one of each mix.

    Returns:
        Indices into ``specs``.
    """
    found: dict[tuple[str, int], list[int]] = {}
    seen = Counter[tuple[str, str]]()
    for number, spec in enumerate(specs):
        mode, mix = repr(spec.sharing), without_sharing(spec)
        found.setdefault((mode, seen[mode, mix]), []).append(number)
        seen[mode, mix] += 1
    return list(found.values())


@dataclass(frozen=True, slots=True)
class United:
    """Several mixes as one."""

    spec: RunSpec
    """A run with every tenant of every mix."""
    slots: tuple[tuple[int, ...], ...]
    """By mix: the place in ``spec`` of each of its tenants."""


def unite(specs: Sequence[RunSpec]) -> United:
    """Unite mixes that differ in their tenants only; tenants that are alike become one, whatever their ids and places.

    The time is that of all mixes, the room for samples that of as many mixes as one tenant is in.

    Args:
        specs: One run a mix.
    """
    if len(specs) == 1:
        return United(specs[0], (tuple(range(len(specs[0].tenants))),))
    tenants: list[TenantSpec] = []
    places: dict[tuple[str, int], int] = {}
    slots = []
    for spec in specs:
        own, alike = [], Counter[str]()
        for tenant in spec.tenants:
            name = repr(replace(tenant, id="", arrival=ArrivalSpec()))  # blocks are closed loop: its seed draws nothing
            key = name, alike[name]
            alike[name] += 1
            if key not in places:
                places[key] = len(tenants)
                tenants.append(replace(tenant, id=_free_id(tenant.id, [known.id for known in tenants])))
            own.append(places[key])
        slots.append(tuple(own))
    first, most = specs[0], max(Counter(slot for own in slots for slot in own).values())
    deadlines = replace(first.deadlines, measure_s=len(specs) * first.deadlines.measure_s)
    measure = replace(first.measure, max_iterations=most * first.measure.max_iterations)
    return United(replace(first, tenants=tuple(tenants), deadlines=deadlines, measure=measure), tuple(slots))


def _free_id(wanted: str, taken: Sequence[str]) -> str:
    names = [wanted, *(f"{wanted}_of_mix_{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)

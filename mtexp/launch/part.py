"""The tenants of one mix among the processes of several. May touch: the tenant group."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mtexp.launch.cores import CorePlan
from mtexp.launch.group import TenantGroup
from mtexp.metrics.samples import WARMUP, Samples


def cores_of_all(cores: CorePlan, processes: int) -> CorePlan:
    """Spread more processes than are ever active at once over the cores that were planned for one mix."""
    there = cores.pool or tuple(core for own in cores.processes for core in own)
    if not there:
        return replace(cores, processes=((),) * processes)
    return replace(cores, processes=tuple((there[i % len(there)],) for i in range(processes)))


class Part:
    """The tenants of one mix in a group that may have those of other mixes too, under their names in the mix.

    Args:
        group: The processes.
        slots: By tenant id in the mix, its slot in the group.
        log: Of the group: start of each block, and whose it was. The parts of a group have one in common.
    """

    def __init__(self, group: TenantGroup, slots: Mapping[str, int], log: list[tuple[int, Part]]) -> None:
        self.group, self.slots, self._log = group, tuple(slots.values()), log
        self._names = tuple(slots)

    def block(
        self, active: Collection[int], length_ns: int, cores: Mapping[int, int], idle: Sequence[Part] = ()
    ) -> tuple[int, int]:
        """As :meth:`TenantGroup.block`; ``active`` and ``cores`` name tenants by their place in the mix.

        The same mix may have other slots in each of the groups.
        """
        found = self.group.block(
            [self.slots[place] for place in active],
            length_ns,
            self._moves(cores),
            [(part.group, part._moves(cores)) for part in idle],
        )
        self._log.append((found[0], self))
        return found

    def _moves(self, cores: Mapping[int, int]) -> dict[int, int]:
        """The core of each tenant, by its slot in this group."""
        return {self.slots[place]: core for place, core in cores.items()}

    def samples(self) -> dict[str, Samples]:
        """The warm-up, and what was measured in blocks of this mix so far, by tenant."""
        own = [(name, slot) for name, slot in zip(self._names, self.slots, strict=True) if self.group.has_buffer(slot)]
        return {name: self._own(self.group.sample(slot)) for name, slot in own}

    def _own(self, samples: Samples) -> Samples:
        mine = np.array([part is self for _, part in self._log], dtype=bool)
        if mine.all():
            return samples
        opened_ns = np.array([start_ns for start_ns, _ in self._log])
        block = np.searchsorted(opened_ns, samples.start_ns, side="right") - 1
        return samples.select((samples.phase == WARMUP) | mine[block])

    def full(self) -> list[str]:
        """Tenants of the mix whose sample buffer has no room left."""
        return [name for name, slot in zip(self._names, self.slots, strict=True) if self.group.is_full(slot)]

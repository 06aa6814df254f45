"""Mixes that take turns: which cores their tenants have, however large the mixes are and whatever slots they got."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from mtexp.config import compose_spec
from mtexp.launch import CorePlan, Part, TenantGroup
from mtexp.metrics.samples import Samples
from mtexp.running.crossover import CrossoverSet, measure_rounds

_NONE = np.zeros(0, dtype=np.int64)
NOTHING = Samples(np.zeros(0, dtype=np.uint8), _NONE, _NONE, _NONE, _NONE, _NONE)
Moves = Mapping[int, int]


@dataclass(eq=False)
class Group:
    """Tenants that measure nothing and have no room left after ``blocks``; remembers where they were to move."""

    blocks: int
    moves: list[Moves] = field(default_factory=list)
    gone: bool = False

    def block(
        self, active: Collection[int], length_ns: int, cores: Moves, idle: Sequence[tuple[Group, Moves]] = ()
    ) -> tuple[int, int]:
        for group, own in ((self, cores), *idle):
            group.moves.append(own)
        return len(self.moves), len(self.moves)

    def begin_blocks(self) -> None: ...

    def end_blocks(self) -> None: ...

    def has_buffer(self, slot: int) -> bool:
        return True

    def sample(self, slot: int) -> Samples:
        return NOTHING

    def is_full(self, slot: int) -> bool:
        return len(self.moves) >= self.blocks


def part(group: Group, **slots: int) -> Part:
    return Part(cast(TenantGroup, group), slots, [])


def test_a_mix_that_is_smaller_than_the_largest_stays_on_the_first_cores(tmp_path: Path) -> None:
    """The cores were planned for the largest mix, and none is to spare."""
    group = Group(blocks=8)
    cores = CorePlan(processes=((5,), (6,), (7,)), sampler=(1,), parent=(0,))
    mixes = []
    for mix, slots in (("bert_base*3", (0, 1, 2)), ("bert_base+distilgpt2", (0, 3))):
        spec = compose_spec([f"mix={mix}", "runtime=cpu", "mps_settings=disabled", "measure.design=crossover"])
        own = part(group, **dict(zip((tenant.id for tenant in spec.tenants), slots, strict=True)))
        mixes.append([CrossoverSet(spec, own, [], tmp_path / mix)])
    measure_rounds(mixes, cores)
    assert {tuple(moves.items()) for moves in group.moves if moves} == {((0, 5), (1, 6), (2, 7)), ((0, 5), (3, 6))}


def test_a_mix_that_waits_in_another_mode_moves_its_own_tenants() -> None:
    """Their slots may be others there: a tenant that two mixes have in common in one mode may be two in the other."""
    active, idle = Group(blocks=9), Group(blocks=9)
    part(active, a=0, b=2).block([0, 1], 1, {0: 5, 1: 6}, [part(idle, a=1, b=0)])
    assert active.moves == [{0: 5, 2: 6}]
    assert idle.moves == [{1: 5, 0: 6}]

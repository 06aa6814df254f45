"""The rounds of a crossover run: which block comes next, how long it is, on which cores, and when to stop.

Everything here happens between blocks, while no tenant measures. May touch: the tenant group, metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.special  # noqa: F401  loaded here, because mtexp.metrics.round_means would load it between two rounds

from mtexp.errors import ConfigError, TenantFailed
from mtexp.launch import CorePlan, Part
from mtexp.metrics.crossover import MIN_REQUESTS, Block, Rounds, compare, enough, mark, rounds_of
from mtexp.metrics.samples import MEASURE, WARMUP, Samples
from mtexp.metrics.side_by_side import Side, mode_ratios
from mtexp.records import live_files
from mtexp.spec import MeasureSpec, RunSpec
from mtexp.text_tables import rounded

LEAST_BLOCK_MS = 50.0
"""Shortest block of an automatic length: neighbouring blocks must lie close together, and switching takes 4 ms."""
REQUESTS_A_BLOCK = 6
"""Requests of its slowest tenant for which a block is long enough; the first does not count."""
ROUNDS_A_GROUP = 1
"""Rounds after which tenants get new cores. What the core adds then differs from round to round, so that a run of 30
rounds averages over as many draws, and the rounds are as good as independent."""
ALONE_A_ROUND = 8
"""Most alone blocks of a round; with more tenants, each has one in some of the rounds only."""
LEAST_ROUNDS = 4
"""Rounds of every tenant that are measured whatever ``measure.max_time_s`` says."""
STATUS_EVERY_S = 1.0
_TRIES = 3
"""Rounds after which a tenant must have had enough requests in a block of a length that the user chose."""


@dataclass(slots=True)
class CrossoverSet:
    """The tenants of one run under one sharing mode, and the blocks in which they measure, alone and together."""

    spec: RunSpec
    tenants: Part
    blocks: list[Block]
    """Each block of this set once it has ended; numbered within the set, in rounds that all sets have in common."""
    kept: Path
    """The file that they are written to."""
    drop: Callable[[TenantFailed], None] | None = None
    """Called with the failure of a tenant to remove this set, where the others can continue; None = they cannot."""


def measure_rounds(
    mixes: Sequence[Sequence[CrossoverSet]], cores: CorePlan, status: Callable[[str], None] | None = None
) -> None:
    """Measure round after round until every set of every mix has enough.

    A set has enough when every tenant has ``measure.iterations`` requests in blocks of all, ``measure.min_time_s`` has
    passed, and the intervals (those of the ratios of STP of several sets too) are as narrow as ``measure.target_pct``,
    or ``measure.max_time_s`` of each set has passed. A full sample buffer ends the rounds too. Several mixes have a
    round each in turn, in an order drawn anew; the seconds of a mix are those of its own rounds.

    Args:
        mixes: Of each mix, its sets, one a sharing mode.
        cores: For the largest mix.
        status: Called about once a second with what was measured so far.

    Raises:
        ConfigError: ``measure.block_ms`` is too short for a tenant.
        TenantFailed: A tenant failed, and no set is left.
    """
    by_group = {own.tenants.group: own for sets in mixes for own in sets}
    several = len(mixes) > 1
    going = [_Rounds(sets, cores, fixed=several) for sets in mixes]
    for group in by_group:
        group.begin_blocks()
    rng = np.random.default_rng(mixes[0][0].spec.seed)
    said_s = time.monotonic()
    while going:
        for rounds in [going[i] for i in rng.permutation(len(going))]:
            rounds.measure()
            if rounds.enough() or rounds.full():
                going.remove(rounds)
            elif status is not None and time.monotonic() - said_s >= STATUS_EVERY_S:
                said_s = time.monotonic()
                left_s = sum(max(0.0, one.max_time_s - one.elapsed_s) for one in going)
                said = so_far(rounds.number, [own.latency for own in rounds.sets], rounds.rule, left_s)
                status(f"{said}, {len(mixes) - len(going)} of {len(mixes)} mixes done" if several else said)
    for group, own in by_group.items():
        if not group.gone:
            with guarded(own):
                group.end_blocks()


@contextmanager
def guarded(own: CrossoverSet) -> Iterator[None]:
    """Remove a set whose tenant fails, where others can continue."""
    try:
        yield
    except TenantFailed as failure:
        if own.drop is None:
            raise
        own.drop(failure)


def so_far(number: int, latencies: Sequence[Rounds], rule: MeasureSpec, left_s: float) -> str:
    """``number`` rounds done, STP of each set with its interval, the widest interval against the target, the time left.

    Args:
        number: Of rounds.
        latencies: Of each set, what its rounds measured.
        rule: When it is enough.
        left_s: Most seconds left.
    """
    text = f"measuring: {number} round{'' if number == 1 else 's'}"
    if latencies and all(int(latency.complete.min()) >= LEAST_ROUNDS for latency in latencies):
        found = [compare(latency) for latency in latencies]
        stps = [own.run["stp"] for own in found if "stp" in own.run]
        if stps:
            text += f", STP {' and '.join(f'{stp.value:.2f} [{stp.low:.2f}, {stp.high:.2f}]' for stp in stps)}"
        text += f", +- {max(own.half_width_pct for own in found):.1f} of {rule.target_pct:g} %"
    return f"{text}, at most {left_s:.0f} s left" if left_s > 0 else text


def together_requests(samples: Sequence[Samples]) -> int:
    """Requests that count in blocks of all, of the tenant that has the fewest."""
    return min(int(np.count_nonzero(own.phase == MEASURE)) for own in samples)


class _Rounds:
    """Draws and measures one round after another of a mix; all sets have the same tenants.

    Args:
        sets: One a sharing mode.
        cores: For as many tenants.
        fixed: Without spare cores, the tenants go to those that were planned for the mix.
    """

    def __init__(self, sets: Sequence[CrossoverSet], cores: CorePlan, *, fixed: bool = False) -> None:
        self._all = [_SetProgress(one) for one in sets]
        spec = sets[0].spec
        self.rule = spec.measure
        self.max_time_s = sum(one.spec.measure.max_time_s for one in sets)
        self.min_time_s = sum(one.spec.measure.min_time_s for one in sets)
        self.tenants, self.pool = len(spec.tenants), cores.pool
        self.rng = np.random.default_rng([spec.seed, spec.repetition])
        self.number = 0
        self.elapsed_s = 0.0
        """Seconds spent in its rounds so far."""
        self._fixed = [core for own in cores.processes for core in own][: self.tenants] if fixed else []
        self._due_alone: list[int] = []
        self._on: dict[int, int] = {}

    @property
    def sets(self) -> list[_SetProgress]:
        """The sets that have not failed."""
        return [own for own in self._all if not own.set.tenants.group.gone]

    def measure(self) -> None:
        """One round, in an order drawn from the seed."""
        begin_s = time.monotonic()
        everyone = tuple(range(self.tenants))
        cores = self._cores() if self.number % ROUNDS_A_GROUP == 0 else {}
        actives = [everyone, *((slot,) for slot in self._alone())]
        order = [(own, active) for own in self.sets for active in actives]
        before = {id(own): len(own.set.blocks) for own in self.sets}
        for own, active in (order[i] for i in self.rng.permutation(len(order))):
            if self.full():
                break
            if own in self.sets:
                with guarded(own.set):
                    self._block(own, active, cores)
                    cores = {}
        for own in self.sets:
            live_files.append(own.set.kept, own.set.blocks[before[id(own)] :])
        self.number += 1
        self.elapsed_s += time.monotonic() - begin_s

    def _block(self, own: _SetProgress, active: tuple[int, ...], cores: dict[int, int]) -> None:
        idle = [other.set.tenants for other in self.sets if other is not own]
        length_ns = round(own.length_ms(active) * 1e6)
        start_ns, end_ns = own.set.tenants.block(active, length_ns, cores, idle)
        own.set.blocks.append(
            Block(
                block=len(own.set.blocks),
                round=self.number,
                group=self.number // ROUNDS_A_GROUP if self.pool else self.number,
                active=tuple(own.names[slot] for slot in active),
                start_ns=start_ns,
                end_ns=end_ns,
                cores=tuple(self._on[slot] for slot in active) if self.pool else (),
            )
        )

    def full(self) -> bool:
        """Whether a sample buffer has no room left."""
        return any(own.set.tenants.full() for own in self.sets)

    def enough(self) -> bool:
        """Whether the rounds may stop, asked after each."""
        requests = [own.learn(self.number) for own in self.sets]
        if min(requests) < self.rule.iterations or self.elapsed_s < self.min_time_s:
            return False
        if self.elapsed_s >= self.max_time_s:
            return all(int(own.latency.complete.min()) >= LEAST_ROUNDS for own in self.sets)
        target_pct = self.rule.target_pct
        if not all(enough(own.latency, target_pct) for own in self.sets):
            return False
        reference, *others = (Side(own.latency, own.latency) for own in self.sets)
        ratios = [mode_ratios(other, reference, whole=True).run.values() for other in others]
        return all(ratio.half_width_pct <= target_pct for figures in ratios for ratio in figures)

    def _alone(self) -> list[int]:
        """Slots that have a block alone in this round: all, or the next of a drawn order in which all have a turn."""
        count = min(self.tenants, ALONE_A_ROUND)
        if len(self._due_alone) < count:
            self._due_alone += [int(slot) for slot in self.rng.permutation(self.tenants) if slot not in self._due_alone]
        chosen, self._due_alone = self._due_alone[:count], self._due_alone[count:]
        return chosen

    def _cores(self) -> dict[int, int]:
        """The core of each tenant in this round, for all sets: drawn anew, or fixed; empty = none of its own."""
        if not self.pool:
            return dict(enumerate(self._fixed))
        drawn = self.rng.choice(self.pool, self.tenants, replace=False)
        self._on = {slot: int(core) for slot, core in enumerate(drawn)}
        return self._on


class _SetProgress:
    """One set of tenants: how long its requests take, and its rounds so far."""

    def __init__(self, of: CrossoverSet) -> None:
        self.set, self.rule = of, of.spec.measure
        self.names = tuple(tenant.id for tenant in of.spec.tenants)
        self.latency: Rounds
        """Mean latencies of all rounds so far."""
        warm = of.tenants.samples()
        self.request_ms = {name: _warm_ms(warm[name]) for name in self.names}
        """About how long a request of each tenant takes, together and alone, as far as it is known."""
        self.alone_ms = dict(self.request_ms)
        self._check_length()

    def length_ms(self, active: Sequence[int]) -> float:
        """Length of a block of these tenants."""
        if self.rule.block_ms:
            return self.rule.block_ms
        known = self.request_ms if len(active) > 1 else self.alone_ms
        return max(LEAST_BLOCK_MS, REQUESTS_A_BLOCK * max(known[self.names[slot]] for slot in active))

    def learn(self, rounds: int) -> int:
        """Use what ``rounds`` rounds have measured; returns the fewest requests of a tenant that count together."""
        samples = mark(self.set.tenants.samples(), self.set.blocks)
        self.latency = rounds_of(samples, self.set.blocks, lambda own: own.latency_ms)
        for block in reversed(self.set.blocks):
            if block.round < rounds - 1:
                break
            known = self.request_ms if len(block.active) > 1 else self.alone_ms
            for name in block.active:
                own = samples[name]
                latest = slice(*np.searchsorted(own.block, [block.block, block.block + 1]))
                if own.latency_ms[latest].size:
                    known[name] = float(np.median(own.latency_ms[latest]))
        self._check_requests(rounds)
        return together_requests(list(samples.values()))

    def _check_length(self) -> None:
        """Refuse blocks that are too short for a tenant, as its warm-up shows."""
        for name in self.names:
            self._refuse_if(name, MIN_REQUESTS * self.alone_ms[name] > self.rule.block_ms, self.alone_ms[name])

    def _check_requests(self, rounds: int) -> None:
        """Refuse blocks in which a tenant has had too few requests, again and again."""
        if rounds >= _TRIES and len(self.names) <= ALONE_A_ROUND:
            for column, name in enumerate(self.names):
                self._refuse_if(name, self.latency.complete[column] == 0, self.request_ms[name])

    def _refuse_if(self, name: str, short: bool, request_ms: float) -> None:
        if self.rule.block_ms and short:
            needed = REQUESTS_A_BLOCK * max(self.request_ms.values())
            needs = f"one of {name} takes {rounded(request_ms, 3)} ms here"
            allowed = f"at least {MIN_REQUESTS} requests of every tenant, and {needs}"
            remedy = f"Set measure.block_ms={needed:.0f} or more, or leave it out: blocks are then as long as needed."
            raise ConfigError("measure.block_ms", f"{self.rule.block_ms:g}", allowed, remedy)


def _warm_ms(samples: Samples) -> float:
    """The shortest warm-up request in ms, 0 without any: the first ones take much longer than later ones."""
    warm = samples.latency_ms[samples.phase == WARMUP]
    return float(warm.min()) if warm.size else 0.0

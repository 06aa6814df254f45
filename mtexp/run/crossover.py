"""The rounds of a crossover run: which block comes next, how long it is, on which cores, and when it is enough.

Everything here happens between blocks, while no tenant measures. May touch: the tenant group, metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.special  # noqa: F401  loaded here, because mtexp.metrics.crossover would load it between two rounds

from mtexp.errors import ConfigError
from mtexp.launch import CorePlan, TenantGroup
from mtexp.metrics.crossover import MIN_REQUESTS, Block, Rounds, compare, enough, mark, rounds_of
from mtexp.metrics.samples import MEASURE, WARMUP, Samples
from mtexp.records.blocks_file import write_blocks
from mtexp.spec import MeasureSpec, RunSpec

LEAST_BLOCK_MS = 50.0
"""Shortest block of a run that does not say: neighbouring blocks must lie close together, and switching takes 4 ms."""
REQUESTS_A_BLOCK = 6
"""Requests of its slowest tenant that a block has room for, the first of which does not count."""
ROUNDS_A_GROUP = 1
"""Rounds after which tenants get new cores. What the core adds then differs from round to round, so that a run of 30
rounds averages over as many draws, and the rounds are as good as independent."""
ALONE_A_ROUND = 8
"""Most alone blocks of a round; with more tenants each has its turn in some of the rounds only."""
LEAST_ROUNDS = 4
"""Rounds of every tenant that are measured whatever ``measure.max_time_s`` says."""
STATUS_EVERY_S = 1.0
_TRIES = 3
"""Rounds after which a tenant must have had enough requests in a block of a length that the user chose."""


def measure_rounds(
    spec: RunSpec,
    tenants: TenantGroup,
    cores: CorePlan,
    blocks: list[Block],
    kept: Path,
    status: Callable[[str], None] = lambda text: None,
) -> None:
    """Measure round after round until it is enough; ``blocks`` gets each block as it ends, the file ``kept`` after it.

    Enough is: every tenant has ``measure.iterations`` requests in blocks of all, ``measure.min_time_s`` has passed, and
    the intervals are as narrow as ``measure.target_pct`` or ``measure.max_time_s`` has passed. A full sample buffer
    ends the rounds too.

    Raises:
        ConfigError: ``measure.block_ms`` is too short for a tenant.
        TenantFailed: A tenant failed.
    """
    rounds = _Rounds(spec, tenants, cores)
    tenants.begin_blocks()
    begin_s = said_s = time.monotonic()
    while True:
        before = len(blocks)
        rounds.measure(blocks)
        write_blocks(kept, blocks[before:])
        if rounds.enough(blocks, time.monotonic() - begin_s) or tenants.full():
            break
        if time.monotonic() - said_s >= STATUS_EVERY_S:
            said_s = time.monotonic()
            status(so_far(rounds.number, rounds.latency, spec.measure, said_s - begin_s))
    tenants.end_blocks()


def so_far(number: int, latency: Rounds | None, rule: MeasureSpec, elapsed_s: float) -> str:
    """``number`` rounds done, STP with its interval, the widest interval against the target, the most time left."""
    text = f"measuring: {number} round{'' if number == 1 else 's'}"
    if latency is not None and int(latency.complete.min()) >= LEAST_ROUNDS:
        found = compare(latency)
        if (stp := found.run.get("stp")) is not None:
            text += f", STP {stp.value:.2f} [{stp.low:.2f}, {stp.high:.2f}]"
        text += f", +- {found.half_width_pct:.1f} of {rule.target_pct:g} %"
    left_s = rule.max_time_s - elapsed_s
    return f"{text}, at most {left_s:.0f} s left" if left_s > 0 else text


def together_requests(samples: Sequence[Samples]) -> int:
    """Requests that count in blocks of all, of the tenant that has the fewest."""
    return min(int(np.count_nonzero(own.phase == MEASURE)) for own in samples)


class _Rounds:
    """Draws and measures one round after another."""

    def __init__(self, spec: RunSpec, tenants: TenantGroup, cores: CorePlan) -> None:
        self.spec, self.tenants, self.rule = spec, tenants, spec.measure
        self.names = tuple(tenant.id for tenant in spec.tenants)
        self.pool = cores.pool
        self.rng = np.random.default_rng([spec.seed, spec.repetition])
        self.number = 0
        self._turns: list[int] = []
        self.latency: Rounds | None = None
        """Mean latencies of all rounds so far."""
        warm = tenants.samples()
        self.request_ms = {name: _warm_ms(warm[name]) for name in self.names}
        """Of each tenant: about how long a request takes, together and alone, as far as it is known."""
        self.alone_ms = dict(self.request_ms)
        self._check_length()

    def measure(self, blocks: list[Block]) -> None:
        """One round, in an order drawn from the seed."""
        everyone = tuple(range(len(self.names)))
        cores = self._cores() if self.number % ROUNDS_A_GROUP == 0 else {}
        order = [everyone, *((slot,) for slot in self._alone())]
        for active in (order[i] for i in self.rng.permutation(len(order))):
            if self.tenants.full():
                break
            start_ns, end_ns = self.tenants.block(active, round(self._length_ms(active) * 1e6), cores)
            blocks.append(
                Block(
                    block=len(blocks),
                    round=self.number,
                    group=self.number // ROUNDS_A_GROUP if self.pool else self.number,
                    active=tuple(self.names[slot] for slot in active),
                    start_ns=start_ns,
                    end_ns=end_ns,
                    cores=tuple(self._on[slot] for slot in active) if self.pool else (),
                )
            )
            cores = {}
        self.number += 1

    def enough(self, blocks: list[Block], elapsed_s: float) -> bool:
        """Whether the rounds may stop, asked after each."""
        samples = mark(self.tenants.samples(), blocks)
        latency = rounds_of(samples, blocks, lambda own: own.latency_ms)
        self.latency = latency
        self._learn(samples, blocks)
        self._check_requests(latency)
        rule = self.rule
        if together_requests(list(samples.values())) < rule.iterations or elapsed_s < rule.min_time_s:
            return False
        if elapsed_s >= rule.max_time_s:
            return int(latency.complete.min()) >= LEAST_ROUNDS
        return enough(latency, rule.target_pct)

    def _alone(self) -> list[int]:
        """Slots that have a block alone in this round: all, or the next of a drawn order in which all have a turn."""
        count = min(len(self.names), ALONE_A_ROUND)
        if len(self._turns) < count:
            self._turns += [int(slot) for slot in self.rng.permutation(len(self.names)) if slot not in self._turns]
        chosen, self._turns = self._turns[:count], self._turns[count:]
        return chosen

    def _cores(self) -> dict[int, int]:
        """The core of each slot in this round, drawn anew; empty where there are none to draw from."""
        if not self.pool:
            return {}
        drawn = self.rng.choice(self.pool, len(self.names), replace=False)
        self._on = {slot: int(core) for slot, core in enumerate(drawn)}
        return self._on

    # how long a block is

    def _length_ms(self, active: Sequence[int]) -> float:
        if self.rule.block_ms:
            return self.rule.block_ms
        known = self.request_ms if len(active) > 1 else self.alone_ms
        return max(LEAST_BLOCK_MS, REQUESTS_A_BLOCK * max(known[self.names[slot]] for slot in active))

    def _learn(self, samples: Mapping[str, Samples], blocks: Sequence[Block]) -> None:
        """Take what the last round says of how long requests take, those that do not count included."""
        for block in reversed(blocks):
            if block.round < self.number - 1:
                break
            known = self.request_ms if len(block.active) > 1 else self.alone_ms
            for name in block.active:
                own = samples[name]
                latest = slice(*np.searchsorted(own.block, [block.block, block.block + 1]))
                if own.latency_ms[latest].size:
                    known[name] = float(np.median(own.latency_ms[latest]))

    def _check_length(self) -> None:
        """Refuse blocks that by the warm-up are too short for a tenant."""
        for name in self.names:
            self._refuse_if(name, MIN_REQUESTS * self.alone_ms[name] > self.rule.block_ms, self.alone_ms[name])

    def _check_requests(self, latency: Rounds) -> None:
        """Refuse blocks in which a tenant has had too few requests, again and again."""
        if self.number >= _TRIES and len(self.names) <= ALONE_A_ROUND:
            for column, name in enumerate(self.names):
                self._refuse_if(name, latency.complete[column] == 0, self.request_ms[name])

    def _refuse_if(self, name: str, short: bool, request_ms: float) -> None:
        if self.rule.block_ms and short:
            needed = REQUESTS_A_BLOCK * max(self.request_ms.values())
            allowed = (
                f"at least {MIN_REQUESTS} requests of every tenant, and one of {name} takes {request_ms:.3g} ms here"
            )
            remedy = f"Set measure.block_ms={needed:.0f} or more, or leave it out: blocks are then as long as needed."
            raise ConfigError("measure.block_ms", f"{self.rule.block_ms:g}", allowed, remedy)


def _warm_ms(samples: Samples) -> float:
    """The shortest warm-up request in ms, 0 without any: the first ones take much longer than later ones."""
    warm = samples.latency_ms[samples.phase == WARMUP]
    return float(warm.min()) if warm.size else 0.0

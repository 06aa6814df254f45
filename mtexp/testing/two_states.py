"""A made-up host whose CPU cores are in one of two states, as on a virtual machine whose neighbours use the other
thread of a physical core. Lives here: :class:`Host`. May touch: numpy.

It gives what a design of measurement would see, and the truth is known: tests and the figures of docs/method.md use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtexp.metrics.crossover import Rounds

BLOCK_S, SWITCH_S = 0.06, 0.004
"""Length of a block, and what passes between two."""


@dataclass
class Host:
    """Cores that are fast or slow (latency times ``factor``) for spells, each independently of the others."""

    rng: np.random.Generator
    cores: int = 8
    seconds: float = 16.0
    factor: float = 1.5
    spell_s: tuple[float, float] = (0.1, 2.0)
    """Shortest and longest mean spell of a core, in s."""
    step_s: float = 0.02
    slow: NDArray[np.bool_] = field(init=False)
    """Whether a core is slow, shape (steps, cores)."""

    def __post_init__(self) -> None:
        shortest, longest = np.log(self.spell_s)
        spell_s = np.exp(self.rng.uniform(shortest, longest, self.cores))
        steps = self.rng.random((round(self.seconds / self.step_s), self.cores))
        flips = np.cumsum(steps < 1 - np.exp(-self.step_s / spell_s), axis=0)
        self.slow = (flips + (self.rng.random(self.cores) < 0.5)) % 2 == 1

    def latency(self, core: int, start_s: float, length_s: float, fast: float, slow: float) -> float:
        """Mean latency of back-to-back requests in a stretch of time, given that of a fast and of a slow core."""
        first = round(start_s / self.step_s)
        share = float(self.slow[first : first + max(1, round(length_s / self.step_s)), core].mean())
        return 1 / ((1 - share) / fast + share / slow)

    def run(
        self, slowdowns: tuple[float, float], dependence: float, *, redraw: bool, count: int, begin_s: float = 0.0
    ) -> Rounds:
        """Rounds of two tenants that take turns.

        Args:
            slowdowns: Of each tenant on a fast core.
            dependence: 0 = on a slow core it is the same; 1 = a slow core hides it.
            redraw: Tenants get new cores before each round.
            count: Rounds.
            begin_s: When they begin.
        """
        cores, at_s = self.rng.choice(self.cores, 2, replace=False), begin_s
        alone, together = np.empty((2, count, 2))
        for number in range(count):
            if redraw:
                cores = self.rng.choice(self.cores, 2, replace=False)
            for active in self.rng.permutation(3):
                for i, slowdown in enumerate(slowdowns):
                    noise = np.exp(0.02 * self.rng.standard_normal())
                    if active == i:
                        alone[number, i] = noise * self.latency(cores[i], at_s, BLOCK_S, 1.0, self.factor)
                    elif active == 2:
                        slow = self.factor * slowdown ** (1 - dependence)
                        together[number, i] = noise * self.latency(cores[i], at_s, BLOCK_S, slowdown, slow)
                at_s += BLOCK_S + SWITCH_S
        return Rounds(("t0", "t1"), alone, together, np.arange(count))

    def side_by_side(self, modes: Sequence[tuple[float, float]], count: int) -> list[Rounds]:
        """Rounds of two tenants under several sharing modes that take turns on the same cores, drawn anew each round.

        Args:
            modes: Of each: latency of a lone tenant on a fast core, and the slowdown of both together.
            count: Rounds.
        """
        alone, together = np.empty((2, len(modes), count, 2))
        at_s, turns = 0.0, [(mode, active) for mode in range(len(modes)) for active in ((0,), (1,), (0, 1))]
        for number in range(count):
            cores = self.rng.choice(self.cores, 2, replace=False)
            for turn in self.rng.permutation(len(turns)):
                mode, active = turns[turn]
                cost, slowdown = modes[mode]
                measured, fast = (together, cost * slowdown) if len(active) == 2 else (alone, cost)
                for i in active:
                    noise = np.exp(0.02 * self.rng.standard_normal())
                    latency_ms = self.latency(cores[i], at_s, BLOCK_S, fast, self.factor * fast)
                    measured[mode, number, i] = noise * latency_ms
                at_s += BLOCK_S + SWITCH_S
        return [Rounds(("t0", "t1"), alone[m], together[m], np.arange(count)) for m in range(len(modes))]

    def separate(self, slowdowns: tuple[float, float], length_s: float, pause_s: float) -> list[float]:
        """Slowdowns from runs of their own: one tenant alone, then the other, then both, each on cores drawn anew.

        Args:
            slowdowns: Of each tenant, whatever the state of its core.
            length_s: Of each run.
            pause_s: Between two, for stopping and starting processes.
        """
        alone, together, at_s = [0.0, 0.0], [0.0, 0.0], 0.0
        for active in ((0,), (1,), (0, 1)):
            cores = self.rng.choice(self.cores, 2, replace=False)
            for i in active:
                slowdown = slowdowns[i] if len(active) == 2 else 1.0
                measured = together if len(active) == 2 else alone
                measured[i] = self.latency(cores[i], at_s, length_s, slowdown, self.factor * slowdown)
            at_s += length_s + pause_s
        return [shared / own for shared, own in zip(together, alone, strict=True)]

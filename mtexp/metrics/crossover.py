"""Slowdowns from blocks of time alone and together, in turns, in the same processes. May touch: numpy, scipy.

A run is made of rounds. In each round every tenant has one block of time alone (with many tenants, some of them have),
and all tenants have one block together, in random order. Within a round the state of the host and of the device hardly
changes, so the comparison is made there: the log ratio of the mean latencies together and alone. A figure is the mean
over rounds, and its interval comes from the spread of the rounds, or of groups of rounds that had the same CPU cores.

The first request of a block finds cold caches and is left out, and so are the requests after the block's end, which
only keep the neighbours company.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mtexp.metrics.bootstrap import Interval
from mtexp.metrics.round_means import Means
from mtexp.metrics.samples import ALONE, EDGE, MEASURE, Floats, Mask, Samples

MIN_REQUESTS = 3
"""Requests of a tenant that a block needs: the first is left out, and a mean of one is no mean."""
MIN_UNITS = 10
"""Rounds (or groups of rounds) of every tenant before the stopping rule is asked. An interval that is looked at after
every round, until it is narrow, would be too narrow if it were asked from two rounds on. From ten on, the final 95 %
intervals hold the truth in 93 to 98 % of simulated runs, whatever the spread of the rounds and the target
(``tests/metrics/test_crossover.py``)."""
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One stretch of time with one set of active tenants."""

    block: int
    """Its number in the run, from 0."""
    round: int
    group: int
    """Rounds of one group have the same CPU cores."""
    active: tuple[str, ...]
    """Ids of the tenants that issued requests; the others slept."""
    start_ns: int
    end_ns: int
    """Requests that start before this instant count."""
    cores: tuple[int, ...] = ()
    """CPU core of each active tenant, where they were drawn; empty = tenants stayed where they were."""


@dataclass(frozen=True, eq=False)
class Rounds:
    """Mean latency (or cycle) of every tenant in every round; NaN = no block, or one with too few requests."""

    tenants: tuple[str, ...]
    alone_ms: Floats
    """Shape (rounds, tenants)."""
    together_ms: Floats
    """Shape (rounds, tenants)."""
    group: Integers
    """Shape (rounds,): the group of each round."""

    @cached_property
    def log_ratios(self) -> Floats:
        """log(together / alone), shape (rounds, tenants)."""
        ratios: Floats = np.log(self.together_ms / self.alone_ms)
        return ratios

    @cached_property
    def complete(self) -> Integers:
        """Rounds in which each tenant was measured both alone and together, shape (tenants,)."""
        counts: Integers = np.isfinite(self.log_ratios).sum(axis=0)
        return counts


@dataclass(frozen=True, slots=True)
class CrossoverFigures:
    """What tenants do to each other, each figure with its 95 % interval."""

    slowdown: dict[str, Interval]
    """By tenant; a tenant that was measured in no round is absent."""
    normalized_progress: dict[str, Interval]
    run: dict[str, Interval]
    """``stp``, ``antt``, ``jain_fairness``, ``fairness``; empty when a tenant is absent."""
    half_width_pct: float = math.inf
    """The widest of the intervals of the slowdowns and of STP by what the rounds show, which more rounds narrow: half
    of it as a share of the figure, in percent; infinite when a tenant is absent."""


# --- from requests to rounds ------------------------------------------------------------------------------------------


def counted(start_ns: Integers, end_ns: Integers, block: Block, together_ns: int) -> Mask:
    """Which requests of one tenant in one block count: not its first ones, those that begin before any has ended.

    Args:
        start_ns: Start of each of its requests in the block, shape (n,).
        end_ns: Their ends, ascending.
        block: The block.
        together_ns: When the last of the active tenants had started: before that some neighbours were missing.
    """
    mask: Mask = (start_ns >= together_ns) & (start_ns < block.end_ns)
    mask[start_ns < end_ns[:1]] = False
    return mask


def mark(samples: Mapping[str, Samples], blocks: Sequence[Block]) -> dict[str, Samples]:
    """Return ``samples`` with the block, the round and the phase of every measured request.

    The phase is :data:`~mtexp.metrics.samples.MEASURE` for requests that count in a block of all tenants, ``ALONE`` for
    those that count in a block of one, ``EDGE`` for the first of a block and those after its end.

    Args:
        samples: By tenant id, as measured.
        blocks: Of the run, in order.
    """
    if not blocks:
        return dict(samples)
    everyone = len(samples)
    opens_ns = np.array([block.start_ns for block in blocks])
    owner = {name: np.searchsorted(opens_ns, own.start_ns, side="right") - 1 for name, own in samples.items()}
    for name, own in samples.items():
        owner[name][own.phase != MEASURE] = -1
    phases = {name: np.where(own.phase == MEASURE, EDGE, own.phase).astype(np.uint8) for name, own in samples.items()}
    for number, block in enumerate(blocks):
        rows = {name: _rows(owner[name], number) for name in block.active if name in samples}
        began = [int(samples[name].start_ns[place.start]) for name, place in rows.items() if place.start < place.stop]
        if len(began) < len(block.active):
            continue  # a tenant failed before it began
        phase = MEASURE if len(block.active) == everyone else ALONE
        for name, place in rows.items():
            own = samples[name]
            mask = counted(own.start_ns[place], own.end_ns[place], block, max(began))
            phases[name][place][mask] = phase
    rounds = np.array([*(block.round for block in blocks), -1])  # the last one is for requests of no block
    numbers = np.array([*(block.block for block in blocks), -1])
    return {
        name: replace(own, phase=phases[name], block=numbers[owner[name]], round=rounds[owner[name]])
        for name, own in samples.items()
    }


def _rows(owner: Integers, number: int) -> slice:
    """Rows of the requests of one block; they follow each other."""
    first, last = np.searchsorted(owner, [number, number + 1])
    return slice(int(first), int(last))


def rounds_of(samples: Mapping[str, Samples], blocks: Sequence[Block], value: Callable[[Samples], Floats]) -> Rounds:
    """Means of ``value`` (of each request, shape (n,)) by round, over the requests that count.

    A block in which a tenant has fewer than two requests that count is left out for that tenant.

    Args:
        samples: By tenant id, as :func:`mark` returns them.
        blocks: Of the run, in order.
        value: What to average, e.g. the latency in ms.
    """
    count = 1 + max((block.round for block in blocks), default=-1)
    group = np.zeros(count, dtype=np.int64)
    for block in blocks:
        group[block.round] = block.group
    columns = {phase: np.full((count, len(samples)), np.nan) for phase in (ALONE, MEASURE)}
    for column, own in enumerate(samples.values()):
        values = value(own)
        for phase, cells in columns.items():
            kept = own.phase == phase
            if kept.any():
                cells[:, column] = _means(own.round[kept], values[kept], count)
    return Rounds(tuple(samples), columns[ALONE], columns[MEASURE], group)


def _means(rounds: Integers, values: Floats, count: int) -> Floats:
    requests = np.bincount(rounds, minlength=count)
    sums = np.bincount(rounds, weights=values, minlength=count)
    return np.where(requests >= MIN_REQUESTS - 1, sums / np.maximum(requests, 1), np.nan)


# --- from rounds to figures -------------------------------------------------------------------------------------------


def compare(
    latency: Rounds, cycle: Rounds | None = None, *, unseen: Floats | None = None, seed: int = 0
) -> CrossoverFigures:
    """Slowdown and normalized progress of every tenant, STP, ANTT, Jain's index and fairness, with their intervals.

    A tenant's figure is exp(mean of the log ratios of its rounds). Its interval is a t interval: rounds of one group
    share their cores, so the unit is the group, with the number of groups - 1 degrees of freedom; where every round is
    a group of its own, that is the usual t interval over rounds. Intervals of STP and ANTT follow by linearisation
    (the delta method) of the same sum over groups, which keeps what tenants of one round have in common. Fairness is a
    function of the difference between two tenants' log ratios: its interval is the range that all pairwise intervals,
    with Bonferroni's correction, allow. That of Jain's index comes from draws of the tenants' means.

    Args:
        latency: Mean latencies by round.
        cycle: Mean cycles by round, for normalized progress and all that is made of it; None = those of ``latency``.
        unseen: What states of a set of processes add to each tenant's log ratio, shape (states, tenants); None =
            nothing.
        seed: Of the draws for Jain's index.
    """
    slowed = Means.of(latency.log_ratios, latency.group, unseen)
    progressed = slowed if cycle is None else Means.of(cycle.log_ratios, cycle.group, unseen)
    there = [i for i in range(len(latency.tenants)) if latency.complete[i] and np.isfinite(progressed.mean[i])]
    slowdown = {latency.tenants[i]: slowed.exponential(i, 1.0) for i in there}
    progress = {latency.tenants[i]: progressed.exponential(i, -1.0) for i in there}
    if len(there) < len(latency.tenants) or not there:
        return CrossoverFigures(slowdown, progress, {})
    run = {
        "stp": progressed.total(),
        "antt": slowed.average(),
        "jain_fairness": progressed.jain(seed),
        "fairness": progressed.fairness(),
    }
    seen = slowed.by_rounds()
    widths = [seen.exponential(i, 1.0).half_width_pct for i in there]
    return CrossoverFigures(slowdown, progress, run, max(*widths, progressed.by_rounds().total().half_width_pct))


def enough(latency: Rounds, target_pct: float) -> bool:
    """The stopping rule: by the rounds, every slowdown and STP are known to +- ``target_pct`` percent.

    It may be asked after every round, from :data:`MIN_UNITS` units of every tenant on.
    """
    if latency.complete.size == 0 or _units(latency).min() < MIN_UNITS:
        return False
    return compare(latency).half_width_pct <= target_pct


def _units(rounds: Rounds) -> Integers:
    """Groups in which each tenant was measured, shape (tenants,)."""
    seen = np.isfinite(rounds.log_ratios)
    return np.array([np.unique(rounds.group[column]).size for column in seen.T], dtype=np.int64)


def mean_interval(values: Floats, group: Integers, unseen_sd: float = 0.0) -> Interval:
    """The mean over rounds of ``values`` (shape (rounds,), NaN = none) with its t interval over groups.

    Args:
        values: By round.
        group: Of each round.
        unseen_sd: Standard deviation of their logarithm between sets of processes, beyond what the rounds show.

    Raises:
        ValueError: No value.
    """
    if not np.isfinite(values).any():
        raise ValueError("the interval of a mean needs at least one value, found none")
    return Means.of(values[:, None], group, np.array([[unseen_sd * float(np.nanmean(values))]])).itself(0)


# --- what the host adds -----------------------------------------------------------------------------------------------


def host_noise_pct(alone_ms: Floats) -> float | None:
    """Spread of a tenant's alone blocks: the SD of the logarithm of their mean latencies, in percent.

    Alone blocks run the same work on the same device: what differs is the state of the host (and the clock).

    Args:
        alone_ms: Mean latency of each alone block, shape (n,), NaN = none.
    """
    there = alone_ms[np.isfinite(alone_ms)]
    return 100 * float(np.log(there).std(ddof=1)) if there.size > 1 else None


@dataclass(frozen=True, slots=True)
class Split:
    """A slowdown as a sum: 1 + ``host`` + ``wait`` + ``kernels``, in units of the latency alone.

    The host issues a request and its kernels (``enqueue``); the device may begin at once, and ends after the host.
    ``host`` is what enqueueing takes longer. What the device needs after the last kernel was enqueued is the rest of
    the latency, and its growth is ``wait`` + ``kernels``: ``wait``, at most, is what passed before the device began
    with the request; ``kernels`` is all other growth, kernels that run longer and gaps between kernels while another
    tenant's run. The time stamps cannot tell those two apart. A full launch queue makes the host wait for the device:
    that counts as ``host``.
    """

    host: float
    wait: float
    kernels: float


def split(alone: Samples, together: Samples) -> Split | None:
    """Split the slowdown of a tenant, or None where enqueueing or the device's span was not stamped.

    Args:
        alone: The requests that count in its alone blocks.
        together: Those that count in the blocks of all.
    """
    parts = [_parts(samples) for samples in (alone, together)]
    if any(part is None for part in parts):
        return None
    (latency_ms, enqueue_ms, wait_ms), (latency_2, enqueue_2, wait_2) = parts  # type: ignore[misc]
    host = (enqueue_2 - enqueue_ms) / latency_ms
    device = (latency_2 - latency_ms) / latency_ms - host
    wait = min(max(0.0, (wait_2 - wait_ms) / latency_ms), max(0.0, device))
    return Split(host, wait, device - wait)


def _parts(samples: Samples) -> tuple[float, float, float] | None:
    """Mean latency, enqueue time and wait, in ms."""
    there = np.isfinite(samples.enqueue_ms) & np.isfinite(samples.wait_ms)
    if not there.any():
        return None
    columns = samples.latency_ms[there], samples.enqueue_ms[there], samples.wait_ms[there]
    latency_ms, enqueue_ms, wait_ms = (float(column.mean()) for column in columns)
    return latency_ms, enqueue_ms, wait_ms

"""Figures of a sharing mode against another that was measured side by side with it. May touch: numpy, scipy.

Sets of processes, one a mode, take turns block by block: a round has every block of every mode, on the same CPU cores.
So two modes are compared as a tenant alone and together is (:mod:`mtexp.metrics.crossover`): the log ratio within each
round, its mean over rounds, a t interval. One mode of a session is the reference; where that is time slicing, its alone
blocks are the tenant on the whole device with no mode at all, which is what a mode costs is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtexp.metrics.bootstrap import Interval
from mtexp.metrics.crossover import Block, Rounds, rounds_of
from mtexp.metrics.crossover_summary import cycle_ms
from mtexp.metrics.round_means import Means
from mtexp.metrics.samples import Floats, Samples
from mtexp.metrics.summary import Metrics, ends


@dataclass(frozen=True, eq=False)
class Side:
    """What one mode of a session measured, by round."""

    latency: Rounds
    cycle: Rounds
    unseen: Floats | None = None
    """What states of its set of processes add to each tenant's log slowdown, shape (states, tenants)."""

    @classmethod
    def of(cls, samples: Mapping[str, Samples], blocks: Sequence[Block], unseen: Floats | None = None) -> Side:
        """From the requests of its tenants, as :func:`mtexp.metrics.crossover.mark` returns them, and ``unseen``."""
        latency = rounds_of(samples, blocks, lambda own: own.latency_ms)
        return cls(latency, rounds_of(samples, blocks, cycle_ms), unseen)


@dataclass(frozen=True, slots=True)
class ModeRatios:
    """Figures of a mode against the reference of its session, with 95 % intervals."""

    run: dict[str, Interval]
    """``stp_ratio``; with a reference on the whole device ``stp_whole``, ``antt_whole``, ``stp_whole_ratio``."""
    tenants: dict[str, dict[str, Interval]]
    """By tenant: ``latency_ratio``, ``throughput_ratio``; with a reference on the whole device ``mode_cost``,
    ``slowdown_whole``, ``normalized_progress_whole``."""

    @property
    def run_metrics(self) -> Metrics:
        """The ratios of the run as metrics."""
        return _metrics(self.run)

    def tenant_metrics(self, name: str) -> Metrics:
        """The ratios of one tenant as metrics."""
        return _metrics(self.tenants.get(name, {}))


def _metrics(intervals: Mapping[str, Interval]) -> Metrics:
    return {key: interval.value for key, interval in intervals.items()} | ends(intervals)


def mode_ratios(own: Side, reference: Side, *, whole: bool) -> ModeRatios:
    """Compare a mode with the reference of its session, over the rounds that both have.

    Args:
        own: The mode.
        reference: Of the same tenants.
        whole: In the alone blocks of the reference a tenant has the whole device and no mode (time slicing).
    """
    rounds = min(len(own.latency.group), len(reference.latency.group))
    group = own.latency.group[:rounds]
    together, alone = _logs(own.latency, rounds)
    ref_together, ref_alone = _logs(reference.latency, rounds)
    cycle, own_cycle = _logs(own.cycle, rounds)
    ref_cycle, ref_own_cycle = _logs(reference.cycle, rounds)
    states = [side.unseen for side in (own, reference) if side.unseen is not None]
    both = np.vstack(states) if states else None
    figures: dict[str, tuple[Floats, float, Floats | None]] = {
        "latency_ratio": (together - ref_together, 1.0, both),
        "throughput_ratio": (cycle - ref_cycle, -1.0, both),
    }
    if whole:
        figures |= {
            "mode_cost": (alone - ref_alone, 1.0, None),
            "slowdown_whole": (together - ref_alone, 1.0, own.unseen),
            "normalized_progress_whole": (cycle - ref_own_cycle, -1.0, own.unseen),
        }
    tenants: dict[str, dict[str, Interval]] = {name: {} for name in own.latency.tenants}
    for key, (values, sign, unseen) in figures.items():
        means = Means.of(values, group, unseen)
        for column, name in enumerate(tenants):
            if means.groups[column]:
                tenants[name][key] = means.exponential(column, sign)
    progress = Means.of(cycle - own_cycle, group, own.unseen)
    ref_progress = Means.of(ref_cycle - ref_own_cycle, group, reference.unseen)
    run: dict[str, Interval] = {}
    if progress.groups.all() and ref_progress.groups.all():
        run["stp_ratio"] = progress.ratio(ref_progress)
        if whole:
            progress = Means.of(cycle - ref_own_cycle, group, own.unseen)
            run["stp_whole"] = progress.total()
            run["antt_whole"] = Means.of(together - ref_alone, group, own.unseen).average()
            run["stp_whole_ratio"] = progress.ratio(ref_progress)
    return ModeRatios(run, tenants)


def _logs(rounds: Rounds, count: int) -> tuple[Floats, Floats]:
    """Logs of what the first ``count`` rounds measured together and alone, shape (rounds, tenants)."""
    return np.log(rounds.together_ms[:count]), np.log(rounds.alone_ms[:count])

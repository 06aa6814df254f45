"""Fairness and Jain's index with the noise taken off. May touch: numpy.

Noise makes equal tenants look unequal: the smallest of several noisy NP is too small and the largest too large, so
min / max NP of what was measured is too low on average. Of eight equal tenants that err by 5 % each it is 0.87.

The noise is taken off by turning the question round: *which true spread, with this much noise on it, gives the spread
that was measured?* Let x be the log NP that were measured, T their range, u = x / T their pattern, and e one draw of
their errors. A true range R would have given range(R u + e). The largest R with range(R u + e) <= T answers for this
draw, or 0 where there is none. The quantiles of R over many draws are the ends of a confidence interval: they are those
R whose predicted range has T at its own quantiles (a fiducial distribution). The figure is the median, with 0 for all
draws in which noise alone exceeds T. fairness = exp(-R), so the interval lies on both sides of the figure, and ends at
1 where the tenants may well be equal.

Tenants may agree better than noise lets expect, by chance or because the noise is taken as too large. Then nearly every
draw is 0, and the interval would be a point at 1: certainty, from a measurement that cannot see a difference. So for
the upper end of R, T is taken as no smaller than the median range of noise alone: an interval is never narrower than
that of an ordinary measurement of equal tenants (G. Cowan, K. Cranmer, E. Gross, O. Vitells, Power-Constrained Limits,
arXiv:1105.3166, 2011).

The pattern is noisy as well. Where several tenants share an end of the range, as measured they do not, and too little
would be taken off; so the lower end of R comes from a pattern in which every tenant is moved to the nearer end by one
standard error of its distance, the upper end from the pattern as measured, and draws between them from both.

Intervals hold the truth in 90 to 99 % of simulated runs of 2, 3, 5 and 8 tenants, equal and unequal, that err by 1.6 to
17 % each (``tests/metrics/test_evenness.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtexp.metrics.samples import Floats, Mask

_STEPS = 30


@dataclass(frozen=True, slots=True, eq=False)
class Evenness:
    """An index in (0, 1] that is 1 when all tenants progress alike, with the noise taken off."""

    value: float
    draws: Floats
    """Shape (draws,). The 2.5 % and the 97.5 % quantile are the ends of the 95 % interval."""


def fairness_without_noise(progress: Floats, errors: Floats) -> Evenness:
    """The true min NP / max NP of one run or point.

    Args:
        progress: NP as measured, of each of n tenants: shape (n,), positive.
        errors: Draws of the errors of log NP: shape (n, draws). What tenants have in common (one baseline, one host)
            belongs in them, as equal draws: it takes nothing off.
    """
    logs = np.log(progress)
    distance = float(np.ptp(logs))
    if distance == 0:
        return Evenness(1.0, np.ones(errors.shape[1]))
    noise_alone = np.ptp(errors, axis=0)
    most = _ranges(logs, errors, max(distance, float(np.median(noise_alone))))
    least = np.minimum(most, _ranges(_at_the_ends(logs, errors), errors, distance))
    return _evenness(_between(least, most), noise_alone > distance)


def mean_fairness_without_noise(progress: Sequence[Floats], errors: Sequence[Floats]) -> Evenness:
    """The geometric mean of the true min NP / max NP of several mixes.

    Not the mean of their :func:`fairness_without_noise`: each of those is at most 1, so their mean stays below 1 even
    where all tenants are equal. Here all mixes share one factor by which noise stretched their ranges.

    Args:
        progress: Of each mix, as in :func:`fairness_without_noise`.
        errors: Of each mix, of shape (its tenants, draws); draws belong together.
    """
    logs = [np.log(own) for own in progress]
    total = float(np.sum([np.ptp(own) for own in logs]))
    if total == 0:
        return Evenness(1.0, np.ones(errors[0].shape[1]))
    noise_alone = np.sum([np.ptp(noise, axis=0) for noise in errors], axis=0)
    most = _summed_ranges(logs, errors, max(total, float(np.median(noise_alone))))
    least = np.minimum(
        most, _summed_ranges([_less_uneven(*own) for own in zip(logs, errors, strict=True)], errors, total)
    )
    return _evenness(_between(least, most) / len(logs), noise_alone > total)


def jain_without_noise(progress: Floats, errors: Floats) -> Evenness:
    """The true Jain index; as :func:`fairness_without_noise`, with the variance of NP in the place of the range."""
    share = progress / progress.mean()
    spread = share - 1
    measured = float(np.mean(spread**2))
    if measured == 0:
        return Evenness(1.0, np.ones(errors.shape[1]))
    noise = share[:, None] * np.expm1(errors)
    noise -= noise.mean(axis=0)
    both = spread @ noise / share.size
    alone = np.mean(noise**2, axis=0)

    def variances(target: float) -> Floats:
        under_root = both**2 - measured * (alone - target)  # of: variance(scale * spread + noise) = target
        scale = np.where(under_root > 0, (np.sqrt(np.maximum(under_root, 0)) - both) / measured, 0)
        found: Floats = np.maximum(scale, 0) ** 2 * measured
        return found

    least, most = variances(measured), variances(max(measured, float(np.median(alone))))
    value = float(np.median(np.where(alone > measured, 0, least)))
    return Evenness(1 / (1 + value), 1 / (1 + _between(np.minimum(least, most), most)))


def _evenness(ranges: Floats, noise_alone: Mask) -> Evenness:
    """The index by draws of the range of log NP; ``noise_alone``: whether noise alone exceeds the measured range."""
    value = float(np.median(np.where(noise_alone, 0, ranges)))
    return Evenness(float(np.exp(-value)), np.exp(-ranges))


def _between(least: Floats, most: Floats) -> Floats:
    """Draws whose low end is that of ``least`` and whose high end is that of ``most``; ``least <= most``."""
    share = np.empty_like(most)
    share[np.argsort(most)] = np.linspace(0, 1, most.size)
    found: Floats = share * most + (1 - share) * least
    return found


def _ranges(pattern: Floats, errors: Floats, target: float) -> Floats:
    """For each draw the largest R with range(R pattern / range(pattern) + errors) <= ``target``, at least 0.

    Shape (draws,). Infinite where no two values of ``pattern`` differ.
    """
    distance = float(np.ptp(pattern))
    largest = np.full(errors.shape[1], np.inf)
    for i in range(pattern.size):
        for j in range(i):
            above, below = (i, j) if pattern[i] > pattern[j] else (j, i)
            apart = float(pattern[above] - pattern[below])
            if apart > 0:
                room = target - (errors[above] - errors[below])
                np.minimum(largest, room * (distance / apart), out=largest)
    found: Floats = np.maximum(largest, 0)
    return found


def _at_the_ends(logs: Floats, errors: Floats) -> Floats:
    """The pattern in which each value is moved to the nearer end by one standard error of its distance from it."""
    top, bottom = int(np.argmax(logs)), int(np.argmin(logs))
    moved = logs.copy()
    for i, value in enumerate(logs):
        if logs[top] - value <= value - logs[bottom]:
            moved[i] = min(logs[top], value + np.std(errors[top] - errors[i]))
        else:
            moved[i] = max(logs[bottom], value - np.std(errors[bottom] - errors[i]))
    return moved


def _summed_ranges(logs: Sequence[Floats], errors: Sequence[Floats], total: float) -> Floats:
    """For each draw the largest sum of ranges of ``logs``, stretched by one factor, that noise makes ``total``."""

    def predicted(scale: Floats) -> Floats:
        ranges = [np.ptp(scale * own[:, None] + noise, axis=0) for own, noise in zip(logs, errors, strict=True)]
        summed: Floats = np.sum(ranges, axis=0)
        return summed

    distance = float(np.sum([np.ptp(own) for own in logs]))
    low, high = np.zeros(errors[0].shape[1]), np.full(errors[0].shape[1], 2.0)
    if distance == 0:
        return low
    while (short := predicted(high) < total).any():
        high[short] *= 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        above = predicted(middle) > total
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    found: Floats = low * distance
    return found


def _less_uneven(logs: Floats, errors: Floats) -> Floats:
    """Log NP of a mix, drawn together until their range is less by one standard error of it."""
    distance = float(np.ptp(logs))
    error = float(np.std(errors[np.argmax(logs)] - errors[np.argmin(logs)]))
    drawn: Floats = logs * max(0.0, 1 - error / distance) if distance > 0 else logs
    return drawn

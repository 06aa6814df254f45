"""What runs of the same thing differ by, as draws of the error of their mean. May touch: numpy.

A run is one throw of all that a fresh start changes: clocks, cores, memory, what else the host does. Its iterations
share that throw, so no resampling of iterations shows it. Runs are therefore compared as runs: on logarithms, where a
slowdown is a difference and an error a percentage, the mean of R runs errs like the t distribution with R - 1 degrees
of freedom, scaled with the standard deviation of the runs (A. Georges, D. Buytaert, L. Eeckhout, Statistically Rigorous
Java Performance Evaluation, OOPSLA 2007; T. Kalibera, R. Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013). A
bootstrap of three runs would know ten different samples only, and its intervals would be less than half as wide.

Errors are given as draws: a ratio subtracts those of its two sides (the fiducial answer to Behrens and Fisher, which
holds the truth at least as often as it says), tenants of one run keep what they have in common, and two mixes that are
compared with the same baseline share its error. Two runs or one say too little of their spread (t would be 12.7 times
it): their error is that within the run, and the spread is taken from runs that were repeated (:func:`pooled`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mtexp.metrics.bootstrap import LEVEL, Interval, mean_interval, percentile_interval
from mtexp.metrics.latency import percentile_name, supported
from mtexp.metrics.samples import Floats
from mtexp.metrics.window import Series

FEWEST_RUNS = 3
"""Runs of one thing from which their own spread is used."""
_QUANTILES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Reading:
    """One statistic of one tenant in one run."""

    log: float
    """Its natural logarithm."""
    error: float
    """Standard error of the logarithm, by what its iterations say (blocks, order statistics); NaN where they bound it
    on one side only, as few of them do a percentile."""


_ABSENT = Reading(math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Between:
    """How far runs of the same thing lie apart, on logarithms."""

    sd: float
    """Standard deviation: 0.05 is 5 %."""
    freedom: int
    """Degrees of freedom it rests on."""


def readings(series: Series, **means_of: Floats) -> dict[str, Reading]:
    """Statistics of what a run kept of a tenant: ``throughput``, ``mean``, ``p50`` ... ``p99`` where supported.

    Args:
        series: Two iterations or more.
        means_of: Further statistics: the mean of each of these times, shape (n,).

    Raises:
        ValueError: Fewer than two iterations.
    """
    if series.latency_ms.size < 2:
        raise ValueError(f"a reading needs two iterations or more, found {series.latency_ms.size}")
    found = {"throughput": Reading(math.log(series.throughput_rps), _reading(mean_interval(series.cycle_ms)).error)}
    for name, values in {"mean": series.latency_ms, **means_of}.items():
        found[name] = _reading(mean_interval(values))
    for percentile in supported(series.latency_ms.size):
        found[percentile_name(percentile)] = _reading(percentile_interval(series.latency_ms, percentile))
    return found


def _reading(interval: Interval) -> Reading:
    error = (interval.high - interval.low) / (2 * _Z95 * interval.value)
    return Reading(math.log(interval.value), error if math.isfinite(error) else math.nan)


def pooled(groups: Iterable[Sequence[float]]) -> Between | None:
    """The spread that groups of runs (logarithms of one figure each) have in common; None without a repeated one."""
    squares, freedom = 0.0, 0
    for logs in groups:
        if len(logs) > 1:
            squares += float(np.var(logs)) * len(logs)
            freedom += len(logs) - 1
    return Between(math.sqrt(squares / freedom), freedom) if freedom else None


def mean_errors(
    runs: Sequence[Sequence[Mapping[str, Reading]]], names: Sequence[str], draws: int, rng: np.random.Generator
) -> Floats:
    """Draws of the error of the mean over runs, on logarithms; shape (tenants, names, draws).

    From :data:`FEWEST_RUNS` on by the spread of the runs, the same throw for all tenants and names of one run; for
    fewer by what iterations say, independently: the spread between runs is then to be added (:func:`between_errors`).
    NaN where a tenant lacks a statistic in a run, or where so few runs have one that its iterations do not bound.

    Args:
        runs: ``runs[run][tenant]``: its readings.
        names: Of the statistics.
        draws: How many.
        rng: Source of chance.
    """
    found = [[[own.get(name, _ABSENT) for name in names] for own in run] for run in runs]
    logs = np.array([[[reading.log for reading in own] for own in run] for run in found])
    count = len(runs)
    if count >= FEWEST_RUNS:
        scale = np.sqrt(count * rng.chisquare(count - 1, draws))  # of t: (R - 1) s^2 / chi^2, over R
        throws = rng.standard_normal((draws, count)) / scale[:, None]
        spread: Floats = np.einsum("dr,rtn->tnd", throws, logs - logs.mean(axis=0))
        return spread
    errors = np.array([[[reading.error for reading in own] for own in run] for run in found])
    within: Floats = np.sqrt((errors**2).sum(axis=0))[:, :, None] / count
    return within * rng.standard_normal((*logs.shape[1:], draws))


def between_errors(runs: int, freedom: ArrayLike, draws: int, rng: np.random.Generator) -> Floats:
    """Draws of what a mean of so few runs errs by because runs differ, in units of :attr:`Between.sd`.

    t of ``freedom`` (shape S; degrees of freedom that each spread rests on) over the root of ``runs``, shape (*S,
    draws): one throw for all, longer where less is known of the spread. 0 from :data:`FEWEST_RUNS` on (it is in
    :func:`mean_errors`), and where nothing was repeated.
    """
    wanted = np.asarray(freedom)
    if runs >= FEWEST_RUNS or not wanted.any():
        return np.zeros((*wanted.shape, draws))
    distinct, place = np.unique(wanted, return_inverse=True)
    known = np.maximum(distinct, 1)[:, None]
    errors = rng.standard_normal(draws) / np.sqrt(runs * rng.chisquare(known, (len(known), draws)) / known)
    errors[distinct == 0] = 0
    found: Floats = errors[place.ravel()].reshape(*wanted.shape, draws)
    return found


@dataclass(frozen=True, eq=False)
class Estimate:
    """A positive figure with draws of its error, so that what is made of several keeps what they have in common."""

    value: float
    errors: Floats
    """On logarithms, shape (draws,); NaN where its error is not known."""
    most: float = math.inf
    """What the figure cannot exceed."""
    least_high: float = 0.0
    """The upper end of its interval is no lower."""

    @property
    def interval(self) -> Interval:
        """The figure and its 95 % interval, which holds it; (0, infinity) where its error is not known."""
        if np.isnan(self.errors).any():
            return Interval(self.value, 0.0, math.inf)
        low, high = self.value * np.exp(np.quantile(self.errors, _QUANTILES))
        high = min(self.most, max(self.value, self.least_high, float(high)))
        return Interval(self.value, min(self.value, float(low)), high)

    def __truediv__(self, other: Estimate) -> Estimate:
        return Estimate(self.value / other.value, self.errors - other.errors)

    @classmethod
    def of(cls, value: float, drawn: Floats) -> Estimate:
        """A figure and draws of it, shape (draws,)."""
        return cls(value, np.log(drawn / value))

    @classmethod
    def evenness(cls, value: float, drawn: Floats, of_equals: Floats) -> Estimate:
        """An index that is 1 when all are alike, draws of it, and of what it would be for equals, shape (draws,).

        Noise makes equals look unequal, in what was measured and once more in every draw: the draws lie as far below
        the figure as the figure lies below the truth. So they are turned round it (the basic bootstrap), and the
        interval reaches up to what noise alone would have made of the figure in 97.5 % of cases.
        """
        least_high = value / float(np.quantile(of_equals, _QUANTILES[0]))
        return cls(value, np.log(value / drawn), 1.0, min(1.0, least_high))


def geometric_mean(figures: Sequence[Estimate]) -> Estimate:
    """Of figures whose draws belong together.

    Raises:
        ValueError: None is given.
    """
    if not figures:
        raise ValueError("a geometric mean needs at least one figure, found none")
    value = math.exp(sum(math.log(figure.value) for figure in figures) / len(figures))
    return Estimate(value, np.mean([figure.errors for figure in figures], axis=0), max(f.most for f in figures))

"""What runs of the same thing differ by, as draws of the error of their mean. May touch: numpy.

A run is one throw of all that a fresh start changes: clocks, cores, memory, what else the host does. Its iterations
share that throw, so no resampling of iterations shows it. Runs are therefore compared as runs: on logarithms, where a
slowdown is a difference and an error a percentage (A. Georges, D. Buytaert, L. Eeckhout, Statistically Rigorous Java
Performance Evaluation, OOPSLA 2007; T. Kalibera, R. Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013). Few
runs say little of their own spread (t of two degrees of freedom is 4.3 times the standard error), so it is shrunk to
that of runs like them (:mod:`mtexp.metrics.spread`): another run of the same makes an interval narrower.

Errors are given as draws: a ratio subtracts those of its two sides (the fiducial answer to Behrens and Fisher, which
holds the truth at least as often as it says), tenants of one run have the part of their error in common that was
measured, and two mixes that are compared with the same baseline share its error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtexp.metrics.bootstrap import LEVEL, Interval, mean_interval, percentile_interval
from mtexp.metrics.latency import percentile_name, supported
from mtexp.metrics.samples import Floats
from mtexp.metrics.spread import Between
from mtexp.metrics.window import Series

FEWEST_RUNS = 3
"""Runs from which on a percentile has an interval even where its iterations do not bound it."""
_USUAL_CORRELATION, _USUAL_FREEDOM = 0.15, 4.0
"""Correlation of tenants of one run (H100s: 0.1, H200s: 0.2), and the degrees of freedom that it counts for."""
_QUANTILES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_Z95 = 1.959963984540054
_ROUNDING = 1e-9
"""An end that is nearer than this to what a figure cannot exceed is there: value * exp(log(1 / value)) is seldom 1."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One statistic of one tenant in one run."""

    log: float
    """Its natural logarithm."""
    error: float
    """Standard error of the logarithm, by what its iterations say (blocks, order statistics); NaN where they bound it
    on one side only, as few of them do a percentile."""


_ABSENT = Reading(math.nan, math.nan)


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


def run_errors(
    runs: Sequence[Sequence[Mapping[str, Reading]]],
    names: Sequence[str],
    spreads: Sequence[Sequence[Between]],
    how: Together,
    normals: NormalDraws,
) -> Floats:
    """Draws of the error of the mean over runs, on logarithms; shape (tenants, names, draws).

    The error of a mean is its tenant's spread over the root of the number of runs. Tenants have the part of it in
    common that was measured, statistics follow the mean of their tenant as far as was measured. An error is never taken
    as smaller than what the iterations show, and where nothing was repeated it is that. NaN where a tenant lacks a
    statistic in a run, or where so few runs (below :data:`FEWEST_RUNS`) have one that its iterations do not bound.

    Args:
        runs: ``runs[run][tenant]``: its readings.
        names: Of the statistics.
        spreads: ``spreads[tenant][name]``: how far runs lie apart.
        how: What tenants and statistics of one run have in common; ``follows`` has one row a tenant.
        normals: Source of chance.
    """
    found = [[[own.get(name, _ABSENT) for name in names] for own in run] for run in runs]
    shape = (len(found[0]), len(names))
    within = np.array([[[reading.error for reading in own] for own in run] for run in found])
    bounded = np.isfinite(within).all(axis=0)
    there = np.isfinite([[[reading.log for reading in own] for own in run] for run in found]).all(axis=0)
    least = np.sqrt(np.nanmean(np.where(np.isfinite(within), within, 0.0) ** 2, axis=0))
    common = normals.normal(())
    errors = np.empty((*shape, normals.draws))
    for tenant in range(shape[0]):
        of_mean = math.sqrt(how.tenants) * common + math.sqrt(1 - how.tenants) * normals.normal(())
        own, of_variance = normals.normal((len(names),)), normals.normal(())
        for index, spread in enumerate(spreads[tenant]):
            follows = how.follows[tenant][index]
            throw = follows * of_mean + math.sqrt(1 - follows**2) * own[index]
            sd = spread.draws(of_variance) if spread.freedom else 0.0
            errors[tenant, index] = throw * np.maximum(sd, least[tenant, index]) / math.sqrt(len(runs))
    errors[~(there & (bounded | (len(runs) >= FEWEST_RUNS)))] = np.nan
    return errors


@dataclass(frozen=True)
class Together:
    """What errors of one run have in common."""

    tenants: float
    """Correlation of two tenants of one run, from 0 to 1."""
    follows: Sequence[Sequence[float]]
    """``follows[tenant][name]``: correlation of a statistic with the mean of its tenant."""


@dataclass(frozen=True)
class NormalDraws:
    """A source of standard normal draws, so many at a time."""

    draws: int
    rng: np.random.Generator

    def normal(self, shape: tuple[int, ...]) -> Floats:
        """An array of them, shape (*shape, draws)."""
        return self.rng.standard_normal((*shape, self.draws))


def correlation(pairs: Iterable[tuple[float, float, float]]) -> float:
    """Correlation of tenants of one run, pooled over groups of runs, between 0 and 0.95.

    Args:
        pairs: Of each group the mean over pairs of tenants of their covariance between runs and of the product of their
            standard deviations, and its degrees of freedom. Few groups say little: they are put together with
            :data:`_USUAL_CORRELATION`, which counts for :data:`_USUAL_FREEDOM`.
    """
    total, freedom = _USUAL_CORRELATION * _USUAL_FREEDOM, _USUAL_FREEDOM
    for covariance, product, own in pairs:
        if product > 0:
            total += own * covariance / product
            freedom += own
    return min(max(total / freedom, 0.0), 0.95)


@dataclass(frozen=True, eq=False)
class Estimate:
    """A positive figure with draws of its error, so that what is made of several keeps what they have in common."""

    value: float
    errors: Floats
    """On logarithms, shape (draws,); NaN where its error is not known."""
    most: float = math.inf
    """What the figure cannot exceed."""

    @property
    def interval(self) -> Interval:
        """The figure and its 95 % interval, which holds it; (0, infinity) where its error is not known."""
        if np.isnan(self.errors).any():
            return Interval(self.value, 0.0, math.inf)
        low, high = self.value * np.exp(np.quantile(self.errors, _QUANTILES))
        high = max(self.value, float(high))
        if high > self.most or math.isclose(high, self.most, rel_tol=_ROUNDING):
            high = self.most
        return Interval(self.value, min(self.value, float(low)), high)

    def __truediv__(self, other: Estimate) -> Estimate:
        return Estimate(self.value / other.value, self.errors - other.errors)

    @classmethod
    def of(cls, value: float, drawn: Floats) -> Estimate:
        """A figure and draws of it, shape (draws,)."""
        return cls(value, np.log(drawn / value))

    def p_value(self, reference: float = 1.0) -> float:
        """Two-sided: how often errors alone would put the figure as far from ``reference``, 1 where none is known.

        By the draws, so never below two in their number.
        """
        if np.isnan(self.errors).any():
            return 1.0
        gap = math.log(reference / self.value)
        tail = min(np.count_nonzero(self.errors <= gap), np.count_nonzero(self.errors >= gap))
        return min(1.0, 2 * (tail + 1) / (len(self.errors) + 1))


def geometric_mean(figures: Sequence[Estimate]) -> Estimate:
    """Geometric mean of figures that share their draws.

    Raises:
        ValueError: None is given.
    """
    if not figures:
        raise ValueError("a geometric mean needs at least one figure, found none")
    value = math.exp(sum(math.log(figure.value) for figure in figures) / len(figures))
    return Estimate(value, np.mean([figure.errors for figure in figures], axis=0), max(f.most for f in figures))


def discoveries_limit(p_values: Sequence[float]) -> float:
    """The largest p-value that may be claimed: of all claims at most 5 % are expected to be false.

    Y. Benjamini, Y. Hochberg, Controlling the False Discovery Rate, Journal of the Royal Statistical Society B 57(1),
    1995. 0 where none may be claimed.
    """
    ordered = np.sort(np.asarray(p_values, dtype=np.float64))
    allowed = (1 - LEVEL) * np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    passed = ordered[ordered <= allowed]
    return float(passed[-1]) if len(passed) else 0.0

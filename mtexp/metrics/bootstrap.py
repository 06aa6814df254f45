"""95 % intervals of what the metrics claim, with a fixed seed. May touch: numpy, scipy.

Iterations that follow each other resemble each other, so they are not resampled one by one but in moving blocks of
n^(1/3) (Kuensch 1989), on a circle (Politis and Romano 1992) so that every iteration is drawn equally often and the
draws centre on what was measured. The shared run and the baseline are both resampled, and NP, slowdown, STP, ANTT, Jain
and fairness of a draw come from the same resampled iterations; tenants with the same baseline share its draws. An
interval is the 2.5 % and the 97.5 % quantile of the draws; Jain and fairness have the noise taken off that makes equal
tenants look unequal (:mod:`mtexp.metrics.evenness`). All of this is about one run: what a
fresh start of the same run would change, its iterations do not show (:mod:`mtexp.metrics.repeats`).
Blocks of n^(1/3) are short for a long memory. Of simulated runs of 100 and of 1000 iterations, the interval of a mean
holds the truth in 89 and 94 % with first-order autoregression of 0.5, in 83 and 91 % with 0.7, in 77 and 87 % with 0.8,
and in 54 and 89 % on a host of two states that last 100 to 600 ms (2000 runs each, 400 of the last).

A draw of a mean needs only block sums: one cumulative sum gives them all, and a draw is a row of block starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrik

from mtexp.metrics.evenness import Evenness, fairness_without_noise, jain_without_noise
from mtexp.metrics.interference import antt_rows, stp_rows
from mtexp.metrics.latency import PERCENTILES, percentile_ms, percentile_name
from mtexp.metrics.samples import Floats
from mtexp.metrics.window import Series

LEVEL = 0.95
DRAWS = 10_000
PERCENTILE_DRAWS = 500
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
_CHUNK = 1 << 17  # values drawn at a time: 1 MiB, stays in cache
_Choice = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval [low, high]."""

    value: float
    low: float
    high: float

    @property
    def half_width_pct(self) -> float:
        """Half the interval's width as a share of the figure, in percent; infinite where it is not bounded."""
        return 50 * (self.high - self.low) / self.value


@dataclass(frozen=True, slots=True)
class Interference:
    """Intervals of one run, by MLflow key."""

    run: dict[str, Interval]
    """``stp``, ``antt``, ``jain_fairness``, ``fairness``."""
    tenants: tuple[dict[str, Interval], ...]
    """``slowdown``, ``normalized_progress`` of each tenant, in the order given."""


def block_length(iterations: int) -> int:
    """n^(1/3), rounded, at least 1."""
    return max(1, round(math.cbrt(iterations)))


def interference_intervals(
    shared: Sequence[Series], alone: Sequence[Series], *, draws: int = DRAWS, seed: int = 0
) -> Interference:
    """Slowdown and NP of each tenant, STP, ANTT, Jain and fairness of the run, each with its interval.

    Args:
        shared: What the window kept of each tenant.
        alone: The baseline of each.
        draws: Bootstrap draws.
        seed: Of the draws; equal seeds give equal intervals.

    Raises:
        ValueError: No tenant, one without baseline, or fewer than two iterations in one of them.
    """
    if not shared or len(shared) != len(alone):
        raise ValueError(f"intervals need tenants with a baseline each, found {len(shared)} and {len(alone)}")
    for tenant, (together, apart) in enumerate(zip(shared, alone, strict=True)):
        _check(f"tenant {tenant}", together)
        _check(f"the baseline of tenant {tenant}", apart)
    rng = np.random.Generator(np.random.SFC64(seed))
    with_others = np.array([_draw_means(series, draws, rng) for series in shared])
    baselines: dict[bytes, Floats] = {}
    for series in alone:
        if (key := series.latency_ms.tobytes()) not in baselines:
            baselines[key] = _draw_means(series, draws, rng)
    lone = np.array([baselines[series.latency_ms.tobytes()] for series in alone])
    slowdowns, progress = (with_others[:, 0] / lone[:, 0]).T, (with_others[:, 1] / lone[:, 1]).T
    run = {"stp": _interval(stp_rows(progress)), "antt": _interval(antt_rows(slowdowns))}
    run["jain_fairness"] = _evenness_interval(jain_without_noise, progress)
    run["fairness"] = _evenness_interval(fairness_without_noise, progress)
    tenants = (
        {"slowdown": _interval(slowed), "normalized_progress": _interval(progressed)}
        for slowed, progressed in zip(slowdowns.T, progress.T, strict=True)
    )
    return Interference(run, tuple(tenants))


def percentile_slowdown_intervals(
    shared: Series,
    alone: Series,
    percentiles: Sequence[float] = PERCENTILES,
    *,
    draws: int = PERCENTILE_DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Slowdown of each latency percentile of one tenant, by MLflow key: ``slowdown_p50`` ...

    With p50 and p99 among them also ``tail_inflation``. Fewer draws than for means, for each one is a selection.

    Args:
        shared: The tenant in the shared run.
        alone: Its baseline.
        percentiles: In percent; the caller asks for supported ones.
        draws: Bootstrap draws.
        seed: Of the draws.

    Raises:
        ValueError: Fewer than two iterations in one.
    """
    _check("the shared run", shared)
    _check("the baseline", alone)
    rng = np.random.Generator(np.random.SFC64(seed))
    together, apart = (_draw_percentiles(series, draws, rng, percentiles) for series in (shared, alone))
    slowdowns = dict(zip(percentiles, together / apart, strict=True))
    intervals = {f"slowdown_{percentile_name(p)}": _interval(values) for p, values in slowdowns.items()}
    if 50 in slowdowns and 99 in slowdowns:
        intervals["tail_inflation"] = _interval(slowdowns[99] / slowdowns[50])
    return intervals


def _check(what: str, series: Series) -> None:
    if series.latency_ms.size < 2:
        raise ValueError(f"intervals need two iterations or more; {what} has {series.latency_ms.size}")


def _interval(values: Floats) -> Interval:
    """Entry 0 is the figure as measured, the rest its draws."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high))


def _evenness_interval(without_noise: Callable[[Floats, Floats], Evenness], progress: Floats) -> Interval:
    """Interval of a fairness index of NP; rows as in :func:`_interval`, one column a tenant."""
    found = without_noise(progress[0], np.log(progress[1:] / progress[0]).T)
    low, high = np.quantile(found.draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(found.value, float(low), float(high))


def _draw_means(series: Series, rows: int, rng: np.random.Generator) -> Floats:
    """Mean latency and throughput: as measured, then ``rows`` draws; shape (2, 1 + rows)."""
    latency_ms, cycle_ms = series.latency_ms, series.cycle_ms
    columns = [latency_ms] if cycle_ms is latency_ms else [latency_ms, cycle_ms]
    length = block_length(latency_ms.size)
    count = max(1, latency_ms.size // length - 1)  # one block less: the n - 1 of a variance, in blocks
    block_means = [_block_means(column, length) for column in columns]
    means = np.empty((2, 1 + rows))
    means[:, 0] = latency_ms.mean(), cycle_ms.mean()
    for first, starts in _starts(latency_ms.size, rows, count, rng):
        for column, blocks in enumerate(block_means):
            means[column, 1 + first : 1 + first + len(starts)] = blocks.take(starts).mean(axis=1)
    means[1, 1:] = means[len(columns) - 1, 1:]
    means[1] = series.throughput_rps * means[1, 0] / means[1]
    return means


def _draw_percentiles(series: Series, rows: int, rng: np.random.Generator, percentiles: Sequence[float]) -> Floats:
    """Percentiles of latency: as measured, then ``rows`` draws; shape (len(percentiles), 1 + rows).

    Ranks are drawn instead of latencies: as small integers they sort several times faster.
    """
    size = series.latency_ms.size
    length = block_length(size)
    ordered = np.sort(series.latency_ms)
    ranks = np.searchsorted(ordered, series.latency_ms).astype(np.min_scalar_type(size))
    circle = np.concatenate([ranks, ranks[: length - 1]])
    below, part = np.divmod(np.asarray(percentiles) / 100 * (size - 1), 1)  # linear interpolation, as in latency.py
    lower = below.astype(np.int64)
    cuts = np.empty((len(percentiles), 1 + rows))
    cuts[:, 0] = np.percentile(ordered, percentiles, method="linear")
    for first, starts in _starts(size, rows, -(-size // length), rng):
        drawn = circle.take(starts[:, :, None] + np.arange(length)).reshape(len(starts), -1)[:, :size]
        drawn.sort(axis=1, kind="stable")
        chunk = ordered[drawn[:, lower]] * (1 - part) + ordered[drawn[:, lower + 1]] * part
        cuts[:, 1 + first : 1 + first + len(starts)] = chunk.T
    return cuts


def _block_means(values: Floats, length: int) -> Floats:
    """Mean of the block of ``length`` that starts at each iteration, on a circle; shape (n,)."""
    middle = values.mean()  # taken off first: differences of a cumulative sum lose digits as it grows
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: length - 1]]) - middle)])
    means: Floats = (sums[length:] - sums[:-length]) / length + middle
    return means


def _starts(iterations: int, rows: int, count: int, rng: np.random.Generator) -> Iterator[tuple[int, _Choice]]:
    """Block starts, ``count`` a row, in chunks of rows: (first row, starts of shape (rows of the chunk, count))."""
    step = max(1, _CHUNK // count)
    for first in range(0, rows, step):
        yield first, rng.integers(0, iterations, (min(step, rows - first), count))


def mean_interval(values: Floats) -> Interval:
    """The mean of ``values`` (shape (n,)) and its interval, without draws: cheap enough to ask again as they grow.

    The variance of a draw's mean has a closed form: that of the block means, divided by the number of blocks, and
    corrected for the share that blocks of one length cannot show. Unbounded for fewer than two values.

    Raises:
        ValueError: No value.
    """
    if values.size == 0:
        raise ValueError("the interval of a mean needs at least one value, found none")
    mean = float(values.mean())
    if values.size < 2:
        return Interval(mean, -math.inf, math.inf)
    reach = _Z * math.sqrt(_variance_of_mean(values))
    return Interval(mean, mean - reach, mean + reach)


def percentile_interval(values: Floats, percentile: float) -> Interval:
    """The percentile of ``values`` (shape (n,)) and its interval between two order statistics, without draws.

    The number of values below the true percentile is binomial, which gives the two ranks whatever the distribution.
    Values that follow each other are not independent: the ranks are moved apart by the factor by which the spread of
    "is below the percentile" in blocks exceeds the binomial one. Unbounded on a side whose rank does not exist.

    Raises:
        ValueError: No value, or ``percentile`` not between 0 and 100.
    """
    if values.size == 0 or not 0 < percentile < 100:
        raise ValueError(f"percentile={percentile} of {values.size} values: needs a value and 0 < percentile < 100")
    ordered, share = np.sort(values), percentile / 100
    value = percentile_ms(ordered, percentile)
    binomial = share * (1 - share) / values.size
    below = (values <= value).astype(np.float64)
    widening = math.sqrt(max(1.0, _variance_of_mean(below) / binomial)) if values.size > 1 else 1.0
    low, high = (
        values.size * share + widening * (rank - values.size * share) for rank in _binomial_ranks(values.size, share)
    )
    bottom, top = math.floor(low), math.ceil(high)
    return Interval(
        value,
        float(ordered[bottom - 1]) if bottom >= 1 else -math.inf,
        float(ordered[top - 1]) if top <= values.size else math.inf,
    )


def relative_half_width_pct(latency_ms: Floats, statistic: str = "mean") -> float:
    """Half the width of the interval of ``mean`` or of ``p50``, ``p99`` ..., as a share of it, in percent: the rule of
    ``until_ci``. Infinite as long as too few iterations bound it.

    Raises:
        ValueError: Another statistic, or no iteration.
    """
    if statistic == "mean":
        return mean_interval(latency_ms).half_width_pct
    if not statistic.startswith("p"):
        raise ValueError(f"statistic={statistic}: allowed: mean, p50, p90, p95, p99")
    return percentile_interval(latency_ms, float(statistic[1:])).half_width_pct


def _variance_of_mean(values: Floats) -> float:
    """Moving-block estimate of the variance of the mean of ``values``, shape (n,), n >= 2."""
    length = block_length(values.size)
    return float(_block_means(values, length).var()) * length / (values.size - length)


def _binomial_ranks(count: int, share: float) -> tuple[int, int]:
    """Ranks (from 1) l < u with P(l <= number below < u) >= LEVEL; 0 and count + 1 stand for "no such value"."""
    low, high = (_binomial_quantile(level, count, share) for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return low, high + 1


def _binomial_quantile(level: float, count: int, share: float) -> int:
    """The smallest k with P(X <= k) >= ``level``, for X binomial of ``count`` trials with chance ``share``."""
    number: int = max(math.ceil(bdtrik(level, count, share)), 0)  # rounding may make it one too many
    return number - 1 if number > 0 and bdtr(number - 1, count, share) >= level else number

"""Latency statistics of one tenant, and how many iterations a percentile needs. May touch: numpy.

Percentiles interpolate linearly between order statistics (Hyndman and Fan's type 7: the default of numpy and pandas).
A percentile is *supported* by n iterations if, with 99 % confidence, at least two of them lie beyond the true one.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from mtexp.metrics.samples import Floats

PERCENTILES: tuple[float, ...] = (50.0, 90.0, 95.0, 99.0)
CONFIDENCE = 0.99


def percentile_name(percentile: float) -> str:
    """``p50``, ``p99``, ``p99.9``: the percentile as keys and tables spell it."""
    return f"p{percentile:g}"


@functools.cache
def min_iterations(percentile: float) -> int:
    """The fewest iterations that support ``percentile`` (in percent): 11 for p50, 64 p90, 130 p95, 662 p99.

    MLPerf LoadGen's early stopping (``loadgen/early_stopping.cc``): the smallest n = h + t with I_p(h, t + 1) <= 1 - c,
    where t = 1 query lies beyond the percentile and c = 0.99. That incomplete beta function is the chance that at most
    t of n independent iterations lie beyond it: p^n + n (1 - p) p^(n - 1). Below the median the same holds mirrored.

    Raises:
        ValueError: ``percentile`` is not between 0 and 100.
    """
    if not 0 < percentile < 100:
        raise ValueError(f"percentile={percentile}: must lie between 0 and 100, both excluded, e.g. 99")
    below = max(percentile, 100 - percentile) / 100

    def chance(n: int) -> float:
        return math.exp((n - 1) * math.log(below)) * (below + n * (1 - below))

    numbers = range(2, 2**62)
    return numbers[bisect_left(numbers, True, key=lambda n: chance(n) <= 1 - CONFIDENCE)]


def supported(iterations: int) -> tuple[float, ...]:
    """The percentiles of :data:`PERCENTILES` that ``iterations`` support."""
    return tuple(p for p in PERCENTILES if iterations >= min_iterations(p))


def insufficient(iterations: int, percentiles: Sequence[float] = PERCENTILES) -> dict[str, int]:
    """The percentiles that ``iterations`` do not support, by name, and the iterations each needs: ``{"p99": 662}``."""
    return {percentile_name(p): min_iterations(p) for p in percentiles if iterations < min_iterations(p)}


def percentile_ms(latency_ms: Floats, percentile: float) -> float:
    """The percentile by linear interpolation (type 7) of ``latency_ms``, shape (n,), n >= 1."""
    return float(np.percentile(latency_ms, percentile, method="linear"))


def latency_statistics(latency_ms: Floats) -> dict[str, float]:
    """mean, stdev (of n - 1; absent for one iteration), min, p50, p90, p95, p99, max of ``latency_ms``, shape (n,).

    Percentiles are there whether or not they are supported; :func:`insufficient` says which are not.

    Raises:
        ValueError: No iteration, or a latency that is not a number.
    """
    values = np.asarray(latency_ms, dtype=np.float64)
    if values.size == 0:
        raise ValueError("latency statistics need at least one iteration, found none")
    if not np.isfinite(values).all():
        raise ValueError("latency statistics need finite latencies, found NaN or infinity")
    statistics = {"mean": float(values.mean())}
    if values.size > 1:
        statistics["stdev"] = float(values.std(ddof=1))
    statistics["min"] = float(values.min())
    cuts = np.percentile(values, PERCENTILES, method="linear")
    statistics |= {percentile_name(p): float(cut) for p, cut in zip(PERCENTILES, cuts, strict=True)}
    return statistics | {"max": float(values.max())}

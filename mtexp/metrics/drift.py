"""Did a tenant's latency stay what it was, in a window and from one run to the next? Lives here: Drift, Noise.

May touch: numpy, scipy. Two views give the size of a drift: the Theil-Sen slope (median of the slopes between all
pairs: Sen, JASA 63, 1968) and the median of the last third against that of the first. The slope is that of the
logarithm of latency, which makes it a rate of growth: a latency that falls never falls by more than all of it.

Noise alone moves both, and neighbouring requests share it: a host has states that last 0.1 s to seconds. So drift is
flagged only beyond 2 %, and where the trend in the ranks of latency stands out from slow noise. The ranks are projected
on orthogonal polynomials of the request's number. The linear one carries the trend; the next K carry noise of nearly
the same frequency, whatever its autocorrelation, so that their ratio has Student's t distribution with K degrees of
freedom (Sun, Journal of Econometrics 164, 2011, with ranks in place of values). K is small where the window is short
against the states of a host or has few requests: such a window shows a drift only where it is plain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from mtexp.metrics.samples import Floats

DRIFT_LIMIT_PCT = 2.0
TREND_LEVEL = 0.99
_POINTS = 400  # beyond that, medians of groups of iterations: at most 80,000 pairs, whatever the number of iterations
_FEWEST = 6  # below, there is no room for a trend and its noise
_HOST_STATE_S = 0.6  # states of a virtual core last 0.1 to some seconds; no order of noise is to be faster
_REQUESTS_AN_ORDER = 15
_ORDERS = 8  # more would help little: the quantiles of t with 8 degrees of freedom are 1.3 times those of the normal

_LAUNCH_BOUND_PCT, _RUNS_SD = (10.0, 50.0), (0.02, 0.2)
"""Standard deviation of log mean latency from run to run, by the share of a request in which the device waits for the
host: linear between these two shares, and constant beyond. On H100s and H200s it was 0.002 for a CUDA graph, 0.01 and
0.07 at 12 and 21 %, 0.10 to 0.16 at 36 to 48 %, 0.06 to 0.26 from 60 % on. With the noise within runs, 1.2 % (H200) and
2.9 % (H100) of all pairs of runs alone of a launch-bound model then differ by more than their noise."""
_RUNS_SD_UNKNOWN = 0.15


@dataclass(frozen=True, slots=True)
class Drift:
    """How latency moved from the start of the window to its end."""

    slope_pct: float
    """Change over the window by the Theil-Sen slope, as a share of the latency at its start; at most the range between
    the lowest and the highest latency."""
    thirds_pct: float
    """Median of the last third less that of the first, as a share of the first."""
    trend: bool
    """The trend in the ranks of latency stands out from slow noise (99 %)."""

    @property
    def pct(self) -> float:
        """The larger of the two, with its sign."""
        return max(self.slope_pct, self.thirds_pct, key=abs)

    @property
    def flagged(self) -> bool:
        """True beyond 2 %, where there is a trend."""
        return self.trend and abs(self.pct) > DRIFT_LIMIT_PCT


def drift(latency_ms: ArrayLike, at_ns: ArrayLike) -> Drift | None:
    """The drift of positive latencies (shape (n,)) at their instants (shape (n,), ascending); None for fewer than 6."""
    values, times = np.asarray(latency_ms, dtype=np.float64), np.asarray(at_ns)
    if values.size < _FEWEST:
        return None
    thirds = np.median(values[: values.size // 3]), np.median(values[-(values.size // 3) :])
    elapsed = (times - times[0]) / 1e9  # before any float: nanoseconds since boot lose their last digits in one
    length = float(elapsed[-1])
    together = -(-values.size // _POINTS)
    whole = values.size // together * together  # the last few iterations that fill no group are left out
    columns = (np.log(values), elapsed)
    values, elapsed = (np.median(column[:whole].reshape(-1, together), axis=1) for column in columns)
    earlier, later = np.triu_indices(values.size, k=1)
    rises, gaps = values[later] - values[earlier], elapsed[later] - elapsed[earlier]
    apart = gaps > 0
    slope = float(np.median(rises[apart] / gaps[apart])) if apart.any() else 0.0
    reach = float(np.ptp(values))
    return Drift(
        slope_pct=100 * math.expm1(min(max(slope * length, -reach), reach)),
        thirds_pct=100 * float(thirds[1] / thirds[0] - 1),
        trend=_trend(np.asarray(latency_ms, dtype=np.float64), length),
    )


def _trend(values: Floats, length_s: float) -> bool:
    """Whether ``values``, in the order served over ``length_s``, have a trend beyond the noise of the next orders."""
    orders = _orders(values.size, length_s)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts + 1) / 2)[inverse] / values.size  # equal values have equal ranks
    parts = _parts(ranks, orders + 1)
    noise = max(float(np.sqrt((parts[1:] ** 2).mean())), 1e-9 * math.sqrt(values.size))  # rounding is no noise
    return bool(abs(parts[0]) > stdtrit(orders, (1 + TREND_LEVEL) / 2) * noise)


def _orders(number: int, length_s: float) -> int:
    """How many orders of noise are still slow enough: 2 to 8."""
    slow_enough = min(2 * length_s / _HOST_STATE_S - 1, number / _REQUESTS_AN_ORDER)
    return int(min(max(slow_enough, 2), _ORDERS))


def _parts(values: Floats, degree: int) -> Floats:
    """Coefficients of ``values`` (shape (n,)) in the orthonormal polynomials of degree 1 to ``degree``."""
    powers = np.polynomial.legendre.legvander(np.linspace(-1, 1, values.size), degree)
    basis, _ = np.linalg.qr(powers)
    return np.asarray((values @ basis)[1:], dtype=np.float64)


def runs_sd(launch_bound_pct: float | None) -> float:
    """Standard deviation of log mean latency from run to run of a model.

    Args:
        launch_bound_pct: Share of a request in which the device waits for the host; None = not known.
    """
    return (
        _RUNS_SD_UNKNOWN
        if launch_bound_pct is None
        else float(np.interp(launch_bound_pct, _LAUNCH_BOUND_PCT, _RUNS_SD))
    )


def recheck_noise_pct(before_ms: Floats, after_ms: Floats, launch_bound_pct: float | None = None) -> float:
    """How far noise alone moves the mean latency from one run to another, in percent: 95 % of changes are within it.

    Noise within each run is what slow orders of its logarithms show, which knows their autocorrelation; noise between
    runs is that of the model's kind. The half widths add in quadrature.

    Args:
        before_ms: Latencies of one run (shape (n,), positive, in the order served).
        after_ms: Of the other.
        launch_bound_pct: Share of a request in which the device waits for the host; None = not known.
    """
    between = float(ndtri(0.975)) * math.sqrt(2) * runs_sd(launch_bound_pct)
    within = [_half_width(np.log(latency_ms), float(latency_ms.sum()) / 1e3) for latency_ms in (before_ms, after_ms)]
    return 100 * math.expm1(math.hypot(between, *within))


def _half_width(logs: Floats, length_s: float) -> float:
    """Half width of the 95 % interval of the mean of ``logs``; 0 for fewer than 6, of which nothing is known."""
    if logs.size < _FEWEST:
        return 0.0
    orders = _orders(logs.size, length_s)
    variance = float((_parts(logs, orders) ** 2).mean())
    return float(stdtrit(orders, 0.975)) * math.sqrt(variance / logs.size)

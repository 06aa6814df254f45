"""Did a tenant's latency stay what it was? Lives here: Drift. May touch: numpy.

Two views on the window: the Theil-Sen slope (median of the slopes between all pairs: Sen, JASA 63, 1968) and the
median of the last third against that of the first. The slope is that of the logarithm of latency, which makes it a rate
of growth: a latency that falls never falls by more than all of it. Noise alone moves both, so drift is flagged only
where one is beyond 2 % and the Mann-Kendall test (99 %) finds a trend at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

DRIFT_LIMIT_PCT = 2.0
_POINTS = 400  # beyond that, medians of groups of iterations: at most 80,000 pairs, whatever the number of iterations
_FEWEST = 6  # below, no order of the values is rarer than one in a hundred
_Z = NormalDist().inv_cdf(0.995)


@dataclass(frozen=True, slots=True)
class Drift:
    """How latency moved from the start of the window to its end."""

    slope_pct: float
    """What the Theil-Sen slope comes to over the window, as a share of the latency at its start: above -100, and no
    more than the lowest and the highest latency lie apart."""
    thirds_pct: float
    """Median of the last third less that of the first, as a share of the first."""
    trend: bool
    """The Mann-Kendall test finds a trend."""

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
        trend=_mann_kendall(rises, values.size),
    )


def _mann_kendall(rises: np.ndarray, points: int) -> bool:
    """Whether ups and downs between all pairs differ by more than chance explains in 99 of 100 cases."""
    variance = points * (points - 1) * (2 * points + 5) / 18
    return bool(abs(np.sign(rises).sum()) > _Z * math.sqrt(variance))

"""Means over rounds with their t intervals, and functions of several such means. May touch: numpy, scipy.

The error of a mean is kept as the sum over groups of rounds that it is: what a function of several means adds up, such
as STP, then keeps what tenants and sharing modes of one round have in common. What no round of a run can show, because
it is settled when its processes start, is kept beside it (:mod:`mtexp.metrics.fresh_processes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mtexp.metrics.bootstrap import LEVEL, Interval
from mtexp.metrics.interference import jain_fairness_rows
from mtexp.metrics.samples import Floats

Integers = NDArray[np.int64]
_DRAWS = 2000
_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """Means over rounds and the sum, over groups, that each mean's error is."""

    mean: Floats
    """Shape (tenants,)."""
    errors: Floats
    """Shape (groups, tenants): what each group adds to the error of each mean; a column sums to 0."""
    groups: Integers
    """Groups in which each tenant was measured, shape (tenants,)."""
    unseen: Floats
    """Shape (states, tenants): what independent states of a set of processes, each with standard deviation 1, add to
    each mean, beyond what the rounds show."""

    @classmethod
    def of(cls, values: Floats, group: Integers, unseen: Floats | None = None) -> Means:
        """Means of ``values`` by round and tenant, shape (rounds, tenants), NaN = none, over the groups of rounds."""
        seen = np.isfinite(values)
        counts = seen.sum(axis=0)
        filled = np.where(seen, values, 0.0)
        mean = np.where(counts > 0, filled.sum(axis=0) / np.maximum(counts, 1), np.nan)
        names, index = np.unique(group, return_inverse=True)
        member = np.zeros((names.size, group.size))
        member[index, np.arange(group.size)] = 1.0
        errors = member @ np.where(seen, (values - mean) / np.maximum(counts, 1), 0.0)
        groups = ((member @ seen) > 0).sum(axis=0)
        return cls(mean, errors, groups, np.zeros((1, mean.size)) if unseen is None else unseen)

    def by_rounds(self) -> Means:
        """These means with the errors that the rounds show, and no others."""
        return replace(self, unseen=np.zeros((1, self.mean.size)))

    def reach(self, errors: Floats, groups: int) -> float:
        """Half the width of the t interval of a quantity to whose error the groups add ``errors``, shape (groups,)."""
        if groups < 2:
            return math.inf
        spread = math.sqrt(float((errors**2).sum()) * groups / (groups - 1))
        return _critical(groups - 1) * spread

    def itself(self, tenant: int) -> Interval:
        """The mean of one tenant."""
        reach = self.reach(self.errors[:, tenant], int(self.groups[tenant]))
        reach = math.hypot(reach, _Z * float(np.linalg.norm(self.unseen[:, tenant])))
        value = float(self.mean[tenant])
        return Interval(value, value - reach, value + reach)

    def exponential(self, tenant: int, sign: float) -> Interval:
        """exp(sign * mean) of one tenant."""
        mean = self.itself(tenant)
        value, reach = sign * mean.value, mean.high - mean.value
        return Interval(math.exp(value), math.exp(value - reach), _exp(value + reach))

    def total(self) -> Interval:
        """The sum over tenants of exp(-mean): STP."""
        return self._sum(np.exp(-self.mean))

    def average(self) -> Interval:
        """The mean over tenants of exp(mean): ANTT."""
        return self._sum(np.exp(self.mean) / self.mean.size)

    def _sum(self, parts: Floats) -> Interval:
        value = float(parts.sum())
        reach = self.reach(self.errors @ parts, int(self.groups.min()))
        reach = math.hypot(reach, _Z * float(np.linalg.norm(self.unseen @ parts)))
        return Interval(value, max(0.0, value - reach), value + reach)

    def ratio(self, other: Means) -> Interval:
        """The sum over tenants of exp(-mean), over the same of ``other``, whose groups are the same rounds."""
        parts, others = np.exp(-self.mean), np.exp(-other.mean)
        value = math.log(float(parts.sum() / others.sum()))
        parts, others = parts / parts.sum(), others / others.sum()
        reach = self.reach(self.errors @ parts - other.errors @ others, int(min(self.groups.min(), other.groups.min())))
        unseen = np.concatenate([self.unseen @ parts, other.unseen @ others])
        reach = math.hypot(reach, _Z * float(np.linalg.norm(unseen)))
        return Interval(math.exp(value), math.exp(value - reach), _exp(value + reach))

    def fairness(self) -> Interval:
        """Smallest NP / largest NP: exp(-(largest - smallest mean log ratio))."""
        tenants = self.mean.size
        if tenants == 1:
            return Interval(1.0, 1.0, 1.0)
        first, second = np.triu_indices(tenants, k=1)
        apart = np.abs(self.mean[first] - self.mean[second])
        groups = int(self.groups.min())
        if groups < 2:
            return Interval(math.exp(-apart.max()), 0.0, 1.0)
        spread = np.sqrt(((self.errors[:, first] - self.errors[:, second]) ** 2).sum(axis=0) * groups / (groups - 1))
        level = 1 - (1 - LEVEL) / first.size
        unseen = np.linalg.norm(self.unseen[:, first] - self.unseen[:, second], axis=0)
        reach = np.hypot(_critical(groups - 1, level) * spread, _NORMAL.inv_cdf((1 + level) / 2) * unseen)
        widest, narrowest = float((apart + reach).max()), max(0.0, float((apart - reach).max()))
        return Interval(math.exp(-float(apart.max())), math.exp(-widest), math.exp(-narrowest))

    def jain(self, seed: int) -> Interval:
        """Jain's index of exp(-mean); noise alone makes equal tenants look unequal, and the upper end allows for it."""
        groups = int(self.groups.min())
        value = float(_jain(-self.mean))
        if groups < 2:
            return Interval(value, 0.0, 1.0)
        rng = np.random.Generator(np.random.SFC64(seed))
        signs = rng.standard_normal((_DRAWS, self.errors.shape[0])) * math.sqrt(groups / (groups - 1))
        scale = np.sqrt((groups - 1) / rng.chisquare(groups - 1, _DRAWS))[:, None]
        noise = signs @ self.errors * scale + rng.standard_normal((_DRAWS, self.unseen.shape[0])) @ self.unseen
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(_jain(-self.mean + noise), [tail, 1 - tail])
        by_noise = np.quantile(_jain(noise), tail)
        return Interval(value, min(value, float(low)), min(1.0, max(float(high), value / float(by_noise))))


def _jain(logs: Floats) -> Floats:
    """Jain's index of exp(logs) along the last axis; it does not depend on scale, and two rounds draw huge logs."""
    return jain_fairness_rows(np.exp(logs - logs.max(axis=-1, keepdims=True)))


def _critical(freedom: int, level: float = LEVEL) -> float:
    """Two-sided critical value of Student's t."""
    from scipy.special import stdtrit  # half a second to import: not before a run is checked

    return float(stdtrit(freedom, (1 + level) / 2))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf

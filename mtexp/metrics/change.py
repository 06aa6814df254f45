"""Whether a figure changed between two sets of runs, is equal within a margin, or is not known.

May touch: numpy, scipy.

A figure is a weighted sum of logarithms of means over runs: log(latency in B / latency in A), less the same of the
model alone for a slowdown. Each part errs by how far runs lie apart (:mod:`mtexp.metrics.spread`: the variance is
shrunk to that of runs like it, so its t has more degrees of freedom than its own runs give; G. K. Smyth 2004).
Degrees of freedom of a sum are those of B. L. Welch (Biometrika 34, 1947) and F. E. Satterthwaite (Biometrics 2, 1946).
Equality is the claim of two one-sided tests at 5 % (D. J. Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics
15, 1987); changes are claimed at a false discovery rate of 5 % (:func:`mtexp.metrics.repeats.discoveries_limit`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from mtexp.metrics.bootstrap import LEVEL, Interval
from mtexp.metrics.repeats import discoveries_limit

CHANGED, EQUAL, NOT_KNOWN = "changed", "equal", "not known"
_TOTALS = 0.2
"""Share of the false discovery rate that figures of all points together have: there are few of them."""
_POWER = 0.8
"""Chance of an answer for which runs are counted."""
_MOST_RUNS = 100_000


@dataclass(frozen=True, slots=True)
class Part:
    """The difference of two means over runs, of logarithms: B less A."""

    log: float
    variances: tuple[float, float]
    """Between runs, of A and of B."""
    runs: tuple[int, int]
    """In A and in B."""
    freedom: float
    """Degrees of freedom of the variances; 0 where nothing was repeated, so that they are not known."""
    shared: int = 0
    """Runs that are in A and in B: baselines may be."""
    together: str = ""
    """Name of the runs: parts of the same runs err alike to some degree."""

    @property
    def variance(self) -> float:
        """Variance of the difference."""
        (first, second), (a, b) = self.variances, self.runs
        return max(first / a + second / b - 2 * self.shared * math.sqrt(first * second) / (a * b), 0.0)

    def with_more(self, runs: int) -> Part:
        """The part with so many more runs on each side."""
        return replace(self, runs=(self.runs[0] + runs, self.runs[1] + runs), shared=0 if runs else self.shared)


@dataclass(frozen=True, slots=True)
class Change:
    """A figure of B over that of A."""

    terms: tuple[tuple[float, Part], ...]
    """Weight and part: their sum is the logarithm of the ratio."""
    correlation: float = 0.0
    """Correlation of parts of the same runs."""

    @property
    def log(self) -> float:
        """Logarithm of the ratio."""
        return sum(weight * part.log for weight, part in self.terms)

    @property
    def known(self) -> bool:
        """Whether how far runs lie apart is known for every part."""
        return all(part.freedom > 0 for weight, part in self.terms if weight)

    @property
    def error(self) -> float:
        """Standard error of the logarithm."""
        return _error(self.terms, self.correlation)

    @property
    def freedom(self) -> float:
        """Effective degrees of freedom: half of Welch and Satterthwaite's, but not fewer than any part has.

        Theirs are for parts that are normal with a spread that is not known well. What differs between runs has heavier
        tails than that, and a sum of few such parts has them too.
        """
        squares = [(weight**2 * part.variance, part.freedom) for weight, part in self.terms if part.freedom > 0]
        below = sum(square**2 / freedom for square, freedom in squares)
        if below <= 0:
            return 1.0
        return max(sum(square for square, _ in squares) ** 2 / below / 2, min(freedom for _, freedom in squares))

    @property
    def interval(self) -> Interval:
        """The ratio and its 95 % interval; (0, infinity) where it is not known how far runs lie apart."""
        ratio = math.exp(self.log)
        if not self.known:
            return Interval(ratio, 0.0, math.inf)
        half = float(stdtrit(self.freedom, (1 + LEVEL) / 2)) * self.error
        return Interval(ratio, ratio * math.exp(-half), ratio * math.exp(half))

    @property
    def p_value(self) -> float:
        """Two-sided, of no change; 1 where it is not known how far runs lie apart."""
        if not self.known:
            return 1.0
        return float(2 * stdtr(self.freedom, -abs(self.log) / max(self.error, 1e-12)))

    def equal_within(self, delta: float) -> bool:
        """Whether the ratio surely lies between 1 / (1 + delta) and 1 + delta (two one-sided tests at 5 %)."""
        if not self.known:
            return False
        reach = float(stdtrit(self.freedom, LEVEL)) * self.error
        return abs(self.log) + reach < math.log1p(delta)

    def more_runs(self, delta: float, level: float = 1 - LEVEL) -> int | None:
        """How many more runs of everything, on each side, would decide it with a chance of 80 %; None for too many.

        That is: enough to call equal what is equal, or to call changed what differs as much as measured, whichever is
        sooner. A figure whose spread is not known needs one more, which shows it.

        Args:
            delta: Margin of equality.
            level: P-value at which a change may be claimed (:func:`claim_levels`).
        """
        if not self.known:
            return 1
        enough = max(
            math.log1p(delta) / float(ndtri(LEVEL) + ndtri((1 + _POWER) / 2)),
            abs(self.log) / float(ndtri(1 - level / 2) + ndtri(_POWER)) if abs(self.log) > math.log1p(delta) else 0.0,
        )

        def tells(runs: int) -> bool:
            return _error([(weight, part.with_more(runs)) for weight, part in self.terms], self.correlation) <= enough

        runs = bisect_left(range(_MOST_RUNS + 1), True, lo=1, key=tells)
        return runs if runs <= _MOST_RUNS else None


def _error(terms: Sequence[tuple[float, Part]], correlation: float) -> float:
    apart = sum(weight**2 * part.variance for weight, part in terms)
    if correlation <= 0:
        return math.sqrt(apart)
    sums: dict[str, float] = {}
    own: dict[str, float] = {}
    for weight, part in terms:
        if part.together:
            sums[part.together] = sums.get(part.together, 0.0) + weight * math.sqrt(part.variance)
            own[part.together] = own.get(part.together, 0.0) + weight**2 * part.variance
    extra = sum(total**2 - own[name] for name, total in sums.items())
    return math.sqrt(max(apart + correlation * extra, 0.0))


def claim_levels(changes: int, totals: int) -> tuple[float, float]:
    """P-values at which one figure of so many may be called changed if no other is: of points, and of totals."""
    share = _TOTALS if totals else 0.0
    return (1 - LEVEL) * (1 - share) / max(changes, 1), (1 - LEVEL) * share / max(totals, 1)


def answers(changes: Sequence[Change], totals: Sequence[Change], delta: float) -> tuple[list[str], list[str]]:
    """The answer for each figure of ``changes`` and each of ``totals``, which put many of them together.

    What is surely within the margin is equal, however surely it differs. Of what is called changed at most 5 % is
    expected to be false: totals have a fifth of that among them, as weighted p-values (C. R. Genovese, K. Roeder,
    L. Wasserman, Biometrika 93, 2006).

    Args:
        changes: Figures of points.
        totals: Figures of all points together.
        delta: Margin of equality: 0.03 for 3 %.
    """
    count = len(changes) + len(totals)
    weights = [_TOTALS * count / len(totals)] * len(totals) if totals else []
    weights += [(1 - _TOTALS * bool(totals)) * count / len(changes)] * len(changes) if changes else []
    ordered = [*totals, *changes]
    weighted = np.array([change.p_value for change in ordered]) / np.array(weights)
    limit = discoveries_limit(np.minimum(weighted, 1.0).tolist())
    found = [
        EQUAL if change.equal_within(delta) else CHANGED if p <= limit and change.known else NOT_KNOWN
        for change, p in zip(ordered, weighted, strict=True)
    ]
    return found[len(totals) :], found[: len(totals)]

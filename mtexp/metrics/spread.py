"""How far runs of one thing lie apart, learnt from runs that are like them. May touch: numpy, scipy.

Two or three runs say little about their own variance. Runs of other things that are like them (the same model, the same
sharing mode, a device as full) say more. An empirical Bayes estimate puts the two together: the variance of a group is
the mean of its own and of that of its like, weighted by degrees of freedom. How many the like ones count for (the prior
degrees of freedom) is estimated from how much variances differ between groups: a variance over that of its like is
F-distributed (G. K. Smyth, Linear Models and Empirical Bayes Methods for Assessing Differential Expression in
Microarray Experiments, Statistical Applications in Genetics and Molecular Biology 3(1), 2004; here by maximum
likelihood). What the like of a group have in common is a product: of the variance of all runs and a factor for each
thing that is known of the group, fitted as a gamma regression (P. McCullagh, J. A. Nelder, Generalized Linear Models,
1989, section 8.3) and drawn towards 1 where little is known. All variances are of logarithms, so that a standard
deviation of 0.05 is 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, xlogy  # scipy.stats takes half a second to import

from mtexp.metrics.samples import Floats

Path = tuple[str, ...]
"""What is known of a group: its model, its sharing mode ..., always in the same order."""
_PRIORS = np.array([3.0, 4, 5, 6, 8, 10, 13, 16, 20, 26, 32, 48, 64, 128, 512])
"""Prior degrees of freedom that are tried. With fewer than three an interval would have next to no bound."""
_FEWEST_GROUPS = 4
"""Groups needed to estimate how much variances differ between groups."""
_UNKNOWN_PRIOR = 4.0
"""Prior degrees of freedom where there are too few groups to estimate them."""
_SHRINK = 4.0
"""Degrees of freedom by which a factor is drawn towards 1."""
_SWEEPS = 25
_LEAST_VARIANCE = 1e-12
_LEAST_RATIO = 1e-3
"""A smaller ratio of variances is taken as this: two runs may agree by chance to any number of digits."""


@dataclass(frozen=True, slots=True)
class Between:
    """How far runs of the same thing lie apart, on logarithms."""

    sd: float
    """Standard deviation: 0.05 is 5 %."""
    freedom: float
    """Degrees of freedom it counts for; 0 where nothing is known."""

    def with_own(self, squares: float, freedom: float) -> Between:
        """This, as what is known beforehand, with the sum of squares and the degrees of freedom of a group of runs."""
        if self.freedom + freedom == 0:
            return self
        variance = (self.freedom * self.sd**2 + squares) / (self.freedom + freedom)
        return Between(math.sqrt(variance), self.freedom + freedom)

    def draws(self, normals: Floats) -> Floats:
        """Draws of the standard deviation, one for each of the standard normal ``normals``, of the same shape.

        The variance is a scaled inverse chi-square; its quantiles are those of E. B. Wilson and M. M. Hilferty (PNAS
        17, 1931), good to 1 % of the standard deviation from three degrees of freedom on.
        """
        ninth = 2 / (9 * self.freedom)
        chi_square = np.maximum(1 - ninth + normals * math.sqrt(ninth), 0.05) ** 3
        drawn: Floats = self.sd / np.sqrt(chi_square)
        return drawn


NOT_KNOWN = Between(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one thing."""

    path: Path
    squares: float
    """Sum of squared deviations from their mean, of logarithms."""
    freedom: float
    """Degrees of freedom: one less than runs."""


@dataclass(frozen=True)
class LikeRuns:
    """What groups of runs say about the spread of others like them."""

    variance: float = 0.0
    """Variance of all runs."""
    factors: tuple[Mapping[str, Between], ...] = ()
    """By position in a path and its value: what the standard deviation is multiplied with there."""
    prior: float = _UNKNOWN_PRIOR
    """Most degrees of freedom that the like of a group count for beside the group's own runs."""
    known: bool = False

    @classmethod
    def of(cls, groups: Iterable[Group]) -> LikeRuns:
        """Learn from groups, all with paths of one length; groups of a single run say nothing."""
        known = [group for group in groups if group.freedom > 0]
        if not known:
            return cls()
        squares, freedom = np.array([(group.squares, group.freedom) for group in known]).T
        levels = [
            np.unique([group.path[at] for group in known], return_inverse=True) for at in range(len(known[0].path))
        ]
        variance = max(float(squares.sum() / freedom.sum()), _LEAST_VARIANCE)
        weights = [np.bincount(place, freedom, len(names)) for names, place in levels]
        factors = [np.ones(len(names)) for names, _ in levels]
        spread = [np.ones(len(known)) for _ in levels]  # the factors, each at its groups
        for _ in range(_SWEEPS):  # the score equations of a gamma regression of variances, one factor after the other
            before = list(factors)
            for at, (names, place) in enumerate(levels):
                others = math.prod(own for to, own in enumerate(spread) if to != at)
                seen = np.bincount(place, squares / (variance * others), len(names))
                factors[at] = (_SHRINK + seen) / (_SHRINK + weights[at])
                spread[at] = factors[at][place]
            fitted = math.prod(spread)
            variance = max(float((squares / fitted).sum() / freedom.sum()), _LEAST_VARIANCE)
            if all((now == then).all() for now, then in zip(factors, before, strict=True)):
                break
        own = tuple(
            {
                str(name): Between(math.sqrt(factor), _SHRINK + weight)
                for name, factor, weight in zip(names, found, weighed, strict=True)
            }
            for found, weighed, (names, _) in zip(factors, weights, levels, strict=True)
        )
        ratios = np.sqrt(squares / freedom / (variance * fitted))
        return cls(variance, own, likeness([(float(r), float(f)) for r, f in zip(ratios, freedom, strict=True)]), True)

    def expected(self, path: Path) -> Between:
        """The spread of a group before its own runs are looked at: that of all, by what its path multiplies it with."""
        if not self.known:
            return NOT_KNOWN
        found = [own.get(name, Between(1.0, _SHRINK)) for own, name in zip(self.factors, path, strict=True)]
        sd = math.sqrt(self.variance) * math.prod(factor.sd for factor in found)
        return Between(sd, min([self.prior, *(factor.freedom for factor in found)]))


def likeness(groups: Sequence[tuple[float, float]]) -> float:
    """Prior degrees of freedom: how many a group's like count for.

    Args:
        groups: Of each its standard deviation over that of its like, and its degrees of freedom.
    """
    if len(groups) < _FEWEST_GROUPS:
        return _UNKNOWN_PRIOR
    ratios, freedoms = np.array(groups).T
    ratios = np.maximum(ratios**2, _LEAST_RATIO)
    fits = _log_density(ratios[:, None], freedoms[:, None], _PRIORS).sum(axis=0)
    return float(_PRIORS[int(np.argmax(fits))])


def _log_density(ratios: Floats, above: Floats, below: Floats) -> Floats:
    """Of Snedecor's F with degrees of freedom ``above`` and ``below``, at positive ``ratios``; they broadcast."""
    powers = below / 2 * np.log(below) + above / 2 * np.log(above) + xlogy(above / 2 - 1, ratios)
    found: Floats = powers - ((above + below) / 2 * np.log(below + above * ratios) + betaln(above / 2, below / 2))
    return found

"""Intervals of ratios and averages of figures that have intervals already. Lives here: nothing else. Pure.

Ratios: MOVER, the method of variance estimates recovery, on logarithms (G. Y. Zou and A. Donner, Construction of
confidence limits about effect measures, Statistics in Medicine 27, 2008): the distances from each figure to the ends of
its interval add up as the root of their squares. It takes the figures as independent; two that share a baseline move
together, and the interval of their ratio is then wider than it need be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mtexp.metrics.bootstrap import Interval


def ratio(first: Interval, second: Interval) -> Interval:
    """``first / second``; all ends must be positive."""
    a, b = _logs(first), _logs(second)
    return _powers(
        Interval(
            a.value - b.value,
            a.value - b.value - math.hypot(a.value - a.low, b.high - b.value),
            a.value - b.value + math.hypot(a.high - a.value, b.value - b.low),
        )
    )


def geometric_mean(figures: Sequence[Interval]) -> Interval:
    """Of these figures, with an interval as if all their errors went the same way; all ends must be positive.

    Figures that share baselines do err together; where they do not, the interval is wider than it need be.

    Raises:
        ValueError: None is given.
    """
    if not figures:
        raise ValueError("a geometric mean needs at least one figure, found none")
    logs = [_logs(figure) for figure in figures]
    middle, low, high = (
        sum(ends) / len(logs) for ends in zip(*((log.value, log.low, log.high) for log in logs), strict=True)
    )
    return _powers(Interval(middle, low, high))


def differs(figure: Interval, reference: float = 1.0) -> bool:
    """Whether the interval leaves ``reference`` out: only then may a difference be claimed."""
    return not figure.low <= reference <= figure.high


def text(figure: Interval) -> str:
    """``1.23 [1.20, 1.26]``; with more digits where two would put an end on 1 that is not there."""
    ends = (figure.low, figure.high)
    digits = next((d for d in (2, 3) if all(f"{end:.{d}f}" != f"{1:.{d}f}" or end == 1 for end in ends)), 4)
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"


def _logs(figure: Interval) -> Interval:
    return Interval(math.log(figure.value), math.log(figure.low), math.log(figure.high))


def _powers(figure: Interval) -> Interval:
    return Interval(math.exp(figure.value), math.exp(figure.low), math.exp(figure.high))

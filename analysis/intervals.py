"""How a figure is written with its interval. Pure."""

from __future__ import annotations

from mtexp.metrics.bootstrap import Interval


def text(figure: Interval) -> str:
    """``1.23 [1.20, 1.26]``; with more digits where two would put an end on 1 that is not there."""
    ends = (figure.low, figure.high)
    digits = next((d for d in (2, 3) if all(f"{end:.{d}f}" != f"{1:.{d}f}" or end == 1 for end in ends)), 4)
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"

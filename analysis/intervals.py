"""When a figure may be called different, and how it is written with its interval. Lives here: nothing else. Pure."""

from __future__ import annotations

from mtexp.metrics.bootstrap import Interval


def differs(figure: Interval, reference: float = 1.0) -> bool:
    """Whether the interval leaves ``reference`` out: only then may a difference be claimed."""
    return not figure.low <= reference <= figure.high


def text(figure: Interval) -> str:
    """``1.23 [1.20, 1.26]``; with more digits where two would put an end on 1 that is not there."""
    ends = (figure.low, figure.high)
    digits = next((d for d in (2, 3) if all(f"{end:.{d}f}" != f"{1:.{d}f}" or end == 1 for end in ends)), 4)
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"

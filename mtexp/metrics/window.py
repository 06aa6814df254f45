"""The interval in which every tenant is measuring. Lives here: Window, and Series, what it keeps. May touch: numpy.

t0 is the latest first start, t1 the earliest last end over the tenants' measured iterations. Only iterations fully
inside enter a statistic: outside it a tenant has fewer neighbours than the run claims. Under sustained overlap every
tenant still runs at t1, so the window loses a share of an iteration at either edge; under the fixed protocol it ends
with the fastest tenant, and the rest of the others is tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtexp.metrics.samples import MEASURE, Floats, Mask, Samples


@dataclass(frozen=True, slots=True)
class Window:
    """The closed interval [t0, t1] of the monotonic clock."""

    t0_ns: int
    t1_ns: int

    def __post_init__(self) -> None:
        if self.t1_ns <= self.t0_ns:
            raise ValueError(f"a window ends after it starts; found t0_ns={self.t0_ns}, t1_ns={self.t1_ns}")

    @property
    def length_s(self) -> float:
        """t1 - t0."""
        return (self.t1_ns - self.t0_ns) / 1e9

    def mask(self, samples: Samples) -> Mask:
        """Which iterations are measured and fully inside; bool, shape (n,)."""
        inside: Mask = (samples.start_ns >= self.t0_ns) & (samples.end_ns <= self.t1_ns) & (samples.phase == MEASURE)
        return inside

    def keep(self, samples: Samples) -> Samples:
        """The iterations that :meth:`mask` selects."""
        return samples.select(self.mask(samples))

    def throughput_rps(self, samples: Samples) -> float:
        """Iterations kept a second of window."""
        return int(np.count_nonzero(self.mask(samples))) / self.length_s


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """What intervals are computed from: the kept iterations of one tenant in one repetition."""

    latency_ms: Floats
    """Shape (n,), in the order served."""
    cycle_ms: Floats
    """Shape (n,): the time each iteration took of the tenant, whose mean is the inverse of throughput. In closed loop
    that is its latency; in open loop, the time since the iteration before it ended."""
    throughput_rps: float

    @classmethod
    def closed(cls, latency_ms: Floats) -> Series:
        """Back-to-back iterations of these latencies (shape (n,), n >= 1)."""
        return cls(latency_ms, latency_ms, 1e3 / float(np.mean(latency_ms)))

    @classmethod
    def of(cls, samples: Samples, window: Window) -> Series:
        """What ``window`` keeps of ``samples``; empty if it keeps nothing."""
        kept = window.keep(samples)
        latency_ms = kept.latency_ms
        cycle_ms = latency_ms
        if kept.open_loop:
            cycle_ms = np.diff(kept.end_ns, prepend=window.t0_ns) / 1e6
        return cls(latency_ms, cycle_ms, len(kept) / window.length_s)

    @classmethod
    def whole(cls, samples: Samples) -> Series:
        """All measured iterations of a tenant that ran alone, or that were kept already.

        Raises:
            ValueError: There is none.
        """
        window = common_window([samples])
        if window is None:
            raise ValueError("a baseline needs measured iterations, found none")
        return cls.of(samples, window)


def common_window(tenants: Sequence[Samples]) -> Window | None:
    """The window of ``tenants``; None if one measured nothing or there is no instant at which all of them measured."""
    measured = [samples.measured for samples in tenants]
    if not measured or not all(len(samples) for samples in measured):
        return None
    t0_ns = max(int(samples.start_ns.min()) for samples in measured)
    t1_ns = min(int(samples.end_ns.max()) for samples in measured)
    return Window(t0_ns, t1_ns) if t1_ns > t0_ns else None


def measuring_ns(samples: Samples) -> int:
    """First start to last end of the measured iterations; 0 without any."""
    measured = samples.measured
    return int(measured.end_ns.max() - measured.start_ns.min()) if len(measured) else 0


def window_share_pct(window: Window | None, tenants: Sequence[Samples]) -> float:
    """Window as a share of the longest measuring time of ``tenants``, in percent; 0 without a window.

    Given one tenant, that tenant's share; given all of them, the run's.
    """
    longest_ns = max((measuring_ns(samples) for samples in tenants), default=0)
    if window is None or longest_ns == 0:
        return 0.0
    return 100 * (window.t1_ns - window.t0_ns) / longest_ns

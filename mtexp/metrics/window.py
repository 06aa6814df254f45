"""The interval in which every tenant is measuring. Lives here: Window, and Series, what it keeps. May touch: numpy.

t0 is the latest first start, t1 the earliest last end over the tenants' measured iterations. Only iterations fully
inside enter a statistic: outside it a tenant has fewer neighbours than the run claims. Under sustained overlap every
tenant still runs at t1; under the fixed protocol the window ends with the fastest tenant, and the rest of the others is
tail.

Closed loop: an iteration must start *after* t0, which leaves out the first iteration of every tenant, from latency and
throughput alike: it follows a pause and is slower than later ones. Throughput is the inverse of
the mean cycle, (last end - first start of the kept iterations) / their number. It does not depend on where the window
cuts an iteration, which a count over the window's length does: that count is low by up to two iterations a tenant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        """Which iterations are measured and fully inside, in closed loop without the first; bool, shape (n,)."""
        after_t0 = samples.start_ns >= self.t0_ns if samples.open_loop else samples.start_ns > self.t0_ns
        inside: Mask = after_t0 & (samples.end_ns <= self.t1_ns) & (samples.phase == MEASURE)
        return inside

    def keep(self, samples: Samples) -> Samples:
        """The iterations that :meth:`mask` selects."""
        return samples.select(self.mask(samples))

    def throughput_rps(self, samples: Samples) -> float:
        """Iterations a second of one tenant; 0 where the window keeps none.

        Closed loop: 1 / mean cycle. Open loop: iterations kept over the window's length.
        """
        return Series.of(samples, self).throughput_rps


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """What intervals are computed from: the kept iterations of one tenant in one repetition."""

    latency_ms: Floats
    """Shape (n,), in the order served."""
    cycle_ms: Floats
    """Shape (n,): the time each iteration took of the tenant. Closed loop: from start to next start, for the last one
    from start to end, so that the mean, (last end - first start) / n, is the inverse of throughput. Open loop: the time
    since the iteration before it ended."""
    throughput_rps: float
    arrival: NDArray[np.int64] | None = None
    """Shape (n,), open loop: which of the tenant's arrivals each is, from 0."""

    @classmethod
    def closed(cls, latency_ms: Floats) -> Series:
        """Back-to-back iterations of these latencies (shape (n,), n >= 1), without gaps."""
        return cls(latency_ms, latency_ms, 1e3 / float(np.mean(latency_ms)))

    @classmethod
    def consecutive(cls, start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> Series:
        """Consecutive closed-loop iterations with these time stamps, each of shape (n,), n >= 1."""
        cycle_ms = np.diff(start_ns, append=end_ns[-1:]) / 1e6
        return cls((end_ns - start_ns) / 1e6, cycle_ms, 1e3 / float(cycle_ms.mean()))

    @classmethod
    def of(cls, samples: Samples, window: Window) -> Series:
        """What ``window`` keeps of ``samples``; empty, with throughput 0, if it keeps nothing."""
        kept = window.keep(samples)
        if len(kept) and not samples.open_loop:
            return cls.consecutive(kept.start_ns, kept.end_ns)
        cycle_ms = np.diff(kept.end_ns, prepend=window.t0_ns) / 1e6
        arrival = _arrival_numbers(samples.measured, window) if samples.open_loop else None
        return cls(kept.latency_ms, cycle_ms, len(kept) / window.length_s, arrival)

    @classmethod
    def whole(cls, samples: Samples) -> Series:
        """The measured iterations of a tenant that ran alone; in closed loop without the first.

        Raises:
            ValueError: There is none.
        """
        window = common_window([samples])
        if window is None or not window.mask(samples).any():
            raise ValueError("a baseline needs two measured iterations (the first is left out), found fewer")
        return cls.of(samples, window)


def _arrival_numbers(measured: Samples, window: Window) -> NDArray[np.int64]:
    numbers = np.empty(len(measured), dtype=np.int64)
    numbers[np.argsort(measured.arrival_ns, kind="stable")] = np.arange(len(measured))
    return numbers[window.mask(measured)]


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

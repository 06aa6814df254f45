"""What limits of the clock cost a run, and which of them. Lives here: ClockPolls, ClockLoss, lost. May touch: numpy.

Each poll of the SM clock is compared with a reference, and what it lacks is put down to the limit that was active at
that poll. A poll under the power cap alone is the power cap's; any other is not, so that one poll of the cap excuses
nothing beside it. A poll at which the device was idle costs nothing: no request ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtexp.metrics.finding import Finding
from mtexp.metrics.samples import Floats

CLOCK_LIMIT = 0.95
"""Share of the reference clock that a run must have, whatever limits it but the power cap."""
_REPORTED_PCT = 1.0
"""A loss without a known reason is reported from here on: clocks move in steps of 15 MHz, 0.8 % of 1980."""
_ROUNDING_PCT = 1e-9
_ALWAYS = 0.95
_BEST = 95.0

IDLE, POWER_CAP = 0x1, 0x4
THROTTLE_BITS: Mapping[int, str] = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""NVML's clocks-event reasons that say that the device protects itself."""
_THROTTLED = sum(THROTTLE_BITS)


@dataclass(frozen=True, slots=True, eq=False)
class ClockPolls:
    """The SM clock in a window, poll by poll."""

    mhz: Floats
    """Shape (n,)."""
    reasons: NDArray[np.int64]
    """Shape (n,): NVML's clocks-event reasons at that poll, or whose counter grew since the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockLoss:
    """What a run lacked of a reference clock. Shares are of the window's polls, losses of the reference; percent."""

    reference_mhz: float
    reference: str
    """Whose clock that is: ``the baseline's``, ``its own best``, ``the device's highest``."""
    mean_mhz: float
    lowest_mhz: float
    """Lowest clock of polls neither under the power cap nor next to one that is (the driver names a reason up to a poll
    late); the reference where there is no such poll."""
    throttled_pct: Mapping[str, float]
    """By name of the limit (``THROTTLE_BITS``): how much of the window it was active; only those that were."""
    throttled_lost_pct: float
    """Mean loss at polls with one of them, over the whole window."""
    capped_pct: float
    """How much of the window the power cap was active."""
    capped_lost_pct: float
    """Mean loss at polls with the power cap and none of ``throttled_pct``."""
    other_lost_pct: float
    """Mean loss at polls with neither."""

    @property
    def lost_pct(self) -> float:
        """All that the power cap does not explain."""
        return self.throttled_lost_pct + self.other_lost_pct

    @property
    def metrics(self) -> dict[str, float]:
        """The figures of a record."""
        return {"clock_lost_pct": self.lost_pct, "clock_lost_power_cap_pct": self.capped_lost_pct}


def lost(polls: ClockPolls, baseline_mhz: float | None = None, highest_mhz: float | None = None) -> ClockLoss | None:
    """What ``polls`` lack of the clock that the run should have had; None without a poll.

    Args:
        polls: Of the window.
        baseline_mhz: Mean SM clock of the baselines that the run is compared with, the highest of several. None = none
            is known: the reference is the clock that the run had at its best (95th percentile of its polls).
        highest_mhz: The highest SM clock that the device is set to. It is the reference of a run without a baseline
            that was throttled throughout, and so never was at its best.
    """
    if not polls.mhz.size:
        return None
    throttled = (polls.reasons & _THROTTLED) != 0
    reference_mhz, whose = float(np.percentile(polls.mhz, _BEST)), "its own best"
    if baseline_mhz is not None:
        reference_mhz, whose = baseline_mhz, "the baseline's"
    elif highest_mhz is not None and throttled.mean() >= _ALWAYS:
        reference_mhz, whose = highest_mhz, "the device's highest"
    capped = (polls.reasons & POWER_CAP) != 0
    busy = (polls.reasons & IDLE) == 0
    loss_pct = 100 * np.clip(1 - polls.mhz / reference_mhz, 0, None) * busy
    near_cap = capped | np.append(capped[1:], False) | np.append(False, capped[:-1])
    unexplained = busy & ~(near_cap & ~throttled)
    active = {name: 100 * float(((polls.reasons & bit) != 0).mean()) for bit, name in THROTTLE_BITS.items()}
    return ClockLoss(
        reference_mhz=reference_mhz,
        reference=whose,
        mean_mhz=float(polls.mhz.mean()),
        lowest_mhz=float(polls.mhz[unexplained].min(initial=reference_mhz)),
        throttled_pct={name: pct for name, pct in active.items() if pct > 0},
        throttled_lost_pct=float((loss_pct * throttled).mean()),
        capped_pct=100 * float(capped.mean()),
        capped_lost_pct=float((loss_pct * (capped & ~throttled)).mean()),
        other_lost_pct=float((loss_pct * ~(capped | throttled)).mean()),
    )


def clock_findings(clock: ClockLoss | None, bits: int) -> Iterator[Finding]:
    """Judge limits by the clock that they cost: beyond 5 % INVALID, except for the power cap, which is labelled.

    Args:
        clock: What was lost; None = the clock was not polled in the window.
        bits: NVML's clocks-event reasons that were active in the window, polled or by their counters.
    """
    if clock is None:
        yield from _of_unknown_cost(bits)
        return
    against = f"mean {clock.mean_mhz:.0f} MHz against {clock.reference} {clock.reference_mhz:.0f} MHz"
    limit_pct = 100 * (1 - CLOCK_LIMIT)
    grave = "invalid" if clock.lost_pct > limit_pct + _ROUNDING_PCT else "warning"
    by_throttling = clock.throttled_lost_pct >= clock.other_lost_pct
    if clock.throttled_pct:
        limits = ", ".join(f"{name} for {pct:.1f} % of the window" for name, pct in clock.throttled_pct.items())
        yield Finding(
            grave if by_throttling else "warning",
            "throttling",
            f"the device throttled while measuring ({limits}), which cost {clock.throttled_lost_pct:.1f} % of the SM "
            f"clock ({against}); allowed are {limit_pct:.0f} % for all that is not the power cap",
            "Let it cool down, check its cooling and power supply, then repeat the run.",
        )
    if clock.other_lost_pct >= _REPORTED_PCT or (
        not clock.throttled_pct and clock.lowest_mhz < CLOCK_LIMIT * clock.reference_mhz
    ):
        yield Finding(
            "warning" if by_throttling else grave,
            "clock-drop",
            f"the SM clock lost {clock.other_lost_pct:.1f} % for no reason that NVML names ({against}; lowest "
            f"{clock.lowest_mhz:.0f} MHz); allowed are {limit_pct:.0f} % for all that is not the power cap",
            "Warm up longer, or lock the clocks (nvidia-smi -lgc) for the baseline and the mix alike, then repeat.",
        )
    if bits & POWER_CAP:
        yield Finding(
            "warning",
            "power-limited",
            f"the power cap was active for {clock.capped_pct:.0f} % of the window and cost {clock.capped_lost_pct:.1f} "
            f"% of the SM clock ({against}); that part of a slowdown is the cap's, not the neighbours'",
            "See slowdown_clock for that part; lock the clocks below the cap (nvidia-smi -lgc) to take it out.",
        )


def _of_unknown_cost(bits: int) -> Iterator[Finding]:
    reasons = [name for bit, name in THROTTLE_BITS.items() if bits & bit]
    if reasons:
        yield Finding(
            "invalid",
            "throttling",
            f"the device throttled while measuring: {', '.join(reasons)}; what it cost is not known, since "
            "nothing polled the SM clock in the window",
            "Let it cool down, check its cooling and power supply. With measure.min_time_s=1 the cost is seen.",
        )
    if bits & POWER_CAP:
        yield Finding(
            "warning",
            "power-limited",
            "the power cap lowered the clocks while measuring; part of a slowdown may be the cap, not the neighbours",
            "With measure.min_time_s=1 the cost is seen; lock the clocks below the cap (nvidia-smi -lgc) to avoid it.",
        )

"""What the samples come to over the window: means, energy, throttling, errors.

Lives here: :func:`read` and :class:`TelemetrySummary`. May touch: one Parquet file, numpy. Names of values are the
column's and ``_mean``, ``_min`` or ``_max``; a counter's is the column's own, and is its growth over the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtexp.telemetry.gpu import COUNTERS, ENERGY_COLUMN, RARE_COUNTERS
from mtexp.telemetry.probes import GPM
from mtexp.telemetry.table import Samples, load

REASONS = "gpu_throttle_reasons"
SM_CLOCK = "gpu_sm_clock_mhz"
POWER = "gpu_power_w"

EVENT_XID = 8
"""nvmlEventTypeXidCriticalError."""

THROTTLE_COUNTERS: Mapping[str, int] = {
    "gpu_throttled_power_cap_s": 0x4,
    "gpu_throttled_thermal_s": 0x20,
    "gpu_throttled_sync_boost_s": 0x10,
    "gpu_throttled_sw_thermal_s": 0x20,
    "gpu_throttled_hw_thermal_s": 0x40,
    "gpu_throttled_hw_power_brake_s": 0x80,
}
"""Which bit of NVML's clocks-event reasons a cumulative counter stands for."""

_GREW_S = 1e-6
_FEWEST_POWER_SAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySummary:
    """Telemetry over a window; None, empty and absent mean that it was not measured."""

    values: dict[str, float] = field(default_factory=dict)
    """``<column>_mean``, ``_min``, ``_max``; growth of counters; all of the device or host."""
    tenants: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same by tenant (or by process, ``a+b``, where tenants share one); keys as in ``values``."""
    samples: int = 0
    """Rows inside the window."""
    period_ms: float | None = None
    """Median time between two rows that was achieved."""
    period_max_ms: float | None = None
    energy_j: float | None = None
    energy_source: str = ""
    """``counter``, or ``power`` where the counter does not span the window and power was integrated."""
    throttled_s: dict[str, float] = field(default_factory=dict)
    """Seconds in the window by kind: ``power_cap``, ``thermal``, ``sync_boost``, ``sw_thermal`` ..."""
    throttle_bits: int = 0
    """Clocks-event reasons polled in the window, or whose counter grew in it."""
    sm_clock_min_mhz: float | None = None
    sm_clock_median_mhz: float | None = None
    xid_errors: tuple[int, ...] = ()
    """While sampling, which is a little longer than the window."""
    absent: dict[str, str] = field(default_factory=dict)
    """Call, field or metric that did not answer, at least once, and why."""


def read(path: Path, t0_ns: int, t1_ns: int) -> TelemetrySummary:
    """Summarise a telemetry file over the window [``t0_ns``, ``t1_ns``] of the monotonic clock.

    Raises:
        RecordError: The file cannot be read, or is not a telemetry file.
    """
    return summarise(load(path), t0_ns, t1_ns)


def summarise(samples: Samples, t0_ns: int, t1_ns: int) -> TelemetrySummary:
    """Summarise ``samples`` over a window; a sample belongs to it when its time (the middle of its interval) does."""
    times_ns, columns = samples.times_ns, samples.columns
    inside = (times_ns >= t0_ns) & (times_ns <= t1_ns)
    cumulative = {ENERGY_COLUMN, *COUNTERS, *RARE_COUNTERS}
    gpm_ns = round(samples.notes.get("periods_ms", {}).get(GPM, 0.0) * 1e6)
    averaged = set(samples.notes.get("groups", {}).get(GPM, ()))
    values: dict[str, float] = {}
    tenants: dict[str, dict[str, float]] = {}
    for name, column in columns.items():
        if name in cumulative:
            if name != ENERGY_COLUMN and (grown := _growth(times_ns, column, t0_ns, t1_ns)) is not None:
                values[name] = grown
        elif name != REASONS:
            key, _, tenant = name.partition("/")
            middle_ns = times_ns - gpm_ns // 2 if name in averaged else times_ns
            found = column[(middle_ns >= t0_ns) & (middle_ns <= t1_ns)]
            (tenants.setdefault(tenant, {}) if tenant else values).update(_statistics(key, found))
    clocks = _found(columns.get(SM_CLOCK), inside)
    if clocks.size:
        values["gpu_sm_clock_mhz_median"] = float(np.median(clocks))
    gaps_ms = np.diff(times_ns[inside]) / 1e6
    energy_j, source = _energy(samples, t0_ns, t1_ns)
    return TelemetrySummary(
        values=values,
        tenants={name: found for name, found in tenants.items() if found},
        samples=int(inside.sum()),
        period_ms=float(np.median(gaps_ms)) if gaps_ms.size else None,
        period_max_ms=float(gaps_ms.max()) if gaps_ms.size else None,
        energy_j=energy_j,
        energy_source=source,
        throttled_s={_kind(name): values[name] for name in THROTTLE_COUNTERS if name in values},
        throttle_bits=_throttle_bits(_found(columns.get(REASONS), inside), values),
        sm_clock_min_mhz=float(clocks.min()) if clocks.size else None,
        sm_clock_median_mhz=float(np.median(clocks)) if clocks.size else None,
        xid_errors=tuple(data for _, kind, data in samples.notes.get("events", ()) if kind == EVENT_XID),
        absent=dict(samples.notes.get("absent", {})),
    )


def _statistics(key: str, column: NDArray[np.float64]) -> dict[str, float]:
    found = column[~np.isnan(column)]
    if not found.size:
        return {}
    return {f"{key}_mean": float(found.mean()), f"{key}_min": float(found.min()), f"{key}_max": float(found.max())}


def _found(column: NDArray[np.float64] | None, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    if column is None:
        return np.empty(0)
    found = column[inside]
    return found[~np.isnan(found)]


def _growth(times_ns: NDArray[np.int64], counter: NDArray[np.float64], t0_ns: int, t1_ns: int) -> float | None:
    """Return how far a counter grew in the window, interpolated at its edges; None where it does not span it."""
    there = ~np.isnan(counter)
    at_ns, read_out = times_ns[there], counter[there]
    if not at_ns.size or at_ns[0] > t0_ns or at_ns[-1] < t1_ns:
        return None
    start, end = np.interp([t0_ns, t1_ns], at_ns, read_out)
    return float(end - start)


def _energy(samples: Samples, t0_ns: int, t1_ns: int) -> tuple[float | None, str]:
    """Return the energy over the window in J: the counter's growth, else power integrated over time."""
    none = np.full(len(samples.times_ns), np.nan)
    by_counter_j = _growth(samples.times_ns, samples.columns.get(ENERGY_COLUMN, none), t0_ns, t1_ns)
    if by_counter_j is not None:
        return by_counter_j, "counter"
    power_w = samples.columns.get(POWER, none)
    there = ~np.isnan(power_w)
    at_ns, power_w = samples.times_ns[there], power_w[there]
    inner = (at_ns > t0_ns) & (at_ns < t1_ns)
    if inner.sum() < _FEWEST_POWER_SAMPLES or at_ns[0] > t0_ns or at_ns[-1] < t1_ns:
        return None, ""
    edges_w = np.interp([t0_ns, t1_ns], at_ns, power_w)
    curve_w = np.concatenate([edges_w[:1], power_w[inner], edges_w[1:]])
    curve_s = np.concatenate([[0.0], (at_ns[inner] - t0_ns) / 1e9, [(t1_ns - t0_ns) / 1e9]])
    return float(np.trapezoid(curve_w, curve_s)), "power"


def _throttle_bits(polled: NDArray[np.float64], values: Mapping[str, float]) -> int:
    bits = int(np.bitwise_or.reduce(polled.astype(np.int64))) if polled.size else 0
    for name, bit in THROTTLE_COUNTERS.items():
        if values.get(name, 0.0) > _GREW_S:
            bits |= bit
    return bits


def _kind(column: str) -> str:
    return column.removeprefix("gpu_throttled_").removesuffix("_s")

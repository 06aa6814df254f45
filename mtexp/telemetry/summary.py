"""Summarises the samples over the window: means, energy, throttling, errors.

Lives here: :func:`read` and :class:`TelemetrySummary`. May touch: one Parquet file, numpy. Names of values are the
column's and ``_mean``, ``_min`` or ``_max``; a counter's is the column's own, and is its growth over the window. What
each is, and how good: ``docs/telemetry.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtexp.metrics.clock import ClockPolls
from mtexp.telemetry.gpu import CONTEXT_SWITCHES, COUNTERS, ENERGY_COLUMN, RARE_COUNTERS
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
"""NVML's clocks-event reason of each cumulative counter."""

_SWITCHES = "gpu_ctxsw_requests"
_NO_SWITCHES = ("gpm context switches", "gpm", f"gpm {CONTEXT_SWITCHES[_SWITCHES]}")
"""Names in ``absent`` with the reason for a missing column, the most specific first."""
_GREW_S = 1e-6
_AFTER_NS = 1_000_000_000
_FEWEST_SAMPLES = 3
"""Minimum readings in the window for an energy from only the power or only the counter."""
_LEAST_W = 1e-3
"""Power from which on the work done grows with time, so that a counter can be read against it."""
_LEVELS = ("tenant_gpu_memory_mib", "tenant_memory_mib")
"""What a tenant holds from warm-up to the end: where no reading lies inside the window, the nearest one is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySummary:
    """Telemetry over a window; None, empty and absent mean "not measured"."""

    values: dict[str, float] = field(default_factory=dict)
    """``<column>_mean``, ``_min``, ``_max``; growth of counters; all of the device or host."""
    tenants: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same by tenant (or by process, ``a+b``, where tenants share one); keys as in ``values``."""
    samples: int = 0
    """Rows inside the window."""
    energy_j: float | None = None
    energy_source: str = ""
    """``counter+power``: the counter, with its growth between readings distributed like the power; ``counter``: no
    power, spread evenly; ``power``: the counter does not span the window, power was integrated."""
    power_source: str = ""
    """NVML's power value: instantaneous or an average."""
    throttled_s: dict[str, float] = field(default_factory=dict)
    """Seconds in the window by kind: ``power_cap``, ``thermal``, ``sync_boost``, ``sw_thermal`` ..."""
    throttle_bits: int = 0
    """Clocks-event reasons polled in the window, or whose counter grew in it."""
    clock: ClockPolls = field(default_factory=lambda: ClockPolls(np.empty(0), np.empty(0, dtype=np.int64)))
    """The SM clock in the window, poll by poll."""
    xid_errors: tuple[int, ...] = ()
    """While sampling, which is a little longer than the window."""
    process_util_pct: dict[int, float] | None = None
    """Mean SM utilisation of each process that had any, by pid; None = the driver did not say."""
    absent: dict[str, str] = field(default_factory=dict)
    """Calls, fields and metrics that failed at least once, with the reason."""
    no_context_switches: str = ""
    """Why the device reported no context switches; empty if it did, or if they were not requested."""

    @property
    def notes(self) -> dict[str, Any]:
        """Return the notes for the record: sources of the metrics, and what is absent."""
        notes = {"energy_source": self.energy_source, "power_source": self.power_source, "absent": self.absent}
        return {name: value for name, value in notes.items() if value}


def read(path: Path, t0_ns: int, t1_ns: int, spans_ns: NDArray[np.int64] | None = None) -> TelemetrySummary:
    """Summarise a telemetry file over the window [``t0_ns``, ``t1_ns``] of the monotonic clock.

    Args:
        path: The file.
        t0_ns: Start of the window.
        t1_ns: End of the window.
        spans_ns: Starts and ends, shape (n, 2): of others only samples count that lie in one of these; None = of all.
            What averages over a longer time is left out then.

    Raises:
        RecordError: The file cannot be read, or is not a telemetry file.
    """
    return summarise(load(path), t0_ns, t1_ns, spans_ns)


def summarise(samples: Samples, t0_ns: int, t1_ns: int, spans_ns: NDArray[np.int64] | None = None) -> TelemetrySummary:
    """Summarise ``samples`` over a window; a sample belongs to it when its time (the middle of its interval) does."""
    times_ns, columns = samples.times_ns, samples.columns
    inside = (times_ns >= t0_ns) & (times_ns <= t1_ns)
    if spans_ns is not None:
        inside &= _in_spans(times_ns, spans_ns)
    cumulative = {ENERGY_COLUMN, *COUNTERS, *RARE_COUNTERS}
    gpm_ns = round(samples.notes.get("periods_ms", {}).get(GPM, 0.0) * 1e6)
    in_gpm_group = samples.notes.get("groups", {}).get(GPM, ())
    averaged = {name for name in in_gpm_group if not name.partition("/")[0].endswith("_mib")}  # memory is a level
    values: dict[str, float] = {}
    tenants: dict[str, dict[str, float]] = {}
    for name, column in columns.items():
        if name in cumulative:
            if name != ENERGY_COLUMN and (grown := _growth(times_ns, column, t0_ns, t1_ns)) is not None:
                values[name] = grown
        elif name != REASONS:
            key, _, tenant = name.partition("/")
            found = column[inside]
            if name in averaged:
                middle_ns = times_ns - gpm_ns // 2
                found = column[(middle_ns >= t0_ns) & (middle_ns <= t1_ns) & (spans_ns is None)]
            if key in _LEVELS and np.isnan(found).all():
                of_all = [own for other, own in columns.items() if other.startswith(f"{key}/")]
                found = _beside(times_ns, column, of_all, t0_ns, t1_ns)
            (tenants.setdefault(tenant, {}) if tenant else values).update(_statistics(key, found))
    clocks = _found(columns.get(SM_CLOCK), inside)
    if clocks.size:
        values["gpu_sm_clock_mhz_median"] = float(np.median(clocks))
    gaps_ms = np.diff(times_ns[(times_ns >= t0_ns) & (times_ns <= t1_ns)]) / 1e6
    if gaps_ms.size:
        values |= {"telemetry_period_ms": float(np.median(gaps_ms)), "telemetry_period_max_ms": float(gaps_ms.max())}
    energy_j, source = _energy(samples, t0_ns, t1_ns)
    absent = dict(samples.notes.get("absent", {}))
    return TelemetrySummary(
        values=values,
        tenants={name: found for name, found in tenants.items() if found},
        samples=int(inside.sum()),
        energy_j=energy_j,
        energy_source=source,
        power_source=samples.notes.get("power_source", ""),
        throttled_s={_kind(name): values[name] for name in THROTTLE_COUNTERS if name in values},
        throttle_bits=_throttle_bits(_found(columns.get(REASONS), inside), values),
        clock=_clock_polls(samples, inside),
        xid_errors=tuple(data for _, kind, data in samples.notes.get("events", ()) if kind == EVENT_XID),
        process_util_pct=_process_util_pct(samples.notes.get("process_util", ()), t0_ns, t1_ns),
        absent=absent,
        no_context_switches="" if _SWITCHES in columns else next((absent[n] for n in _NO_SWITCHES if n in absent), ""),
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


def _beside(
    times_ns: NDArray[np.int64],
    column: NDArray[np.float64],
    of_all: Sequence[NDArray[np.float64]],
    t0_ns: int,
    t1_ns: int,
) -> NDArray[np.float64]:
    """Return the reading nearest to the window of those that found every tenant of ``of_all`` up; empty without any."""
    up = ~np.isnan(of_all).any(axis=0)
    if not up.any():
        return np.empty(0)
    distance_ns = np.maximum(t0_ns - times_ns[up], times_ns[up] - t1_ns)
    return column[up][[distance_ns.argmin()]]


def _growth(at: NDArray[Any], counter: NDArray[np.float64], t0: float, t1: float) -> float | None:
    """Return how far a counter grew from ``t0`` to ``t1``, interpolated there; None where it does not span them.

    ``at`` is what it is read against: a time, or anything else that grows.
    """
    there = ~np.isnan(counter)
    at, counter = at[there], counter[there]
    if not at.size or at[0] > t0 or at[-1] < t1:
        return None
    start, end = np.interp([t0, t1], at, counter)
    return float(end - start)


def _energy(samples: Samples, t0_ns: int, t1_ns: int) -> tuple[float | None, str]:
    """Return the energy over the window in J, and what it was found by (``TelemetrySummary.energy_source``).

    The counter is read seldom, and idle time before the window must not count as if it were busy. Its growth between
    two readings is therefore interpolated over the integrated power, not over time.
    """
    times_ns, none = samples.times_ns, np.full(len(samples.times_ns), np.nan)
    counter_j, power_w = samples.columns.get(ENERGY_COLUMN, none), samples.columns.get(POWER, none)
    polled = times_ns[~np.isnan(power_w)]
    if polled.size > 1 and polled[0] <= t0_ns and t1_ns <= polled[-1]:
        at_ns = np.concatenate([times_ns, [t0_ns, t1_ns]])
        by_power_j = _by_power_j(polled, power_w[~np.isnan(power_w)], at_ns)
        t0_j, t1_j = by_power_j[-2:]
        if (by_counter_j := _growth(by_power_j[:-2], counter_j, t0_j, t1_j)) is not None:
            return by_counter_j, "counter+power"
        if _inside(polled, t0_ns, t1_ns) >= _FEWEST_SAMPLES:
            return float(t1_j - t0_j), "power"
    elif _inside(times_ns[~np.isnan(counter_j)], t0_ns, t1_ns) >= _FEWEST_SAMPLES:
        by_counter_j = _growth(times_ns, counter_j, t0_ns, t1_ns)
        return by_counter_j, "counter" if by_counter_j is not None else ""
    return None, ""


def _by_power_j(
    polled_ns: NDArray[np.int64], power_w: NDArray[np.float64], at_ns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the energy in J from the first poll to each of ``at_ns``: trapezoids under the polled power."""
    grid_ns = np.union1d(polled_ns, at_ns)
    watts = np.maximum(np.interp(grid_ns, polled_ns, power_w), _LEAST_W)
    steps_j = np.diff(grid_ns) / 1e9 * (watts[1:] + watts[:-1]) / 2
    energy_j: NDArray[np.float64] = np.concatenate([[0.0], np.cumsum(steps_j)])
    return energy_j[np.searchsorted(grid_ns, at_ns)]


def _inside(at_ns: NDArray[np.int64], t0_ns: int, t1_ns: int) -> int:
    return int(((at_ns > t0_ns) & (at_ns < t1_ns)).sum())


def _throttle_bits(polled: NDArray[np.float64], values: Mapping[str, float]) -> int:
    bits = int(np.bitwise_or.reduce(polled.astype(np.int64))) if polled.size else 0
    for name, bit in THROTTLE_COUNTERS.items():
        if values.get(name, 0.0) > _GREW_S:
            bits |= bit
    return bits


def _clock_polls(samples: Samples, inside: NDArray[np.bool_]) -> ClockPolls:
    """Return the polls of the SM clock that lie inside, with the reasons polled, or counted since the poll before."""
    none = np.full(len(samples.times_ns), np.nan)
    clock = samples.columns.get(SM_CLOCK, none)
    reasons = np.nan_to_num(samples.columns.get(REASONS, none)).astype(np.int64)
    for name, bit in THROTTLE_COUNTERS.items():
        counter = samples.columns.get(name, none)
        there = ~np.isnan(counter)
        grew = np.diff(counter[there], prepend=counter[there][:1]) > _GREW_S
        reasons[np.flatnonzero(there)[grew]] |= bit
    polled = inside & ~np.isnan(clock)
    return ClockPolls(clock[polled], reasons[polled])


def _process_util_pct(polls: Sequence[Any], t0_ns: int, t1_ns: int) -> dict[int, float] | None:
    """Return the mean over the polls of the window and the one after it, which covers its end."""
    within = [dict(found) for at_ns, found in polls if t0_ns <= at_ns <= t1_ns + _AFTER_NS]
    if not within:
        return None
    return {pid: sum(found.get(pid, 0.0) for found in within) / len(within) for pid in set().union(*within)}


def _kind(column: str) -> str:
    return column.removeprefix("gpu_throttled_").removesuffix("_s")


def _in_spans(times_ns: NDArray[np.int64], spans_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
    if not spans_ns.size:
        return np.zeros(times_ns.shape, dtype=np.bool_)
    place = np.searchsorted(spans_ns[:, 0], times_ns, side="right") - 1
    inside: NDArray[np.bool_] = (place >= 0) & (times_ns <= spans_ns[np.maximum(place, 0), 1])
    return inside


def over_spans(samples: Samples, spans_ns: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Return the mean SM clock in MHz and the energy in J over several stretches of time; None = not measured.

    Power and counter are read seldom compared with a stretch: what one lacks at its ends another has too much, so the
    energy of one stretch means little and that of many is right.

    Args:
        samples: Of the run.
        spans_ns: Starts and ends, shape (n, 2), ascending.
    """
    times_ns, none = samples.times_ns, np.full(len(samples.times_ns), np.nan)
    if not spans_ns.size:
        return None, None
    inside = _in_spans(times_ns, spans_ns)
    clocks = _found(samples.columns.get(SM_CLOCK), inside)
    clock_mhz = float(clocks.mean()) if clocks.size else None
    power_w = samples.columns.get(POWER, none)
    there = ~np.isnan(power_w)
    polled = times_ns[there]
    if polled.size < _FEWEST_SAMPLES or polled[0] > spans_ns[0, 0] or polled[-1] < spans_ns[-1, 1]:
        return clock_mhz, None
    by_power_j = _by_power_j(polled, power_w[there], np.concatenate([times_ns, spans_ns.ravel()]))
    ends_j = by_power_j[len(times_ns) :]
    counter_j = samples.columns.get(ENERGY_COLUMN, none)
    read = ~np.isnan(counter_j)
    at_j = by_power_j[: len(times_ns)][read]
    if at_j.size > 1 and at_j[0] <= ends_j.min() and at_j[-1] >= ends_j.max():
        ends_j = np.interp(ends_j, at_j, counter_j[read])
    return clock_mhz, float(np.diff(ends_j.reshape(-1, 2)).sum())

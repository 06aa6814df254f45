"""Adds to each iteration the SM clock and the number of neighbours in flight.

Lives here: :func:`with_telemetry`, :func:`on_another_clock`. May touch: nothing outside its arguments.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .dataset import DataError

log = logging.getLogger(__name__)

CLOCK = "gpu_sm_clock_mhz"
LOST = "their telemetry is on another clock, and the offset is not in this export; export the records again"
_WANTED = ("record_id", "tenant", "start_ns", "end_ns")


def with_telemetry(iterations: pd.DataFrame, telemetry: pd.DataFrame) -> pd.DataFrame:
    """Return ``iterations``, row by row, with the state of the device and the other tenants of the run.

    Args:
        iterations: With ``record_id``, ``tenant``, ``start_ns``, ``end_ns``, as :func:`analysis.fetch.iterations` and
            :attr:`analysis.data.Dataset.iterations` are. Neighbours are found among these rows only: give all tenants.
        telemetry: With ``record_id``, ``monotonic_ns``, ``gpu_sm_clock_mhz``, as :func:`analysis.fetch.telemetry` is;
            may be empty.

    Returns:
        A copy with ``gpu_sm_clock_mhz`` (at the middle of the request, between two samples by a straight line; NaN
        where none lie around it), ``neighbours`` (how many other tenants of the run had a request in flight, begun and
        not ended, when this one began) and ``neighbour_names`` (their ids, ``a+b``).

    The SM clock is NaN, with a warning, in runs whose telemetry is :func:`on_another_clock`.

    Raises:
        DataError: ``iterations`` lacks a column.
    """
    if missing := [name for name in _WANTED if name not in iterations]:
        raise DataError(f"iterations lack {', '.join(missing)}: read them with columns={list(_WANTED)}, or with all")
    start_ns, end_ns = (iterations[name].to_numpy(np.int64) for name in ("start_ns", "end_ns"))
    tenants = iterations["tenant"].astype(str).to_numpy()
    clock_mhz = np.full(len(iterations), np.nan)
    neighbours = np.zeros(len(iterations), dtype=np.int64)
    names = np.full(len(iterations), "", dtype=object)
    polled = _clocks(telemetry)
    if lost := on_another_clock(iterations, telemetry):
        log.warning("No SM clock beside the requests of %d runs: %s", len(lost), LOST)
        polled = {record: found for record, found in polled.items() if record not in lost}
    for record, rows in iterations.groupby("record_id", observed=True, sort=False).indices.items():
        if str(record) in polled:
            at_ns, mhz = polled[str(record)]
            middle_ns = start_ns[rows] + (end_ns[rows] - start_ns[rows]) // 2
            clock_mhz[rows] = np.interp(middle_ns, at_ns, mhz, left=np.nan, right=np.nan)
        neighbours[rows], names[rows] = _neighbours(tenants[rows], start_ns[rows], end_ns[rows])
    return iterations.assign(
        **{CLOCK: clock_mhz}, neighbours=neighbours, neighbour_names=pd.array(names.tolist(), dtype="string")
    )


def on_another_clock(iterations: pd.DataFrame, telemetry: pd.DataFrame) -> set[str]:
    """The runs whose telemetry does not have the clock of their requests, so that the two cannot be put together.

    Exports of before the clocks were kept count requests from the first one and telemetry from the start of the host;
    the offset between the two is in neither. A run's sampler starts before its requests: telemetry that begins after
    the first request, or ends before it, is on another clock.

    Args:
        iterations: With ``record_id``, ``start_ns``; may be some of a run's.
        telemetry: With ``record_id``, ``monotonic_ns``; may be empty.
    """
    if telemetry.empty or iterations.empty:
        return set()
    first_ns = iterations.groupby("record_id", observed=True)["start_ns"].min().rename("first_ns")
    sampled = telemetry.groupby("record_id", observed=True)["monotonic_ns"].agg(["min", "max"])
    both = sampled.join(first_ns, how="inner")
    return {str(record) for record in both.index[(both["min"] > both["first_ns"]) | (both["max"] < both["first_ns"])]}


def _clocks(telemetry: pd.DataFrame) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Times and clocks of each run that has any."""
    if CLOCK not in telemetry:
        return {}
    there = telemetry.dropna(subset=CLOCK).sort_values("monotonic_ns")
    grouped = there.groupby("record_id", observed=True, sort=False)
    return {str(r): (own["monotonic_ns"].to_numpy(), own[CLOCK].to_numpy(np.float64)) for r, own in grouped}


def _neighbours(
    tenants: NDArray[Any], start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[str]]:
    """How many other tenants had a request in flight at each start, and which; of one run."""
    ids = np.unique(tenants)
    in_flight = np.zeros((len(tenants), len(ids)), dtype=bool)
    for column, tenant in enumerate(ids):
        own = tenants == tenant
        begun, ended = (np.searchsorted(np.sort(ns[own]), start_ns, side="right") for ns in (start_ns, end_ns))
        in_flight[:, column] = (begun > ended) & ~own
    kinds, kind = np.unique(in_flight, axis=0, return_inverse=True)
    named = ["+".join(ids[row]) for row in kinds]
    return in_flight.sum(axis=1), [named[index] for index in kind.ravel()]

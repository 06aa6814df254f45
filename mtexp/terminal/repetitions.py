"""Repetitions of a sweep put together, as its report does it. May touch: the records of the sweep (reading), pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtexp.errors import MtexpError
from mtexp.records import keys

_FIGURES = {"stp": "STP", "antt": "ANTT", "fairness": "fairness"}
_ALONE = {"latency_mean_ms": "mean ms", "throughput_rps": "req/s"}
"""Figures of a mix of one tenant, which has no neighbour that the others could tell of."""
_OF_ONE_RUN = {"tenants", "repetition", "verdict", "p50 ms", "p90 ms", "p99 ms", "req/s", *_FIGURES.values()}


def together(rows: Mapping[str, Mapping[str, str]], folder: Path) -> list[dict[str, str]]:
    """Return a row for each point of which the sweep has several VALID runs, with intervals over runs.

    Args:
        rows: Rows of the sweep's summary, by the id of their record.
        folder: Folder of the sweep. Runs that were measured elsewhere are left out.
    """
    from mtexp.analysis.data import from_records, select
    from mtexp.analysis.frames import rows_of
    from mtexp.analysis.pooling import pool

    try:
        results = pool(select(from_records(folder)))
    except MtexpError:  # no VALID run, or runs on different devices
        return []
    found = []
    tenants = results.tenants.drop_duplicates("point").set_index("point")
    for point in rows_of(results.points):
        own = [rows[record] for record in point["records"] if record in rows]
        if len(own) > 1:
            figures = {label: _with_interval(point, key) for key, label in _FIGURES.items()}
            alone = {key: point if key in point else tenants.loc[point["point"]] for key in _ALONE}
            figures |= {
                label: _with_interval(alone[key], key) if point["num_tenants"] == 1 else ""
                for key, label in _ALONE.items()
            }
            found.append({**_alike(own), "runs": str(len(point["records"])), **figures})
    return found


def _alike(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What the runs of a point have in common; nothing where they differ."""
    names = (name for name in rows[0] if name not in _OF_ONE_RUN)
    return {name: rows[0][name] if len({row[name] for row in rows}) == 1 else "" for name in names}


def _with_interval(point: Mapping[str, Any], key: str) -> str:
    from mtexp.analysis.intervals import text
    from mtexp.metrics.bootstrap import Interval

    value, low, high = (float(point.get(name, "nan")) for name in (key, *keys.interval(key)))
    if value != value:
        return ""
    return text(Interval(value, low, high)) if low == low else f"{value:.2f}"

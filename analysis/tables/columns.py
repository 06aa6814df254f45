"""What the tables have in common: their columns, and which points lend themselves to a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.repeats import Estimate
from mtexp.records import keys

from ..pooling import Results


def with_intervals(names: tuple[str, ...]) -> list[str]:
    """Each name, then the ends of its interval."""
    return [column for name in names for column in (name, *keys.interval(name))]


def only(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The columns ``names``, in that order; a figure that nothing has is a column of NaN."""
    return frame.reindex(columns=names).reset_index(drop=True)


def closed_points(results: Results) -> pd.DataFrame:
    """Points in closed loop, without stressors: elsewhere what gets done is what was asked for."""
    plain = np.array(["stressor" not in roles for roles in results.points["roles"]], dtype=bool)
    found: pd.DataFrame = results.points[plain & results.points["closed"]]
    return found


def on_whole_device(frame: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Points or their tenants with those figures that compare sharing modes: what the mode itself costs is in them.

    Measured in turns, ``stp``, ``antt`` and ``slowdown`` compare with alone under the same mode. Where the mode was
    measured side by side with time slicing, ``stp_whole`` ... compare with alone on the whole device: they take the
    place.
    """
    kept = frame.copy()
    for name in names:
        low, _ = keys.interval(f"{name}_whole")
        if low in frame:
            known = frame[low].notna()
            for own, whole in zip(with_intervals((name,)), with_intervals((f"{name}_whole",)), strict=True):
                kept[own] = frame.reindex(columns=[own])[own].where(~known, frame[whole])
    return kept


def compared_within_mode(results: Results, sharing: str = "") -> bool:
    """Whether slowdowns compare with alone under the same sharing mode, and others know alone on the whole device."""
    name, _ = keys.interval("slowdown_whole")
    points = results.points[results.points["sharing"] != "time slicing"]  # alone under it is alone on the device
    if sharing:
        points = points[points["sharing"] == sharing]
    own = results.tenants[results.tenants["point"].isin(points["point"])]
    return bool(own.reindex(columns=[name])[name].notna().any())


def figure_on_whole_device(results: Results, row: Mapping[str, Any], key: str) -> Estimate | None:
    """One such figure, with its error; None where it has no interval."""
    return results.figure(row, f"{key}_whole") or results.figure(row, key)

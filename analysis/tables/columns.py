"""What the tables have in common: their columns, and which points lend themselves to a comparison."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mtexp.records import keys

from ..pooling import Results


def with_intervals(names: tuple[str, ...]) -> list[str]:
    """Each name, then the ends of its interval."""
    return [column for name in names for column in (name, *keys.interval(name))]


def only(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Those of ``names``, in that order; a figure that nothing has is a column of NaN."""
    return frame.reindex(columns=names).reset_index(drop=True)


def closed_points(results: Results) -> pd.DataFrame:
    """Points in closed loop, without stressors: elsewhere what gets done is what was asked for."""
    plain = np.array(["stressor" not in roles for roles in results.points["roles"]], dtype=bool)
    found: pd.DataFrame = results.points[plain & results.points["closed"]]
    return found

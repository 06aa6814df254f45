"""Rows of DataFrames as plain mappings. Lives here: :func:`rows_of`. Pure."""

from __future__ import annotations

from typing import Any

import pandas as pd


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Every row of ``frame``, whose columns have names, as a mapping from column to value."""
    names = [str(name) for name in frame.columns]
    return [dict(zip(names, values, strict=True)) for values in frame.astype(object).to_numpy().tolist()]

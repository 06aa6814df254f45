"""Columns of what MLflow has: tags, parameters and metrics of runs as a frame with the types of the registry.

Lives here: :func:`frame_of`, :func:`typed`. May touch: nothing outside its arguments.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mtexp.errors import MtexpError
from mtexp.records import keys

if TYPE_CHECKING:
    from mlflow.entities import Run

PREFIX = "mtexp."

_OWN: dict[str, tuple[str, Callable[[Run], Any]]] = {
    "run_id": ("string", lambda run: run.info.run_id),
    "run_name": ("string", lambda run: run.info.run_name),
    "status": ("string", lambda run: run.info.status),
    "start_time": ("time", lambda run: run.info.start_time),
    "end_time": ("time", lambda run: run.info.end_time),
    "artifact_uri": ("string", lambda run: run.info.artifact_uri),
}
"""Columns that are neither tag nor parameter nor metric."""


class QueryError(MtexpError):
    """A query that is not valid, or that no run matches."""


def mlflow_names(columns: Sequence[str] | None) -> set[str] | None:
    """Names in MLflow of ``columns``: a tag is there with its prefix."""
    if columns is None:
        return None
    return {"arrival", *columns, *(PREFIX + name for name in columns)}  # it determines which metrics exist


def _plain(tag: str) -> str:
    return tag.removeprefix(PREFIX)


def require(name: str, known: Iterable[str], what: str) -> None:
    """Refuse a name that is not known.

    Raises:
        QueryError: It is not; says which are nearest.
    """
    known = sorted(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"nearest: {', '.join(near)}" if near else f"e.g. {', '.join(known[:5])}"
        raise QueryError(f"columns={name}: no such {what} ({hint})")


def frame_of(found: Sequence[Run], columns: Sequence[str] | None) -> pd.DataFrame:
    """One row per run; with ``columns``, those in that order and ``run_id`` first."""
    values: dict[str, list[Any]] = {name: [get(run) for run in found] for name, (_, get) in _OWN.items()}
    rows = len(found)
    for position, run in enumerate(found):
        tags = {_plain(name): value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
        figures = keys.current(run.data.metrics, run.data.params.get("arrival", "closed"))
        for name, value in {**tags, **run.data.params, **figures}.items():
            if name not in values:
                values[name] = [None] * rows
            values[name][position] = value
    if columns is not None:
        for name in columns:
            require(name, {*values, *_known_names(columns)}, "column")
        values = {name: values.get(name, [None] * rows) for name in dict.fromkeys(("run_id", *columns))}
    else:
        values = {name: values[name] for name in sorted(values, key=_order())}
    return pd.DataFrame({name: typed(name, column) for name, column in values.items()})


def _known_names(columns: Collection[str]) -> set[str]:
    """Return all names that a run may have: those of the registry, and the intervals in ``columns``."""
    ends = {name for name in columns if keys.is_metric(name)}
    return {*_OWN, *map(_plain, keys.TAGS), *keys.PARAMS, *keys.METRICS, *ends}


def _order() -> Callable[[str], tuple[int, str]]:
    """Own columns, then the registry's in its order with intervals after their metric, then others."""
    listed = [*_OWN, *map(_plain, keys.TAGS), *keys.PARAMS, *keys.METRICS]
    position = {name: index for index, name in enumerate(listed)}

    def key(name: str) -> tuple[int, str]:
        stem = name.removesuffix("_ci_low").removesuffix("_ci_high")
        return position.get(stem, len(position)), name

    return key


def typed(name: str, values: list[Any]) -> pd.Series[Any]:
    """Return the values of one tag, parameter or metric as a column of the registry's type."""
    if name in _OWN:
        kind = _OWN[name][0]
        return (
            pd.to_datetime(pd.Series(values), unit="ms", utc=True) if kind == "time" else pd.Series(values, dtype=kind)
        )
    key = keys.TAGS.get(PREFIX + name) or keys.PARAMS.get(name)
    if key is None:
        return _typed_other(name, values)
    column = pd.Series(values, dtype="string")
    if key.dtype == "boolean":
        return column.map({"true": True, "false": False}).astype("boolean")
    if key.dtype == "string":
        return column
    numbers: pd.Series[Any] = pd.to_numeric(column, errors="coerce")
    dtype: Any = key.dtype
    # A run of tenants that differ has "8,16": such a column stays text.
    return column if (numbers.isna() & column.notna()).any() else numbers.astype(dtype)


def _typed_other(name: str, values: list[Any]) -> pd.Series[Any]:
    """Whether it is a metric, or a tag that mtexp did not set."""
    if keys.is_metric(name) or any(isinstance(value, float) for value in values):
        return pd.Series(np.array([np.nan if value is None else value for value in values], dtype=np.float64))
    return pd.Series(values, dtype="string")

"""A table for other programs (CSV, JSON or LaTeX), or for a person at a terminal.

Lives here: :func:`add_formats`, :func:`formatted`, :func:`shown`. May touch: the width of the terminal.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mtexp.text_tables import GAP, fitting, plain_table, rounded

FORMATS = ("csv", "json", "latex")
_LAST = ("repetitions", "num_tenants", "spread_pct", "antt")
"""Columns to do without before a text is cut."""
_KEPT = 7
"""Columns of a table that every terminal shows: where they are too wide, their texts are cut."""


def add_formats(parser: argparse.ArgumentParser) -> None:
    """Add ``--csv``, ``--json`` and ``--latex``, of which one at most may be given."""
    group = parser.add_mutually_exclusive_group()
    for name, what in zip(FORMATS, ("comma-separated values", "JSON, a list of rows", "a LaTeX tabular"), strict=True):
        group.add_argument(f"--{name}", action="store_const", dest="format", const=name, help=f"print {what}")


def shown(
    frame: pd.DataFrame, kind: str | None, dropped_first: Sequence[str] = (), *, always: Sequence[str] = ()
) -> str:
    """``frame`` as text of ``kind``; without one CSV, and on a terminal a table that fits its width.

    Args:
        frame: The table.
        kind: One of :data:`FORMATS`.
        dropped_first: Columns that a narrow terminal does without before any other.
        always: Columns that every terminal shows.
    """
    if kind or not sys.stdout.isatty():
        return formatted(frame, kind or "csv")
    names = list(map(str, frame.columns))
    bounds = [name for name in names if name.endswith(("_ci_low", "_ci_high"))]
    last = [name for name in names if name not in bounds][_KEPT:]
    order = [name for name in (*dropped_first, *bounds, *reversed(last), *_LAST) if name not in always]
    rows = fitting(cells(frame), shutil.get_terminal_size().columns, order, GAP)
    lows = {name.removesuffix("_ci_low") for name in rows[0] if name.endswith("_ci_low")}
    half = {name for name in rows[0] if name.endswith("_ci_high") and name.removesuffix("_ci_high") not in lows}
    rows = [{name: cell for name, cell in row.items() if name not in half} for row in rows]
    return f"{plain_table(rows, numeric(frame))}\n"


def cells(frame: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of ``frame`` as a person reads them: four digits, nothing where there is no value."""
    names = list(map(str, frame.columns))
    return [dict(zip(names, map(_cell, row), strict=True)) for row in frame.itertuples(index=False)]


def numeric(frame: pd.DataFrame) -> list[str]:
    """The columns of ``frame`` that hold numbers."""
    return [str(name) for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name])]


def _cell(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    if pd.isna(value):
        return ""
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return rounded(value, 4) if isinstance(value, float) else str(value)


def formatted(frame: pd.DataFrame, kind: str) -> str:
    """``frame`` as text of ``kind`` (:data:`FORMATS`): full precision in CSV and JSON, three digits in LaTeX."""
    if kind == "csv":
        return frame.to_csv(index=False)
    if kind == "json":
        return f"{frame.to_json(orient='records', date_format='iso', indent=1)}\n"
    texts = frame.map(_latex)
    heads = {str(name): _latex(str(name)) for name in frame}
    return texts.rename(columns=heads).to_latex(index=False, escape=False)


_SPECIAL = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"})


def _latex(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else rounded(value, 3)
    if isinstance(value, pd.Timestamp):
        return _cell(value)
    if isinstance(value, tuple | list):
        return _latex(", ".join(map(str, value)))
    return "" if pd.isna(value) else str(value).replace("\\", r"\textbackslash ").translate(_SPECIAL)  # type: ignore[call-overload]

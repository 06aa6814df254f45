"""A table for other programs: CSV, JSON or LaTeX on standard output.

Lives here: :func:`add_formats`, :func:`formatted`. May touch: nothing outside its arguments.
"""

from __future__ import annotations

import argparse

import pandas as pd

FORMATS = ("csv", "json", "latex")


def add_formats(parser: argparse.ArgumentParser) -> None:
    """Add ``--csv``, ``--json`` and ``--latex``, of which one at most may be given."""
    group = parser.add_mutually_exclusive_group()
    for name, what in zip(FORMATS, ("comma-separated values", "JSON, a list of rows", "a LaTeX tabular"), strict=True):
        group.add_argument(f"--{name}", action="store_const", dest="format", const=name, help=f"print {what}")


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
        return "" if pd.isna(value) else f"{value:.3g}"
    if isinstance(value, tuple | list):
        return _latex(", ".join(map(str, value)))
    return "" if pd.isna(value) else str(value).replace("\\", r"\textbackslash ").translate(_SPECIAL)  # type: ignore[call-overload]

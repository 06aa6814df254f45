"""What a report shows as plain values for its template: tables and figures. Works offline.

Lives here: :func:`render`, :func:`table_view`, :func:`figure_html`. May touch: the templates beside this module. The
page is made by Jinja2 with autoescape: only what is written here as markup is markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mtexp.records import keys

from .frames import rows_of

_TEMPLATES = Path(__file__).parent / "templates"
_ONE_LINE = 48
_HEADINGS = {
    "stp": "STP",
    "antt": "ANTT",
    "jain_fairness": "Jain fairness",
    "num_tenants": "tenants",
    "repetitions": "runs",
    "energy_j_per_request": "energy (J/request)",
    "energy_ratio": "energy against turns",
    "spread_pct": "spread (%)",
    "spread_alone_pct": "spread alone (%)",
    "power_capped_pct": "power-capped (%)",
}


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column."""

    heading: str
    css: str
    """``n`` numbers, ``k`` texts that stay on one line, ``s`` sentences."""


@dataclass(frozen=True, slots=True)
class TableCell:
    """What stands in a cell."""

    text: str
    css: str
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the template shows it."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    folded: str = ""
    """With a word, the table stands behind it."""


def render(**values: Any) -> str:
    """The page: ``report.html.j2`` with these values, plotly's script written into it once if there are figures."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    with_figures = any(section.figures for section in (*values["questions"], *values["appendix"]))
    page: str = environment.get_template("report.html.j2").render(
        style=_source("report.css"),
        script=Markup(get_plotlyjs()) if with_figures else "",
        behaviour=_source("report.js"),
        **values,
    )
    return page


def _source(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def figure_html(figure: go.Figure, name: str) -> Markup:
    """A figure as markup; its node's id is made from ``name``, so that equal data give equal pages."""
    return Markup(
        figure.to_html(
            include_plotlyjs=False,
            full_html=False,
            div_id=f"figure-{name}",
            config={"displayModeBar": False, "responsive": True},
        )
    )


def table_view(frame: pd.DataFrame, *, folded: str = "") -> Table:
    """A DataFrame as a table: intervals beside their figure, units in the head, blank where unknown."""
    frame = frame.dropna(axis="columns", how="all")
    ends = {end for name in frame.columns for end in keys.interval(str(name)) if end in frame}
    names = [str(name) for name in frame.columns if name not in ends]
    css = {name: _alignment(frame[name]) for name in names}
    columns = tuple(Column(_heading(name), css[name]) for name in names)
    rows = tuple(tuple(_cell(row, name, css[name]) for name in names) for row in rows_of(frame))
    return Table(columns, rows, folded)


def headings(frame: pd.DataFrame) -> dict[str, str]:
    """The heads under which :func:`table_view` shows the columns of a table; a column of nothing has none."""
    return {str(name): _heading(str(name)) for name in frame.dropna(axis="columns", how="all").columns}


def _alignment(column: pd.Series[Any]) -> str:
    if pd.api.types.is_numeric_dtype(column):
        return "n"
    return "k" if column.astype(str).str.len().max() <= _ONE_LINE else "s"


def _heading(name: str) -> str:
    known = keys.METRICS.get(name)
    if known is None or name in _HEADINGS:
        return _HEADINGS.get(name, name.replace("_", " "))
    unit = known.unit if known.unit not in ("", "1") else ""
    stem = name.removesuffix(f"_{unit.lower()}").removesuffix("_pct").replace("_", " ")
    return f"{stem} ({unit})" if unit else stem


def _cell(row: Mapping[str, Any], name: str, css: str) -> TableCell:
    value = row[name]
    if isinstance(value, tuple | list):
        return TableCell(", ".join(map(str, value)), css)
    if pd.isna(value):
        return TableCell("", css)
    if isinstance(value, float | np.floating):
        low, high = keys.interval(name)
        known = pd.notna(row.get(low))
        return TableCell(number(float(value)), css, f"[{number(row[low])}, {number(row[high])}]" if known else "")
    return TableCell(str(value), css)


def number(value: float) -> str:
    """Three significant digits, four from 1000 up; no exponent for what people read."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{min(digits, 6)}f}"

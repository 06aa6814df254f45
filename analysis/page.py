"""One self-contained HTML page: sections, tables, figures, a contents list. Works offline.

Lives here: :class:`Page` and how tables look. May touch: nothing; plotly's script is written into the page once.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mtexp.records import keys

from .frames import rows_of

_STYLE = """
:root { --ink: #1f2933; --faint: #616e7c; --line: #e4e7eb; --paper: #ffffff; --tint: #f5f7fa; --link: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper);
  font: 16px/1.55 Inter, 'Segoe UI', Helvetica, Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2.5rem 2rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .6rem 0; } .lead { color: var(--faint); margin-top: 0; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
nav { background: var(--tint); border-radius: 8px; padding: 1rem 1.4rem; margin: 1.6rem 0; }
nav ol { columns: 3 15rem; margin: 0; padding-left: 1.3rem; } nav li { margin: .1rem 0; }
figure { margin: 1rem 0 0; } figcaption { color: var(--faint); max-width: 46rem; font-size: .92rem; }
.scroll { overflow-x: auto; margin: .8rem 0; max-height: 32rem; overflow-y: auto; border: 1px solid var(--line);
  border-radius: 6px; }
table { border-collapse: collapse; font-size: .86rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { position: sticky; top: 0; background: var(--tint); font-weight: 600; white-space: nowrap; }
td.k { white-space: nowrap; } td.s { min-width: 16rem; } td.n, th.n { text-align: right; white-space: nowrap; }
tr:last-child td { border-bottom: 0; } td small { color: var(--faint); }
.VALID { color: #00694d; font-weight: 600; } .INVALID { color: #b34700; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: .8rem 0; }
dt { color: var(--faint); } dd { margin: 0; }
.answer { border-left: 3px solid var(--link); padding: .1rem 0 .1rem 1rem; margin: 1rem 0; }
.answer.open { border-color: #cbd2d9; color: var(--faint); }
.answer h3 { margin: 0 0 .2rem; font-size: 1rem; } .answer p { margin: .2rem 0; max-width: 56rem; }
.notice { background: #fff8e6; border-left: 3px solid #e69f00; padding: .5rem 1rem; margin: 1rem 0; max-width: 56rem; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--link); }
@media print { nav, .modebar { display: none; } .scroll { max-height: none; } }
"""

_ONE_LINE = 48
_HEADINGS = {
    "stp": "STP",
    "antt": "ANTT",
    "jain_fairness": "Jain fairness",
    "num_tenants": "tenants",
    "energy_j_per_request": "energy (J/request)",
    "spread_pct": "spread (%)",
    "spread_alone_pct": "spread alone (%)",
    "power_capped_pct": "power-capped (%)",
}


@dataclass
class Page:
    """A page that is written from top to bottom."""

    title: str
    lead: str
    _sections: list[tuple[str, str]] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)

    def section(self, title: str) -> None:
        """Begin a section; it is listed in the contents."""
        anchor = "".join(c if c.isalnum() else "-" for c in title.lower())
        self._sections.append((anchor, title))
        self._parts.append(f'<h2 id="{anchor}">{html.escape(title)}</h2>')

    def text(self, text: str, *, css: str = "") -> None:
        """A paragraph of plain text."""
        self._parts.append(f'<p class="{css}">{html.escape(text)}</p>')

    def notice(self, text: str) -> None:
        """Something the reader must know before believing a figure."""
        self._parts.append(f'<div class="notice">{html.escape(text)}</div>')

    def facts(self, facts: Mapping[str, str]) -> None:
        """Pairs of a name and a text."""
        items = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
        self._parts.append(f"<dl>{items}</dl>")

    def answer(self, question: str, texts: list[tuple[str, bool]]) -> None:
        """A question with its answers, each settled or not."""
        settled = any(claimed for _, claimed in texts)
        body = "".join(f"<p>{html.escape(text)}</p>" for text, _ in texts)
        css = "answer" if settled else "answer open"
        self._parts.append(f'<div class="{css}"><h3>{html.escape(question)}</h3>{body}</div>')

    def table(self, frame: pd.DataFrame, *, folded: str = "") -> None:
        """A table (:func:`table_html`), with ``folded`` behind that word."""
        body = f'<div class="scroll">{table_html(frame)}</div>'
        self._parts.append(f"<details><summary>{html.escape(folded)}</summary>{body}</details>" if folded else body)

    def figure(self, figure: go.Figure, caption: str, name: str) -> None:
        """A figure with its caption; its node's id is made from ``name``, so that equal data give equal pages."""
        body = figure.to_html(
            include_plotlyjs=False,
            full_html=False,
            div_id=f"figure-{name}",
            config={"displayModeBar": False, "responsive": True},
        )
        self._parts.append(f"<figure>{body}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def html(self) -> str:
        """The page."""
        contents = "".join(f'<li><a href="#{anchor}">{html.escape(title)}</a></li>' for anchor, title in self._sections)
        script = f"<script>{get_plotlyjs()}</script>" if any("<figure>" in part for part in self._parts) else ""
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f"<title>{html.escape(self.title)}</title>\n"
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n{script}\n'
            f"</head>\n<body>\n<main>\n<h1>{html.escape(self.title)}</h1>\n"
            f'<p class="lead">{html.escape(self.lead)}</p>\n<nav><ol>{contents}</ol></nav>\n'
            + "\n".join(self._parts)
            + "\n</main>\n</body>\n</html>\n"
        )


def table_html(frame: pd.DataFrame) -> str:
    """A DataFrame as an HTML table: intervals beside their figure, units in the head, blank where unknown."""
    frame = frame.dropna(axis="columns", how="all")
    ends = {end for name in frame.columns for end in keys.interval(str(name)) if end in frame}
    names = [str(name) for name in frame.columns if name not in ends]
    css = {name: _alignment(frame[name]) for name in names}
    head = "".join(f"<th class={css[name]}>{html.escape(_heading(name))}</th>" for name in names)
    rows = []
    for row in rows_of(frame):
        cells = (f"<td class={css[name]}>{_cell(row, name)}</td>" for name in names)
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _alignment(column: pd.Series[Any]) -> str:
    """Class of a column's cells: ``n`` numbers, ``k`` texts that stay on one line, ``s`` sentences."""
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


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if isinstance(value, tuple | list):
        return html.escape(", ".join(map(str, value)))
    if pd.isna(value):
        return ""
    if isinstance(value, float | np.floating):
        low, high = keys.interval(name)
        text = number(float(value))
        if pd.notna(row.get(low)):
            text += f" <small>[{number(row[low])}, {number(row[high])}]</small>"
        return text
    text = html.escape(str(value))
    return f'<span class="{text}">{text}</span>' if text in ("VALID", "INVALID") else text


def number(value: float) -> str:
    """Three significant digits, four from 1000 up; no exponent for what people read."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{min(digits, 6)}f}"

"""What changed between two sets of runs: ``python -m analysis.compare A B``.

Lives here: the command, and how a comparison (:mod:`analysis.changes`) looks on a terminal, as JSON and as a page. May
touch: nothing beyond reading runs and writing the page that was asked for. Exit code 1 with ``--fail-on`` and a change.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from rich.console import Console
from rich.table import Table

from mtexp.colours import BLUE, FAINT, RED
from mtexp.commands import command_line
from mtexp.errors import MtexpError
from mtexp.metrics.change import CHANGED, EQUAL, NOT_KNOWN
from mtexp.output import enter
from mtexp.text_tables import counted

from . import changes
from .changes import ALONE, FIGURES, SLOWDOWN, TOGETHER, Comparison, Row
from .data import load
from .dataset import DataError, Dataset
from .options import refusing, write_text
from .page import figure_html, render, table_view
from .plots.theme import figure as themed
from .sections import Section, Shown

FAIL_ON = ("changed", "worse")
_DELTA_PCT = 3.0
_MOST_ROWS = 20
_ENVIRONMENT = {
    "device": "device",
    "gpu_uuid": "GPU",
    "driver": "driver",
    "cuda": "CUDA",
    "torch": "torch",
    "transformers": "transformers",
    "python": "Python",
    "version": "mtexp",
    "git_commit": "commit",
    "cpu": "CPU",
    "design": "design",
    "overlap": "overlap",
    "iterations": "iterations",
    "warmup": "warm-up",
}
_SHORT = {"gpu_uuid": 12, "git_commit": 12}
"""Characters shown of what is long and tells runs apart by its beginning; the whole would be cut on a terminal."""
_TITLES = {
    ALONE: "Mean latency alone",
    TOGETHER: "Mean latency together",
    SLOWDOWN: "Slowdown (together / alone)",
}


def environments(a: Dataset, b: Dataset) -> list[tuple[str, str, str]]:
    """What the two sides differ in, as name, value in A and value in B: the suspects where something changed."""
    found = []
    for name, label in _ENVIRONMENT.items():
        sides = [_values(data.runs, name) for data in (a, b)]
        if set(sides[0]) != set(sides[1]):
            shown = [_listed([value[: _SHORT.get(name)] for value in side]) for side in sides]
            found.append((label, shown[0], shown[1]))
    return found


def _values(runs: pd.DataFrame, name: str) -> list[str]:
    return sorted(map(str, runs[name].dropna().unique())) if name in runs else []


def _listed(values: Sequence[str]) -> str:
    shown = ", ".join(values[:2]) + (f" and {len(values) - 2} more" if len(values) > 2 else "")
    return shown or "not recorded"


def _summary(data: Dataset) -> dict[str, Any]:
    times = data.runs["start_time"].dropna()
    return {
        "source": data.source,
        "runs": len(data.runs),
        "left_out": len(data.invalid),
        "from": times.min().isoformat() if len(times) else None,
        "to": times.max().isoformat() if len(times) else None,
    }


# --- terminal ---------------------------------------------------------------------------------------------------------


def text(found: Comparison, a: Dataset, b: Dataset, *, width: int = 80, every: bool = False) -> str:
    """The comparison as text that fits into ``width`` columns; ``every``: all rows, not only those that tell most."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False)
    for name, data in (("A", a), ("B", b)):
        left_out = f", {len(data.invalid)} INVALID left out" if len(data.invalid) else ""
        console.print(f"{name}: {counted(len(data.runs), 'run')} from {data.source}{left_out}", soft_wrap=False)
    differ = environments(a, b)
    if differ:
        console.print("\nThe environments differ in (suspects, if something changed):")
        table = _table("", "A", "B")
        for suspect in differ:
            table.add_row(*suspect)
        console.print(table)
    else:
        console.print("The environments are the same, as far as they are recorded.")
    for note in found.notes:
        console.print(f"Note: {note}.")
    console.print(f"\nAll points together, B / A (equal: within {100 * found.delta:g} %):")
    table = _table("", "B/A", "95 % interval", "answer")
    for row in found.totals:
        table.add_row(_TITLES[row.figure], *_cells(row, found.delta))
    console.print(table)
    for figure in FIGURES:
        own = [row for row in found.rows if row.figure == figure]
        if own:
            _print_rows(console, own, found.delta, every=every)
    for side, other, names in zip("AB", "BA", found.only, strict=True):
        if names:
            shown = names if every else names[:3]
            more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
            console.print(f"Only in {side}, not in {other}: {', '.join(shown)}{more}.")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _print_rows(console: Console, own: Sequence[Row], delta: float, *, every: bool) -> None:
    counts = {answer: sum(row.answer == answer for row in own) for answer in (CHANGED, EQUAL, NOT_KNOWN)}
    said = ", ".join(f"{count} {_word(answer, delta)}" for answer, count in counts.items() if count)
    console.print(f"\n{_TITLES[own[0].figure]}: {said}")
    shown = _by_weight(own)
    shown = shown if every else shown[:_MOST_ROWS]
    table = _table("", "B/A", "95 % interval", "answer")
    for row in shown:
        table.add_row(_place(row), *_cells(row, delta))
    console.print(table)
    if len(shown) < len(own):
        console.print(f"{len(own) - len(shown)} more with --all.")


def _by_weight(rows: Sequence[Row]) -> list[Row]:
    order = (CHANGED, NOT_KNOWN, EQUAL)
    return sorted(rows, key=lambda row: (order.index(row.answer), -abs(row.change.log)))


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(heads))
    for index, head in enumerate(heads):
        table.add_column(
            head, overflow="fold", justify="right" if head == "B/A" else "left", ratio=None if index else 1
        )
    return table


def _place(row: Row) -> str:
    if row.figure != ALONE:
        return f"{row.tenant} in {row.mix}, {row.sharing}"
    if not row.used_by:
        return row.tenant
    first, *others = dict.fromkeys(row.used_by)
    return f"{row.tenant}, for {first}" + (f" and {len(others)} more" if others else "")


def _cells(row: Row, delta: float) -> tuple[str, str, str]:
    at = row.ratio
    ends = f"{at.low:.3f} {at.high:.3f}" if math.isfinite(at.high) else "not known"
    return f"{at.value:.3f}", ends, _word(row.answer, delta) + _more(row)


def _word(answer: str, delta: float) -> str:
    return f"equal within {100 * delta:g} %" if answer == EQUAL else answer


def _more(row: Row) -> str:
    if row.answer != NOT_KNOWN:
        return ""
    if row.more_runs is None:
        return " (more runs do not tell)"
    return f" ({row.more_runs:,} more {'run' if row.more_runs == 1 else 'runs'})"


# --- JSON and HTML ----------------------------------------------------------------------------------------------------


def as_json(found: Comparison, a: Dataset, b: Dataset) -> dict[str, Any]:
    """The comparison for other programs; every ratio is B over A, ``low`` and ``high`` null where nothing is known.

    A model alone with several baselines has ``used_by``: the points that each is for.
    """
    return {
        "a": _summary(a),
        "b": _summary(b),
        "environment": [{"name": name, "a": first, "b": second} for name, first, second in environments(a, b)],
        "delta_pct": 100 * found.delta,
        "overall": {row.figure: _json_row(row) for row in found.totals},
        "points": [
            {"figure": row.figure, "mix": row.mix, "sharing": row.sharing, "tenant": row.tenant}
            | ({"used_by": list(dict.fromkeys(row.used_by))} if row.used_by else {})
            | _json_row(row)
            for row in found.rows
        ],
        "only_in_a": list(found.only[0]),
        "only_in_b": list(found.only[1]),
        "notes": list(found.notes),
    }


def _json_row(row: Row) -> dict[str, Any]:
    at = row.ratio
    bounded = math.isfinite(at.high)
    return {
        "ratio": at.value,
        "low": at.low if bounded else None,
        "high": at.high if bounded else None,
        "p_value": row.change.p_value,
        "answer": row.answer,
        "more_runs": row.more_runs,
        "runs_a": row.runs[0],
        "runs_b": row.runs[1],
    }


def picture(found: Comparison) -> go.Figure:
    """Ratios with their intervals, sorted, one panel a figure above the other; the margin of equality as a band."""
    figure = go.Figure()
    colours = {CHANGED: RED, EQUAL: BLUE, NOT_KNOWN: FAINT}
    bounded = [row for row in found.rows if math.isfinite(row.ratio.high)]
    ordered = sorted(bounded, key=lambda row: (FIGURES.index(row.figure), row.change.log))
    for answer, colour in colours.items():
        own = [(place, row) for place, row in enumerate(ordered) if row.answer == answer]
        if not own:
            continue
        ratios = [row.ratio for _, row in own]
        figure.add_scatter(
            x=[at.value for at in ratios],
            y=[place for place, _ in own],
            mode="markers",
            name=_word(answer, found.delta),
            marker={"color": colour, "size": 6},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [at.high - at.value for at in ratios],
                "arrayminus": [at.value - at.low for at in ratios],
                "color": colour,
                "thickness": 1,
                "width": 0,
            },
            text=[f"{row.figure}: {_place(row)}" for _, row in own],
            hovertemplate="%{text}<br>%{x:.3f}<extra></extra>",
        )
    figure.add_vrect(1 / (1 + found.delta), 1 + found.delta, fillcolor=FAINT, opacity=0.15, line_width=0)
    figure.add_vline(1, line_color=FAINT, line_width=1)
    start = 0
    for name in FIGURES:
        count = sum(row.figure == name for row in ordered)
        if count:
            figure.add_annotation(x=0, xref="paper", xanchor="left", y=start + count - 0.5, text=_TITLES[name],
                                  showarrow=False, yanchor="bottom")  # fmt: skip
            figure.add_hline(start - 0.5, line_color=FAINT, line_width=0.5)
        start += count
    themed(figure, height=max(360, 160 + 9 * len(ordered)))
    figure.update_xaxes(title="B / A", type="log")
    figure.update_yaxes(visible=False)
    return figure


def page(found: Comparison, a: Dataset, b: Dataset) -> str:
    """The comparison as one HTML page that works offline."""
    differ = environments(a, b)
    suspects = "If something changed, these are the suspects." if differ else "Nothing that is recorded."
    points = Section("Point by point", tables=[table_view(_frame(_by_weight(found.rows), found.delta))])
    if any(math.isfinite(row.ratio.high) for row in found.rows):
        caption = f"Every figure with its 95 % interval, sorted. Band: {100 * found.delta:g} % either way."
        points.figures = [Shown(figure_html(picture(found), "ratios"), caption)]
    totals = _frame(found.totals, found.delta).drop(columns=["mix", "sharing", "tenant"])
    return render(
        title="What changed from A to B",
        lead=f"A: {a.source}. B: {b.source}. Every ratio is B over A.",
        caveats=[f"{note}." for note in found.notes],
        summary=None,
        questions=[
            Section(
                "What the environments differ in",
                text=suspects,
                tables=[table_view(pd.DataFrame(differ, columns=["what", "A", "B"]))] if differ else [],
            ),
            Section("All points together", tables=[table_view(totals)]),
            points,
            *(
                Section(f"Only in {name}", text=f"{', '.join(names)}.")
                for name, names in zip(("A", "B"), found.only, strict=True)
                if names
            ),
        ],
        appendix=[],
    )


def _frame(rows: Sequence[Row], delta: float) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "figure": _TITLES[row.figure],
                "mix": row.mix,
                "sharing": row.sharing,
                "tenant": _place(row) if row.figure == ALONE else row.tenant,
                "ratio": f"{row.ratio.value:.3f}",
                "95 % interval": _cells(row, delta)[1],
                "answer": _word(row.answer, delta),
                "more runs": "" if row.more_runs is None else f"{row.more_runs:,}",
                "runs in A, B": f"{row.runs[0]}, {row.runs[1]}",
            }
            for row in rows
        ]
    )


# --- command ----------------------------------------------------------------------------------------------------------


def side(name: str, what: str, options: Mapping[str, Any]) -> Dataset:
    """Read one side: a folder of records, an MLflow query (it has a space or a sign of comparison), or a sweep.

    Raises:
        DataError: Nothing is there, or it cannot be put together; says which side.
    """
    try:
        if not what.strip():
            raise DataError("empty. Give a sweep, a query or a folder of records")
        if os.path.isdir(what):
            return load(records=Path(what))
        if any(sign in what for sign in "=<>'\" "):
            return load(what, **options)
        if "/" in what:
            raise DataError(f"{what}: no such folder")
        return load(sweep=what, **options)
    except MtexpError as error:
        raise DataError(f"{name}: {error}") from error


def _fails(found: Comparison, fail_on: str) -> bool:
    """Whether a change is one to fail on; a slowdown that rose because the model alone is faster is not worse."""
    rows = (*found.rows, *found.totals)
    changed = [row for row in rows if row.answer == CHANGED]
    if fail_on == "changed":
        return bool(changed)
    slower = {(row.mix, row.sharing, row.tenant) for row in rows if row.figure == TOGETHER and row.change.log > 0}
    return any(
        row.change.log > 0 and (row.figure != SLOWDOWN or (row.mix, row.sharing, row.tenant) in slower)
        for row in changed
    )


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare two sets of runs; exit code 1 with ``--fail-on`` where it applies, 2 where nothing can be compared."""
    parser = argparse.ArgumentParser(prog=command_line("compare"), description="What changed from A to B.")
    what = "a folder of records, a sweep (latest = the newest), or an MLflow query"
    parser.add_argument("a", metavar="A", help=f"the reference: {what}")
    parser.add_argument("b", metavar="B", help="what is compared with it")
    parser.add_argument("--delta", type=float, default=_DELTA_PCT, metavar="PCT", help="equal within (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a figure")
    parser.add_argument("--all", action="store_true", help=f"every row; default the {_MOST_ROWS} that tell most")
    parser.add_argument("--fail-on", choices=FAIL_ON, help="exit code 1 if anything changed, or got worse (slower)")
    parser.add_argument("--uri", help="MLflow; default: MLFLOW_TRACKING_URI, else mlflow.db here")
    parser.add_argument("--experiment", default="mtexp", help="MLflow experiment (default: mtexp)")
    options = parser.parse_args(arguments)
    if not 0 < options.delta < 100:
        raise DataError(f"--delta {options.delta:g}: allowed: percent above 0 and below 100, e.g. 3")
    store = {"uri": options.uri, "experiment": options.experiment}
    a, b = side("A", options.a, store), side("B", options.b, store)
    found = changes.compare(a, b, delta=options.delta / 100)
    if options.html is not None:
        write_text("--html", options.html, page(found, a, b))
    if options.json:
        sys.stdout.write(json.dumps(as_json(found, a, b), indent=1) + "\n")
    else:
        width = shutil.get_terminal_size().columns
        sys.stdout.write(text(found, a, b, width=width, every=options.all))
    return 1 if options.fail_on and _fails(found, options.fail_on) else 0


if __name__ == "__main__":
    sys.exit(enter(main))

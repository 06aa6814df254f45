"""Churn runs side by side: ``python -m analysis.churn FOLDER [--out DIR]``, a table, a figure and ``churn.json``.

Lives here: :func:`compared`, :func:`drawn` and the command. May touch: records on disk, the folder it is given.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtexp.commands import command_line
from mtexp.metrics.churn import KINDS
from mtexp.metrics.churn_rows import churn_rows
from mtexp.output import enter
from mtexp.records.files import find_records
from mtexp.records.record import RunRecord, load

from .dataset import DataError
from .options import refusing
from .plots.theme import error_bars_of, figure, legend_once, sharing_style

MODES = {"time_slicing": "time slicing", "mps": "MPS", "green_contexts": "green contexts", "mig": "MIG", "cpu": "CPU"}
_PANELS = (("stall_ms", "longest stall, ms"), ("p99_ms", "p99, ms"), ("back_s", "until it serves again, s"))


def mode_of(record: RunRecord) -> str:
    """The sharing mode of a run, in words."""
    mode = str(record.sharing.get("mode", "")) or record.run_spec.sharing.mode
    name = MODES.get(mode, mode.replace("_", " "))
    setting = record.run_spec.mps_settings
    if mode == "cpu" and record.run_spec.sharing.mode != "processes":
        return f"{name}, {record.run_spec.sharing.mode}"
    return f"{name} {setting}" if mode == "mps" and setting not in ("default", "external") else name


def found_below(folder: Path) -> list[RunRecord]:
    """The churn runs at or below ``folder``, by mix and mode.

    Raises:
        DataError: There is none.
    """
    records = [load(path) for path in find_records(folder)]
    runs = [record for record in records if record.kind == "churn"]
    if not runs:
        remedy = f"Measure some: {command_line('run')} -m +experiment=churn"
        raise DataError(f"{folder}: {len(records)} records, none of a churn run. {remedy}")
    return sorted(runs, key=lambda record: (record.run_spec.mix, mode_of(record), record.started_at))


def compared(runs: Sequence[RunRecord]) -> list[dict[str, str]]:
    """One row a kind of event and run, kinds in the order of a neighbour's life, modes beside each other."""
    rows = [
        {"mix": record.run_spec.mix, "mode": mode_of(record), **row, "verdict": record.verdict}
        for record in runs
        for row in churn_rows(asdict(record))
    ]
    return sorted(rows, key=lambda row: (row["mix"], KINDS.index(row["event"])))


def drawn(runs: Sequence[RunRecord]) -> go.Figure:
    """Stall, p99 and time until the steady tenant serves again, by event, a colour a mode; logarithmic."""
    fig = make_subplots(rows=1, cols=len(_PANELS), subplot_titles=[title for _, title in _PANELS], shared_yaxes=True)
    shown: set[str] = set()
    several = len({record.run_spec.mix for record in runs}) > 1
    for record in runs:
        mode = mode_of(record)
        colour, symbol, _ = sharing_style(mode)
        name = f"{mode}, {record.run_spec.mix}" if several else mode
        for place, (stem, _) in enumerate(_PANELS, 1):
            points = [(kind, record.metrics, f"churn_{kind}_{stem}") for kind in KINDS]
            points = [(kind, metrics, key) for kind, metrics, key in points if key in metrics]
            fig.add_scatter(
                x=[metrics[key] for _, metrics, key in points],
                y=[kind for kind, _, _ in points],
                error_x=error_bars_of([_ends(metrics, key) for _, metrics, key in points]),
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9},
                name=name,
                legendgroup=name,
                showlegend=legend_once(shown, name),
                row=1,
                col=place,
            )
    fig = figure(fig, height=120 + 34 * len(KINDS))
    fig.update_xaxes(type="log")
    fig.update_yaxes(categoryorder="array", categoryarray=list(reversed(KINDS)))
    return fig


def _ends(metrics: Mapping[str, float], key: str) -> tuple[float, float | None, float | None]:
    return metrics[key], metrics.get(f"{key}_ci_low"), metrics.get(f"{key}_ci_high")


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the churn runs below a folder."""
    parser = argparse.ArgumentParser(prog=command_line("churn"), description=__doc__)
    parser.add_argument("folder", type=Path, help="records of churn runs, at or below it")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write churn.html and churn.json there")
    options = parser.parse_args(arguments)
    if not os.path.isdir(options.folder):
        raise DataError(f"{options.folder}: no such folder; it holds records of churn runs")
    runs = found_below(options.folder)
    rows = compared(runs)
    sys.stdout.write(_table(rows) + "\n")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        drawn(runs).write_html(options.out / "churn.html", include_plotlyjs=True)
        (options.out / "churn.json").write_text(json.dumps(_data(runs), indent=1))
    return 0


def _data(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Each run with its figures and its events."""
    return [
        {
            "record_id": record.record_id,
            "mix": record.run_spec.mix,
            "mode": mode_of(record),
            "verdict": record.verdict,
            "window_s": record.run_spec.churn.window_s,
            "metrics": {key: value for key, value in record.metrics.items() if key.startswith("churn_")},
            "events": [asdict(event) for event in record.events],
        }
        for record in runs
    ]


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Aligned lines under a heading, without columns that are the same nothing in all rows."""
    names = [name for name in rows[0] if any(row[name] not in ("", "-") for row in rows)]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    lines = [{name: name for name in names}, *rows]
    return "\n".join("  ".join(line[name].ljust(widths[name]) for name in names).rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(enter(main))

"""Churn runs side by side: ``python -m analysis.churn FOLDER [--out DIR]``, a table, a figure and ``churn.json``.

Lives here: :func:`compared` and the command. May touch: records on disk, the folder it is given. Runs of the same mix
and mode are pooled: three runs of ten events have thirty.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtexp.commands import command_line
from mtexp.metrics.churn import KINDS, WITHOUT_REQUESTS
from mtexp.metrics.churn_rows import churn_rows
from mtexp.metrics.guarded import FAILED
from mtexp.output import enter, say
from mtexp.records.files import find_records
from mtexp.records.record import load
from mtexp.text_tables import filled, plain_table

from .churn_runs import Pooled, pooled
from .dataset import DataError
from .options import refusing
from .plots.churn import drawn

_SAID = (FAILED, WITHOUT_REQUESTS)
"""Findings of a run that say why a figure is not in the table."""


def found_below(folder: Path) -> list[Pooled]:
    """The churn runs at or below ``folder``, by mix and mode, runs of the same together.

    Raises:
        DataError: There is none.
    """
    records = [(load(path), path) for path in find_records(folder)]
    runs = [(record, path) for record, path in records if record.kind == "churn" and record.events]
    if not runs:
        remedy = f"Measure some: {command_line('run')} -m +experiment=churn"
        raise DataError(f"{folder}: {len(records)} records, none of a churn run. {remedy}")
    return pooled(runs)


def compared(runs: Sequence[Pooled]) -> list[dict[str, str]]:
    """One row a kind of event and mode, kinds in the order of a neighbour's life, modes beside each other."""
    rows = [
        {
            "mix": run.mix,
            "mode": run.mode,
            **row,
            "verdict": ", ".join(dict.fromkeys(record.verdict for record in run.records)),
        }
        for run in runs
        for row in churn_rows({"metrics": run.metrics, "events": [asdict(event) for event in run.events]})
    ]
    return sorted(rows, key=lambda row: (row["mix"], KINDS.index(row["event"])))


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
    if rows:
        sys.stdout.write(plain_table(filled(rows), ()) + "\n")
    for run in runs:
        of_records = (finding for record in run.records for finding in record.findings if finding.code in _SAID)
        for finding in dict.fromkeys((*run.findings, *of_records)):
            say(f"{run.mix}, {run.mode}: {finding}\n")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        drawn(runs).write_html(options.out / "churn.html", include_plotlyjs=True)
        (options.out / "churn.json").write_text(json.dumps(_data(runs), indent=1))
    return 0


def _data(runs: Sequence[Pooled]) -> list[dict[str, Any]]:
    """Each mode with its figures and its events."""
    return [
        {
            "record_ids": [record.record_id for record in run.records],
            "mix": run.mix,
            "mode": run.mode,
            "verdicts": [record.verdict for record in run.records],
            "window_s": run.window_s,
            "metrics": dict(run.metrics),
            "events": [asdict(event) for event in run.events],
        }
        for run in runs
    ]


if __name__ == "__main__":
    sys.exit(enter(main))

"""The picture of a roofline table, again: ``python -m analysis.roofline roofline.csv --device "NVIDIA H200"``.

Lives here: :func:`read_rows` and the command. May touch: the table's folder, where PNG and SVG are written beside it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from mtexp.errors import RecordError
from mtexp.output import enter
from mtexp.profiling.cost_model import DEVICES, device_peaks
from mtexp.profiling.figures import roofline
from mtexp.profiling.ncu_roofline import RooflineRow

from .frames import rows_of
from .images import write_images
from .options import refusing

_OLD = {"workload": "forward", "batch_size": 8, "seq_len": 128, "execution": "eager"}
"""What a table says that is older than these columns: the defaults, which all of them were made with."""


def read_rows(path: Path) -> list[RooflineRow]:
    """Rows of ``roofline.csv`` as a profiling pass writes it.

    Raises:
        RecordError: It cannot be read, or lacks a column.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a readable table: {error}") from error
    kinds = {field.name: str(field.type) for field in fields(RooflineRow)}
    if missing := [name for name in kinds if name not in {*table, *_OLD, "name"}]:
        raise RecordError(f"{path}: lacks {', '.join(missing)}; it should be the roofline.csv of a profiling pass")
    there = table[[name for name in kinds if name in table]]
    for name, column in there.items():
        if kinds[str(name)].startswith(("float", "int")) and not pd.api.types.is_numeric_dtype(column):
            raise RecordError(f"{path}: column {name} must be numbers, found {column.iloc[0]!r}")
    rows = rows_of(there.astype(object).replace(np.nan, None))
    return [RooflineRow(**{**_OLD, "name": row["model"], **row}) for row in rows]


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Draw a roofline table; the exit code is 2 when it cannot be drawn."""
    parser = argparse.ArgumentParser(prog="python -m analysis.roofline", description="The picture of a roofline table.")
    parser.add_argument("table", type=Path, metavar="CSV", help="roofline.csv of a profiling pass")
    parser.add_argument("--device", required=True, metavar="NAME", help='as the driver calls it, e.g. "NVIDIA H200"')
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    peaks = device_peaks(options.device)
    if peaks is None:
        known = ", ".join(own.name for _, own in DEVICES)
        raise RecordError(f"--device {options.device}: no published peaks; known: {known}")
    rows = read_rows(options.table)
    by_precision = {p: [row for row in rows if row.precision == p] for p in dict.fromkeys(r.precision for r in rows)}
    if unknown := [precision for precision in by_precision if precision not in peaks.flops]:
        raise RecordError(f"{options.table}: no published peak of {peaks.name} for {', '.join(unknown)}")
    name = options.table.stem
    figures = {
        name if len(by_precision) == 1 else f"{name}-{precision}": roofline(own, peaks, precision)
        for precision, own in by_precision.items()
    }
    for path in write_images(figures, options.table.parent):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))

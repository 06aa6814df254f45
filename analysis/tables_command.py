"""One table of a study for other programs: ``python -m analysis.tables_command overview --csv``.

Lives here: the command. May touch: what :func:`analysis.data.load` does, standard output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from mtexp.commands import command_line
from mtexp.output import enter

from . import tables
from .costs import energy_against_turns
from .dataset import DataError
from .formats import add_formats, shown
from .options import add_source, read, refusing
from .pooling import Results, pool
from .sm_curve import sm_curve_table, sm_curves

TABLES: Mapping[str, Callable[[Results], pd.DataFrame]] = {
    "overview": tables.overview,
    "tenants": tables.tenants,
    "combinations": tables.combinations,
    "pairs": tables.pairs,
    "scaling": tables.scaling,
    "settings": tables.by_setting,
    "load": tables.load_curve,
    "fairness": tables.fairness,
    "energy": energy_against_turns,
    "sm-curve": lambda results: sm_curve_table(sm_curves(results.data)),
    "one-axis": tables.one_axis,
    "side-by-side": tables.side_by_side,
    "baselines": tables.baselines,
    "verdicts": tables.verdicts,
}


_DROPPED_FIRST = (
    *("neighbour_role", "neighbour_model", "role", "label", "repetitions", "num_tenants", "closed"),
    "throughput_ratio",
)
"""Columns that a narrow terminal does without before any other figure; in closed loop the latency says the last one."""


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Print one table; exit code 2 when there is nothing it can be made of."""
    parser = argparse.ArgumentParser(prog=command_line("tables"), description="One table of a study, as text.")
    parser.add_argument("table", choices=list(TABLES), metavar="TABLE", help=f"one of {', '.join(TABLES)}")
    add_source(parser, positional=False)
    add_formats(parser)
    parser.add_argument("--include-invalid", action="store_true", help="also INVALID runs")
    options = parser.parse_args(arguments)
    data = read(options, include_invalid=options.include_invalid)
    frame = TABLES[options.table](pool(data))
    frame = frame.drop(columns=["point", "position", "compared", "ids"], errors="ignore").dropna(axis=1, how="all")
    if frame.empty:
        raise DataError(
            f"{options.table}: no run in {data.source} has what this table shows. The table overview has every mix"
        )
    named_twice = ["mix", "model"] if "victim" in frame else ["model"] if "tenant" in frame else []
    always = ["num_tenants"] if options.table == "scaling" else []  # what its figures are by
    sys.stdout.write(shown(frame, options.format, [*_DROPPED_FIRST, *named_twice], always=always))
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))

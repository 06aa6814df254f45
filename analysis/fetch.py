"""Returns tidy, typed DataFrames for a query: ``runs``, ``tenants``, ``iterations``, ``blocks``, ``telemetry``.

Lives here: the only way from MLflow to the analysis. May touch: MLflow and artifacts (reading).

A query is MLflow's filter string (``params.mix = 'mixed' AND metrics.stp > 1.5 AND tags.mtexp.verdict = 'VALID'``) and
always speaks of parent runs. Columns are the names of :mod:`mtexp.records.keys`, tags without ``mtexp.``; their types
are the registry's. Runs whose upload is not complete are not there. ``python -m analysis.fetch QUERY`` prints a table.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mtexp.commands import command_line
from mtexp.errors import MtexpError
from mtexp.output import enter, say
from mtexp.records import keys
from mtexp.records.files import ITERATIONS, RECORD, TELEMETRY
from mtexp.spec import TrackingSpec
from mtexp.text_tables import fitting, plain_table
from mtexp.tracking.query import search
from mtexp.tracking.store import NoStoreError, Store, open_store

from .artifacts import artifact, blocks_table, constant
from .columns import QueryError, frame_of, mlflow_names, require
from .formats import add_formats, cells, formatted, numeric

__all__ = ["QueryError", "blocks", "iterations", "main", "runs", "telemetry", "tenants"]

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"
FEW_PARENTS = 100
"""Up to this number of runs, tenants are fetched by run; for more runs, all tenants are fetched and filtered here."""

_KINDS = {"tag": ("tags", keys.TAGS), "parameter": ("params", keys.PARAMS), "metric": ("metrics", keys.METRICS)}
"""By what MLflow's parser calls them: how a query spells them, and the registry's."""

_SHOWN = (
    *("start_time", "run_name", "swept", "kind", "num_tenants", "device", "verdict"),
    *("stp", "antt", "fairness", "throughput_rps", "overlap_pct"),
)


_DROPPED_FIRST = ("overlap_pct", "device", "throughput_rps", "kind", "antt", "fairness", "num_tenants", "start_time")
"""Columns that a narrow terminal does without, in the order in which they go."""


def runs(
    query: str = "", *, uri: str | None = None, experiment: str = "mtexp", columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the runs that match, one row each, newest first.

    Args:
        query: MLflow filter string about parent runs; empty = all.
        uri: MLflow's; default MLFLOW_TRACKING_URI, else ``mlflow.db`` in the current directory.
        experiment: MLflow experiment.
        columns: Requested names, in this order; much faster than all of them if MLflow reads a database directly.

    Returns:
        ``run_id``, ``run_name``, ``status``, times, then tags, parameters and metrics as plain columns. A metric that a
        run does not have is NaN.

    Raises:
        QueryError: The query has an error, a column is not known, or no run matches; says what there is.
        TrackingError: The store is not there or does not answer.
    """
    with _opened(uri, experiment) as store:
        return frame_of(_parents(store, query, columns), columns)


def tenants(
    query: str = "", *, uri: str | None = None, experiment: str = "mtexp", columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the tenants of the runs that match, one row each, with ``parent_run_id``.

    Arguments and errors are those of :func:`runs`; ``query`` is about the parent runs.
    """
    with _opened(uri, experiment) as store:
        parents = [run.info.run_id for run in _parents(store, query, ())]
        children = _children(store, parents, bool(query), columns)
        frame = frame_of(children, columns)
        frame.insert(1, "parent_run_id", pd.Series([run.data.tags[PARENT] for run in children], dtype="string"))
    return frame


def iterations(
    query: str = "", *, uri: str | None = None, experiment: str = "mtexp", columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return every iteration of the runs that match, from Parquet: ``run_id``, ``record_id``, then those columns.

    Arguments and errors are those of :func:`runs`; ``columns`` are those of ``iterations.parquet``.
    """
    from mtexp.records.samples_file import SCHEMA, iterations_table

    if columns is not None:
        for name in columns:
            require(name, SCHEMA.names, "column of iterations.parquet")
    return _artifact_rows(query, uri, experiment, ITERATIONS, lambda path: iterations_table(path, columns))


def telemetry(query: str = "", *, uri: str | None = None, experiment: str = "mtexp") -> pd.DataFrame:
    """Return every telemetry sample of the runs that match: ``run_id``, ``record_id``, ``monotonic_ns``, the columns.

    Arguments and errors are those of :func:`runs`; a run without telemetry has no rows.
    """
    from mtexp.records.samples_file import telemetry_table

    return _artifact_rows(query, uri, experiment, TELEMETRY, telemetry_table)


def blocks(query: str = "", *, uri: str | None = None, experiment: str = "mtexp") -> pd.DataFrame:
    """Return every block of the crossover runs that match: ``run_id``, ``record_id``, ``block``, ``round``, ``group``,
    ``start_ns``, ``end_ns``, ``active`` (ids of the tenants that measured, ``a+b``), ``cores``.

    Arguments and errors are those of :func:`runs`. Other runs have no rows.
    """
    return _artifact_rows(query, uri, experiment, RECORD, blocks_table)


# --- runs -------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(uri: str | None, experiment: str) -> Iterator[Store]:
    try:
        with open_store(TrackingSpec(uri=uri or "", experiment=experiment), write=False) as store:
            yield store
    except NoStoreError as error:
        remedy = f"Run something first ({command_line('run')}), or name the store with MLFLOW_TRACKING_URI or uri=."
        raise NoStoreError(f"{error}. {remedy}") from None


def _parents(store: Store, query: str, columns: Sequence[str] | None) -> list[Run]:
    """The complete parent runs that match ``query``."""
    from mlflow.exceptions import MlflowException

    complete = f"tags.`{keys.UPLOAD}` = '{keys.UPLOAD_COMPLETE}'"
    try:
        found = list(search(store, f"{query} AND {complete}" if query.strip() else complete, mlflow_names(columns)))
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        example = "params.mix = 'mixed' AND metrics.stp > 1.5 AND tags.mtexp.verdict = 'VALID'"
        raise QueryError(f"query {query!r}: {error.message} Allowed: an MLflow filter, e.g. {example}") from None
    if not found:
        raise QueryError(_nothing(store, query, complete))
    return found


def _nothing(store: Store, query: str, complete: str) -> str:
    there = list(search(store, complete, ("mix", keys.KIND)))
    if not there:
        remedy = f"run something ({command_line('run')}), or choose another store with uri="
        return f"no complete run in {store.uri} yet: {remedy}"
    mixes = sorted({run.data.params.get("mix", "") for run in there})
    kinds = sorted({run.data.tags.get(keys.KIND, "") for run in there})
    nothing = f"no run of {len(there)} in {store.uri} matches {query!r}"
    if strange := _strange_keys(query):
        return f"{nothing}: {'; '.join(strange)}"
    return (
        f"{nothing}. There are the kinds {', '.join(kinds)} and the mixes {', '.join(mixes)[:400]}. Loosen the query."
    )


def _strange_keys(query: str) -> list[str]:
    """Keys of a query that no run has, each with the nearest that runs may have."""
    from mlflow.utils.search_utils import SearchUtils

    known = [f"{kind}.{name}" for kind, names in _KINDS.values() for name in names]
    found = []
    for part in SearchUtils.parse_search_filter(query):
        kind, names = _KINDS.get(part["type"], ("", {}))
        key = str(part["key"])
        if not kind or key.startswith("mlflow."):
            continue
        stem = key.removesuffix("_ci_low").removesuffix("_ci_high")
        if (name := key if kind != "metrics" else stem) not in names:
            same = [other for other in known if other.endswith(f".{name}")]
            near = same or difflib.get_close_matches(f"{kind}.{name}", known, n=1)
            found.append(f"{kind}.{key} is no key of a run" + (f" (nearest: {near[0]})" if near else ""))
        elif kind == "metrics" and not {keys.RUN, keys.TELEMETRY} & set(names[name].where):
            found.append(f"{kind}.{key} belongs to tenants, but a query is about runs")
    return found


def _children(store: Store, parents: Sequence[str], narrowed: bool, columns: Sequence[str] | None) -> list[Run]:
    names = mlflow_names(columns)
    wanted = None if names is None else {*names, PARENT}
    if narrowed and len(parents) <= FEW_PARENTS:
        return [run for parent in parents for run in search(store, f"tags.`{PARENT}` = '{parent}'", wanted)]
    order = {parent: position for position, parent in enumerate(parents)}
    every = search(store, f"tags.`{keys.RUN_KIND}` LIKE '%'", wanted)  # all children of any kind
    mine = [run for run in every if run.data.tags.get(PARENT) in order]
    return sorted(mine, key=lambda run: order[run.data.tags[PARENT]])


# --- artifacts --------------------------------------------------------------------------------------------------------


def _artifact_rows(
    query: str, uri: str | None, experiment: str, name: str, read: Callable[[Path], pa.Table]
) -> pd.DataFrame:
    """Rows of one Parquet artifact of all matching runs, with the run of each row."""
    import pyarrow as pa

    tables = []
    with _opened(uri, experiment) as store, tempfile.TemporaryDirectory(prefix="mtexp-fetch-") as scratch:
        found = _parents(store, query, ("record_id",))
        for run in found:
            if (path := artifact(store, run, name, Path(scratch))) is None:
                continue
            table = read(path)
            for position, column in enumerate(("run_id", "record_id")):
                value = run.info.run_id if column == "run_id" else run.data.tags[keys.RECORD_ID]
                table = table.add_column(position, column, constant(value, len(table)))
            tables.append(table)
    if not tables:
        place = f" in {found[0].info.artifact_uri}" if found else ""
        why = "it may have been disabled, or its folder was moved"
        raise QueryError(f"none of the {len(found)} runs that match {query!r} has a {name}{place}; {why}")
    frame: pd.DataFrame = pa.concat_tables(tables, promote_options="default").unify_dictionaries().to_pandas()
    return frame


# --- command ----------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the matching runs as a table; exit code 1 if there are none."""
    parser = argparse.ArgumentParser(prog=command_line("fetch"), description="Runs that match, as a table.")
    parser.add_argument("query", nargs="?", default="", help="MLflow filter, e.g. \"params.mix = 'mixed'\"")
    parser.add_argument("--uri", help="default: MLFLOW_TRACKING_URI, else mlflow.db here")
    parser.add_argument("--experiment", default="mtexp")
    parser.add_argument("--columns", help="comma-separated; default: the headline")
    add_formats(parser)
    options = parser.parse_args(arguments)
    columns = options.columns.split(",") if options.columns else list(_SHOWN)
    try:
        frame = runs(options.query, uri=options.uri, experiment=options.experiment, columns=columns)
    except MtexpError as error:
        say(f"{error}\n", error=True)
        return 2
    frame = frame[columns].dropna(axis="columns", how="all")
    in_the_name: list[str] = []
    if not options.columns and "swept" in frame:
        before = set(frame.columns)
        frame = _with_swept_keys(frame)
        in_the_name = [str(name) for name in frame.columns if name not in before]
    if options.format:
        sys.stdout.write(formatted(frame, options.format))
        return 0
    rows = cells(frame)
    if sys.stdout.isatty():
        rows = fitting(rows, shutil.get_terminal_size().columns, [*_DROPPED_FIRST, *reversed(in_the_name)])
    sys.stdout.write(f"{plain_table(rows, numeric(frame))}\nruns: {len(frame)}\n")
    return 0


def _with_swept_keys(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with a column for each swept key in the place of the tag that has them all."""
    cells = [{} if pd.isna(text) else _swept(text) for text in frame["swept"]]
    place = list(frame.columns).index("swept")
    frame = frame.drop(columns="swept")
    for name in dict.fromkeys(name for own in cells for name in own):
        if name not in frame:
            frame.insert(place, name, pd.Series([own.get(name) for own in cells], index=frame.index, dtype="string"))
            place += 1
    return frame


def _swept(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(keys.SWEPT_GAP))
    return {name: value for name, _, value in pairs}


if __name__ == "__main__":
    sys.exit(enter(main))

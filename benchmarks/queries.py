"""Questions to MLflow: ``analysis.fetch.runs`` against ``mlflow.search_runs``, and a million iterations from Parquet.

The store holds runs that mtexp logged, copied inside the database until there are enough. Every question is asked in a
fresh interpreter, which tells seconds and the peak of its memory; what its imports take is told apart.
"""

from __future__ import annotations

import argparse
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import common

FEW = ("mix", "verdict", "stp", "antt")
COMPLETE = "tags.`mtexp.upload` = 'complete'"
_WITH_RUNS = ("runs", "tags", "params", "latest_metrics", "metrics")
"""MLflow's tables that a copied run needs rows of."""


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=3)
    made.add_argument("--runs", type=int, nargs="+", default=[], help="default 1000 10000, with --quick 200")
    made.add_argument("--rows", type=int, default=0, help="iterations read; default 1000000, with --quick 100000")
    return made


def main() -> None:
    options = arguments().parse_args()
    repeats = common.repeats_of(options)
    report = common.Report("queries")
    with common.scratch() as folder:
        for count in options.runs or ([200] if options.quick else [1000, 10_000]):
            _ask_runs(report, folder / f"runs-{count}", count, repeats)
        _ask_iterations(report, folder / "rows", options.rows or (100_000 if options.quick else 1_000_000), repeats)
    report.show()


def _ask_runs(report: common.Report, folder: Path, count: int, repeats: int) -> None:
    common.note(f"making {count} runs")
    uri = _uri(folder)
    for seed in range(5):
        _log(folder / f"record-{seed}", uri, seed=seed)
    multiply(folder / "mlflow.db", count)
    found = common.interleaved(
        {
            "search_runs": lambda: common.in_child(_search_runs, uri),
            "fetch.runs": lambda: common.in_child(_fetch_runs, uri, None),
            "fetch.runs, 4 columns": lambda: common.in_child(_fetch_runs, uri, FEW),
            "search_runs again": lambda: common.in_child(_search_runs, uri),
        },
        repeats,
    )
    took_s = {name: [f["seconds"] for f in figures] for name, figures in found.items()}
    for name in ("search_runs", "fetch.runs", "fetch.runs, 4 columns"):
        rows, columns = found[name][0]["rows"], found[name][0]["columns"]
        report.add(f"{rows} runs: {name}, {columns} columns", took_s[name], "s")
        report.add(f"{rows} runs: {name}, peak memory over imports", [f["peak_mib"] for f in found[name]], "MiB")
    base = took_s["search_runs"]
    report.ratio(f"{count} runs: fetch.runs / search_runs", took_s["fetch.runs"], base, "<= 1.2")
    report.ratio(f"{count} runs: 4 columns / search_runs", took_s["fetch.runs, 4 columns"], base, "much less")
    report.ratio(f"{count} runs: control, search_runs / search_runs", took_s["search_runs again"], base)


def _ask_iterations(report: common.Report, folder: Path, rows: int, repeats: int) -> None:
    common.note(f"making {rows} iterations")
    uri, runs, tenants = _uri(folder), 10, 5
    for seed in range(runs):
        _log(folder / f"record-{seed}", uri, seed=seed, tenants=tenants, iterations=rows // runs // tenants)
    found = common.interleaved(
        {
            "every column": lambda: common.in_child(_fetch_iterations, uri, None),
            "3 columns": lambda: common.in_child(_fetch_iterations, uri, ("tenant", "iteration", "latency_ms")),
            "control": lambda: {"seconds": common.fixed_work_s()},
        },
        repeats,
    )
    for name in ("every column", "3 columns"):
        report.add(f"{found[name][0]['rows']} iterations, {name}", [f["seconds"] for f in found[name]], "s")
        report.add(f"... peak memory over imports, {name}", [f["peak_mib"] for f in found[name]], "MiB")
    report.add("control: fixed work", [f["seconds"] for f in found["control"]], "s")


# --- asked in a process of their own ----------------------------------------------------------------------------------


def _search_runs(uri: str) -> dict[str, float]:
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.MlflowClient(uri).search_experiments(max_results=1)
    return _measured(
        lambda: mlflow.search_runs(experiment_names=["mtexp"], filter_string=COMPLETE, max_results=1_000_000)
    )


def _fetch_runs(uri: str, columns: tuple[str, ...] | None) -> dict[str, float]:
    from analysis import fetch
    from mtexp.spec import TrackingSpec
    from mtexp.tracking.store import open_store

    with open_store(TrackingSpec(uri=uri), write=False):  # imports and opening apart, as for search_runs
        pass
    return _measured(lambda: fetch.runs(uri=uri, columns=columns))


def _fetch_iterations(uri: str, columns: tuple[str, ...] | None) -> dict[str, float]:
    from analysis import fetch

    fetch.runs(uri=uri, columns=["mix"])
    return _measured(lambda: fetch.iterations(uri=uri, columns=columns))


def _measured(ask: Any) -> dict[str, float]:
    before_mib = common.memory_mib()
    answers = []
    took_s = common.seconds(lambda: answers.append(ask()))
    rows, columns = answers[0].shape
    return {"seconds": took_s, "peak_mib": common.memory_mib() - before_mib, "rows": rows, "columns": columns}


# --- a store to ask ---------------------------------------------------------------------------------------------------


def _uri(folder: Path) -> str:
    folder.mkdir()
    return f"sqlite:///{folder / 'mlflow.db'}"


def _log(record: Path, uri: str, *, seed: int, tenants: int = 2, iterations: int = 50) -> None:
    from mtexp.spec import TrackingSpec
    from mtexp.testing.records import stored
    from mtexp.tracking.mlflow_writer import log_record

    stored(record, models=("bert_base",) * tenants, iterations=iterations, seed=seed)
    log_record(record, TrackingSpec(uri=uri, max_history=100))


def multiply(database: Path, parents: int) -> None:
    """Copy the runs of an MLflow database, tenants included, until it has ``parents`` parent runs."""
    with closing(sqlite3.connect(database)) as db, db:
        tables = {table: _columns(db, table) for table in _WITH_RUNS}
        ids = [run_id for (run_id,) in db.execute("SELECT run_uuid FROM runs")]
        query = "SELECT count(*) FROM runs WHERE run_uuid NOT IN (SELECT run_uuid FROM tags WHERE key = ?)"
        there = db.execute(query, ("mlflow.parentRunId",)).fetchone()[0]
        if parents % there:
            raise ValueError(f"{parents} runs are no multiple of the {there} to copy")
        db.execute("CREATE TEMP TABLE originals (run_uuid TEXT PRIMARY KEY)")
        db.executemany("INSERT INTO originals VALUES (?)", [(run_id,) for run_id in ids])
        for copy in range(1, parents // there):
            for table, columns in tables.items():
                chosen = ", ".join(_copied(table, name, f"{copy:06x}") for name in columns)
                where = "run_uuid IN (SELECT run_uuid FROM originals)"
                db.execute(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen} FROM {table} WHERE {where}")


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _copied(table: str, column: str, suffix: str) -> str:
    """What a copied row has in ``column``: ids of runs end in the number of the copy, the rest stays."""
    renamed = f"substr({{}}, 1, 26) || '{suffix}'"
    if column == "run_uuid":
        return renamed.format(column)
    if table == "tags" and column == "value":
        return f"CASE WHEN key = 'mlflow.parentRunId' THEN {renamed.format(column)} ELSE value END"
    return column


if __name__ == "__main__":
    main()

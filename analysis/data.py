"""Reads runs to analyse: :func:`load` from MLflow, from a folder of records or from an export.

May touch: MLflow through :mod:`analysis.fetch`, records and exports on disk (reading).
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtexp.commands import command_line
from mtexp.records import keys
from mtexp.records.files import ITERATIONS, TELEMETRY, find_records
from mtexp.records.record import RunRecord
from mtexp.records.record import load as load_record
from mtexp.tracking.content import RunContent, parent_content, tenant_content

from .columns import PREFIX, QueryError, typed
from .dataset import ONE_OF, SAMPLE_COLUMNS, VALID, DataError, Dataset, column, hashed, together
from .export_files import MANIFEST, read_export
from .from_mlflow import from_mlflow, sweeps
from .marks import marked

_MOST_SWEEPS = 5
_MOST_REASONS = 600
"""Characters."""


def load(
    query: str = "",
    *,
    sweep: str = "",
    records: Path | None = None,
    uri: str | None = None,
    experiment: str = "mtexp",
    include_invalid: bool = False,
    churn_alone: bool = False,
) -> Dataset:
    """Read what is to be analysed.

    Args:
        query: MLflow filter about runs; empty = all.
        sweep: Name of a sweep, or ``latest``; in addition to ``query``.
        records: Read this folder instead: an export, or records at or below it.
        uri: MLflow's; default MLFLOW_TRACKING_URI, else ``mlflow.db`` in the current directory.
        experiment: MLflow experiment.
        include_invalid: Keep INVALID runs in.
        churn_alone: Churn runs will do, without any run of a mix.

    Raises:
        QueryError: The query has an error, or nothing matches.
        DataError: Nothing of a mix, or runs of different devices, drivers or torch versions.
        RecordError: A file is not what it should be.
        TrackingError: MLflow does not answer.
    """
    if records is not None:
        if query or sweep:
            raise DataError("a query or a sweep is for MLflow; a folder of records (--records) is read whole")
        found = _from_disk(records)
    else:
        if set(sweep) & set("'\"`"):
            raise DataError(f"--sweep {sweep}: no sweep has a quote in its name; --sweep latest is the newest")
        name = sweeps(query, uri, experiment)[0] if sweep == "latest" else sweep
        terms = [term for term in (query.strip(), f"tags.`{keys.SWEEP}` = '{name}'" if name else "") if term]
        try:
            found = from_mlflow(" AND ".join(terms), uri, experiment)
        except QueryError:
            if name and name not in (there := sweeps("", uri, experiment)):
                known = f"experiment {experiment} has no such sweep; newest: {', '.join(there[:_MOST_SWEEPS])}"
                raise DataError(f"--sweep {name}: {known}") from None
            raise
        of_sweep = f"sweep {name}" if name else "MLflow"
        found = replace(found, source=f"{of_sweep}{f' (query: {query.strip()})' if query.strip() else ''}")
    return select(found, include_invalid=include_invalid, churn_alone=churn_alone)


def select(dataset: Dataset, *, include_invalid: bool = False, churn_alone: bool = False) -> Dataset:
    """Keep what one analysis may put together.

    Raises:
        DataError: Nothing is left, or the runs come from different devices, drivers or torch versions.
    """
    churn = dataset.churn
    if len(churn) and not include_invalid:
        churn = churn[churn["verdict"] == VALID]
    if churn_alone and dataset.runs.empty and len(churn):
        return replace(dataset, churn=churn)
    dataset = marked(replace(dataset, churn=churn))
    runs = dataset.runs
    bad = runs["verdict"] != VALID
    if runs.empty:
        raise DataError(
            f"{dataset.source}: {len(dataset.baselines)} baselines, but no run of a mix. "
            f"Measure one, e.g. {command_line('run')} mix=pair, or ask for more runs"
        )
    keep = runs if include_invalid else runs[~bad]
    if keep.empty:
        reasons = column(runs, "verdict_reasons").fillna("no reason recorded").unique()[:3]
        raise DataError(
            f"{dataset.source}: no run is VALID of {len(runs)}. "
            f"Measure again, or look at them anyway with {command_line('report')} --include-invalid. "
            f"Found: {textwrap.shorten(' | '.join(map(str, reasons)), _MOST_REASONS, placeholder=' ...')}"
        )
    _require_one_host(keep, dataset.source)
    return replace(
        dataset,
        runs=keep.reset_index(drop=True),
        tenants=dataset.tenants[dataset.tenants["record_id"].isin(keep["record_id"])].reset_index(drop=True),
        baselines=_of_that_host(dataset.baselines, keep),
        invalid=runs[bad].reset_index(drop=True),
    )


def _require_one_host(runs: pd.DataFrame, source: str) -> None:
    """Refuse runs that differ in what every figure depends on.

    Raises:
        DataError: They do; names what was found and the query that picks one kind.
    """
    columns = [name for name in ONE_OF if name in runs]
    kinds = runs.groupby(columns, dropna=False, observed=True).size().reset_index(name="count")
    if len(kinds) <= 1:
        return
    differ = [name for name in columns if kinds[name].nunique(dropna=False) > 1]
    found = [
        f"{row['count']} with " + ", ".join(f"{ONE_OF[name]} {_shown(row[name])}" for name in differ)
        for _, row in kinds.iterrows()
    ]
    most = kinds.sort_values("count").iloc[-1]
    terms = [f"tags.{PREFIX}{name} = '{_shown(most[name])}'" for name in differ if pd.notna(most[name])]
    raise DataError(
        f"{source} mixes runs that cannot be compared: {'; '.join(found)}. "
        f'Choose one kind, e.g. with the query "{" AND ".join(terms)}", or a folder of records for each'
    )


def _of_that_host(baselines: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Baselines that agree with ``runs``, which agree among themselves, in what every figure depends on."""
    same = pd.Series(True, index=baselines.index)
    for name in (name for name in ONE_OF if name in runs and name in baselines):
        found = runs[name].iloc[0]
        same &= baselines[name].isna() if pd.isna(found) else (baselines[name] == found).fillna(False).astype(bool)
    return baselines[same].reset_index(drop=True)


def _shown(value: Any) -> str:
    if pd.isna(value):
        return "unknown"
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)


# --- records ----------------------------------------------------------------------------------------------------------


def _from_disk(folder: Path) -> Dataset:
    if not os.path.isdir(folder):
        raise DataError(f"--records {folder}: no such folder; it holds an export or records (output folders of runs)")
    exports = [read_export(path.parent) for path in sorted(folder.rglob(MANIFEST))]
    if exports and (beside := next(find_records(folder), None)):
        raise DataError(
            f"--records {folder}: it holds an export and records of runs ({beside}), which may be the same runs. "
            "Name the folder of the one or of the other"
        )
    return together(exports, folder) if exports else from_records(folder)


def from_records(folder: Path) -> Dataset:
    """Read every record at or below ``folder``, and the baselines they refer to where those still are.

    Raises:
        DataError: There is none.
        RecordError: One is not what it should be.
    """
    found = {record.record_id: (record, path) for path in find_records(folder) for record in [load_record(path)]}
    if not found:
        raise DataError(f"no record.json at or below {folder}: it is in the output folder of a run that ended")
    for record, _ in list(found.values()):
        for reference in (tenant.baseline for tenant in record.tenants):
            if reference is None or reference.record_id in found or not os.path.isdir(reference.path):
                continue
            found[reference.record_id] = (load_record(Path(reference.path)), Path(reference.path))
    return from_contents([record for record, _ in found.values()], {r.record_id: p for r, p in found.values()}, folder)


def from_contents(records: Sequence[RunRecord], paths: dict[str, Path], source: Path) -> Dataset:
    """Make a dataset of records whose files lie at ``paths`` (by record_id)."""
    runs = frame([_row(parent_content(r, str(paths[r.record_id]), thinned={}, max_history=0), r) for r in records])
    tenants = frame(
        [_row(tenant_content(r, t, r.record_id, thinned={}, max_history=0), r) for r in records for t in r.tenants]
    )

    def read(record_ids: Collection[str], name: str) -> pd.DataFrame:
        import pyarrow as pa

        from mtexp.records.samples_file import iterations_table, telemetry_table

        tables = []
        for record_id in record_ids:
            path = paths.get(record_id, source) / name
            if os.path.isfile(path):
                own = iterations_table(path, SAMPLE_COLUMNS) if name == ITERATIONS else telemetry_table(path)
                tables.append(own.append_column("record_id", pa.repeat(record_id, len(own))))
        if not tables:
            return _NOTHING[name].copy()
        whole = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
        for at, field in enumerate(whole.schema):
            if field.name in ("tenant", "model"):
                whole = whole.set_column(at, field.name, whole.column(at).cast(pa.string()))
        frame: pd.DataFrame = whole.to_pandas()
        return frame

    mixes = runs[runs["kind"] == "mix"]
    return Dataset(
        runs=mixes,
        tenants=tenants[tenants["run_kind"] == "mix"],
        baselines=hashed(tenants[tenants["run_kind"] == "baseline"], runs),
        invalid=mixes.iloc[:0],
        source=f"the records in {source}",
        read_iterations=lambda record_ids: read(record_ids, ITERATIONS),
        read_telemetry=lambda record_ids: read(record_ids, TELEMETRY),
        churn=runs[runs["kind"] == "churn"],
    )


_TEXTS = ("record_id", "tenant", "model", "phase")
_NOTHING = {
    ITERATIONS: pd.DataFrame(
        {
            name: pd.Series([], dtype="string" if name in _TEXTS else bool if name == "in_window" else np.float64)
            for name in ("record_id", *SAMPLE_COLUMNS)
        }
    ),
    TELEMETRY: pd.DataFrame(
        {"record_id": pd.Series([], dtype="string"), "monotonic_ns": pd.Series([], dtype=np.int64)}
    ),
}
"""What is read where no file is left."""


def _row(content: RunContent, record: RunRecord) -> dict[str, Any]:
    tags = {k.removeprefix(PREFIX): v for k, v in content.tags.items() if not k.startswith("mlflow.")}
    own = {"run_name": content.name, "status": content.status, "start_time": record.started_at}
    return own | tags | content.params | content.metrics


def frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows of tags, parameters and metrics as a DataFrame with the registry's types."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    started = pd.Series(columns.pop("start_time", []), dtype="string")
    frame = {name: typed(name, values) for name, values in columns.items()}
    times = pd.to_datetime(started, utc=True, format="ISO8601", errors="coerce")
    return pd.DataFrame(frame | {"start_time": times})

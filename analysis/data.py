"""What an analysis rests on: runs, tenants, baselines and their samples, wherever they come from.

Lives here: :class:`Dataset` and :func:`load`. May touch: MLflow through :mod:`analysis.fetch`, records and exports on
disk (reading). A dataset has the same columns whether it was read from MLflow, from a folder of records or from an
export (:mod:`analysis.export`): those of :mod:`mtexp.records.keys`, tags without ``mtexp.``. ``record_id`` is the key.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtexp.commands import command_line
from mtexp.errors import MtexpError
from mtexp.metrics.crossover_summary import without_pauses
from mtexp.metrics.window import Series
from mtexp.records import keys
from mtexp.records.record import ITERATIONS, TELEMETRY, RunRecord, find_records
from mtexp.records.record import load as load_record
from mtexp.tracking.content import RunContent, parent_content, tenant_content

from . import fetch
from .marks import marked

VALID = "VALID"
_MOST_SWEEPS = 5
_MOST_REASONS = 600
"""Characters."""
SAMPLE_COLUMNS = (
    *("tenant", "model", "phase", "start_ns", "end_ns", "latency_ms", "gpu_time_ms"),
    *("in_window", "arrival_ns", "ttft_ms", "block"),
)
ONE_OF = {"device": "device", "driver": "driver", "torch": "torch", "cpu": "CPU", "shrunk": "shrunk"}
"""Columns in which the runs of one analysis must agree, and what a message calls them."""


class DataError(MtexpError):
    """Runs that cannot be analysed together, or at all."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Runs to analyse together."""

    runs: pd.DataFrame
    """One row per run of a mix that enters aggregates."""
    tenants: pd.DataFrame
    """One row per tenant of them."""
    baselines: pd.DataFrame
    """One row per baseline that a tenant was compared with, or that was asked for."""
    invalid: pd.DataFrame
    """Runs that were left out, with ``verdict_reasons``."""
    source: str
    """Where it comes from, in words."""
    read_iterations: Callable[[Collection[str]], pd.DataFrame]
    """record_ids -> samples with ``record_id`` and :data:`SAMPLE_COLUMNS`."""
    read_telemetry: Callable[[Collection[str]], pd.DataFrame]
    """record_ids -> telemetry with ``record_id`` and ``monotonic_ns``; empty where there is none."""

    @cached_property
    def iterations(self) -> pd.DataFrame:
        """Measured samples of the runs and of their baselines, in the order served."""
        wanted = [*self.runs["record_id"], *self.baselines["record_id"]]
        frame = self.read_iterations(list(dict.fromkeys(wanted)))
        return frame[frame["phase"] == "measure"].reset_index(drop=True)

    @cached_property
    def telemetry(self) -> pd.DataFrame:
        """Telemetry of the runs; empty where none was sampled."""
        return self.read_telemetry(list(self.runs["record_id"]))

    @cached_property
    def _rows(self) -> dict[tuple[str, str], Any]:
        grouped = self.iterations.groupby(["record_id", "tenant"], observed=True, sort=False)
        found: dict[Any, Any] = grouped.indices
        return {(str(record), str(tenant)): positions for (record, tenant), positions in found.items()}

    def samples(self, record_id: str, tenant: str, *, window: bool = True) -> pd.DataFrame:
        """Measured samples of one tenant, with ``window`` those inside the window; empty if there are none."""
        rows = self.iterations.iloc[self._rows.get((record_id, tenant), [])]
        return rows[rows["in_window"]] if window else rows

    @cached_property
    def _t0_ns(self) -> pd.Series[Any]:
        """Start of each run's window: the latest first start."""
        starts = self.iterations.groupby(["record_id", "tenant"], observed=True)["start_ns"].min()
        return starts.groupby(level="record_id").max()

    def series(self, record_id: str, tenant: str, column: str = "latency_ms") -> Series | None:
        """What the window kept of a tenant, as :mod:`mtexp.metrics.bootstrap` takes it; None for fewer than two.

        Args:
            record_id: Of the run or baseline.
            tenant: Its id there.
            column: ``latency_ms``, or another time in its place (``gpu_time_ms``), as if back to back.
        """
        rows = self._rows.get((record_id, tenant), [])
        rows = rows[self._columns["in_window"][rows]] if len(rows) else rows
        if len(rows) < 2:
            return None
        arrivals_ns, starts_ns, ends_ns = (self._columns[name][rows] for name in ("arrival_ns", "start_ns", "end_ns"))
        closed = bool((arrivals_ns == starts_ns).all())
        if closed:  # older records count a first request that started with the window
            later = starts_ns > self._t0_ns[record_id]
            rows, starts_ns, ends_ns = rows[later], starts_ns[later], ends_ns[later]
        values = self._columns[column][rows]
        if len(values) < 2 or not np.isfinite(values).all():
            return None
        if column != "latency_ms":
            return Series.closed(values)
        if closed:
            return Series.consecutive(*without_pauses(starts_ns, ends_ns, self._columns["block"][rows]))
        cycle_ms = np.diff(ends_ns, prepend=int(self._t0_ns[record_id])) / 1e6
        rps = self._throughput[record_id, tenant]
        return Series(values, cycle_ms, rps) if rps > 0 else None

    @cached_property
    def _columns(self) -> dict[str, Any]:
        """Columns of the samples as arrays: a tenant's rows are taken from them thousands of times."""
        whole = {name: self.iterations[name].to_numpy() for name in ("arrival_ns", "start_ns", "end_ns", "block")}
        times = {name: self.iterations[name].to_numpy(np.float64) for name in ("latency_ms", "gpu_time_ms")}
        return whole | times | {"in_window": self.iterations["in_window"].to_numpy(bool)}

    @cached_property
    def _throughput(self) -> dict[tuple[str, str], float]:
        both = pd.concat([self.tenants, self.baselines], ignore_index=True)
        named = zip(both["record_id"].astype(str), both["tenant"].astype(str), strict=True)
        return dict(zip(named, both["throughput_rps"], strict=True))


def load(
    query: str = "",
    *,
    sweep: str = "",
    records: Path | None = None,
    uri: str | None = None,
    experiment: str = "mtexp",
    include_invalid: bool = False,
) -> Dataset:
    """Read what is to be analysed.

    Args:
        query: MLflow filter about runs; empty = all.
        sweep: Name of a sweep, or ``latest``; in addition to ``query``.
        records: Read this folder instead: an export, or records at or below it.
        uri: MLflow's; default MLFLOW_TRACKING_URI, else ``mlflow.db`` in the current directory.
        experiment: MLflow experiment.
        include_invalid: Keep INVALID runs in.

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
        from .from_mlflow import from_mlflow, sweeps

        if set(sweep) & set("'\"`"):
            raise DataError(f"--sweep {sweep}: no sweep has a quote in its name; --sweep latest is the newest")
        name = sweeps(query, uri, experiment)[0] if sweep == "latest" else sweep
        terms = [term for term in (query.strip(), f"tags.`{keys.SWEEP}` = '{name}'" if name else "") if term]
        try:
            found = from_mlflow(" AND ".join(terms), uri, experiment)
        except fetch.QueryError:
            if name and name not in (there := sweeps("", uri, experiment)):
                known = f"experiment {experiment} has no such sweep; newest: {', '.join(there[:_MOST_SWEEPS])}"
                raise DataError(f"--sweep {name}: {known}") from None
            raise
        of_sweep = f"sweep {name}" if name else "MLflow"
        found = replace(found, source=f"{of_sweep}{f' (query: {query.strip()})' if query.strip() else ''}")
    return select(found, include_invalid=include_invalid)


def select(dataset: Dataset, *, include_invalid: bool = False) -> Dataset:
    """Keep what one analysis may put together.

    Raises:
        DataError: Nothing is left, or the runs come from different devices, drivers or torch versions.
    """
    dataset = marked(dataset)
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
            f"Measure again, or look at them anyway with --include-invalid. "
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
    terms = [f"tags.{fetch.PREFIX}{name} = '{_shown(most[name])}'" for name in differ if pd.notna(most[name])]
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


def hashed(baselines: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Tenants of baselines, each with the ``baseline_hash`` of its run."""
    names = dict(zip(runs["record_id"], column(runs, "baseline_hash"), strict=True))
    return baselines.assign(baseline_hash=baselines["record_id"].map(names).astype("string"))


def column(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    """A column that may not be there."""
    return frame[name] if name in frame else pd.Series(pd.NA, index=frame.index, dtype="string")


def unique(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a record."""
    return frame.drop_duplicates("record_id", ignore_index=True)


# --- records ----------------------------------------------------------------------------------------------------------


def _from_disk(folder: Path) -> Dataset:
    from .export import MANIFEST, read_export

    if not folder.is_dir():
        raise DataError(f"--records {folder}: no such folder; it holds an export or records (output folders of runs)")
    exports = [read_export(path.parent) for path in sorted(folder.rglob(MANIFEST))]
    if exports and (beside := next(find_records(folder), None)):
        raise DataError(
            f"--records {folder}: it holds an export and records of runs ({beside}), which may be the same runs. "
            "Name the folder of the one or of the other"
        )
    return _together(exports, folder) if exports else from_records(folder)


def _together(parts: Sequence[Dataset], folder: Path) -> Dataset:
    """Several exports as one dataset; what is in two of them counts once."""
    if len(parts) == 1:
        return parts[0]

    def table(name: str) -> pd.DataFrame:
        return pd.concat([getattr(part, name) for part in parts], ignore_index=True)

    def once(read: str, record_ids: Collection[str]) -> pd.DataFrame:
        left, frames = set(record_ids), []
        for part in parts:
            frames.append(getattr(part, read)(left))
            left -= set(frames[-1]["record_id"])
        return pd.concat(frames, ignore_index=True)

    return Dataset(
        runs=unique(table("runs")),
        tenants=table("tenants").drop_duplicates(["record_id", "tenant"], ignore_index=True),
        baselines=unique(table("baselines")),
        invalid=unique(table("invalid")),
        source=f"the records exported to {folder.name}",
        read_iterations=lambda record_ids: once("read_iterations", record_ids),
        read_telemetry=lambda record_ids: once("read_telemetry", record_ids),
    )


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
            if reference is None or reference.record_id in found or not Path(reference.path).is_dir():
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
        from mtexp.records.samples_file import read_iterations, read_telemetry

        frames = [_NOTHING[name]]
        for record_id in record_ids:
            path = paths.get(record_id, source) / name
            if path.is_file():
                columns = list(SAMPLE_COLUMNS)
                rows = read_iterations(path, columns) if name == ITERATIONS else read_telemetry(path)
                frames.append(rows.assign(record_id=record_id))
        return pd.concat(frames[1:] or frames, ignore_index=True)

    mixes = runs[runs["kind"] == "mix"]
    return Dataset(
        runs=mixes,
        tenants=tenants[tenants["run_kind"] == "mix"],
        baselines=hashed(tenants[tenants["run_kind"] == "baseline"], runs),
        invalid=mixes.iloc[:0],
        source=f"the records in {source}",
        read_iterations=lambda record_ids: read(record_ids, ITERATIONS),
        read_telemetry=lambda record_ids: read(record_ids, TELEMETRY),
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
    tags = {k.removeprefix(fetch.PREFIX): v for k, v in content.tags.items() if not k.startswith("mlflow.")}
    own = {"run_name": content.name, "status": content.status, "start_time": record.started_at}
    return own | tags | content.params | content.metrics


def frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows of tags, parameters and metrics as a DataFrame with the registry's types."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    started = pd.Series(columns.pop("start_time", []), dtype="string")
    typed = {name: fetch.typed(name, values) for name, values in columns.items()}
    times = pd.to_datetime(started, utc=True, format="ISO8601", errors="coerce")
    return pd.DataFrame(typed | {"start_time": times})

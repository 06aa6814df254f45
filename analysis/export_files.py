"""The format of an export: measured runs as a few small files that can be committed.

Lives here: :func:`write_export`, :func:`read_export`. May touch: one folder. An export holds what every
table and figure is made from, so that a report can be made again from it alone::

    export.json         format, source, how many rows each file has
    runs.parquet        one row per run: the columns of :func:`analysis.fetch.runs`
    tenants.parquet     one row per tenant, also of the baselines
    iterations.parquet  every measured iteration of every tenant
    telemetry.parquet   samples of the device

Times are kept to the microsecond: the rounding error of a mean is far below a thousandth of any latency here, and the
file takes a fifth of the room.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mtexp.errors import RecordError
from mtexp.records import keys
from mtexp.records.samples_file import MAX_ROWS

from .dataset import SAMPLE_COLUMNS, Dataset

FORMAT_VERSION = 1
# 1  2026-11-22  first
MANIFEST = "export.json"
RUNS, TENANTS, ITERATIONS, TELEMETRY = "runs.parquet", "tenants.parquet", "iterations.parquet", "telemetry.parquet"

_TELEMETRY_COLUMNS = (
    *("gpu_power_w", "gpu_sm_clock_mhz", "gpu_util_pct", "gpu_temperature_c", "gpu_memory_used_mib"),
    *("gpu_sm_active_pct", "gpu_sm_occupancy_pct", "gpu_tensor_active_pct", "gpu_dram_bw_pct", "cpu_util_pct"),
)
_PRIVATE = ("record_path", "artifact_uri", "host", "run_name")
"""Columns that say where it was measured, not what."""
_TIMES = ("start_time", "end_time")
_NAME = pa.dictionary(pa.int32(), pa.string())
_ITERATIONS = pa.schema(
    [
        ("record_id", _NAME),
        ("tenant", _NAME),
        ("gap_us", pa.int64()),
        ("service_us", pa.int64()),
        ("gpu_time_us", pa.int64()),
        ("queue_us", pa.int64()),
        ("ttft_us", pa.int64()),
        ("in_window", pa.bool_()),
    ]
)
"""``gap_us``: from the end of the iteration before it (of the first: from the run's first start) to its start."""
_IN_ROUNDS = (pa.field("block", pa.int64()), pa.field("round", pa.int64()), pa.field("phase", _NAME))
"""Only where a run has blocks; ``phase`` is ``measure`` or ``alone``. Older exports have no more than ``block``."""


# --- writing ----------------------------------------------------------------------------------------------------------


def write_export(data: Dataset, folder: Path) -> dict[str, int]:
    """Write ``data`` to ``folder``; return the size of each file in bytes.

    Raises:
        RecordError: The folder cannot be written.
    """
    kinds, samples = pd.concat([data.tenants, data.baselines], ignore_index=True), data.counted()
    tables = {
        RUNS: _frame_table(pd.concat([data.runs, data.invalid], ignore_index=True).drop_duplicates("record_id")),
        TENANTS: _frame_table(kinds),
        ITERATIONS: _packed(samples),
        TELEMETRY: _thin_telemetry(data.telemetry, samples),
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        "source": data.source,
        "rows": {name: table.num_rows for name, table in tables.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            pq.write_table(table, folder / name, **_encoding(table))
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise RecordError(f"could not write the export to {folder}: {error.strerror or error}") from error
    return {name: (folder / name).stat().st_size for name in (*tables, MANIFEST)}


def _encoding(table: pa.Table) -> dict[str, Any]:
    names = {f.name for f in table.schema if pa.types.is_dictionary(f.type) or pa.types.is_string(f.type)}
    return {
        "compression": "zstd",
        "compression_level": 19,
        "use_dictionary": sorted(names),
        "column_encoding": {f.name: "BYTE_STREAM_SPLIT" for f in table.schema if pa.types.is_integer(f.type)},
    }


def _frame_table(frame: pd.DataFrame) -> pa.Table:
    kept = frame.drop(columns=[name for name in _PRIVATE if name in frame]).dropna(axis="columns", how="all")
    kept = kept.assign(**{name: kept[name].dt.strftime("%Y-%m-%dT%H:%M:%SZ") for name in _TIMES if name in kept})
    return pa.Table.from_pandas(kept, preserve_index=False).replace_schema_metadata(None)


def _packed(samples: pd.DataFrame) -> pa.Table:
    """Samples as gaps and durations in microseconds, which take a fraction of the room of instants."""
    samples = samples.sort_values(["record_id", "tenant", "start_ns"], kind="stable")
    start_us = _us(samples["start_ns"] - samples.groupby("record_id", observed=True)["start_ns"].transform("min"))
    service_us = _us(samples["end_ns"] - samples["start_ns"])
    ends_us = start_us + service_us
    before_us = ends_us.groupby([samples["record_id"], samples["tenant"]], observed=True).shift(fill_value=0)
    columns = {
        "gap_us": start_us - before_us,
        "service_us": service_us,
        "gpu_time_us": _us(1e6 * samples["gpu_time_ms"]),
        "queue_us": _us(samples["start_ns"] - samples["arrival_ns"]),
        "ttft_us": _us(1e6 * samples["ttft_ms"]),
    }
    frame = pd.DataFrame(columns).assign(**{name: samples[name] for name in ("in_window", "block", "round")})
    for name in ("record_id", "tenant", "phase"):
        frame[name] = samples[name].astype(str).astype("category")
    schema = pa.schema([*_ITERATIONS, *_IN_ROUNDS]) if (samples["block"] >= 0).any() else _ITERATIONS
    return pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)


def _us(times_ns: pd.Series[Any]) -> pd.Series[Any]:
    return (times_ns / 1e3).round().astype("Int64")


def _thin_telemetry(telemetry: pd.DataFrame, samples: pd.DataFrame) -> pa.Table:
    """Telemetry on the clock that the samples have after reading: it counts from the run's first start."""
    names = [name for name in _TELEMETRY_COLUMNS if name in telemetry]
    first_ns = telemetry["record_id"].map(samples.groupby("record_id", observed=True)["start_ns"].min())
    telemetry = telemetry.assign(monotonic_ns=telemetry["monotonic_ns"] - first_ns.fillna(0).astype("int64"))
    frame = telemetry[["record_id", "monotonic_ns", *names]].astype(dict.fromkeys(names, "float32"))
    frame = frame.assign(record_id=frame["record_id"].astype(str).astype("category"))
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_export(folder: Path) -> Dataset:
    """Read an export back; without MLflow.

    Raises:
        RecordError: A file is absent or not what the manifest says.
    """
    manifest = _manifest(folder)
    runs, tenants = (_read_frame(folder, name, manifest) for name in (RUNS, TENANTS))
    for name, frame in ((RUNS, runs), (TENANTS, tenants)):
        _require(folder / name, frame, ("record_id", "verdict", "device"))
    _require(folder / TENANTS, tenants, ("tenant", "model", "run_kind", "throughput_rps"))
    if without_run := set(tenants.loc[tenants["run_kind"] == "mix", "record_id"]) - set(runs["record_id"]):
        raise RecordError(f"{folder / TENANTS}: tenants of runs that {RUNS} does not have: {sorted(without_run)[:3]}")
    runs, tenants = _current(runs), _current(tenants)
    samples = _unpacked(folder, manifest, tenants)
    telemetry = _read_frame(folder, TELEMETRY, manifest)
    return Dataset(
        runs=runs,
        tenants=tenants[tenants["run_kind"] == "mix"],
        baselines=tenants[tenants["run_kind"] == "baseline"],
        invalid=runs.iloc[:0],
        source=f"the export {folder}",
        read_iterations=lambda record_ids: _of(samples, record_ids),
        read_telemetry=lambda record_ids: _of(telemetry, record_ids),
    )


def _manifest(folder: Path) -> dict[str, int]:
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version, rows = found["format_version"], found["rows"]
        wanted = {name: int(rows[name]) for name in (RUNS, TENANTS, ITERATIONS, TELEMETRY)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: not the manifest of an export: {error}") from error
    if version != FORMAT_VERSION:
        raise RecordError(f"{path}: format_version {version}, allowed: {FORMAT_VERSION}; use the mtexp that wrote it")
    return wanted


def _read_table(folder: Path, name: str, rows: dict[str, int]) -> pa.Table:
    path = folder / name
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows != rows[name] or rows[name] > MAX_ROWS:
                raise RecordError(f"{path}: {file.metadata.num_rows} rows, {MANIFEST} says {rows[name]}")
            table = file.read()
        table.validate(full=True)
    except FileNotFoundError:
        raise RecordError(f"{path}: missing, and {MANIFEST} counts its rows; restore it or export again") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RecordError(f"{path}: not a readable Parquet file: {error}") from error
    return table


def _read_frame(folder: Path, name: str, rows: dict[str, int]) -> pd.DataFrame:
    frame: pd.DataFrame = _read_table(folder, name, rows).to_pandas()
    numbers = [c for c in frame if keys.is_metric(str(c)) and not pd.api.types.is_numeric_dtype(frame[c])]
    if numbers:
        raise RecordError(f"{folder / name}: column {numbers[0]} must be numbers, found {frame[numbers[0]].dtype}")
    plain = [
        name for name in frame if pd.api.types.is_bool_dtype(frame[name]) or pd.api.types.is_numeric_dtype(frame[name])
    ]
    frame = frame.astype(dict.fromkeys(frame.columns.difference(plain), "string"))
    try:
        times = {name: pd.to_datetime(frame[name], utc=True, format="ISO8601") for name in _TIMES if name in frame}
    except ValueError as error:
        raise RecordError(f"{folder / name}: a time is none: {error}") from error
    return frame.assign(**times)


def _current(frame: pd.DataFrame) -> pd.DataFrame:
    """Without what is shown no more of older records (:func:`mtexp.records.keys.current`)."""
    names = {str(name): 0.0 for name in frame}
    frame = frame.drop(columns=[name for name in names if name not in keys.current(names, "closed")])
    compared = [str(name) for name in frame if name not in keys.current(names, "poisson")]
    open_loop = frame["arrival"].fillna("closed") != "closed" if "arrival" in frame else False
    frame.loc[open_loop, compared] = np.nan
    return frame


def _require(path: Path, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in frame:
            raise RecordError(f"{path}: column {name} is absent; found {', '.join(map(str, frame.columns))[:200]}")


def _unpacked(folder: Path, manifest: dict[str, int], tenants: pd.DataFrame) -> pd.DataFrame:
    """The samples as :attr:`Dataset.iterations` has them; instants count from each run's first start."""
    path = folder / ITERATIONS
    table = _read_table(folder, ITERATIONS, manifest)
    try:
        schema = pa.schema([*_ITERATIONS, *(field for field in _IN_ROUNDS if field.name in table.column_names)])
        packed = table.cast(schema).to_pandas()
    except (pa.ArrowException, ValueError) as error:
        raise RecordError(f"{path}: a column is not what it should be: {error}") from error
    must = packed[["gap_us", "service_us", "queue_us", "in_window"]]
    if must.isna().any(axis=None) or (packed["service_us"] < 0).any() or (packed["queue_us"] < 0).any():
        raise RecordError(f"{path}: a time is absent or negative")
    step_us = packed["gap_us"] + packed["service_us"]
    end_us = step_us.groupby([packed["record_id"], packed["tenant"]], observed=True, sort=False).cumsum()
    end_ns = end_us.to_numpy(np.int64) * 1000
    start_ns = end_ns - packed["service_us"].to_numpy(np.int64) * 1000
    queue_ns = packed["queue_us"].to_numpy(np.int64) * 1000
    models = tenants.set_index(["record_id", "tenant"])["model"]
    owners = pd.MultiIndex.from_arrays([packed["record_id"].astype(str), packed["tenant"].astype(str)])
    frame = pd.DataFrame(
        {
            "record_id": packed["record_id"].astype(str),
            "tenant": packed["tenant"].astype(str),
            "model": models.reindex(owners).to_numpy(),
            "phase": packed["phase"].astype(str) if "phase" in packed else "measure",
            "start_ns": start_ns,
            "end_ns": end_ns,
            "latency_ms": (end_ns - start_ns + queue_ns) / 1e6,
            "gpu_time_ms": packed["gpu_time_us"].to_numpy(np.float64, na_value=np.nan) / 1e3,
            "in_window": packed["in_window"].astype(bool),
            "arrival_ns": start_ns - queue_ns,
            "ttft_ms": packed["ttft_us"].to_numpy(np.float64, na_value=np.nan) / 1e3,
            **{
                name: packed[name].to_numpy(np.int64, na_value=-1) if name in packed else -1
                for name in ("block", "round")
            },
        }
    )
    assert set(SAMPLE_COLUMNS) <= set(frame)
    return frame


def _of(frame: pd.DataFrame, record_ids: Collection[str]) -> pd.DataFrame:
    return frame[frame["record_id"].isin(list(record_ids))]

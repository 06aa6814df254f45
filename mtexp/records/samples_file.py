"""The samples of a run as Parquet: one row per iteration of every tenant, warm-ups and tail included.

Lives here: the columns, the writer and the reader of ``iterations.parquet``, and the reader of ``telemetry.parquet``.
May touch: those two files of a record. Imports pyarrow, so it is imported only where samples are at hand.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mtexp.errors import RecordError
from mtexp.metrics.samples import OPTIONAL, WARMUP, Floats, Samples
from mtexp.metrics.window import Window
from mtexp.records.files import write_aside

if TYPE_CHECKING:
    import pandas as pd

_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("tenant", _NAME),
        ("model", _NAME),
        ("iteration", pa.int64()),
        ("phase", _NAME),
        ("start_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("latency_ms", pa.float64()),
        ("gpu_time_ms", pa.float64()),
        ("in_window", pa.bool_()),
        ("arrival_ns", pa.int64()),
        ("queue_ms", pa.float64()),
        ("service_ms", pa.float64()),
        ("ttft_ms", pa.float64()),
        ("enqueue_ns", pa.int64()),
        ("block", pa.int64()),
        ("round", pa.int64()),
        ("input_tokens", pa.int64()),
        ("padded_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
    ]
)
ADDED = OPTIONAL
"""Columns that older records lack, and the value that stands for none."""
PHASES = ("warmup", "measure", "alone", "edge")
"""By ``Samples.phase``."""

MAX_ROWS = 200_000_000
MAX_TELEMETRY_ROWS = 20_000_000
MAX_TELEMETRY_COLUMNS = 4096
"""60 tenants, the most that one CUDA MPS server takes, have 280; with a server on each of 7 MIG instances, 1,960."""


def write_iterations(
    path: Path,
    samples: Mapping[str, Samples],
    models: Mapping[str, str],
    window: Mapping[str, int] | None,
) -> None:
    """Write the samples of every tenant.

    Args:
        path: File to write.
        samples: By tenant id; arrays of one entry per iteration.
        models: Model by tenant id.
        window: ``t0_ns`` and ``t1_ns``; None = no iteration is in the window.

    Raises:
        RecordError: The file cannot be written.
    """
    tables = [_table(tenant, models.get(tenant, ""), rows, window) for tenant, rows in samples.items()]
    table = pa.concat_tables(tables).unify_dictionaries() if tables else SCHEMA.empty_table()
    with write_aside(path) as file:
        pq.write_table(table, file, compression="zstd")


def _table(tenant: str, model: str, rows: Samples, window: Mapping[str, int] | None) -> pa.Table:
    inside = Window(window["t0_ns"], window["t1_ns"]).mask(rows) if window else np.zeros(len(rows), dtype=bool)
    columns = [
        _constant(tenant, len(rows)),
        _constant(model, len(rows)),
        pa.array(_numbers(rows)),
        pa.DictionaryArray.from_arrays(pa.array(rows.phase.astype(np.int32)), list(PHASES)),
        pa.array(rows.start_ns),
        pa.array(rows.end_ns),
        pa.array(rows.latency_ms),
        _or_null(rows.gpu_time_ms),
        pa.array(inside),
        pa.array(rows.arrival_ns),
        pa.array(rows.queue_ms),
        pa.array(rows.service_ms),
        _or_null(rows.ttft_ms),
        *(pa.array(getattr(rows, name)) for name in ADDED),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _numbers(rows: Samples) -> NDArray[np.int64]:
    """Iterations of each phase from 0, those of the warm-up up to -1."""
    numbers = np.zeros(len(rows), dtype=np.int64)
    for phase in range(len(PHASES)):
        own = rows.phase == phase
        numbers[own] = np.arange(np.count_nonzero(own))
    warm = rows.phase == WARMUP
    numbers[warm] -= np.count_nonzero(warm)
    return numbers


def _constant(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), [text])


def _or_null(values: Floats) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def iterations_table(path: Path, columns: Collection[str] | None = None) -> pa.Table:
    """Return ``iterations.parquet`` as an Arrow table of :data:`SCHEMA`, or those of its ``columns``.

    Raises:
        RecordError: It is not such a file.
    """
    wanted = [field for field in SCHEMA if columns is None or field.name in columns]
    table = _read(path, [field.name for field in wanted], MAX_ROWS)
    for name, none in ADDED.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array(np.full(len(table), none, dtype=np.int64)))
    for field in wanted:
        if field.name not in table.column_names:
            raise RecordError(f"{path}: column {field.name} is absent; found {', '.join(table.column_names)[:200]}")
    return _checked(table.select([field.name for field in wanted]), pa.schema(wanted), path)


def read_iterations(path: Path, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Return ``iterations.parquet``, one row per iteration.

    ``tenant``, ``model`` and ``phase`` are categories, times in ``_ns`` int64, times in ``_ms`` float64 (NaN where not
    measured), ``in_window`` bool.

    Args:
        path: The file.
        columns: Columns to read; all by default.

    Raises:
        RecordError: It is not such a file.
    """
    frame: pd.DataFrame = iterations_table(path, columns).to_pandas()
    return frame


def read_samples(path: Path) -> dict[str, Samples]:
    """Return the samples of ``iterations.parquet`` by tenant id, as they were measured.

    Raises:
        RecordError: It is not such a file.
    """
    frame = read_iterations(path)
    result = {}
    for tenant, rows in frame.groupby("tenant", observed=True, sort=False):
        arrival = rows["arrival_ns"].to_numpy()
        result[str(tenant)] = Samples(
            phase=_phases(rows["phase"], path),
            arrival_ns=arrival,
            start_ns=rows["start_ns"].to_numpy(),
            end_ns=rows["end_ns"].to_numpy(),
            first_token_ns=_to_ns(rows["ttft_ms"].to_numpy(), arrival, absent=0),
            gpu_time_ns=_to_ns(rows["gpu_time_ms"].to_numpy(), np.zeros_like(arrival), absent=-1),
            **{name: rows[name].to_numpy() for name in ADDED},
        )
    return result


def _phases(names: pd.Series[str], path: Path) -> NDArray[np.uint8]:
    if unknown := sorted(set(names.cat.categories) - set(PHASES)):
        raise RecordError(f"{path}: column phase: found {str(unknown)[:60]}, allowed: {', '.join(PHASES)}")
    codes = [PHASES.index(name) for name in names.cat.categories]
    return np.array(codes, dtype=np.uint8)[names.cat.codes.to_numpy()]


def _to_ns(values_ms: Floats, origin_ns: NDArray[np.int64], *, absent: int) -> NDArray[np.int64]:
    there = np.isfinite(values_ms)
    result = np.full(len(values_ms), absent, dtype=np.int64)
    result[there] = origin_ns[there] + np.rint(values_ms[there] * 1e6).astype(np.int64)
    return result


def telemetry_table(path: Path) -> pa.Table:
    """Return ``telemetry.parquet`` as an Arrow table: ``monotonic_ns`` int64, every other column float64.

    Raises:
        RecordError: It is not such a file.
    """
    table = _read(path, None, MAX_TELEMETRY_ROWS)
    names = table.column_names
    if "monotonic_ns" not in names or len(names) > MAX_TELEMETRY_COLUMNS or len(set(names)) < len(names):
        raise RecordError(f"{path}: found columns {', '.join(names)[:200]}, allowed: monotonic_ns and samples")
    types = [(name, pa.int64() if name == "monotonic_ns" else pa.float64()) for name in names]
    return _checked(table, pa.schema(types), path)


def read_telemetry(path: Path) -> pd.DataFrame:
    """Return ``telemetry.parquet``, one row per sample; NaN where a column was not sampled in that row.

    Raises:
        RecordError: It is not such a file.
    """
    frame: pd.DataFrame = telemetry_table(path).to_pandas()
    return frame


def _read(path: Path, columns: list[str] | None, max_rows: int) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > max_rows:
                raise RecordError(f"{path}: {file.metadata.num_rows} rows, allowed: at most {max_rows}")
            return file.read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RecordError(f"{path}: not a readable Parquet file: {error}") from error


def _checked(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    try:
        table.validate(full=True)
        table = table.cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise RecordError(f"{path}: a column is not what it should be: {error}") from error
    for field in schema:
        if not pa.types.is_floating(field.type) and table.column(field.name).null_count:
            raise RecordError(f"{path}: column {field.name} has values that are absent")
    return table

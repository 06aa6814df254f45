"""Reads and checks files of arrival times. May touch: the file it is given."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mtexp.errors import ConfigError

COLUMN = "arrival_s"
"""The column to read if a file has several."""
MAX_ARRIVALS = 200_000
MAX_BYTES = 16 * 2**20
_YEAR_S = 365.25 * 86400
_FIRST_YEAR, _LAST_YEAR = 1990, 2100

_FORM = f"a .csv or .parquet file of at most {MAX_ARRIVALS} arrival times in seconds, ascending from 0 or later"


def read_trace(key: str, path: str) -> tuple[float, ...]:
    """Return the arrival times in seconds that ``path`` holds: its only column, or the one named ``arrival_s``.

    Raises:
        ConfigError: No such file, another format, too large, or times that are not finite, >= 0 and ascending.
    """
    file = Path(path).expanduser()
    if not path or not file.is_file():
        raise ConfigError(key, path or "(empty)", _FORM, "Name an existing file.")
    if file.stat().st_size > MAX_BYTES:
        raise ConfigError(key, path, _FORM, f"The file is larger than {MAX_BYTES // 2**20} MiB: cut it.")
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if file.suffix not in readers:
        raise ConfigError(key, path, _FORM, "Give the file one of these endings and formats.")
    try:
        times = readers[file.suffix](file)
    except (ValueError, OSError, csv.Error) as error:
        raise ConfigError(key, path, _FORM, f"It cannot be read: {error}.") from error
    problem = _problem(times) or _unit_problem(times)
    if problem:
        raise ConfigError(key, path, _FORM, problem)
    return tuple(times)


def _problem(times: Sequence[float]) -> str:
    if not times:
        return "It holds no times."
    if len(times) > MAX_ARRIVALS:
        return f"It holds more than {MAX_ARRIVALS} times: cut it."
    for row, time in enumerate(times, start=1):
        if not math.isfinite(time) or time < 0:
            return f"Time {row} is {time}: correct it."
    for row, (before, after) in enumerate(pairwise(times), start=2):
        if after < before:
            return f"Time {row} ({after}) is before time {row - 1} ({before}): sort the file."
    return ""


def _unit_problem(times: Sequence[float]) -> str:
    """Say that times are not seconds from the start of the run: a date, or a smaller unit."""
    for unit, a_second in (("seconds", 1), ("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9)):
        year = 1970 + times[0] / a_second / _YEAR_S
        if _FIRST_YEAR <= year <= _LAST_YEAR:
            what = "" if a_second == 1 else f" and divide by {a_second:.0f}"
            return f"Its times look like {unit} since 1970: subtract the first one from all{what}."
    return ""


def _read_csv(file: Path) -> list[float]:
    with file.open(encoding="utf-8-sig", newline="") as text:  # -sig: Excel begins with a byte-order mark
        rows = [row for row in csv.reader(text) if row]
    if not rows:
        return []
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):  # 0,35 under a heading of one column
            raise ValueError(
                f"row {number} has {len(row)} columns and row 1 has {len(rows[0])}; columns are separated by a comma, "
                "decimals by a point"
            )
    column = _column([name.strip() for name in rows[0]])
    body = rows if _is_number(rows[0][column]) else rows[1:]
    return [float(row[column]) for row in body]


def _read_parquet(file: Path) -> list[float]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
        if opened.metadata.num_rows > MAX_ARRIVALS:
            raise ValueError(f"{opened.metadata.num_rows} rows, more than {MAX_ARRIVALS}")
        names = opened.schema_arrow.names
        column: Any = opened.read(columns=[names[_column(names)]]).column(0)
        return [float("nan") if v is None else v for v in column.cast(pa.float64()).to_pylist()]
    except pa.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from error


def _column(names: Sequence[str]) -> int:
    if len(names) == 1:
        return 0
    if COLUMN not in names:
        raise ValueError(f"columns {', '.join(names[:8])}; one must be called {COLUMN}")
    return list(names).index(COLUMN)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

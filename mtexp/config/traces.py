"""Reads and checks files of arrivals, and brings them to a rate. May touch: the file it is given."""

from __future__ import annotations

import csv
import math
import os
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mtexp.config.trace_formats import Arrived, read_published, tokens
from mtexp.errors import ConfigError
from mtexp.text_tables import rounded

_UNITS = {"arrival_s": 1, "arrival_ms": 1e3, "arrival_us": 1e6, "arrival_ns": 1e9}
"""Columns that are read where a file has several, and how many of their unit a second has."""
MAX_ARRIVALS = 200_000
MAX_BYTES = 256 * 2**20
MOST_READ = 5_000_000
"""Requests of a trace that is thinned."""
_TOKENS = ("input_tokens", "output_tokens")
"""Columns of token counts, beside a named one of times."""
_YEAR_S = 365.25 * 86400
_FIRST_YEAR, _LAST_YEAR = 1990, 2100

_FORM = (
    f"a .csv or .parquet file of at most {MAX_ARRIVALS} arrival times in seconds, ascending from 0 or later, or a "
    "trace of Azure or BurstGPT (.csv), Mooncake or aiperf (.jsonl), vLLM bench (.json)"
)


def read_trace(key: str, path: str, scale: str = "none", rate_rps: float = 0.0, seed: int = 0) -> tuple[Arrived, ...]:
    """Return the requests that ``path`` holds: arrival times in seconds, and tokens where it has them.

    Times of a published format (:mod:`mtexp.config.trace_formats`) count from the first request; of another file they
    are its only column, or the one named ``arrival_s``, ``arrival_ms``, ``arrival_us`` or ``arrival_ns``, and columns
    ``input_tokens`` and ``output_tokens`` are tokens.

    Args:
        key: Configuration key, for the message.
        path: The file.
        scale: ``none``, ``thin`` (leave out requests, drawn at random) or ``stretch`` (change the time between them).
        rate_rps: Mean requests a second after ``thin`` or ``stretch``.
        seed: Of what is left out.

    Raises:
        ConfigError: No such file, another format, too large, times that are not finite, >= 0 and ascending, counts of
            tokens that are none, or a rate that the trace cannot be thinned to.
    """
    file = Path(path).expanduser()
    if not path or not os.path.isfile(file):
        raise ConfigError(key, path or "(empty)", _FORM, "Name an existing file.")
    if file.stat().st_size > MAX_BYTES:
        raise ConfigError(key, path, _FORM, f"The file is larger than {MAX_BYTES // 2**20} MiB: cut it.")
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": read_published, ".json": read_published}
    if file.suffix not in readers:
        raise ConfigError(key, path, _FORM, "Give the file one of these endings and formats.")
    try:
        requests = list(readers[file.suffix](file) or ())
    except (ValueError, OSError, csv.Error, RecursionError) as error:
        raise ConfigError(key, path, _FORM, f"It cannot be read: {error}.") from error
    times = [request.time_s for request in requests]
    problem = _problem(times, MAX_ARRIVALS if scale != "thin" else MOST_READ) or _unit_problem(times)
    if problem:
        raise ConfigError(key, path, _FORM, problem)
    if scale != "none":
        requests = _at_rate(key, path, requests, scale, rate_rps, seed)
    return tuple(requests)


def _at_rate(key: str, path: str, requests: Sequence[Arrived], scale: str, rate_rps: float, seed: int) -> list[Arrived]:
    """Return ``requests`` with a mean rate of ``rate_rps``: fewer of them, or further apart (or closer)."""
    first_s, last_s = requests[0].time_s, requests[-1].time_s
    if last_s <= first_s:
        raise ConfigError(
            key, path, "a trace with requests at different times", "All of these come at once, so they have no rate."
        )
    own_rps = (len(requests) - 1) / (last_s - first_s)
    if scale == "stretch":
        return [r._replace(time_s=(r.time_s - first_s) * own_rps / rate_rps) for r in requests]
    if rate_rps > own_rps:
        allowed = f"a trace of at least {rate_rps:g} requests a second to thin"
        remedy = f"It has {rounded(own_rps, 4)}: lower the rate, or use arrival.scale=stretch."
        raise ConfigError(key, path, allowed, remedy)
    share, drawn = rate_rps / own_rps, random.Random(seed)
    kept = [r._replace(time_s=r.time_s - first_s) for r in requests if drawn.random() < share]
    if problem := _problem([r.time_s for r in kept], MAX_ARRIVALS):
        raise ConfigError(key, path, _FORM, problem)
    return kept


def _problem(times: Sequence[float], most: int) -> str:
    if not times:
        return "It holds no times."
    if len(times) > most:
        return f"It holds more than {most} times: cut it, or thin it (arrival.scale=thin with arrival.rate)."
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


def _read_csv(file: Path) -> list[Arrived]:
    if (published := read_published(file)) is not None:
        return published
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
    names = [name.strip() for name in rows[0]]
    column = _column(names)
    body = rows if _is_number(names[column]) else rows[1:]
    a_second = _UNITS.get(names[column], 1)
    counts = [names.index(name) if name in names else None for name in _TOKENS]
    return [
        Arrived(float(row[column]) / a_second, *(0 if at is None else tokens(row[at], number) for at in counts))
        for number, row in enumerate(body, start=1)
    ]


def _read_parquet(file: Path) -> list[Arrived]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
        if opened.metadata.num_rows > MOST_READ:
            raise ValueError(f"{opened.metadata.num_rows} rows, more than {MOST_READ}")
        names = opened.schema_arrow.names
        name = names[_column(names)]
        counted = [other for other in _TOKENS if other in names and other != name]
        table = opened.read(columns=[name, *counted])
        a_second = _UNITS.get(name, 1)
        column: Any = table.column(table.column_names.index(name)).cast(pa.float64())
        times = [float("nan") if v is None else v / a_second for v in column.to_pylist()]
        counts = [
            table.column(table.column_names.index(other)).to_pylist() if other in counted else [None] * len(times)
            for other in _TOKENS
        ]
        return [
            Arrived(time, tokens(given, number), tokens(made, number))
            for number, (time, given, made) in enumerate(zip(times, *counts, strict=True), start=1)
        ]
    except pa.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from error


def _column(names: Sequence[str]) -> int:
    if len(names) == 1:
        return 0
    found = [name for name in _UNITS if name in names]
    if not found:
        raise ValueError(f"columns {', '.join(names[:8])}; one must be called {' or '.join(_UNITS)}")
    return list(names).index(found[0])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

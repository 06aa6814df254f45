"""Kernels of a capture as arrays. Lives here: Kernels and its reader of nsys SQLite exports.

May touch: sqlite3, numpy.

A capture is data from outside: it is opened read-only and immutable, every query is bounded in rows and steps, views
and virtual tables are not looked at, and whatever is wrong with it becomes one :class:`~mtexp.errors.RecordError`.
Tables of an export exist only where there were events, columns differ between versions, and rows come in any order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtexp.errors import RecordError

Int64 = NDArray[np.int64]

MAX_KERNELS = 20_000_000
MAX_TENANTS = 4096
GRAPH_NAME = "[CUDA graph]"
"""Stands for the kernels of a graph launch that was traced as a whole (``--cuda-graph-trace=graph``)."""

_KERNEL_TABLE = "CUPTI_ACTIVITY_KIND_KERNEL"
_GRAPH_TABLE = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
_NSYS_PID = 2**24
"""nsys writes pid * 2**24 (and more above); what is smaller, in a capture made by hand, is a plain pid."""
_UNKNOWN = -1
_GRAPH = -2
_MAX_TIME_NS = 2**61
_MAX_ROW_BYTES = 16 * 2**20
_MAX_NAMES = 100_000
_NAME_CHARS = 400
_STEPS_PER_CALL = 1_000_000
_MAX_CALLS = 5_000
_SQLITE_MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class TracedTenant:
    """A process that ran kernels: one tenant."""

    pid: int
    name: str = ""
    """Tenant id from its NVTX ranges, else the process name, else empty."""
    measured_ns: tuple[int, int] | None = None
    """First start and last end of its ``phase=measure`` NVTX ranges."""


@dataclass(frozen=True, slots=True, eq=False)
class Kernels:
    """Kernels of a capture, sorted by start; all arrays have one entry per kernel."""

    start_ns: Int64
    end_ns: Int64
    tenant: Int64
    """Index into ``tenants``."""
    name: Int64
    """Index into ``names``."""
    tenants: tuple[TracedTenant, ...]
    names: tuple[str, ...]
    skipped: int = 0
    """Number of rows left out: no process, missing times, or an end before the start."""
    notes: tuple[str, ...] = ()
    """Notes on how the capture was read."""

    @property
    def is_graph(self) -> NDArray[np.bool_]:
        """True where an entry is a whole CUDA graph and not one kernel."""
        graphs = [i for i, name in enumerate(self.names) if name == GRAPH_NAME]
        return np.isin(self.name, graphs)


def read_nsys_sqlite(path: Path | str) -> Kernels:
    """Read the kernels of an nsys SQLite export (2023 and later), or of one made by hand with the same columns.

    Needed are the columns ``start``, ``end`` (ns) and ``globalPid`` of CUPTI_ACTIVITY_KIND_KERNEL or of
    CUPTI_ACTIVITY_KIND_GRAPH_TRACE; names (StringIds), PROCESSES and NVTX_EVENTS are used where they are. ``globalPid``
    is pid * 2**24; plain pids, in all rows, are taken as they are.

    Raises:
        RecordError: Not an SQLite file, truncated, without kernels, or beyond the limits of this module.
    """
    path = Path(path)
    with _translated(path), _open(path) as db:
        tables = _tables(db)
        plain = _has_plain_pids(db, tables)
        rows, skipped = _read_rows(db, tables, path, plain)
        if not len(rows):
            raise RecordError(f"{path} has no {_what_is_missing(db, tables, skipped)}")
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        processes, tenant = np.unique(rows[:, 2], return_inverse=True)
        if len(processes) > MAX_TENANTS:
            raise RecordError(f"{path} has kernels of {len(processes)} processes; at most {MAX_TENANTS} are analysed.")
        name_ids, name = np.unique(rows[:, 3], return_inverse=True)
        return Kernels(
            start_ns=rows[:, 0].copy(),
            end_ns=rows[:, 1].copy(),
            tenant=tenant.astype(np.int64),
            name=name.astype(np.int64),
            tenants=_tenants(db, tables, processes.tolist(), plain),
            names=_names(db, tables, name_ids.tolist()),
            skipped=skipped,
            notes=tuple(_reading_notes(db, tables, processes, plain, skipped)),
        )


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    _check_header(path)
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_ROW_BYTES)
        db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        db.text_factory = lambda data: data.decode("utf-8", "replace")
        calls = iter(range(_MAX_CALLS))
        db.set_progress_handler(lambda: next(calls, None) is None, _STEPS_PER_CALL)
        yield db


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if "interrupted" in str(error):
            raise RecordError(f"{path} is too large to analyse; export a shorter time range.") from error
        raise RecordError(f"{path} cannot be read as an nsys SQLite export: {error}.") from error
    except UnicodeDecodeError as error:  # sqlite3 cannot decode its own message about a damaged schema
        raise RecordError(f"{path} cannot be read as an nsys SQLite export: its schema is damaged.") from error


def _check_header(path: Path) -> None:
    """Refuse files that SQLite would report late or unclearly."""
    try:
        if not path.is_file():
            raise RecordError(f"{path} is not a file.")
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(100)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be opened: {error}.") from error
    if header[:16] != _SQLITE_MAGIC:
        raise RecordError(
            f"{path} is not an SQLite file. Make one from a report with: nsys export -t sqlite REPORT.nsys-rep"
        )
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    expected = page_size * int.from_bytes(header[28:32], "big") if header[24:28] == header[92:96] else 0
    if len(header) < 100 or size < expected:
        raise RecordError(f"{path} is truncated: {size} bytes of {max(expected, 100)}.")


def _tables(db: sqlite3.Connection) -> dict[str, frozenset[str]]:
    """Real tables of interest and their columns in lower case; views and virtual tables (rootpage 0) are left out."""
    wanted = (_KERNEL_TABLE, _GRAPH_TABLE, "StringIds", "PROCESSES", "NVTX_EVENTS")
    marks = ",".join("?" * len(wanted))
    found = db.execute(
        f"SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND name IN ({marks})",
        wanted,
    ).fetchall()
    return {
        name: frozenset(str(c).lower() for (c,) in db.execute("SELECT name FROM pragma_table_info(?)", (name,)))
        for (name,) in found
    }


def _what_is_missing(db: sqlite3.Connection, tables: dict[str, frozenset[str]], skipped: int) -> str:
    if skipped:
        what = _not_integers(db, tables)
        why = f"{what}; start, end (ns) and globalPid must be integers" if what else "end is before start"
        return f"usable GPU kernels: {skipped} rows, in which {why}."
    kernel_table = tables.keys() & {_KERNEL_TABLE, _GRAPH_TABLE}
    there = "the kernel table is empty" if kernel_table else f"no table {_KERNEL_TABLE}"
    return (
        f"GPU kernels ({there}). The traced programs must run CUDA kernels and be started as fresh interpreters "
        "(processes forked from a forkserver are not traced)."
    )


def _not_integers(db: sqlite3.Connection, tables: dict[str, frozenset[str]]) -> str:
    """Columns of the kernels with values that are no integers, and what they are: ``start is real``."""
    found = []
    for table in tables.keys() & {_KERNEL_TABLE, _GRAPH_TABLE}:
        for column in ("start", "end", "globalPid"):
            kinds = db.execute(f'SELECT DISTINCT typeof("{column}") FROM {table}')
            found += [f"{column} is {kind}" for (kind,) in kinds if kind != "integer"]
    return ", ".join(sorted(set(found)))


def _has_plain_pids(db: sqlite3.Connection, tables: dict[str, frozenset[str]]) -> bool:
    """Whether ``globalPid`` is a plain pid throughout: no row has one that nsys would have written."""
    values: list[int] = []
    for table in (_KERNEL_TABLE, _GRAPH_TABLE):
        if "globalpid" in tables.get(table, ()):
            query = f"SELECT min(globalPid), max(globalPid) FROM {table} WHERE typeof(globalPid) = 'integer'"
            values += [value for value in db.execute(query).fetchone() if value is not None]
    return bool(values) and min(values) >= 0 and max(values) < _NSYS_PID


def _process(column: str, plain: bool) -> str:
    """SQL for the process of a ``globalPid`` or ``globalTid``: the same for all of its threads."""
    shifted = f"{column} >> 24"
    return f"CASE WHEN {column} BETWEEN 0 AND {_NSYS_PID - 1} THEN {column} ELSE {shifted} END" if plain else shifted


def _reading_notes(
    db: sqlite3.Connection, tables: dict[str, frozenset[str]], processes: Int64, plain: bool, skipped: int
) -> Iterator[str]:
    if plain:
        yield f"globalPid is below {_NSYS_PID:#x} in all rows: taken as plain pids (nsys writes pid * {_NSYS_PID:#x})."
    if (processes & 0xFFFFFF == 0).any():
        yield f"pid 0 stands for all rows whose globalPid names no process (nsys writes pid * {_NSYS_PID:#x})."
    if skipped and (why := _not_integers(db, tables)):
        yield f"In rows that were left out {why}; only integers are read."


def _read_rows(db: sqlite3.Connection, tables: dict[str, frozenset[str]], path: Path, plain: bool) -> tuple[Int64, int]:
    """Rows (start, end, process, name id), int64 (n, 4), of both tables, and how many were unusable."""
    chunks: list[Int64] = []
    count = skipped = 0
    for table in (_KERNEL_TABLE, _GRAPH_TABLE):
        if table not in tables:
            continue
        missing = {"start", "end", "globalpid"} - tables[table]
        if missing:
            raise RecordError(f"{path}: table {table} lacks the columns {', '.join(sorted(missing))}.")
        process, name = _process("globalPid", plain), _name_expression(table, tables[table])
        query = (
            f'SELECT start, "end", {process}, {name} FROM {table} '
            "WHERE typeof(start) = 'integer' AND typeof(\"end\") = 'integer' AND typeof(globalPid) = 'integer' "
            'AND "end" >= start AND NOT (start = 0 AND "end" = 0) '
            f'AND start > -{_MAX_TIME_NS} AND "end" < {_MAX_TIME_NS} LIMIT {MAX_KERNELS + 1 - count}'
        )
        cursor = db.execute(query)
        before = count
        while part := cursor.fetchmany(100_000):
            chunks.append(np.array(part, dtype=np.int64))
            count += len(part)
        if count > MAX_KERNELS:
            raise RecordError(f"{path} has more than {MAX_KERNELS} kernels; export a shorter time range.")
        (total,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
        skipped += total - (count - before)
    return np.concatenate(chunks) if chunks else np.empty((0, 4), np.int64), skipped


def _name_expression(table: str, columns: frozenset[str]) -> str:
    """SQL for the id of a row's name; demangled before short, as two instances of a template are two kernels."""
    if table == _GRAPH_TABLE:
        return str(_GRAPH)
    for column in ("demangledName", "shortName"):
        if column.lower() in columns:
            return f"CASE WHEN typeof({column}) = 'integer' AND {column} >= 0 THEN {column} ELSE {_UNKNOWN} END"
    return str(_UNKNOWN)


def _names(db: sqlite3.Connection, tables: dict[str, frozenset[str]], ids: Sequence[int]) -> tuple[str, ...]:
    known: dict[int, str] = {_GRAPH: GRAPH_NAME, _UNKNOWN: "(no name)"}
    if {"id", "value"} <= tables.get("StringIds", frozenset()):
        for chunk in _chunks([i for i in ids if i >= 0][:_MAX_NAMES], 500):
            query = (
                f"SELECT id, substr(value, 1, {_NAME_CHARS}) FROM StringIds WHERE id IN ({','.join('?' * len(chunk))})"
            )
            known.update((i, printable(str(value))) for i, value in db.execute(query, chunk))
    return tuple(known.get(i, f"(name {i})") for i in ids)


def _tenants(
    db: sqlite3.Connection, tables: dict[str, frozenset[str]], keys: Sequence[int], plain: bool
) -> tuple[TracedTenant, ...]:
    processes: dict[int, str] = {}
    if {"globalpid", "name"} <= tables.get("PROCESSES", frozenset()):
        process = _process("globalPid", plain)
        query = f"SELECT {process}, substr(name, 1, 100) FROM PROCESSES WHERE name IS NOT NULL LIMIT 1000000"
        processes = {key: printable(str(name)) for key, name in db.execute(query)}
    ids, measured = _nvtx_tenants(db, tables, plain)
    return tuple(
        TracedTenant(
            pid=key & 0xFFFFFF,
            name="+".join(sorted(ids.get(key, ()))) or processes.get(key, ""),
            measured_ns=measured.get(key),
        )
        for key in keys
    )


def _nvtx_tenants(
    db: sqlite3.Connection, tables: dict[str, frozenset[str]], plain: bool
) -> tuple[dict[int, set[str]], dict[int, tuple[int, int]]]:
    """From NVTX ``tenant=<id>|...``: tenant ids by process, and the span of its ``phase=measure`` ranges."""
    columns = tables.get("NVTX_EVENTS", frozenset())
    if not {"start", "end", "globaltid"} <= columns or not columns & {"text", "textid"}:
        return {}, {}
    texts = [column for column in ("text", "textid") if column in columns]
    joined = "textid" in texts and {"id", "value"} <= tables.get("StringIds", frozenset())
    text = f"coalesce({'n.text' if 'text' in texts else 'NULL'}, {'s.value' if joined else 'NULL'})"
    process = _process("n.globalTid", plain)
    query = (
        f"SELECT key, substr(text, 8, instr(text || '|', '|') - 8) AS id, text LIKE '%|phase=measure%' AS measure, "
        f'min(start), max("end") FROM (SELECT {process} AS key, n.start, n."end", {text} AS text '
        f"FROM NVTX_EVENTS n {'LEFT JOIN StringIds s ON s.id = n.textId' if joined else ''}) "
        "WHERE text LIKE 'tenant=%' AND length(text) < 1000 AND typeof(key) = 'integer' GROUP BY 1, 2, 3 LIMIT 100000"
    )
    ids: dict[int, set[str]] = {}
    measured: dict[int, tuple[int, int]] = {}
    for key, tenant, measure, start, end in db.execute(query):
        ids.setdefault(key, set()).add(printable(str(tenant)))
        if measure and isinstance(start, int) and isinstance(end, int) and -_MAX_TIME_NS < start <= end < _MAX_TIME_NS:
            first, last = measured.get(key, (start, end))
            measured[key] = min(first, start), max(last, end)
    return ids, measured


def _chunks(items: list[int], size: int) -> Iterable[list[int]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def printable(text: str) -> str:
    """``text`` without control characters: names from a capture end on terminals and in HTML."""
    return "".join(c if c.isprintable() else "?" for c in text)

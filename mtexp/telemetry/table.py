"""The samples of one run: rows in memory while sampling, one Parquet file afterwards.

Lives here: :class:`Table` and the reader of its file. May touch: numpy, one file; pyarrow inside the functions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtexp.errors import RecordError

TIME = "monotonic_ns"
METADATA = b"mtexp.telemetry"
"""Key of the file's metadata that holds the notes as JSON."""


class Table:
    """Rows of samples in preallocated arrays; a value that was not sampled in a row is NaN.

    Args:
        columns: Column names of each group, as :meth:`mtexp.telemetry.probes.Probe.columns` has them.
        rows: Room at first; doubled when it is used up.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]], rows: int = 16_384) -> None:
        self._places: dict[str, slice] = {}
        self._names: list[str] = []
        for group, names in columns.items():
            self._places[group] = slice(len(self._names), len(self._names) + len(names))
            self._names += names
        self._times_ns = np.zeros(rows, dtype=np.int64)
        self._values = np.full((rows, len(self._names)), np.nan)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, time_ns: int, groups: Mapping[str, Sequence[float]]) -> None:
        """Add a row taken at ``time_ns`` with the values of ``groups``."""
        if self._count == len(self._times_ns):
            self._times_ns = np.concatenate([self._times_ns, np.zeros_like(self._times_ns)])
            self._values = np.concatenate([self._values, np.full_like(self._values, np.nan)])
        self._times_ns[self._count] = time_ns
        for group, values in groups.items():
            self._values[self._count, self._places[group]] = values
        self._count += 1

    def write(self, path: Path, notes: Mapping[str, Any]) -> None:
        """Write the rows aside and rename; columns without any value are left out, NaN becomes null.

        Raises:
            OSError: The file cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        values = self._values[: self._count]
        columns = {TIME: pa.array(self._times_ns[: self._count])}
        for place, name in enumerate(self._names):
            column = np.ascontiguousarray(values[:, place])
            missing = np.isnan(column)
            if not missing.all():
                columns[name] = pa.array(column, mask=missing)
        table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(notes).encode()})
        aside = path.with_name(f"{path.name}.part")
        pq.write_table(table, aside)
        os.replace(aside, path)


@dataclass(frozen=True, slots=True)
class Samples:
    """What a telemetry file holds."""

    times_ns: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]]
    """Column name to values, as long as ``times_ns``; NaN where not sampled."""
    notes: dict[str, Any]


def load(path: Path) -> Samples:
    """Read a file that :meth:`Table.write` wrote; one without notes is read too.

    Raises:
        RecordError: It cannot be read, or is not such a file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:  # not read_table: a path's name=value parts are no columns
            table = file.read()
        notes = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
        times_ns = table.column(TIME).cast(pa.int64()).to_numpy()
        columns = {
            name: table.column(name).cast(pa.float64()).to_numpy() for name in table.column_names if name != TIME
        }
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise RecordError(f"{path}: not a telemetry file: {error}") from error
    return Samples(times_ns, columns, notes)


def take_part(path: Path, names: Mapping[str, str], to: Path, spans: Sequence[tuple[int, int]] | None = None) -> None:
    """Write to ``to`` what a file has of the device, of the host, and of some of its tenants, under other names.

    Args:
        path: The file.
        names: By the name of a tenant in it, its name in ``to`` (``tenant_memory_mib/0:a+0:b`` becomes
            ``tenant_memory_mib/a+b``).
        to: The file to write.
        spans: Start and end of the times to keep, ascending, on the monotonic clock in ns; each with the samples just
            before and after it. None = all.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(path, partitioning=None)
    found = {}
    for name in table.column_names:
        key, _, tenants = name.partition("/")
        parts = tenants.split("+")
        if not tenants:
            found[name] = name
        elif all(part in names for part in parts):
            found[name] = f"{key}/{'+'.join(names[part] for part in parts)}"
    kept = table.select(list(found)).rename_columns(list(found.values()))
    if spans is not None:
        times_ns = table.column(TIME).to_numpy()
        mask = np.zeros(times_ns.size, dtype=bool)
        for start_ns, end_ns in spans:
            first, last = np.searchsorted(times_ns, [start_ns, end_ns])
            mask[max(0, first - 1) : last + 1] = True
        kept = kept.filter(mask)
    pq.write_table(kept, to)

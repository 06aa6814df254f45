"""Files of runs in MLflow: where they lie on this host, else downloaded; Parquet columns made of what a run is.

May touch: MLflow's artifacts (reading).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np

from mtexp.records.record import from_bytes
from mtexp.tracking.store import ARTIFACTS, Store
from mtexp.tracking.uri import sqlite_path

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities import Run


def constant(value: str, rows: int) -> pa.DictionaryArray:
    """A column that has ``value`` in every row."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), [value])


def artifact(store: Store, run: Run, name: str, scratch: Path) -> Path | None:
    """Return the path of a run's file: local if it is on this host, else downloaded; None if there is none."""
    parts = urlsplit(run.info.artifact_uri)
    if parts.scheme in ("", "file"):
        return _local(store, Path(unquote(parts.path)) / name)
    if name not in {artifact.path for artifact in store.client.list_artifacts(run.info.run_id)}:
        return None
    folder = scratch / run.info.run_id
    folder.mkdir(exist_ok=True)
    return Path(store.client.download_artifacts(run.info.run_id, name, str(folder)))


def _local(store: Store, path: Path) -> Path | None:
    """The file where MLflow says, or beside the store, where it is after both were moved; None if it is in neither."""
    if os.path.isfile(path):
        return path
    file = sqlite_path(store.uri)
    if file is None or ARTIFACTS not in path.parts:
        return None
    below = path.parts[len(path.parts) - path.parts[::-1].index(ARTIFACTS) :]
    beside = file.absolute().parent.joinpath(ARTIFACTS, *below)
    return beside if os.path.isfile(beside) else None


def blocks_table(path: Path) -> pa.Table:
    """The blocks of a ``record.json``: number, round, group, who was active (``a+b``), start, end, cores."""
    import pyarrow as pa

    blocks = from_bytes(path.read_bytes()).blocks
    numbers = ("block", "round", "group", "start_ns", "end_ns")
    columns = {name: pa.array([getattr(block, name) for block in blocks], pa.int64()) for name in numbers}
    columns["active"] = pa.array(["+".join(block.active) for block in blocks], pa.string())
    columns["cores"] = pa.array(["+".join(map(str, block.cores)) for block in blocks], pa.string())
    return pa.table(columns)

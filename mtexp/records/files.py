"""The files of a record: their names, how one is written whole or not at all, where records are.

Lives here: names, :func:`write_aside`, :func:`fresh`, :func:`find_records`. May touch: the folders of records.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mtexp.errors import RecordError

RECORD, ITERATIONS, TELEMETRY = "record.json", "iterations.parquet", "telemetry.parquet"
ENVIRONMENT, CONFIG = "environment.json", "config.yaml"
_COPIES = ("mlartifacts", "mlruns")
BEGUN = "begun.json"
EVENTS, STEADY = "events.jsonl", "steady"
"""For a churn run: its events, and folders of its steady tenant's processes (``steady-0`` ...) while it lives."""
BLOCKS = "blocks.jsonl"
"""Blocks of a crossover run while it lives (:mod:`mtexp.records.live_files`)."""


@contextmanager
def write_aside(path: Path) -> Iterator[IO[bytes]]:
    """Give a file that takes the place of ``path`` when the block ends well, and vanishes when it does not.

    Raises:
        RecordError: The directory cannot be written (full, read-only, not there).
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise RecordError(
            f"could not write {path}: {error.strerror or error}. Make room, or choose another place with hydra.run.dir"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def fresh(directory: Path) -> Path:
    """Return ``directory``; where a run has been in it or below, a new folder in it: ``run-2``, ``run-3`` ...

    So nothing that a run has left is ever written over, whether or not it is in MLflow.

    Raises:
        RecordError: The new folder cannot be made.
    """
    if not any(any(find_records(directory, name=name)) for name in (RECORD, BEGUN)):
        return directory
    number = 2
    while True:
        place = directory / f"run-{number}"
        try:
            place.mkdir()  # not for two runs at once
        except FileExistsError:
            number += 1
        except OSError as error:
            raise RecordError(f"could not make {place}: {error.strerror or error}") from error
        else:
            return place


def remove_leftovers(directory: Path) -> None:
    """Remove what only a run without a record needs: its buffers, its blocks, and the note that it has begun."""
    for path in directory.glob("*.bin"):
        path.unlink(missing_ok=True)
    for path in directory.glob(f"{STEADY}-*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in (BLOCKS, BEGUN):
        (directory / name).unlink(missing_ok=True)


def find_records(*folders: Path, name: str = RECORD) -> Iterator[Path]:
    """Yield every directory at or below ``folders`` that holds a ``record.json`` (``name``), in order of its path.

    Hidden folders and MLflow's artifacts, which are copies, are left out.
    """
    for folder in folders:
        for parent, names, files in os.walk(folder):
            names[:] = sorted(n for n in names if not n.startswith(".") and n not in _COPIES)
            if name in files:
                yield Path(parent)

"""What a run writes down as it happens, one line of JSON each, so that a run that is killed has it on disk.

These are the events of a churn run and the blocks of a crossover run. May touch: these two files of a record directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from mtexp.errors import RecordError
from mtexp.metrics.churn import Event
from mtexp.metrics.crossover import Block
from mtexp.records.validation import build, parse

_MAX_BYTES = 64 * 2**20
Row = TypeVar("Row", Event, Block)


def append(path: Path, rows: Iterable[Event | Block]) -> None:
    """Add ``rows`` to the file ``path``.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("a", encoding="ascii") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


def read_events(path: Path) -> tuple[Event, ...]:
    """All events of a churn run so far, each with what was seen of the steady tenant; see :func:`_read`."""
    return _read(path, Event)


def read_blocks(path: Path) -> tuple[Block, ...]:
    """All blocks of a crossover run so far, in the order in which they ended; see :func:`_read`."""
    blocks = _read(path, Block)
    if [block.block for block in blocks] != list(range(len(blocks))):
        raise RecordError(f"{path}: found blocks out of order, allowed: 0, 1, 2 ...")
    return blocks


def _read(path: Path, kind: type[Row]) -> tuple[Row, ...]:
    """All rows of a file, without a last line cut short; none where there is no file.

    Raises:
        RecordError: It is not such a file.
    """
    if not path.is_file() or path.is_symlink():
        return ()
    if path.stat().st_size > _MAX_BYTES:
        raise RecordError(f"{path}: more than {_MAX_BYTES} bytes")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return tuple(build(kind, parse(line), f"{path.name}:{number}") for number, line in enumerate(lines[:-1], 1))

"""The blocks of a crossover run while it lives: one line each, in the order in which they ended.

The record has them at its end; this file is for a run that is killed. May touch: that file of a record directory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mtexp.errors import RecordError
from mtexp.metrics.crossover import Block
from mtexp.records.validation import build, parse

_MAX_BLOCKS_BYTES = 64 * 2**20


def write_blocks(path: Path, blocks: Sequence[Block]) -> None:
    """Append ``blocks`` to a file of blocks, so that a run that is killed has them on disk.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("a", encoding="ascii") as file:
        file.writelines(json.dumps(asdict(block)) + "\n" for block in blocks)


def read_blocks(path: Path) -> list[Block]:
    """The blocks of a file that :func:`write_blocks` wrote, without a last line cut short; none where there is no file.

    Raises:
        RecordError: It is not such a file.
    """
    if not path.is_file() or path.is_symlink():
        return []
    if path.stat().st_size > _MAX_BLOCKS_BYTES:
        raise RecordError(f"{path}: more than {_MAX_BLOCKS_BYTES} bytes")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    blocks = [build(Block, parse(line), f"{path.name}:{number}") for number, line in enumerate(lines[:-1], 1)]
    if [block.block for block in blocks] != list(range(len(blocks))):
        raise RecordError(f"{path}: found blocks out of order, allowed: 0, 1, 2 ...")
    return blocks

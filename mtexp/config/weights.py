"""Whether a file holds whole weights, before a run is planned with it. May touch: the file, its head only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_POINTER = b"version https://git-lfs"
_MOST_HEADER = 100 * 2**20
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


def not_safetensors(file: Path) -> str:
    """Return what is wrong with a .safetensors file, empty where nothing is.

    A file has the length of its JSON header (8 bytes, little endian), the header, and the tensors at the offsets that
    the header names (https://github.com/huggingface/safetensors).
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            head = opened.read(len(_POINTER))
            if head == _POINTER:
                return "is a pointer of Git LFS: fetch the weights with `git lfs pull`"
            length = int.from_bytes(head[:8], "little")
            if len(head) < 8 or not 2 <= length <= min(size - 8, _MOST_HEADER):
                return "is no safetensors file, or was cut off: fetch it again"
        header = _header(file)
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        missing = 8 + length + max(ends, default=0) - size
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        return f"cannot be read as safetensors ({type(error).__name__}): fetch it again"
    return f"was cut off, {missing} bytes are missing: fetch it again" if missing > 0 else ""


def layers_in(files: Iterable[Path]) -> int:
    """Return how many layers whole safetensors files have, by the first number in the names of their tensors."""
    found = (_LAYER.search(name) for file in files for name in _header(file))
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        header: dict[str, Any] = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return header

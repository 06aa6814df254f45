"""What a run needs only until its record is complete: sample buffers and the note that it has begun.

May touch: those files of a record directory.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mtexp.tenant.buffers import SampleBuffer

BEGUN = "begun.json"


def remove_leftovers(directory: Path) -> None:
    """Remove what only a run without a record needs: its buffers, and the note that it has begun."""
    for path in directory.glob("*.bin"):
        path.unlink(missing_ok=True)
    (directory / BEGUN).unlink(missing_ok=True)


def release_unused_room(directory: Path) -> bool:
    """Give up the room of the buffers that holds no sample; whether there are any buffers."""
    paths = list(directory.glob("samples-*.bin"))
    for path in paths:
        with suppress(OSError, ValueError):  # no buffer, or a file system without holes: then there is no more room
            SampleBuffer(path).release_unused()
    return bool(paths)

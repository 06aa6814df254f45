"""A record written where there may be no room. Lives here: :func:`save_in_room`.

May touch: the sample buffers of a record directory, and what :mod:`mtexp.records.record` may.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mtexp.errors import RecordError
from mtexp.metrics.samples import Samples
from mtexp.records.record import RunRecord, save
from mtexp.tenant.buffers import SampleBuffer


def save_in_room(
    record: RunRecord, directory: Path, samples: Mapping[str, Samples], *, config: str = "", final: bool = True
) -> RunRecord:
    """:func:`mtexp.records.record.save`; on a full disk once more, with the room that the sample buffers do not use.

    The buffers take room for as many samples as may be measured, mostly more than were. If their unused room is not
    enough they stay as they are, for :mod:`mtexp.records.salvage` to read.

    Raises:
        RecordError: The directory cannot be written.
    """
    try:
        return save(record, directory, samples, config=config, final=final)
    except RecordError as error:
        if not _release_unused_room(directory):
            raise
        try:
            return save(record, directory, samples, config=config, final=final)
        except RecordError:
            later = f"The samples are kept in {directory}/*.bin: python -m mtexp.tracking.upload makes a record of them"
            raise RecordError(f"{error}. {later}") from error


def _release_unused_room(directory: Path) -> bool:
    """Give up the room of the buffers that holds no sample; whether there are any buffers."""
    paths = list(directory.glob("samples-*.bin"))
    for path in paths:
        with suppress(OSError, ValueError):  # no buffer, or a file system without holes: then there is no more room
            SampleBuffer(path).release_unused()
    return bool(paths)

"""Events of a churn run, as they happen: one line of JSON each, whatever becomes of the run. May touch: that file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from mtexp.metrics.churn import Event
from mtexp.records.files import EVENTS
from mtexp.records.validation import build, parse


def append_event(directory: Path, event: Event) -> None:
    """Add ``event``, with what was seen of the steady tenant so far.

    Raises:
        OSError: The file cannot be written.
    """
    with (directory / EVENTS).open("a", encoding="ascii") as file:
        file.write(json.dumps(asdict(event)) + "\n")


def read_events(directory: Path) -> tuple[Event, ...]:
    """All events of a run so far, without a last line cut short; none where there is no file.

    Raises:
        RecordError: It is not such a file.
    """
    path = directory / EVENTS
    if not path.is_file() or path.is_symlink():
        return ()
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return tuple(build(Event, parse(line), f"{path.name}:{number}") for number, line in enumerate(lines[:-1], 1))

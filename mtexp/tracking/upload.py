"""Records that are not in MLflow yet, sent: ``python -m mtexp.tracking.upload DIR...``.

Lives here: :func:`log_or_defer`, which a run calls, and the command for what could not be sent then. May touch: MLflow,
the marker ``upload.pending`` in a record directory (not sent yet). Sending a record twice is sending it once.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mtexp.commands import command_line
from mtexp.errors import MtexpError, RecordError, TrackingError
from mtexp.output import check_interrupt, enter, say
from mtexp.records.files import RECORD, find_records, write_aside
from mtexp.records.record import load
from mtexp.records.salvage import is_running, salvage
from mtexp.spec import TrackingSpec
from mtexp.tracking.mlflow_writer import log_record
from mtexp.tracking.reach import ask_store
from mtexp.tracking.store import Step, check_store
from mtexp.tracking.uri import option, redact, resolve_uri

log = logging.getLogger(__name__)

PENDING = "upload.pending"


@dataclass(frozen=True, slots=True)
class Upload:
    """What became of one record."""

    directory: Path
    run_id: str = ""
    """Its MLflow run; empty when it could not be sent, or was not to be."""
    reason: str = ""
    """Why it could not be sent, and what to do; empty when it was, or was not to be (``tracking=none``)."""

    def __str__(self) -> str:
        return f"{self.directory}: " + (f"in MLflow, run {self.run_id}" if self.run_id else f"NOT sent: {self.reason}")


def mark_pending(record_dir: Path) -> None:
    """Leave the marker of a record that is to be sent: whatever happens from here on, it is known what is missing."""
    with suppress(RecordError):  # a disk that is full keeps nothing from MLflow
        _mark(record_dir / PENDING, "not sent yet")


def log_or_defer(record_dir: Path, tracking: TrackingSpec, step: Step = nullcontext) -> Upload:
    """Send a record; one that MLflow does not take can be sent later, and its marker, if it has one, gets the reason.

    A record without a marker is in a store already, or was not to be sent to one: a failure here does not change that.
    ``step`` is entered for each piece of the work (:func:`mtexp.tracking.mlflow_writer.log_record`).
    With ``tracking=none`` nothing is sent.
    """
    if not tracking.enabled:
        return Upload(record_dir)
    try:
        run_id = log_record(record_dir, tracking, step)
        with suppress(OSError):  # another user's folder, or a read-only one: its owner finds it sent
            (record_dir / PENDING).unlink(missing_ok=True)
    except (MtexpError, OSError) as error:
        return deferred(record_dir, tracking, redact(str(error)))
    except Exception as error:  # one record never keeps the others from being sent
        log.debug("%s was not sent", record_dir, exc_info=True)
        return deferred(record_dir, tracking, redact(f"{type(error).__name__}: {error} (please report it)"))
    return Upload(record_dir, run_id)


def deferred(record_dir: Path, tracking: TrackingSpec, reason: str) -> Upload:
    """What became of a record that was not sent; its marker, if it has one, gets the reason."""
    marker = record_dir / PENDING
    with suppress(MtexpError):  # a directory that cannot be written is the reason already
        if marker.is_file():
            _mark(marker, reason)
    later = f"{command_line('upload')} {shlex.quote(str(record_dir))}{option(tracking)}"
    return Upload(record_dir, reason=f"{reason.rstrip('.')}. Later: {later}")


def _mark(marker: Path, text: str) -> None:
    with write_aside(marker) as file:
        file.write(f"{text}\n".encode())


def pending(*folders: Path) -> Iterator[Path]:
    """Yield the record directories at or below ``folders`` whose sending has begun and not succeeded."""
    return (directory for directory in find_records(*folders) if (directory / PENDING).is_file())


def upload(folders: Sequence[Path], *, uri: str = "", experiment: str = "") -> Iterator[Upload]:
    """Send every record at or below ``folders``; those that are in MLflow stay as they are there.

    A folder in which a run is under way is left alone: it sends its record itself.

    Args:
        folders: Where to look for records.
        uri: The store; empty = MLFLOW_TRACKING_URI, else ``mlflow.db`` in the current directory. What a record says
            is not used: a record from elsewhere does not choose where its data go.
        experiment: MLflow experiment; empty = the one each record names.
    """
    for directory in find_records(*folders):
        if is_running(directory):
            continue
        try:
            tracking = load(directory).run_spec.tracking
        except RecordError as error:
            yield Upload(directory, reason=str(error))
            continue
        except Exception as error:  # noqa: BLE001  one record never keeps the others from being sent
            yield Upload(directory, reason=f"{type(error).__name__}: {error} (please report it)")
            continue
        tracking = replace(tracking, enabled=True, uri=uri, experiment=experiment or tracking.experiment)
        yield log_or_defer(directory, tracking)


def main(arguments: Sequence[str] | None = None) -> int:
    """Send records and say what became of each; runs that were killed get one first (:mod:`mtexp.records.salvage`).

    The exit code is 1 if one could not be sent, 2 if there was none or no such store can be, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog=command_line("upload"), description=(__doc__ or "").partition(":")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="searched for record.json")
    parser.add_argument("--uri", default="", help="default: MLFLOW_TRACKING_URI, else mlflow.db here")
    parser.add_argument("--experiment", default="", help="default: the one each record names")
    parser.add_argument("--ended", action="store_true", help="runs of other hosts without a record were killed")
    options = parser.parse_args(arguments)
    folders = [path.parent if path.name == RECORD else path for path in options.folders]
    try:
        tracking = TrackingSpec(uri=options.uri, experiment=options.experiment or TrackingSpec().experiment)
        check_store(tracking)
        ask_store(tracking, "Nothing was sent; the same command sends the records later")
        return _send_all(folders, uri=options.uri, experiment=options.experiment, ended=options.ended)
    except TrackingError as error:
        say(f"{error}\n", error=True)
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted: the same command sends what is missing\n")
        return 130


def _send_all(folders: Sequence[Path], *, uri: str, experiment: str, ended: bool) -> int:
    found = []
    for folder in salvage(*folders, ended=ended):
        sys.stdout.write(f"{folder}\n")
        if folder.made:
            mark_pending(folder.directory)
        found.append(folder)
        check_interrupt()
    uploads = []
    for result in upload(folders, uri=uri, experiment=experiment):
        sys.stdout.write(f"{result}\n")
        uploads.append(result)
        check_interrupt()
    if not uploads and not found:
        sys.stderr.write(f"no {RECORD} at or below {', '.join(map(str, folders))}\n")
        return 2
    failed = sum(1 for result in uploads if not result.run_id)
    there = resolve_uri(TrackingSpec(uri=uri))
    sys.stdout.write(f"{len(uploads) - failed} of {len(uploads)} records are in MLflow at {there}\n")
    return 1 if failed or not all(folder.ok for folder in found) else 0


if __name__ == "__main__":
    sys.exit(enter(main))

"""What sweeps a store holds: ``mtexp sweeps``, and how to rename or delete one. May touch: MLflow.

Deleting marks the runs of a sweep as deleted, as MLflow's UI does: they can be restored until ``mlflow gc`` removes
them and their artifacts. Records in the output folders of runs stay where they are.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mtexp.commands import command_line
from mtexp.errors import TrackingError
from mtexp.output import enter, say
from mtexp.records import keys
from mtexp.spec import SWEEP_NAME, TrackingSpec
from mtexp.text_tables import GAP, counted, fitting, plain_table
from mtexp.tracking.query import search
from mtexp.tracking.store import Store, open_store

_PARENT = "mlflow.parentRunId"


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep in a store."""

    name: str
    began_ms: int
    kinds: dict[str, int]
    """How many runs of each kind (mix, baseline, profile); tenants are not counted."""
    invalid: int
    artifacts_bytes: int
    """Size of the artifact folders on this host; 0 for a server's."""
    run_ids: tuple[str, ...]
    """MLflow ids of runs and of their tenants."""

    @property
    def mib(self) -> float:
        """Disk use of its artifacts."""
        return self.artifacts_bytes / 2**20


def sweeps(store: Store) -> list[Sweep]:
    """Every sweep of the experiment, the newest first."""
    by_name: dict[str, list] = {}  # type: ignore[type-arg]
    for run in search(store, f"tags.`{keys.SWEEP}` != ''"):
        by_name.setdefault(run.data.tags[keys.SWEEP], []).append(run)
    found = []
    for name, runs in by_name.items():
        parents = [run for run in runs if _PARENT not in run.data.tags]
        kinds = Counter(run.data.tags.get(keys.KIND, "other") for run in parents)
        invalid = sum(run.data.tags.get(keys.VERDICT) == "INVALID" for run in parents)
        size = sum(_bytes(run.info.artifact_uri) for run in runs)
        began_ms = min(run.info.start_time or 0 for run in runs)
        found.append(Sweep(name, began_ms, dict(kinds), invalid, size, tuple(run.info.run_id for run in runs)))
    return sorted(found, key=lambda sweep: -sweep.began_ms)


def _bytes(uri: str) -> int:
    """Size of the files of an artifact folder on this host."""
    parts = urlsplit(uri)
    folder = Path(unquote(parts.path))
    if parts.scheme not in ("", "file") or not os.path.isdir(folder):
        return 0
    return sum(path.lstat().st_size for path in folder.rglob("*") if os.path.isfile(path) and not path.is_symlink())


def _table(found: Sequence[Sweep]) -> str:
    rows = [
        {
            "sweep": own.name,
            "began": f"{datetime.fromtimestamp(own.began_ms / 1000):%Y-%m-%d %H:%M}",
            "mixes": str(own.kinds.get("mix", 0)),
            "baselines": str(own.kinds.get("baseline", 0)),
            "invalid": str(own.invalid),
            "MiB": f"{own.mib:.1f}",
        }
        for own in found
    ]
    if sys.stdout.isatty():
        rows = fitting(rows, shutil.get_terminal_size().columns, ("baselines", "began", "mixes"), GAP)
    return plain_table(rows, ("mixes", "baselines", "invalid", "MiB"))


def main(arguments: Sequence[str] | None = None) -> int:
    """List, rename or delete; exit code 2 when there is no such sweep, 1 when the user said no."""
    parser = argparse.ArgumentParser(prog=command_line("sweeps"), description="The sweeps of a store.")
    parser.add_argument("--uri", default="", help="default: MLFLOW_TRACKING_URI, else mlflow.db here")
    parser.add_argument("--experiment", default="mtexp")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("list", help="name, runs, INVALID runs and disk use of each (the default)")
    remove = commands.add_parser("delete", help="mark the runs of a sweep as deleted; records on disk stay")
    remove.add_argument("name")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    other = commands.add_parser("rename", help="give a sweep another name in the store")
    other.add_argument("name")
    other.add_argument("new")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except TrackingError as error:
        say(f"{error}\n", error=True)
        return 2


def _run(options: argparse.Namespace) -> int:
    writes = options.command in ("delete", "rename")
    tracking = TrackingSpec(uri=options.uri, experiment=options.experiment)
    with open_store(tracking, write=False):
        pass  # a store that is not there is not made by asking to change it
    with open_store(tracking, write=writes) as store:
        found = sweeps(store)
        if not writes:
            sys.stdout.write(f"{_table(found)}\n" if found else "No sweeps.\n")
            return 0
        names = [sweep.name for sweep in found]
        if options.name not in names:
            raise TrackingError(f"no sweep {options.name}; there are: {', '.join(names) or 'none'}")
        sweep = found[names.index(options.name)]
        return (
            _delete(store, sweep, ask=not options.yes)
            if options.command == "delete"
            else _rename(store, sweep, options.new, names)
        )


def _delete(store: Store, sweep: Sweep, *, ask: bool) -> int:
    what = f"{sweep.name}: {counted(sum(sweep.kinds.values()), 'run')}, {sweep.mib:.1f} MiB of artifacts"
    if ask:
        if not sys.stdin.isatty():
            raise TrackingError(f"{what}: cannot ask without a terminal; add --yes to delete it")
        sys.stdout.write(f"Delete {what}? [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            sys.stdout.write("Nothing was deleted.\n")
            return 1
    for run_id in sweep.run_ids:
        with store.step():
            store.client.delete_run(run_id)
    sys.stdout.write(f"Deleted {what}. mlflow gc frees the disk; until then the UI can restore the runs.\n")
    return 0


def _rename(store: Store, sweep: Sweep, new: str, names: Sequence[str]) -> int:
    if not SWEEP_NAME.fullmatch(new):
        raise TrackingError(f"rename to {new}: allowed: letters, digits, . _ and -, e.g. pairs-a100")
    if new in names:
        raise TrackingError(f"rename to {new}: there is a sweep of that name; choose another")
    for run_id in sweep.run_ids:
        with store.step():
            store.client.set_tag(run_id, keys.SWEEP, new)
    sys.stdout.write(f"{sweep.name} is now {new} in the store. Folders keep their names.\n")
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))

"""The end of a command: what became of its points, what is missing, where the runs are. May touch: stdout, records."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mtexp.commands import command_line
from mtexp.config.plan import Plan
from mtexp.config.swept import label, swept
from mtexp.records.files import find_records
from mtexp.signals import cause, ended_by
from mtexp.terminal import console
from mtexp.text_tables import ABSENT, counted

JOB = "job.json"
"""Result of a point, in its folder."""
POINTS = "points.json"
"""What differs between the points of a sweep, in the order in which they run; in the folder of the sweep."""
_OWN_COLUMN = {"mix", "precision", "mps_settings", "sharing", "repetition"}
"""Keys that the summary shows in columns of its own."""


def write_points(planned: Plan) -> None:
    """Write what differs between the points where every launcher's workers find it; without it they do not say it."""
    own = swept([point.overrides for point in planned.points])
    with suppress(OSError):
        (planned.folder / POINTS).write_text(json.dumps([own[n] for n in planned.order or range(len(own))]))


def announce_point(folder: Path, position: int) -> dict[str, str]:
    """Print which point of the sweep in ``folder`` begins, where that is known, and return what distinguishes it."""
    try:
        points = json.loads((folder / POINTS).read_text(encoding="utf-8"))
        own: dict[str, str] = points[position]
    except (OSError, ValueError, LookupError):  # a folder of another host, a sweeper that chooses as it goes
        return {}
    console.begin_point(position + 1, len(points), label(own))
    return own


def jobs_below(folder: Path) -> list[dict[str, Any]]:
    """What became of the points below ``folder``, in the order of the sweep."""
    jobs: list[dict[str, Any]] = []
    for point in find_records(folder, name=JOB):
        with suppress(ValueError):  # cut off by a full disk: counts as not run
            jobs.append(json.loads((point / JOB).read_text(encoding="utf-8")))
    return sorted(jobs, key=lambda job: int(job["num"]))


def unsent_below(folder: Path) -> int:
    """Records below ``folder`` that MLflow has not taken, also of points that were interrupted or skipped."""
    from mtexp.tracking.upload import pending

    return sum(1 for _ in pending(folder))


def with_swept_keys(planned: Plan, jobs: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of the summary, with the swept keys that it has no column for behind the mix."""
    points = swept([point.overrides for point in planned.points])
    names = [name for name in dict.fromkeys(name for own in points for name in own) if name not in _OWN_COLUMN]
    rows = []
    for job in jobs:
        own = points[job["num"]] if job["num"] < len(points) else {}
        rows.append({"mix": job["row"]["mix"], **{name: own.get(name, ABSENT) for name in names}, **job["row"]})
    return rows


def sum_up(planned: Plan, jobs: Sequence[dict[str, Any]]) -> None:
    """Print a row for each run of the sweep, then its repetitions put together, where it has some."""
    rows = with_swept_keys(planned, jobs)
    console.say("")
    console.summary(rows)
    if len({point.spec.repetition for point in planned.points}) == 1:
        return
    from mtexp.terminal.repetitions import together  # pandas: not where nothing was repeated

    pooled = together({str(job["record_id"]): row for job, row in zip(jobs, rows, strict=True)}, planned.folder)
    if pooled:
        console.say("\nRepetitions together ([ ] hold 95 % over runs, as in the report):")
        console.summary(pooled)


def _resume_command(planned: Plan, arguments: Sequence[str]) -> str:
    """The command that runs the points of a sweep that have no result."""
    own = [text for text in arguments if text.partition("=")[0].lstrip("+") not in ("sweep", "resume")]
    return " ".join([command_line("run"), *map(shlex.quote, own), f"sweep={planned.sweep}", "resume=true"])


def conclude(
    planned: Plan, jobs: Sequence[dict[str, Any]], expected: int, unsent: int, arguments: Sequence[str]
) -> None:
    """Print what is missing, how to run it, where the runs are and how to look at them."""
    from mtexp.tracking.uri import option, resolve_uri, sqlite_path

    failed = sum(job["status"] == "FAILED" for job in jobs)
    missing = expected - len(jobs)
    why = cause(ended_by())
    if failed or missing:
        said = f": interrupted by {why}" if why else ""
        console.say(f"{failed} of {counted(expected, 'run')} failed, {missing} did not run{said}")
    elif why:
        console.say(f"Interrupted by {why}")
    if planned.multirun and (failed or missing or (planned.search and why)):  # a search does not know how many it runs
        console.say(f"To run what is missing:\n{_resume_command(planned, arguments)}")
    tracking = planned.points[0].spec.tracking
    if not tracking.enabled:
        report = f"{command_line('report')} --records {shlex.quote(str(planned.folder))}"
        console.say(f"Runs are in {planned.folder} (tracking=none). To look at them:\n{report}")
        return
    uri = resolve_uri(tracking)
    if unsent:
        command = f"{command_line('upload')} {shlex.quote(str(planned.folder))}{option(tracking)}"
        what = "1 record is" if unsent == 1 else f"{unsent} records are"
        console.say(f"{what} not in MLflow. To send {'it' if unsent == 1 else 'them'}:\n{command}")
    if sqlite_path(uri) is None:
        where = f" MLflow at {uri}"
    elif not tracking.uri and Path("Makefile").is_file() and sqlite_path(uri) == Path.cwd() / "mlflow.db":
        where = " make ui"
    else:
        where = f"\n{command_line('ui')} --uri {shlex.quote(uri)}"
    console.say(f"Runs are in {planned.folder}. To look at them:{where}")

"""The points of a sweep as the command line runs them: one by one, or several side by side.

Hydra brings them one at a time (:mod:`mtexp.terminal.cli`). One that is measured beside others waits for the last of
them. May touch: the runner, stdout, ``job.json`` in the folder of a point.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtexp.config.convert import to_spec
from mtexp.config.hardware import Hardware, probe
from mtexp.config.schema import Config, SideBySide
from mtexp.errors import interrupted
from mtexp.output import say
from mtexp.running.sessions import Waiting
from mtexp.spec import RunSpec, TrackingSpec, spec_hash, to_json
from mtexp.terminal import console
from mtexp.terminal.conclusion import JOB
from mtexp.terminal.side_by_side import side_by_side_lines
from mtexp.text_tables import counted

if TYPE_CHECKING:
    from mtexp.running.runner import Job
    from mtexp.tracking.background import Uploads
    from mtexp.tracking.ledger import Done


_QUIET_S = 2.0
"""Sending that takes no longer needs no line."""


@dataclass
class Point:
    """One point of the sweep, and what became of it."""

    number: int
    folder: Path
    outcome: dict[str, Any]
    job: Job | None = None
    verbose: bool = False


@dataclass(frozen=True)
class Place:
    """Where a point stands in its sweep."""

    index: int
    """In the written order."""
    position: int
    """In the order in which points run."""
    number: int
    """That its folder shows."""
    swept: dict[str, str]
    """What distinguishes it."""
    folder: Path
    sweep_folder: Path
    spread: bool
    """The points of the sweep run in several processes."""


@dataclass
class Sweep:
    """The sweep of this process: which points wait for others."""

    waiting: Waiting[Point] = field(default_factory=Waiting)
    separate: dict[int, str] = field(default_factory=dict)
    order: tuple[int, ...] = ()

    def turn(self, index: int, point: Point | None) -> list[Point]:
        """Points to be measured now that this one has had its turn; None = it is not to be measured."""
        runs = self.waiting.turn(index, point)
        if len(runs) == 1 and self.waiting.shares_session(index) and runs[0].job is not None:
            runs[0].job = replace(runs[0].job, separate="the others had been measured before (resume=true)")
        return runs


SWEEP = Sweep()


@cache
def hardware() -> Hardware:
    """The devices of this host, looked for once."""
    return probe()


def ready(config: Config, config_yaml: str, place: Place) -> Point:
    """A point whose turn has come; without a job where it was done before."""
    from mtexp.running.runner import Job

    spec = to_spec(config, hardware())
    if config.resume:
        before = done_before(spec.tracking, spec.runtime, spec.device, config.rerun_invalid, place.sweep_folder)
        if (done := before.get(spec_hash(spec))) is not None:
            console.phase(f"{spec.mix}: done before, skipped (resume=true)")
            return Point(place.number, place.folder, skipped(spec, done))
    in_turns = spec.measure.design == "crossover" and config.side_by_side is SideBySide.auto
    spread = "the launcher spreads the points of a sweep" if place.spread and in_turns else ""
    job = Job(
        spec=spec,
        folder=place.folder,
        config=config_yaml,
        sweep=config.sweep,
        position=place.position,
        swept=place.swept,
        retries=config.retries,
        progress=console.phase,
        status=console.status if console.has_live_line() else None,
        separate=SWEEP.separate.get(place.index, "") or spread,
        required=config.side_by_side is SideBySide.require,
    )
    return Point(place.number, place.folder, _outcome({"spec": to_json(spec), "status": "FAILED"}), job, config.verbose)


def run(points: Sequence[Point], *, waits: bool) -> None:
    """Run a point, or several side by side; none while the point whose turn it is ``waits`` for the others."""
    from mtexp.running.measurement import shared_by
    from mtexp.running.runner import shared_runner

    if waits:
        console.phase("waits, to be measured side by side with the others of its session")
    jobs = [point.job for point in points if point.job is not None]
    if not jobs:
        return
    runner = shared_runner()
    try:
        records = [runner.run(jobs[0])] if len(jobs) == 1 else runner.run_side_by_side(jobs)
    except KeyboardInterrupt as stop:
        console.say(f"FAILED: {interrupted(stop)}")
        raise
    for point, record in zip(points, records, strict=True):
        data = to_json(record)
        if len(jobs) > 1:
            console.say(f"{record.run_spec.mix}, {shared_by(record.run_spec)}")
        console.results(data, verbose=point.verbose)
        point.outcome = _outcome(data)
    for line in side_by_side_lines(records):
        console.say(line)
    points[0].outcome["unsent"] = report_failed_uploads()


def write_outcome(folder: Path, outcome: dict[str, Any]) -> None:
    """Leave what became of a point in its folder; a point without counts as not run."""
    try:
        (folder / JOB).write_text(json.dumps(outcome), encoding="utf-8")
    except OSError as error:
        say(f"{folder / JOB} cannot be written: {error}\n", error=True)


def skipped(spec: RunSpec, done: Done) -> dict[str, Any]:
    """What became of a point that was measured before."""
    return _outcome({"spec": to_json(spec), "status": "SKIPPED", **done._asdict()})


def _outcome(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``job.json``, from a record or from what is known of a point without one."""
    row = console.sweep_row(record)
    return {"status": record["status"], "unsent": 0, "row": row, "record_id": record.get("record_id", "")}


def report_failed_uploads() -> int:
    """Print uploads that have failed since the last call; return their number."""
    unsent = [upload for upload in uploads().results() if upload.reason]
    for upload in unsent:
        console.say(str(upload))
    return len(unsent)


def drain() -> None:
    """Wait until the last records are sent. Ctrl-C skips the wait; unsent records stay on disk."""
    sent = uploads()
    try:
        if not sent.sent_within(_QUIET_S) and sent.left:
            console.phase(f"tracking: sending {counted(sent.left, 'record')}; Ctrl-C leaves the rest for later")
        sent.drain()
    except KeyboardInterrupt:
        sent.abandon()
        raise


def uploads() -> Uploads:
    """Those of this process."""
    from mtexp.running.runner import shared_runner  # pandas and more: not for a refusal

    return shared_runner().uploads


@cache
def done_before(tracking: TrackingSpec, runtime: str, uuid: str, rerun_invalid: bool, folder: Path) -> dict[str, Done]:
    """By spec hash, what has been measured already on this device; asked once, the points of a sweep differ.

    Where none is named, any GPU like one of these would do: so it was when they were measured.
    """
    from mtexp.host import environment
    from mtexp.telemetry import chosen, facts
    from mtexp.tracking.ledger import finished

    known = [environment(hardware().cpu)]
    if runtime == "gpu":
        devices = {device.name: device for device in chosen(hardware().gpus, uuid)}
        known = [environment(device) | facts(device.uuid) for device in devices.values()]
    done: dict[str, Done] = {}
    for found in known:
        if not uuid:
            found.pop("gpu_uuid", None)
        done |= finished(tracking, found, folder=folder, redo_invalid=rerun_invalid)
    return done

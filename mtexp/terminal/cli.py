"""The command line: plan, refuse or run, sum up. May touch: config, runner, console; Hydra through ``hydra.main``.

A command line is planned first (:mod:`mtexp.config.plan`): every point checked before anything exists. Then Hydra runs
the points with the launcher chosen; each leaves ``job.json`` in its folder, so that the summary and the exit code are
the same whether it ran here, in another process or on another host.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtexp.config.composer import (
    CONF_DIR,
    CONFIG_NAME,
    VERSION_BASE,
    composer_of,
    name_mix,
    parse_command_line,
    set_up,
    to_config,
    to_yaml,
    trust_plan,
    with_tokens,
)
from mtexp.config.convert import to_spec
from mtexp.config.hardware import Hardware, probe
from mtexp.config.plan import Plan, plan
from mtexp.config.schema import Config
from mtexp.errors import MtexpError
from mtexp.output import protect
from mtexp.records.files import find_records
from mtexp.run import capacity_search
from mtexp.spec import RunSpec, TrackingSpec, spec_hash, to_json
from mtexp.terminal import console
from mtexp.terminal.conclusion import (
    JOB,
    announce_point,
    conclude,
    jobs_below,
    leave_points,
    unsent_below,
    with_swept_keys,
)
from mtexp.terminal.estimate import estimate
from mtexp.terminal.place import can_write, cannot_write
from mtexp.terminal.signals import Ended, check, ended_by, signals_as_ctrl_c
from mtexp.terminal.tables import counted
from mtexp.tracking.reach import ask_store

if TYPE_CHECKING:
    from mtexp.tracking.background import Uploads

OK, FAILED, REFUSED = 0, 1, 2
"""Exit codes; ended by a signal it is 128 and the signal's number."""

RUNS_APART = 8
"""Minimum number of runs for which a separate upload process pays off."""
_HYDRA_FULL_ERROR = "HYDRA_FULL_ERROR"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0 all finished and tracked, 1 a run failed or is not in MLflow, 2 refused, 130 interrupted, 143 ended by SIGTERM.
    """
    with signals_as_ctrl_c():
        try:
            return _main(argv)
        except KeyboardInterrupt as stop:  # before the runs or after them
            return _interrupted(stop)
        except Exception:
            if ended_by():  # a signal in the middle of something that did not expect one
                return 128 + ended_by()
            raise


def _interrupted(stop: KeyboardInterrupt) -> int:
    """Return the exit code: 130 after Ctrl-C, 128 and its number after another signal."""
    return 128 + (stop.signum if isinstance(stop, Ended) else signal.SIGINT)


def _main(argv: Sequence[str] | None) -> int:
    protect()
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parse_command_line(arguments)
    if args.help:
        console.say(composer_of(args).help())
        return OK
    if args.hydra_help or args.cfg or args.info or args.shell_completion:
        return _hydra(with_tokens(arguments))
    try:
        planned = plan(arguments, hardware=_hardware, ask=ask_store)
    except MtexpError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    if planned.dry_run:
        _announce(planned)
        console.say("dry_run=true: nothing was started or written.")
        return OK
    if not can_write(planned.folder):
        return REFUSED
    for point in find_records(planned.folder, name=JOB):  # left by the part of a sweep that is resumed now
        (point / JOB).unlink()
    _announce(planned)
    _prepare(planned)
    trust_plan()
    code = _launched(planned)
    late = _say_unsent()
    jobs = jobs_below(planned.folder)
    expected = len(jobs) if planned.search else len(planned.points)
    if planned.search:
        ended = _capacities(planned.folder)
        code = code or ended
    elif planned.multirun:
        console.say("")
        console.summary(with_swept_keys(planned, jobs))
    unsent = max(sum(job["unsent"] for job in jobs) + late, unsent_below(planned.folder))
    conclude(planned, jobs, expected, unsent, arguments)
    done = sum(job["status"] != "FAILED" for job in jobs)
    return code or (OK if done == expected and not unsent else FAILED)


def _launched(planned: Plan) -> int:
    """Let Hydra run the points, then send every record; returns the exit code so far."""
    known = len(planned.points) if not planned.search else 0
    if planned.multirun and known:
        leave_points(planned)
    try:
        with _whole_errors(), console.live_line(known) if planned.serial else nullcontext():
            try:
                code = _hydra(planned.argv)
                check()
                return code
            finally:
                _drain()
                _uploads().close()
    except KeyboardInterrupt as stop:
        return _interrupted(stop)
    except OSError as error:  # Hydra could not write the folder of a point: none after it can run
        check()
        sys.stderr.write(f"{cannot_write(planned.folder, error)}\n")
    except Exception as error:  # every launcher has errors of its own for a process that has gone
        check()
        if planned.serial:
            raise
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        sys.stderr.write(
            f"A worker process was killed or never began, so the sweep stopped early ({text[:300].rstrip(': .')}). "
            f"When its remaining jobs have ended, finish it with: the same command with sweep={planned.sweep} "
            "resume=true\n"
        )
    return FAILED


def _capacities(folder: Path) -> int:
    """Print the result of each capacity search; the exit code is OK if all of them ended."""
    searches = capacity_search.read(folder)
    for search in searches:
        console.say(f"\n{search['mix']}, {search['sharing']}: {search['said']}")
        console.summary(list(capacity_search.rows(search)))
        console.say(f"  probes: {len(search['probes'])}; in MLflow: {search['query']}")
    if searches:
        console.say(f"\nWritten to {folder / capacity_search.FILE}")
    return OK if capacity_search.complete(searches) else FAILED


@contextmanager
def _whole_errors() -> Iterator[None]:
    """Let errors come out of Hydra as they are, instead of printed and turned into an exit.

    A log file on a full disk is none: every line that it cannot take would be a traceback.
    """
    before, logged = os.environ.get(_HYDRA_FULL_ERROR), logging.raiseExceptions
    os.environ[_HYDRA_FULL_ERROR], logging.raiseExceptions = "1", False
    try:
        yield
    finally:
        logging.raiseExceptions = logged
        if before is None:
            del os.environ[_HYDRA_FULL_ERROR]
        else:
            os.environ[_HYDRA_FULL_ERROR] = before


@cache
def _hardware() -> Hardware:
    return probe()


def _hydra(argv: Sequence[str]) -> int:
    """Hand a command line to Hydra, which reads it from ``sys.argv``."""
    import hydra

    set_up()
    run = hydra.main(version_base=VERSION_BASE, config_path=str(CONF_DIR), config_name=CONFIG_NAME)(_job)
    typed, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        run()
    except SystemExit as end:  # Hydra's way to end after --help, or on an error
        return int(end.code or OK)
    finally:
        sys.argv = typed
    return OK


def _announce(planned: Plan) -> None:
    """Print what begins: how many runs, about how long, where, and what the user should know first."""
    specs = [point.spec for point in planned.points]
    if planned.search:
        console.say(f"{counted(len(specs), 'capacity search')}, each of several runs, in {planned.folder}")
    elif len(specs) > 1 or planned.dry_run:
        console.say(f"{estimate(specs)}, in {planned.folder}")
    if any(spec.runtime == "cpu" and spec.shrunk for spec in specs):
        console.say("No GPU in use: models are shrunk and run on the CPU (runtime.shrink=none forbids it).")
    for warning in planned.warnings:
        console.say(f"warning: {warning}")
    for note in planned.notes:
        console.say(f"note: {note}")


def _prepare(planned: Plan) -> None:
    """Start importing torch for the tenants while Hydra starts."""
    specs = [point.spec for point in planned.points]
    if planned.serial:
        from mtexp.run.runner import shared_runner

        shared_runner().behind = True
        tracked = any(spec.tracking.enabled for spec in specs)
        if len(specs) >= RUNS_APART and tracked:
            shared_runner().send_apart()
        if any(spec.launcher == "forkserver" for spec in specs):
            shared_runner().warm(tracked=tracked)


# --- one point --------------------------------------------------------------------------------------------------------


def _job(composed: Any) -> str:
    """Run one point; Hydra calls it in the process that its launcher chose. A failure is printed, not raised."""
    from hydra.core.hydra_config import HydraConfig

    from mtexp.run.runner import shared_runner

    check()
    protect()  # another process than main's has streams of its own
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("forkserver", force=True)  # joblib's workers say "loky", which tenants lack
    hydra: Any = HydraConfig.get()
    name_mix(composed, hydra)
    config = to_config(composed)
    job, folder = hydra.job, Path(hydra.runtime.output_dir)
    if job.chdir:  # a relative path means what it meant when it was planned
        os.chdir(hydra.runtime.cwd)
    outcome: dict[str, Any] = {"status": "FAILED"}
    position = _position()
    own = {} if position is None else announce_point(Path(hydra.sweep.dir), position)
    try:
        spec = to_spec(config, _hardware())
        outcome = _without_record(spec, "FAILED")
        outcome = _run(config, spec, folder, to_yaml(composed), position=position or 0, swept=own)
    except MtexpError as error:
        sys.stderr.write(f"{config.mix.name}: {error}\n")
    finally:  # also when interrupted: the summary lists it
        if "row" in outcome:
            _leave(folder, {"num": _number(), **outcome})
        if not shared_runner().behind:  # a process other than main's: nothing waits at its end
            _drain()
            _say_unsent()
        console.end_point()
    return str(outcome["status"])


def _number() -> int:
    """Place of a point in the sweep as it is written: its folder's name, or the order in which it runs."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    position = _position()
    place = "" if position is None else str(hydra.sweep.subdir)
    return int(place) if place.isdecimal() else position or 0


def _position() -> int | None:
    """How many points of the sweep were started before; None in a single run."""
    from hydra.core.hydra_config import HydraConfig

    job: Any = HydraConfig.get().job
    found: int | None = job.get("num")
    return found


def _leave(folder: Path, outcome: dict[str, Any]) -> None:
    """Leave what became of a point in its folder; a point without counts as not run."""
    try:
        (folder / JOB).write_text(json.dumps(outcome), encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"{folder / JOB} cannot be written: {error}\n")


def _run(
    config: Config, spec: RunSpec, folder: Path, config_yaml: str, *, position: int, swept: dict[str, str]
) -> dict[str, Any]:
    """Run one point unless it is done, and return what became of it."""
    from mtexp.run.runner import Job, shared_runner

    if config.resume:
        done = _done(spec.tracking, spec.runtime, spec.device, config.rerun_invalid, _sweep_folder(folder))
        if spec_hash(spec) in done:
            console.phase(f"{spec.mix}: done before, skipped (resume=true)")
            return _without_record(spec, "SKIPPED")
    job = Job(
        spec=spec,
        folder=folder,
        config=config_yaml,
        sweep=config.sweep,
        position=position,
        swept=swept,
        retries=config.retries,
        progress=console.phase,
        status=console.status,
    )
    record = to_json(shared_runner().run(job))
    console.results(record, verbose=config.verbose)
    return {"status": record["status"], "unsent": _say_unsent(), "row": console.sweep_row(record)}


def _say_unsent() -> int:
    """Print uploads that have failed since the last call; return their number."""
    unsent = [upload for upload in _uploads().results() if upload.reason]
    for upload in unsent:
        console.say(str(upload))
    return len(unsent)


def _drain() -> None:
    """Wait until the last records are sent. Ctrl-C skips the wait; unsent records stay on disk."""
    uploads = _uploads()
    try:
        if uploads.left:
            console.phase(f"tracking: sending {counted(uploads.left, 'record')}; Ctrl-C leaves the rest for later")
        uploads.drain()
    except KeyboardInterrupt:
        uploads.abandon()
        raise


def _uploads() -> Uploads:
    from mtexp.run.runner import shared_runner  # pandas and more: not for a refusal

    return shared_runner().uploads


def _without_record(spec: RunSpec, status: str) -> dict[str, Any]:
    row = console.sweep_row({"spec": to_json(spec), "metrics": {}, "status": status})
    return {"status": status, "unsent": 0, "row": row}


def _sweep_folder(folder: Path) -> Path:
    """The folder of all points of the sweep that the point of ``folder`` is part of."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir) if hydra.mode is RunMode.MULTIRUN else folder


@cache
def _done(tracking: TrackingSpec, runtime: str, uuid: str, rerun_invalid: bool, folder: Path) -> set[str]:
    """Spec hashes of what has been measured already on this device; asked once, the points of a sweep differ.

    Where none is named, any GPU like one of these would do: so it was when they were measured.
    """
    from mtexp.host import environment
    from mtexp.telemetry import chosen, facts
    from mtexp.tracking.ledger import finished

    hardware = _hardware()
    known = [environment(hardware.cpu)]
    if runtime == "gpu":
        devices = {device.name: device for device in chosen(hardware.gpus, uuid)}
        known = [environment(device) | facts(device.uuid) for device in devices.values()]
    done: set[str] = set()
    for found in known:
        if not uuid:
            found.pop("gpu_uuid", None)
        done |= finished(tracking, found, folder=folder, redo_invalid=rerun_invalid)
    return done

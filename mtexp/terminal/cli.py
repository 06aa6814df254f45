"""The command line: plan, refuse or run, sum up. May touch: config, runner, console; Hydra through ``hydra.main``.

A command line is planned first (:mod:`mtexp.config.plan`): every point checked before anything exists. Then Hydra runs
the points with the launcher chosen; each leaves ``job.json`` in its folder, so that the summary and the exit code are
the same whether it ran here, in another process or on another host.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

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
from mtexp.config.plan import Plan, is_serial, plan
from mtexp.errors import MtexpError
from mtexp.output import check_interrupt, protect, say, say_interrupted
from mtexp.records.files import find_records
from mtexp.running import capacity_search
from mtexp.running.sessions import Waiting
from mtexp.signals import check, ended_in_order, exit_code
from mtexp.terminal import console, points
from mtexp.terminal.conclusion import (
    JOB,
    announce_point,
    conclude,
    jobs_below,
    sum_up,
    unsent_below,
    write_points,
)
from mtexp.terminal.estimate import estimate
from mtexp.terminal.place import can_lease, can_write, cannot_write
from mtexp.text_tables import counted
from mtexp.tracking.reach import ask_store

OK, FAILED, REFUSED = 0, 1, 2
"""Exit codes; ended by a signal it is 128 and the signal's number."""

_HYDRA_FULL_ERROR = "HYDRA_FULL_ERROR"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0 all finished and tracked, 1 a run failed or is not in MLflow, 2 refused, 130 interrupted, 143 ended by SIGTERM.
    """
    return ended_in_order(lambda: _main(argv), say_interrupted)


def _main(argv: Sequence[str] | None) -> int:
    check_interrupt()  # of the imports before
    check()
    protect()
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parse_command_line(arguments)
    if args.help:
        console.say(composer_of(args).help())
        return OK
    if args.hydra_help or args.cfg or args.info or args.shell_completion:
        return _asked_of_hydra(args, arguments)
    try:
        planned = plan(arguments, hardware=points.hardware, ask=ask_store)
    except MtexpError as error:
        check()  # a signal in the middle of a library, which made another error of it
        say(f"{error}\n", error=True)
        return REFUSED
    if planned.dry_run:
        _announce(planned)
        console.say("dry_run=true: nothing was started or written.")
        return OK
    if planned.serial and not can_lease():
        return REFUSED
    if not can_write(planned.folder):
        return REFUSED
    for point in find_records(planned.folder, name=JOB):  # left by the part of a sweep that is resumed now
        (point / JOB).unlink()
    _announce(planned)
    _prepare(planned)
    trust_plan()
    code = _launched(planned)
    late = points.report_failed_uploads()
    jobs = jobs_below(planned.folder)
    expected = len(jobs) if planned.search else len(planned.points)
    if planned.search:
        ended = _capacities(planned.folder)
        code = code or ended
    elif planned.multirun:
        sum_up(planned, jobs)
    unsent = max(sum(job["unsent"] for job in jobs) + late, unsent_below(planned.folder))
    conclude(planned, jobs, expected, unsent, arguments)
    done = sum(job["status"] != "FAILED" for job in jobs)
    return code or (OK if done == expected and not unsent else FAILED)


def _launched(planned: Plan) -> int:
    """Let Hydra run the points, then send every record; returns the exit code so far."""
    known = len(planned.points) if not planned.search else 0
    if planned.multirun and known:
        write_points(planned)
    points.SWEEP.waiting, points.SWEEP.separate = Waiting(planned.sessions.groups), planned.sessions.separate
    points.SWEEP.order = planned.order
    try:
        with _whole_errors(), console.live_line(known) if planned.serial else nullcontext():
            try:
                code = _hydra(planned.argv)
                check()
                return code
            finally:
                points.drain()
    except KeyboardInterrupt as stop:
        return exit_code(stop)
    except OSError as error:  # Hydra could not write the folder of a point: none after it can run
        check()
        say(f"{cannot_write(planned.folder, error)}\n", error=True)
    except Exception as error:  # every launcher has errors of its own for a process that has gone
        check()
        if planned.serial:
            raise
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        say(
            f"A worker process was killed or never began, so the sweep stopped early ({text[:300].rstrip(': .')}). "
            f"When its remaining jobs have ended, finish it with: the same command with sweep={planned.sweep} "
            "resume=true\n",
            error=True,
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


def _asked_of_hydra(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Answer ``--cfg``, ``--info``, ``--hydra-help`` and ``--shell-completion``."""
    if args.multirun:
        why = "a sweep has many configurations, and --cfg and --info show one"
        say(f"refused: --multirun: {why}. Leave out -m, and give one value where there are several.\n", error=True)
        return REFUSED
    flags = [text for text in arguments if text not in args.overrides]
    return _hydra(with_tokens([*args.overrides, *flags]))  # Hydra wants all overrides in one place


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
    else:
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
        from mtexp.running.runner import shared_runner

        shared_runner().waits_at_end = True
        tracked = any(spec.tracking.enabled for spec in specs)
        if any(spec.launcher == "forkserver" for spec in specs):
            shared_runner().warm(tracked=tracked)


# --- one point --------------------------------------------------------------------------------------------------------


def _job(composed: Any) -> str:
    """Run one point; Hydra calls it in the process that its launcher chose. A failure is printed, not raised."""
    from hydra.core.hydra_config import HydraConfig

    from mtexp.running.runner import shared_runner

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
    position = _position()
    own = {} if position is None else announce_point(Path(hydra.sweep.dir), position)
    place, point = _place(folder, own), None
    try:
        point = points.ready(config, to_yaml(composed), place)
    except MtexpError as error:
        say(f"{config.mix.name}: {error}\n", error=True)
    done = point is None or point.job is None
    runs = points.SWEEP.turn(place.index, None if done else point)
    try:
        points.run(runs, waits=not done and point not in runs)
    except MtexpError as error:
        say(f"{config.mix.name}: {error}\n", error=True)
    finally:  # also when interrupted: the summary lists it
        for ended in [*runs, *([point] if point is not None and done else [])]:
            points.write_outcome(ended.folder, {"num": ended.number, **ended.outcome})
        if not shared_runner().waits_at_end:  # a process other than main's: nothing waits at its end
            points.drain()
            points.report_failed_uploads()
        console.end_point()
    return "FAILED" if point is None else str(point.outcome["status"])


def _place(folder: Path, swept: dict[str, str]) -> points.Place:
    """Where the point in ``folder``, which is distinguished by ``swept``, stands in the sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra: Any = HydraConfig.get()
    multirun, position = hydra.mode is RunMode.MULTIRUN, _position() or 0
    return points.Place(
        index=points.SWEEP.order[position] if points.SWEEP.order else position,
        position=position,
        number=_number(),
        swept=swept,
        folder=folder,
        sweep_folder=Path(hydra.sweep.dir) if multirun else folder,
        spread=multirun and not is_serial(hydra.launcher._target_),
    )


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

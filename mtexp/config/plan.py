"""Plans a command line: composes, converts and checks every point before the first one starts.

Planning creates no file and starts no process.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtexp.commands import command_line
from mtexp.config.capacity import SWEEPER, search_rule
from mtexp.config.composer import Composer, composer_of, parse_command_line, quoted, to_config, with_tokens
from mtexp.config.convert import to_spec
from mtexp.config.designs import why_sustained
from mtexp.config.hardware import Hardware, elsewhere, probe
from mtexp.config.known import overloaded, too_few_cores, unread_experiment, warnings
from mtexp.config.lengths import padded
from mtexp.config.order import random_order
from mtexp.config.own_code import imported
from mtexp.config.problems import Refused, check_override, parse_checked, translate, value_text, without_value
from mtexp.config.schema import Config, SweepOrder
from mtexp.config.sections import SectionedComposer
from mtexp.config.servers import commands
from mtexp.config.sessions import Sessions, sessions_of
from mtexp.errors import ConfigError, Misplaced
from mtexp.spec import RunSpec, TrackingSpec
from mtexp.tracking.store import check_store

_MAX_PROBLEMS = 5
_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_LAUNCHERS_ELSEWHERE = (
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
)
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_RANDOM_ORDER = "hydra/sweeper=random_order"


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    """One point of a sweep, ready to run."""

    overrides: tuple[str, ...]
    spec: RunSpec
    note: str = ""
    """A choice that was made for the user, in a sentence."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A command line that passed all checks."""

    points: tuple[PlannedPoint, ...]
    argv: tuple[str, ...]
    """Arguments for Hydra: the command line with the sweep's name and the repetitions added."""
    sweep: str
    """Name of the sweep, and of its folder."""
    folder: Path
    """Where the runs go: one folder a point in a sweep, the run's own folder otherwise."""
    multirun: bool
    serial: bool
    """The points run in this process, one after another."""
    search: bool = False
    """Each point is a capacity search; its number of runs is known only at the end."""
    warnings: tuple[str, ...] = ()
    """Known problems, as sentences."""
    notes: tuple[str, ...] = ()
    """Choices that were made for the user, in sentences."""
    order: tuple[int, ...] = ()
    """Indices of ``points`` in the order in which they run; empty = as written."""
    dry_run: bool = False
    """Only print what would run."""
    sessions: Sessions = field(default_factory=Sessions)
    """Which points are measured side by side."""


def plan(
    argv: Sequence[str],
    *,
    hardware: Callable[[], Hardware] = probe,
    ask: Callable[[TrackingSpec], None] = lambda tracking: None,
) -> Plan:
    """Compose, convert and check every point of ``argv`` (what follows ``python run.py``).

    Args:
        argv: The command line.
        hardware: Finds the devices; called at most once, and not if a scheduler runs the points on other hosts.
        ask: Called with each store; raises TrackingError where it does not answer.

    Raises:
        Refused: The command line has problems; up to five are listed.
        TrackingError: The MLflow store is not valid.
    """
    argv = with_tokens(argv)
    args = parse_command_line(argv)
    with _refusing():
        composer = composer_of(args)
    typed = [f"+{text}" if text.startswith("experiment=") else text for text in args.overrides]
    overrides = _with_sweep(typed)
    _check(composer, overrides)
    try:
        overrides = _left_to_points(composer, overrides, multirun=args.multirun)
        master, hydra = composer.load(overrides, RunMode.MULTIRUN)
        multirun = args.multirun or hydra.mode is RunMode.MULTIRUN
        _check_sweep(composer, overrides, multirun=multirun)
        config = to_config(master)
        if config.repetitions > 1 and not _has(composer, overrides, "repetition"):
            overrides = [f"repetition=range({config.repetitions})", *overrides]
            multirun = True
        launcher = OmegaConf.select(hydra, "launcher._target_")
        serial = is_serial(launcher)
        folder = Path(hydra.sweep.dir if multirun else hydra.run.dir)
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused([translate(error, composer, overrides)]) from error
    except ConfigError as error:
        raise Refused([error]) from error
    search = OmegaConf.select(hydra, "sweeper._target_") == SWEEPER
    if search:
        _check_search(composer, overrides, multirun=multirun)
    if multirun:
        points = _points(composer, overrides, hydra)
        _check_points(composer, points)
        where = hardware_for(launcher, hardware)
        sections = SectionedComposer(composer, composer.fixed(overrides), master)
        planned = _convert(composer, sections, points, where, search=search)
        _check_subfolders(hydra, len(planned))
    else:
        where = hardware()
        with _refusing():
            spec = to_spec(config, where)
        planned = [PlannedPoint(tuple(overrides), spec, why_sustained(config, spec.tenants))]
    place = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    _check_folder(config, folder, place)
    for tracking in {point.spec.tracking for point in planned}:
        if tracking.enabled:
            check_store(tracking)
            ask(tracking)
    flags = ["--multirun"] if multirun and not args.multirun else []
    # fixed here: Hydra composes again later, when ${now:...} has another value
    kept = [text for text in overrides if composer.parse(text).key_or_group != place]
    order = _order(composer, overrides, hydra, config, planned) if multirun else ()
    pinned = f"{place}={quoted(str(folder.absolute()))}"
    sweeper = [_RANDOM_ORDER] if order else []
    command = [*flags, *(a for a in argv if a not in args.overrides), *kept, *sweeper, pinned]
    specs = [point.spec for point in planned]
    known = warnings(specs, where.gpus) + too_few_cores(specs, _cores(launcher)) + overloaded(specs)
    known += unread_experiment(specs)
    sessions = Sessions()
    if multirun and not search:
        with _refusing():
            sessions = sessions_of(specs, config.side_by_side, where, serial=serial)
    said = [
        *(point.note for point in planned if point.note),
        *sessions.notes,
        *imported(specs),
        *commands(specs),
        *padded(specs),
    ]
    notes = tuple(dict.fromkeys(said))
    return Plan(
        tuple(planned),
        tuple(command),
        config.sweep,
        folder,
        multirun,
        serial,
        search,
        known,
        notes,
        order,
        dry_run=config.dry_run,
        sessions=sessions,
    )


def is_serial(launcher: str) -> bool:
    """Whether ``launcher`` runs the points of a sweep one after another, in this process."""
    return launcher == _BASIC_LAUNCHER


def hardware_for(launcher: str, hardware: Callable[[], Hardware] = probe) -> Hardware:
    """Return this host's devices, or a placeholder if ``launcher`` runs the points on other hosts."""
    return elsewhere() if launcher in _LAUNCHERS_ELSEWHERE else hardware()


def _order(
    composer: Composer, overrides: Sequence[str], hydra: DictConfig, config: Config, points: Sequence[PlannedPoint]
) -> tuple[int, ...]:
    """Indices of ``points`` in random order; empty where they run as written, or another sweeper chooses its points."""
    basic = OmegaConf.select(hydra, "sweeper._target_") == _BASIC_SWEEPER
    if not basic or _has(composer, overrides, "hydra/sweeper") or config.sweep_order is SweepOrder.written:
        return ()
    return tuple(random_order([point.overrides for point in points], config.seed))


@contextmanager
def _refusing() -> Iterator[None]:
    """Refuse the command line if it is found wrong here."""
    try:
        yield
    except ConfigError as error:
        raise Refused([error]) from error


def _cores(launcher: str) -> int | None:
    """CPU cores that tenants may use; None where ``launcher`` takes them to other hosts."""
    return None if launcher in _LAUNCHERS_ELSEWHERE else len(os.sched_getaffinity(0))


def _with_sweep(overrides: list[str]) -> list[str]:
    """Return a default sweep name: date, time, and four random digits that distinguish hosts."""
    if any(text.lstrip("+").partition("=")[0] == "sweep" for text in overrides):
        return overrides
    return [*overrides, f"sweep={datetime.now():%Y%m%d-%H%M%S}-{random.randrange(16**4):04x}"]


def _check_folder(config: Config, folder: Path, key: str) -> None:
    path = str(folder.absolute())
    if "${" in path or "\0" in path or not _is_unicode(path):
        remedy = "Choose another folder: Hydra cannot store such a path."
        raise Refused([ConfigError(key, repr(path), "a path that is text, without ${", remedy)])
    try:
        has_some = folder.is_dir() and any(folder.iterdir())
    except OSError:  # not readable; write access is tested before anything starts
        has_some = False
    if not config.resume and has_some:
        remedy = "Choose another name, or add resume=true to run missing and failed points."
        raise Refused([ConfigError("sweep", config.sweep, f"a name without results ({folder} has some)", remedy)])


def _check_subfolders(hydra: DictConfig, points: int) -> None:
    """Refuse one folder for several points, and folders in which the summary would not look for them."""
    subdir = str(OmegaConf.to_container(hydra.sweep, resolve=False)["subdir"])  # type: ignore[index, call-overload]
    outside = subdir.startswith("/") or ".." in Path(subdir).parts
    if outside or (points > 1 and "${" not in subdir):
        allowed = "a folder of each point below hydra.sweep.dir, such as ${hydra.job.num}"
        raise Refused([ConfigError("hydra.sweep.subdir", subdir, allowed, "Leave it out: a number names each point.")])


def _is_unicode(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # bytes that are no UTF-8
        return False


def _has(composer: Composer, overrides: Sequence[str], key: str) -> bool:
    return any(composer.parse(text).key_or_group == key for text in overrides)


def _left_to_points(composer: Composer, overrides: list[str], *, multirun: bool) -> list[str]:
    """Return ``overrides`` of a sweep over mixes with values of tenants written as ``choice(value)``.

    Hydra composes a sweep once before its points, without what is swept: it would look for these tenants in the default
    mix. A choice of one value waits for the points, each with its own mix.
    """
    each = {text: choice for text in overrides if (choice := _choice_of_one(composer, text))}
    swept = [composer.parse(text) for text in overrides]
    over_mixes = any(override.key_or_group == "mix" and override.is_sweep_override() for override in swept)
    may_sweep = multirun or any(text.lstrip("+").startswith(("experiment=", "hydra.mode=")) for text in overrides)
    if not each or not (may_sweep or over_mixes):
        return overrides
    _, hydra = composer.load([text for text in overrides if text not in each], RunMode.MULTIRUN)
    multirun = multirun or hydra.mode is RunMode.MULTIRUN
    if over_mixes:
        _check_sweep(composer, overrides, multirun=multirun)
    over_mixes = over_mixes or "mix" in (hydra.sweeper.get("params") or {})
    return [each.get(text, text) for text in overrides] if multirun and over_mixes and _splits(hydra) else overrides


def _choice_of_one(composer: Composer, text: str) -> str:
    """``mix.tenants.ID.KEY=VALUE`` as ``...=choice(VALUE)``, also with + or ++; empty for any other override."""
    override = composer.parse(text)
    if override.is_delete() or override.is_sweep_override() or not override.key_or_group.startswith("mix.tenants."):
        return ""
    key, _, value = text.partition("=")
    for written in (value, quoted(value.strip())):  # quoted: choice() refuses null and nothing, and drops quotes
        choice = f"{key}=choice({written})"
        with suppress(HydraException):
            if composer.parse(choice).is_sweep_override() and _in_point(composer, choice) == _in_point(composer, text):
                return choice
    return ""


def _in_point(composer: Composer, text: str) -> str:
    """The value that the points have of an override with one value: Hydra writes it anew."""
    ((point,),) = composer.split([text], {})
    return repr(composer.parse(point).value())


# --- checks before composing ------------------------------------------------------------------------------------------


def _check(composer: Composer, overrides: Sequence[str]) -> None:
    """Refuse overrides that do not parse, and groups, choices and keys that do not exist."""
    problems = []
    for text in overrides:
        try:
            check_override(composer, parse_checked(composer, text))
        except ConfigError as error:
            problems.append(error)
    if problems:
        raise Refused(problems[:_MAX_PROBLEMS])


def _check_sweep(composer: Composer, overrides: Sequence[str], *, multirun: bool) -> None:
    for text in overrides:
        override = composer.parse(text)
        key = override.get_key_element()
        if not override.is_sweep_override():
            continue
        value = value_text(override)
        if not multirun:
            remedy = f"Add -m to run every value ({command_line('run')} -m ...), or write a list as [a,b]."
            raise Refused([ConfigError(key, value, "one value in a single run", remedy)])
        if key.lstrip("+") in ("experiment", "repetitions", "sweep", "sweep_order", "side_by_side"):
            remedy = "Start one sweep after the other, or use +experiment=report, the whole study."
            raise Refused([ConfigError(key, value, "one value, because it defines the sweep", remedy)])


def _check_search(composer: Composer, overrides: Sequence[str], *, multirun: bool) -> None:
    """Refuse a search in a single run, and a search with a fixed rate."""
    if not multirun:
        remedy = "Add -m, or use +experiment=capacity."
        raise Refused([Misplaced("hydra/sweeper", "capacity", "a search needs several runs, and this is one", remedy)])
    for text in overrides:
        override = composer.parse(text)
        if override.key_or_group in ("arrival.load", "arrival.rate"):
            why = "a capacity search chooses it"
            remedy = "Use capacity.low and capacity.high (capacity.by=load or rate), or set the arrival of one tenant."
            raise Refused([Misplaced(override.key_or_group, value_text(override), why, remedy)])


def _check_points(composer: Composer, points: Sequence[Sequence[str]]) -> None:
    """Refuse misspelt choices and keys in the points, including those of an experiment's sweep."""
    problems: dict[str, ConfigError] = {}
    for text in dict.fromkeys(text for point in points for text in point):
        try:
            check_override(composer, parse_checked(composer, text))
        except ConfigError as error:
            problems[str(error)] = error
    if problems:
        raise Refused(list(problems.values())[:_MAX_PROBLEMS], len(points))


def _splits(hydra: DictConfig) -> bool:
    """Whether the points are those of the basic sweeper; others choose theirs during the sweep."""
    return OmegaConf.select(hydra, "sweeper._target_") in (_BASIC_SWEEPER, SWEEPER)


# --- points -----------------------------------------------------------------------------------------------------------


def _points(composer: Composer, overrides: Sequence[str], hydra: DictConfig) -> list[list[str]]:
    """Return the points that Hydra will run; sweepers other than the basic one choose theirs during the sweep."""
    fixed = [text for text in overrides if composer.parse(text).is_hydra_override()]
    task = [text for text in overrides if text not in fixed]
    if not _splits(hydra):
        return [[text for text in task if not composer.parse(text).is_sweep_override()]]
    params = {str(key): value for key, value in (hydra.sweeper.params or {}).items()}
    points = composer.split(task, params)
    if not points:
        raise Refused([without_value(composer, [*(f"{key}={value}" for key, value in params.items()), *task])])
    return [[*fixed, *point] for point in points]


def _convert(
    composer: Composer,
    sections: SectionedComposer,
    points: Sequence[Sequence[str]],
    hardware: Hardware,
    *,
    search: bool = False,
) -> list[PlannedPoint]:
    """Convert every point; stop early when there are enough problems to show."""
    planned: list[PlannedPoint] = []
    problems: dict[str, ConfigError] = {}
    for overrides in points:
        try:
            config = _config(composer, sections, overrides)
            spec = to_spec(config, hardware)
            planned.append(PlannedPoint(tuple(overrides), spec, why_sustained(config, spec.tenants)))
            if search:
                search_rule(config, planned[-1].spec)
        except ConfigError as error:
            problems.setdefault(str(error), error)
            if len(problems) >= _MAX_PROBLEMS:
                break
    if problems:
        raise Refused(list(problems.values()), len(points))
    return planned


def _config(composer: Composer, sections: SectionedComposer, overrides: Sequence[str]) -> Config:
    try:
        return sections.config(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise translate(error, composer, list(overrides)) from error

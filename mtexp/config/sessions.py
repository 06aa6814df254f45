"""Which points of a sweep are measured side by side: those that differ only in how tenants share. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mtexp.config.hardware import Hardware
from mtexp.config.memory import run_mib
from mtexp.config.schema import SideBySide
from mtexp.errors import ConfigError
from mtexp.spec import RunSpec
from mtexp.united import by_set, unite, without_mix, without_sharing


@dataclass(frozen=True, slots=True)
class Sessions:
    """Indices of the points of a sweep that are measured together."""

    groups: tuple[tuple[int, ...], ...] = ()
    separate: dict[int, str] = field(default_factory=dict)
    """By point: why it is not measured beside the other sharing modes of its mix."""
    mixes_separate: str = ""
    """Why one set of processes does not serve all mixes (``side_by_side=mixes``)."""

    @property
    def notes(self) -> list[str]:
        """What to say of it before the first run."""
        found = [
            f"sharing modes of a mix run one after the other, because {why}" for why in set(self.separate.values())
        ]
        if self.mixes_separate:
            found.append(f"mixes run one after the other, because {self.mixes_separate}")
        return found


def sessions_of(specs: Sequence[RunSpec], asked: SideBySide, hardware: Hardware, *, serial: bool) -> Sessions:
    """Put crossover runs together that differ only in ``sharing`` and ``mps_settings``.

    With ``side_by_side=mixes`` their mix may differ too, where there is room for all tenants at once.

    Args:
        specs: The points.
        asked: ``side_by_side``.
        hardware: The devices.
        serial: The points run in one process, one after another.

    Raises:
        ConfigError: They are required to be together and cannot be.
    """
    if asked is SideBySide.never:
        return Sessions()
    groups: list[tuple[int, ...]] = []
    separate: dict[int, str] = {}
    mixes_separate = ""
    in_turns = [number for number, spec in enumerate(specs) if spec.measure.design == "crossover"]
    for candidates in _alike(specs, in_turns, without_mix) if asked is SideBySide.mixes else [in_turns]:
        of_mixes = _alike(specs, candidates, without_sharing)
        if asked is SideBySide.mixes and len(of_mixes) > 1:
            why = _why_not([specs[number] for number in candidates], hardware, serial=serial, mixes=True)
            if not why:
                groups.append(tuple(candidates))
                continue
            mixes_separate = why
        for numbers in of_mixes:
            together = [number for number in numbers if not _obstacle(specs[number])]
            why = _why_not([specs[number] for number in together], hardware, serial=serial, mixes=False)
            separate |= {
                n: why or _obstacle(specs[n]) for n in numbers if len(numbers) > 1 and (why or n not in together)
            }
            if not why and len(together) > 1:
                groups.append(tuple(together))
    if asked is SideBySide.require:
        _refuse(specs, groups, separate)
    return Sessions(tuple(groups), separate, mixes_separate)


def _alike(specs: Sequence[RunSpec], numbers: Sequence[int], name: Callable[[RunSpec], str]) -> list[list[int]]:
    """Group points by their name."""
    found: dict[str, list[int]] = {}
    for number in numbers:
        found.setdefault(name(specs[number]), []).append(number)
    return list(found.values())


def _why_not(specs: Sequence[RunSpec], hardware: Hardware, *, serial: bool, mixes: bool) -> str:
    """Why these points cannot be measured together; empty if they can."""
    if not serial:
        return "the launcher spreads the points of the sweep"
    if mixes:
        for spec in specs:
            if spec.sharing.one_process:
                return f"tenants of several mixes cannot share one process (sharing={spec.sharing.mode})"
            if spec.sharing.share_weights:
                return "tenants of several mixes cannot share weights (share_weights=true)"
            if found := _obstacle(spec):
                return found
    return _no_room(specs, hardware)


def _obstacle(spec: RunSpec) -> str:
    """What keeps a sharing mode from being up beside another one."""
    if spec.sharing.mode == "mig":
        return "a GPU cut into MIG instances (sharing=mig) cannot be used as a whole"
    if spec.sharing.mps_mode == "external":
        return "an administrator's MPS daemon (mps_settings=external) may claim the GPU for itself"
    if spec.start_order:
        return "a server takes what memory it finds free: there cannot be two of each"
    if spec.sharing.static_partitioning:
        return "static partitioning of the SMs (mps_settings.static_partitioning) claims the GPU for itself"
    return ""


def _no_room(specs: Sequence[RunSpec], hardware: Hardware) -> str:
    if len(specs) < 2:
        return ""
    gpu = specs[0].runtime == "gpu"
    sets = [unite([specs[i] for i in own]).spec for own in by_set(specs)]
    needed = sum(_needed_mib(spec, gpu=gpu) for spec in sets)
    there = min(device.memory_mib for device in hardware.gpus) if gpu else hardware.cpu.memory_mib
    if needed <= there:
        return ""
    return f"all at once need about {needed:.0f} MiB of {there} MiB ({specs[0].mix})"


def _needed_mib(spec: RunSpec, *, gpu: bool) -> float:
    sharing = spec.sharing
    return run_mib(spec.tenants, one_process=sharing.one_process, gpu=gpu, share_weights=sharing.share_weights)


def _refuse(specs: Sequence[RunSpec], groups: Sequence[Sequence[int]], separate: dict[int, str]) -> None:
    remedy = "Use side_by_side=auto, or one sweep for each."
    if separate:
        raise ConfigError("side_by_side", "require", f"auto or never, because {next(iter(separate.values()))}", remedy)
    left = [spec for number, spec in enumerate(specs) if not any(number in group for group in groups)]
    if left:
        spec = left[0]
        what = (
            "auto or never"
            if spec.measure.design == "crossover"
            else "auto, never, or measure.design=crossover where a share is limited"
        )
        why = f" (nothing to measure {spec.mix} with {spec.sharing.mps}, {spec.measure.design}, side by side with)"
        raise ConfigError("side_by_side", "require", what + why, "Sweep over mps_settings or sharing, or use auto.")

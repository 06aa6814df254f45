"""Which points of a sweep are measured side by side: those that differ only in how tenants share. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mtexp.config.hardware import Hardware
from mtexp.config.memory import run_mib
from mtexp.config.schema import SideBySide
from mtexp.errors import ConfigError
from mtexp.spec import MpsLimits, RunSpec, SharingSpec


@dataclass(frozen=True, slots=True)
class Sessions:
    """Indices of the points of a sweep that are measured together."""

    groups: tuple[tuple[int, ...], ...] = ()
    apart: dict[int, str] = field(default_factory=dict)
    """By point: why it is not measured beside the other sharing modes of its mix."""

    @property
    def notes(self) -> list[str]:
        """What to say of it before the first run."""
        return [f"sharing modes of a mix run one after the other, because {why}" for why in set(self.apart.values())]


def sessions_of(specs: Sequence[RunSpec], asked: SideBySide, hardware: Hardware, *, serial: bool) -> Sessions:
    """Put points together that only ``sharing`` and ``mps_settings`` tell apart, and that are crossover runs.

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
    alike: dict[str, list[int]] = {}
    for number, spec in enumerate(specs):
        if spec.measure.design == "crossover":
            alike.setdefault(_without_sharing(spec), []).append(number)
    groups: list[tuple[int, ...]] = []
    apart: dict[int, str] = {}
    for numbers in alike.values():
        together = [number for number in numbers if not _obstacle(specs[number])]
        why = "" if serial else "the launcher spreads the points of the sweep"
        why = why or _no_room([specs[number] for number in together], hardware)
        apart |= {n: why or _obstacle(specs[n]) for n in numbers if len(numbers) > 1 and (why or n not in together)}
        if not why and len(together) > 1:
            groups.append(tuple(together))
    if asked is SideBySide.require:
        _refuse(specs, groups, apart)
    return Sessions(tuple(groups), apart)


def _without_sharing(spec: RunSpec) -> str:
    """Names everything of a point but how its tenants share."""
    tenants = tuple(replace(t, mps=MpsLimits(), sm_count=0, sm_pct=0.0, mig="") for t in spec.tenants)
    return repr(replace(spec, sharing=SharingSpec(), tenants=tenants))


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
    needed = sum(run_mib(spec.tenants, one_process=spec.sharing.one_process, gpu=gpu) for spec in specs)
    there = min(device.memory_mib for device in hardware.gpus) if gpu else hardware.cpu.memory_mib
    if needed <= there:
        return ""
    return f"all at once need about {needed:.0f} MiB of {there} MiB ({specs[0].mix})"


def _refuse(specs: Sequence[RunSpec], groups: Sequence[Sequence[int]], apart: dict[int, str]) -> None:
    remedy = "Use side_by_side=auto, or one sweep for each."
    if apart:
        raise ConfigError("side_by_side", "require", f"auto or never, because {next(iter(apart.values()))}", remedy)
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

"""Sharing modes: MPS, time slicing, streams, green contexts, MIG. Each is a context manager that verifies itself.

Lives here: one module a mode behind :func:`open_sharing`. ``commands`` (what is said), ``parse`` (what is answered),
``proof`` (what follows) and ``explain`` (what a failure means) are plain data in and out; ``control``, ``daemon`` and
``guardian`` start programs. May touch: nvidia-cuda-mps-control, nvidia-smi (read only), one private directory in /tmp.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtexp.errors import ConfigError
from mtexp.host import Device
from mtexp.sharing.base import SharingMode
from mtexp.sharing.cpu import Cpu
from mtexp.sharing.green_contexts import GreenContexts
from mtexp.sharing.mig import Mig
from mtexp.sharing.mps import ExternalMps, ManagedMps
from mtexp.sharing.streams import Streams
from mtexp.sharing.time_slicing import TimeSlicing
from mtexp.spec import RunSpec

__all__ = ["SharingMode", "open_sharing"]


def open_sharing(spec: RunSpec, device: Device, *, work_dir: Path) -> SharingMode:
    """Return the sharing mode of ``spec`` on ``device``; nothing starts before it is entered.

    Args:
        spec: The run.
        device: The leased device.
        work_dir: Existing directory of the run; MPS logs go to its ``logs`` folder.

    Raises:
        ConfigError: The requested modes cannot be combined.
    """
    sharing = spec.sharing
    if spec.runtime == "cpu":
        return Cpu(spec, device, work_dir)
    if sharing.mode != "processes" and sharing.mps_mode != "disabled":
        remedy = f"CUDA MPS works with sharing=processes only: use mps_settings=disabled with sharing={sharing.mode}"
        raise ConfigError("mps_settings", sharing.mps, f"disabled with sharing={sharing.mode}", remedy)
    if sharing.mode == "mig":
        return Mig(spec, device, work_dir, device.mig_instances)
    modes: dict[tuple[str, str], Callable[[RunSpec, Device, Path], SharingMode]] = {
        ("streams", "disabled"): Streams,
        ("green_contexts", "disabled"): GreenContexts,
        ("processes", "disabled"): TimeSlicing,
        ("processes", "managed"): ManagedMps,
        ("processes", "external"): ExternalMps,
    }
    try:
        return modes[sharing.mode, sharing.mps_mode](spec, device, work_dir)
    except KeyError:
        allowed = " or ".join(f"{mode} with {mps}" for mode, mps in modes)
        raise ConfigError(
            "sharing", f"{sharing.mode} with {sharing.mps_mode}", allowed, "Choose one of them, or sharing=mig"
        ) from None

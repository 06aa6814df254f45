"""The host: what a device is, and what the machine looks like.

Lives here: :class:`Device`, the host half of the environment capture. May touch: files under /proc and /sys, ``git``.
The GPU half (``find_devices``, ``facts``) is in :mod:`mtexp.telemetry.nvml`, the only
place that speaks NVML; it builds the :class:`Device` defined here, so that nothing else needs NVML to name a device.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from mtexp import __version__, cgroup

PACKAGES = (
    "torch",
    "transformers",
    "mlflow",
    "hydra-core",
    "numpy",
    "pandas",
    "pyarrow",
    "nvidia-ml-py",
    "safetensors",
    "torchao",
)
"""Distributions whose version the environment records."""

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
)
"""Environment variables that change speed; no other is recorded, so no secret is."""


@dataclass(frozen=True, slots=True)
class MigInstance:
    """One existing MIG compute instance."""

    uuid: str
    profile: str
    """Profile name as ``nvidia-smi -L`` has it, e.g. ``1g.18gb``; with its own compute slices ``1c.2g.35gb``."""
    gi_id: int
    ci_id: int
    memory_mib: int
    parent_uuid: str
    sm_count: int | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """What tenants share: one GPU (or one MIG instance), or the host's CPU."""

    kind: str
    """``gpu`` or ``cpu``."""
    index: int
    """NVML index (of the parent, for a MIG instance); 0 for the CPU."""
    uuid: str
    """``GPU-...``, ``MIG-...`` or ``cpu``."""
    name: str
    memory_mib: int
    sm_count: int | None = None
    parent_uuid: str = ""
    """The GPU that a MIG instance is part of; empty for a whole device."""
    mig_instances: tuple[MigInstance, ...] = ()
    """MIG instances that exist on this GPU."""
    mig_profiles: tuple[str, ...] = ()
    """MIG profiles an administrator could create on it; empty where the GPU has no MIG."""
    capability: tuple[int, int] | None = None
    """CUDA compute capability, e.g. (9, 0); None = not known."""

    @property
    def lease_key(self) -> str:
        """The name two runs exclude each other by: MIG instances of one GPU share its power and clocks."""
        return self.parent_uuid or self.uuid

    def __str__(self) -> str:
        return f"{self.name} ({self.uuid})"


def cpu_device() -> Device:
    """Return the host's CPU as a device; its memory is the host's, or what a container may use of it."""
    return Device("cpu", 0, "cpu", _cpu_model() or platform.machine() or "cpu", cgroup.memory_mib())


def environment(device: Device, *, project: Path | None = None) -> dict[str, Any]:
    """Return what could explain a result: host, CPU, kernel, packages, source revision, and the device's name.

    The GPU half (driver, clocks, modes) is :func:`mtexp.telemetry.nvml.facts`; merge the two. A key whose value is
    unknown is absent. Nothing that identifies the user, and no environment variable outside :data:`VARIABLES`.

    Args:
        device: The device measured on.
        project: Directory whose git revision is recorded; the one mtexp is installed from by default.
    """
    packages = {name: version for name in PACKAGES if (version := _version(name))}
    cores = psutil.cpu_count(logical=False)
    known: dict[str, Any] = {
        "host": platform.node(),
        "kernel": platform.release(),
        "platform": platform.platform(),
        "python_version": platform.python_version(),
        "mtexp_version": __version__,
        "torch_version": packages.get("torch"),
        "torch_cuda_version": _torch_cuda_version(),
        "transformers_version": packages.get("transformers"),
        "packages": packages,
        "cpu_model": _cpu_model(),
        "cpu_count": len(os.sched_getaffinity(0)),
        "cpu_count_host": os.cpu_count(),
        "cpu_cores_physical": cores,
        "cpu_governor": _cpu_governor(),
        "memory_mib": psutil.virtual_memory().total // 2**20,
        "cpu_limit": cgroup.cpu_limit(),
        "memory_limit_mib": cgroup.memory_limit_mib(),
        "load_1min": round(os.getloadavg()[0], 2),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        **_git(project or Path(__file__).resolve().parent),
    }
    if device.kind == "gpu":
        known |= {"gpu_name": device.name, "gpu_uuid": device.uuid, "gpu_memory_mib": device.memory_mib}
        known |= {"gpu_sm_count": device.sm_count, "gpu_parent_uuid": device.parent_uuid or None}
    return {key: value for key, value in known.items() if value not in (None, "", {})}


def torch_versions() -> tuple[str, str]:
    """The versions of torch and of the CUDA that it is built with, without importing it; empty where unknown."""
    return _version("torch") or "", _torch_cuda_version() or ""


@cache
def _version(distribution: str) -> str | None:  # milliseconds each where many are installed
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return None


@cache
def _torch_cuda_version() -> str | None:
    """The CUDA version that torch is built with, read off its ``version.py``: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = _read(Path(spec.origin).with_name("version.py"))
    found = re.search(r"""^cuda\b[^=\n]*=\s*['"]([0-9.]+)['"]""", text, re.MULTILINE)
    return found[1] if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu_model() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.processor()


def _cpu_governor() -> str:
    files = sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return "+".join(sorted({text for file in files if (text := _read(file).strip())}))


_GIT_PATH = os.pathsep.join(("/usr/bin", "/usr/local/bin", "/bin", f"{sys.prefix}/bin"))
"""Not the user's PATH: a program called git in some folder of it would be run only to learn a revision."""
_GIT_SAFELY = ("--no-optional-locks", "-c", "core.fsmonitor=", "-c", "core.hooksPath=/dev/null")
"""A repository's configuration can name programs that git runs."""


def _git(directory: Path) -> dict[str, Any]:
    """The revision of the repository that ``directory`` belongs to; nothing where it only lies in one."""

    def ask(*words: str) -> str | None:
        command = [str(git), *_GIT_SAFELY, "-C", str(directory), *words]
        own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, env=own)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    git = shutil.which("git", path=_GIT_PATH)
    if git is None:
        return {}
    if not ask("ls-files", "--error-unmatch", "."):  # a virtual environment inside somebody's repository
        return {}
    commit = ask("rev-parse", "HEAD")
    if not commit:
        return {}
    status = ask("status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit} | ({} if status is None else {"git_dirty": bool(status)})

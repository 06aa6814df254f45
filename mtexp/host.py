"""The host: what a device is, what the machine looks like, and who may measure now.

Lives here: :class:`Device`, the host half of the environment capture, the device lease. May touch: files under /proc
and /sys, ``git``, lock files. The GPU half (``find_devices``, ``facts``) is in :mod:`mtexp.telemetry.nvml`, the only
place that speaks NVML; it builds the :class:`Device` defined here, so that nothing else needs NVML to name a device.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import filelock
import psutil

from mtexp import __version__, cgroup
from mtexp.errors import HostError, LeaseBusy

log = logging.getLogger(__name__)

T = TypeVar("T")

LEASE_DIRECTORY = "/tmp/mtexp-lease"
"""One place for every user of the host: a lease under TMPDIR or a home directory would exclude nobody."""

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


# --- environment ------------------------------------------------------------------------------------------------------


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
    def ask(*words: str) -> str | None:
        command = [str(git), *_GIT_SAFELY, "-C", str(directory), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    git = shutil.which("git", path=_GIT_PATH)
    if git is None:
        return {}
    commit = ask("rev-parse", "HEAD")
    if not commit:
        return {}
    status = ask("status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit} | ({} if status is None else {"git_dirty": bool(status)})


# --- lease ------------------------------------------------------------------------------------------------------------


@contextmanager
def lease(
    devices: Sequence[Device],
    *,
    wait_s: float,
    label: str,
    poll_s: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
    tell: Callable[[str], None] = log.warning,
) -> Iterator[Device]:
    """Hold the first free one of ``devices`` for one run; nobody else on this host gets it meanwhile.

    The lease is a lock on an open file (flock), so that the kernel frees it when the holder dies, however it dies. The
    lock files are in ``$MTEXP_LEASE_DIR`` (default :data:`LEASE_DIRECTORY`), shared by all users of the host.

    Args:
        devices: Candidates, best first.
        wait_s: Seconds to wait for one of them; 0 fails at once.
        label: What the others are told that it is held for: the run's name.
        poll_s: Seconds between two tries.
        sleep: Waits; replaced in tests.
        tell: Is told who holds the devices, while it waits for one.

    Yields:
        The device that was free.

    Raises:
        LeaseBusy: All were held until the end of the wait; names each holder.
        HostError: There is no candidate, or the lease directory cannot be used.
    """
    if not devices:
        raise HostError("no device to measure on: nvidia-smi -L lists the GPUs; runtime=cpu runs on the CPU")
    directory = _lease_directory()
    lock, device = _wait_for_one(devices, directory, wait_s=wait_s, label=label, poll_s=poll_s, sleep=sleep, tell=tell)
    note = _note_path(directory, device)
    try:
        _write_note(note, label)
        yield device
    finally:
        _write_note(note, None)
        lock.release()


def _lease_directory() -> Path:
    directory = Path(os.environ.get("MTEXP_LEASE_DIR") or LEASE_DIRECTORY)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # somebody else's: it has the mode already
            directory.chmod(0o1777)
    except OSError as error:
        raise HostError(
            f"lease directory {directory}: {error.strerror}. Set MTEXP_LEASE_DIR to one that works"
        ) from error
    return directory


def check_leases() -> None:
    """Raise HostError, before anything starts, if the lease directory or a lock in it cannot be written."""
    directory = _lease_directory()
    for path in (directory, *directory.glob("*.lock")):
        if not os.access(path, os.W_OK):
            raise HostError(f"lease {path} may not be written by this user. Remove it, or set MTEXP_LEASE_DIR")


_CHOOSING_S = 10.0
"""Longer than any run takes to choose its cores."""


@contextmanager
def lease_cores(cores: Sequence[int], choose: Callable[[Sequence[int]], tuple[T, Sequence[int]]]) -> Iterator[T]:
    """Hold some of ``cores`` for one run, as :func:`lease` holds a device.

    Args:
        cores: CPU cores that this process may use.
        choose: Called once with those of ``cores`` that no other run holds; returns what to yield, and which to hold.

    Raises:
        HostError: The lease directory cannot be used.
    """
    directory = _lease_directory()
    with ExitStack() as held:
        try:
            with filelock.FileLock(directory / "cores.lock", timeout=_CHOOSING_S, mode=0o666), ExitStack() as tried:
                free = {}
                for core in cores:
                    lock = filelock.FileLock(directory / f"core-{core}.lock", timeout=0, mode=0o666)
                    with suppress(filelock.Timeout):
                        free[core] = tried.enter_context(lock)
                chosen, wanted = choose(list(free))
                for core in wanted:
                    held.enter_context(free[core])  # counted: it outlives the try
        except filelock.Timeout as error:
            raise HostError(f"{error.lock_file} is held for {_CHOOSING_S:g} s: end its holder") from error
        except OSError as error:
            raise HostError(f"core lease in {directory}: {error.strerror}. Set MTEXP_LEASE_DIR") from error
        yield chosen


def _note_path(directory: Path, device: Device) -> Path:
    return directory / f"{device.lease_key.replace('/', '_')}.json"


def _wait_for_one(
    devices: Sequence[Device],
    directory: Path,
    *,
    wait_s: float,
    label: str,
    poll_s: float,
    sleep: Callable[[float], None],
    tell: Callable[[str], None],
) -> tuple[filelock.BaseFileLock, Device]:
    deadline_s = time.monotonic() + wait_s
    told = ""
    while True:
        for device in devices:
            lock = filelock.FileLock(_note_path(directory, device).with_suffix(".lock"), timeout=0, mode=0o666)
            try:
                lock.acquire()
            except filelock.Timeout:
                continue
            except OSError as error:
                raise HostError(
                    f"device lease {lock.lock_file}: {error.strerror}. Remove it, or set MTEXP_LEASE_DIR"
                ) from error
            return lock, device
        holders = "; ".join(f"{device} is held by {_holder(directory, device)}" for device in devices)
        if time.monotonic() >= deadline_s:
            raise LeaseBusy(
                f"no free device for {label} after {wait_s:g} s: {holders}. Wait for it, or raise lease.wait"
            )
        if holders != told:
            tell(f"waiting up to {wait_s:g} s for a device: {holders}")
            told = holders
        sleep(min(poll_s, max(0.0, deadline_s - time.monotonic())))


def _holder(directory: Path, device: Device) -> str:
    try:
        note: Mapping[str, Any] = json.loads(_read(_note_path(directory, device)))
        return f"run {note['label']!r} (pid {note['pid']}, user {note['user']}, since {note['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process (its name is not written yet)"


def _write_note(path: Path, label: str | None) -> None:
    """Say who holds the lease, or (None) that nobody does; in place, since another user may own the file."""
    text = ""
    if label is not None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        text = json.dumps({"pid": os.getpid(), "user": _user(), "label": label, "since": since})
    try:
        # Without O_CREAT first: a sticky directory refuses it for a file of another user.
        try:
            handle = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            os.fchmod(handle, 0o666)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        log.warning("lease note %s not written: %s", path, error.strerror)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name  # not getpass: USER survives a change of user
    except KeyError:  # no entry in passwd: a container's bare uid
        return str(os.getuid())

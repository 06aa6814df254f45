"""Leases: which run may use a device or a CPU core now. May touch: lock files in the lease directory."""

from __future__ import annotations

import json
import logging
import os
import pwd
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import filelock

from mtexp.errors import HostError, LeaseBusy
from mtexp.host import Device

log = logging.getLogger(__name__)

T = TypeVar("T")

LEASE_DIRECTORY = "/tmp/mtexp-lease"
"""One place for every user of the host: a lease under TMPDIR or a home directory would not exclude other users."""
_POLL_S = 0.5


@contextmanager
def lease(
    devices: Sequence[Device],
    *,
    wait_s: float,
    label: str,
    sleep: Callable[[float], None] = time.sleep,
    tell: Callable[[str], None] = log.warning,
) -> Iterator[Device]:
    """Hold the first free one of ``devices`` for one run; no other run on this host gets it meanwhile.

    The lease is a lock on an open file (flock), so that the kernel frees it when the holder dies, however it dies. The
    lock files are in ``$MTEXP_LEASE_DIR`` (default :data:`LEASE_DIRECTORY`), shared by all users of the host.

    Args:
        devices: Candidates, best first.
        wait_s: Seconds to wait for one of them; 0 fails at once.
        label: Shown to others who wait for the device: the run's name.
        sleep: Waits; replaced in tests.
        tell: Called with a line that says who holds the devices, while it waits for one.

    Yields:
        The device that was free.

    Raises:
        LeaseBusy: All were held until the end of the wait; names each holder.
        HostError: There is no candidate, or the lease directory cannot be used.
    """
    if not devices:
        raise HostError("no device to measure on: nvidia-smi -L lists the GPUs; runtime=cpu runs on the CPU")
    directory = _lease_directory()
    lock, device = _wait_for_one(devices, directory, wait_s=wait_s, label=label, sleep=sleep, tell=tell)
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
        with suppress(PermissionError):  # another user's: it has the mode already
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
    sleep: Callable[[float], None],
    tell: Callable[[str], None],
) -> tuple[filelock.BaseFileLock, Device]:
    deadline_s = time.monotonic() + wait_s
    shown = ""
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
        if holders != shown:
            tell(f"waiting up to {wait_s:g} s for a device: {holders}")
            shown = holders
        sleep(min(_POLL_S, max(0.0, deadline_s - time.monotonic())))


def _holder(directory: Path, device: Device) -> str:
    try:
        note: Mapping[str, Any] = json.loads(_note_path(directory, device).read_text(encoding="utf-8"))
        return f"run {note['label']!r} (pid {note['pid']}, user {note['user']}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process (its name is not written yet)"


def _write_note(path: Path, label: str | None) -> None:
    """Write down who holds the lease, or (None) that it is free; in place, since another user may own the file."""
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

"""What a container or a scheduler lets this process have: memory and CPU time. May touch: /proc, /sys/fs/cgroup.

A limit of a control group does not show in the host's memory or in the list of cores: a run that reckons with those is
killed by the kernel, or throttled while it measures. Both versions of the interface are read (cgroups(7)).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import psutil

_UNLIMITED = 2**60
"""Bytes; version 1 writes a number of this size where there is no limit."""


def memory_mib(root: Path = Path("/")) -> int:
    """Return the memory in MiB that processes of this group may use: the host's, or the least limit above it."""
    total, limit = int(psutil.virtual_memory().total) // 2**20, memory_limit_mib(root)
    return total if limit is None else min(total, limit)


def memory_limit_mib(root: Path = Path("/")) -> int | None:
    """Return the limit of this group in MiB; None where there is none."""
    limits = _bytes(root, "memory", "memory.max", "memory.limit_in_bytes")
    return min(limits) // 2**20 if limits else None


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Return how many CPUs' time this group may use; None where it may use all.

    It is quota over period: at 2.0, two threads run all the time, and four stand still half of it.
    """
    quotas = []
    for folder in _folders(root, "cpu"):
        with suppress(OSError, ValueError):
            if (file := folder / "cpu.max").is_file():
                quota, period = file.read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if quota != "max" and int(quota) > 0:
                quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _bytes(root: Path, controller: str, *names: str) -> list[int]:
    """Limits in this group and those above it, which hold as well."""
    found = []
    for folder in _folders(root, controller):
        for name in names:
            with suppress(OSError, ValueError):  # no such file, or "max"
                found.append(int((folder / name).read_text()))
    return [number for number in found if number < _UNLIMITED]


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's group, innermost first.

    In a container, the path of the group may be that of the host, of which only the end is mounted: a folder that is
    not there is left out, and the top one is the container's own.
    """
    with suppress(OSError, UnicodeError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            if controllers and controller not in controllers.split(","):
                continue
            top = root / "sys/fs/cgroup" / (controllers)
            inner = PurePosixPath(path.lstrip("/"))
            yield from (top / part for part in (inner, *inner.parents))

"""The probe interface: the sampler reads one row of values from a probe, group by group.

Lives here: the :class:`Probe` port, the combination of several probes, and the CPU probe. May touch: psutil.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import psutil

FAST, GPM, RARE = "fast", "gpm", "rare"
"""The three rates: each period, each GPM period (a counter pair needs 0.2 s or more), each second (costly calls)."""

NAN = math.nan


class Probe(Protocol):
    """One source of telemetry. It is built in the parent, sent to the sampler process, and opened only there."""

    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """Return the column names of each group; units are in the names."""
        ...

    def open(self) -> None:
        """Acquire the resources for reading.

        Raises:
            HostError: They are not available.
        """
        ...

    def read(self, group: str) -> Sequence[float]:
        """Return one value a column of ``group``, NaN if the device does not report it."""
        ...

    def notes(self) -> dict[str, Any]:
        """Return the notes on the samples: ``absent`` (column or call to reason), ``events``, sources."""
        ...

    def close(self) -> None:
        """Release the resources; never raises."""
        ...


class Probes:
    """Several probes read as one."""

    def __init__(self, *probes: Probe) -> None:
        self._probes = probes

    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """Return the columns of all, group by group."""
        parts = [probe.columns() for probe in self._probes]
        return {group: sum((part.get(group, ()) for part in parts), ()) for group in (FAST, GPM, RARE)}

    def open(self) -> None:
        """Open each; those already open are closed again when one cannot be."""
        for number, probe in enumerate(self._probes):
            try:
                probe.open()
            except BaseException:
                for opened in self._probes[:number]:
                    opened.close()
                raise

    def read(self, group: str) -> Sequence[float]:
        """Return the values of all, in the order of :meth:`columns`."""
        return [value for probe in self._probes for value in probe.read(group)]

    def notes(self) -> dict[str, Any]:
        """Return the notes of all; dictionaries and lists of one name are joined."""
        joined: dict[str, Any] = {}
        for probe in self._probes:
            for key, value in probe.notes().items():
                if isinstance(value, dict):
                    joined[key] = joined.get(key, {}) | value
                elif isinstance(value, list):
                    joined[key] = joined.get(key, []) + value
                else:
                    joined[key] = value
        return joined

    def close(self) -> None:
        """Close each."""
        for probe in self._probes:
            probe.close()


def by_process(tenants: Mapping[str, int]) -> dict[str, int]:
    """Return the name of each process and its pid; tenants that share one (streams) are named together, ``a+b``."""
    names: dict[int, list[str]] = {}
    for tenant, pid in tenants.items():
        names.setdefault(pid, []).append(tenant)
    return {"+".join(tenants): pid for pid, tenants in names.items()}


class CpuProbe:
    """The host's CPU and memory, and, at the GPM rate since each process costs, the process trees of the tenants.

    Args:
        tenants: Tenant id to pid; the tree is what the process has as children when sampling starts.
        group: The rate of the host's values: ``fast`` on the CPU, ``gpm`` beside a GPU, where the host is a bystander.
    """

    def __init__(self, tenants: Mapping[str, int], group: str = FAST) -> None:
        self._processes = by_process(tenants)
        self._group = group
        self._trees: list[list[psutil.Process]] = []

    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """Return the host's columns, and two a tenant process."""
        host = ("cpu_util_pct", "memory_used_mib")
        each = [(f"tenant_cpu_util_pct/{name}", f"tenant_memory_mib/{name}") for name in self._processes]
        tenants = tuple(key for pair in each for key in pair)
        return {GPM: host + tenants} if self._group == GPM else {self._group: host, GPM: tenants}

    def open(self) -> None:
        """Find the process trees; utilisation is measured from now on."""
        self._trees = [_tree(pid) for pid in self._processes.values()]
        for group in (self._group, GPM):
            self.read(group)  # the first value of cpu_percent is meaningless

    def read(self, group: str) -> Sequence[float]:
        """Return percent of the whole host and MiB used; percent of one core and resident MiB of each tree."""
        values: list[float] = []
        if group == self._group:
            values += psutil.cpu_percent(), psutil.virtual_memory().used / 2**20
        if group == GPM:
            for tree in self._trees:
                values += _tree_usage(tree)
        return values

    def notes(self) -> dict[str, Any]:
        """Return nothing: psutil answers or raises."""
        return {}

    def close(self) -> None:
        """Forget the trees."""
        self._trees = []


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _tree_usage(tree: Sequence[psutil.Process]) -> tuple[float, float]:
    percent = resident_mib = 0.0
    living = 0
    for process in tree:
        try:
            percent += process.cpu_percent()
            resident_mib += process.memory_info().rss / 2**20
            living += 1
        except psutil.NoSuchProcess:
            continue
    return (percent, resident_mib) if living else (NAN, NAN)

"""Whose the processes on a device are. Lives here: Occupants, identify. May touch: /proc.

NVML speaks in pids of the host. In a pid namespace (a container) those are other numbers than the tenants' own, and the
processes of a run have to be known by something else: what was on the device before the run is not the run's; what came
with it cannot be distinguished from it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtexp.telemetry.nvml import GpuProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupants:
    """Processes that NVML lists on a device while tenants are on it."""

    foreign: tuple[GpuProcess, ...] = ()
    """Surely none of the run's."""
    not_attributable: tuple[GpuProcess, ...] = ()
    """Processes of this run or of another user."""
    own: frozenset[int] = frozenset()
    """The pids of the run's processes, as NVML numbers them where that is known."""
    same_pids: bool = False
    """NVML lists tenants by pids that are known here: then every other pid is foreign."""
    unlisted: bool = False
    """NVML lists none of the run's processes, nor anything that came with them."""

    def joined(self, later: Occupants) -> Occupants:
        """What was found now or ``later``, of a run whose processes come and go."""
        own = self.own | later.own
        foreign = {process.pid: process for process in (*self.foreign, *later.foreign)}
        return replace(
            later,
            foreign=tuple(process for pid, process in foreign.items() if pid not in own),
            own=own,
            not_attributable=max(self.not_attributable, later.not_attributable, key=len),
        )


def identify(
    before: Sequence[GpuProcess],
    during: Sequence[GpuProcess],
    tenants: Collection[int],
    others: Collection[int] = (),
    *,
    external_mps: bool = False,
    proc: Path = Path("/proc"),
) -> Occupants:
    """Say whose the processes on a device are.

    Args:
        before: Listed before the run started anything.
        during: Listed while its tenants were on the device; one pid may come several times.
        tenants: Pids of its tenants, as this process knows them.
        others: Pids of what else it has on the device: MPS servers, itself.
        external_mps: It uses the MPS server of an administrator, which is older than the run.
        proc: Where /proc is.
    """
    listed = {process.pid: process for process in during}
    own = frozenset((*tenants, *others))
    if not own.intersection(listed):
        own |= _numbers_elsewhere(own, proc)
    silent = all(not process.memory_mib for process in listed.values())
    there = [_without_zero(process) for process in listed.values() if process.memory_mib != 0 or silent]
    if own.intersection(listed):
        rest = [process for process in there if process.pid not in own]
        return Occupants(
            foreign=tuple(process for process in rest if process.pid),
            not_attributable=tuple(process for process in rest if not process.pid),
            own=own,
            same_pids=True,
        )
    earlier = {process.pid for process in before if process.pid}
    foreign = [p for p in there if p.pid in earlier and not (external_mps and p.kind == "mps")]
    unmatched = [p for p in there if p not in foreign]
    return Occupants(  # a name was looked up by a number that means another process here
        foreign=tuple(replace(process, name="") for process in foreign),
        not_attributable=tuple(replace(process, name="") for process in unmatched),
        own=own,
        unlisted=not unmatched,
    )


def _without_zero(process: GpuProcess) -> GpuProcess:
    """A process on the device holds memory there: 0 bytes are an answer that was withheld."""
    return process if process.memory_mib else replace(process, memory_mib=None)


def _numbers_elsewhere(pids: Collection[int], proc: Path) -> frozenset[int]:
    """Return the numbers that ``pids`` have in outer pid namespaces, where a /proc of one of them is mounted here.

    A line ``NSpid: 4711 7`` of /proc/4711/status says that 4711 there is pid 7 in the innermost namespace (proc(5)).
    """
    try:
        namespace = os.readlink(proc / "self" / "ns" / "pid")
    except OSError:
        return frozenset()
    found: set[int] = set()
    for status in proc.glob("[0-9]*/status"):
        numbers = _nspid(status)
        if len(numbers) > 1 and numbers[-1] in pids and _namespace(status.parent) == namespace:
            found.update(numbers[:-1])
    return frozenset(found)


def _nspid(status: Path) -> list[int]:
    try:
        lines = status.read_text().splitlines()
    except OSError:  # it has ended
        return []
    return next(([int(word) for word in line.split()[1:]] for line in lines if line.startswith("NSpid:")), [])


def _namespace(process: Path) -> str:
    try:
        return os.readlink(process / "ns" / "pid")
    except OSError:  # another user's
        return ""

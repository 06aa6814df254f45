"""Foreign processes on the device, which are none of the run's, and what they mean for it. Pure.

One that computes changes what is measured; the display server of a desktop hardly computes, and does not. What counts
is the share of the SMs' time that NVML charges to a process while the tenants measure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mtexp.metrics.finding import Finding

BUSY_PCT = 5.0
"""Mean SM utilisation over the window up to which a foreign process is idle, as a desktop is on which nothing moves."""
_GRAPHICS = "G"
_LEVELS = {"refuse": "invalid", "warn": "warning"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignProcess:
    """A process on the device that is surely none of the run's."""

    pid: int
    """As NVML numbers it."""
    type: str
    """``C`` compute, ``G`` graphics, ``M`` client or server of CUDA MPS, ``?`` seen by its utilisation only."""
    name: str = ""
    """Program and owner; empty = not visible from here."""
    memory_mib: float | None = None
    """None = the driver does not say."""
    util_pct: float | None = None
    """Mean SM utilisation over the window; None = the driver does not say."""

    @property
    def busy(self) -> bool | None:
        """Whether it computed; None = not known."""
        return None if self.util_pct is None else self.util_pct > BUSY_PCT

    def __str__(self) -> str:
        """``pid 7 (python of x, C, 512 MiB, 40 % busy)``."""
        held = "" if self.memory_mib is None else f", {self.memory_mib:.0f} MiB"
        used = ", utilisation not known" if self.util_pct is None else f", {self.util_pct:.0f} % busy"
        return f"pid {self.pid} ({self.name or 'not visible from here'}, type {self.type}{held}{used})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """Who else was on the device, and the rule by which that is judged."""

    rule: str = "refuse"
    """``refuse``: a busy one makes the run INVALID; ``warn``: a warning; ``ignore``: only the record has it."""
    processes: tuple[ForeignProcess, ...] = ()
    not_attributable: int = 0
    """Processes of this run or of another user: NVML numbers them differently from this pid namespace."""
    own: int = 0
    """Processes that the run has on the device."""
    unlisted: bool = False
    """NVML lists none of the run's processes, and nothing that came with them: it would not list others either."""

    def to_json(self) -> dict[str, Any]:
        """For the record: the rule and what was found."""
        found = [asdict(process) | {"busy": process.busy} for process in self.processes]
        return {"rule": self.rule, "processes": found, "not_attributable": self.not_attributable}


def foreign_findings(foreign: Foreign) -> Iterator[Finding]:
    """Judge foreign processes by the rule, and say once what could not be matched."""
    if foreign.rule in _LEVELS:
        yield from _by_kind(foreign.processes, _LEVELS[foreign.rule])
    if foreign.not_attributable or foreign.unlisted:
        yield Finding(
            "note",
            "not-attributable",
            f"NVML numbers processes differently from this pid namespace: {foreign.not_attributable} that appeared "
            f"with the run's {foreign.own} cannot be distinguished from them"
            if foreign.not_attributable
            else "NVML does not list the run's processes here, so it would not list others either",
            "In a container, share the host's pids (docker run --pid=host) to have foreign processes found.",
        )


def _by_kind(processes: tuple[ForeignProcess, ...], level: str) -> Iterator[Finding]:
    """Busy ones, idle ones that hold a context, idle or unknown ones that only draw."""
    busy = [p for p in processes if p.busy or (p.busy is None and p.type != _GRAPHICS)]
    idle = [p for p in processes if p.busy is False and p.type != _GRAPHICS]
    screens = [p for p in processes if not p.busy and p.type == _GRAPHICS]
    if busy:
        yield Finding(
            level,
            "foreign-process",
            f"other processes used the device: {_names(busy)}; expected this run's alone",
            "Stop them or choose another device, then repeat the run; measure.foreign=warn keeps it all the same.",
        )
    if idle:
        yield Finding(
            "warning",
            "foreign-idle",
            f"other processes held a context on the device and were idle: {_names(idle)}",
            "A second context alone may change a latency by some percent: stop them to be sure.",
        )
    if screens:
        yield Finding(
            "note" if all(p.busy is False for p in screens) else "warning",
            "foreign-graphics",
            f"processes that draw were on the device: {_names(screens)}",
            "Let nothing move on a screen of this GPU while tenants measure.",
        )


def _names(processes: list[ForeignProcess]) -> str:
    return ", ".join(map(str, processes))

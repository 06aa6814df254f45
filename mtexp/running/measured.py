"""What one measurement brought, before anybody judges it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtexp.errors import MtexpError, TenantFailed, interrupted_twice
from mtexp.host import Device
from mtexp.launch import CorePlan, Starter
from mtexp.metrics.crossover import Block
from mtexp.metrics.finding import Finding
from mtexp.metrics.samples import Samples
from mtexp.spec import RunSpec
from mtexp.telemetry import Occupants

Facts = dict[str, dict[str, Any]]

TELEMETRY = "telemetry.parquet"


Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What the runs of a job are measured with."""

    device: Device
    starter: Starter
    progress: Progress = lambda text: None
    """Called with a line for each phase."""
    status: Progress | None = None
    """Called about once a second with what has been measured so far; must return at once. None = not shown."""
    uploads_paused: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """Entered while tenants warm up and measure: this process does nothing else meanwhile."""


@dataclass(slots=True)
class Measurement:
    """Everything one run produced, also when it failed half way."""

    samples: dict[str, Samples] = field(default_factory=dict)
    """By tenant; of a crossover run with the block, round and phase of each request."""
    blocks: list[Block] = field(default_factory=list)
    """Blocks of a crossover run that ended."""
    facts_before: Facts = field(default_factory=dict)
    facts_after: Facts = field(default_factory=dict)
    proof: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    full: list[str] = field(default_factory=list)
    occupants: Occupants = field(default_factory=Occupants)
    """Who was on the device while the tenants were."""
    clock: list[tuple[int, int]] = field(default_factory=lambda: [clock_pair()])
    """(monotonic ns, realtime ns) pairs, at the start and at the end."""
    cores: CorePlan | None = None
    failure: MtexpError | None = None
    stop: KeyboardInterrupt | None = None
    """Somebody wants the run to end (Ctrl-C, SIGTERM): to be raised again once the record is safe."""
    runs: int = 1
    """How many runs were measured in turns, this one among them."""

    @property
    def failed_tenant(self) -> str:
        """Id of the tenant that failed, or empty."""
        return self.failure.tenant if isinstance(self.failure, TenantFailed) else ""

    @property
    def stop_now(self) -> bool:
        """True after a second Ctrl-C or signal while the tenants were being stopped."""
        return interrupted_twice(self.stop)


@dataclass(frozen=True, slots=True)
class Place:
    """What to measure, and the folder of its samples, logs and telemetry."""

    spec: RunSpec
    folder: Path


def clock_pair() -> tuple[int, int]:
    """This instant on the monotonic clock and on the wall clock, in ns."""
    return time.monotonic_ns(), time.time_ns()

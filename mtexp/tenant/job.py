"""The instructions for a tenant process, as plain data. Lives here: ProcessJob and the messages. May touch: spec.

One process serves one tenant, except under ``sharing=streams`` and ``green_contexts``, where it serves all of them with
a thread and a CUDA stream each. The parent speaks to it over a Unix socket with JSON messages (never pickle):

======== ==================================================== ==========================================
command  the child then                                        and answers
======== ==================================================== ==========================================
build    builds its models on the device, captures, compiles  ``built`` with facts
warm_up  runs the warm-up iterations                           ``warm`` with facts (the proof before)
measure  waits for ``start_ns``, iterates until stopped;  ``measured``
         in a crossover run, as the board announces blocks
finish   probes the device's busy time if asked                ``finished`` with facts (the proof after)
exit     tears down                                            (end of file)
======== ==================================================== ==========================================

Anything that goes wrong is answered with ``error``: tenant, phase, message, traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtexp.spec import MeasureSpec, TenantSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantJob:
    """One tenant of a process: its spec and where its samples go."""

    tenant: TenantSpec
    slot: int
    """Its slot on the board."""
    samples: str
    """Path of its sample buffer."""
    sm_count: int = 0
    """SMs of its green context; 0 = none, it may run on all."""
    address: str = ""
    """Abstract Unix socket of the parent where it is commanded as the neighbour of a churn run
    (:mod:`mtexp.tenant.neighbour`), and not built with the others; empty = it is not."""
    url: str = ""
    """Where its server answers; empty = it is no server."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What the placeholders of its requests stand for."""
    weights: str = ""
    """Abstract Unix socket at which the keeper of shared weights answers where they are; empty = it has its own."""
    keeps_weights: bool = False
    """Whether it is the keeper (:mod:`mtexp.tenant.shared_weights`)."""
    request_s: float = 60.0
    """How long an answer of its server may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessJob:
    """Everything a tenant process needs."""

    name: str
    tenants: tuple[TenantJob, ...]
    address: str
    """Abstract Unix socket on which the parent listens (without the leading NUL)."""
    board: str
    log: str
    runtime: str
    measure: MeasureSpec
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set before CUDA starts; an empty value unsets the variable."""
    cores: tuple[int, ...] = ()
    """CPU cores that it may use; empty = those of the process that starts it."""
    probe_busy: bool = False
    """After the window, time requests whose kernels are already queued (launch-bound detection)."""
    nvtx: str = ""
    """NVTX ranges of a profile run: ``nsys`` names tenant, phase and iteration, ``ncu`` marks one request."""
    torch_trace: str = ""
    """Folder for one torch.profiler trace per tenant; empty = none."""

    @property
    def ids(self) -> str:
        """Ids of its tenants, separated by commas."""
        return ",".join(tenant.tenant.id for tenant in self.tenants)


PACKAGE = str(Path(__file__).resolve().parents[1])
"""The mtexp that is imported here; tenants have the one of their parent, whose revision is recorded."""
Message = dict[str, Any]

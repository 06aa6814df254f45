"""Tenants that fail for real: a starter whose children run into a fault at a chosen moment.

What ships here runs in the child before, or instead of, a step of the real tenant; the real code does not import it.
May touch: multiprocessing, signals, and (in the child only) mtexp.tenant.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mtexp.launch.starters import Child, ForkserverStarter
from mtexp.spec import from_json, to_json
from mtexp.tenant.job import ProcessJob

START, BUILD = -2, -1
"""Moments of a :class:`Fault`; any other is the number of a request, warm-ups included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to a tenant, and when."""

    kind: str
    """One of :data:`KINDS`, or :data:`WRONG_OUTPUT`."""
    at: int
    """:data:`START` (before it connects), :data:`BUILD`, or the request before which it happens, counted from 0: the
    one whose layers are checked, the warm-up, the measured ones."""
    once: str = ""
    """A path: the fault happens only while there is no such file, and makes it."""


class FaultyStarter(ForkserverStarter):
    """Starts tenants from the forkserver; those named have a fault.

    Args:
        faults: By tenant id.
    """

    def __init__(self, faults: Mapping[str, Fault]) -> None:
        super().__init__()
        self.faults = dict(faults)

    def start(self, job: ProcessJob) -> Child:
        """Fork a tenant."""
        faults = {tenant: asdict(fault) for tenant, fault in self.faults.items()}
        return self.fork(job.name, serve_faulty, to_json(job), faults)


# --- the child --------------------------------------------------------------------------------------------------------


def serve_faulty(data: dict[str, Any], faults: Mapping[str, Mapping[str, Any]]) -> None:
    """The real tenant process, with the faults of its tenants in its way."""
    from mtexp.tenant import neighbour, process, requests

    own = {tenant: from_json(Fault, fault) for tenant, fault in faults.items()}
    for tenant in data["tenants"]:
        fault = own.get(tenant["tenant"]["id"])
        if fault is not None and fault.at == START:
            _happen(fault)

    def prepare(tenant: Any, *how: Any) -> Any:
        fault = own.get(tenant.id)
        if fault is not None and fault.at == BUILD:
            _happen(fault)
        prepared = requests.prepare(tenant, *how)
        if fault is None:
            return prepared
        if fault.kind == WRONG_OUTPUT:
            return replace(prepared, request=_wrong(prepared, fault))
        return replace(prepared, request=_faulty(prepared.request, fault))

    for module in (process, neighbour):
        vars(module)["prepare"] = prepare
    process.serve(data)


def _faulty(request: Callable[[], int], fault: Fault) -> Callable[[], int]:
    number = 0

    def faulty() -> int:
        nonlocal number
        if number == fault.at:
            _happen(fault)
        number += 1
        return request()

    return faulty


def _wrong(prepared: Any, fault: Fault) -> Callable[[], int]:
    """The request, whose output has a wrong tile from request ``fault.at`` on."""
    from mtexp.tenant.outputs import output_tensor

    number = 0

    def wrong() -> int:
        nonlocal number
        token: int = prepared.request()
        if number >= fault.at:
            output_tensor(prepared.outputs.last)[..., :16].fill_(1.0)
        number += 1
        return token

    return wrong


def _happen(fault: Fault) -> None:
    if fault.once:
        try:
            os.close(os.open(fault.once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    KINDS[fault.kind]()


def _raise() -> None:
    raise RuntimeError("a fault was asked for")


def _segfault() -> None:
    ctypes.string_at(0)


def _out_of_memory() -> None:
    """Real: the address space is limited to what is in use, then a gibibyte is asked for."""
    import torch

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
    torch.empty(2**30, dtype=torch.uint8)


def _device_memory() -> None:
    """More than any GPU has."""
    import torch

    torch.empty(2**43, dtype=torch.uint8, device="cuda")


def _device_fault() -> None:
    """A kernel that traps: the context is lost, under CUDA MPS also those of the neighbours."""
    import torch

    torch.zeros(1, device="cuda")[torch.tensor([2**20], device="cuda")]
    torch.cuda.synchronize()


def _wrong_layers() -> None:
    """From now on each matrix product in half precision has a wrong tile, as with a wrong kernel."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class WrongKernels(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            products = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.linear)
            if func.overloadpacket in products and out.dtype in (torch.float16, torch.bfloat16):
                out[..., :16].fill_(1.0)
            return out

    mode: Any = WrongKernels  # its constructor has no types
    mode().__enter__()


def _signalled(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _hang() -> None:
    """In C code, where no Python signal handler runs: only SIGKILL helps."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    while True:
        time.sleep(3600)


WRONG_OUTPUT = "wrong_output"
"""Kind of a fault that no exception shows: the outputs have a wrong tile from request ``at`` on."""

KINDS: Mapping[str, Callable[[], None]] = {
    "raise": _raise,
    "memory": _out_of_memory,
    "device_memory": _device_memory,
    "device_fault": _device_fault,
    "segfault": _segfault,
    "kill": _signalled(signal.SIGKILL),
    "terminate": _signalled(signal.SIGTERM),
    "stop": _signalled(signal.SIGSTOP),
    "hang": _hang,
    "wrong_layers": _wrong_layers,
}
"""``raise`` an error; run out of ``memory`` or ``device_memory``; trap on the GPU (``device_fault``); ``segfault``; get
SIGKILL (``kill``), SIGTERM (``terminate``) or SIGSTOP (``stop``) from outside; ``hang`` deaf to SIGTERM; compute
``wrong_layers`` (at :data:`BUILD`, in half precision)."""

"""The neighbour of a churn run: a tenant that comes, works, misbehaves and goes as the parent says. May touch: torch.

It is a process, or, where all tenants share one, a thread of it. The parent speaks to it over a socket of its own:

======== =======================================================================================================
command  what it does, between requests; the answer comes when it has done it
======== =======================================================================================================
build    builds its model on the device, captures, compiles
warm_up  runs warm-up requests; answers with its facts
load     serves requests back to back from now on; answers after the first
memory   some times: takes most of the free memory of the device, writes to it, frees it
oom      allocates until the device has no more memory, then frees that
fault    launches a kernel that writes to an illegal address: the context is lost
end      frees its model; a process ends
======== =======================================================================================================

Every answer is ``done`` or ``error`` with a message; one that has lost its context may give none. ``kill`` needs no
command.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client, Connection
from typing import Any

import torch

from mtexp.tenant import execution, partitions
from mtexp.tenant.device import CpuDevice, CudaDevice, open_device
from mtexp.tenant.job import Message, ProcessJob, TenantJob
from mtexp.tenant.requests import prepare

_MIB = 2**20
_FILLS = 3
_FILL_SHARE = 0.9  # of the free memory: the rest is for what a neighbour in steady state may still want
_CPU_FILL_MIB = 256
_OOM_STEP_MIB = 512
_FAULT = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry wild()
{
  .reg .b32 %r<2>; .reg .b64 %rd<2>;
  mov.u64 %rd1, 64;
  mov.u32 %r1, 1;
  st.global.u32 [%rd1], %r1;
  ret;
}
\0"""


def serve_process(job: ProcessJob) -> None:
    """The process of a neighbour: one life, with a context on the device before it says hello."""
    device = open_device(job.runtime)
    if isinstance(device, CudaDevice):
        torch.zeros(1, device=device.torch_device)
        torch.cuda.synchronize()
    Neighbour(job.tenants[0], job, device, None, None).live()


def serve_thread(
    job: TenantJob, process: ProcessJob, device: CpuDevice | CudaDevice, stream: Any, partition: Any
) -> None:
    """Body of the thread of a neighbour in the process of the steady tenant: one life after the other."""
    with torch.inference_mode(), suppress(EOFError, ConnectionError):
        while True:
            Neighbour(job, process, device, stream, partition).live()


class Neighbour:
    """One life: from hello to end."""

    def __init__(
        self,
        job: TenantJob,
        process: ProcessJob,
        device: CpuDevice | CudaDevice,
        stream: torch.cuda.Stream | None,
        partition: partitions.Partition | None,
    ) -> None:
        self.job, self.process, self.device = job, process, device
        self.stream, self.partition = stream, partition
        self.one: Callable[[], None] = lambda: None
        self.serving = False
        self.kept: Any = None
        """A CUDA graph holds addresses only: the weights and inputs that it reads must outlive it."""

    def live(self) -> None:
        """Serve the parent until ``end``.

        Raises:
            EOFError: The parent has gone.
        """
        commands: dict[str, Callable[[], dict[str, Any]]] = {
            "build": self.build,
            "warm_up": self.warm_up,
            "load": self.load,
            "memory": self.memory,
            "oom": self.oom,
            "fault": self.fault,
            "end": self.end,
        }
        with (
            Client("\0" + self.job.address, "AF_UNIX") as connection,
            torch.inference_mode(),
            torch.cuda.stream(self.stream),
        ):
            _send(connection, event="hello", pid=os.getpid())
            while True:
                while self.serving and not connection.poll(0):
                    self.one()
                message: Message = json.loads(connection.recv_bytes())
                try:
                    answer = commands[message["do"]]()
                except Exception as error:  # noqa: BLE001  what goes wrong here is what is to be seen
                    traceback.print_exc()
                    _send(connection, event="error", message=f"{type(error).__name__}: {error}")
                    continue
                _send(connection, event="done", **answer)
                if message["do"] == "end":
                    return

    def build(self) -> dict[str, Any]:
        """Build the model on the device."""
        spec = self.job.tenant
        prepared = prepare(spec, self.device.torch_device, execution.compiler(spec.execution))
        request, timer = execution.ready(prepared, spec.execution), self.device.timer()
        self.kept = prepared

        def one() -> None:
            timer.begin()
            request()
            timer.end()

        self.one = one
        return {}

    def warm_up(self) -> dict[str, Any]:
        """Run warm-up requests; returns its facts."""
        for _ in range(max(1, self.process.measure.warmup)):
            self.one()
        facts = self.device.facts() | {"pid": os.getpid(), "thread_id": threading.get_native_id()}
        if self.partition is not None:
            facts["partition_sm_count"] = self.partition.sm_count
            facts["partition_sm_ids"] = partitions.sm_ids(self.partition.stream)
        return {"facts": facts}

    def load(self) -> dict[str, Any]:
        """Serve requests back to back from now on."""
        self.one()
        self.serving = True
        return {}

    def memory(self) -> dict[str, Any]:
        """Fill most of the free memory, then free it, some times."""
        on_gpu = isinstance(self.device, CudaDevice)
        filled_mib = 0
        for _ in range(_FILLS):
            free = int(torch.cuda.mem_get_info()[0] * _FILL_SHARE) if on_gpu else _CPU_FILL_MIB * _MIB
            block = torch.empty(free, dtype=torch.uint8, device=self.device.torch_device)
            block.fill_(1)
            self._settle()
            filled_mib = free // _MIB
            del block
            self._give_back()
        return {"filled_mib": filled_mib}

    def oom(self) -> dict[str, Any]:
        """Allocate until there is no more memory, then free it."""
        blocks: list[torch.Tensor] = []
        try:
            while True:
                blocks.append(torch.empty(_OOM_STEP_MIB * _MIB, dtype=torch.uint8, device=self.device.torch_device))
        except torch.OutOfMemoryError:
            return {"taken_mib": len(blocks) * _OOM_STEP_MIB}
        finally:
            blocks.clear()
            self._give_back()

    def fault(self) -> dict[str, Any]:
        """Write to an invalid address."""
        driver, module, kernel = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p(), ctypes.c_void_p()
        handle = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        none = ctypes.c_void_p()
        for status in (
            driver.cuModuleLoadData(ctypes.byref(module), _FAULT),
            driver.cuModuleGetFunction(ctypes.byref(kernel), module, b"wild"),
            driver.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, handle, none, none),
        ):
            if status:
                raise RuntimeError(f"the kernel could not be launched: the driver answered {status}")
        torch.cuda.synchronize()
        return {}

    def end(self) -> dict[str, Any]:
        """Free everything."""
        self.serving, self.kept, self.one = False, None, lambda: None
        gc.collect()
        self._give_back()
        return {}

    def _settle(self) -> None:
        if isinstance(self.device, CudaDevice):
            torch.cuda.synchronize()

    def _give_back(self) -> None:
        if isinstance(self.device, CudaDevice):
            torch.cuda.empty_cache()


def _send(connection: Connection, **message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())

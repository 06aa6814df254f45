"""What a tenant process does at each command (``mtexp.tenant.job`` lists them). May touch: torch, signals."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtexp.errors import MtexpError
from mtexp.spec import from_json
from mtexp.tenant import arrivals, execution, neighbour, outputs, partitions, tracing, weights
from mtexp.tenant.buffers import Board, SampleBuffer
from mtexp.tenant.client import ServedTenant
from mtexp.tenant.device import CpuDevice, CudaDevice, open_device
from mtexp.tenant.job import PACKAGE, Message, ProcessJob, TenantJob
from mtexp.tenant.lock_probe import lock_wait_pct
from mtexp.tenant.loop import SPIN_NS, START_SPIN_NS, Loop, sleep_until
from mtexp.tenant.prepared import Prepared
from mtexp.tenant.requests import prepare
from mtexp.tenant.surroundings import library_versions, take_surroundings

if TYPE_CHECKING:
    from mtexp.tenant.shared_weights import SharedModel

_ORPHAN_S = 10.0  # what an orphan gets to finish its request; SIGKILL with work in flight can hurt other MPS clients
_BUSY_REQUESTS = 10
_HOLD = 2.0  # latencies for which the device is held
_CYCLES_PER_MS = 2e6
_Place = tuple[Any, partitions.Partition | None]
"""The stream of a tenant (None = the default one), and the partition of the SMs that it is in."""


def serve(data: Message) -> None:
    """Serve the job until the parent asks it to exit. Entry point of both launchers; errors are sent, not raised."""
    job = from_json(ProcessJob, data)
    take_surroundings(job)
    if all(tenant.address for tenant in job.tenants):
        neighbour.serve_process(job)
        return
    with Client("\0" + job.address, "AF_UNIX") as connection:
        process = TenantProcess(job, connection)
        signal.signal(signal.SIGTERM, process.on_sigterm)
        threading.Thread(target=process.leave_with_parent, name="orphan", daemon=True).start()
        try:
            process.run()
        except (EOFError, ConnectionError):
            sys.exit("the parent has gone")
        except Exception as error:  # noqa: BLE001  the child's outermost frame: a failure is data
            traceback.print_exc()
            _send(
                connection,
                event="error",
                tenant=getattr(error, "tenant", job.tenants[0].tenant.id),
                phase=process.phase,
                message=str(error) if isinstance(error, MtexpError) else f"{type(error).__name__}: {error}",
            )
            sys.exit(1)


class TenantProcess:
    """One process: its tenants, and the last message of the parent."""

    def __init__(self, job: ProcessJob, connection: Connection) -> None:
        self.job, self.connection = job, connection
        self.phase = "start"
        self.terminated = False
        self.device: CpuDevice | CudaDevice
        self.tenants: list[_Tenant] | list[ServedTenant] = []
        slots = 1 + max(t.slot for t in job.tenants)
        self.board = Board(Path(job.board), slots)

    def run(self) -> None:
        """Answer commands until ``exit``."""
        commands: dict[str, Callable[[Message], None]] = {
            "build": self.build,
            "warm_up": self.warm_up,
            "measure": self.measure,
            "finish": self.finish,
        }
        _send(self.connection, event="hello", name=self.job.name, pid=os.getpid(), package=PACKAGE)
        while (message := json.loads(self.connection.recv_bytes()))["do"] != "exit":
            self.phase = message["do"]
            commands[self.phase](message)
            if self.terminated:
                sys.exit(128 + signal.SIGTERM)
        for tenant in self.tenants:
            tenant.leave()

    def build(self, message: Message) -> None:
        """Build the models on the device, one after another; then capture or compile what must be."""
        self.device = open_device(self.job.runtime)
        if self.job.tenants[0].url:
            self.tenants = [ServedTenant(job, self.job, self.board) for job in self.job.tenants]
        else:
            self.tenants = self._own_tenants()
        for tenant in self.tenants:
            tenant.build()
        self.device.settle()
        self._answer("built")

    def _own_tenants(self) -> list[_Tenant]:
        own = []
        for job, place in zip(self.job.tenants, _places(self.job, self.device), strict=True):
            if job.address:
                arguments = (job, self.job, self.device, *place)
                threading.Thread(target=neighbour.serve_thread, args=arguments, daemon=True).start()
            else:
                own.append(_Tenant(job, self.job, self.device, self.board, place))
        return own

    def warm_up(self, message: Message) -> None:
        """The warm-up iterations, all tenants at once."""
        self._together(lambda tenant: tenant.warm_up())
        gc.collect()  # takes tenths of a second: now, so that all can start to measure at one instant
        gc.freeze()
        self._answer("warm")

    def measure(self, message: Message) -> None:
        """Wait for the common start, then iterate until the board says stop."""
        start_ns = int(message["start_ns"])
        gc.disable()
        try:
            self._together(lambda tenant: tenant.measure(start_ns))
        finally:
            gc.enable()
        if not self.terminated:
            _send(self.connection, event="measured")

    def finish(self, message: Message) -> None:
        """Do what must not run inside the window: compare outputs, probe the device, collect the facts after it."""
        self._together(lambda tenant: tenant.check_outputs())
        if len(self.tenants) > 1 and not (self.job.nvtx or self.job.torch_trace):
            self._together(lambda tenant: tenant.probe_lock())
        if self.job.probe_busy and isinstance(self.device, CudaDevice):
            self._together(lambda tenant: tenant.probe_busy())
        self._answer("finished")

    def on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        """Finish the iteration and leave: killing a client with work in flight can take its neighbours along."""
        if self.phase in ("warm_up", "measure"):
            self.terminated = True
            self.board.stop()
        else:
            sys.exit(128 + signum)

    def leave_with_parent(self) -> None:
        """Body of a thread that sleeps until the parent is gone: finish the iteration and leave, or be killed.

        A forked tenant is the forkserver's child, and the forkserver lives as long as its tenants: only the closed
        socket shows that the run has ended.
        """
        gone = select.poll()
        gone.register(self.connection.fileno(), select.POLLRDHUP)
        gone.poll()
        self.board.stop()
        time.sleep(_ORPHAN_S)
        os.kill(os.getpid(), signal.SIGKILL)

    def _answer(self, event: str) -> None:
        _send(self.connection, event=event, facts={t.id: t.facts() for t in self.tenants})

    def _together(self, action: Callable[[Any], None]) -> None:
        """Run ``action`` for every tenant at once: on this thread, or on one thread each."""
        if len(self.tenants) == 1:
            with torch.inference_mode(), torch.cuda.stream(self.tenants[0].stream):
                self.tenants[0].guarded(action)
            return
        threads = [threading.Thread(target=t.on_own_stream, args=(action,), name=t.id) for t in self.tenants]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for tenant in self.tenants:
            if tenant.error is not None:
                raise tenant.error


class _Tenant:
    """One tenant inside its process."""

    def __init__(
        self, job: TenantJob, process: ProcessJob, device: CpuDevice | CudaDevice, board: Board, place: _Place
    ) -> None:
        self.id, self.spec, self.process, self.device = job.tenant.id, job.tenant, process, device
        self.buffer = SampleBuffer(Path(job.samples))
        self.board, self.slot = board, job.slot
        self.stream, self.partition = place
        self.error: Exception | None = None
        self.parameters = 0
        self.busy_ms: float | None = None
        self.shared = _shared(job)
        self.known: dict[str, Any] = {}
        """Facts that are determined once: checksums of weights and inputs, and whether it computes right."""
        self.thread_id = 0
        self.arrivals_ns: list[int] = []
        """Arrivals of an open-loop tenant after the start: drawn while it builds, since drawing takes milliseconds."""
        self.prepared: Prepared
        """Kept because a CUDA graph holds addresses only: the weights and inputs that it reads must outlive it."""
        self.loop: Loop

    def build(self) -> None:
        """Build the model and its request on the tenant's stream."""
        self.guarded(lambda tenant: tenant._build())

    def _build(self) -> None:
        with torch.cuda.stream(self.stream):
            compiler = execution.compiler(self.spec.execution)
            build = self.shared.build if self.shared else None
            prepared = prepare(self.spec, self.device.torch_device, compiler, build)
            self.prepared = prepared
            if prepared.module is not None:
                self.parameters = sum(p.numel() for p in prepared.module.parameters())
            if prepared.module is not None or prepared.checked:
                self.known = self._checked(prepared)
            request = execution.ready(prepared, self.spec.execution)
            if prepared.graph_differs:
                self.known["graph_differs"] = prepared.graph_differs
            request = tracing.marked(request, self.process.nvtx, self.spec, self.warmups, prepared.module)
            self.loop = Loop(request, self.device.timer(), self.buffer, self.board, self.slot, prepared.outputs)
        self.buffer.prefault()
        if self.spec.arrival.kind != "closed":
            self.arrivals_ns = arrivals.arrival_instants_ns(self.spec.arrival, 0, self.process.measure.max_iterations)

    def _checked(self, prepared: Prepared) -> dict[str, Any]:
        """Name its weights and inputs, and check its layers (but not where a profiler would see it)."""
        known: dict[str, Any] = {
            "weights_checksum": weights.checksum(prepared.module.parameters() if prepared.module else ()),
            "inputs_checksum": weights.checksum(prepared.inputs),
        }
        if self.process.measure.check_outputs and not self.process.nvtx and not self.process.torch_trace:
            training = self.spec.workload.kind == "train"
            with execution.eagerly(self.spec.execution):
                request = prepared.forward or prepared.request
                known["layers_check"] = outputs.check_layers(request, self.spec.precision, training=training)
            prepared.outputs.checked()
            self.device.forget_peak()
        return known

    def warm_up(self) -> None:
        """The warm-up iterations; the output of the last one is what those of the window are compared with."""
        self.loop.warm_up(self.warmups)
        if self.warmups:
            self.loop.outputs.warm()
        if self.prepared.trace is not None:
            self.prepared.trace.rewind()

    @property
    def warmups(self) -> int:
        """Requests of the warm-up."""
        return self.spec.arrival.lengths.warmups(self.process.measure.warmup)

    def check_outputs(self) -> None:
        """Compare the outputs that were kept in the window, and note how long its requests were."""
        if self.prepared.trace is not None:
            self.prepared.trace.note(self.buffer, self.warmups, self.loop.rows)
        if found := self.loop.outputs.compare(self.spec.precision):
            self.known["outputs_check"] = found

    def measure(self, start_ns: int) -> None:
        """Iterate from ``start_ns`` until the run's stop flag, N times in the fixed protocol, or block by block."""
        measure, arrival = self.process.measure, self.spec.arrival
        alone = len(self.process.tenants) == 1
        spin_ns = START_SPIN_NS if alone else SPIN_NS  # threads of one process would keep each other from starting
        closed = arrival.kind == "closed"
        iterations = measure.iterations if measure.overlap == "fixed" else None
        self.loop.outputs.plan(self.loop.rows, measure.iterations, self.spec.seed)
        with tracing.traced_phase(self.process, self.id):
            if measure.design == "crossover":
                self.loop.measure_blocks(_move_process if alone else _move_thread)
                return
            sleep_until(start_ns, spin_ns)
            if closed:
                self.loop.measure_closed(iterations)
            else:
                self.loop.measure_open(self.arrivals_ns, start_ns)

    def probe_lock(self) -> None:
        """Share of the latency in which this thread waits for those of its neighbours to let it enqueue."""
        self.known["lock_wait_pct"] = lock_wait_pct(self.loop.request, self.loop.timer)

    def probe_busy(self) -> None:
        """Device time of a request whose kernels were all queued before the first one ran: the host out of the way.

        A spinning kernel holds the device while the host enqueues the request. One with more kernels than CUDA queues
        (about 1000), or one that synchronises, cannot be held; the durations of its traced kernels are added instead.
        """
        latency_ms = float(np.median(self.buffer.samples().measured.service_ms))
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        queued_ms = []
        for _ in range(_BUSY_REQUESTS):
            torch.cuda._sleep(int(_HOLD * latency_ms * _CYCLES_PER_MS))
            first.record()
            self.loop.request()
            last.record()
            queued = not first.query()  # the device was still held when the last kernel had been enqueued
            last.synchronize()
            if queued:
                queued_ms.append(first.elapsed_time(last))
        self.busy_ms = float(np.median(queued_ms)) if queued_ms else tracing.busy_ms(self.loop.request)

    def facts(self) -> dict[str, Any]:
        """The tenant's side of the proof, and what it ran on."""
        with torch.cuda.stream(self.stream):
            facts = self.device.facts()
        facts |= {
            "pid": os.getpid(),
            "thread_id": self.thread_id,
            "parameters": self.parameters,
            "attn_implementation": self.spec.model.attn_implementation,
            "num_threads": torch.get_num_threads(),
            "cores": sorted(os.sched_getaffinity(0)),
            **library_versions(),
        }
        facts |= self.known | (self.shared.facts() if self.shared else {})
        if self.partition is not None:
            facts["partition_sm_count"] = self.partition.sm_count
            facts["partition_sm_ids"] = partitions.sm_ids(self.partition.stream)
        elif self.process.measure.probe_sms and isinstance(self.device, CudaDevice):
            facts["sm_ids"] = partitions.sm_ids(self.stream or torch.cuda.current_stream())
        if self.spec.execution == "compile":
            facts["compiled_graphs"] = execution.compiled_graphs()
        if self.busy_ms is not None:
            facts["busy_ms"] = self.busy_ms
        return facts

    def leave(self) -> None:
        """Keep shared weights until no tenant uses them any more."""
        if self.shared is not None:
            self.shared.close()

    def on_own_stream(self, action: Callable[[_Tenant], None]) -> None:
        """Body of the tenant's thread; a failure stops the neighbours and is kept for the main thread."""
        try:
            with torch.inference_mode(), torch.cuda.stream(self.stream):
                self.guarded(action)
        except Exception as error:  # noqa: BLE001  a thread's outermost frame
            self.error = error
            self.board.stop()

    def guarded(self, action: Callable[[_Tenant], None]) -> None:
        """Run ``action`` on this thread, which is the tenant's; an error leaves with the tenant's id on it."""
        self.thread_id = threading.get_native_id()
        try:
            action(self)
        except Exception as error:
            error.tenant = self.id  # type: ignore[attr-defined]
            raise


def _shared(job: TenantJob) -> SharedModel | None:
    """The weights that the tenant shares with others, if it does."""
    if not job.weights:
        return None
    from mtexp.tenant.shared_weights import SharedModel  # with transformers, which not every tenant needs

    return SharedModel(job.weights, keeper=job.keeps_weights)


def _places(job: ProcessJob, device: CpuDevice | CudaDevice) -> list[_Place]:
    """The stream of each tenant: in a partition of its own, one of its own, or (a lone tenant) the default."""
    sizes = [tenant.sm_count for tenant in job.tenants]
    if any(sizes):
        return [(partition.stream, partition) for partition in partitions.part(sizes)]
    return [(device.stream() if len(sizes) > 1 else None, None) for _ in sizes]


def _move_process(core: int) -> None:
    """Move all threads of this process, also those of CUDA, to ``core``."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), {core})


def _move_thread(core: int) -> None:
    """Move the calling thread to ``core``; other threads of the process are other tenants'."""
    os.sched_setaffinity(0, {core})


def _send(connection: Connection, **message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())

"""The tenants of one run: started together, led through their phases, stopped in order whatever happens.

May touch: the starters, the tenants' socket and their shared memory. Every wait has a deadline; a missed one names the
tenant, the seconds, its exit code and the last lines of its log.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from mtexp.errors import TenantFailed, interrupted_twice
from mtexp.launch.starters import Starter
from mtexp.launch.tenant_handle import TenantHandle, receive, stop_at_once, stop_in_order
from mtexp.metrics.samples import Samples
from mtexp.processes import signals_postponed
from mtexp.spec import DeadlineSpec
from mtexp.tenant.buffers import Board, SampleBuffer
from mtexp.tenant.job import PACKAGE, Message, ProcessJob

_POLL_S = 0.01
_LEAD_NS = 50_000_000  # between sending the start and the start: longer than any delivery
_GATE_LEAD_NS = 3_000_000  # between announcing a block and its start: some looks of the tenants at the gate
_GATE_S = 0.0005
_LOOK_S = 1.0  # within a block this process sleeps so long at most

Enough = Callable[[int, int, float], bool]


class TenantGroup:
    """The tenant processes of one run, as a context manager.

    Args:
        starter: How processes are started.
        deadlines: Seconds each phase may take.
        folder: Existing directory for sample buffers; logs go to its ``logs`` folder.
        release: Called with the pid of a process before it is killed with work in flight (CUDA MPS).
    """

    def __init__(
        self,
        starter: Starter,
        deadlines: DeadlineSpec,
        folder: Path,
        *,
        release: Callable[[int], None] = lambda pid: None,
    ) -> None:
        self._starter, self._deadlines, self._folder, self._release = starter, deadlines, folder, release
        self.address = f"mtexp-{uuid.uuid4().hex[:16]}"
        self._processes: list[TenantHandle] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffers: dict[int, SampleBuffer] = {}
        self._board: Board
        self._tenants: list[str] = []
        self._begun_s, self._blocks = 0.0, 0

    def __enter__(self) -> TenantGroup:
        self._listener.bind("\0" + self.address)  # abstract: nothing to leave behind
        self._listener.listen(64)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if interrupted_twice(error):
                self._stop_at_once()
            else:
                self._stop_in_order()
        except BaseException:
            self._stop_at_once()
            raise
        finally:
            self._listener.close()

    # phases

    def allocate(self, tenants: Sequence[str], capacity: int) -> tuple[Path, list[Path]]:
        """Make the board and one sample buffer of ``capacity`` rows a tenant; returns their paths."""
        self._tenants = list(tenants)
        board = self._folder / "board.bin"
        self._board = Board(board, len(tenants), create=True)
        paths = [self._folder / f"samples-{slot}.bin" for slot in range(len(tenants))]
        self._buffers = {slot: SampleBuffer(path, capacity, create=True) for slot, path in enumerate(paths)}
        return board, paths

    def start(self, jobs: Sequence[ProcessJob]) -> None:
        """Start all processes, wait until each has connected, and have them build.

        Raises:
            TenantFailed: One ended or did not connect within ``deadlines.start_s``, or could not be started at all.
        """
        for job in jobs:
            try:
                with signals_postponed():
                    self._processes.append(TenantHandle(job, self._starter.start(job)))
            except EOFError as error:
                cause = "its process cannot be started: the forkserver did not answer, or has ended"
                raise TenantFailed(job.ids, "start", cause) from error
            except OSError as error:  # no process, no memory, no disk
                raise TenantFailed(job.ids, "start", f"its process cannot be started: {error}") from error
        deadline = time.monotonic() + self._deadlines.start_s
        while waiting := [p for p in self._processes if p.connection is None]:
            wait([self._listener, *(p.child.sentinel for p in waiting)], _POLL_S * 10)
            self._accept_all()
            for process in waiting:
                if process.connection is None and process.child.exit_code() is not None:
                    raise process.ended("start")
            if time.monotonic() > deadline:
                raise self._late(waiting[0], "start", "start_s")
        self._send_all(do="build")  # they do while the caller starts the sampler

    def build(self) -> dict[str, dict[str, Any]]:
        """Wait until all models are built; returns each tenant's facts."""
        return _facts(self._collect("built", "build", "build_s", set()))

    def begin_warm_up(self) -> None:
        """Have all tenants warm up, together."""
        self._send_all(do="warm_up")

    def warm_up(self) -> dict[str, dict[str, Any]]:
        """Wait until all have warmed up; returns each tenant's facts (the proof before the window)."""
        return _facts(self._collect("warm", "warm_up", "warmup_s", set()))

    def measure(self, enough: Enough) -> None:
        """Start all at one instant; measure until ``enough(slot, iterations, elapsed_s)`` held once for every tenant.

        Args:
            enough: Called every 10 ms for each tenant of which it did not yet hold.

        Raises:
            TenantFailed: A tenant failed, or made no progress for ``deadlines.stall_s``, or ``measure_s`` passed.
        """
        start_ns = time.monotonic_ns() + _LEAD_NS
        self._send_all(do="measure", start_ns=start_ns)
        measured: set[str] = set()
        open_slots = set(self._buffers)
        while open_slots and len(measured) < len(self._processes):
            measured |= self._messages("measured", "measure").keys()
            elapsed_s = time.monotonic() - start_ns / 1e9
            open_slots = {slot for slot in open_slots if not self._satisfied(slot, enough, elapsed_s)}
            self._check_progress(elapsed_s, measured)
        self._board.stop()
        # a torch trace is written before the answer: minutes for many kernels, in which nothing is measured any more
        traced = any(process.job.torch_trace for process in self._processes)
        self._collect("measured", "measure", "measure_s" if traced else "stall_s", measured)

    def begin_blocks(self) -> None:
        """Send all tenants to the gate, where they wait for :meth:`block`."""
        self._send_all(do="measure", start_ns=0)
        self._begun_s, self._blocks = time.monotonic(), 0

    def block(
        self,
        active: Collection[int],
        length_ns: int,
        cores: Mapping[int, int],
        idle: Sequence[tuple[TenantGroup, Mapping[int, int]]] = (),
    ) -> tuple[int, int]:
        """Have the tenants in the slots ``active`` measure for ``length_ns`` while the others, and this process, sleep.

        Args:
            active: Slots; at least one.
            length_ns: Requests that start later do not count.
            cores: By slot: the CPU core that a tenant moves to first.
            idle: Other groups at the gate, whose tenants all sleep; of each, the cores that its tenants move to.

        Returns:
            Start and end of the block on the monotonic clock, when every request has ended.

        Raises:
            TenantFailed: A tenant failed, or made no progress for ``deadlines.stall_s``, or ``measure_s`` passed.
        """
        start_ns = time.monotonic_ns() + _GATE_LEAD_NS
        end_ns = start_ns + length_ns
        for group, active_here, moves in (*((other, (), own) for other, own in idle), (self, active, cores)):
            group._blocks += 1
            group._board.open_block(group._blocks, start_ns, end_ns, active_here, moves)
        gone: set[str] = set()
        while waited := {slot for slot in active if self._board.left(slot) < self._blocks}:
            rest_s = (end_ns - time.monotonic_ns()) / 1e9
            gone |= self._messages("measured", "measure", timeout_s=min(max(rest_s, _GATE_S), _LOOK_S)).keys()
            self._check_progress(time.monotonic() - self._begun_s, set(), waited)
        if self._board.stopped:  # by a tenant that failed or got a signal; it then reports why, or ends
            self._collect("measured", "measure", "stall_s", gone)
        return start_ns, end_ns

    def end_blocks(self) -> None:
        """Release the tenants from the gate, and wait until all have left it."""
        self._board.stop()
        already = {p.name for p in self._processes if all(self._board.done(job.slot) for job in p.job.tenants)}
        self._collect("measured", "measure", "stall_s", already)

    def begin_finish(self) -> None:
        """After the second barrier: have all tenants probe their device and look at themselves."""
        self._send_all(do="finish")

    def finish(self) -> dict[str, dict[str, Any]]:
        """Wait until all have; returns each tenant's facts (the proof after the window)."""
        return _facts(self._collect("finished", "finish", "build_s", set()))

    def samples(self) -> dict[str, Samples]:
        """Everything measured so far, by tenant id, also of tenants that have failed."""
        return {self._tenants[slot]: buffer.samples() for slot, buffer in self._buffers.items()}

    def has_buffer(self, slot: int) -> bool:
        """Whether there is a place for what a tenant measures: not where the disk had no room for it."""
        return slot in self._buffers

    def sample(self, slot: int) -> Samples:
        """What one tenant has measured so far."""
        return self._buffers[slot].samples()

    def full(self) -> list[str]:
        """Tenants whose sample buffer has no room left."""
        return [self._tenants[slot] for slot in self._buffers if self.is_full(slot)]

    def is_full(self, slot: int) -> bool:
        """Whether the sample buffer of one tenant has no room left."""
        buffer = self._buffers.get(slot)
        return buffer is not None and buffer.header[0] >= buffer.capacity

    @property
    def gone(self) -> bool:
        """True once its processes have been stopped."""
        return not self._processes

    @property
    def pids(self) -> list[int]:
        """Pids of the tenant processes."""
        return [p.child.pid for p in self._processes]

    # talking

    def _accept_all(self) -> None:
        while wait([self._listener], 0):
            connected, _ = self._listener.accept()
            _, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != os.getuid():
                connected.close()
                continue
            connection = Connection(connected.detach())
            hello = receive(connection, 1.0) or {}
            for process in self._processes:
                if process.name == hello.get("name"):
                    process.connection = connection
                    self._check_package(process, hello)

    def _check_package(self, process: TenantHandle, hello: Message) -> None:
        """Refuse a tenant that has imported another mtexp than this one: what it measures is not what is recorded."""
        if hello["package"] != PACKAGE:
            cause = f"it has imported {hello['package']} and not {PACKAGE}: install the one that is run"
            raise process.failed("start", cause)

    def _send_all(self, **message: Any) -> None:
        data = json.dumps(message).encode()
        for process in self._processes:
            if process.connection is not None:
                with contextlib.suppress(OSError):  # it has died: the next wait finds its sentinel and says so
                    process.connection.send_bytes(data)

    def _collect(self, event: str, phase: str, key: str, already: set[str]) -> dict[str, Message]:
        answers: dict[str, Message] = {name: {} for name in already}
        deadline = time.monotonic() + getattr(self._deadlines, key)
        while missing := [p for p in self._processes if p.name not in answers]:
            answers |= self._messages(event, phase, missing)
            if time.monotonic() > deadline:
                raise self._late(missing[0], phase, key)
        return answers

    def _messages(
        self, event: str, phase: str, among: Sequence[TenantHandle] | None = None, timeout_s: float = _POLL_S
    ) -> dict[str, Message]:
        """Messages that arrive within ``timeout_s``; an error or an ended process raises."""
        processes = list(self._processes if among is None else among)
        connections = [p.connection for p in processes if p.connection is not None]
        wait([*connections, *(p.child.sentinel for p in processes)], timeout_s)
        answers: dict[str, Message] = {}
        for process in processes:
            message = process.receive()
            if message is None and process.child.exit_code() is not None:
                message = process.receive()  # it may have spoken before it ended
                if message is None:
                    raise process.ended(phase)
            if message is not None and message["event"] == "error":
                process.child.wait(1.0)
                raise process.failed(phase, message["message"], tenant=message["tenant"])
            if message is not None and message["event"] == event:
                answers[process.name] = message
        return answers

    def _satisfied(self, slot: int, enough: Enough, elapsed_s: float) -> bool:
        if self._board.done(slot):
            return True
        measured = self._board.measured(slot)
        return measured > 0 and enough(slot, measured, elapsed_s)

    def _check_progress(self, elapsed_s: float, measured: set[str], active: Collection[int] | None = None) -> None:
        """Raise if a tenant (of the slots ``active``; None = of all) stalls or the phase lasts too long."""
        now = time.monotonic()
        for process in self._processes:
            if process.name in measured:
                continue
            if elapsed_s > self._deadlines.measure_s:
                raise self._late(process, "measure", "measure_s")
            for job in process.job.tenants:
                if active is not None and job.slot not in active:
                    continue
                heartbeat = self._board.heartbeat(job.slot)
                last_heartbeat, since = process.progress.get(job.slot, (-1, now))
                if heartbeat != last_heartbeat:
                    process.progress[job.slot] = (heartbeat, now)
                elif now - since > self._deadlines.stall_s and not self._board.done(job.slot):
                    count = self._board.measured(job.slot)
                    cause = f"no iteration for {self._deadlines.stall_s:g} s (deadlines.stall_s) after {count}"
                    raise process.failed("measure", cause, tenant=job.tenant.id)

    # stopping

    def _stop_in_order(self) -> None:
        """Ask them to end, then end those that do not."""
        if not self._processes:
            return
        if self._buffers:
            self._board.stop()
        self._send_all(do="exit")
        stop_in_order(self._processes, self._deadlines.stop_s, self._release)
        self._processes.clear()

    def _stop_at_once(self) -> None:
        stop_at_once(self._processes, self._deadlines.stop_s, self._release)
        self._processes.clear()

    def _late(self, process: TenantHandle, phase: str, key: str) -> TenantFailed:
        return process.failed(phase, f"no answer within {getattr(self._deadlines, key):g} s (deadlines.{key})")


def _facts(answers: dict[str, Message]) -> dict[str, dict[str, Any]]:
    """What each tenant says of itself, by its id."""
    return {tenant: facts for answer in answers.values() for tenant, facts in answer["facts"].items()}

"""The handle of one tenant process: its messages, why it failed, and how several are stopped.

May touch: the process, its socket and its log.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from mtexp.errors import TenantFailed
from mtexp.launch.endings import tail, why
from mtexp.launch.starters import Child
from mtexp.tenant.job import Message, ProcessJob

_RELEASE_S = 1.0  # grace period for the cleanup of MPS after a second Ctrl-C


@dataclass(slots=True)
class TenantHandle:
    """A process that was started for one job."""

    job: ProcessJob
    child: Child
    connection: Connection | None = None
    """None until it has connected."""
    progress: dict[int, tuple[int, float]] = field(default_factory=dict)
    """By slot: the last heartbeat that was seen, and since when."""

    @property
    def name(self) -> str:
        """Name of its job."""
        return self.job.name

    def receive(self) -> Message | None:
        """Return its next message, if there is one already."""
        return receive(self.connection)

    def failed(self, phase: str, cause: str, *, tenant: str = "") -> TenantFailed:
        """Return the error of a failure of ``tenant``, or of all tenants of this process, with the end of its log."""
        log = Path(self.job.log)
        return TenantFailed(
            tenant or self.job.ids,
            phase.replace("_", "-"),
            cause,
            exit_code=self.child.exit_code(),
            log=log,
            log_tail="\n".join(tail(log)),
        )

    def ended(self, phase: str) -> TenantFailed:
        """Return the error of a process that has ended too early."""
        return self.failed(phase, why(self.child.exit_code() or 0))


def receive(connection: Connection | None, timeout_s: float = 0) -> Message | None:
    """Return the message that arrives within ``timeout_s``; None without one."""
    try:
        if connection is None or not connection.poll(timeout_s):
            return None
        message: Message = json.loads(connection.recv_bytes())
    except (EOFError, ConnectionError):
        return None
    return message


def stop_in_order(processes: Sequence[TenantHandle], stop_s: float, release: Callable[[int], None]) -> None:
    """Wait for processes that were asked to end; terminate, wait, kill, reap.

    Args:
        processes: Some may have ended.
        stop_s: Seconds that they have to end after they were asked; half as many after SIGTERM.
        release: Called with the pid of a process before it is killed with work in flight (CUDA MPS).
    """
    alive = list(processes)
    for asked, patience_s in ((True, stop_s), (False, stop_s / 2)):
        for process in alive:
            if not asked or process.connection is None:  # who has not connected cannot be asked
                process.child.terminate()
        deadline = time.monotonic() + patience_s
        alive = [p for p in alive if not p.child.wait(max(0.0, deadline - time.monotonic()))]
    for process in alive:
        release(process.child.pid)
    _kill(processes, stop_s)


def stop_at_once(processes: Sequence[TenantHandle], stop_s: float, release: Callable[[int], None]) -> None:
    """As :func:`stop_in_order`, without asking or waiting, for a user who has pressed Ctrl-C twice."""
    alive = [process.child.pid for process in processes if process.child.exit_code() is None]
    releasing = threading.Thread(target=lambda: list(map(release, alive)), daemon=True)
    releasing.start()
    releasing.join(_RELEASE_S)
    _kill(processes, stop_s)


def _kill(processes: Sequence[TenantHandle], stop_s: float) -> None:
    for process in processes:
        if process.child.exit_code() is None:
            process.child.kill()
    for process in processes:
        if process.child.wait(stop_s):
            process.child.close()
        if process.connection is not None:
            process.connection.close()

"""The neighbour of a churn run, as the parent sees it: it starts it, sends it commands, and notices its end.

May touch: the starters, a socket of its own. The other side is :mod:`mtexp.tenant.neighbour`.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
import uuid
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from mtexp.launch.starters import Child, Starter
from mtexp.processes import signals_postponed
from mtexp.tenant.job import Message, ProcessJob

_POLL_S = 0.005


class NeighbourGone(Exception):
    """It has ended, or does not answer; the message says how."""


class NeighbourHandle:
    """One neighbour after another, behind one socket.

    Args:
        starter: How its processes are started.
        stop_s: Seconds it gets to end before it is killed.
        release: Called with its pid before it is killed at the end of the run (CUDA MPS).
    """

    def __init__(self, starter: Starter, stop_s: float, *, release: Callable[[int], None] = lambda pid: None) -> None:
        self._starter, self._stop_s, self._release = starter, stop_s, release
        self.address = f"mtexp-{uuid.uuid4().hex[:16]}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._child: Child | None = None
        self._connection: Connection | None = None
        self.pid = 0

    def __enter__(self) -> NeighbourHandle:
        self._listener.bind("\0" + self.address)
        self._listener.listen(8)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._release(self._child.pid)
        self.forget()
        self._listener.close()

    @property
    def alive(self) -> bool:
        """Whether there is one, as far as can be seen without asking it."""
        if self._connection is None or (self._child is not None and self._child.exit_code() is not None):
            return False
        try:  # it sends nothing unasked: anything to read here is its end
            return not self._connection.poll(0)
        except OSError:
            return False

    def start(self, job: ProcessJob | None, deadline_s: float) -> None:
        """Start a process, or (None) greet the thread in the process of the steady tenant.

        Raises:
            NeighbourGone: It ended, or did not say hello in time.
        """
        self.forget()
        if job is not None:
            try:
                with signals_postponed():
                    self._child = self._starter.start(job)
            except (OSError, EOFError) as error:
                raise NeighbourGone(f"its process cannot be started: {error}") from error
        deadline = time.monotonic() + deadline_s
        while True:
            wait([self._listener, *([self._child.sentinel] if self._child else [])], _POLL_S)
            connection = self._accepted()
            if connection is not None and self._greeted(connection):
                return
            if self._child is not None and self._child.exit_code() is not None:
                raise NeighbourGone(f"its process ended (exit code {self._child.exit_code()})")
            if time.monotonic() > deadline:
                raise NeighbourGone(f"it did not say hello within {deadline_s:g} s")

    def _accepted(self) -> Connection | None:
        if not wait([self._listener], 0):
            return None
        connected, _ = self._listener.accept()
        _, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            connected.close()
            return None
        return Connection(connected.detach())

    def _greeted(self, connection: Connection) -> bool:
        """Take the connection if its hello comes from who was started: a thread that has died left some behind."""
        try:
            hello: Message = json.loads(connection.recv_bytes()) if connection.poll(1.0) else {}
        except (EOFError, OSError):
            hello = {}
        if not hello or (self._child is not None and hello["pid"] != self._child.pid) or _ended(connection):
            connection.close()
            return False
        self._connection, self.pid = connection, hello["pid"]
        return True

    def ask(self, command: str, deadline_s: float) -> Message:
        """Have it do ``command``; returns its answer, ``done`` or ``error``.

        Raises:
            NeighbourGone: It has ended, or did not answer in time.
        """
        if self._connection is None:
            raise NeighbourGone("there is none")
        try:
            self._connection.send_bytes(json.dumps({"do": command}).encode())
            if not self._connection.poll(deadline_s):
                raise NeighbourGone(f"no answer to {command} within {deadline_s:g} s")
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise NeighbourGone(f"it ended while it was asked to {command}") from error
        return answer

    def wait_for_end(self, deadline_s: float) -> bool:
        """Wait until its process has ended, where it has one; whether it has."""
        return self._child is None or self._child.wait(deadline_s)

    def kill(self) -> None:
        """SIGKILL to its process, with whatever it has in flight."""
        if self._child is not None:
            self._child.kill()

    def forget(self) -> None:
        """Let go of one that has ended; a process that has not is killed."""
        if self._connection is not None:
            self._connection.close()
        if self._child is not None:
            if not self._child.wait(self._stop_s):  # without a connection it ends by itself
                self._child.kill()
            if self._child.wait(self._stop_s):
                self._child.close()
        self._connection = self._child = None
        self.pid = 0


def _ended(connection: Connection) -> bool:
    """Whether the other side has closed the connection. It only sends answers, so anything to read here is the end."""
    try:
        return connection.poll(0)
    except OSError:
        return True

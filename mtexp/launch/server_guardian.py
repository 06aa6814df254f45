"""The small process that owns the server of a tenant, and ends all of its processes whatever becomes of the run.

Lives here: a script, started by path, that starts the command, reports when it has ended, and waits for ``stop`` or for
the end of its standard input (the run died, even by SIGKILL). It adopts every process below it, also those that have
turned themselves into daemons, so that none is lost. May touch: the standard library only, so that it starts in 50 ms.

It gets its settings as one JSON argument (:class:`Task`) and reports each event as one line of JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, TypedDict

MARK = "MTEXP_SERVER"
"""Environment variable by which the processes of a server are found should its guardian be killed."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.05
_RELEASE_S = 3.0  # what the run gets to detach clients from CUDA MPS before they are killed
_KILL_S = 5.0


class Task(TypedDict):
    """Settings of a guardian."""

    command: list[str]
    environment: dict[str, str]
    folder: str
    log: str
    cores: list[int]
    stop_s: float


def descendants(root: int) -> list[int]:
    """Return the living processes below ``root``, without it."""
    children: dict[int, list[int]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
            if fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(int(pid))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def marked(mark: str) -> list[int]:
    """Return the processes whose environment began with :data:`MARK` = ``mark``."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in _read(f"/proc/{pid}/environ").split(b"\0"):
                found.append(int(pid))
    return found


def send(pids: list[int], number: int) -> None:
    """Send a signal to processes, some of which may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _say(**message: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # the run died: no reader
        os.write(1, json.dumps(message).encode() + b"\n")


class _Guardian:
    def __init__(self, task: Task) -> None:
        self._task = task
        self._pid = 0
        self._code: int | None = None
        self._parent = os.getppid()
        self._signalled = False

    def run(self) -> None:
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            if self._start(libc):
                at_once = self._watch() == b"kill\n"
                self._end(0.0 if at_once else self._task["stop_s"])
        finally:
            self._kill()
        _say(event="stopped")

    def _on_signal(self, number: int, frame: object) -> None:
        self._signalled = True

    def _start(self, libc: ctypes.CDLL) -> bool:
        log = os.open(self._task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        cores = self._task["cores"]

        def prepare() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if cores:
                os.sched_setaffinity(0, cores)

        try:
            started = subprocess.Popen(
                self._task["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._task["environment"],
                cwd=self._task["folder"],
                start_new_session=True,
                preexec_fn=prepare,
            )
        except (OSError, subprocess.SubprocessError) as error:
            _say(event="failed", message=str(error))
            return False
        finally:
            os.close(log)
        self._pid = started.pid
        _say(event="started", pid=self._pid)
        return True

    def _watch(self) -> bytes:
        """Wait for a word of the run, its end, or a signal; say once when the command has ended."""
        reported = False
        while not self._signalled and os.getppid() == self._parent:
            if select.select([0], [], [], _POLL_S)[0]:
                return os.read(0, 4096)  # a word, or the end of the input
            self._reap()
            if self._code is not None and not reported:
                reported = True
                _say(event="ended", code=self._code, left=descendants(os.getpid()))
        return b""

    def _end(self, patience_s: float) -> None:
        """Ask the command to end; whatever is left after ``patience_s`` is killed."""
        own = [self._pid] if self._code is None else descendants(os.getpid())
        send(own, signal.SIGTERM)
        self._await_end(patience_s)
        left = descendants(os.getpid())
        if left:
            _say(event="killing", pids=left)
            select.select([0], [], [], _RELEASE_S)  # the run answers once it has detached them

    def _await_end(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while self._reap() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _kill(self) -> None:
        """Kill what is left, and what it has started meanwhile."""
        deadline = time.monotonic() + _KILL_S
        while self._reap() and time.monotonic() < deadline:
            send(descendants(os.getpid()), signal.SIGKILL)
            time.sleep(0.01)

    def _reap(self) -> bool:
        """Reap what has ended; True while there are processes below this one."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return True
                if pid == self._pid:
                    self._code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            return False


if __name__ == "__main__":
    _Guardian(json.loads(sys.argv[1])).run()

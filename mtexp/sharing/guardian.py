"""The small process that owns a CUDA MPS daemon, and takes it down whatever becomes of the run.

Lives here: a script, started by path, that starts the daemon in the foreground, waits for ``stop`` or for the end of
its standard input (the run died, even by SIGKILL), and then quits the daemon within a bound, kills what is left of it
by pid, saves its logs and removes its directory. May touch: the standard library only, so that it starts in 50 ms.

Its one argument is JSON (:class:`Task`); it reports what happened as one JSON object a line.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, TypedDict

COMM = "nvidia-cuda-mps"
"""Name of daemon, server and control command in /proc, which keeps 15 characters."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.5
_READY_POLL_S = 0.005
_TERM_S = 1.0
_KILL_S = 2.0


class Task(TypedDict):
    """Settings of a guardian."""

    command: list[str]
    """argv of the daemon; its first word also serves as the control command."""
    directory: str
    """The private directory, with ``pipe`` and ``log``; removed at the end."""
    logs: str
    """Existing directory that control.log and server.log are saved to, as mps-*.log."""
    start_s: float
    quit_s: float


def mps_processes(directory: str) -> list[int]:
    """Return the pids of daemon, server and control commands that use the pipe directory in ``directory``.

    Processes are found by name and environment, because pids are reused and a server outlives its daemon.
    """
    mark = f"CUDA_MPS_PIPE_DIRECTORY={directory}/pipe".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if not _read(f"/proc/{pid}/comm").startswith(COMM.encode()):
                continue
            fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
            state, parent = fields[0], int(fields[1])
            if state != b"Z" and (parent == os.getpid() or mark in _read(f"/proc/{pid}/environ").split(b"\0")):
                found.append(int(pid))
    return found


def kill_processes(directory: str) -> list[int]:
    """Terminate, then kill, the processes of :func:`mps_processes`; return the pids. Takes at most three seconds."""
    seen: list[int] = []
    for number, patience_s in ((signal.SIGTERM, _TERM_S), (signal.SIGKILL, _KILL_S)):
        left = mps_processes(directory)
        seen += [pid for pid in left if pid not in seen]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience_s
        while mps_processes(directory) and time.monotonic() < deadline:
            _reap()
            time.sleep(0.01)
    return seen


def save_and_remove(directory: str, logs: str) -> list[str]:
    """Copy the logs in ``directory`` to ``logs``, remove ``directory``; return error messages."""
    problems = []
    saved = (("daemon.out", "mps-control.log"), ("control.log", "mps-control.log"), ("server.log", "mps-server.log"))
    for source, target in saved:  # in the foreground the daemon may log to its output instead of control.log
        try:
            shutil.copyfile(os.path.join(directory, "log", source), os.path.join(logs, target))
        except FileNotFoundError:
            continue  # the daemon ended before it made one
        except OSError as error:
            problems.append(f"{source} not saved: {error}")
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(f"{directory} not removed: {error}")
    return problems


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _reap() -> None:
    """Adopt orphaned servers, so that they can be reaped if the daemon dies first."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _say(**message: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # the run died: no reader
        os.write(1, json.dumps(message).encode() + b"\n")


class _Guardian:
    def __init__(self, task: Task) -> None:
        self._task = task
        self._daemon: subprocess.Popen[bytes] | None = None
        self._asked_to_stop = False
        self._parent = os.getppid()

    def run(self) -> None:
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            if self._start(libc):
                self._wait_for_the_end()
        finally:
            self._stop()

    def _on_signal(self, number: int, frame: object) -> None:
        self._asked_to_stop = True

    def _start(self, libc: ctypes.CDLL) -> bool:
        """Start the daemon and report the result; True once its control socket exists."""
        said = os.path.join(self._task["directory"], "log", "daemon.out")
        out = os.open(said, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            self._daemon = subprocess.Popen(
                self._task["command"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
            )
        except OSError as error:
            _say(event="exited", code=None, message=str(error))
            return False
        finally:
            os.close(out)
        control = os.path.join(self._task["directory"], "pipe", "control")
        deadline = time.monotonic() + self._task["start_s"]
        while not os.path.exists(control):
            code = self._daemon.poll()
            if code is not None:
                _say(event="exited", code=code, message=_read(said)[-2000:].decode(errors="replace"))
                return False
            if time.monotonic() > deadline or self._asked_to_stop:
                _say(event="late", message=_read(said)[-2000:].decode(errors="replace"))
                return False
            time.sleep(_READY_POLL_S)
        _say(event="ready", pid=self._daemon.pid)
        return True

    def _wait_for_the_end(self) -> None:
        """Wait for ``stop``, the end of standard input, a signal, or a change of the parent."""
        while not self._asked_to_stop and os.getppid() == self._parent:
            if select.select([0], [], [], _POLL_S)[0]:
                os.read(0, 4096)  # "stop", or the end of the input
                return

    def _stop(self) -> None:
        quit_in_time = self._quit()
        if self._daemon is not None:
            kills = kill_processes(self._task["directory"])
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._daemon.wait(_KILL_S)
        else:
            kills = []
        _reap()
        problems = save_and_remove(self._task["directory"], self._task["logs"])
        _say(event="stopped", quit=quit_in_time, killed=kills, problems=problems)

    def _quit(self) -> bool:
        """Ask the daemon to quit and wait slightly longer than ``quit_s``; True if it ended."""
        if self._daemon is None:
            return True
        if self._daemon.poll() is not None:
            return False
        patience_s = self._task["quit_s"]
        try:
            subprocess.run(
                self._task["command"][:1],
                input=f"quit -t {patience_s:.0f}\n".encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=patience_s + 1,
                check=False,
            )
            self._daemon.wait(1.0)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return True


if __name__ == "__main__":
    _Guardian(json.loads(sys.argv[1])).run()

"""How processes are started: what they inherit, and no wait for the forkserver that could last for ever.

Lives here: :func:`shielded`, :func:`importing_alike`, :class:`Started`, :func:`start_forkserver`. May touch:
multiprocessing, signals, the environment while a process is started, psutil.

A forkserver may be stopped (SIGSTOP) or hang. Then it neither starts processes nor reports that one has ended. So a
start has a deadline, after which the server is killed (the next start gets a new one), and the end of a process is
seen through a file descriptor that the kernel keeps (pidfd).
"""

from __future__ import annotations

import atexit
import multiprocessing.forkserver
import multiprocessing.process
import multiprocessing.util
import os
import shutil
import signal
import site
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import psutil

PRELOADED = ["mtexp.launch.starters", "mtexp.telemetry.sampler", "mtexp.tenant.preload"]
"""What a forkserver imports, so that tenants and sampler import nothing; after the last one its collector rests."""
START_S = 120.0
"""Seconds in which a forkserver has started a process; the first one waits for its imports."""
UNKNOWN = 255
"""Exit code of a process whose forkserver does not report it; multiprocessing uses it for a server that has ended."""
_LOOK_S = 0.25
_STOPPED_LOOKS = 4
"""A server that is seen stopped so many times in a row is given up."""
_SIGNAL_S = 2.0
"""What a start may still take once a signal has asked this process to end."""
_EXIT_CODE_S = 1.0
"""Longest wait for the exit code of a process that has ended."""
_LONGEST_TEMPORARY = 64
"""Bytes of TMPDIR: with multiprocessing's own names behind it, the address of a socket has at most 107."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def shielded() -> Iterator[None]:
    """Start processes that are this one's to end, and that import what this one imports.

    Ctrl-C and the end of a terminal do not reach them.
    """
    _shorten_temporary()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        with _environment(importing_alike()), main_hidden():
            resource_tracker.ensure_running()  # it would unblock SIGINT
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@cache
def importing_alike() -> Mapping[str, str]:
    """Return the environment with which a fresh interpreter imports the mtexp that runs here, and no stray module.

    A forkserver does not get ``sys.path`` (python/cpython#117378): of two checkouts, it would import the one that is
    installed. The current folder is kept out: a ``calendar.py`` there would be taken for the standard library's.
    """
    environment = {"PYTHONSAFEPATH": "1"}
    root = str(Path(__file__).resolve().parents[1])
    if root not in {*site.getsitepackages(), sysconfig.get_path("purelib"), site.getusersitepackages()}:
        others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", root)]
        environment["PYTHONPATH"] = os.pathsep.join([root, *(os.path.abspath(path) for path in others)])
    return environment


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def main_hidden() -> Iterator[None]:
    """Keep multiprocessing from importing the main script again in a process that is started meanwhile.

    Tenants use nothing of it. Imported again, a script without a ``__main__`` guard would start its runs
    again, and one that came through stdin cannot be found.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _shorten_temporary() -> None:
    """Give multiprocessing a short folder for its sockets where TMPDIR is too long for one."""
    config: dict[str, Any] = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
    if config.get("tempdir") or len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TEMPORARY:
        return
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        with suppress(OSError):
            config["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir=place)
            multiprocessing.util.Finalize(None, shutil.rmtree, (config["tempdir"], True), exitpriority=-100)
            return


@contextmanager
def signals_postponed(at_signal: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP raise when the block has ended, not within it.

    Within it a process is started and noted: between the two, a signal would leave a process behind.

    Args:
        at_signal: Called at once when a signal comes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []

    def note(signum: int, frame: FrameType | None) -> None:
        came.append((signum, frame))
        at_signal()

    before: dict[int, Callable[..., Any]] = {s: handler for s in _ENDING if callable(handler := signal.getsignal(s))}
    for signum in before:
        signal.signal(signum, note)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for signum, frame in came[:1]:
            before[signum](signum, frame)


class Started:
    """A process of multiprocessing, started; its end is seen even if the forkserver does not report it.

    Args:
        process: Not started.

    Raises:
        OSError, EOFError: It was not started; the server has been killed if it did not answer.
    """

    def __init__(self, process: Any) -> None:
        self.process = process
        self._exit_code: int | None = None
        self._ended_at = 0.0
        if isinstance(process, ForkServerProcess):
            start_forkserver()
            watch = _Watch()
            with watch, signals_postponed(watch.hurry), main_hidden():
                process.start()
        else:
            with main_hidden():
                process.start()
        self.pid: int = process.pid
        try:
            self.sentinel: Any = os.pidfd_open(self.pid)
            self._own = True
        except OSError:  # it has ended already, and the server knows
            self.sentinel, self._own = process.sentinel, False

    def exit_code(self) -> int | None:
        """Exit code, negative for a signal, :data:`UNKNOWN` where nothing reports it; None while it runs."""
        if self._exit_code is not None or (self._own and not wait([self.sentinel], 0)):
            return self._exit_code
        self._exit_code = self.process.exitcode
        if self._exit_code is None and self._own:
            self._ended_at = self._ended_at or time.monotonic()
            if time.monotonic() - self._ended_at > _EXIT_CODE_S:
                self._exit_code = UNKNOWN
        return self._exit_code

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, signum: signal.Signals) -> None:
        with suppress(OSError):  # it has ended
            if self._own:
                signal.pidfd_send_signal(self.sentinel, signum)
            else:
                os.kill(self.pid, signum)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; True when it has ended."""
        ended = bool(wait([self.sentinel], timeout_s))
        deadline = time.monotonic() + 2 * _EXIT_CODE_S
        while ended and self.exit_code() is None and time.monotonic() < deadline:
            wait([self.process.sentinel], _LOOK_S)
        return self.exit_code() is not None

    def close(self) -> None:
        """Release what the handle holds; the process has ended."""
        if self._own:
            os.close(self.sentinel)
            self._own = False
        with suppress(ValueError):  # the server has not reported it yet
            self.process.close()


def start_forkserver() -> None:
    """Start the forkserver unless it runs; its imports go on beside whatever the caller does next."""
    end_stopped()
    with shielded():
        multiprocessing.forkserver.ensure_running()


class _Watch:
    """Kills the forkserver when a start takes too long, so that the caller who waits for its answer gets an error."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + START_S
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="mtexp-start")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def hurry(self) -> None:
        self._deadline = min(self._deadline, time.monotonic() + _SIGNAL_S)

    def _look(self) -> None:
        seen = 0
        while not self._done.wait(_LOOK_S):
            seen = seen + 1 if is_stopped(_server()) else 0
            if seen >= _STOPPED_LOOKS or time.monotonic() > self._deadline:
                _kill(_server())
                return


def end_stopped() -> None:
    """Kill the forkserver and the resource tracker if they are stopped: they would keep this process from its end."""
    for pid in (_server(), getattr(resource_tracker._resource_tracker, "_pid", None)):
        if is_stopped(pid):
            _kill(pid)


def is_stopped(pid: int | None) -> bool:
    """Whether a process is stopped by a signal (SIGSTOP, SIGTSTP)."""
    try:
        return bool(pid) and psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def _server() -> int | None:
    pid: int | None = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return pid


def _kill(pid: int | None) -> None:
    """Kill a child and wait for its end, without reaping it: until then multiprocessing takes it for alive."""
    if pid:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _end_helpers() -> None:
    """End forkserver and resource tracker and wait for it: one that is stopped later would stay for ever.

    The tracker ends when nobody has its pipe any more; where somebody else still has, it is left alone.
    """
    _kill(_server())
    tracker: Any = resource_tracker._resource_tracker
    if (pid := tracker._pid) is None:  # there is none, or it is another process's
        return
    os.close(tracker._fd)
    tracker._fd = tracker._pid = None
    deadline = time.monotonic() + _EXIT_CODE_S
    while time.monotonic() < deadline and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if is_stopped(pid):
            _kill(pid)
        time.sleep(0.005)


atexit.register(end_stopped)  # before multiprocessing waits for what it has started
multiprocessing.util.Finalize(None, _end_helpers, exitpriority=-200)  # after it has

"""Signals that end a command line in order. May touch: the signal handlers of this process.

A signal raises in whatever runs at that instant, which may be a library that catches everything. So it is also noted:
:func:`check` raises it again before the next point of a sweep, and :func:`ended_by` tells at the end.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_received: list[int] = []


class Ended(KeyboardInterrupt):
    """A signal wants this process to end; the way out is that of Ctrl-C."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


def check() -> None:
    """Raise once more what a signal has raised; does nothing where none has come."""
    if _received:
        _raise(_received[0])


def ended_by() -> int:
    """Return the first signal that has come, 0 where none has."""
    return _received[0] if _received else 0


def _raise(signum: int) -> None:
    raise KeyboardInterrupt if signum == signal.SIGINT else Ended(signum)


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return 130 after Ctrl-C, 128 and its number after another signal."""
    return 128 + (stop.signum if isinstance(stop, Ended) else signal.SIGINT)


def ended_in_order(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; it is that of the signal where one came."""
    with _signals_as_ctrl_c():
        try:
            return command()
        except KeyboardInterrupt as stop:
            return exit_code(stop)
        except Exception:
            if _received:  # a signal in the middle of something that did not expect one
                return 128 + _received[0]
            raise


@contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM (a scheduler) and SIGHUP (a terminal that is gone, unless under nohup) like Ctrl-C; note all."""

    def end(signum: int, frame: FrameType | None) -> None:
        _received.append(signum)
        _raise(signum)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if (signum == signal.SIGINT) == callable(signal.getsignal(signum)):  # neither ignored nor somebody else's
                before[signum] = signal.signal(signum, end)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _received.clear()

"""Signals that end a command in order. May touch: the signal handlers of this process.

A signal raises in whatever runs at that instant, which may be a library that catches everything. So it is also noted:
:func:`check` raises it again before the next point of a sweep, and :func:`ended_by` tells at the end. A command that
starts several runs does so with :func:`in_turn`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALLED = 128
"""The exit code of a command that a signal ended is this and the signal's number."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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
    """Return the exit code that the first signal asks for, 0 where none has come."""
    return _SIGNALLED + _received[0] if _received else 0


def _raise(signum: int) -> None:
    raise KeyboardInterrupt if signum == signal.SIGINT else Ended(signum)


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return 130 after Ctrl-C, 128 and its number after another signal."""
    return _SIGNALLED + (stop.signum if isinstance(stop, Ended) else signal.SIGINT)


def cause(code: int) -> str:
    """Return ``Ctrl-C`` or ``SIGTERM`` for the exit code of a command that it ended; empty for any other code."""
    signum = code - _SIGNALLED
    if signum not in _ENDING:
        return ""
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


def in_turn(runs: Iterable[Callable[[], int]]) -> tuple[list[int], int]:
    """Run one after another until a signal ends one, or comes between two.

    Returns:
        The exit code of each run that began and ended, and the highest: that of the signal where one came.
    """
    codes: list[int] = []

    def all_of_them() -> int:
        for run in runs:
            codes.append(run())
            if cause(codes[-1]):
                break
        return max(codes, default=0)

    return codes, ended_in_order(all_of_them)


def ended_in_order(command: Callable[[], int], tell: Callable[[str], None] = lambda why: None) -> int:
    """Run a command and return its exit code; it is that of the signal where one came.

    Args:
        command: Returns an exit code; a signal that it does not catch ends it.
        tell: Called with the :func:`cause` where a signal has ended the command, which could then not say so itself.
    """
    with _signals_as_ctrl_c():
        try:
            return command()
        except KeyboardInterrupt as stop:
            code = exit_code(stop)
        except Exception:
            if not _received:
                raise
            code = ended_by()  # a signal in the middle of something that did not expect one
    tell(cause(code))
    return code


@contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM (a scheduler) and SIGHUP (a terminal that is gone, unless under nohup) like Ctrl-C; note all."""

    def end(signum: int, frame: FrameType | None) -> None:
        _received.append(signum)
        _raise(signum)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for signum in _ENDING:
            own = signal.getsignal(signum)
            if callable(own) if signum == signal.SIGINT else own is signal.SIG_DFL:  # not ignored or somebody else's
                before[signum] = signal.signal(signum, end)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _received.clear()

"""Signals that end a command line in order. May touch: the signal handlers of this process, the console."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mtexp.terminal import console


class Ended(KeyboardInterrupt):
    """A signal wants this process to end; the way out is that of Ctrl-C."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


@contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM (a scheduler) and SIGHUP (a terminal that is gone, unless under nohup) like Ctrl-C."""

    def end(signum: int, frame: FrameType | None) -> None:
        console.lose_terminal()
        raise Ended(signum)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is signal.SIG_DFL:
                before[signum] = signal.signal(signum, end)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

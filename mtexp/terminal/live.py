"""The last line of a terminal: which run of how many, its phase, the time used and left. May touch: stdout.

A thread draws it once a second. While tenants measure, that is one short write a second, on the CPU cores to which the
main thread keeps itself then: never on one of the tenants'.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PERIOD_S = 1.0
_CLEAR = "\r\x1b[K"


class LiveLine:
    """One line that is drawn again every second, below everything that is printed.

    Args:
        total: Runs of the sweep; 0 = not known.
    """

    def __init__(self, total: int = 0) -> None:
        self.total, self.done, self.now = total, 0, "starting"
        self.begun_s = self.run_s = time.monotonic()
        self._lock, self._stop = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._tick, name="live line", daemon=True)

    def __enter__(self) -> LiveLine:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        with self._lock:
            _write(_CLEAR)

    def show(self, text: str) -> None:
        """Set what the run does now; it is drawn within a second."""
        self.now = text

    def begin_run(self) -> None:
        """Start the clock of the next run."""
        self.run_s = time.monotonic()

    def end_run(self) -> None:
        """Count one run as done."""
        self.done += 1
        self.run_s = time.monotonic()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the line away while something else is printed."""
        with self._lock:
            _write(_CLEAR)
            yield
            self.draw()

    def text(self, now_s: float, width: int) -> str:
        """The line at ``now_s`` on the monotonic clock; what the run does is cut where it takes more than ``width``."""
        head = f"[{min(self.done + 1, self.total)}/{self.total}]  " if self.total > 1 else ""
        times = f"  {clock(now_s - self.run_s)}"
        if self.total > 1:
            times += f"  sweep {clock(now_s - self.begun_s)}"
            if self.done:
                per_run_s = (self.run_s - self.begun_s) / self.done
                left_s = per_run_s * (self.total - self.done) - (now_s - self.run_s)
                times += f", {clock(max(left_s, 0))} left"
        now, room = self.now, max(width - len(head) - len(times), 0)
        if len(now) > room:  # without its last parts, if it has parts
            end = max(now.rfind(mark, 0, room + 2) for mark in ("; ", ", "))
            now = now[: end if end > 0 else room]
        return (head + now + times)[:width]

    def draw(self) -> None:
        """Draw the line, cut to the width of the terminal."""
        with self._lock:
            width = shutil.get_terminal_size().columns
            _write(_CLEAR + self.text(time.monotonic(), width - 1))

    def _tick(self) -> None:
        while not self._stop.wait(PERIOD_S):
            with suppress(OSError):  # the terminal has gone, or the main thread's cores cannot be asked for
                os.sched_setaffinity(0, os.sched_getaffinity(os.getpid()))  # 0 = this thread; the pid = the main thread
                self.draw()


def clock(seconds: float) -> str:
    """``0:07``, ``12:30``, ``1:02:03``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

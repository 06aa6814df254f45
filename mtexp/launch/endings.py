"""How a process ended that should not have: its exit code in words, the last lines of its log. May touch: that file."""

from __future__ import annotations

import signal
from pathlib import Path

_LOG_LINES, _LOG_WIDTH = 25, 200

_HINTS = {
    signal.SIGKILL: "another process or user killed it, or the kernel because memory ran out (see dmesg)",
    signal.SIGSEGV: "a segmentation fault, its Python stack is in the log",
    signal.SIGBUS: "a bus error, is the disk full?",
}


def why(exit_code: int) -> str:
    """What an exit code says about the end of a process that should not have ended."""
    if exit_code == 128 + signal.SIGTERM:
        return "the process was ended by SIGTERM"
    if exit_code >= 0:
        return "the process ended"
    try:
        number = signal.Signals(-exit_code)
    except ValueError:  # a real-time signal has no name
        return f"the process was ended by signal {-exit_code}"
    hint = _HINTS.get(number)
    return f"the process was ended by {number.name}" + (f": {hint}" if hint else "")


def tail(log: Path) -> list[str]:
    """The last lines of a log file; none where there is no file."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
    return [line[:_LOG_WIDTH] for line in lines]

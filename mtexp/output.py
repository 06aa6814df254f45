"""Output that never decides what becomes of a run. Lives here: :func:`protect`, :func:`enter`, :func:`say`. May touch:
fds 0 to 2.

A reader that ends first (``| head``), a terminal that is closed, a full disk behind ``>``: each costs the lines that
could not be written, and nothing else. Every command of mtexp starts with :func:`enter`.
"""

from __future__ import annotations

import errno
import io
import os
import select
import shutil
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, TextIO

from mtexp.collector import of_a_command

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
_MAY_RECOVER = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_COMMANDS = ("python ", "mtexp ", "make ")
_PATIENCE_S = 1.0
"""How long a pipe that does not block may stay full before a piece of output is dropped."""
_interrupts: list[int] = []
"""Every Ctrl-C since the command was entered."""


def enter(main: Callable[[], int]) -> int:
    """Run a command with its output protected; returns its exit code, 130 after Ctrl-C."""
    protect()
    _warn_only()
    name_a_home()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        _interrupts.append(signum)
        raise KeyboardInterrupt

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored
    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        with of_a_command():
            return main()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:
        if _interrupts:  # in the middle of something that made another error of it
            return INTERRUPTED
        raise
    finally:
        _interrupts.clear()
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def check_interrupt() -> None:
    """Raise KeyboardInterrupt once more if Ctrl-C has come since :func:`enter`: a library may have caught the first."""
    if _interrupts:
        raise KeyboardInterrupt


def say(text: str, *, error: bool = False) -> None:
    """Print prose: on a terminal it is broken between words (:func:`folded`); in a file or a pipe it stays as it is."""
    stream = sys.stderr if error else sys.stdout
    width = shutil.get_terminal_size().columns if stream.isatty() else 0
    stream.write(folded(text, width) if width else text)
    stream.flush()


def say_interrupted(why: str) -> None:
    """Say that ``why``, a signal, has ended the command: where it ends before it can sum up."""
    say(f"Interrupted by {why}.\n", error=True)


def folded(text: str, width: int) -> str:
    """``text`` in lines of at most ``width`` characters, broken between words; a command to copy stays whole."""
    lines: list[str] = []
    for line in text.split("\n"):
        start = line[: len(line) - len(line.lstrip())]
        if len(line) <= width or line.lstrip().startswith(_COMMANDS):
            lines.append(line)
        else:
            more = f"{start}  " if start else ""
            lines += textwrap.wrap(line, width, subsequent_indent=more, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _warn_only() -> None:
    """Print warnings though ``PYTHONWARNINGS=error``: libraries warn, and a record would not be sent for it."""
    if any(action == "error" for action, *_ in warnings.filters):
        warnings.simplefilter("default")
        os.environ["PYTHONWARNINGS"] = "default"


def name_a_home() -> None:
    """Set HOME, to a folder that is not there, where neither it nor an entry in passwd says which one it is.

    So it is for a bare uid in a container: MLflow cannot be imported, others make a folder called ``~``.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/nonexistent"


def protect() -> None:
    r"""Let no write to stdout or stderr fail from here on; a stream that has replaced one of them stays.

    A character that the terminal cannot show is written as ``\xb5``. A closed stdin, stdout or stderr becomes
    ``/dev/null``: the next file that is opened would otherwise take its place, and get the output.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  as long as the process
        elif stream is getattr(sys, f"__{name}__") and not isinstance(stream, _Stream):
            safe = _safe(stream, line_buffering=name == "stderr" or stream.isatty())
            setattr(sys, name, safe)
            setattr(sys, f"__{name}__", safe)


class _Stream(io.TextIOWrapper):
    """A text stream whose writes do not fail."""


class _File(io.FileIO):
    """Standard output or error: a write that fails loses its bytes; where no other can succeed, nothing is tried."""

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
            while written is None and select.select([], [self], [], _PATIENCE_S)[1]:
                written = super().write(data)
        except OSError as error:
            written = None
            if error.errno not in _MAY_RECOVER:
                self._give_up()
        return memoryview(data).nbytes if written is None else written

    def _give_up(self) -> None:
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)


def _safe(stream: TextIO, *, line_buffering: bool) -> _Stream:
    with suppress(OSError):
        stream.flush()
    file = _File(stream.fileno(), "w", closefd=False)
    return _Stream(io.BufferedWriter(file), stream.encoding, "backslashreplace", line_buffering=line_buffering)

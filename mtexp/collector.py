"""Switches Python's garbage collector off while much is imported or built. May touch: the standard library."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SELDOM = (20_000, 20)
"""So many new objects before Python looks for garbage, and so many looks before it looks among older ones."""
_in_a_command: list[bool] = []


@contextmanager
def collector_off() -> Iterator[None]:
    """Switch the collector off: while much is imported it looks again and again at objects that all stay.

    A command never looks at them later either. Where nothing was new, as at every point of a sweep after the first, all
    stays as it was: what is garbage by then would never be freed.
    """
    was, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if _in_a_command and len(sys.modules) > modules:
            gc.freeze()
        if was:
            gc.enable()


@contextmanager
def of_a_command() -> Iterator[None]:
    """The collector of a process that is a command of mtexp's: it looks seldom, and never at what was imported.

    Else its looks are a sixth of the time of a short run. The process of a user's program keeps its own ways.
    """
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    _in_a_command.append(True)
    try:
        yield
    finally:
        _in_a_command.pop()
        gc.set_threshold(*before)
        gc.freeze()  # else the interpreter, as it ends, goes through everything for half a second

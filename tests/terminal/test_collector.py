"""What is imported is not gone through for garbage: by a command never, in a user's program as the user has it."""

from __future__ import annotations

import gc
import sys
import weakref
from types import ModuleType

import pytest

from mtexp.collector import collector_off, of_a_command


def test_a_command_looks_for_garbage_seldom_and_never_at_what_it_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = gc.get_threshold()
    gc.set_threshold(700, 10)
    try:
        frozen = gc.get_freeze_count()
        with collector_off():
            imported: list[list[object]] = [[] for _ in range(100)]
        assert gc.get_freeze_count() <= frozen
        with of_a_command():
            assert gc.get_threshold()[0] > 700
            with collector_off():
                assert not gc.isenabled()
                monkeypatch.setitem(sys.modules, "test_collector_new", ModuleType("test_collector_new"))
            assert gc.isenabled()
            assert gc.get_freeze_count() >= frozen + len(imported)
        assert gc.get_threshold()[:2] == (700, 10)
    finally:
        gc.set_threshold(*before)


def test_garbage_of_a_command_is_freed_where_nothing_was_imported() -> None:
    """Every point of a sweep opens the store: what was garbage then would stay until the sweep ends."""
    with of_a_command():
        with collector_off():
            left = Left()
            left.itself, freed = left, weakref.ref(left)
            del left
        gc.collect()
        assert freed() is None


class Left:
    """Garbage that only the collector frees."""

    itself: Left

"""What is imported is not gone through for garbage: by a command never, in a user's program as the user has it."""

from __future__ import annotations

import gc

from mtexp.collector import collector_off, of_a_command


def test_a_command_looks_for_garbage_seldom_and_never_at_what_it_imported() -> None:
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
            assert gc.isenabled()
            assert gc.get_freeze_count() >= frozen + len(imported)
        assert gc.get_threshold()[:2] == (700, 10)
    finally:
        gc.set_threshold(*before)

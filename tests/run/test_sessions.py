"""Points of a sweep that wait for those they are measured side by side with."""

from __future__ import annotations

from mtexp.running.sessions import Waiting


def test_a_session_is_measured_with_its_last_point() -> None:
    """In the written order, whatever the order of turns; others do not wait."""
    waiting = Waiting[str]([(0, 2)])
    assert waiting.turn(2, "c") == []
    assert waiting.turn(1, "b") == ["b"]
    assert waiting.turn(0, "a") == ["a", "c"]


def test_a_point_that_is_not_measured_keeps_nobody_waiting() -> None:
    """It was done before, or could not be made: the others go without it."""
    waiting = Waiting[str]([(0, 1)])
    assert waiting.turn(0, "a") == []
    assert waiting.turn(1, None) == ["a"]
    assert Waiting[str]().turn(0, None) == []

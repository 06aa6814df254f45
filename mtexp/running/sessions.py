"""Points of a sweep that wait for those they are measured side by side with. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """Collects the points of each session until the last of them has had its turn.

    Args:
        groups: Numbers of the points of each session.
    """

    def __init__(self, groups: Sequence[Sequence[int]] = ()) -> None:
        self._groups = {number: group for group in groups for number in group}
        self._turned: set[int] = set()
        self._there: dict[int, T] = {}

    def shares_session(self, number: int) -> bool:
        """Whether a point belongs to a session."""
        return number in self._groups

    def turn(self, number: int, point: T | None) -> list[T]:
        """Take a point whose turn it is; returns those to be measured now, together, in the written order.

        Args:
            number: Of the point.
            point: None where it is not to be measured.
        """
        self._turned.add(number)
        if point is not None:
            self._there[number] = point
        group = self._groups.get(number, (number,))
        if not self._turned.issuperset(group):
            return []
        return [self._there.pop(member) for member in sorted(group) if member in self._there]

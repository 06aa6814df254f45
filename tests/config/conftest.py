"""Models without a formula are read off in the process of the tests, unless a test starts processes."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def read_off_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch in a process of its own for every model would take minutes."""
    if request.node.get_closest_marker("process"):
        return

    monkeypatch.setattr("mtexp.config.read_off._ask", _ask_here)


@cache
def _ask_here(asked: str) -> dict[str, Any]:
    from mtexp.tenant.counting import answer

    return answer(json.loads(asked))

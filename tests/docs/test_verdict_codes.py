"""The page of verdict codes has every code that a run can find, with what to do."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def codes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
        import verdict_codes
    return {code.name: code for code in verdict_codes.codes()}


def test_levels_messages_and_remedies_are_those_of_the_code(codes):
    """Two levels, a code that is a constant, the proof of a sharing mode, and messages of the same function apart."""
    assert codes["window-share"].levels == ("invalid", "warning")
    assert codes["no-figures"].messages == ("no figures were computed of this run",)
    assert codes["wrong-device"].levels == ("invalid",)
    assert codes["no-device"].levels == ("note",)
    assert len(codes["cpu-limit"].messages) == len(codes["cpu-limit"].remedies) == 1
    assert all("\N{HORIZONTAL ELLIPSIS}" not in name for name in codes)


def test_every_code_that_is_written_in_the_code_is_there(codes):
    """Found by its spelling, whatever calls it."""
    texts = [path.read_text() for path in (ROOT / "mtexp").rglob("*.py")]
    written = {name for text in texts for name in re.findall(r'Finding\(\s*"\w+",\s*"([a-z_-]+)"', text)}
    assert len(written) > 30
    assert written <= codes.keys()

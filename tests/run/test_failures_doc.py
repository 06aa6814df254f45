"""``docs/failures.md`` names a test for every failure; the tests are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_that_the_table_names_exists() -> None:
    """File and function; a row without a test is no row."""
    text = (ROOT / "docs" / "failures.md").read_text()
    names = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(names) > 25
    for file, function in names:
        source = (ROOT / file).read_text()
        assert not function or f"def {function}(" in source, f"{file}::{function}"
    tables = text.partition("## Soak")[0]
    for row in (line for line in tables.splitlines() if line.startswith("| ") and not line.startswith("| What")):
        assert "tests/" in row or "the same" in row, row

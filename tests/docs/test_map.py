"""The map of the repository names what is there: docs/architecture.md, CONTRIBUTING.md and the README's layout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.slow import SLOW

ROOT = Path(__file__).parents[2]
PLACES = re.compile(r"\b((?:mtexp|analysis|conf|tests|docs|hydra_plugins)(?:/[\w.-]+)+?/?)(?=[\s`,.;:)*#\]]|$)")


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md", "README.md"])
def test_every_place_on_the_map_exists(page):
    places = set(PLACES.findall((ROOT / page).read_text()))
    assert places
    assert [place for place in sorted(places) if not (ROOT / place).exists()] == []


def test_every_package_is_on_the_map():
    text = (ROOT / "docs" / "architecture.md").read_text()
    packages = {path.parent.name for path in (ROOT / "mtexp").glob("*/__init__.py")} - {"analysis"}
    assert [name for name in sorted(packages) if f"mtexp/{name}" not in text] == []


def test_tests_that_are_marked_slow_exist():
    """A prefix that matches nothing would let a renamed test into the developer's loop."""
    names = [prefix.partition("::") for prefix in SLOW]
    missing = [file for file, _, _ in names if not [*ROOT.glob(f"{file}*")]]
    assert missing + [f"{f}::{t}" for f, _, t in names if f.endswith(".py") and t not in (ROOT / f).read_text()] == []

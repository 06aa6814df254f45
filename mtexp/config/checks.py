"""Small range checks. Each error names the key, the value, what is allowed and the remedy. Pure."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TypeVar

from mtexp.errors import ConfigError

T = TypeVar("T")


def at_least(key: str, value: float, minimum: float) -> None:
    """Refuse a ``value`` below ``minimum``, infinite or not a number."""
    if not math.isfinite(value) or value < minimum:
        raise ConfigError(key, value, f"{minimum:g} or more", f"Set {key}={minimum:g} or higher.")


def above(key: str, value: float, bound: float) -> None:
    """Refuse a ``value`` at or below ``bound``, infinite or not a number."""
    if not math.isfinite(value) or value <= bound:
        raise ConfigError(key, value, f"more than {bound:g}", f"Set {key} to a number above {bound:g}.")


def within(key: str, value: float, low: float, high: float) -> None:
    """Refuse a ``value`` outside ``low`` to ``high``."""
    if not low <= value <= high:
        raise ConfigError(key, value, f"{low:g} to {high:g}", f"Set {key} to a number in that range.")


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``Did you mean ...?`` for the choice nearest to ``word``, or an empty string."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"Did you mean {found[0]}?" if found else ""


def own_or_run(own: T | None, own_key: str, run: T, run_key: str) -> tuple[str, T]:
    """Return key and value of a tenant's own setting, or of the run's where it has none."""
    return (run_key, run) if own is None else (own_key, own)

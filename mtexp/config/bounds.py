"""Both bounds of every number in a configuration. Pure.

A check of its own may allow less; nothing is allowed more. Without an upper bound, a number is found to be too large
where it is used: by a clock, a file format or a database, after everything has been measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from mtexp.config.schema import Config
from mtexp.errors import ConfigError

LONGEST_S = 1_000_000.0
"""Seconds, for keys that end in ``_s`` and ``lease.wait``: what a wait of the operating system takes is 2**31 ms."""
MOST: dict[str, float] = {
    "seed": 2**53,  # exact in JSON and Parquet, also with what repetitions and tenants add to it
    "parameters": 10**15,
    "repetition": 1_000_000,
    "repetitions": 1_000_000,
    "retries": 1_000,
    "wait": LONGEST_S,
}
"""By the last part of a key."""
MOST_INTEGER, MOST_FLOAT = 2**31 - 1, 1e9
"""Upper bounds of all other numbers."""


def check_upper_bounds(config: Config) -> None:
    """Refuse a number that is too large, infinite or NaN.

    Raises:
        ConfigError: Naming its key and bounds.
    """
    for key, value in numbers(config):
        if not math.isfinite(value) or value > upper_bound(key, value):
            raise _out_of_bounds(key, value)


def check_lower_bounds(config: Config) -> None:
    """Refuse a negative number. Called after the checks that know a key: they name its own lower bound.

    Raises:
        ConfigError: Naming its key and bounds.
    """
    for key, value in numbers(config):
        if value < 0:
            raise _out_of_bounds(key, value)


def _out_of_bounds(key: str, value: float) -> ConfigError:
    return ConfigError(key, value, f"0 to {upper_bound(key, value):.16g}", f"Set {key} to a number in that range.")


def upper_bound(key: str, value: float) -> float:
    """Return the most that ``key`` may be, an integer or not as ``value`` is."""
    name = key.rpartition(".")[2]
    if name in MOST:
        return MOST[name]
    if name.endswith("_s"):
        return LONGEST_S
    return MOST_INTEGER if isinstance(value, int) else MOST_FLOAT


def numbers(node: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number below ``node`` with its key."""
    if isinstance(node, bool | Enum):
        return
    if isinstance(node, int | float):
        yield key, node
    elif isinstance(node, dict):
        for name, child in node.items():
            yield from numbers(child, f"{key}.{name}")
    elif isinstance(node, list):
        for child in node:
            yield from numbers(child, key)
    elif is_dataclass(node):
        for field in fields(node):
            if field.name in ("shape", "params"):  # a model's own, of which some are negative
                continue
            yield from numbers(getattr(node, field.name), f"{key}.{field.name}".lstrip("."))

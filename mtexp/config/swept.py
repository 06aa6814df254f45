"""What differs between the points of a sweep. Pure.

It is in the summary's columns, in the line that announces a point, in its record and so in MLflow.
"""

from __future__ import annotations

from collections.abc import Sequence

_TENANTS = "mix.tenants."


def swept(points: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Return, for each point, the keys that differ, by short names, and their values; without those that it lacks.

    Args:
        points: The overrides of each point, ``key=value``.
    """
    values = [_values(point) for point in points]
    names = _names(_differing(values))
    return [{name: own[key] for key, name in names.items() if key in own} for own in values]


def label(own: dict[str, str]) -> str:
    """Return ``mix=pair batch_size=4``."""
    return " ".join(f"{name}={value}" for name, value in own.items())


def _values(point: Sequence[str]) -> dict[str, str]:
    pairs = (text.lstrip("+").partition("=") for text in point)
    return {key: value.strip("'\"") for key, _, value in pairs if not key.startswith("hydra")}


def _differing(values: Sequence[dict[str, str]]) -> list[str]:
    """Keys with more than one value, in the order in which they were written; a key that a point lacks is a value."""
    keys = dict.fromkeys(key for own in values for key in own)
    return [key for key in keys if len({own.get(key) for own in values}) > 1]


def _names(keys: Sequence[str]) -> dict[str, str]:
    """Short names: the last part of a key where no other key ends so; of a tenant's key, the tenant's name as well."""
    last = [key.rpartition(".")[2] for key in keys]
    names = {}
    for key, end in zip(keys, last, strict=True):
        if key.startswith(_TENANTS):
            names[key] = key.removeprefix(_TENANTS)
        else:
            names[key] = end if last.count(end) == 1 else key
    return names

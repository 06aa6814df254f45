"""What differs between the points of a sweep: columns of its summary, labels of its points. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mtexp.terminal.tables import ABSENT

_OWN_COLUMN = {"mix", "precision", "mps_settings", "sharing", "repetition"}
"""Keys that the summary shows in columns of its own."""
_TENANTS = "mix.tenants."


def swept_columns(points: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Return, for each point, the values of the keys that differ and that the summary does not show otherwise.

    Args:
        points: The overrides of each point, ``key=value``.
    """
    values = [_values(point) for point in points]
    names = _names([key for key in _differing(values) if key not in _OWN_COLUMN])
    return [{name: own.get(key, ABSENT) for key, name in names.items()} for own in values]


def labels(points: Sequence[Sequence[str]]) -> list[str]:
    """Return a text for each point with everything that differs: ``mix=pair batch_size=4``."""
    values = [_values(point) for point in points]
    names = _names(_differing(values))
    return [" ".join(f"{name}={own[key]}" for key, name in names.items() if key in own) for own in values]


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

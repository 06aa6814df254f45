"""Checks JSON from files against dataclasses before building objects from it.

Lives here: :func:`parse` (bounded, strict JSON) and :func:`build` (a dataclass, every value of the type its field
declares). May touch: nothing. A file that comes from elsewhere gives a dataclass or a :class:`RecordError` that names
the place and what was found there, never another exception.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, NoReturn, TypeVar

from mtexp.errors import RecordError
from mtexp.spec import from_json, hints_of

T = TypeVar("T")

MAX_DEPTH = 32
MAX_TEXT = 1_000_000
"""Maximum length of one string in characters."""
MAX_INTEGER = 2**63 - 1
_SCALARS = (float, str, int, bool)
_ABSENT = object()


def parse(text: str | bytes) -> Any:
    """Return the JSON value in ``text``.

    Raises:
        RecordError: Not JSON, or JSON with NaN, infinities or more than ``MAX_DEPTH`` levels.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise RecordError(f"more than {MAX_DEPTH} levels of nesting") from None
    except ValueError as error:
        raise RecordError(f"not JSON: {error}") from None


def build(cls: type[T], data: Any, where: str = "record") -> T:
    """Return ``data`` as a ``cls``; fields that are absent take their default, unknown ones are left out.

    Raises:
        RecordError: A value is not of its field's type, or a required field is absent.
    """
    try:
        return from_json(cls, _checked(cls, data, where, 0))
    except TypeError as error:
        raise RecordError(f"{where}: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise RecordError(f"not JSON: {name}")


def _refuse(where: str, value: Any, allowed: str) -> NoReturn:
    text = repr(value)
    raise RecordError(f"{where}: found {text[:60]}{'...' if len(text) > 60 else ''}, allowed: {allowed}")


@cache
def _kind(hint: Any) -> tuple[Any, Any]:
    """What a field may hold, found once for each type: a dataclass, ``dict`` or ``tuple`` with what is in it, ..."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        return is_dataclass, hint
    if origin in (typing.Union, types.UnionType):
        return typing.Union, (next(a for a in args if a is not type(None)), type(None) in args)
    if hint is dict or origin in (dict, Mapping):
        return dict, args[1] if args else Any
    if origin is tuple:
        return tuple, args
    return (Any, None) if hint is Any else (None, None)


@cache
def _fields(cls: Any) -> tuple[tuple[str, Any], ...]:
    hints = hints_of(cls)
    return tuple((f.name, hints[f.name]) for f in fields(cls))


def _checked(hint: Any, value: Any, where: str, depth: int) -> Any:
    """``value`` as plain data that fits ``hint``: a dataclass, a container or a scalar."""
    if depth > MAX_DEPTH:
        raise RecordError(f"{where}: more than {MAX_DEPTH} levels of nesting")
    if hint in _SCALARS:  # most of a record
        return _checked_scalar(hint, value, where)
    kind, inner = _kind(hint)
    if kind is is_dataclass:
        return _checked_fields(inner, value, where, depth)
    if kind is typing.Union:
        other, may_be_none = inner
        return None if value is None and may_be_none else _checked(other, value, where, depth)
    if kind is dict:
        return _checked_mapping(inner, value, where, depth)
    if kind is tuple:
        return _checked_list(inner, value, where, depth)
    if kind is Any:
        return _checked_any(value, where, depth)
    return _checked_scalar(hint, value, where)


def _fits(hint: Any, value: Any, depth: int) -> bool:
    """Whether ``value`` is a plain scalar of type ``hint``: most are, and are spared the names of their places."""
    kind = type(value)
    if (kind is not hint and hint is not Any) or depth >= MAX_DEPTH:
        return False
    if kind is float:
        return math.isfinite(value)
    if kind is str:
        return value.isascii() and "\0" not in value and len(value) <= MAX_TEXT
    return kind is bool or (kind is int and abs(value) <= MAX_INTEGER)


def _checked_fields(cls: Any, value: Any, where: str, depth: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(where, value, f"an object with the fields of {cls.__name__}")
    return {
        name: item if _fits(hint, item, depth) else _checked(hint, item, f"{where}.{name}", depth + 1)
        for name, hint in _fields(cls)
        if (item := value.get(name, _ABSENT)) is not _ABSENT
    }


def _checked_mapping(hint: Any, value: Any, where: str, depth: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(where, value, "an object")
    return {
        _checked_scalar(str, key, where): item
        if _fits(hint, item, depth)
        else _checked(hint, item, f"{where}.{key[:60]}", depth + 1)
        for key, item in value.items()
    }


def _checked_list(args: tuple[Any, ...], value: Any, where: str, depth: int) -> list[Any]:
    if not isinstance(value, list):
        _refuse(where, value, "a list")
    if args[-1] is not Ellipsis and len(value) != len(args):
        _refuse(where, value, f"a list of {len(args)}")
    hint = args[0]
    return [
        item if _fits(hint, item, depth) else _checked(hint, item, f"{where}[{index}]", depth + 1)
        for index, item in enumerate(value)
    ]


def _checked_any(value: Any, where: str, depth: int) -> Any:
    if isinstance(value, dict):
        return _checked_mapping(Any, value, where, depth)
    if isinstance(value, list):
        return _checked_list((Any, ...), value, where, depth)
    return value if value is None else _checked_scalar(type(value), value, where)


def _checked_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and type(value) is int and abs(value) <= MAX_INTEGER:
        value = float(value)
    if type(value) is not hint:
        _refuse(where, value, f"a value of type {hint.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(where, value, "a finite number")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        _refuse(where, "a number too large", f"at most {MAX_INTEGER}")
    if isinstance(value, str) and (len(value) > MAX_TEXT or not _storable(value)):
        _refuse(where, value[:60], f"at most {MAX_TEXT} characters, no NUL, no lone surrogate")
    return value


def _storable(text: str) -> bool:
    """Whether UTF-8 files and every MLflow store can hold ``text``."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text))

"""Reference pages made from the code by ``make docs``, so that they are never out of date.

:func:`configuration` has every configuration key. Its meaning is the docstring under the field of
:mod:`mtexp.config.schema`; its default is that of ``conf/config.yaml``; its bounds are what the checks of a
configuration say when they refuse a number. :func:`keys_of_mlflow` has every name in MLflow
(:mod:`mtexp.records.keys`).
"""

from __future__ import annotations

import ast
import inspect
import itertools
import types
import typing
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from mtexp.config import schema
from mtexp.config.bounds import upper_bound
from mtexp.config.capacity import search_rule
from mtexp.config.composer import Composer, to_config
from mtexp.config.convert import to_spec
from mtexp.config.hardware import elsewhere
from mtexp.errors import ConfigError, Misplaced
from mtexp.records import keys

_TENANT = "mix.tenants.<id>"
_SITUATIONS = (
    (),
    ("profiler=nsys",),
    ("profiler=ncu",),
    ("arrival=poisson", "arrival.load=0.5"),
    ("mps_settings=default",),
    ("sharing=green_contexts",),
    ("+experiment=capacity",),
)
"""Some numbers are only checked where they are used."""
_HEAD = """# Configuration keys

Every key of a run, with its default from `conf/config.yaml`. Set one on the command line as `KEY=VALUE`, or in a file
of a configuration folder. Choices such as `precision=bf16` are files that set the keys of their section. `null` means
that no value is set. `mtexp run --cfg job` prints the configuration of a command line without running it.

"""

_NAMES_HEAD = """# Metrics and keys

Every name that MLflow holds for mtexp. Records and the columns of an analysis have the same names, tags without
`mtexp.`. The unit of a metric is the last part of its name. A metric with a 95 % interval also has `<name>_ci_low` and
`<name>_ci_high`. *Where*: `run` is the run of a mix, `tenant` the run of one tenant below it, `history` has a value for
each iteration, `telemetry` for each sample.

"""


@dataclass(frozen=True)
class Key:
    """One configuration key."""

    name: str
    type: str
    default: str
    bounds: str
    meaning: str


def configuration() -> str:
    """Return the page of the configuration keys as Markdown."""
    composer = Composer()
    groups = {group: composer.options(group) for group in composer.groups()}
    parts = [_HEAD, "## Groups\n\n| Group | Choices |\n|---|---|\n"]
    parts += [f"| `{group}` | {', '.join(f'`{name}`' for name in names)} |\n" for group, names in groups.items()]
    section = ""
    for key in all_keys(composer):
        above = key.name.rpartition(".")[0] or "Top level"
        if above != section:
            section = above
            parts.append(f"\n## {section}\n\n| Key | Type | Default | Allowed | Meaning |\n|---|---|---|---|---|\n")
        cells = (f"`{key.name}`", key.type, f"`{key.default}`", key.bounds, key.meaning)
        parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def keys_of_mlflow() -> str:
    """Return the page of tags, parameters and metrics as Markdown."""
    parts = [_NAMES_HEAD]
    for title, table in (("Metrics", keys.METRICS), ("Parameters", keys.PARAMS), ("Tags", keys.TAGS)):
        metrics = table is keys.METRICS
        parts.append(f"\n## {title}\n\n| Name | {'Unit | Better | Where | ' * metrics}Meaning |\n")
        parts.append(f"|---|{'---|---|---|' * metrics}---|\n")
        for key in table.values():
            more = f"{key.unit or '1'} | {key.better} | {', '.join(key.where).replace('_', ' ')} | " if metrics else ""
            parts.append(f"| `{key.name}` | {more}{key.text} |\n")
    return "".join(parts)


def all_keys(composer: Composer) -> list[Key]:
    """Return every key of the schema: first those of the top level, then section by section."""
    situations = [to_config(composer.load(list(overrides))[0]) for overrides in _SITUATIONS]
    found = list(_keys(schema.Config, situations[0], "", situations))
    return sorted(found, key=lambda key: "." in key.name)


def _keys(kind: type, value: Any, prefix: str, situations: list[schema.Config]) -> Iterator[Key]:
    meanings, hints = _meanings(kind), typing.get_type_hints(kind)
    for field in fields(kind):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        current = getattr(value, field.name)
        if is_dataclass(hint):
            yield from _keys(typing.cast(type, hint), current, f"{name}.", situations)
        elif name == "mix.tenants":
            yield from _keys(schema.TenantConfig, schema.TenantConfig(), f"{_TENANT}.", situations)
        else:
            bounds = _bounds(name, hint, situations) if _is_number(hint) else ""
            yield Key(name, _type(hint), _text(current), bounds, meanings.get(field.name, ""))


def _meanings(kind: type) -> dict[str, str]:
    """The docstring under each field of a class, on one line and in Markdown."""
    body = typing.cast(ast.ClassDef, ast.parse(inspect.getsource(kind)).body[0]).body
    found = {}
    for above, below in itertools.pairwise(body):
        if isinstance(above, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            name = typing.cast(ast.Name, above.target).id
            found[name] = " ".join(str(below.value.value).split()).replace("``", "`")
    return found


def _bare(hint: Any) -> Any:
    return next(a for a in hint.__args__ if a is not type(None)) if isinstance(hint, types.UnionType) else hint


def _is_number(hint: Any) -> bool:
    return _bare(hint) in (int, float)


def _type(hint: Any) -> str:
    bare = _bare(hint)
    words = {int: "integer", float: "number", str: "text", bool: "`true` or `false`"}
    if isinstance(bare, type) and issubclass(bare, Enum):
        text = ", ".join(f"`{member.name}`" for member in bare)
    elif typing.get_origin(bare) is list:
        text = f"list of {_type(typing.get_args(bare)[0])}"
    else:
        text = words.get(bare, "mapping")
    return f"{text}, or `null`" if bare is not hint else text


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return value.name if isinstance(value, Enum) else ("''" if value == "" else f"{value}")


def _bounds(name: str, hint: Any, situations: list[schema.Config]) -> str:
    """What the checks allow: their message for a number that is too low, and the most that a key may be."""
    low = _refusal(name, situations)
    if " to " in low or "excluded" in low:
        return low
    most = upper_bound(name, 0 if _bare(hint) is int else 0.0)
    return f"{low}, at most {most:.16g}" if low else ""


def _refusal(name: str, situations: list[schema.Config]) -> str:
    for situation in situations:
        config = deepcopy(situation)
        tenant = next(iter(config.mix.tenants))
        *path, last = name.replace("<id>", tenant).split(".")
        node: Any = config
        for part in path:
            node = node[part] if isinstance(node, dict) else getattr(node, part)
        setattr(node, last, -1)
        try:
            if config.capacity == situation.capacity:
                to_spec(config, elsewhere())
            else:
                search_rule(config, to_spec(situation, elsewhere()))
        except ConfigError as error:
            if error.key == name.replace("<id>", tenant) and not isinstance(error, Misplaced):
                return error.allowed  # Misplaced: the key is not used in this situation
    return ""

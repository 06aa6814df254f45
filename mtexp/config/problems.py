"""Error messages for command lines that cannot be run: key, value, what is allowed, remedy.

Misspelt groups, choices and keys are found before Hydra composes. Errors of Hydra and OmegaConf are translated.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError

from mtexp.commands import command_line
from mtexp.config.checks import nearest
from mtexp.config.composer import Composer
from mtexp.config.published import model_name
from mtexp.config.schema import Config
from mtexp.config.tokens import parse_mix, parse_percentage
from mtexp.errors import ConfigError, Misplaced, MtexpError
from mtexp.spec import hints_of
from mtexp.tracking.uri import redact

_NAMES = {int: "an integer", float: "a number", bool: "true, false", str: "text", list: "a list such as [50,90]"}
_TOKENS = {
    "mix": "or models joined as in bert_base*2+llama_3_2_1b+hub:ORGANISATION/NAME+target:MODULE:FACTORY+server:NAME",
    "models": "or hub:ORGANISATION/NAME, folder:PATH, target:MODULE:FACTORY or server:NAME",
    "mps_settings": "or a percentage such as 30pct",
}
_HELP = f"{command_line('run')} -h lists groups, choices and examples."
_VARIABLE = re.compile(r"\$\{oc\.env:(\w+)")
_IN_FILE = re.compile("In '([^']+)'")
"""Beginning of an error of Hydra about a file of ours."""
_PLUGINS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray", "ray_aws": "ray"}
"""Choices of hydra/launcher that come with a plugin -> the extra of mtexp that installs it."""


class Refused(MtexpError):
    """A command line that cannot be run.

    Args:
        problems: The errors, in the order in which they were found.
        points: How many points the sweep has.
    """

    def __init__(self, problems: Sequence[ConfigError], points: int = 1) -> None:
        self.problems = tuple(problems)
        lines = [f"refused: {error}" for error in self.problems]
        if points > 1:
            lines.append(f"Nothing was started: all {points} points of the sweep are checked before the first run.")
        super().__init__(redact("\n".join(lines)))  # values are shown as they were typed


def parse_checked(composer: Composer, text: str) -> Override:
    """Parse one override.

    Raises:
        ConfigError: ``text`` is not an override.
    """
    try:
        return composer.parse(text)
    except OverrideParseException as error:
        key, equals, value = text.partition("=")
        allowed = "KEY=VALUE, with +KEY=VALUE to add and ~KEY to drop"
        remedy = "Quote special characters twice: 'key=\"value\"'." if equals else f"Write it as KEY=VALUE. {_HELP}"
        raise ConfigError(key, value if equals else "(nothing)", allowed, remedy) from error


def check_override(composer: Composer, override: Override) -> None:
    """Refuse a group, choice or key that does not exist; Hydra checks ``hydra.*`` itself."""
    key = override.key_or_group
    if composer.is_group(key):
        if not override.is_delete():
            for choice in _choices(override):
                _check_choice(composer, override, choice)
    elif override.is_hydra_override():
        return
    elif override.package is not None:
        groups = composer.groups()
        remedy = f"There is no group {key}. {nearest(key, groups)}".strip()
        raise ConfigError(key, f"@{override.package}", groups, remedy)
    else:
        _check_key(composer, override)


def _choices(override: Override) -> Iterator[Any]:
    values = override.sweep_iterator() if override.is_sweep_override() else iter([override.value()])
    for value in values:
        yield from value if isinstance(value, list) else [value]


def _check_choice(composer: Composer, override: Override, choice: Any) -> None:
    group, options = override.key_or_group, composer.options(override.key_or_group)
    if isinstance(choice, dict):  # values of the group's keys
        return
    word, key = str(choice), override.get_key_element().lstrip("+")
    if word in options:
        _check_text(key, choice)
        return
    allowed = ", ".join(options) + (f", {_TOKENS[group]}" if group in _TOKENS else "")
    if (group == "mps_settings" and parse_percentage(word) is not None) or (group == "models" and model_name(word)):
        return
    if group == "hydra/launcher" and word in _PLUGINS:
        raise ConfigError(key, word, allowed, f"Its plugin is not installed: pip install -e '.[{_PLUGINS[word]}]'.")
    _check_written_out(key, word, allowed)
    counts = parse_mix(word) if group == "mix" else None
    if counts is None:
        raise ConfigError(key, word, allowed, nearest(word, options) or _HELP)
    models = composer.options("models")
    for model in counts:
        if model_name(model):
            continue
        if model not in models and model == word:
            raise ConfigError(key, word, allowed, nearest(word, [*options, *models]) or _HELP)
        if model not in models:
            remedy = f"There is no model {model}. {nearest(model, models)}".strip()
            raise ConfigError(key, word, f"models {', '.join(models)}", remedy)


def _check_written_out(key: str, word: str, allowed: str) -> None:
    """Refuse a choice with ``${...}``: its file is read before anything can be looked up."""
    if "${" in word:
        found = _VARIABLE.search(word)
        remedy = f'Let the shell fill it in: {key}="${found[1] if found else "NAME"}".'
        raise ConfigError(key, word, allowed, f"Values can be looked up with ${{...}}, choices cannot. {remedy}")


def _check_text(key: str, choice: Any) -> None:
    """Refuse a choice that Hydra reads as a number, though a file has its name."""
    if not isinstance(choice, str | QuotedString):
        remedy = f"It is read as a number. Quote it twice: '{key}=\"{choice}\"'."
        raise ConfigError(key, str(choice), "the name of a file, as text", remedy)


def value_text(override: Override) -> str:
    """Return the value as it was typed."""
    return (override.input_line or "").partition("=")[2] or "(dropped)"


def without_value(composer: Composer, texts: Sequence[str]) -> ConfigError:
    """The error of a sweep that has no point.

    Args:
        composer: Of the command line.
        texts: What is set or swept; one of them is swept over nothing, as ``mix=glob(x*)`` or ``seed=range(1,1)``.
    """
    for text in texts:
        override = composer.parse(text)
        if override.is_sweep_override() and not composer.split([text], {}):
            key = override.key_or_group
            allowed = sorted(composer.options(key)) or "values such as 1,2, or a range that holds one"
            remedy = "It gives no value, so the sweep has no point; glob(...) is for the choices of a group."
            return ConfigError(key, value_text(override), allowed, remedy)
    return Misplaced("hydra.sweeper.params", " ".join(texts), "the sweep has no point", _HELP)


# --- keys -------------------------------------------------------------------------------------------------------------


def _check_key(composer: Composer, override: Override) -> None:
    """Follow a dotted key through the schema; refuse the first part that does not exist."""
    path = override.key_or_group.split(".")
    hint: Any = Config
    for depth, part in enumerate(path):
        hint = _bare(hint)
        if typing.get_origin(hint) is dict:  # tenants and shapes may have any name; Hydra checks them while composing
            hint = typing.get_args(hint)[1]
            continue
        if hint is Any:
            return
        known = hints_of(hint) if is_dataclass(hint) else {}
        if part not in known:
            names = [*known, *composer.groups()] if depth == 0 else list(known)
            key, whole = ".".join(path[: depth + 1]), override.key_or_group
            raise _unknown_key(key, value_text(override), names, whole=whole)
        hint = known[part]


def _unknown_key(
    key: str, value: str, known: Sequence[str], *, whole: str = "", where: str = "", place: str = ""
) -> ConfigError:
    """The error about ``key``, which does not exist; ``whole`` = the key below it that was typed."""
    above, _, part = key.rpartition(".")
    names = ", ".join(dict.fromkeys(known)) or "nothing below it"
    allowed = f"keys of {above}: {names}" if above else names
    remedy = nearest(part, known) or _HELP
    if above == "mix.tenants":
        remedy = nearest(part, known)
    return ConfigError(whole or key, value, allowed, f"There is no {key}{place}. {remedy}".rstrip() + where)


def _bare(hint: Any) -> Any:
    """Return the type of ``X | None`` without the None."""
    if isinstance(hint, types.UnionType):
        return next(a for a in typing.get_args(hint) if a is not type(None))
    return hint


def _expected(key: str) -> str:
    """Return what the schema allows for ``key``, in words."""
    hint: Any = Config
    for part in key.replace("[", ".").replace("]", "").split("."):
        hint = _bare(hint)
        if is_dataclass(hint):
            hint = hints_of(hint).get(part, Any)
        elif typing.get_origin(hint) in (dict, list):
            hint = typing.get_args(hint)[-1]
    hint = _bare(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(member.name for member in hint)
    return _NAMES.get(typing.get_origin(hint) or hint, "a value that the schema accepts")


# --- what Hydra refuses -----------------------------------------------------------------------------------------------


def translate(error: Exception, composer: Composer, overrides: Sequence[str]) -> ConfigError:
    """Translate an error of Hydra or OmegaConf to a ConfigError."""
    try:
        composer.check_chosen(overrides)
    except ConfigError as reaches_further:
        return reaches_further
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    inner = next((e for e in chain if isinstance(e, OmegaConfBaseException) and e.full_key), None)
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if inner is not None:
        key = str(inner.full_key)
        file = found[1] if (found := _IN_FILE.match(text)) else ""
        where = f" It is in {file}.yaml." if file else ""
        if isinstance(inner, ConfigKeyError | ConfigAttributeError) and isinstance(inner.parent_node, DictConfig):
            typed = (t for t in overrides if f"{_key_of(composer, t)}.".startswith(f"{key}."))
            whole, _, value = next(typed, f"{key}={_in_file(inner.value)}").lstrip("+").partition("=")
            names = [str(name) for name in inner.parent_node]
            place, why = _mix_of(composer, overrides) if key.startswith("mix.tenants.") else ("", "")
            where += why
            return _unknown_key(key, value, names, whole=whole, where=where, place=place)
        tenant = f"+mix.tenants.{key}."
        if added := next((t for t in overrides if t.startswith((tenant, f"+{tenant}")) and not where), ""):
            whole, _, value = added.lstrip("+").partition("=")
            remedy = f"Without the + the message says which there are; +models@{tenant[1:-1]}=bert_base adds one."
            return Misplaced(whole, value, f"the mix has no tenant {key}", remedy)
        value = next((t.partition("=")[2] for t in overrides if _key_of(composer, t) == key), _in_file(inner.value))
        word = str(inner.msg).splitlines()[0]
        choices = _expected(key)
        hint = nearest(value, choices.split(", ")) or f"{word}."
        return ConfigError(key, value, choices, f"{hint}{where}")
    marked = next((e for e in chain if isinstance(e, MarkedYAMLError)), None)
    if marked is not None and (mark := marked.problem_mark) is not None:
        place = f"line {mark.line + 1}, column {mark.column + 1}"
        return ConfigError("file", mark.name, "YAML", f"In {place}: {marked.problem or 'it cannot be read'}.")
    for override in overrides:
        if override in text or f"'{_key_of(composer, override)}'" in text:
            key, _, value = override.partition("=")
            return Misplaced(key, value or "(dropped)", "it cannot be combined with the rest", f"{text}.")
    return Misplaced("configuration", " ".join(overrides) or "(defaults)", "Hydra cannot compose it", f"{text}.")


def _mix_of(composer: Composer, overrides: Sequence[str]) -> tuple[str, str]:
    """In which mix a tenant was looked for, and why there."""
    mixes = [override for text in overrides if (override := composer.parse(text)).key_or_group == "mix"]
    if not mixes:
        return "", ""
    if mixes[-1].is_sweep_override():
        why = "In a sweep over mixes, a value that Hydra cannot write for each belongs into a file (--config-dir)."
        return " in the default mix", f" {why}"
    return f" in mix={mixes[-1].value()}", ""


def _in_file(value: Any) -> str:
    """A value of a configuration file, as far as the error knows it."""
    return "..." if value is None else str(value)


def _key_of(composer: Composer, text: str) -> str:
    return composer.parse(text).key_or_group

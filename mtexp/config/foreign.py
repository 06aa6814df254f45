"""What a file of a group may say: its group's own keys, as data. Pure, but for reading the file through Hydra.

A mix or a model may come from another author. Composed by Hydra as it is, its file could set any key (``@package
_global_``): where results go, which file a log is written to, which classes Hydra makes. And a resolver in it could
put a secret of the environment into a name. Both are refused. An experiment is a preset of the command line: it may
also set keys of other groups, but not where results go nor anything of Hydra's but the sweep.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hydra._internal.config_repository import IConfigRepository
from omegaconf import DictConfig, OmegaConf

from mtexp.errors import ConfigError

EXPERIMENT = "experiment"
_RESOLVER = re.compile(r"\$\{[^{}]*:|\$\{[^}]*\$\{")
"""A resolver, or the parts of its name put together; a plain reference such as ``${workload.seq_len}`` is neither."""
_REMEDY = "Correct the file: it is data from outside. What it sets elsewhere can be typed on the command line."
_NOT_OF_AN_EXPERIMENT = ("tracking",)
_HYDRA_OF_AN_EXPERIMENT = ("mode", "sweeper")


def check_choices(repository: IConfigRepository, choices: Mapping[str, Any]) -> None:
    """Refuse files among ``choices`` (Hydra's ``runtime.choices``) that reach beyond their group.

    Raises:
        ConfigError: Naming the file and what it may not set.
    """
    for key, chosen in choices.items():
        group = str(key).partition("@")[0]
        if group.startswith("hydra/"):
            continue
        for option in chosen if isinstance(chosen, list) else [chosen]:
            if option is not None:
                _check_file(repository, group, str(option), of_experiment=group == EXPERIMENT, within=())


def _check_file(
    repository: IConfigRepository, group: str, option: str, *, of_experiment: bool, within: tuple[str, ...]
) -> None:
    """Check one file, and those that it includes; ``within`` are those that include it."""
    path = f"{group}/{option}".lstrip("/")
    found = repository.load_config(path) if path not in within else None
    if found is None:
        return
    if (package := found.header.get("package") or "") and not of_experiment:
        raise ConfigError(group, option, "a file of the group's own keys", f"Its @package {package} is not. {_REMEDY}")
    for entry in found.defaults_list or ():
        if file := _included(group, option, entry, of_experiment=of_experiment):
            folder, _, name = file.rpartition("/")
            _check_file(repository, folder, name, of_experiment=of_experiment, within=(*within, path))
    for place, text in _texts(OmegaConf.to_container(found.config, resolve=False)):
        if _RESOLVER.search(text):
            what = f"Its {place} is {text}, which would be looked up when it is read. {_REMEDY}"
            raise ConfigError(group, option, "values, and references such as ${workload.seq_len}", what)
    if of_experiment:
        _check_experiment(option, found.config)


def _included(group: str, option: str, entry: Any, *, of_experiment: bool) -> str:
    """Check one of a file's defaults; returns the file that it includes, which Hydra does not list as a choice."""
    reaches = f"{getattr(entry, 'group', None)} {getattr(entry, 'package', None)}"
    file = str(getattr(entry, "path", None) or "_self_")
    if "hydra/sweeper" in reaches and of_experiment:
        return ""
    words = set(re.split(r"[\s./@]+", f"{reaches} {file}"))
    if words & {"hydra", "_global_", *_NOT_OF_AN_EXPERIMENT} or "${" in file:
        named = reaches if file == "_self_" else file
        raise ConfigError(group, option, "defaults of its own group", f"Its defaults name {named}. {_REMEDY}")
    if file == "_self_":
        return ""
    return file[1:] if file.startswith("/") else f"{group}/{file}"


def _check_experiment(option: str, config: Any) -> None:
    keys = list(config) if isinstance(config, DictConfig) else []
    node = OmegaConf.to_container(config, resolve=False) if keys else {}
    hydra = node.get("hydra") if isinstance(node, dict) else None
    beyond = [str(key) for key in keys if key in _NOT_OF_AN_EXPERIMENT]
    beyond += [f"hydra.{key}" for key in hydra or () if key not in _HYDRA_OF_AN_EXPERIMENT]
    if beyond:
        allowed = "settings of a run, hydra.mode and hydra.sweeper"
        raise ConfigError(EXPERIMENT, option, allowed, f"It sets {', '.join(beyond)}. {_REMEDY}")


def _texts(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield place or "text", node
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, dict):
        children = node.items()
        for key in node:
            yield from _texts(str(key), f"{place} key".strip())
    elif isinstance(node, list):
        children = enumerate(node)
    for key, child in children:
        yield from _texts(child, f"{place}.{key}".lstrip("."))

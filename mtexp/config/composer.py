"""Wraps Hydra: parses the command line, composes configurations, lists choices, splits sweeps.

Only this module uses Hydra's internals. It does what ``hydra.main`` does, so the job gets the same configuration as the
plan.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.core.utils import JobReturn, setup_globals
from hydra.errors import ConfigCompositionException, HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mtexp.commands import command_line
from mtexp.config import schema, tokens
from mtexp.config.foreign import check_choices
from mtexp.errors import ConfigError

CONF_DIR = (Path(__file__).resolve().parents[1] / "conf").resolve()
"""``mtexp/conf``: in a checkout a link to ``conf/``, in an installed package a folder."""
CONFIG_NAME = "config"
VERSION_BASE = "1.3"
_ODD = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    YAMLError,
)
"""What composing raises beside the errors of Hydra and OmegaConf, for values and files that they did not expect."""
_SEARCHPATH = re.compile(r"\+{0,2}hydra\.searchpath=")
_SWEEP_ORDER = re.compile(r"^(\+{0,2})sweep\.order=")


@cache
def set_up() -> None:
    """Register the schema and the token source with Hydra, once per process."""
    version.setbase(VERSION_BASE)
    setup_globals()
    schema.register()
    tokens.register()


def composer_of(args: argparse.Namespace) -> Composer:
    """Return a composer for ``--config-path``, ``--config-name``, ``--config-dir`` and ``hydra.searchpath``.

    Raises:
        ConfigError: One of the folders does not exist, or ``hydra.searchpath`` is not a list.
    """
    for option, folder in (("--config-dir", args.config_dir), ("--config-path", args.config_path)):
        if folder is not None and not os.path.isdir(folder):
            raise ConfigError(option, folder, "a folder with groups such as mix/NAME.yaml", "There is no such folder.")
    composer = Composer(args.config_path or CONF_DIR, args.config_name or CONFIG_NAME, args.config_dir)
    for text in args.overrides:
        if _SEARCHPATH.match(text):
            composer.search(text)
    return composer


def with_tokens(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` with the token source (``mix=bert_base*2``) appended to the user's ``hydra.searchpath``.

    The user's search path replaces the one in ``conf/config.yaml``, which has the token source. ``sweep.order`` becomes
    the key of the configuration, ``sweep_order``: ``sweep`` is the name of the sweep, a text without keys below it.
    """
    source = f"{tokens.TokenSource.scheme()}://"
    return [
        re.sub(r"(\[?)\s*\]$", lambda end: f"{end[1] or ','}{source}]", text)
        if _SEARCHPATH.match(text) and source not in text
        else _SWEEP_ORDER.sub(r"\1sweep_order=", text)
        for text in argv
    ]


def parse_command_line(argv: Sequence[str]) -> argparse.Namespace:
    """Return Hydra's arguments: ``overrides``, ``multirun``, ``help``, ``cfg``, ``config_dir`` ..."""
    parser = get_args_parser()
    parser.prog = command_line("run")
    return parser.parse_intermixed_args(list(argv))  # a flag may follow an override


class Composer:
    """Composes configurations from ``conf/`` (and one more folder, ``--config-dir``)."""

    def __init__(self, conf: Path | str = CONF_DIR, name: str = CONFIG_NAME, extra: Path | str | None = None) -> None:
        set_up()
        self._name = name
        search_path = create_config_search_path(str(conf))
        if extra is not None:
            path = f"file://{Path(extra).absolute()}"
            search_path.prepend(provider="command-line", path=path, anchor=SearchPathQuery(provider="schema"))
        self._loader = ConfigLoaderImpl(config_search_path=search_path)
        self._repository: IConfigRepository = self._loader.repository
        self._parser = OverridesParser.create(config_loader=self._loader)
        self._parsed: dict[str, Override] = {}
        self._read: set[tuple[str, str]] = set()

    def search(self, text: str) -> None:
        """Also list groups and choices from the folders in ``text``, an override ``hydra.searchpath=[file:///DIR]``.

        Composing does not need this call: Hydra reads the override itself.

        Raises:
            ConfigError: It is not a list, or a folder does not exist.
        """
        key, _, value = text.partition("=")
        allowed = "a list of folders such as [file:///home/me/conf]"
        repository = CachingConfigRepository(self._loader.repository)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # missing sources are refused below
            try:
                self._loader._process_config_searchpath(self._name, [self.parse(text)], repository)
            except HydraException as error:
                raise ConfigError(key, value, allowed, f"{error}.") from error
        for source in repository.get_sources():
            if not source.available():
                raise ConfigError(key, value, allowed, f"{source.scheme()}://{source.path} does not exist.")
        self._repository = repository

    def parse(self, text: str) -> Override:
        """Parse one override; results are cached.

        Raises:
            OverrideParseException: ``text`` does not follow Hydra's grammar.
        """
        if text not in self._parsed:
            self._parsed[text] = self._parser.parse_overrides([text])[0]
        return self._parsed[text]

    def load(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> tuple[DictConfig, DictConfig]:
        """Compose and return (the configuration, its ``hydra`` node).

        Raises:
            HydraException: It cannot be composed, whatever Hydra, OmegaConf or the YAML reader made of it.
            ConfigError: A file sets what it may not.
        """
        try:
            config = self._loader.load_configuration(
                self._name, list(overrides), run_mode=mode, validate_sweep_overrides=mode is RunMode.RUN
            )
        except (HydraException, OmegaConfBaseException):
            raise
        except _ODD as error:
            raise ConfigCompositionException(str(error).partition("\n")[0] or type(error).__name__) from error
        with open_dict(config):
            hydra = config.pop("hydra")
        choices = {key: option for key, option in hydra.runtime.choices.items() if (key, str(option)) not in self._read}
        check_choices(self._loader.repository, choices)
        self._read.update((key, str(option)) for key, option in choices.items())
        name_mix(config, hydra)
        return config, hydra

    def check_chosen(self, overrides: Sequence[str]) -> None:
        """Look at the files that ``overrides`` choose, where composing has failed: what one sets elsewhere may be why.

        Raises:
            ConfigError: Naming the file and what it may not set.
        """
        for override in map(self.parse, overrides):
            if self.is_group(override.key_or_group) and not override.is_sweep_override():
                with suppress(HydraException, *_ODD):  # a file that cannot be read is what has failed
                    check_choices(self._loader.repository, {override.key_or_group: override.value()})

    def is_group(self, key: str) -> bool:
        """Whether ``key`` is a config group."""
        return self._repository.group_exists(key)

    def groups(self) -> list[str]:
        """The application's config groups."""
        return [g for g in self._repository.get_group_options("", ObjectType.GROUP) if g != "hydra"]

    def options(self, group: str) -> list[str]:
        """The choices of ``group`` that are files or registered schemas."""
        return self._repository.get_group_options(group)

    def help(self) -> str:
        """Return ``hydra.help.template`` with the groups and choices filled in (Hydra's own -h takes a second)."""
        _, hydra = self.load([])
        groups = "\n".join(f"{group}: {', '.join(self.options(group))}" for group in self.groups())
        return Template(hydra.help.template).safe_substitute(APP_CONFIG_GROUPS=groups, COMMAND=command_line("run"))

    def split(self, arguments: Sequence[str], params: dict[str, Any]) -> list[list[str]]:
        """Return the points of Hydra's basic sweeper for the command line and ``hydra.sweeper.params``."""
        texts = [f"{key}={value}" for key, value in params.items()] + list(arguments)
        points: list[list[str]] = BasicSweeper.split_arguments([self.parse(t) for t in texts], max_batch_size=None)[0]
        return points

    def fixed(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments that are not swept, as the basic sweeper writes them in every point."""
        fixed = [text for text in arguments if not self.parse(text).is_sweep_override()]
        return [t if self.parse(t).is_hydra_override() else self.split([t], {})[0][0] for t in fixed]


def apply_values(overrides: Sequence[Override], config: DictConfig) -> None:
    """Apply value overrides to ``config`` in place, as Hydra does after composing."""
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def quoted(text: str) -> str:
    """Return ``text`` as a value of Hydra's command line that means exactly this text, interpolations included."""
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return QuotedString(literal, Quote.single).with_quotes()


def trust_plan() -> None:
    """Stop Hydra from composing what the plan has composed: once to learn its mode, and every point before the first.

    The plan passes ``--multirun`` for a sweep, from which Hydra knows the mode. Patches base classes: Hydra re-executes
    plugin modules at start, so BasicSweeper is then a different class.
    """
    Hydra.get_mode = lambda self, config_name, overrides: None  # type: ignore[method-assign]
    Sweeper.validate_batch_is_legal = lambda self, batch: None  # type: ignore[method-assign]


class DropJobConfigs(Callback):
    """Frees the two copies of each job's configuration that Hydra's launchers keep until the sweep ends."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Clear the unused configurations; Hydra calls this (``hydra.callbacks`` in conf/config.yaml)."""
        job_return.cfg = job_return.hydra_cfg = None


def folders_are_numbered(master: DictConfig) -> bool:
    """Whether the points of a sweep have folders 0, 1, 2 ...; a user may name them otherwise (hydra.sweep.subdir)."""
    sweep = OmegaConf.to_container(master.hydra.sweep, resolve=False)
    return isinstance(sweep, dict) and sweep["subdir"] == "${hydra.job.num}"


def compose_job(loader: ConfigLoader, master: DictConfig, overrides: Sequence[str]) -> schema.Config:
    """Return the configuration that a job of a running sweep will see."""
    composed = loader.load_sweep_config(master, list(overrides))
    with open_dict(composed):
        hydra = composed.pop("hydra")
    name_mix(composed, hydra)
    return to_config(composed)


def name_mix(composed: DictConfig, hydra: DictConfig) -> None:
    """Give a mix without ``name`` the name of its file."""
    choice = hydra.runtime.choices.get("mix")
    if choice and not composed.mix.name:
        composed.mix.name = str(choice).rpartition("/")[2]


def to_config(composed: DictConfig) -> schema.Config:
    """Return a composed configuration as schema objects.

    Raises:
        OmegaConfBaseException: A value is missing, or an interpolation cannot be resolved.
    """
    config = OmegaConf.to_object(composed)
    assert isinstance(config, schema.Config)
    return config


def to_yaml(composed: DictConfig) -> str:
    """Return a composed configuration as YAML, interpolations resolved: the artifact ``config.yaml``."""
    return OmegaConf.to_yaml(composed, resolve=True)

"""Which tests run: those for a GPU, a cluster or a server only when ``-m`` names them; which of the others are slow."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import re
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest
from filelock import FileLock

from tests.slow import SLOW

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import IConfigRepository
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.default_element import ResultDefault
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

gc.disable()
gc.set_threshold(50_000, 20)
"""Imports make objects that stay, and configurations many of them: until the tests are collected nothing looks for
garbage, then it is looked for seldom. That saves a twentieth of the time."""

hypothesis.settings.register_profile("quick", max_examples=20)
hypothesis.settings.register_profile("full", max_examples=50)
hypothesis.settings.load_profile("full")

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Before torch and numpy are imported: on a busy host threads that wait for each other cost small models ten times."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: a test that interrupts would wait
    signal.signal(signal.SIGINT, signal.default_int_handler)

ON_REQUEST = ("gpu", "slurm", "postgres", "ray")
COMMAND_LINES = {"workplace", "place"}
"""Fixtures of tests that run whole command lines with real tenants: seconds each."""
A_SWEEP_IN_QUICK = "tests/run/test_uploads_behind.py::test_order_and_completeness"
"""The one of them that is not slow: three points from the command line to MLflow."""


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An SQLite store that MLflow has just made, one for all workers: making it takes seconds, copying it none."""
    from mtexp.spec import TrackingSpec
    from mtexp.tracking.store import prepare

    own = tmp_path_factory.getbasetemp()
    path = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made.db"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            prepare(TrackingSpec(uri=f"sqlite:///{own / 'mlflow.db'}", experiment="other"))
            (own / "mlflow.db").rename(path)
    return path.read_bytes()


@pytest.fixture(scope="session", autouse=True)
def _read_once() -> Iterator[None]:
    """The files of ``conf/`` and of Hydra itself are looked for and read once; every call gets a copy.

    Before it composes, Hydra copies all schemas with its list of sources, and then changes the list only: the schemas
    are not copied.
    """
    from hydra._internal.config_repository import ConfigRepository

    from mtexp.config.composer import CONF_DIR

    answers: dict[object, bytes] = {}
    initialize = ConfigRepository.initialize_sources

    def answered_once(place: str, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def answer(*arguments: object, **named: object) -> object:
            key = (place, name, arguments, *named.items())
            if key not in answers:
                answers[key] = pickle.dumps(call(*arguments, **named))
            return pickle.loads(answers[key])

        return answer

    def initialize_once(self: ConfigRepository, search_path: ConfigSearchPath) -> None:
        initialize(self, search_path)
        for source in self.sources:
            if source.path in ("hydra.conf", str(CONF_DIR)):
                for name in ("available", "is_config", "is_group", "list", "load_config"):
                    setattr(source, name, answered_once(source.path, name, getattr(source, name)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "initialize_sources", initialize_once)
        patch.setattr(ConfigRepository, "__deepcopy__", lambda self, memo: copy.copy(self), raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _composed_once() -> Iterator[None]:
    """What Hydra makes of the same choices of groups in ``conf/`` is kept: composing takes it a tenth of a second.

    Every call gets a copy, to which Hydra applies the values of the command line, as it does after composing.
    """
    from hydra._internal import config_loader_impl as hydra
    from hydra._internal.defaults_list import DefaultsList, Overrides

    from mtexp.config.composer import CONF_DIR

    lists: dict[object, bytes] = {}
    composed: dict[object, bytes] = {}
    create, compose = hydra.create_defaults_list, hydra.ConfigLoaderImpl._compose_config_from_defaults_list

    def conf_alone(repo: IConfigRepository) -> bool:
        return [source.path for source in repo.get_sources()] == ["hydra.conf", str(CONF_DIR), "", ""]

    def create_once(
        repo: IConfigRepository, config_name: str, overrides_list: list[Override], **how: bool
    ) -> DefaultsList:
        if not conf_alone(repo):
            return create(repo, config_name, overrides_list, **how)
        asked = Overrides(repo, overrides_list)
        key = (config_name, repr((how, asked.override_choices, asked.append_group_defaults, asked.deletions)))
        if key not in lists:
            values = {id(override) for override in asked.config_overrides}
            choices = [override for override in overrides_list if id(override) not in values]
            lists[key] = pickle.dumps(create(repo, config_name, choices, **how))
        made: DefaultsList = pickle.loads(lists[key])
        made.config_overrides = asked.config_overrides
        return made

    def compose_once(self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        if not conf_alone(repo):
            return compose(self, defaults, repo)
        if (key := repr(defaults)) not in composed:
            composed[key] = pickle.dumps(compose(self, defaults, repo))
        return pickle.loads(composed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydra, "create_defaults_list", create_once)
        patch.setattr(hydra.ConfigLoaderImpl, "_compose_config_from_defaults_list", compose_once)
        yield


def pytest_configure(config: pytest.Config) -> None:
    if "not slow" in (config.getoption("markexpr") or ""):  # before modules with settings of their own are imported
        hypothesis.settings.load_profile("quick")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = set(re.findall(r"\w+", config.getoption("markexpr") or ""))
    for item in items:
        runs_commands = COMMAND_LINES & set(getattr(item, "fixturenames", ()))
        if (runs_commands and item.nodeid != A_SWEEP_IN_QUICK) or item.nodeid.startswith(SLOW):
            item.add_marker("slow")
    left_out = [
        item for item in items if any(item.get_closest_marker(name) for name in ON_REQUEST if name not in asked)
    ]
    config.hook.pytest_deselected(items=left_out)
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    kept = [item for item in items if item not in set(left_out)]
    items[:] = sorted(kept, key=lambda item: item.path not in slow_files)  # the last file a worker gets is a short one


def pytest_runtest_teardown() -> None:
    os.environ.pop("PYTHONWARNINGS", None)  # a command entered in this process sets it for its children


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()  # with torch and MLflow imported, the collector takes a quarter of what composing a configuration takes

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.conftest import nothing_left
from tests.run.run_helpers import Workplace

__all__ = ["nothing_left"]

# at import: whichever test of the session starts the server first, tenants are forked from one that has torch
multiprocessing.get_context("forkserver").set_forkserver_preload(["mtexp.tenant.preload"])


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An SQLite store that MLflow has just made: making one takes seconds, copying it none."""
    from mtexp.spec import TrackingSpec
    from mtexp.tracking.store import prepare

    folder = tmp_path_factory.mktemp("made")
    prepare(TrackingSpec(uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="other"))
    return (folder / "mlflow.db").read_bytes()


@pytest.fixture
def workplace(tmp_path: Path, empty_store: bytes, nothing_left: None) -> Iterator[Workplace]:
    """An empty folder with an empty MLflow store, in which command lines are run."""
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    with Workplace.at(tmp_path) as place:
        yield place
        assert not list(tmp_path.rglob("*.bin"))

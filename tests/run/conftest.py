from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtexp.processes import PRELOADED
from tests.launch.conftest import bare_server, nothing_left
from tests.run.run_helpers import Workplace

__all__ = ["bare_server", "nothing_left"]

# at import: whichever test of the session starts the server first, tenants are forked from one that has torch
multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)


@pytest.fixture
def workplace(tmp_path: Path, made_store: bytes, nothing_left: None) -> Iterator[Workplace]:
    """An empty folder with an empty MLflow store, in which command lines are run."""
    (tmp_path / "mlflow.db").write_bytes(made_store)
    with Workplace.at(tmp_path) as place:
        yield place
        assert not list(tmp_path.rglob("*.bin"))

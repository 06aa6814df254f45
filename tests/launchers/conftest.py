from __future__ import annotations

from pathlib import Path

import pytest

from mtexp.spec import TrackingSpec
from mtexp.tracking.store import prepare
from tests.launchers.launcher_helpers import Place


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An SQLite store as MLflow makes it: the first runs of a sweep would each wait for that."""
    folder = tmp_path_factory.mktemp("store")
    prepare(TrackingSpec(uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="other"))
    return (folder / "mlflow.db").read_bytes()


@pytest.fixture
def place(tmp_path: Path, made_store: bytes) -> Place:
    """An empty folder with an MLflow store, in which sweeps are started."""
    (tmp_path / "mlflow.db").write_bytes(made_store)
    return Place(tmp_path)

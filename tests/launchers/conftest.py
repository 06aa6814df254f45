from __future__ import annotations

from pathlib import Path

import pytest

from tests.launchers.launcher_helpers import Place


@pytest.fixture
def place(tmp_path: Path, made_store: bytes) -> Place:
    """An empty folder with an MLflow store, in which sweeps are started."""
    (tmp_path / "mlflow.db").write_bytes(made_store)
    return Place(tmp_path)

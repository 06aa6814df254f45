from __future__ import annotations

from pathlib import Path

import pytest

from mtexp.spec import TrackingSpec


@pytest.fixture
def tracking(made_store: bytes, tmp_path: Path) -> TrackingSpec:
    """A store of the test's own, without the experiment."""
    path = tmp_path / "store" / "mlflow.db"
    path.parent.mkdir()
    path.write_bytes(made_store)
    return TrackingSpec(uri=f"sqlite:///{path}")


@pytest.fixture(autouse=True)
def _no_store_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)

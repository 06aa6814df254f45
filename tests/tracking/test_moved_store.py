"""Where artifacts lie after a project folder was moved or copied."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mlflow import MlflowClient

from mtexp.spec import TrackingSpec
from mtexp.testing.records import stored
from mtexp.tracking.mlflow_writer import log_record
from mtexp.tracking.store import open_store


@pytest.mark.parametrize("copied", [False, True])
def test_a_project_that_was_moved_keeps_its_artifacts_together(tmp_path: Path, made_store: bytes, copied: bool) -> None:
    """New artifacts lie beside the store, and MLflow finds the old ones: moved in the new place, copied in the old."""
    old, new = tmp_path / "old", tmp_path / "new"
    stored(old / "a", seed=1)
    (old / "mlflow.db").write_bytes(made_store)
    before = TrackingSpec(uri=f"sqlite:///{old / 'mlflow.db'}")
    first = log_record(old / "a", before)
    if copied:
        shutil.copytree(old, new)
    else:
        old.rename(new)
    stored(new / "b", seed=2)
    after = TrackingSpec(uri=f"sqlite:///{new / 'mlflow.db'}")
    second = log_record(new / "b", after)
    with open_store(after, write=False) as store:
        places = {
            run: Path(unquote(urlsplit(store.client.get_run(run).info.artifact_uri).path)) for run in (first, second)
        }
    assert places[second].is_relative_to(new)
    assert places[first].is_relative_to(old if copied else new)
    assert all((place / "record.json").is_file() for place in places.values())


def test_a_place_of_artifacts_that_was_chosen_stays(tmp_path: Path, tracking: TrackingSpec) -> None:
    """A folder of that name elsewhere, with no store beside it, is no sign of a move."""
    chosen = tmp_path / "shared" / "mlartifacts"
    chosen.mkdir(parents=True)
    MlflowClient(tracking.uri).create_experiment(tracking.experiment, chosen.as_uri())
    stored(tmp_path / "a", seed=1)
    log_record(tmp_path / "a", tracking)
    assert any(chosen.rglob("record.json"))

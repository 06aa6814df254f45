"""The way to the MLflow UI: loopback unless told otherwise, and on mtexp's own columns."""

import json
import os

from mtexp.spec import TrackingSpec
from mtexp.tracking import ui
from mtexp.tracking.store import open_store


def test_without_a_store_there_is_nothing_to_show(tmp_path, capsys):
    """One sentence and exit code 2; no database is made by looking."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert ui.main(["--uri", uri]) == 2
    assert "nothing was tracked" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


def test_it_listens_on_loopback_and_opens_the_shared_view(tmp_path, capsys, monkeypatch):
    """The address printed leads to the runs with mtexp's columns, which the experiment carries as a tag."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with open_store(TrackingSpec(uri=uri), write=True) as store:
        tags = store.client.get_experiment(store.experiment_id).tags
    started = []
    monkeypatch.setattr(os, "execv", lambda program, argv: started.append(argv))

    ui.main(["--uri", uri, "--port", "5123"])

    page = f"#/experiments/{store.experiment_id}/runs?viewStateShareKey={ui.VIEW}"
    assert f"http://127.0.0.1:5123/{page}" in capsys.readouterr().out
    (argv,) = started
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    columns = json.loads(tags[f"mlflow.sharedViewState.{ui.VIEW}"])["selectedColumns"]
    assert "metrics.`stp`" in columns
    assert "tags.`mtexp.verdict`" in columns

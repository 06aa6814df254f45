"""The way to the MLflow UI: loopback unless told otherwise, and on mtexp's own columns."""

import importlib.util
import json
import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

from mtexp.spec import TrackingSpec
from mtexp.tracking import ui
from mtexp.tracking.store import open_store
from mtexp.tracking.view import VIEW


def test_without_a_store_there_is_nothing_to_show(tmp_path, capsys):
    """One sentence and exit code 2; no database is made by looking."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert ui.main(["--uri", uri]) == 2
    assert "nothing has been tracked" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


def test_it_listens_on_loopback_and_opens_the_shared_view(tmp_path, capsys, monkeypatch):
    """The address printed leads to the runs with mtexp's columns, which the experiment carries as a tag."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with open_store(TrackingSpec(uri=uri), write=True) as store:
        tags = store.client.get_experiment(store.experiment_id).tags
    started = []
    monkeypatch.setattr(os, "execve", lambda program, argv, environment: started.append(argv))

    ui.main(["--uri", uri, "--port", "5123"])

    page = f"#/experiments/{store.experiment_id}/runs?viewStateShareKey={VIEW}"
    assert f"http://127.0.0.1:5123/{page}" in capsys.readouterr().out
    (argv,) = started
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    columns = json.loads(tags[f"mlflow.sharedViewState.{VIEW}"])["selectedColumns"]
    assert "metrics.`stp`" in columns
    assert "tags.`mtexp.verdict`" in columns


def test_a_password_reaches_the_ui_by_environment_only(capsys, monkeypatch):
    """MLflow can log in to the database; neither the command line nor what is printed shows how."""
    secret = "postgresql://user:hush-hush@db.example/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    started = []
    monkeypatch.setattr(os, "execve", lambda program, argv, environment: started.append((argv, environment)))
    monkeypatch.setattr(
        "mtexp.tracking.ui.open_store", lambda *args, **options: nullcontext(SimpleNamespace(experiment_id="1"))
    )
    ui.main([])
    ((argv, environment),) = started
    assert environment["MLFLOW_BACKEND_STORE_URI"] == secret
    assert "hush-hush" not in " ".join(argv) + "".join(capsys.readouterr())
    assert "postgresql" not in " ".join(argv)


def test_mlflow_takes_the_store_from_the_environment():
    """The option of ``mlflow ui`` has that variable (read, not imported: importing it takes ten seconds)."""
    source = Path(importlib.util.find_spec("mlflow").origin).parent / "cli" / "__init__.py"
    text = source.read_text()
    option = text[text.index('"--backend-store-uri"') :]
    assert 'envvar="MLFLOW_BACKEND_STORE_URI"' in option[: option.index(")")]

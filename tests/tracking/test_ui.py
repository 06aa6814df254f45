"""The way to the MLflow UI: loopback unless told otherwise, and on mtexp's own columns."""

import importlib.util
import json
import os
import signal
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import pytest

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


class Server:
    """Stands for ``mlflow ui``: it answers at once, and ends when it is waited for."""

    started: ClassVar[list[tuple[list[str], dict[str, str]]]] = []

    def __init__(self, argv, *, env, stdout, stderr):
        self.started.append((argv, env))
        self.code = None

    def poll(self):
        return self.code

    def wait(self, timeout=None):
        self.code = 0
        return 0

    def terminate(self):
        self.code = 0

    kill = terminate


@pytest.fixture
def started(monkeypatch):
    """What was started in place of MLflow."""
    monkeypatch.setattr(Server, "started", [])
    monkeypatch.setattr(ui.subprocess, "Popen", Server)
    monkeypatch.setattr(ui.urllib.request, "urlopen", lambda address, timeout: nullcontext())
    monkeypatch.setattr(ui, "_taken", lambda host, port: "")
    return Server.started


def test_it_listens_on_loopback_and_opens_the_shared_view(tracking, capsys, started):
    """The address printed leads to the runs with mtexp's columns, which an older experiment gets here."""
    uri = tracking.uri
    with open_store(tracking, write=True) as store:
        store.client.set_experiment_tag(store.experiment_id, f"mlflow.sharedViewState.{VIEW}", "{}")
        store.client.set_experiment_tag(store.experiment_id, ui.NOTE, "my own words")

    ui.main(["--uri", uri, "--port", "5123"])

    page = f"#/experiments/{store.experiment_id}/runs?viewStateShareKey={VIEW}"
    assert f"http://127.0.0.1:5123/{page}" in capsys.readouterr().out
    ((argv, _),) = started
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[argv.index("--workers") + 1] == "1"
    with open_store(TrackingSpec(uri=uri), write=False) as store:
        tags = store.client.get_experiment(store.experiment_id).tags
    columns = json.loads(tags[f"mlflow.sharedViewState.{VIEW}"])["selectedColumns"]
    assert columns[0] == "attributes.`Description`", "verdict and STP come before what the edge of a window cuts off"
    assert {"metrics.`stp`", "metrics.`slowdown`", "params.`model`", "tags.`mtexp.verdict`"} <= set(columns)
    assert tags[ui.NOTE] == "my own words"


def test_sigterm_ends_mlflow_too(tracking, monkeypatch, started):
    """``timeout``, systemd and containers end a command so: the server would keep the port."""
    with open_store(tracking, write=True):
        pass
    ended = []
    usual = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Server, "wait", lambda self, timeout=None: ended or os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(Server, "terminate", lambda self: ended.append(self))
    assert ui.main(["--uri", tracking.uri]) == 0
    assert ended
    assert signal.getsignal(signal.SIGTERM) is usual


def test_a_port_in_use_is_refused_before_anything_starts(tracking, capsys, monkeypatch):
    """Exit code 2, and a port that is free; no address of somebody else's server is printed."""
    with open_store(tracking, write=True):
        pass
    monkeypatch.setattr(ui.subprocess, "Popen", None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert ui.main(["--uri", tracking.uri, "--port", str(port)]) == 2
    said = capsys.readouterr()
    assert not said.out
    free = int(said.err.rsplit(" ", 1)[1])
    assert free != port
    with socket.socket() as one:
        one.bind(("127.0.0.1", free))


def test_a_password_reaches_the_ui_by_environment_only(capsys, monkeypatch, started):
    """MLflow can log in to the database; neither the command line nor what is printed shows how."""
    secret = "postgresql://user:hush-hush@db.example/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    monkeypatch.setattr(ui, "_page", lambda tracking: "#/")
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

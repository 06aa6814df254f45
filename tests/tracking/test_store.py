from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mtexp.errors import TrackingError
from mtexp.spec import TrackingSpec
from mtexp.testing.records import stored
from mtexp.tracking import keys
from mtexp.tracking.mlflow_writer import log_record
from mtexp.tracking.store import NoStoreError, open_store, redact, resolve_uri
from mtexp.tracking.upload import log_or_defer, main, pending

SECRET = "hunter2-planted"

EIGHT = """
import os, sys
import mlflow, sqlalchemy, alembic, pandas, pyarrow.parquet
from mtexp.tracking.upload import main
pids = []
for index in range(8):
    if not (pid := os.fork()):
        sys.stdout = open(os.devnull, "w")
        os._exit(main([f"{sys.argv[2]}/{index}", "--uri", sys.argv[1]]))
    pids.append(pid)
print(*[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
"""


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_the_store_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """tracking.uri, else MLFLOW_TRACKING_URI, else mlflow.db here."""
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(TrackingSpec()) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert resolve_uri(TrackingSpec()) == "http://server:5000"
    assert resolve_uri(TrackingSpec(uri="sqlite:///x.db")) == "sqlite:///x.db"


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        (f"http://me:{SECRET}@server:5000/path", "http://server:5000/path"),
        (f"postgresql://me:{SECRET}@db/mlflow?password={SECRET}", "postgresql://db/mlflow"),
        (f"https://{SECRET}@server", "https://server"),
    ],
)
def test_a_uri_is_shown_without_credentials(monkeypatch: pytest.MonkeyPatch, uri: str, public: str) -> None:
    """User, password and query never leave."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert resolve_uri(TrackingSpec()) == public


def test_messages_are_shown_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of a URI nor those of the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    text = redact(f"request to http://me:{SECRET}@server failed: {SECRET} refused; see https://docs/x and a@b.c")
    assert text == "request to http://server failed: *** refused; see https://docs/x and a@b.c"


def test_a_planted_secret_is_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A store with credentials that does not answer: they are in no file that is left behind, and in no message."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:{closed_port()}")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    stored(tmp_path / "run")
    upload = log_or_defer(tmp_path / "run", TrackingSpec())
    assert upload.reason.startswith("MLflow at http://127.0.0.1:")
    assert SECRET not in str(upload)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_an_unreachable_server_defers_the_record(tmp_path: Path, tracking: TrackingSpec) -> None:
    """Nothing is lost and nothing raised: a marker with the reason, the command for later, and later it works."""
    stored(tmp_path / "run")
    upload = log_or_defer(tmp_path / "run", TrackingSpec(uri=f"http://127.0.0.1:{closed_port()}"))
    assert upload.run_id == ""
    assert "refused" in upload.reason
    assert f"python -m mtexp.tracking.upload {tmp_path / 'run'}" in upload.reason
    assert list(pending(tmp_path)) == [tmp_path / "run"]
    assert "refused" in (tmp_path / "run" / "upload.pending").read_text()
    assert log_or_defer(tmp_path / "run", tracking).run_id
    assert list(pending(tmp_path)) == []


def test_a_record_whose_sender_was_killed_is_pending(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker is there before the sending begins."""
    stored(tmp_path / "run")

    def killed(*arguments: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mtexp.tracking.upload.log_record", killed)
        with pytest.raises(KeyboardInterrupt):
            log_or_defer(tmp_path / "run", tracking)
    assert list(pending(tmp_path)) == [tmp_path / "run"]


def test_the_command_sends_what_is_missing_and_says_so(
    tmp_path: Path, tracking: TrackingSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line a record; twice is once; the exit code tells."""
    for index in range(2):
        stored(tmp_path / "sweep" / str(index), seed=index)
    arguments = [str(tmp_path / "sweep"), "--uri", tracking.uri]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out == first
    assert first.count("in MLflow, run ") == 2
    assert first.endswith(f"2 of 2 records are in MLflow at {tracking.uri}\n")


def test_the_command_fails_where_one_could_not_be_sent(
    tmp_path: Path, tracking: TrackingSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken record does not keep the others back."""
    stored(tmp_path / "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record.json").write_text("{")
    assert main([str(tmp_path), "--uri", tracking.uri]) == 1
    output = capsys.readouterr().out
    assert "NOT sent" in output
    assert "1 of 2 records are in MLflow" in output
    assert main([str(tmp_path / "nothing")]) == 2
    assert "no record.json at or below" in capsys.readouterr().err


def test_reading_a_store_that_is_not_there_says_so_and_makes_none(tmp_path: Path, tracking: TrackingSpec) -> None:
    """No empty database appears because somebody looked."""
    absent = TrackingSpec(uri=f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(NoStoreError, match="no MLflow store at"), open_store(absent, write=False):
        pass
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(NoStoreError, match="no experiment mtexp in"), open_store(tracking, write=False):
        pass


def test_what_is_no_uri_is_refused_without_showing_credentials(tmp_path: Path) -> None:
    """One message, the record kept for later."""
    stored(tmp_path / "run")
    for uri in (f"http://me:{SECRET}@[bad", f"http://me:{SECRET}@server:port"):
        upload = log_or_defer(tmp_path / "run", TrackingSpec(uri=uri))
        assert upload.reason.startswith("tracking.uri=http://")
        assert SECRET not in upload.reason


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    """In one line, without the SQL that met it."""
    stored(tmp_path / "run")
    (tmp_path / "mlflow.db").write_text("no database" * 100)
    upload = log_or_defer(tmp_path / "run", TrackingSpec(uri=f"sqlite:///{tmp_path / 'mlflow.db'}"))
    assert "file is not a database." in upload.reason
    assert "SELECT" not in upload.reason


def test_a_deleted_experiment_is_named(tracking: TrackingSpec) -> None:
    """MLflow keeps the name of a deleted experiment: the message says what to do."""
    with open_store(tracking, write=True) as store:
        store.client.delete_experiment(store.experiment_id)
    with pytest.raises(TrackingError, match=r"experiment mtexp in .* was deleted"), open_store(tracking, write=True):
        pass


def test_artifacts_lie_beside_the_sqlite_file(tmp_path: Path, tracking: TrackingSpec) -> None:
    """Not in the directory that happened to be current."""
    stored(tmp_path / "run")
    log_record(tmp_path / "run", tracking)
    assert list((tmp_path / "store" / "mlartifacts").glob("*/artifacts/record.json"))


@pytest.mark.process
def test_eight_processes_on_one_fresh_file_lose_nothing(tmp_path: Path) -> None:
    """They make the store, the experiment and their runs at once; none fails, everything is there once."""
    for index in range(8):
        stored(tmp_path / str(index) / "0", seed=2 * index)
        stored(tmp_path / str(index) / "1", seed=2 * index + 1)
    uri = f"sqlite:///{tmp_path / 'fresh' / 'mlflow.db'}"
    (tmp_path / "fresh").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "ignore", "-c", EIGHT, uri, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.split() == ["0"] * 8, done.stderr
    with open_store(TrackingSpec(uri=uri), write=False) as store:
        runs = store.client.search_runs([store.experiment_id], max_results=1000)
    assert len(runs) == 16 * 3
    assert sum(run.data.tags.get(keys.UPLOAD) == keys.UPLOAD_COMPLETE for run in runs) == 16

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy.sql

from mtexp.errors import TrackingError
from mtexp.output import enter
from mtexp.records import keys
from mtexp.spec import TrackingSpec
from mtexp.testing.records import stored
from mtexp.tracking.mlflow_writer import log_record
from mtexp.tracking.store import CLIENT_SETTINGS, PROBE_S, NoStoreError, check_store, open_store, prepare
from mtexp.tracking.upload import log_or_defer, main, mark_pending, pending

SECRET = "hunter2-planted"

TOGETHER = """
import gc, os, sys
gc.disable()
import mlflow.store.tracking.sqlalchemy_store, pandas, pyarrow.parquet, sqlalchemy.orm  # once, before they are forked
from mtexp.tracking.upload import main
sqlalchemy.orm.configure_mappers()
pids = []
for index in range(3):
    if not (pid := os.fork()):
        sys.stdout = open(os.devnull, "w")
        os._exit(main([f"{sys.argv[2]}/{index}", "--uri", sys.argv[1]]))
    pids.append(pid)
print(*[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
"""


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


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
    mark_pending(tmp_path / "run")
    uri = f"http://127.0.0.1:{closed_port()}"
    upload = log_or_defer(tmp_path / "run", TrackingSpec(uri=uri))
    assert upload.run_id == ""
    assert "refused" in upload.reason
    assert upload.reason.endswith(f". Later: python -m mtexp.tracking.upload {tmp_path / 'run'} --uri {uri}")
    assert list(pending(tmp_path)) == [tmp_path / "run"]
    assert "refused" in (tmp_path / "run" / "upload.pending").read_text()
    assert log_or_defer(tmp_path / "run", tracking).run_id
    assert list(pending(tmp_path)) == []


def test_a_record_whose_sender_was_killed_is_pending(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker stays until it is sent."""
    stored(tmp_path / "run")
    mark_pending(tmp_path / "run")

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
    """Broken records, whatever is wrong with them, do not keep the others back; the file names its folder."""
    stored(tmp_path / "c")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record.json").write_text("{")
    stored(tmp_path / "b", seed=1)
    record = tmp_path / "b" / "record.json"
    record.write_text(record.read_text().replace('"kind": "forward"', '"kind": "zzz"'))
    assert main([str(tmp_path), "--uri", tracking.uri]) == 1
    output = capsys.readouterr().out
    assert output.count("NOT sent") == 2
    assert "1 of 3 records are in MLflow" in output
    assert main([str(tmp_path / "c" / "record.json"), "--uri", tracking.uri]) == 0
    assert "1 of 1 records are in MLflow" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing"), "--uri", tracking.uri]) == 2
    assert "no record.json at or below" in capsys.readouterr().err


def test_a_second_store_that_does_not_answer_changes_nothing(tmp_path: Path, tracking: TrackingSpec) -> None:
    """A record that one store has is not marked as one that is in none."""
    stored(tmp_path / "run")
    assert main([str(tmp_path / "run"), "--uri", tracking.uri]) == 0
    assert main([str(tmp_path / "run"), "--uri", f"http://127.0.0.1:{closed_port()}"]) == 2
    assert list(pending(tmp_path)) == []


def test_an_interrupted_command_says_so(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 130, no traceback, the marker stays."""
    stored(tmp_path / "run")
    mark_pending(tmp_path / "run")

    def interrupted(*arguments: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("mtexp.tracking.upload.log_record", interrupted)
    assert main([str(tmp_path / "run"), "--uri", tracking.uri]) == 130
    assert "the same command sends what is missing" in capsys.readouterr().err
    assert list(pending(tmp_path)) == [tmp_path / "run"]


def test_an_interrupt_that_a_library_catches_ends_the_command(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 130; the next record is not sent."""
    sent: list[Path] = []

    def catches(directory: Path, *arguments: object) -> str:
        sent.append(directory)
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return "run"

    for seed, name in enumerate("ab"):
        stored(tmp_path / name, seed=seed)
    monkeypatch.setattr("mtexp.tracking.upload.log_record", catches)
    assert enter(lambda: main([str(tmp_path), "--uri", tracking.uri])) == 130
    assert sent == [tmp_path / "a"]


@pytest.mark.parametrize(
    "uri",
    ["http://x:abc", f"http://u:pa/{SECRET}@127.0.0.1:9/", f"http://127.0.0.1/?token={SECRET}", "sqlite:///{here}"],
)
def test_the_command_refuses_what_can_be_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    """Exit code 2 and one message without credentials, whether it is on the command line or in the environment."""
    stored(tmp_path / "run")
    uri = uri.replace("{here}", str(tmp_path))
    assert main([str(tmp_path / "run"), "--uri", uri]) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main([str(tmp_path / "run")]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 2
    assert SECRET not in said.err + said.out


def test_a_store_that_can_be_made_is_none_to_refuse(tmp_path: Path) -> None:
    """A file in folders that are not there yet is one; a file below a file is none. Nothing is made by looking."""
    check_store(TrackingSpec(uri=f"sqlite:///{tmp_path}/new/too/mlflow.db"))
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="file is not a writable folder"):
        check_store(TrackingSpec(uri=f"sqlite:///{tmp_path}/file/mlflow.db"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("postgresql://nobody-there.invalid/db", "not known|resolution|resolve"),
        ("postgresql://127.0.0.1:{port}/db", "refused"),
        ("postgresql:///db?host=/nowhere", "nowhere"),
        (f"postgresql://{'a' * 70}/db", "label"),
        ("mysql://127.0.0.1:{port}/db", "MySQLdb.*install it here|connect"),
        ("sqlite:///{here}", "unable to open database file"),
    ],
)
def test_a_database_that_does_not_answer_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, said: str
) -> None:
    """MLflow itself would ask ten times, and sleep in between for longer and longer."""
    slept: list[float] = []
    # MLflow's own: other threads of the tests may sleep meanwhile
    monkeypatch.setattr("mlflow.store.db.utils.time", SimpleNamespace(sleep=slept.append))
    uri = uri.replace("{port}", str(closed_port())).replace("{here}", str(tmp_path))
    with pytest.raises(TrackingError, match=said), open_store(TrackingSpec(uri=uri), write=True):
        pass
    assert not slept


@pytest.mark.parametrize(("uri", "port"), [("postgresql://db/mlflow", 5432), ("postgresql://db:99/mlflow", 99)])
def test_a_database_whose_host_is_silent_is_waited_for_seconds(
    monkeypatch: pytest.MonkeyPatch, uri: str, port: int
) -> None:
    """At the port that it has where the URI names none; how long its own library would wait is not known."""
    asked: list[object] = []

    def silent(address: tuple[str, int], timeout_s: float) -> None:
        asked.extend([address, timeout_s])
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(TrackingError, match=r"postgresql://db.*: timed out"):
        prepare(TrackingSpec(uri=uri))
    assert asked == [("db", port), PROBE_S]


@pytest.mark.parametrize("body", [b"{}", b"", b'{"experiment": 5}', b"<html>"])
def test_a_server_of_something_else_is_said(body: bytes) -> None:
    """It answers every request, and is no MLflow: not a deleted experiment, not a traceback."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        uri = f"http://127.0.0.1:{server.server_port}"
        try:
            with (
                pytest.raises(TrackingError, match=r"not an MLflow server|JSON|parse") as error,
                open_store(TrackingSpec(uri=uri), write=True),
            ):
                pass
        finally:
            server.shutdown()
            thread.join()
    assert "deleted" not in str(error.value)


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
        assert upload.reason.startswith("tracking.uri=(hidden): ")
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


def _sooner(statement: str) -> str:
    return statement.replace("busy_timeout = 20000", "busy_timeout = 4000")


@pytest.mark.process
@pytest.mark.parametrize("held_s", [2.0, 60.0])
def test_a_file_that_another_program_has_locked(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch, held_s: float
) -> None:
    """One that takes no lock of mtexp's: waited for; where that is in vain the record is deferred, and sent later.

    MLflow waits 20 s, here 4.
    """
    monkeypatch.setattr(sqlalchemy.sql, "text", lambda text, text_of=sqlalchemy.sql.text: text_of(_sooner(text)))
    stored(tmp_path / "run")
    mark_pending(tmp_path / "run")
    prepare(tracking)
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('BEGIN EXCLUSIVE'); print(flush=True); input()"
    path = tracking.uri.removeprefix("sqlite:///")
    with subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        timer = threading.Timer(held_s, other.terminate)
        timer.start()
        upload = log_or_defer(tmp_path / "run", tracking)
        timer.cancel()  # else the end of the tests would wait for it
        if held_s == 60.0:
            assert "database is locked" in upload.reason
            assert list(pending(tmp_path)) == [tmp_path / "run"]
        other.terminate()
    assert log_or_defer(tmp_path / "run", tracking).run_id
    assert list(pending(tmp_path)) == []
    assert bool(upload.run_id) == (held_s == 2.0)


def test_processes_on_one_fresh_file_lose_nothing(tmp_path: Path) -> None:
    """They make the store, the experiment and their runs at once; none fails, everything is there once."""
    for index in range(3):
        stored(tmp_path / str(index), seed=index)
    uri = f"sqlite:///{tmp_path / 'fresh' / 'mlflow.db'}"
    (tmp_path / "fresh").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "ignore", "-c", TOGETHER, uri, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.split() == ["0"] * 3, done.stderr
    with open_store(TrackingSpec(uri=uri), write=False) as store:
        runs = store.client.search_runs([store.experiment_id], max_results=1000)
    assert len(runs) == 3 * 3
    assert sum(run.data.tags.get(keys.UPLOAD) == keys.UPLOAD_COMPLETE for run in runs) == 3


def test_a_statement_has_a_limit_on_the_server() -> None:
    """libpq hands it over with every connection, unless the environment says otherwise."""
    assert "statement_timeout=60000" in CLIENT_SETTINGS["PGOPTIONS"]

"""A store is asked before anything is measured for it, and no server holds a call for longer than its deadline."""

from __future__ import annotations

import itertools
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mtexp.config.plan import plan
from mtexp.errors import TrackingError
from mtexp.spec import TrackingSpec
from mtexp.testing.records import stored
from mtexp.tracking.reach import ask_store
from mtexp.tracking.store import check_store, open_store, prepare
from mtexp.tracking.upload import log_or_defer, main, mark_pending, pending
from mtexp.tracking.uri import redact, sqlite_path, sqlite_uri

Answer = Callable[[str], Iterator[bytes]]
HEAD = "HTTP/1.1 {} x\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
ABSENT = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}'


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """A server that answers each request with the pieces of ``answer(path)``; yields its URI and the paths asked."""
    asked: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline().decode()
            length = 0
            while (header := self.rfile.readline().strip().lower()) != b"":
                if header.startswith(b"content-length:"):
                    length = int(header.partition(b":")[2])
            self.rfile.read(length)
            asked.append(line.split()[1])
            with suppress(OSError):
                for piece in answer(asked[-1]):
                    self.wfile.write(piece)
                    self.wfile.flush()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def _whole(status: int, body: bytes) -> Answer:
    return lambda path: iter([HEAD.format(status).encode() + body])


def _drops(path: str) -> Iterator[bytes]:
    yield HEAD.format(200).encode()
    while True:
        yield b" "
        time.sleep(0.2)


def _slow_head(path: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nX: "
    while True:
        yield b"x"
        time.sleep(0.2)


def _endless(path: str) -> Iterator[bytes]:
    yield HEAD.format(200).encode()
    yield from itertools.repeat(b"x" * 65536)


BAD = {
    "429": (_whole(429, b"{}"), "answers 429"),
    "503": (_whole(503, b"<html>"), "answers 503"),
    "login": (_whole(401, b"{}"), "MLFLOW_TRACKING_USERNAME"),
    "something else": (_whole(200, b"<html>"), "not an MLflow server"),
    "not found": (_whole(404, b"<html>"), "not an MLflow server"),
    "drop by drop": (_drops, "did not answer"),
    "a head without end": (_slow_head, "did not answer"),
    "without end": (_endless, "not an MLflow server"),
    "deleted": (_whole(200, b'{"experiment": {"lifecycle_stage": "deleted"}}'), "was deleted"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_server_that_is_none_or_refuses_is_said_at_once(name: str) -> None:
    answer, why = BAD[name]
    with serving(answer) as (uri, asked), pytest.raises(TrackingError, match=why):
        ask_store(TrackingSpec(uri=uri))
    assert len(asked) == 1


@pytest.mark.parametrize("answer", [_whole(404, ABSENT), _whole(200, b'{"experiment": {"lifecycle_stage": "active"}}')])
def test_a_server_that_would_take_the_experiment(answer: Answer) -> None:
    with serving(answer) as (uri, asked):
        ask_store(TrackingSpec(uri=uri, experiment="a b/ü"))
    assert asked == ["/api/2.0/mlflow/experiments/get-by-name?experiment_name=a+b%2F%C3%BC"]


@pytest.mark.parametrize("uri", ["./mlruns", "127.0.0.1:5000", "htp://x", "file:///tmp/x", "sqlite://", "nonsense"])
def test_what_is_no_store_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for tracking in (TrackingSpec(uri=uri), TrackingSpec()):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(TrackingError, match=r"tracking\.uri=|MLFLOW_TRACKING_URI="):
            check_store(tracking)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 257, "a\x1b[31m"])
def test_a_name_that_no_store_keeps_is_refused(name: str, tracking: TrackingSpec) -> None:
    with pytest.raises(TrackingError, match=r"tracking\.experiment="):
        ask_store(TrackingSpec(uri=tracking.uri, experiment=name))


def test_a_dead_server_is_one_plain_sentence() -> None:
    """Not the retries and objects of the library that asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with pytest.raises(TrackingError) as refused:
        ask_store(TrackingSpec(uri=uri), "Start it")
    assert str(refused.value) == f"MLflow at {uri} cannot be reached: Connection refused. Start it"


def test_a_file_is_looked_into(tracking: TrackingSpec, tmp_path: Path) -> None:
    """A deleted experiment, or no database, is said before the first run; a file that is not there yet is fine."""
    ask_store(tracking)
    ask_store(TrackingSpec(uri=sqlite_uri(tmp_path / "new.db")))
    prepare(tracking)
    with open_store(tracking, write=True) as store:
        store.client.delete_experiment(store.experiment_id)
    with pytest.raises(TrackingError, match="was deleted"):
        ask_store(tracking)
    (tmp_path / "text.db").write_text("no database " * 500)
    with pytest.raises(TrackingError, match="no SQLite database"):
        ask_store(TrackingSpec(uri=sqlite_uri(tmp_path / "text.db")))


def test_the_plan_asks_each_store_once() -> None:
    asked: list[TrackingSpec] = []
    plan(["-m", "mix=solo,pair", "runtime=cpu", "tracking.experiment=x"], ask=asked.append)
    assert [tracking.experiment for tracking in asked] == ["x"]


def test_the_upload_asks_before_it_sends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One question for any number of records, exit code 2, every record still pending."""
    for name in "ab":
        stored(tmp_path / name)
        mark_pending(tmp_path / name)
    with serving(_whole(503, b"")) as (uri, asked):
        assert main([str(tmp_path), "--uri", uri]) == 2
    assert len(asked) == 1
    assert "answers 503" in capsys.readouterr().err
    assert len(list(pending(tmp_path))) == 2


@pytest.mark.parametrize("kind", [_drops, _slow_head, _endless])
def test_a_server_that_gets_stuck_while_a_record_is_sent_costs_one_deadline(
    tmp_path: Path, kind: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first question is answered, a call after it is not: the record is deferred, whatever the server sends."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr("mtexp.tracking.deadline._MOST_BYTES", 2**22)
    experiment = {"experiment": {"experiment_id": "1", "name": "mtexp", "lifecycle_stage": "active"}}
    named = HEAD.format(200).encode() + json.dumps(experiment).encode()

    def answer(path: str) -> Iterator[bytes]:
        return iter([named]) if "get-by-name" in path else kind(path)

    stored(tmp_path / "run")
    mark_pending(tmp_path / "run")
    with serving(answer) as (uri, asked):
        sent = log_or_defer(tmp_path / "run", TrackingSpec(uri=uri))
        stuck = [path for path in asked if "get-by-name" not in path]
    assert sent.run_id == ""
    assert "NOT sent" in str(sent)
    assert len(stuck) == 1


HOSTILE = ("100% sure", "%20", "%2F", "a?b", "a#b", "it's", 'q"x', "new\nline", "ü€", "x" * 200, "a b")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_in_any_folder_is_a_store(
    name: str, made_store: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store, its artifacts and its lock lie in the folder of that name, and nowhere else."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(made_store)
    monkeypatch.chdir(folder)
    assert sqlite_path(sqlite_uri(folder / "mlflow.db")) == folder / "mlflow.db"
    stored(folder / "run")
    sent = log_or_defer(folder / "run", TrackingSpec())
    assert sent.run_id, str(sent)
    with open_store(TrackingSpec(), write=False) as store:
        assert [file.path for file in store.client.list_artifacts(sent.run_id)]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (folder / "mlartifacts").is_dir()


def test_redacting_a_long_text_takes_no_time() -> None:
    """A message may show a value of megabytes: a pattern that looks back from every character would never end."""
    assert redact("x" * 2_000_000 + " my_token=abc") == "x" * 2_000_000 + " my_token=***"

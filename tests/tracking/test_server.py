"""A real MLflow server on a real PostgreSQL, both started here and bound to loopback."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from analysis import fetch
from mtexp.errors import TrackingError
from mtexp.records import keys
from mtexp.spec import TrackingSpec
from mtexp.testing.records import stored
from mtexp.tracking.store import PROBE_S, open_store
from mtexp.tracking.upload import log_or_defer, mark_pending, pending

pytestmark = [pytest.mark.postgres, pytest.mark.process]

PASSWORD = "planted-9f2c"
DEADLINE_S = 90.0
WORKERS = 2


def _tool(name: str) -> str:
    """Path of a PostgreSQL program; Debian keeps them out of PATH."""
    places = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *places]))
    if found is None:
        if os.environ.get("MTEXP_REQUIRE_POSTGRES"):
            pytest.fail(f"{name} is not installed (Debian: apt-get install postgresql)")
        pytest.skip(f"{name} is not installed (Debian: apt-get install postgresql)")
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + DEADLINE_S
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            pytest.fail(f"did not get ready:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


@contextmanager
def _running(command: list[str], log: Path, ready: Callable[[], bool], **options: object) -> Iterator[None]:
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, **options)  # type: ignore[call-overload]
    try:
        _wait_until(ready, process, log)
        yield
    finally:
        process.send_signal(signal.SIGINT)  # to PostgreSQL: stop now, without waiting for its clients
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI, without password, of an empty database; PostgreSQL refuses to run as root, so it runs as its own user."""
    pytest.importorskip("psycopg")
    data = tmp_path_factory.mktemp("postgres")
    secret = data / "password"
    secret.write_text(PASSWORD)
    user: dict[str, object] = {}
    if os.getuid() == 0:
        user = {"user": "postgres"}
        for path in (data, secret):
            shutil.chown(path, "postgres")
        for parent in data.parents:
            if parent.stat().st_uid == 0 and str(parent) != "/" and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    port = _free_port()
    make = [_tool("initdb"), "-D", str(data / "db"), "-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={secret}"]
    subprocess.run(make, check=True, capture_output=True, timeout=DEADLINE_S, **user)  # type: ignore[call-overload]
    serve = [_tool("postgres"), "-D", str(data / "db"), "-p", str(port), "-h", "127.0.0.1", "-k", str(data)]
    with _running(serve, data / "log", lambda: _accepts(port), **user):
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        create = [_tool("createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
        subprocess.run(create, check=True, timeout=DEADLINE_S, env=environment)
        yield f"postgresql+psycopg://mlflow@127.0.0.1:{port}/mlflow"


def _answers_soon(uri: str) -> bool:
    """Whether a worker has opened its store: the first answer of each takes seconds on a busy host."""
    try:
        answer = requests.get(f"{uri}/api/2.0/mlflow/experiments/search", params={"max_results": 1}, timeout=30)
    except requests.RequestException:
        return False
    return answer.ok and answer.elapsed.total_seconds() < PROBE_S / 2


@contextmanager
def _server(postgres: str, folder: Path, port: int) -> Iterator[str]:
    """URI of an MLflow server on ``postgres``, started as docs/tracking-server.md says."""
    uri = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        str(WORKERS),
    ]
    command += ["--backend-store-uri", postgres, "--artifacts-destination", str(folder / "artifacts")]

    def ready() -> bool:
        return _accepts(port) and all(_answers_soon(uri) for _ in range(2 * WORKERS))

    environment = {**os.environ, "PGPASSWORD": PASSWORD, "PYTHONWARNINGS": "ignore"}
    with _running(command, folder / "server.log", ready, env=environment, cwd=folder):
        yield uri


@pytest.fixture(scope="module")
def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with _server(postgres, tmp_path_factory.mktemp("server"), _free_port()) as uri:
        yield uri


def test_a_record_goes_to_a_server_and_comes_back(server: str, tmp_path: Path) -> None:
    """Runs, histories and artifacts through HTTP; the samples are those that were measured."""
    tracking = TrackingSpec(uri=server, experiment="one")
    record = stored(tmp_path / "run", mix="served")
    first = log_or_defer(tmp_path / "run", tracking)
    assert first.run_id, first.reason
    assert log_or_defer(tmp_path / "run", tracking) == first
    frame = fetch.runs("params.mix = 'served'", uri=server, experiment="one")
    assert frame["record_id"].tolist() == [record.record_id]
    assert len(fetch.iterations("params.mix = 'served'", uri=server, experiment="one")) == 44
    assert len(fetch.telemetry("params.mix = 'served'", uri=server, experiment="one")) == 11
    assert sorted(fetch.tenants(uri=server, experiment="one")["slowdown"]) == [1.5, 1.6]


def test_eight_uploads_at_once_lose_nothing(server: str, tmp_path: Path) -> None:
    """They make the experiment and their runs at the same time."""
    for index in range(8):
        stored(tmp_path / str(index), seed=index + 100)
    command = [sys.executable, "-W", "ignore", "-m", "mtexp.tracking.upload", "--uri", server, "--experiment", "eight"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    started = [subprocess.Popen([*command, str(tmp_path / str(i))], env=environment) for i in range(8)]
    codes = [process.wait(200) for process in started]
    for index in (i for i in range(8) if codes[i] == 2):  # a busy server did not answer in time
        codes[index] = subprocess.run([*command, str(tmp_path / str(index))], env=environment, check=False).returncode
    assert codes == [0] * 8
    with open_store(TrackingSpec(uri=server, experiment="eight"), write=False) as store:
        runs = store.client.search_runs([store.experiment_id], max_results=1000)
    assert len(runs) == 8 * 3
    assert sum(run.data.tags.get(keys.UPLOAD) == keys.UPLOAD_COMPLETE for run in runs) == 8


def test_a_server_that_goes_away_and_comes_back(postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not there yet, then gone after the first histories: deferred with a reason; there again, sent whole and once."""
    from mlflow import MlflowClient

    port = _free_port()
    tracking = TrackingSpec(uri=f"http://127.0.0.1:{port}", experiment="middle")
    stored(tmp_path / "run", seed=9)
    mark_pending(tmp_path / "run")
    assert not log_or_defer(tmp_path / "run", tracking).run_id
    calls, real = itertools.count(), MlflowClient.log_batch
    gone: list[bool] = []
    with ExitStack() as first:
        first.enter_context(_server(postgres, tmp_path, port))

        def log_batch(*arguments: Any, **named: Any) -> Any:
            if next(calls) == 1:
                gone.append(True)
                first.close()
            return real(*arguments, **named)

        monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
        for _ in range(10):  # a busy server may not answer in time, before the first histories
            upload = log_or_defer(tmp_path / "run", tracking)
            if gone:
                break
    assert gone
    assert not upload.run_id
    assert f"MLflow at http://127.0.0.1:{port} cannot be reached: " in upload.reason
    assert list(pending(tmp_path)) == [tmp_path / "run"]
    with _server(postgres, tmp_path, port), open_store(tracking, write=False) as store:
        assert log_or_defer(tmp_path / "run", tracking).run_id
        runs = store.client.search_runs([store.experiment_id])
        assert len(runs) == 3
        assert sum(run.data.tags.get(keys.UPLOAD) == keys.UPLOAD_COMPLETE for run in runs) == 1
    assert list(pending(tmp_path)) == []


@pytest.mark.parametrize(
    ("password", "database", "said"), [("", "mlflow", "password"), (PASSWORD, "nothing", "does not exist")]
)
def test_a_database_that_refuses_is_asked_once(
    postgres: str, monkeypatch: pytest.MonkeyPatch, password: str, database: str, said: str
) -> None:
    """No password, no such database: said at once, where MLflow itself would try for minutes."""
    slept: list[float] = []
    monkeypatch.setattr("mlflow.store.db.utils.time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setenv("PGPASSWORD", password)
    uri = postgres.removesuffix("mlflow") + database
    with pytest.raises(TrackingError, match=said), open_store(TrackingSpec(uri=uri), write=True):
        pass
    assert not slept


def test_the_database_can_be_written_without_a_server(
    postgres: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tracking.uri may name PostgreSQL itself; the password comes from the environment and stays there."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "run", seed=8)
    assert log_or_defer(tmp_path / "run", TrackingSpec(uri=postgres, experiment="direct")).run_id
    frame = fetch.runs("metrics.stp > 1", uri=postgres, experiment="direct", columns=["stp", "mix"])
    assert frame[["stp", "mix"]].to_numpy().tolist() == [[1.2, "mixed"]]
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes()

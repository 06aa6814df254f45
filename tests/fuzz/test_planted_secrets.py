"""Credentials are planted; after real runs they are nowhere but where they were planted."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.run.conftest import nothing_left, workplace
from tests.run.run_helpers import Ran, Workplace

__all__ = ["nothing_left", "workplace"]

pytestmark = pytest.mark.process

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "planted-password-1f",
    "MLFLOW_TRACKING_TOKEN": "planted-token-2f",
    "PGPASSWORD": "planted-postgres-3f",
    "AWS_SECRET_ACCESS_KEY": "planted-cloud-4f",
    "HF_TOKEN": "planted-hub-5f",
}
IN_URI = "planted-in-the-uri-6f"
ONE_RUN = ("mix=bert_base", "baseline=skip", "sweep=one")


class _Echo(BaseHTTPRequestHandler):
    """Refuses every request and repeats, as a careless proxy would, what it was sent."""

    def do_GET(self) -> None:
        body = f"unauthorised: {self.path} {self.headers}".encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_POST = do_GET  # noqa: N815 - the names are those of http.server

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def careless_server() -> Iterator[int]:
    """Port of a server on loopback that answers every request with 401 and what it was sent."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _leaks(place: Workplace, ran: Ran) -> list[str]:
    """Where a planted secret is found, as it is or as an HTTP login has it."""
    planted = [*SECRETS.values(), IN_URI]
    planted += [base64.b64encode(f"me:{secret}".encode()).decode() for secret in planted]
    texts = {"stdout": ran.out.encode(), "stderr": ran.err.encode()}
    texts |= {str(path): path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    return [f"{secret} in {name}" for name, text in texts.items() for secret in planted if secret.encode() in text]


def test_secrets_of_the_environment_stay_there(workplace: Workplace) -> None:
    """A run that is tracked: nothing in record, configuration, logs, terminal, or the store with its tags."""
    for name, secret in SECRETS.items():
        workplace.patch.setenv(name, secret)
    ran = workplace.run(*ONE_RUN)
    assert ran.code == 0
    assert len(workplace.mlflow_runs()) == 2
    assert _leaks(workplace, ran) == []


@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{IN_URI}@127.0.0.1:9",
        f"http://me:pa/{IN_URI}@127.0.0.1:9",
        f"http://127.0.0.1:9/?token={IN_URI}",
        f"postgresql+psycopg://db-host/db?password={IN_URI}",
        f"postgresql+psycopg://me:{IN_URI}@db-host/db",
    ],
)
@pytest.mark.parametrize("quote", ["'", ""])
def test_secrets_on_the_command_line_are_refused(workplace: Workplace, uri: str, quote: str) -> None:
    """Before a file is written, and whether or not Hydra can parse it; the message does not repeat it."""
    ran = workplace.run(*ONE_RUN, f"tracking.uri={quote}{uri}{quote}")
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert _leaks(workplace, ran) == []
    assert not (workplace.folder / "outputs").exists()


@pytest.mark.parametrize(
    "uri", [f"http://me:pa/{IN_URI}@127.0.0.1:9/", f"http://127.0.0.1:9/?token={IN_URI}", f"http://me:{IN_URI}@h:port"]
)
def test_secrets_in_what_is_no_uri_are_not_repeated(workplace: Workplace, uri: str) -> None:
    """From the environment, where a login may be: refused before anything runs."""
    workplace.patch.setenv("MLFLOW_TRACKING_URI", uri)
    ran = workplace.run(*ONE_RUN)
    assert ran.code == 2
    assert _leaks(workplace, ran) == []


def test_secrets_of_a_database_that_does_not_answer_are_not_repeated(workplace: Workplace) -> None:
    """A login and a query in the environment's URI, which is where they may be: in no file and no message."""
    uri = f"postgresql+psycopg://me:{IN_URI}@127.0.0.1:9/db?password={IN_URI}&sslmode=require"
    workplace.patch.setenv("MLFLOW_TRACKING_URI", uri)
    refused = workplace.run(*ONE_RUN)
    assert refused.code == 2
    assert "postgresql+psycopg://me@127.0.0.1:9/db" in refused.err
    assert _leaks(workplace, refused) == []
    workplace.patch.setattr("mtexp.terminal.cli.ask_store", lambda tracking: None)  # it answers, and goes away
    ran = workplace.run(*ONE_RUN)
    assert ran.code == 1
    assert "postgresql+psycopg://me@127.0.0.1:9/db" in ran.out
    assert _leaks(workplace, ran) == []


@pytest.mark.parametrize("login", ["URI", "token"])
def test_secrets_sent_to_a_server_are_not_repeated(workplace: Workplace, careless_server: int, login: str) -> None:
    """A run that a server refuses, repeating the login: the messages say 401 and where, and hold no secret."""
    uri = f"http://127.0.0.1:{careless_server}"
    if login == "token":
        workplace.patch.setenv("MLFLOW_TRACKING_TOKEN", SECRETS["MLFLOW_TRACKING_TOKEN"])
        workplace.patch.setenv("MLFLOW_TRACKING_URI", uri)
    else:
        workplace.patch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", f"//me:{IN_URI}@"))
    refused = workplace.run("tracking=server", *ONE_RUN)
    assert refused.code == 2
    assert "401" in refused.err
    assert _leaks(workplace, refused) == []
    workplace.patch.setattr("mtexp.terminal.cli.ask_store", lambda tracking: None)  # it answers, and then refuses
    ran = workplace.run("tracking=server", *ONE_RUN)
    assert ran.code == 1
    assert "401" in ran.out
    assert uri in ran.out
    assert _leaks(workplace, ran) == []

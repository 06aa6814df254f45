"""The MLflow UI of what was run: ``mtexp ui``, ``python -m mtexp.tracking.ui``. May touch: MLflow."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress

from mtexp.commands import command_line
from mtexp.errors import TrackingError
from mtexp.output import enter, say
from mtexp.spec import TrackingSpec
from mtexp.tracking.store import open_store
from mtexp.tracking.uri import full, is_server, resolve_uri, sqlite_path
from mtexp.tracking.view import NOTE, VIEW, experiment_tags

ANSWER_S = 120.0
"""Seconds MLflow may take to answer; a busy machine takes its time."""
SERVER_SETTINGS = {
    "PYTHONSAFEPATH": "1",  # the current folder may have a module by the name of one of MLflow's
    "PYTHONWARNINGS": "ignore",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # several processes that nothing here needs
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_LAST_LINES = 15
_HINT = (
    "At the first visit MLflow opens its Assistant over the right-hand columns: its X closes it for good.\n"
    "Stop the UI with Ctrl-C."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve MLflow's UI and print the address of the runs once it answers.

    Returns:
        0 when it was stopped or the runs are on a server, 1 when MLflow ended or did not answer, 2 when nothing was
        tracked or the port is taken.
    """
    parser = argparse.ArgumentParser(prog=command_line("ui"), description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--uri", default="", help="default: MLFLOW_TRACKING_URI, else mlflow.db here")
    parser.add_argument("--experiment", default="mtexp")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 shows it to your network")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)
    tracking = TrackingSpec(uri=options.uri, experiment=options.experiment)
    try:
        uri = full(tracking)
        if is_server(uri):
            sys.stdout.write(f"The runs are on the server: {resolve_uri(tracking).rstrip('/')}/{_page(tracking)}\n")
            return 0
        if (file := sqlite_path(uri)) is not None and not os.path.isfile(file):
            _page(tracking)  # raises: there is nothing to show, and MLflow would make an empty store
        if taken := _taken(options.host, options.port):
            say(f"{taken}\n", error=True)
            return 2
        return _serve(tracking, options.host, options.port)
    except TrackingError as error:
        say(f"{error}\n", error=True)
        return 2


def _page(tracking: TrackingSpec) -> str:
    """The page of the runs, in mtexp's view, which an experiment of an older mtexp gets here.

    Raises:
        TrackingError: There is no such store or experiment.
    """
    with open_store(tracking, write=False) as store:
        mine = store.client.get_experiment(store.experiment_id).tags
        for name, value in experiment_tags().items():
            if mine.get(name) != value and not (name == NOTE and name in mine):
                store.client.set_experiment_tag(store.experiment_id, name, value)
        return f"#/experiments/{store.experiment_id}/runs?viewStateShareKey={VIEW}"


def _taken(host: str, port: int) -> str:
    """Why nothing can listen there, and on which port it could; empty if it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            free = _free(host, family, port)
            return f"Port {port} of {host} is in use. Port {free} is free: make ui PORT={free}, or --port {free}"
        return f"Nothing can listen on {host}:{port}: {error}. Choose others with --host and --port"
    return ""


def _free(host: str, family: int, port: int) -> int:
    """The next free port above ``port``, or any."""
    for candidate in (*range(port + 1, min(port + 100, 65536)), 0):
        with socket.socket(family, socket.SOCK_STREAM) as one, suppress(OSError):
            one.bind((host, candidate))
            return int(one.getsockname()[1])
    return 0


def _serve(tracking: TrackingSpec, host: str, port: int) -> int:
    """Run ``mlflow ui`` until it ends, or Ctrl-C or SIGTERM ends both; its own output is shown only if it fails."""
    # the URI may hold a password: an environment is the user's own, a command line is everybody's (ps)
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": full(tracking), **SERVER_SETTINGS}
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level=warning"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        usual = signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as with Ctrl-C, and so does MLflow
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            page = _page(tracking)
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
            if _answers(server, address):
                sys.stdout.write(f"The runs: {address}{page}\n{_HINT}\n")
                sys.stdout.flush()
                server.wait()
            output.seek(0)
            lines = "".join(output.readlines()[-_LAST_LINES:])
            sys.stderr.write(f"MLflow's UI ended or did not answer within {ANSWER_S:.0f} s. It said:\n{lines}")
            return 1
        except KeyboardInterrupt:
            return 0
        finally:
            _stop(server)
            signal.signal(signal.SIGTERM, usual)


def _answers(server: subprocess.Popen[bytes], address: str) -> bool:
    """Wait until the server answers; False if it ends before that, or does not answer in time."""
    until = time.monotonic() + ANSWER_S
    while time.monotonic() < until and server.poll() is None:
        local = address.replace("0.0.0.0", "127.0.0.1")
        with suppress(OSError), urllib.request.urlopen(f"{local}health", timeout=5):
            return True
        time.sleep(0.2)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, then make it."""
    for ask in (server.terminate, server.kill):
        if server.poll() is None:
            ask()
            with suppress(subprocess.TimeoutExpired):
                server.wait(timeout=10)


if __name__ == "__main__":
    sys.exit(enter(main))

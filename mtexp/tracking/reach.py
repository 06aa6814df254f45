"""Whether a store answers, before anything is measured for it.

Lives here: :func:`ask_store`, :func:`answers`, :func:`failure`.

May touch: the network, one request or one connection; an SQLite file, reading. Nothing is made. Imports no MLflow.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from mtexp.errors import TrackingError
from mtexp.spec import TrackingSpec
from mtexp.tracking.uri import bounded, database_address, full, is_database, is_server, public, redact, sqlite_path

T = TypeVar("T")

ASKED_S = 2.0
"""Seconds in which a store answers, from looking up its name to the last byte."""
MAX_NAME = 256
"""Most characters of an experiment's name: what the databases behind MLflow keep."""
_BY_NAME = "api/2.0/mlflow/experiments/get-by-name"
_MOST_BYTES = 2**20
_OTHER_LOGINS = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
"""Ways to log in that only MLflow itself knows: what a server says without them proves nothing."""


REMEDY = (
    "Nothing was started. Start it or correct its URI (tracking.uri or MLFLOW_TRACKING_URI); or track to a file, "
    "tracking.uri=sqlite:///FILE, and send the records later: upload DIR --uri URI"
)


def ask_store(tracking: TrackingSpec, remedy: str = REMEDY) -> None:
    """Refuse a store that does not answer, or that would not take the experiment.

    Raises:
        TrackingError: Naming the store and the reason, with ``remedy``.
    """
    uri, name = full(tracking), tracking.experiment
    _check_name(name)
    try:
        state = answers(uri, name)
    except TrackingError as error:
        raise TrackingError(f"{error}. {remedy}") from error
    if state == "deleted":
        raise TrackingError(f"experiment {name} in {public(uri)} was deleted: restore it, or set tracking.experiment")


def _check_name(name: str) -> None:
    allowed = f"up to {MAX_NAME} printable characters"
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        shown = name if name.isprintable() else repr(name)
        raise TrackingError(f"tracking.experiment={shown[:300]}: allowed: {allowed}. Choose another name")


def answers(uri: str, experiment: str, within_s: float = ASKED_S) -> str:
    """Ask a store once, for at most ``within_s``.

    Returns:
        ``active`` or ``deleted``, of the experiment; empty where there is none, or it is not known.

    Raises:
        TrackingError: It does not answer in time, refuses, or is no MLflow store.
    """
    if is_server(uri):
        return _in_time(lambda: _ask_server(uri, experiment), uri, within_s)
    if is_database(uri):
        return _in_time(lambda: _ask_database(uri, within_s), uri, within_s)
    file = sqlite_path(uri)
    if file is None or not os.path.exists(file) or (file.is_file() and not file.stat().st_size):
        return ""
    return _ask_file(uri, str(file), experiment)


def _in_time(ask: Callable[[], T], uri: str, within_s: float) -> T:
    """Return what ``ask`` returns; a thread does it, and is left to itself when the time is over."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((ask(), None))
        except Exception as error:  # noqa: BLE001  raised below, in the thread that waits
            outcome.append((None, error))

    asking = threading.Thread(target=run, daemon=True, name="mtexp-ask")
    asking.start()
    asking.join(within_s)
    if not outcome:
        raise TrackingError(f"MLflow at {public(uri)} did not answer within {within_s:g} s")
    result, error = outcome[0]
    if error is not None:
        raise TrackingError(failure(uri, error)) from error
    return result  # type: ignore[no-any-return]


def failure(uri: str, error: BaseException) -> str:
    """Return what an error of MLflow or its libraries says about a store: one sentence without credentials and stop."""
    where, chain = f"MLflow at {public(uri)}", [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    if is_server(uri):
        import requests

        if any(isinstance(one, requests.Timeout) for one in chain):
            return f"{where} did not answer in time"
        if any(isinstance(one, requests.ConnectionError) for one in chain):
            # the outer errors are about retries and objects of urllib3, the innermost one is the system's
            why = getattr(chain[-1], "strerror", None) or " ".join(str(chain[-1]).split())
            return f"{where} cannot be reached: {redact(why)[:300].rstrip('.')}"
    text = redact(" ".join(str(error).split()))
    for noise in (" [SQL: ", " (Background on this error at: "):
        text = text.partition(noise)[0]
    if isinstance(error, ImportError):
        text += ", which this kind of database needs: install it here"
    return f"{where}: {text[:600].rstrip('.')}"


def _ask_server(uri: str, experiment: str) -> str:
    import requests

    with requests.Session() as session:
        session.headers["Connection"] = "close"
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            session.headers["Authorization"] = f"Bearer {token}"
        elif user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
            session.auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
        session.verify = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
        if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
            session.verify = False
        session.cert = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")
        address = f"{uri.rstrip('/')}/{_BY_NAME}?{urlencode({'experiment_name': experiment})}"
        with session.get(address, timeout=ASKED_S, stream=True) as answer:
            return _understood(answer)


def _understood(answer: Any) -> str:
    import json

    body = answer.raw.read(_MOST_BYTES, decode_content=True)
    status = f"it answers {answer.status_code} {answer.reason or ''}".strip()
    if answer.status_code in (401, 403):
        if any(os.environ.get(name) for name in _OTHER_LOGINS):
            return ""
        raise TrackingError(f"{status}: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the token")
    if answer.status_code == 429 or answer.status_code >= 500:
        raise TrackingError(status)
    try:
        said = json.loads(body)
        if answer.status_code == 404 and said["error_code"] == "RESOURCE_DOES_NOT_EXIST":
            return ""
        if answer.status_code == 200:
            return str(said["experiment"].get("lifecycle_stage", "active"))
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise TrackingError(f"{status}, but is not an MLflow server")


def _ask_database(uri: str, within_s: float) -> str:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(bounded(uri), poolclass=NullPool)
    if address := database_address(uri):
        socket.create_connection(address, within_s).close()
    engine.connect().close()
    return ""


def _ask_file(uri: str, file: str, experiment: str) -> str:
    try:
        with closing(sqlite3.connect(f"file:{quote(file)}?mode=ro", uri=True, timeout=ASKED_S)) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            if "experiments" not in tables:
                if tables:
                    raise TrackingError(f"{public(uri)} is a database, but not of MLflow")
                return ""
            query = "select lifecycle_stage from experiments where name = ?"
            stages = [stage for (stage,) in connection.execute(query, (experiment,))]
    except sqlite3.OperationalError as error:
        if "locked" in str(error):  # by another program, which is waited for when a record is sent
            return ""
        raise TrackingError(f"{public(uri)}: unable to open database file ({error})") from error
    except sqlite3.DatabaseError as error:
        raise TrackingError(f"{public(uri)} is no SQLite database: {error}") from error
    return str(stages[0]) if stages else ""

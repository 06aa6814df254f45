"""The MLflow store: which one, how it is opened, what may go wrong.

Lives here: :func:`resolve_uri`, :func:`open_store`. May touch: MLflow, lock files beside an SQLite store.

- An SQLite file has one writer at a time. Each process takes a file lock while it opens the store (MLflow makes the
  schema of a new file without one) and for each step of writing a record, so any number of sweeps may share a file.
- Credentials come from the environment (``MLFLOW_TRACKING_USERNAME`` ...) or MLflow's own files. No URI, message or tag
  that leaves this module holds any.
- A store that does not answer costs seconds, not minutes: it is asked once before MLflow starts its own retries.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import filelock

from mtexp.errors import TrackingError
from mtexp.spec import TrackingSpec
from mtexp.tracking.ui import experiment_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROBE_S = 5.0
"""Seconds a server may take to accept a connection."""
LOCK_S = 600.0
"""Seconds to wait for other writers of an SQLite file."""
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""What holds while mtexp speaks to MLflow, unless the environment says otherwise."""

_SECRETS = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGPASSWORD",
)
_USERINFO = re.compile(r"(\w://)[^/\s@'\"]*@")
_LOGIN = re.compile(r"(?i)\b(basic|bearer)\s+[\w.~+/=-]+")


Step = Callable[[], AbstractContextManager[None]]
"""Entered for each piece of work that may go on beside a run, and not while tenants measure."""


class NoStoreError(TrackingError):
    """There is no store, or no experiment of that name in it: nothing was tracked yet."""


@dataclass(frozen=True, slots=True)
class Store:
    """An open MLflow store."""

    client: MlflowClient
    experiment_id: str
    uri: str
    """Without credentials."""
    threads: int
    """How many writers help: a server answers several at once, an SQLite file one."""
    step: Step = nullcontext
    """Entered around each call that writes: keeps other writers of an SQLite file out meanwhile, and waits its turn."""


def _uri(tracking: TrackingSpec) -> str:
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    try:
        _ = urlsplit(uri).port
    except ValueError as error:
        raise TrackingError(
            f"tracking.uri={redact(uri)}: {error}. Allowed: an MLflow URI, e.g. http://127.0.0.1:5000"
        ) from None
    return uri


def resolve_uri(tracking: TrackingSpec) -> str:
    """Return the URI of the store that ``tracking`` means, without credentials: safe for records, messages, tags.

    ``tracking.uri`` comes before ``MLFLOW_TRACKING_URI``, that before ``mlflow.db`` in the current directory.

    Raises:
        TrackingError: It is no URI.
    """
    return public(_uri(tracking))


def pinned(tracking: TrackingSpec) -> TrackingSpec:
    """Return ``tracking`` with the store it means now, whatever becomes of the environment and the current directory.

    Raises:
        TrackingError: It is no URI.
    """
    return replace(tracking, uri=_uri(tracking))


def public(uri: str) -> str:
    """Return ``uri`` without user, password and query."""
    if uri.startswith("sqlite:") or "://" not in uri:
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def redact(text: str) -> str:
    """Return ``text`` without the credentials that URIs in it or the environment hold."""
    text = _LOGIN.sub(r"\1 ***", _USERINFO.sub(r"\1", text))
    for name in _SECRETS:
        if len(secret := os.environ.get(name, "")) > 3:
            text = text.replace(secret, "***")
    return text


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite URI; None for any other store."""
    path = uri.removeprefix("sqlite:///")
    return None if path == uri or path in ("", ":memory:") else Path(path.partition("?")[0])


@contextmanager
def open_store(tracking: TrackingSpec, *, write: bool, step: Step = nullcontext) -> Iterator[Store]:
    """Open the store and the experiment of ``tracking``; to write, make them if need be.

    Args:
        tracking: Which store.
        write: Whether to write: each call that does belongs into ``with store.step()``.
        step: Entered for each piece of work, opening the store included.

    Raises:
        TrackingError: It cannot be reached, refused something inside the block, or (to read) is not there.
    """
    uri = _uri(tracking)
    with step():
        errors = _errors()
    with _translated(uri, errors), _client_settings():
        file = sqlite_path(uri)
        with step():
            if file is None:
                _probe(uri)
            elif not write and not file.is_file():
                raise NoStoreError(
                    f"no MLflow store at {public(uri)}: nothing was tracked there yet, or it is elsewhere"
                )
            client = _client(uri, file)
            with _lock(file, "write" if write else None):
                experiment_id = _experiment(client, tracking.experiment, uri, create=write)

        @contextmanager
        def writing() -> Iterator[None]:
            with step(), _lock(file, "write" if write else None):
                yield

        yield Store(client, experiment_id, public(uri), 1 if file else 4, writing)


def prepare(tracking: TrackingSpec) -> None:
    """Import MLflow, make the store and the experiment if need be: what the first record would otherwise wait for.

    Raises:
        TrackingError: The store cannot be reached.
    """
    with open_store(tracking, write=True):
        pass


def _client(uri: str, file: Path | None) -> MlflowClient:
    """A client of the store, its schema there: MLflow makes it at the first call."""
    from mlflow import MlflowClient

    with _lock(file, "open"):
        client = MlflowClient(uri, registry_uri=uri)
        if file is not None:
            client.search_experiments(max_results=1)
    return client


def _experiment(client: MlflowClient, name: str, uri: str, *, create: bool) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None and not create:
        raise NoStoreError(
            f"no experiment {name} in {public(uri)}: nothing was tracked there yet, or it has another name"
        )
    if found is None:
        try:
            return str(client.create_experiment(name, _artifacts(uri), experiment_tags()))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise TrackingError(f"experiment {name} in {public(uri)} was deleted: restore it, or set tracking.experiment")
    return str(found.experiment_id)


def _artifacts(uri: str) -> str | None:
    """Where artifacts of a store without a server go: beside its file; a server knows itself."""
    if uri.startswith(("http:", "https:")):
        return None
    file = sqlite_path(uri)
    return ((file.absolute().parent if file else Path.cwd()) / "mlartifacts").as_uri()


@contextmanager
def _lock(file: Path | None, purpose: str | None) -> Iterator[None]:
    if file is None or purpose is None or not os.access(file.absolute().parent, os.W_OK):
        yield
        return
    try:
        with filelock.FileLock(file.with_name(f".{file.name}.{purpose}.lock"), timeout=LOCK_S, poll_interval=0.02):
            yield
    except filelock.Timeout as error:
        raise TrackingError(f"{file} has been written to by others for {LOCK_S:.0f} s") from error


def _probe(uri: str) -> None:
    """Ask once whether anything answers at ``uri``.

    Raises:
        OSError: Nothing does.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        import requests

        try:
            requests.head(public(uri), timeout=PROBE_S, allow_redirects=False)
        except requests.exceptions.SSLError:
            return  # it answers; what MLflow makes of its certificate is for MLflow to say
    elif parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), PROBE_S).close()


_settings = threading.Lock()
_added: dict[str, int] = {}
"""Settings made here, and how many blocks (of several threads) rely on each."""


@contextmanager
def _client_settings() -> Iterator[None]:
    with _settings:
        own = [name for name in CLIENT_SETTINGS if name in _added or name not in os.environ]
        for name in own:
            os.environ[name] = CLIENT_SETTINGS[name]
            _added[name] = _added.get(name, 0) + 1
    try:
        yield
    finally:
        with _settings:
            for name in own:
                _added[name] -= 1
                if not _added[name]:
                    del _added[name]
                    os.environ.pop(name, None)


def _quiet() -> None:
    """Keep from the terminal how MLflow makes its tables, and the traceback of every error that is translated here."""
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def warm() -> None:
    """Import MLflow now. It takes seconds, and two threads that begin at once would see half of it."""
    _errors()


def _errors() -> tuple[type[Exception], ...]:
    """What MLflow and its libraries raise; imports them."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # its threads would call home while tenants measure
    import requests
    from alembic.util import CommandError
    from mlflow import MlflowClient  # noqa: F401  takes seconds the first time
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    _quiet()
    return MlflowException, requests.RequestException, SQLAlchemyError, CommandError, OSError


@contextmanager
def _translated(uri: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what MLflow and its libraries raise into a TrackingError without credentials."""
    try:
        yield
    except errors as error:
        text = redact(" ".join(str(error).split())).partition(" [SQL: ")[0]
        raise TrackingError(f"MLflow at {public(uri)}: {text[:600].rstrip('.')}.") from error

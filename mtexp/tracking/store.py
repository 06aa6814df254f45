"""Opens the MLflow store and translates its errors. :mod:`mtexp.tracking.uri` chooses the store.

Lives here: :func:`check_store`, :func:`open_store`. May touch: MLflow, lock files beside an SQLite store.

- An SQLite file has one writer at a time. Each process takes a file lock while it opens the store (MLflow makes the
  schema of a new file without one) and for each step of writing a record, so any number of sweeps may share a file.
- A store that does not answer costs seconds, not minutes: it is asked once before MLflow starts its own retries.
- No URI, message or tag that leaves this module holds credentials.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import filelock

from mtexp.collector import collector_off
from mtexp.errors import TrackingError
from mtexp.output import name_a_home
from mtexp.spec import TrackingSpec
from mtexp.tracking.deadline import bound_calls
from mtexp.tracking.reach import ASKED_S, answers, failure
from mtexp.tracking.uri import (
    ALLOWED,
    bounded,
    full,
    is_database,
    is_server,
    public,
    shown,
    source,
    sqlite_path,
)
from mtexp.tracking.view import experiment_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "mlartifacts"
"""The folder of artifacts beside an SQLite store."""
PROBE_S = 5.0
"""Seconds in which a server or a database answers before a record is sent; it may be busy with others."""
STATEMENT_S = 60.0
"""Seconds a database may take over one statement; MLflow's own take milliseconds."""
LOCK_S = 600.0
"""Seconds to wait for other writers of an SQLite file."""
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PGCONNECT_TIMEOUT": f"{ASKED_S:.0f}",
    "PGOPTIONS": f"-c statement_timeout={STATEMENT_S * 1000:.0f} -c lock_timeout={STATEMENT_S * 1000:.0f}",
}
"""Environment settings for MLflow calls, unless they are already set."""

Step = Callable[[], AbstractContextManager[None]]
"""Context for each step of background work, which must not run while tenants measure."""


class NoStoreError(TrackingError):
    """The store or the experiment does not exist, so nothing has been tracked yet."""


@dataclass(frozen=True, slots=True)
class Store:
    """An open MLflow store."""

    client: MlflowClient
    experiment_id: str
    uri: str
    """Without credentials."""
    threads: int
    """Useful number of parallel writers: several for a server, one for an SQLite file."""
    step: Step = nullcontext
    """Context for each writing call: waits for other writers of an SQLite file and excludes them."""


def check_store(tracking: TrackingSpec) -> None:
    """Refuse an invalid store before anything is measured. Creates nothing and connects to nothing.

    Raises:
        TrackingError: The URI is not valid, or its SQLite file cannot be written.
    """
    uri = full(tracking)
    if is_server(uri) or is_database(uri):
        return
    key = source(tracking)
    if (path := sqlite_path(uri)) is None:
        raise TrackingError(f"{key}={shown(uri)}: no store that mtexp writes to. Allowed: {ALLOWED}")
    file = path.absolute()
    folder = next(parent for parent in file.parents if os.path.exists(parent))
    if os.path.exists(file) and not file.is_file():
        why = f"{path} is no file"
    elif not (folder.is_dir() and os.access(folder, os.W_OK)):
        why = f"{folder} is not a writable folder"
    elif theirs := next(
        (path for path in _written(file) if os.path.exists(path) and not os.access(path, os.W_OK)), None
    ):
        why = f"{theirs} may not be written by this user"
    else:
        return
    raise TrackingError(f"{key}={uri}: {why}. Set tracking.uri=sqlite:///FILE to a writable file")


@contextmanager
def open_store(tracking: TrackingSpec, *, write: bool, step: Step = nullcontext) -> Iterator[Store]:
    """Open the store and the experiment of ``tracking``; for writing, create them if needed.

    Args:
        tracking: Which store.
        write: Whether to write; every writing call must be inside ``with store.step()``.
        step: Context entered for each step, including the opening of the store.

    Raises:
        TrackingError: The store cannot be reached, refused a call, or (for reading) does not exist.
    """
    uri = full(tracking)
    file = sqlite_path(uri)
    if not write:
        with _translated(uri, (OSError,)):
            _require(file, uri)  # before MLflow is imported, which takes a second
    with step():
        errors = _errors()
    with _translated(uri, errors), _client_settings():
        with step():
            if file is not None:
                file.absolute().parent.mkdir(parents=True, exist_ok=True)
            answers(uri, tracking.experiment, PROBE_S)  # MLflow itself would ask for minutes
            client = _client(uri, file)
            with _lock(file, "write" if write else None):
                experiment_id = _experiment(client, tracking.experiment, uri, create=write)
                if file is not None and write:
                    with suppress(sqlite3.Error):  # locked: the next record asks again
                        _follow(file.absolute(), experiment_id)

        @contextmanager
        def writing() -> Iterator[None]:
            with step(), _lock(file, "write" if write else None):
                yield

        yield Store(client, experiment_id, public(uri), 1 if file else 4, writing)


def _require(file: Path | None, uri: str) -> None:
    if file is not None and not file.is_file():
        raise NoStoreError(f"no MLflow store at {public(uri)}: nothing has been tracked there yet, or the URI is wrong")


def prepare(tracking: TrackingSpec) -> None:
    """Import MLflow and create the store and experiment if needed, so that the first record does not wait for it.

    Raises:
        TrackingError: The store cannot be reached.
    """
    with open_store(tracking, write=True):
        pass


def _client(uri: str, file: Path | None) -> MlflowClient:
    """A client of the store, its schema there: MLflow makes it at the first call."""
    from mlflow import MlflowClient

    with collector_off():
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with _lock(file, "open"):
        if file is not None and not (file.is_file() and file.stat().st_size):
            # MLflow writes the folder of its default experiment into SQL as Python quotes it: a quote or a colon in the
            # current directory would be an error of syntax. As a URI, it has neither.
            SqlAlchemyStore(uri, _artifacts(uri) or "")
        client = MlflowClient(bounded(uri), registry_uri=bounded(uri))
        if file is not None:
            client.search_experiments(max_results=1)
    return client


def _experiment(client: MlflowClient, name: str, uri: str, *, create: bool) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None and not create:
        raise NoStoreError(
            f"no experiment {name} in {public(uri)}: nothing has been tracked there yet, or the name is wrong"
        )
    if found is None:
        try:
            return str(client.create_experiment(name, _artifacts(uri), experiment_tags()))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == "deleted":
        raise TrackingError(f"experiment {name} in {public(uri)} was deleted: restore it, or set tracking.experiment")
    if found.name != name:
        raise TrackingError(f"{public(uri)} is not an MLflow server: it did not return experiment {name}")
    return str(found.experiment_id)


def _follow(file: Path, experiment_id: str) -> None:
    """Let an experiment whose store was moved or copied, with its project, keep its artifacts beside the store again.

    MLflow keeps the absolute place of an experiment and of each run: new artifacts would go to the old one. Runs follow
    where their old place is gone. An experiment whose place the user chose keeps it.
    """
    here = file.parent / ARTIFACTS
    with closing(sqlite3.connect(file)) as database, database:
        found = database.execute("SELECT artifact_location FROM experiments WHERE experiment_id = ?", (experiment_id,))
        (location,) = found.fetchone() or ("",)
        parts = urlsplit(location or "")
        there = Path(unquote(parts.path))
        if parts.scheme not in ("", "file") or there.name != ARTIFACTS or there.resolve() == here.resolve():
            return
        if os.path.exists(there) and not os.path.exists(there.parent / file.name):  # no project that was copied: chosen
            return
        uri = here.as_uri()
        database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (uri, experiment_id))
        if not os.path.exists(there):
            database.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (uri, len(location) + 1, experiment_id, len(location) + 1, f"{location}/"),
            )


def _artifacts(uri: str) -> str | None:
    """Return the artifact folder of a store without a server: next to its file. A server has its own."""
    if uri.startswith(("http:", "https:")):
        return None
    file = sqlite_path(uri)
    return ((file.absolute().parent if file else Path.cwd()) / ARTIFACTS).as_uri()


def _written(file: Path) -> list[Path]:
    """What a run writes to an SQLite store; after another user's runs, each may be somebody else's."""
    return [file, file.parent / ARTIFACTS, *(_lock_file(file, purpose) for purpose in ("open", "write"))]


def _lock_file(file: Path, purpose: str) -> Path:
    return file.with_name(f".{file.name}.{purpose}.lock")


def may_write(file: Path) -> bool:
    """Whether this user may write ``file``, or make it where there is none."""
    return os.access(file if os.path.exists(file) else file.parent, os.W_OK)


@contextmanager
def _lock(file: Path | None, purpose: str | None) -> Iterator[None]:
    lock = _lock_file(file.absolute(), purpose) if file and purpose else None
    if lock is None or not may_write(lock):  # who only reads
        yield
        return
    try:
        # it holds nothing, and the store may be another user's: root's runs must not lock its owner out
        with filelock.FileLock(lock, timeout=LOCK_S, poll_interval=0.02, mode=0o666):
            yield
    except filelock.Timeout as error:
        raise TrackingError(f"{file} has been written to by others for {LOCK_S:.0f} s") from error


_settings = threading.Lock()
_added: dict[str, int] = {}
"""Settings made here, and how many blocks (in several threads) use each."""


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
    """Hide MLflow's messages about creating tables, and tracebacks of errors that are translated here."""
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def warm() -> None:
    """Import MLflow now. It takes seconds, and two threads that import it at once see an incomplete module."""
    _errors()
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401
    from sqlalchemy.orm import configure_mappers

    configure_mappers()  # its first call of a database would do it


def _errors() -> tuple[type[Exception], ...]:
    """What MLflow and its libraries raise; imports them."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # its telemetry threads would run while tenants measure
    name_a_home()
    import requests
    from alembic.util import CommandError
    from google.protobuf.json_format import ParseError

    with collector_off():
        from mlflow import MlflowClient  # noqa: F401  takes seconds the first time
        from mlflow.exceptions import MlflowException
        from mlflow.store.db import utils
    from sqlalchemy.exc import SQLAlchemyError

    bound_calls()
    utils._make_parent_dirs_if_sqlite = lambda db_uri: None  # made here; MLflow makes one more, of the quoted name
    _quiet()
    theirs = (MlflowException, ParseError, requests.RequestException, SQLAlchemyError, CommandError)
    return (*theirs, OSError, ImportError, UnicodeError)  # UnicodeError: an invalid host name


@contextmanager
def _translated(uri: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Translate errors of MLflow and its libraries to a TrackingError without credentials."""
    try:
        yield
    except errors as error:
        raise TrackingError(f"{failure(uri, error)}.") from error

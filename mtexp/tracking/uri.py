"""Which MLflow store is meant, and what of its URI may be shown.

Lives here: :func:`resolve_uri`, :func:`public`, :func:`redact`. May touch: the environment (reading).

Credentials come from the environment (``MLFLOW_TRACKING_USERNAME`` ..., or a login in ``MLFLOW_TRACKING_URI``) or from
MLflow's and the database's own files. Nothing that is returned here holds any, but for :func:`pinned`.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from mtexp.errors import TrackingError
from mtexp.spec import TrackingSpec

ALLOWED = "an MLflow URI: http://HOST:PORT of a server, sqlite:///FILE, or of a database such as postgresql://HOST/NAME"
HIDDEN = "(hidden)"
_ENVIRONMENT = "MLFLOW_TRACKING_URI"
_DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 0}
"""Databases that MLflow writes to without a server, with the port where a URI names none; 0 = it may be no host."""
_SECRETS = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGPASSWORD",
)
_USERINFO = re.compile(r"(\w://)[^\s'\"]*@")
_LOGIN = re.compile(r"(?i)\b(basic|bearer)\s+[\w.~+/=-]+")
_PARAMETER = re.compile(r"(?i)(password|passwd|pwd|token|secret)=[^&\s'\"]+")


def problem(uri: str) -> str:
    """Return why ``uri`` cannot be one of a store, empty when it can; none of its text is in the answer."""
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return "host and port cannot be separated: a port is a number, and / and @ in a password are %2F and %40"
    if not is_server(uri) and not is_database(uri):
        return ""
    if "@" in parts.path:
        return "there is an @ after the host: / and @ in a password are %2F and %40"
    if is_server(uri) and (parts.query or parts.fragment):
        return "a server's URI ends with its path: a token belongs into MLFLOW_TRACKING_TOKEN"
    return ""


def shown(uri: str) -> str:
    """Return a URI that may not be one, unless it may hold credentials."""
    return HIDDEN if any(sign in uri for sign in "@?#") else uri


def is_server(uri: str) -> bool:
    """Whether ``uri`` is of an MLflow server."""
    return uri.startswith(("http:", "https:"))


def is_database(uri: str) -> bool:
    """Whether ``uri`` is of a database that MLflow writes to without a server; SQLite is a file."""
    return _dialect(uri) in _DATABASES


_BOUNDS = {
    "postgresql": {"tcp_user_timeout": "60000", "keepalives_idle": "15", "keepalives_interval": "5"},
    "mysql": {"connect_timeout": "5", "read_timeout": "60", "write_timeout": "60"},
}
"""By dialect: parameters after which its client gives a silent connection up, as the usual drivers call them."""
_BOUNDED_DRIVERS = {"postgresql": ("", "psycopg", "psycopg2"), "mysql": ("pymysql",)}


def bounded(uri: str) -> str:
    """Return ``uri`` of a database with time limits on its connection, where it has none of its own.

    A statement has a limit of its own on the server (``PGOPTIONS``); these are for a server, or a network, that has
    gone without a word.
    """
    dialect, _, driver = urlsplit(uri).scheme.partition("+")
    if driver not in _BOUNDED_DRIVERS.get(dialect, ()):
        return uri
    there = {name for name, _ in parse_qsl(urlsplit(uri).query, keep_blank_values=True)}
    more = "&".join(f"{name}={value}" for name, value in _BOUNDS[dialect].items() if name not in there)
    return f"{uri}{'&' if there else '?'}{more}" if more else uri


def database_address(uri: str) -> tuple[str, int] | None:
    """Return host and port of a database; None where it is not reached by them (a socket, a name of ODBC's)."""
    parts = urlsplit(uri)
    port = parts.port or _DATABASES[_dialect(uri)]
    return (parts.hostname, port) if parts.hostname and port else None


def _dialect(uri: str) -> str:
    return urlsplit(uri).scheme.partition("+")[0]


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite URI; None for any other store."""
    path = uri.removeprefix("sqlite:///")
    return None if path == uri or path in ("", ":memory:") else Path(unquote(path.partition("?")[0]))


def sqlite_uri(file: Path) -> str:
    """Return the URI of an SQLite file; what means something else in a URI (``%``, ``?``, ``#``) is quoted."""
    quoted = (sign if sign.isprintable() and sign not in "%?#" else quote(sign) for sign in str(file))
    return f"sqlite:///{''.join(quoted)}"


def resolve_uri(tracking: TrackingSpec) -> str:
    """Return the URI of the store that ``tracking`` means, without credentials: safe for records, messages, tags.

    ``tracking.uri`` comes before ``MLFLOW_TRACKING_URI``, that before ``mlflow.db`` in the current directory.

    Raises:
        TrackingError: It is no URI.
    """
    return public(full(tracking))


def full(tracking: TrackingSpec) -> str:
    """Return the URI of the store that ``tracking`` means, as MLflow needs it: it may hold credentials.

    Raises:
        TrackingError: It is no URI.
    """
    uri = tracking.uri or _usual()
    if why := problem(uri):
        raise TrackingError(f"{source(tracking)}={shown(uri)}: {why}. Allowed: {ALLOWED}")
    return uri


def source(tracking: TrackingSpec) -> str:
    """Return the name of what says which store is meant, for a message."""
    return _ENVIRONMENT if os.environ.get(_ENVIRONMENT) and not tracking.uri else "tracking.uri"


def pinned(tracking: TrackingSpec) -> TrackingSpec:
    """Return ``tracking`` with the store it means now, whatever becomes of the environment and the current directory.

    It may hold credentials: never write it to a log or file.

    Raises:
        TrackingError: It is no URI.
    """
    return replace(tracking, uri=full(tracking))


def option(tracking: TrackingSpec) -> str:
    """Return what a command needs to find this store: `` --uri URI``, or nothing where it would look there anyway."""
    uri = tracking.uri or _usual()
    return "" if uri == _usual() or problem(uri) else f" --uri {shlex.quote(public(uri))}"


def _usual() -> str:
    return os.environ.get(_ENVIRONMENT, "") or sqlite_uri(Path.cwd() / "mlflow.db")


def public(uri: str) -> str:
    """Return ``uri`` without password and query, and without a user who may be a token: that of a server."""
    if uri.startswith("sqlite:") or "://" not in uri:
        return uri
    parts = urlsplit(uri)
    login, _, place = parts.netloc.rpartition("@")
    user = login.partition(":")[0] if is_database(uri) else ""
    return urlunsplit((parts.scheme, f"{user}@{place}" if user else place, parts.path, "", ""))


def redact(text: str) -> str:
    """Return ``text`` without the credentials that URIs in it or the environment hold."""
    text = _PARAMETER.sub(r"\1=***", _LOGIN.sub(r"\1 ***", _USERINFO.sub(r"\1", text)))
    for name in _SECRETS:
        if len(secret := os.environ.get(name, "")) > 3:
            text = text.replace(secret, "***")
    return text

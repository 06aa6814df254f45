"""URIs of stores: which one is meant, what of it is shown, and the limits that are added to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtexp.spec import TrackingSpec
from mtexp.tracking.uri import bounded, redact, resolve_uri

SECRET = "hunter2-planted"


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
        (f"postgresql://me:{SECRET}@db/mlflow?password={SECRET}", "postgresql://me@db/mlflow"),
        (f"https://{SECRET}@server", "https://server"),
    ],
)
def test_a_uri_is_shown_without_credentials(monkeypatch: pytest.MonkeyPatch, uri: str, public: str) -> None:
    """Password and query never leave, nor who asks a server: that may be a token."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert resolve_uri(TrackingSpec()) == public


def test_messages_are_shown_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of a URI nor those of the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    text = redact(f"request to http://me:{SECRET}@server failed: {SECRET} refused; see https://docs/x and a@b.c")
    assert text == "request to http://server failed: *** refused; see https://docs/x and a@b.c"
    assert (
        redact("http://u:pa/odd@h/?token=odd and host=db password=odd")
        == "http://h/?token=*** and host=db password=***"
    )


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("postgresql://u:p@h/db", "tcp_user_timeout=60000"),
        ("postgresql+psycopg://u@h/db?sslmode=require", "sslmode=require&tcp_user_timeout=60000"),
        ("postgresql://u@h/db?tcp_user_timeout=5", "tcp_user_timeout=5&keepalives_idle"),
        ("mysql+pymysql://u@h/db", "read_timeout=60"),
        ("mysql+mysqldb://u@h/db", None),
        ("sqlite:////tmp/x.db", None),
        ("http://h:5000", None),
    ],
)
def test_a_database_that_goes_without_a_word_is_given_up(uri: str, said: str | None) -> None:
    """Where its driver has a limit for that; the user's own stays, and so does every other URI."""
    found = bounded(uri)
    assert found.startswith(uri)
    assert (found == uri) if said is None else (said in found)
    assert found.count("tcp_user_timeout") <= 1

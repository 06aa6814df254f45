"""One deadline for each call of an MLflow server, whatever the server does. Lives here: :func:`bound_calls`.

May touch: the class of connections that MLflow makes its sessions with. ``requests`` has a time limit between two
bytes only, so a server that sends its answer drop by drop, or without end, holds a call for minutes or for ever.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Any

import requests
from requests.adapters import HTTPAdapter

SLOWEST_BYTES_S = 2**20
"""A call that sends a file may take longer: a second for each MiB."""
_MOST_BYTES = 2**28
_CHUNK = 2**16


def call_s() -> float:
    """Seconds a call may take, all tries of it together: twice ``MLFLOW_HTTP_REQUEST_TIMEOUT``."""
    return 2 * float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or 30)


@cache
def bound_calls() -> None:
    """Let MLflow's sessions of this process, made from here on, keep to the deadline."""
    from mlflow.utils import request_utils

    class Bounded(_Bounded, request_utils.TCPKeepAliveHTTPAdapter):
        """MLflow's own adapter with a deadline."""

    request_utils.TCPKeepAliveHTTPAdapter = Bounded  # type: ignore[misc]


class _Bounded(HTTPAdapter):
    """An adapter whose answers arrive within the deadline, body included, or raise."""

    def send(self, request: Any, stream: bool = False, *arguments: Any, **settings: Any) -> Any:
        if stream:  # a download: its reader sees how it goes on
            return super().send(request, stream, *arguments, **settings)
        outcome: list[Any] = []
        over = threading.Event()

        def run() -> None:
            try:
                answer = super(_Bounded, self).send(request, True, *arguments, **settings)
                answer._content = _read(answer, over)
                answer._content_consumed = True
                outcome.append(answer)
            except BaseException as error:  # noqa: BLE001  raised below, in the thread that waits
                outcome.append(error)

        seconds = call_s() + int(request.headers.get("Content-Length") or 0) / SLOWEST_BYTES_S
        sending = threading.Thread(target=run, daemon=True, name="mtexp-call")
        sending.start()
        sending.join(seconds)
        over.set()
        if not outcome:
            raise requests.ReadTimeout(f"no whole answer within {seconds:.0f} s (MLFLOW_HTTP_REQUEST_TIMEOUT)")
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]


def _read(answer: Any, over: threading.Event) -> bytes:
    parts, size = [], 0
    for part in answer.iter_content(_CHUNK):
        parts.append(part)
        size += len(part)
        if over.is_set() or size > _MOST_BYTES:
            answer.close()
            raise requests.ReadTimeout(f"an answer of more than {size} bytes, and no end of it")
    return b"".join(parts)

"""One connection to a server, and the time stamps of its answers. May touch: asyncio.

A whole library between the stamps would cost a request some 0.3 ms on its own, more than the client may add; this much
of HTTP/1.1 costs a tenth of that: a request that was made before, an answer with a length, in chunks or until the end.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mtexp.errors import MtexpError

_HEAD = b"\r\n\r\n"
_MOST_HEAD = 2**16
_MOST_QUOTED = 300


class ServerError(MtexpError):
    """A server that does not answer, or answers something else than a success; the message says what."""


class Gone(Exception):
    """The server closed the connection before it answered."""


@dataclass(slots=True)
class Answer:
    """The answer to one request; instants are of the monotonic clock."""

    start_ns: int = 0
    first_ns: int = 0
    """When the first token was there, in a stream; 0 = not one."""
    end_ns: int = 0
    status: int = 0
    body: bytearray = field(default_factory=bytearray)


def render(method: str, url: str, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = f"{method} {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: */*\r\nUser-Agent: mtexp\r\n"
    if body:
        head += "Content-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """A connection that is kept, one request at a time.

    Args:
        url: Of the server.
        stream: ``""``, ``pieces`` (the first piece of a body is the first token) or ``events`` (the first event of
            OpenAI's API that holds text).
        timeout_s: How long an answer may take.
    """

    def __init__(self, url: str, stream: str, timeout_s: float) -> None:
        self._parts: SplitResult = urlsplit(url)
        self._stream, self._timeout_s = stream, timeout_s
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._raw = bytearray()
        self._answer = Answer()
        self._left = -1
        """Bytes of the body, or of its chunk, that are still to come; -1 = until the end of the connection."""
        self._in_head, self._chunked, self._closes = True, False, False
        self._parsed = 0

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return the whole answer, a success.

        Raises:
            ServerError: The server does not answer in time, answers something else, or nothing that is HTTP.
        """
        loop = asyncio.get_running_loop()
        for _ in range(2):
            kept = self._transport is not None and not self._transport.is_closing()
            start_ns = time.monotonic_ns()
            if not kept:
                await self._connect(loop)
            assert self._transport is not None
            self._answer = Answer(start_ns=start_ns)
            self._in_head, self._parsed = True, 0
            self._waiting = loop.create_future()
            self._transport.write(request)
            timer = loop.call_later(self._timeout_s, self._late)
            try:
                answer = await self._waiting
            except Gone as error:
                if kept:  # it closed an idle connection while the request was on its way
                    continue
                raise ServerError(f"its server closed the connection without an answer: {error}") from error
            finally:
                timer.cancel()
            if not 200 <= answer.status < 300:
                said = bytes(answer.body[:_MOST_QUOTED]).decode(errors="replace").strip()
                raise ServerError(f"its server answered {answer.status}: {said or '(nothing)'}")
            return answer
        raise ServerError("its server closed the connection twice without an answer")

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        host, port = self._parts.hostname or "", self._parts.port or 80
        try:
            async with asyncio.timeout(self._timeout_s):
                await loop.create_connection(lambda: self, host, port)
        except (OSError, TimeoutError) as error:
            raise ServerError(f"its server does not take connections at {host}:{port}: {error}") from error

    def _late(self) -> None:
        self._fail(
            ServerError(f"its server did not answer a request within {self._timeout_s:g} s (0.8 of deadlines.stall_s)")
        )

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.close()

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._raw.clear()

    def connection_lost(self, error: Exception | None) -> None:
        """Complete an answer without a length, which ends with the connection; else fail the request that waits."""
        self._transport = None
        if not self._in_head and self._left == -1 and not self._chunked:
            self._done(time.monotonic_ns())
        self._fail(Gone(error or "end of file"))

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer."""
        now = time.monotonic_ns()
        self._raw += data
        if self._in_head and not self._take_head():
            return
        try:
            self._take_body(now)
        except ValueError:
            self._fail(ServerError("its server answered in chunks that are none of HTTP"))

    # the answer

    def _take_head(self) -> bool:
        """Read status and headers; False while they are not complete."""
        while True:
            end = self._raw.find(_HEAD)
            if end < 0:
                if len(self._raw) > _MOST_HEAD:
                    self._fail(ServerError("its server answered nothing that is HTTP"))
                return False
            lines = bytes(self._raw[:end]).decode("latin-1").split("\r\n")
            del self._raw[: end + len(_HEAD)]
            words = lines[0].split(" ", 2)
            if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
                self._fail(ServerError(f"its server answered nothing that is HTTP: {lines[0][:80]!r}"))
                return False
            if not words[1].startswith("1"):  # 100 Continue announces another one
                break
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        self._answer.status = int(words[1])
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length", "")
        self._left = 0 if self._chunked or words[1] == "204" else int(length) if length.isdigit() else -1
        keeps = headers.get("connection", "" if words[0] == "HTTP/1.1" else "close").lower()
        self._closes = "close" in keeps
        self._in_head = False
        return True

    def _take_body(self, now: int) -> None:
        if self._chunked:
            while self._take_chunk(now):
                pass
            return
        piece = bytes(self._raw) if self._left < 0 else bytes(self._raw[: self._left])
        del self._raw[: len(piece)]
        self._take_piece(piece, now)
        if self._left >= 0:
            self._left -= len(piece)
            if self._left == 0:
                self._done(now)

    def _take_chunk(self, now: int) -> bool:
        """Take one chunk, or part of it; False when there is nothing more to take."""
        if self._left == 0:
            line = self._raw.find(b"\r\n")
            if line < 0:
                return False
            size = int(bytes(self._raw[:line]).partition(b";")[0], 16)
            if size == 0:
                end = self._raw.find(_HEAD, line)  # after it come trailers, mostly none
                if end < 0:
                    return False
                del self._raw[: end + len(_HEAD)]
                self._done(now)
                return False
            del self._raw[: line + 2]
            self._left = size + 2  # with the line end behind it
        piece = bytes(self._raw[: max(0, min(len(self._raw), self._left - 2))])
        taken = min(len(self._raw), self._left)
        del self._raw[:taken]
        self._left -= taken
        self._take_piece(piece, now)
        return self._left == 0

    def _take_piece(self, piece: bytes, now: int) -> None:
        if not piece:
            return
        answer = self._answer
        answer.body += piece
        if self._stream and not answer.first_ns and (self._stream == "pieces" or self._has_text()):
            answer.first_ns = now

    def _has_text(self) -> bool:
        """Whether one of the events that have come since the last look holds text."""
        while (end := self._answer.body.find(b"\n", self._parsed)) >= 0:
            line = bytes(self._answer.body[self._parsed : end])
            self._parsed = end + 1
            if text_of(line):
                return True
        return False

    def _done(self, now: int) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._answer.end_ns = now
            self._waiting.set_result(self._answer)
        self._in_head = True
        if self._closes:
            self.close()


def text_of(line: bytes) -> str:
    """The text in one line of OpenAI's event stream; empty where there is none."""
    choices = _event(line).get("choices")
    first: Any = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return ""
    delta = first.get("delta")
    text = first.get("text") or (delta.get("content") or delta.get("reasoning_content") if delta else "")
    return text if isinstance(text, str) else ""


def tokens_of(body: bytes) -> int:
    """Tokens in an answer of OpenAI's API: as its ``usage`` says, else the events that hold text."""
    counted = 0
    for line in body.splitlines():
        usage = _event(line).get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            return int(usage["completion_tokens"])
        counted += bool(text_of(line))
    return counted


def _event(line: bytes) -> dict[str, Any]:
    if not line.startswith(b"data:"):
        return {}
    try:
        event = json.loads(line[5:])
    except ValueError:  # [DONE]
        return {}
    return event if isinstance(event, dict) else {}

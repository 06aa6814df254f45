"""The part of the schema that is about servers of the user's. Plain classes, as in :mod:`mtexp.config.schema`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Api = Enum("Api", ["none", "completions", "chat", "embeddings"])


@dataclass(kw_only=True)
class RequestConfig:
    """What the client of a server sends."""

    url: str = ""
    """URL, or a path on ``http://127.0.0.1:{port}``; empty = that of ``api``."""
    method: str = "POST"
    """HTTP method."""
    json: dict[str, Any] = field(default_factory=dict)
    """Body, with placeholders (``{text}``, ``{new_tokens}`` ...); empty = none. With ``api``, what is added to its
    own."""
    api: Api = Api.none
    """OpenAI-compatible endpoint: ``completions`` and ``chat`` are streamed, for TTFT and time per token;
    ``embeddings``."""
    model: str = "default"
    """Name of the model in the body of ``api``."""
    stream: bool = False
    """The answer comes piece by piece: its first piece is the first token. Always so with ``completions`` and
    ``chat``."""
    tokenizer: str = ""
    """Folder or hub id of the tokenizer by which texts have ``seq_len`` tokens; empty = so many short English words."""


@dataclass(kw_only=True)
class ServerConfig:
    """A server that mtexp starts and asks, in the place of a model."""

    command: str = ""
    """Command that starts it in the foreground, with placeholders (``{port}``, ``{python}`` ...); no shell."""
    ready: str = ""
    """URL that answers once it is ready, or a regular expression of a line of its output; empty = its port takes
    connections."""
    ready_s: float = 0.0
    """Seconds until it must be ready; 0 = ``deadlines.build_s``."""
    request: RequestConfig = field(default_factory=RequestConfig)
    """What one request is."""
    concurrency: int = 0
    """Requests in flight: in closed loop always (0 = one), in open loop at most (0 = no bound)."""
    warmup: int = 0
    """Requests before the barrier; 0 = ``measure.warmup``."""
    cores: int = 1
    """CPU cores of the server; its client gets one of its own beside them."""
    allow_remote: bool = False
    """Allow a URL that is not of this host."""

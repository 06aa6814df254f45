"""A server of the user's as a tenant: how it is started, what it is asked, and the placeholders in both. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PLACEHOLDERS: Mapping[str, str] = {
    "port": "a free port of this host",
    "python": "the Python that runs mtexp",
    "precision": "the tenant's precision",
    "execution": "the tenant's execution",
    "batch_size": "texts of a request",
    "seq_len": "tokens of a text",
    "new_tokens": "tokens to generate",
    "seed": "the tenant's seed",
}
"""What a command, a URL and a JSON body may hold in braces, and what it stands for."""
TEXTS: Mapping[str, str] = {
    "text": "one text of seq_len tokens",
    "texts": "a list of batch_size such texts",
    "tokens": "a list of seq_len token ids",
}
"""What a JSON body may hold as well; each request has another one."""
_BRACES = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """A server that mtexp starts, and the requests that its client sends."""

    command: tuple[str, ...]
    """argv, with placeholders."""
    url: str
    """URL of a request, with placeholders."""
    ready: str = ""
    """URL that answers once it is ready, or a regular expression of its output; empty = the port takes connections."""
    ready_s: float = 0.0
    """Seconds until then; 0 = ``deadlines.build_s``. Changes nothing that is measured."""
    method: str = "POST"
    body: str = ""
    """JSON of a request, with placeholders; empty = no body."""
    api: str = ""
    """``completions``, ``chat`` or ``embeddings`` of OpenAI's API; empty = another one."""
    stream: bool = False
    """The answer comes piece by piece; the first piece is the first token."""
    tokenizer: str = ""
    """Folder or hub id of the tokenizer that texts are made with; empty = words."""
    concurrency: int = 0
    """Requests in flight: in closed loop always, in open loop at most; 0 = one, and without a bound."""
    warmup: int = 0
    """Requests before the barrier; 0 = ``measure.warmup``."""
    cores: int = 1
    """CPU cores of the server; its client has one more."""
    allow_remote: bool = False
    """Its URL may be of another host."""

    @property
    def texts(self) -> bool:
        """Whether a request holds as many texts as the batch size says, and not one."""
        return any(name in ("texts", "batch_size") for name in names_in(self.body))


def names_in(text: str) -> Iterator[str]:
    """Yield the names of all placeholders in ``text``, known or not."""
    return (match[1] for match in _BRACES.finditer(text) if match[1])


def fill(text: str, values: Mapping[str, object]) -> str:
    """Return ``text`` with its placeholders replaced; ``{{`` and ``}}`` stand for braces.

    Raises:
        KeyError: ``values`` lacks one.
    """

    def replaced(match: re.Match[str]) -> str:
        return str(values[match[1]]) if match[1] else match[0][0]

    return _BRACES.sub(replaced, text)


def fill_json(node: Any, values: Mapping[str, object]) -> Any:
    """Return JSON data with its placeholders replaced; a text that is one placeholder becomes its value as it is."""
    if isinstance(node, dict):
        return {fill(key, values): fill_json(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [fill_json(value, values) for value in node]
    if not isinstance(node, str):
        return node
    whole = _BRACES.fullmatch(node)
    return values[whole[1]] if whole and whole[1] else fill(node, values)


def body_bytes(body: str, values: Mapping[str, object]) -> bytes:
    """Return the body of one request; empty for none."""
    return json.dumps(fill_json(json.loads(body), values)).encode() if body else b""


def served_request(server: ServerSpec, batch_size: int, seq_len: str, new_tokens: str) -> str:
    """One request in words."""
    names = set(names_in(server.body))
    text = f", {batch_size if server.texts else 1} x {seq_len} tokens" if names & {*TEXTS, "seq_len"} else ""
    made = f", {new_tokens} tokens generated" if "new_tokens" in names else ""
    return f"{server.method} {server.url}{text}{made}{', streamed' if server.stream else ''}"

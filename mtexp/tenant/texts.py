"""The requests that a client sends, made before anything is measured. May touch: a tokenizer of transformers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from mtexp.errors import MtexpError
from mtexp.served import body_bytes, names_in
from mtexp.spec import TenantSpec
from mtexp.tenant.http import render

VARIANTS = 64
"""Requests that differ, sent in turn: a server that remembers answers or prefixes is not asked the same at once."""
_IDS = range(1000, 2000)
"""Token ids that every vocabulary has."""
_TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend"
)
"""Words that are one token for the tokenizers of most models."""
_TRIES = 20


class BadTokenizer(MtexpError):
    """A tokenizer that cannot be loaded, or makes no text of so many tokens."""


def requests_of(tenant: TenantSpec, url: str, values: Mapping[str, object]) -> list[bytes]:
    """Return the requests of ``tenant`` as they go over the wire.

    Args:
        tenant: Whose model is a server.
        url: Of a request, without placeholders.
        values: What the placeholders stand for, but for texts.

    Raises:
        BadTokenizer: Texts cannot be made.
    """
    server = tenant.model.server
    assert server is not None
    names = set(names_in(server.body))
    rng = random.Random(tenant.seed)
    texts = _texts(server.tokenizer, tenant.workload.seq_len, rng)
    found = []
    for _ in range(VARIANTS):
        own: dict[str, object] = dict(values)
        if "text" in names:
            own["text"] = next(texts)
        if "texts" in names:
            own["texts"] = [next(texts) for _ in range(tenant.workload.batch_size)]
        if "tokens" in names:
            own["tokens"] = rng.choices(_IDS, k=tenant.workload.seq_len)
        found.append(render(server.method, url, body_bytes(server.body, own)))
    return found


def _texts(tokenizer: str, tokens: int, rng: random.Random) -> Iterator[str]:
    if not tokenizer:
        while True:
            yield " ".join(rng.choices(_TEXT.split(), k=tokens))
    yield from _tokenized(tokenizer, tokens, rng)


def _tokenized(name: str, tokens: int, rng: random.Random) -> Iterator[str]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever transformers and the hub's client raise
        raise BadTokenizer(f"server.request.tokenizer={name}: {str(error).splitlines()[0]}") from error
    while True:
        yield _of_length(tokenizer, name, tokens, rng)


def _of_length(tokenizer: object, name: str, tokens: int, rng: random.Random) -> str:
    """A text that ``tokenizer`` makes exactly ``tokens`` tokens of, those that it adds itself included."""
    encode, decode = tokenizer.encode, tokenizer.decode  # type: ignore[attr-defined]
    added = len(encode(""))
    for _ in range(_TRIES):
        ids = encode(" ".join(rng.choices(_TEXT.split(), k=tokens)), add_special_tokens=False)
        text = decode(ids[: max(0, tokens - added)])
        if len(encode(text)) == tokens:
            return str(text)
    raise BadTokenizer(f"server.request.tokenizer={name} makes no text of {tokens} tokens (it adds {added} of its own)")

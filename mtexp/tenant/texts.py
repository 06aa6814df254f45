"""The requests that a client sends, made before anything is measured. May touch: a tokenizer of transformers."""

from __future__ import annotations

import random
from collections.abc import Mapping

from mtexp.errors import MtexpError
from mtexp.served import body_bytes, names_in
from mtexp.spec import TenantSpec
from mtexp.tenant.http import render

VARIANTS = 64
"""Requests that differ, sent in turn: a server that remembers answers or prefixes is not asked the same at once."""
_VARIANTS_OF_A_LENGTH = 8
"""Texts of each length, where a trace gives the lengths."""
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
    """Return the requests of ``tenant`` as they go over the wire: those of a trace in its order.

    Args:
        tenant: Whose model is a server.
        url: Of a request, without placeholders.
        values: What the placeholders stand for, but for texts.

    Raises:
        BadTokenizer: Texts cannot be made.
    """
    server = tenant.model.server
    assert server is not None
    rng = random.Random(tenant.seed)
    lengths, load = tenant.arrival.lengths, tenant.workload
    texts = _Texts(server.tokenizer, rng)
    if not len(lengths):
        wanted = [(load.seq_len, load.new_tokens)] * VARIANTS
        return [_rendered(tenant, url, values, texts, *sizes) for sizes in wanted]
    known: dict[tuple[int, int, int], bytes] = {}
    found = []
    for size in lengths.sizes:
        sizes = size.padded_tokens or load.seq_len, size.output_tokens or load.new_tokens
        key = (*sizes, rng.randrange(_VARIANTS_OF_A_LENGTH))
        if key not in known:
            known[key] = _rendered(tenant, url, values, texts, *sizes)
        found.append(known[key])
    return found


def _rendered(
    tenant: TenantSpec, url: str, values: Mapping[str, object], texts: _Texts, seq_len: int, new_tokens: int
) -> bytes:
    server = tenant.model.server
    assert server is not None
    names = set(names_in(server.body))
    own: dict[str, object] = {**values, "seq_len": seq_len, "new_tokens": new_tokens}
    if "text" in names:
        own["text"] = texts.of(seq_len)
    if "texts" in names:
        own["texts"] = [texts.of(seq_len) for _ in range(tenant.workload.batch_size)]
    if "tokens" in names:
        own["tokens"] = texts.rng.choices(_IDS, k=seq_len)
    return render(server.method, url, body_bytes(server.body, own))


class _Texts:
    """Texts of so many tokens of one tokenizer; without one, of so many words."""

    def __init__(self, tokenizer: str, rng: random.Random) -> None:
        self._name, self.rng = tokenizer, rng
        self._tokenizer = _loaded(tokenizer) if tokenizer else None

    def of(self, tokens: int) -> str:
        """A text of ``tokens`` tokens, another one each time."""
        if self._tokenizer is None:
            return " ".join(self.rng.choices(_TEXT.split(), k=tokens))
        return _of_length(self._tokenizer, self._name, tokens, self.rng)


def _loaded(name: str) -> object:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever transformers and the hub's client raise
        raise BadTokenizer(f"server.request.tokenizer={name}: {str(error).splitlines()[0]}") from error


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

"""Generating after an encoder: the request of an encoder-decoder. May touch: torch, transformers' caches."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import EncoderDecoderCache, StaticCache

from mtexp.spec import TenantSpec
from mtexp.tenant.families import inputs_of
from mtexp.tenant.outputs import Outputs
from mtexp.tenant.prepared import Prepared, synchronizer


def generate_after_encoder(model: Any, call: Any, tenant: TenantSpec, device: torch.device) -> Prepared:
    """The encoder over its inputs, then new_tokens greedily, one at a time, from a start token.

    The keys and values of the encoder's states are computed once, with the first token; those of the tokens before are
    in a static cache. The first token's instant is reported.
    """
    inputs = inputs_of(model, tenant, device)
    start = inputs.pop("decoder_input_ids")[:, :1].clone()
    new_tokens = tenant.workload.new_tokens
    synchronize = synchronizer(device)
    outputs = Outputs(branching=True)
    with torch.inference_mode():
        states = model.get_encoder()(**inputs).last_hidden_state.shape[1]
    config = model.config.get_text_config(decoder=True)
    cache = EncoderDecoderCache(
        StaticCache(config=config, max_cache_len=new_tokens), StaticCache(config=config, max_cache_len=states)
    )

    def request() -> int:
        cache.reset()
        found = call(**inputs, decoder_input_ids=start, past_key_values=cache)
        token = found.logits[:, -1:].argmax(-1)
        synchronize()
        first_token_ns = time.monotonic_ns()
        encoded, logits = (found.encoder_last_hidden_state,), found.logits
        for _ in range(new_tokens - 1):
            logits = call(encoder_outputs=encoded, decoder_input_ids=token, past_key_values=cache).logits
            token = logits[:, -1:].argmax(-1)
        outputs.last = logits
        return first_token_ns

    with torch.inference_mode():
        request()  # allocates the caches
    outputs.last = None
    reason = "generate hands its first token to the host in the middle"
    return Prepared(request, model, not_capturable=reason, outputs=outputs, inputs=(*inputs.values(), start))

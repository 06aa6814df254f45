"""The request of a model in each workload. May touch: torch, transformers' caches."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import torch
import transformers
from transformers import StaticCache

from mtexp.errors import MtexpError
from mtexp.spec import TenantSpec
from mtexp.tenant.families import POOLING, chooses, inputs_of, vocabulary
from mtexp.tenant.generation import generate_after_encoder
from mtexp.tenant.lengths import in_shapes
from mtexp.tenant.models import DTYPES
from mtexp.tenant.outputs import Outputs, output_tensor
from mtexp.tenant.prepared import Prepared, Steps, synchronizer


class CacheUnusable(MtexpError):
    """The KV cache of this release of transformers cannot be reset; the message says what to do."""


def model_request(
    tenant: TenantSpec, device: torch.device, model: Any, compile_module: Callable[[Any], Any]
) -> Prepared:
    """Make the request of the workload of ``tenant``, whose model is ``model``; the arguments are :func:`prepare`'s."""
    call, caches = compile_module(model), _Caches(model, device)
    make: dict[str, Callable[[Any, Any, TenantSpec, torch.device], Prepared]] = {
        "forward": _forward,
        "prefill": partial(_prefill, caches),
        "decode": partial(_decode, caches),
        "generate": partial(_generate, caches),
        "train": _train,
    }
    kind = tenant.workload.kind
    if tenant.model.role == "encoder_decoder":
        make["generate"] = generate_after_encoder
    if len(tenant.arrival.lengths):
        return in_shapes(tenant, lambda shape: make[kind](model, call, shape, device))
    return make[kind](model, call, tenant, device)


def _forward(model: Any, call: Any, tenant: TenantSpec, device: torch.device) -> Prepared:
    """One whole forward pass over the inputs; models with a language-model head give logits of every position."""
    inputs = inputs_of(model, tenant, device)
    options = _options(tenant)
    outputs = Outputs(branching=chooses(model))
    pool: Callable[[Any], Any] = POOLING.get(tenant.model.pooling, _as_it_is)

    def request() -> int:
        outputs.last = pool(call(**inputs, **options))
        return 0

    return Prepared(request, model, outputs=outputs, inputs=tuple(inputs.values()))


def _options(tenant: TenantSpec) -> dict[str, Any]:
    return {"use_cache": False} if tenant.model.role in ("decoder", "encoder_decoder") else {}


def _as_it_is(found: Any) -> Any:
    return found


def _prefill(caches: _Caches, model: Any, call: Any, tenant: TenantSpec, device: torch.device) -> Prepared:
    """Fill the KV cache from (batch_size, seq_len) tokens; logits of the last position only."""
    input_ids = random_tokens(model, tenant, device)
    cache, prompt = caches.of(tenant, tenant.workload.seq_len)
    outputs = Outputs(branching=chooses(model))

    def request() -> int:
        cache.rewind(0)
        outputs.last = call(input_ids=input_ids, position_ids=prompt, past_key_values=cache.cache, logits_to_keep=1)
        return 0

    return Prepared(request, model, outputs=outputs, inputs=(input_ids,))


def _decode(caches: _Caches, model: Any, call: Any, tenant: TenantSpec, device: torch.device) -> Prepared:
    """One token a sequence from a static KV cache that holds seq_len tokens before every iteration."""
    context = tenant.workload.seq_len
    input_ids = random_tokens(model, tenant, device)
    cache, prompt = caches.of(tenant, context + 1)
    with torch.inference_mode():
        model(input_ids=input_ids, position_ids=prompt, past_key_values=cache.cache, logits_to_keep=1)
    token, position = input_ids[:, -1:].clone(), cache.position(context)
    outputs = Outputs(branching=chooses(model))

    def request() -> int:
        cache.rewind(context)
        outputs.last = call(input_ids=token, position_ids=position, past_key_values=cache.cache)
        return 0

    return Prepared(request, model, outputs=outputs, inputs=(input_ids,))


def _generate(caches: _Caches, model: Any, call: Any, tenant: TenantSpec, device: torch.device) -> Prepared:
    """A prompt of seq_len tokens and new_tokens generated greedily; the first token's instant is reported."""
    workload = tenant.workload
    input_ids = random_tokens(model, tenant, device)
    cache, prompt = caches.of(tenant, workload.seq_len + workload.new_tokens)
    positions = [cache.position(workload.seq_len + i) for i in range(workload.new_tokens - 1)]
    synchronize = synchronizer(device)
    outputs, steps = Outputs(branching=True), Steps(workload.new_tokens)

    def request() -> int:
        cache.rewind(0)
        logits = call(input_ids=input_ids, position_ids=prompt, past_key_values=cache.cache, logits_to_keep=1).logits
        token = logits[:, -1:].argmax(-1)
        synchronize()
        first_token_ns = time.monotonic_ns()
        for position in islice(positions, steps.new_tokens - 1):
            logits = call(input_ids=token, position_ids=position, past_key_values=cache.cache).logits
            token = logits[:, -1:].argmax(-1)
        outputs.last = logits
        return first_token_ns

    reason = "generate hands its first token to the host in the middle"
    return Prepared(request, model, not_capturable=reason, outputs=outputs, inputs=(input_ids,), steps=steps)


def _train(model: Any, call: Any, tenant: TenantSpec, device: torch.device) -> Prepared:
    """Forward, backward and one AdamW step over the inputs."""
    model.train()
    inputs = inputs_of(model, tenant, device)
    # eps: the default 1e-8 is 0 in fp16, where the step would divide by it
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, eps=1e-4)
    decoder, options = tenant.model.role == "decoder", _options(tenant)
    outputs = Outputs(changing=True)

    def forward() -> int:
        model.eval()  # dropout cannot be computed again
        outputs.last = model(**inputs, **options)
        model.train()
        return 0

    def request() -> int:
        with torch.inference_mode(False), torch.enable_grad():
            if decoder:
                loss = call(input_ids=inputs["input_ids"], labels=inputs["input_ids"], **options).loss
            else:
                loss = output_tensor(call(**inputs, **options), attached=True).float().square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        outputs.last = loss
        return 0

    reason = "the optimizer keeps its step count on the host"
    given = tuple(inputs.values())
    return Prepared(request, model, not_capturable=reason, outputs=outputs, inputs=given, forward=forward)


class _Caches:
    """The static KV caches of a model, one of each length: requests of several shapes share them."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model, self._device = model, device
        self._made: dict[int, _Cache] = {}

    def of(self, tenant: TenantSpec, length: int) -> tuple[_Cache, torch.Tensor]:
        """A cache of ``length`` tokens, and the positions (batch_size, seq_len) of a prompt in it."""
        if length not in self._made:
            self._made[length] = _Cache(self._model, tenant, length, self._device)
        prompt = torch.arange(tenant.workload.seq_len, device=self._device)
        return self._made[length], prompt.expand(tenant.workload.batch_size, -1)


class _Cache:
    """A static KV cache whose length can be reset in one kernel."""

    def __init__(self, model: Any, tenant: TenantSpec, length: int, device: torch.device) -> None:
        config = model.config.get_text_config(decoder=True)
        self.cache = StaticCache(config=config, max_cache_len=length)
        batch = tenant.workload.batch_size
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dtype = DTYPES[tenant.precision]
        self._lengths = _initialised(self.cache, batch, heads, head_dim, dtype, device)
        self._batch, self._device = batch, device
        self._targets: dict[int, list[torch.Tensor]] = {}

    def position(self, index: int) -> torch.Tensor:
        """Position ids (batch_size, 1) of one token at ``index``."""
        return torch.full((self._batch, 1), index, device=self._device)

    def rewind(self, length: int) -> None:
        """Set the number of cached tokens of every layer."""
        if length not in self._targets:
            self._targets[length] = [torch.full_like(t, length) for t in self._lengths]
        torch._foreach_copy_(self._lengths, self._targets[length])
        for layer in self.cache.layers:
            if hasattr(layer, "cumulative_length_int"):  # sliding-window layers count on the host too
                layer.cumulative_length_int = length


def _initialised(cache: Any, *sizes: Any) -> list[torch.Tensor]:
    """Allocate ``cache`` now (a request must not) and return the length of each layer, a tensor on its device.

    Both are details of transformers that a release may change without notice.

    Raises:
        CacheUnusable: This release has others.
    """
    try:
        cache.early_initialization(*sizes)
        lengths = [layer.cumulative_length for layer in cache.layers]
        if not lengths or not all(isinstance(length, torch.Tensor) for length in lengths):
            raise TypeError("the length of a layer is no tensor")
    except (AttributeError, TypeError) as error:
        raise CacheUnusable(
            f"transformers {transformers.__version__} has a static KV cache that mtexp does not know ({error}): "
            "prefill, decode and generate cannot be measured. Install the release in constraints.txt, or use "
            "workload=forward"
        ) from error
    return lengths


def random_tokens(model: Any, tenant: TenantSpec, device: torch.device) -> torch.Tensor:
    """Token ids, int64, (batch_size, seq_len), the same for the same seed."""
    generator = torch.Generator().manual_seed(tenant.seed)
    size = (tenant.workload.batch_size, tenant.workload.seq_len)
    return torch.randint(0, vocabulary(model.config), size, generator=generator).to(device)

"""What one iteration is: the request of each workload, as a callable. May touch: torch, transformers' caches.

A request enqueues its device work and returns; the loop synchronises. It returns the host time (ns) of its first token
where it has one (``generate``), else 0; what it computed is in :attr:`Outputs.last` until the next one starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import StaticCache

from mtexp.errors import MtexpError
from mtexp.spec import TenantSpec
from mtexp.tenant.models import DTYPES, build_model
from mtexp.tenant.outputs import Outputs
from mtexp.tenant.stressors import stressor_request

Request = Callable[[], int]


class CacheUnusable(MtexpError):
    """The KV cache of this release of transformers cannot be set back; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready to be issued, and what may be done with it."""

    request: Request
    module: torch.nn.Module | None = None
    """The model inside, for counting parameters and compiling."""
    not_capturable: str = ""
    """Why it cannot become a CUDA graph; empty = it may."""
    outputs: Outputs = field(default_factory=Outputs)
    """What the request gives."""
    inputs: tuple[torch.Tensor, ...] = ()
    """What it is given."""
    forward: Request | None = None
    """The forward pass of a request that also does something else (a training step); None = the request is one."""


def prepare(tenant: TenantSpec, device: torch.device, compile_module: Callable[[Any], Any]) -> Prepared:
    """Build the tenant's model on ``device`` and make the request of its workload.

    Args:
        tenant: What to build.
        device: Where.
        compile_module: Applied to the model before it is called (``execution=compile``; the identity otherwise).
    """
    if tenant.model.role == "stressor":
        return Prepared(stressor_request(tenant, device))
    model = build_model(tenant, device)
    make = {"forward": _forward, "prefill": _prefill, "decode": _decode, "generate": _generate, "train": _train}
    return make[tenant.workload.kind](model, compile_module(model), tenant, device)


def _forward(model: Any, call: Any, tenant: TenantSpec, device: torch.device) -> Prepared:
    """One whole forward pass over (batch_size, seq_len) tokens; a decoder gives logits of every position."""
    input_ids = random_tokens(model, tenant, device)
    options: dict[str, Any] = {"use_cache": False} if tenant.model.role == "decoder" else {}
    outputs = Outputs()

    def request() -> int:
        outputs.last = call(input_ids=input_ids, **options)
        return 0

    return Prepared(request, model, outputs=outputs, inputs=(input_ids,))


def _prefill(model: Any, call: Any, tenant: TenantSpec, device: torch.device) -> Prepared:
    """Fill the KV cache from (batch_size, seq_len) tokens; logits of the last position only."""
    input_ids = random_tokens(model, tenant, device)
    cache = _Cache(model, tenant, tenant.workload.seq_len, device)
    outputs = Outputs()

    def request() -> int:
        cache.rewind(0)
        outputs.last = call(
            input_ids=input_ids, position_ids=cache.prompt, past_key_values=cache.cache, logits_to_keep=1
        )
        return 0

    return Prepared(request, model, outputs=outputs, inputs=(input_ids,))


def _decode(model: Any, call: Any, tenant: TenantSpec, device: torch.device) -> Prepared:
    """One token a sequence from a static KV cache that holds seq_len tokens before every iteration."""
    context = tenant.workload.seq_len
    input_ids = random_tokens(model, tenant, device)
    cache = _Cache(model, tenant, context + 1, device)
    with torch.inference_mode():
        model(input_ids=input_ids, position_ids=cache.prompt, past_key_values=cache.cache, logits_to_keep=1)
    token, position = input_ids[:, -1:].clone(), cache.position(context)
    outputs = Outputs()

    def request() -> int:
        cache.rewind(context)
        outputs.last = call(input_ids=token, position_ids=position, past_key_values=cache.cache)
        return 0

    return Prepared(request, model, outputs=outputs, inputs=(input_ids,))


def _generate(model: Any, call: Any, tenant: TenantSpec, device: torch.device) -> Prepared:
    """A prompt of seq_len tokens and new_tokens generated greedily; the first token's instant is reported."""
    workload = tenant.workload
    input_ids = random_tokens(model, tenant, device)
    cache = _Cache(model, tenant, workload.seq_len + workload.new_tokens, device)
    positions = [cache.position(workload.seq_len + i) for i in range(workload.new_tokens - 1)]
    synchronize = torch.cuda.current_stream().synchronize if device.type == "cuda" else _nothing
    outputs = Outputs(branching=True)

    def request() -> int:
        cache.rewind(0)
        logits = call(
            input_ids=input_ids, position_ids=cache.prompt, past_key_values=cache.cache, logits_to_keep=1
        ).logits
        token = logits[:, -1:].argmax(-1)
        synchronize()
        first_token_ns = time.monotonic_ns()
        for position in positions:
            logits = call(input_ids=token, position_ids=position, past_key_values=cache.cache).logits
            token = logits[:, -1:].argmax(-1)
        outputs.last = logits
        return first_token_ns

    reason = "generate hands its first token to the host in the middle"
    return Prepared(request, model, not_capturable=reason, outputs=outputs, inputs=(input_ids,))


def _train(model: Any, call: Any, tenant: TenantSpec, device: torch.device) -> Prepared:
    """Forward, backward and one AdamW step over (batch_size, seq_len) tokens."""
    model.train()
    input_ids = random_tokens(model, tenant, device)
    # eps: the default 1e-8 is 0 in fp16, where the step would divide by it
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, eps=1e-4)
    decoder = tenant.model.role == "decoder"
    outputs = Outputs(changing=True)

    def forward() -> int:
        model.eval()  # dropout cannot be computed again
        outputs.last = model(input_ids=input_ids, **({"use_cache": False} if decoder else {}))
        model.train()
        return 0

    def request() -> int:
        with torch.inference_mode(False), torch.enable_grad():
            if decoder:
                loss = call(input_ids=input_ids, labels=input_ids, use_cache=False).loss
            else:
                loss = call(input_ids=input_ids).last_hidden_state.float().square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        outputs.last = loss
        return 0

    reason = "the optimizer keeps its step count on the host"
    inputs = (input_ids,)
    return Prepared(request, model, not_capturable=reason, outputs=outputs, inputs=inputs, forward=forward)


class _Cache:
    """A static KV cache whose length can be set back in one kernel."""

    def __init__(self, model: Any, tenant: TenantSpec, length: int, device: torch.device) -> None:
        config = model.config
        self.cache = StaticCache(config=config, max_cache_len=length)
        batch = tenant.workload.batch_size
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dtype = DTYPES[tenant.precision]
        self._lengths = _initialised(self.cache, batch, heads, head_dim, dtype, device)
        self.prompt = torch.arange(tenant.workload.seq_len, device=device).expand(batch, -1)
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

    Both are details of transformers that a release may change without a word.

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
    return torch.randint(0, model.config.vocab_size, size, generator=generator).to(device)


def _nothing() -> None:
    """The CPU has nothing to wait for."""

"""Building a tenant's model on its device. May touch: torch, transformers."""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from safetensors import SafetensorError

from mtexp.errors import MtexpError
from mtexp.spec import QUANTISED, ModelSpec, TenantSpec
from mtexp.tenant.families import class_of, from_config
from mtexp.tenant.quantised import quantise
from mtexp.tenant.weights import DTYPES, Pool, filled_from

__all__ = ["DTYPES", "ModelUnavailable", "build_model", "meta_model"]


class ModelUnavailable(MtexpError):
    """Pretrained weights that cannot be had; the message says why and what to do."""


_LAYER = re.compile(r"\.\d+\.")
"""In the name of a weight: that of one layer of many; a pooler or a head may be made anew."""


def build_model(tenant: TenantSpec, device: torch.device) -> torch.nn.Module:
    """Build ``tenant``'s model with its weights on ``device`` in the run's precision, in evaluation mode.

    Encoders are the bare model (``AutoModel``), decoders carry their language-model head (``AutoModelForCausalLM``);
    :mod:`mtexp.tenant.families` has the other roles.
    Random weights have the distributions of the library's own initialisation, and depend on the seed alone.

    Raises:
        ModelUnavailable: Pretrained weights are offline, gated or missing.
    """
    torch.set_float32_matmul_precision("high" if tenant.precision == "tf32" else "highest")
    torch.manual_seed(tenant.seed)
    spec, dtype = tenant.model, DTYPES[tenant.precision]
    model: torch.nn.Module
    if spec.weights == "pretrained":
        model = _pretrained(class_of(spec), spec, dtype).to(device)
    else:
        with device, filled_from(Pool(tenant.seed, device)):  # made on the device: no copy, no host memory
            model = from_config(spec, dtype=dtype, attn_implementation=spec.attn_implementation)
    if tenant.precision in QUANTISED:
        quantise(model, tenant.precision, spec.name)
    return model.eval()


def meta_model(spec: ModelSpec) -> Any:
    """The model of ``spec``'s shape on the meta device: modules and shapes, no memory."""
    with torch.device("meta"):  # bfloat16: the type that every kernel of a model has
        return from_config(spec, dtype=torch.bfloat16, attn_implementation=spec.attn_implementation).eval()


def _pretrained(factory: Any, spec: ModelSpec, dtype: torch.dtype) -> torch.nn.Module:
    try:
        model: torch.nn.Module
        model, loading = factory.from_pretrained(
            spec.source,
            dtype=dtype,
            attn_implementation=spec.attn_implementation,
            use_safetensors=True,  # never a pickle
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelUnavailable(_explain(spec, error)) from error
    if missing := sorted(key for key in loading["missing_keys"] if _LAYER.search(key)):
        raise ModelUnavailable(
            f"{spec.source}: config.json names layers that the weights do not have ({missing[0]} and "
            f"{len(missing) - 1} more): they would be random. Take config.json and weights of the same model"
        )
    return model


def _explain(spec: ModelSpec, error: Exception) -> str:
    text = str(error)
    if "gated" in text or "401" in text or "403" in text:
        remedy = "the repository is gated: accept its licence on the hub and log in with `hf auth login`"
    elif os.path.isdir(spec.source):
        remedy = "a local folder needs config.json and weights in model.safetensors (pickled .bin weights are refused)"
    else:
        remedy = (
            "offline, misspelt, or without safetensors: download it once with `hf download`, or give a local folder "
            "as mix.tenants.<id>.source, or use weights=random (speed depends on shapes, not on values)"
        )
    first_line = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"pretrained weights {spec.source!r} of {spec.name} cannot be loaded: {first_line}. Remedy: {remedy}"

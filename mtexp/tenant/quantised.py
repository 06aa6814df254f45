"""Weights in int8 or fp8: which layers get them, and what they stand for. May touch: torchao, where it is asked for.

``int8`` keeps the weights of linear layers as 8-bit integers with a scale for each row; products are in bf16. ``fp8``
keeps them as e4m3 floats, rounds what goes into a layer to e4m3 as well, row by row, and multiplies on fp8 tensor
cores. The output embedding, convolutions and embeddings stay bf16, and so does everything between layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from mtexp.errors import MtexpError

_MULTIPLE = 16
"""Both sizes of an fp8 matrix on tensor cores are multiples of it; layers of others stay bf16."""


class NothingQuantised(MtexpError):
    """A model without layers that can be quantised; the message says what to do."""


def quantise(model: torch.nn.Module, precision: str, name: str) -> None:
    """Replace the weights of ``model``'s linear layers in place, each on its device; only one is there twice.

    Raises:
        NothingQuantised: It has no linear layers.
    """
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
        quantize_,
    )

    get_output = getattr(model, "get_output_embeddings", None)
    kept = get_output() if get_output else None

    def chosen(module: torch.nn.Module, place: str) -> bool:
        if not isinstance(module, torch.nn.Linear) or module is kept:
            return False
        return precision == "int8" or all(size % _MULTIPLE == 0 for size in module.weight.shape)

    if not any(chosen(module, "") for module in model.modules()):
        raise NothingQuantised(
            f"precision={precision}: {name} has no linear layers that torchao can quantise. Use precision=bf16 for it"
        )
    configs: dict[str, Any] = {
        "int8": Int8WeightOnlyConfig,
        "fp8": lambda **options: Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), **options),
    }
    quantize_(model, configs[precision](set_inductor_config=False), filter_fn=chosen)


def is_quantised(tensor: Any) -> bool:
    """Whether ``tensor`` is one of torchao's, which keep their numbers in ``qdata``."""
    return hasattr(tensor, "qdata")


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """What a tensor stands for: of a quantised one the numbers times their scales, in float32."""
    if not is_quantised(tensor):
        return tensor
    found: torch.Tensor = tensor.dequantize(torch.float32)  # type: ignore[call-arg]
    return found


def parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that hold ``tensor``: of a quantised one its numbers and its scales."""
    if is_quantised(tensor):
        names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
        yield from (getattr(tensor, name) for name in names)
    else:
        yield tensor

"""Random weights and inputs that do not depend on the device. May touch: torch.

CUDA's random generator deals its numbers out by the number of SMs: the same seed gives other weights under a CUDA MPS
percentage, and under another GPU. So the numbers are drawn once on the CPU, a pool of them, and each tensor is filled
from the pool on the device: :func:`filled_from` does that for whatever ``normal_`` and ``uniform_`` a model's own
initialisation calls, so that its distributions stay those of the library.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mtexp.tenant.quantised import parts

DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "int8": torch.bfloat16,
    "fp8": torch.bfloat16,
}
"""Type of a number between layers, by precision."""

POOL = 4_194_301
"""Numbers in a pool: a prime, so that the rows of a matrix of any width begin at different places of it."""


class Pool:
    """Random numbers of one seed on one device, and the places from which the next tensors take theirs."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._device = seed, device
        self._places = random.Random(seed)
        self._drawn: dict[str, torch.Tensor] = {}

    def normal_(self, tensor: torch.Tensor, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
        """Fill ``tensor`` with normally distributed numbers, in place."""
        return self._fill(tensor, "normal", mean, std)

    def uniform_(self, tensor: torch.Tensor, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Fill ``tensor`` with numbers distributed evenly between ``low`` and ``high``, in place."""
        return self._fill(tensor, "uniform", low, high - low)

    def _fill(self, tensor: torch.Tensor, kind: str, shift: float, scale: float) -> torch.Tensor:
        flat = tensor.view(-1) if tensor.is_contiguous() else torch.empty_like(tensor).reshape(-1)
        place, filled = self._places.randrange(POOL), 0
        while filled < flat.numel():
            count = min(POOL - place, flat.numel() - filled)
            numbers = self._draw(kind)[place : place + count]  # scaling all of them would take longest in a small model
            flat[filled : filled + count].copy_(numbers * scale + shift)
            filled, place = filled + count, 0
        if not tensor.is_contiguous():
            tensor.copy_(flat.view(tensor.shape))
        return tensor

    def _draw(self, kind: str) -> torch.Tensor:
        if kind not in self._drawn:
            generator = torch.Generator().manual_seed(self._seed)
            draw = torch.randn if kind == "normal" else torch.rand
            self._drawn[kind] = draw(POOL, generator=generator, dtype=torch.float32, device="cpu").to(
                self._device
            )  # not the default type, which is that of the model while the library builds it
        return self._drawn[kind]


class filled_from(TorchDispatchMode):  # noqa: N801  a context manager, called like a function
    """While entered, ``normal_`` and ``uniform_`` without a generator take their numbers from ``pool``."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fills = {torch.ops.aten.normal_.default: pool.normal_, torch.ops.aten.uniform_.default: pool.uniform_}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        fill = self._fills.get(func)
        if fill is None or options.get("generator") is not None or not args[0].is_floating_point():
            return func(*args, **options)
        return fill(*args)


def checksum(tensors: Iterable[torch.Tensor]) -> str:
    """16 hex digits that name the bits of ``tensors`` in their order; read on their device, without a copy of them.

    Each tensor's bits are added up as 64-bit integers, which gives the same sum in whatever order a device adds.
    """
    sums = [added for tensor in tensors for part in parts(tensor.detach()) for added in _sums(part)]
    values = torch.stack([part.to(sums[0].device) for part in sums]).tolist() if sums else []
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def _sums(tensor: torch.Tensor) -> list[torch.Tensor]:
    flat = tensor.contiguous().reshape(-1)
    octets = flat.view(torch.uint8)
    whole = octets.numel() // 8 * 8
    if octets.storage_offset() % 8:  # a view into another tensor that begins between two words
        octets = octets.clone()
    return [octets[:whole].view(torch.int64).sum(), octets[whole:].sum(dtype=torch.int64)]

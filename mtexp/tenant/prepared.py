"""A request that is ready to be issued, and what may be done with it. May touch: torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mtexp.tenant.outputs import Outputs

Request = Callable[[], int]
"""Enqueues its device work and returns the host time (ns) of its first token where it has one, else 0."""


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
    checked: bool = False
    """Whether a request without a module gives an output that can be checked; one with a module always does."""
    forward: Request | None = None
    """The forward pass of a request that also does something else (a training step); None = the request is one."""


def synchronizer(device: torch.device) -> Callable[[], object]:
    """What waits for the work of the current stream."""
    return torch.cuda.current_stream().synchronize if device.type == "cuda" else _nothing


def _nothing() -> None:
    """The CPU has nothing to wait for."""

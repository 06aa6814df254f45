"""A request that is ready to be issued, and its parts for checks, compiling and graphs. May touch: torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from mtexp.tenant.outputs import Outputs

if TYPE_CHECKING:
    from mtexp.tenant.lengths import TraceRequests

Request = Callable[[], int]
"""Enqueues its device work and returns the host time (ns) of its first token where it has one, else 0."""


@dataclass(slots=True)
class Steps:
    """How many tokens the next request generates."""

    new_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready to be issued, and its parts for checks, compiling and graphs."""

    request: Request
    module: torch.nn.Module | None = None
    """The model inside, for counting parameters and compiling."""
    not_capturable: str = ""
    """Why it cannot become a CUDA graph; empty = it may."""
    outputs: Outputs = field(default_factory=Outputs)
    """Outputs of the request."""
    inputs: tuple[torch.Tensor, ...] = ()
    """Inputs of the request."""
    checked: bool = False
    """Whether a request without a module gives an output that can be checked; one with a module always does."""
    forward: Request | None = None
    """What runs every product, where the request does something else (a training step); None = the request does."""
    graph_differs: list[str] = field(default_factory=list)
    """Products of its CUDA graph that eager mode does not have, and the other way round; filled by the capture."""
    steps: Steps = field(default_factory=Steps)
    """Steps of a request that generates."""
    trace: TraceRequests | None = None
    """Issues requests in the order of a trace, where they have its lengths."""


def synchronizer(device: torch.device) -> Callable[[], object]:
    """A function that waits for the work of the current stream."""
    return torch.cuda.current_stream().synchronize if device.type == "cuda" else _nothing


def _nothing() -> None:
    """The CPU has nothing to wait for."""

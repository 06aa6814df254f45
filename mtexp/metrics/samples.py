"""What a tenant measured, one entry per iteration. Lives here: Samples. May touch: numpy.

All instants are ``time.monotonic_ns()`` of one host, so that tenants can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

WARMUP, MEASURE, ALONE, EDGE = 0, 1, 2, 3
"""Phases: before the barrier; measured (in a crossover run: while all tenants were active); measured alone, in a block
of one tenant; measured and not counted, at the edge of a block."""
_NS_PER_MS = 1e6

_ABSENT: NDArray[np.int64] = np.empty(0, dtype=np.int64)


OPTIONAL = {"enqueue_ns": 0, "block": -1, "round": -1, "input_tokens": 0, "padded_tokens": 0, "output_tokens": 0}
"""Columns that need not be given, and the value that stands for none."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Iterations of one tenant in the order in which they were served; every array has shape (n,).

    Raises:
        ValueError: The arrays are not one-dimensional and equally long.
    """

    phase: NDArray[np.uint8]
    """:data:`WARMUP`, :data:`MEASURE`, :data:`ALONE` or :data:`EDGE`."""
    arrival_ns: NDArray[np.int64]
    """Intended arrival; in closed loop equal to ``start_ns``."""
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    first_token_ns: NDArray[np.int64]
    """When the first token was there; 0 = none."""
    gpu_time_ns: NDArray[np.int64]
    """Span between CUDA events; -1 = none."""
    enqueue_ns: NDArray[np.int64] = field(default_factory=lambda: _ABSENT)
    """When the host had enqueued the whole request; 0 = not stamped."""
    block: NDArray[np.int64] = field(default_factory=lambda: _ABSENT)
    """Block of a crossover run; -1 = none."""
    round: NDArray[np.int64] = field(default_factory=lambda: _ABSENT)
    """Round of a crossover run; -1 = none."""
    input_tokens: NDArray[np.int64] = field(default_factory=lambda: _ABSENT)
    """Tokens that a request of a trace has; 0 = as the workload says."""
    padded_tokens: NDArray[np.int64] = field(default_factory=lambda: _ABSENT)
    """Tokens that were computed for them; 0 = as the workload says."""
    output_tokens: NDArray[np.int64] = field(default_factory=lambda: _ABSENT)
    """Tokens that a request of a trace generates; 0 = none, or as the workload says."""

    def __post_init__(self) -> None:
        for name, none in OPTIONAL.items():
            if getattr(self, name) is _ABSENT:
                object.__setattr__(self, name, np.full(self.phase.shape, none, dtype=np.int64))
        shapes = {f.name: getattr(self, f.name).shape for f in fields(self)}
        if len(set(shapes.values())) != 1 or len(self.phase.shape) != 1:
            raise ValueError(f"samples need one-dimensional columns of equal length, found {shapes}")

    def __len__(self) -> int:
        return int(self.phase.size)

    @property
    def latency_ms(self) -> Floats:
        """Arrival to end of the device work, host clock: the headline."""
        return (self.end_ns - self.arrival_ns) / _NS_PER_MS

    @property
    def queue_ms(self) -> Floats:
        """Arrival to start: 0 in closed loop."""
        return (self.start_ns - self.arrival_ns) / _NS_PER_MS

    @property
    def service_ms(self) -> Floats:
        """Start to end."""
        return (self.end_ns - self.start_ns) / _NS_PER_MS

    @property
    def gpu_time_ms(self) -> Floats:
        """CUDA-event span; NaN where there is none."""
        return np.where(self.gpu_time_ns < 0, np.nan, self.gpu_time_ns / _NS_PER_MS)

    @property
    def enqueue_ms(self) -> Floats:
        """Start to the end of enqueueing: what the host does for a request; NaN where it was not stamped."""
        return np.where(self.enqueue_ns == 0, np.nan, (self.enqueue_ns - self.start_ns) / _NS_PER_MS)

    @property
    def wait_ms(self) -> Floats:
        """Latency less gpu time; NaN where there is no gpu time."""
        return self.latency_ms - self.gpu_time_ms

    @property
    def ttft_ms(self) -> Floats:
        """Arrival to first token; NaN where there is none."""
        return np.where(self.first_token_ns == 0, np.nan, (self.first_token_ns - self.arrival_ns) / _NS_PER_MS)

    def tpot_ms(self, new_tokens: int) -> Floats:
        """Time per output token after the first, of ``new_tokens`` a request that has no number of its own; NaN where
        there is none.
        """
        following = np.where(self.output_tokens > 0, self.output_tokens, new_tokens) - 1
        rest_ms = (self.end_ns - self.first_token_ns) / _NS_PER_MS
        there = (self.first_token_ns != 0) & (following > 0)
        return np.where(there, rest_ms / np.maximum(following, 1), np.nan)

    @property
    def open_loop(self) -> bool:
        """True where requests come at given instants, whether or not the last one has ended."""
        return bool(np.any(self.arrival_ns != self.start_ns))

    @property
    def measured(self) -> Samples:
        """The iterations after the barrier; of a crossover run, those that count while all tenants were active."""
        return self.select(self.phase == MEASURE)

    def select(self, mask: Mask) -> Samples:
        """The iterations at which ``mask`` (bool, shape (n,)) is true."""
        return Samples(**{f.name: getattr(self, f.name)[mask] for f in fields(self)})

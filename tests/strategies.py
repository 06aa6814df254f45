"""Hypothesis strategies and builders of measured data that several test areas use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from mtexp.metrics.samples import Samples
from mtexp.metrics.spread import Group
from mtexp.metrics.window import Series

MS = 1_000_000  # nanoseconds


def closed_loop(
    latency_ms: Sequence[float] | np.ndarray, *, start_ns: int = 10**15, warmup: int = 0, gpu_ms: float | None = None
) -> Samples:
    """Back-to-back iterations of these latencies, the first ``warmup`` of them before the barrier."""
    lengths = np.rint(np.asarray(latency_ms, dtype=float) * MS).astype(np.int64)
    ends = start_ns + np.cumsum(lengths)
    starts = ends - lengths
    gpu = -1 if gpu_ms is None else round(gpu_ms * MS)
    return Samples(
        phase=(np.arange(lengths.size) >= warmup).astype(np.uint8),
        arrival_ns=starts,
        start_ns=starts,
        end_ns=ends,
        first_token_ns=np.zeros(lengths.size, dtype=np.int64),
        gpu_time_ns=np.full(lengths.size, gpu, dtype=np.int64),
    )


def open_loop(
    arrival_ms: Sequence[float] | np.ndarray, service_ms: float | np.ndarray, *, start_ns: int = 10**15
) -> Samples:
    """Requests at these instants, served in order; a tenant notices one after 1 us and needs ``service_ms``."""
    arrivals = start_ns + np.rint(np.asarray(arrival_ms, dtype=float) * MS).astype(np.int64)
    service, free = np.rint(np.broadcast_to(service_ms, arrivals.shape) * MS).astype(np.int64), 0
    starts = np.empty_like(arrivals)
    for i, arrival in enumerate(arrivals):
        starts[i] = max(int(arrival) + 1000, free)
        free = int(starts[i] + service[i])
    return Samples(
        phase=np.ones(arrivals.size, dtype=np.uint8),
        arrival_ns=arrivals,
        start_ns=starts,
        end_ns=starts + service,
        first_token_ns=np.zeros(arrivals.size, dtype=np.int64),
        gpu_time_ns=np.full(arrivals.size, -1, dtype=np.int64),
    )


def ar1(
    rng: np.random.Generator, iterations: int, *, mean: float = 10.0, spread: float = 1.0, rho: float = 0.5
) -> np.ndarray:
    """Latencies whose neighbours resemble each other: a first-order autoregression."""
    noise = rng.normal(0.0, spread * np.sqrt(1 - rho**2), iterations)
    values = np.empty(iterations)
    values[0] = rng.normal(0.0, spread)
    for i in range(1, iterations):
        values[i] = rho * values[i - 1] + noise[i]
    return mean + values


def noisy(seed: int, iterations: int, mean: float = 10.0) -> Series:
    """A closed-loop series with some 5 % of noise."""
    return Series.closed(mean * np.random.default_rng(seed).lognormal(0.0, 0.05, iterations))


ratios = st.floats(0.01, 100.0)
"""Slowdowns, progress, scale factors."""

progresses = st.lists(ratios, min_size=1, max_size=48)
"""NP of each tenant."""

latencies_ms = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=200)


@st.composite
def tenant_samples(draw: st.DrawFn, min_size: int = 0) -> Samples:
    """One tenant in closed loop that starts within a second of the others and warms up first."""
    lengths = draw(st.lists(st.floats(0.5, 300.0), min_size=min_size, max_size=40))
    start_ns = 10**15 + draw(st.integers(0, 1000)) * MS
    return closed_loop(lengths, start_ns=start_ns, warmup=draw(st.integers(0, 3)))


mixes = st.lists(tenant_samples(), min_size=1, max_size=6)
"""Samples of each tenant of a run."""


def points_of_few_runs(rng: np.random.Generator, throws: np.ndarray) -> list[Group]:
    """How far the runs of each point of a study lie apart: of each row of ``throws`` one or more, from its start on."""
    counts = rng.integers(1, throws.shape[1] + 1, len(throws))
    there = np.arange(throws.shape[1]) < counts[:, None]
    means = (throws * there).sum(axis=1) / counts
    squares = ((throws - means[:, None]) ** 2 * there).sum(axis=1)
    return [Group(("a",), own, count - 1.0) for own, count in zip(squares.tolist(), counts.tolist(), strict=True)]

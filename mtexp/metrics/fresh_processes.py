"""By how much slowdowns differ between fresh sets of processes, beyond what the rounds of one run show. Pure.

How short requests of several processes meet on the device is settled when the processes start. In eight sessions on
H200s, BERT-base as a CUDA graph (0.85 ms) beside Llama-3.2-1B was slowed 3.30 to 3.61 times by time slicing and 2.41 to
2.54 times under MPS, while the rounds of each run agreed within 1 %. What it gained by time slicing its neighbour lost;
under MPS its neighbour hardly noticed. Models with longer requests showed nothing of the kind
(docs/results/designs.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mtexp.metrics.samples import ALONE, Floats, Samples
from mtexp.spec import RunSpec

TURN_MS = 2.1
"""How long a process has the GPU by time slicing, seen on H200s."""
SD = 0.02
"""Standard deviation of a log slowdown between sets of processes: in those sessions 0.017 under MPS and 0.019 to 0.030
by time slicing. With it, intervals of one run hold 46 of 48 slowdowns of fresh runs there, and 41 of 42 comparisons of
other pairs agree; by the rounds alone 36 and 30."""


def short_graphs(spec: RunSpec, alone_ms: Mapping[str, float]) -> list[str]:
    """Tenants whose CUDA graph is shorter than a turn, beside others in processes that share the device.

    Args:
        spec: Of the run.
        alone_ms: Mean latency alone, by tenant id; a tenant that is absent is not known to be short.
    """
    if spec.sharing.mode != "processes" or len(spec.tenants) == 1:
        return []
    graphs = [tenant.id for tenant in spec.tenants if tenant.execution == "cuda_graph"]
    return [name for name in graphs if alone_ms.get(name, TURN_MS) < TURN_MS]


def concerned(spec: RunSpec, alone_ms: Mapping[str, float]) -> list[str]:
    """Tenants whose slowdown differs: those with short graphs; by time slicing, beside such a tenant, all.

    Arguments as of :func:`short_graphs`.
    """
    short = short_graphs(spec, alone_ms)
    return [tenant.id for tenant in spec.tenants] if short and spec.sharing.mps_mode == "disabled" else short


def unseen(spec: RunSpec, alone_ms: Mapping[str, float], names: Sequence[str]) -> Floats | None:
    """What independent states of a set of processes, each with standard deviation 1, add to log slowdowns.

    Every tenant that is concerned has a standard deviation of :data:`SD`. By time slicing what one gains the others
    lose: the states of n tenants add up to 0.

    Args:
        spec: Of the run.
        alone_ms: As of :func:`short_graphs`.
        names: Tenants, in the order of the columns.

    Returns:
        Shape (states, tenants); None = nothing.
    """
    own = concerned(spec, alone_ms)
    if not own:
        return None
    count = len(names)
    if spec.sharing.mps_mode == "disabled" and count > 1:
        return SD * math.sqrt(count / (count - 1)) * (np.eye(count) - 1 / count)
    return SD * np.diag([float(name in own) for name in names])


def unseen_of(spec: RunSpec, samples: Mapping[str, Samples]) -> Floats | None:
    """:func:`unseen` of a crossover run.

    Args:
        spec: Of the run.
        samples: By tenant id, as :func:`mtexp.metrics.crossover.mark` returns them.
    """
    alone = {name: own.latency_ms[own.phase == ALONE] for name, own in samples.items()}
    alone_ms = {name: float(latencies.mean()) for name, latencies in alone.items() if latencies.size}
    return unseen(spec, alone_ms, list(samples))

"""By how much a slowdown differs between fresh sets of processes, beyond what the rounds of one run show. Pure.

How short requests of several processes meet on the device is settled when the processes start. In eight sessions on
H200s, BERT-base as a CUDA graph (0.85 ms) beside Llama-3.2-1B was slowed 3.30 to 3.61 times by time slicing and 2.41 to
2.54 times under MPS, while the rounds of each run agreed within 1 %. What it gained by time slicing its neighbour lost,
so that STP hardly moved. Models with longer requests showed nothing of the kind (docs/results/designs.md).
"""

from __future__ import annotations

from collections.abc import Mapping

from mtexp.spec import RunSpec

TURN_MS = 2.1
"""How long a process has the GPU by time slicing, seen on H200s."""
SD = 0.02
"""Standard deviation of a log slowdown between sets of processes. With it, intervals of one run hold the slowdowns of
fresh runs in 46 of 48 of those sessions, and in 41 of 42 comparisons of other pairs with short graphs; without it in 36
and 30."""


def short_graphs(spec: RunSpec, alone_ms: Mapping[str, float]) -> list[str]:
    """Tenants whose CUDA graph is shorter than a turn, in processes that share the device.

    Args:
        spec: Of the run.
        alone_ms: Mean latency alone, by tenant id.
    """
    if spec.sharing.mode != "processes":
        return []
    graphs = [tenant.id for tenant in spec.tenants if tenant.execution == "cuda_graph"]
    return [name for name in graphs if alone_ms.get(name, TURN_MS) < TURN_MS]


def unseen_sd(spec: RunSpec, alone_ms: Mapping[str, float]) -> dict[str, float]:
    """Standard deviation of the log slowdown of each tenant that differs between sets of processes, by tenant id.

    These are the tenants with short graphs; by time slicing their neighbours too. Arguments as of :func:`short_graphs`.
    """
    short = short_graphs(spec, alone_ms) if len(spec.tenants) > 1 else []
    concerned = [tenant.id for tenant in spec.tenants] if short and spec.sharing.mps_mode == "disabled" else short
    return dict.fromkeys(concerned, SD)

"""A study in rounds that was never measured: pairs and triples, two sharing modes, eager and as CUDA graphs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mtexp.metrics.crossover_summary import BlockTelemetry, real_window, summarise_crossover
from mtexp.metrics.summary import Measured
from mtexp.records.record import save
from mtexp.testing.records import example
from tests.metrics.test_crossover_summary import run

MODELS = ("bert_base", "bert_large", "distilgpt2", "gpt2", "llama_3_2_1b", "t5_base", "vit_base")
GRAPH_MS = dict(zip(MODELS, np.linspace(1.5, 7, 7), strict=True))
"""Latency alone as a CUDA graph, when the device works throughout."""
BUSY = dict(zip(MODELS, np.linspace(0.2, 0.9, 7), strict=True))
"""Share of the latency in eager mode in which it does."""
MPS_COST = 1.15


class CrossoverStudy:
    """Writes records below a folder: a law with what each model suffers, and a little noise."""

    def __init__(self, folder: Path, seed: int = 0, noise: float = 0.01):
        self.folder, self.noise = folder, noise
        self.rng = np.random.default_rng(seed)
        self.suffers = dict(zip(MODELS, self.rng.normal(0, 0.06, len(MODELS)), strict=True))

    def alone_ms(self, model: str, execution: str, mps: str) -> float:
        own = GRAPH_MS[model] * (1 if execution == "cuda_graph" else 1 / BUSY[model])
        return float(own * (MPS_COST if mps == "default" else 1))

    def slowdown(self, victim: str, others: Sequence[str], execution: str, mps: str) -> float:
        busy = {model: 1.0 if execution == "cuda_graph" else BUSY[model] for model in (victim, *others)}
        total = sum(busy[other] for other in others)
        form = np.log1p(busy[victim] * total) if mps == "disabled" else np.log(max(1.0, busy[victim] + total)) * 0.8
        return float(np.exp(0.2 + form + self.suffers[victim] * (1 if mps == "disabled" else 0.5)))

    def measure(
        self,
        models: Sequence[str],
        mps: str,
        execution: str,
        *,
        at: str = "2026-01-01T00:00:00+00:00",
        probed: bool = True,
    ) -> None:
        """One run; ``probed``: with the busy time of each tenant."""
        names = [f"t{place}" for place in range(len(models))]
        alone = {name: self.alone_ms(model, execution, mps) for name, model in zip(names, models, strict=True)}
        together = {}
        for place, name in enumerate(names):
            others = [other for at_, other in enumerate(models) if at_ != place]
            noise = float(np.exp(self.rng.normal(0, self.noise)))
            together[name] = alone[name] * self.slowdown(models[place], others, execution, mps) * noise
        samples, blocks = run(alone, together, rounds=4, noise=0.01)
        record, _ = example(list(models), mix="+".join(models), seed=int(self.rng.integers(2**31)))
        found = summarise_crossover(
            {name: Measured(samples=own) for name, own in samples.items()}, blocks, BlockTelemetry()
        )
        own = {name: dict(metrics) for name, metrics in found.tenants.items()}
        if probed:
            for name, model in zip(names, models, strict=True):
                own[name]["launch_bound_pct"] = 0.0 if execution == "cuda_graph" else 100 * (1 - BUSY[model])
        spec = {
            **record.spec,
            "measure": {**record.spec["measure"], "design": "crossover"},
            "sharing": {
                **record.spec["sharing"],
                "mps": mps,
                "mps_mode": "disabled" if mps == "disabled" else "managed",
            },
            "tenants": [{**tenant, "execution": execution} for tenant in record.spec["tenants"]],
        }
        window = real_window(samples)
        assert window is not None
        folder = self.folder / uuid.UUID(int=int(self.rng.integers(2**63))).hex
        save(
            replace(
                record,
                spec=spec,
                started_at=at,
                blocks=tuple(blocks),
                window={"t0_ns": window.t0_ns, "t1_ns": window.t1_ns},
                metrics=found.metrics,
                tenants=tuple(replace(tenant, metrics=own[tenant.id]) for tenant in record.tenants),
            ),
            folder,
            samples,
        )

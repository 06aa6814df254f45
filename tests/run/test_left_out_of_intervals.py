"""What the intervals of a crossover run leave out is said: the price of MPS, and what fresh processes change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mtexp.config import compose_spec
from mtexp.host import Device
from mtexp.metrics.summary import RunSummary
from mtexp.running.crossover_figures import block_findings

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)


@pytest.mark.parametrize(("mode", "said"), [("default", True), ("disabled", False)])
def test_the_price_of_mps_is_said_not_to_be_in_the_slowdown(mode: str, said: bool) -> None:
    spec = compose_spec(["mix=pair", f"mps_settings={mode}"], GPU)
    measured: Any = SimpleNamespace(failure=None, cores=None, blocks=())
    codes = {finding.code for finding in block_findings(spec, measured, RunSummary({"rounds": 12.0}, {}, {}))}
    assert ("alone-in-mode" in codes) == said


@pytest.mark.parametrize(
    ("overrides", "alone_ms", "named"),
    [
        (["execution=cuda_graph"], {"bert_base": 0.85, "llama_3_2_1b": 6.3}, ["bert_base"]),
        (["execution=cuda_graph"], {"bert_base": 2.3, "llama_3_2_1b": 6.3}, []),
        (["execution=cuda_graph", "sharing=streams"], {"bert_base": 0.85, "llama_3_2_1b": 6.3}, []),
        (["execution=eager"], {"bert_base": 0.85, "llama_3_2_1b": 6.3}, []),
    ],
)
def test_a_graph_shorter_than_a_turn_is_said_to_differ_between_processes(
    overrides: list[str], alone_ms: dict[str, float], named: list[str]
) -> None:
    """On H200s the interval of one run held the slowdown of fresh ones in 36 of 48, not in 90 to 99 %."""
    spec = compose_spec(["mix=bert_base+llama_3_2_1b", *overrides], GPU)
    measured: Any = SimpleNamespace(failure=None, cores=None, blocks=())
    tenants = {name: {"slowdown": 2.0, "alone_latency_mean_ms": ms} for name, ms in alone_ms.items()}
    found = [
        f
        for f in block_findings(spec, measured, RunSummary({"rounds": 12.0}, tenants, {}))
        if f.code == "fresh-processes"
    ]
    assert len(found) == bool(named)
    assert all(name in found[0].message for name in named)
    assert not any(name in finding.message for finding in found for name in alone_ms if name not in named)

"""What a reader must know of the intervals of a crossover run: the price of MPS, what fresh processes change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mtexp.config import compose_spec
from mtexp.host import Device
from mtexp.metrics.crossover_summary import BlockTelemetry, summarise_crossover
from mtexp.metrics.fresh_processes import SD
from mtexp.metrics.summary import Measured, RunSummary
from mtexp.running.crossover_figures import Reference, block_figures, block_findings
from tests.metrics.test_crossover_summary import run

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)


@pytest.mark.parametrize(("mode", "said"), [("default", True), ("disabled", False)])
def test_the_price_of_mps_is_said_not_to_be_in_the_slowdown(mode: str, said: bool) -> None:
    spec = compose_spec(["mix=pair", f"mps_settings={mode}"], GPU)
    measured: Any = SimpleNamespace(failure=None, cores=None, blocks=())
    codes = {finding.code for finding in block_findings(spec, measured, RunSummary({"rounds": 12.0}, {}, {}))}
    assert ("alone-in-mode" in codes) == said


@pytest.mark.parametrize(
    ("overrides", "bert_ms", "concerned"),
    [
        (["execution=cuda_graph"], 0.85, "of all tenants include"),
        (["execution=cuda_graph", "mps_settings=default"], 0.85, "of bert_base include"),
        (["execution=cuda_graph"], 2.3, ""),
        (["execution=eager"], 0.85, ""),
    ],
)
def test_what_differs_between_fresh_processes_is_said(overrides: list[str], bert_ms: float, concerned: str) -> None:
    """It names the short graph, and whose intervals have it."""
    spec = compose_spec(["mix=bert_base+llama_3_2_1b", *overrides], GPU)
    measured: Any = SimpleNamespace(failure=None, cores=None, blocks=())
    alone_ms = {"bert_base": bert_ms, "llama_3_2_1b": 6.3}
    tenants = {name: {"slowdown": 2.0, "alone_latency_mean_ms": ms} for name, ms in alone_ms.items()}
    every = block_findings(spec, measured, RunSummary({"rounds": 12.0}, tenants, {}))
    found = [finding.message for finding in every if finding.code == "fresh-processes"]
    assert len(found) == bool(concerned)
    assert all("graph of bert_base takes" in message and concerned in message for message in found)


@pytest.mark.parametrize(("mode", "widened"), [("disabled", {"bert_base", "llama_3_2_1b"}), ("default", {"bert_base"})])
def test_intervals_have_what_differs_between_fresh_processes(tmp_path: Path, mode: str, widened: set[str]) -> None:
    """Of the run itself, and against a mode measured side by side with it."""
    overrides = ["mix=bert_base+llama_3_2_1b", "execution=cuda_graph", f"mps_settings={mode}"]
    spec = compose_spec(overrides, GPU)
    alone_ms, together_ms = {"bert_base": 0.85, "llama_3_2_1b": 6.3}, {"bert_base": 3.0, "llama_3_2_1b": 10.0}
    samples, blocks = run(alone_ms, together_ms, noise=0.01)
    tenants = {name: Measured(samples=own) for name, own in samples.items()}
    measured: Any = SimpleNamespace(samples=samples, blocks=blocks)
    found = block_figures(spec, measured, tenants, tmp_path, Reference(spec, measured))
    by_rounds = summarise_crossover(tenants, blocks, BlockTelemetry())
    for name, figures in found.tenants.items():
        for key in ("slowdown", "normalized_progress", "latency_mean_ms"):
            wider = width(figures, key) > 1.05 * width(by_rounds.tenants[name], key)
            assert wider == (name in widened), (name, key)
        assert (width(figures, "latency_ratio") > 3.9 * SD) == (name in widened)
    assert found.metrics["half_width_pct"] == by_rounds.metrics["half_width_pct"]


def width(figures: Mapping[str, float], key: str) -> float:
    return figures[f"{key}_ci_high"] - figures[f"{key}_ci_low"]

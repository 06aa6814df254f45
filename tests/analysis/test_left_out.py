"""Runs and points that enter no figure: wrong outputs of an older mtexp, and what sharing cannot give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from analysis_study import Study

from analysis import markdown, tables
from analysis.data import DataError, load
from analysis.findings import findings
from analysis.pooling import pool
from mtexp.metrics.finding import Finding
from mtexp.spec import MpsLimits, TenantSpec

PAIR = ["bert_base", "distilgpt2"]


def test_a_run_at_a_share_that_computes_wrong_is_invalid_whatever_its_record_says(tmp_path: Path) -> None:
    """75 % of an H200 under this stack; the reason names the share and what is right, and no figure has the run."""
    study = Study(tmp_path, iterations=20)
    study.run(PAIR)
    study.run(PAIR, "75pct", limits=MpsLimits(active_thread_pct=75))
    study.run(PAIR, "quarter")
    data = load(records=tmp_path)
    assert data.runs["mps_settings"].tolist() == ["disabled", "quarter"]
    (reason,) = data.invalid["verdict_reasons"]
    assert "wrong-output" in reason
    assert "75 %" in reason
    assert "25 %" not in reason.partition("Right are")[0]
    results = pool(data, draws=50)
    assert set(results.points["sharing"]) == {"time slicing", "MPS 25 %"}
    table = tables.verdicts(results)
    assert table.loc[table["verdict"] == "INVALID", "sharing"].tolist() == ["MPS 75 %"]


@pytest.mark.parametrize(
    "environment", [{"torch_version": "2.9.0"}, {"cuda_version": "12.8"}, {"gpu_name": "NVIDIA A100"}]
)
def test_another_stack_or_gpu_is_not_marked(tmp_path: Path, environment: dict[str, str]) -> None:
    """Nobody measured it: its verdict stays."""
    Study(tmp_path, iterations=20, **environment).run(PAIR, "75pct", limits=MpsLimits(active_thread_pct=75))
    assert load(records=tmp_path).runs["verdict"].tolist() == ["VALID"]


def test_a_mark_keeps_the_reasons_that_were_there(tmp_path: Path) -> None:
    """A run that was INVALID for something else as well says both."""
    study = Study(tmp_path, iterations=20)
    found = Finding("invalid", "overlap", "the tenants were all at work for 80 % of the window")
    study.run(PAIR, "75pct", limits=MpsLimits(active_thread_pct=75), verdict="INVALID", findings=(found,))
    with pytest.raises(DataError, match="no run is VALID"):
        load(records=tmp_path)
    (reasons,) = load(records=tmp_path, include_invalid=True).runs["verdict_reasons"]
    assert "wrong-output" in reasons
    assert "80 % of the window" in reasons


class Faster(Study):
    """Under MPS tenants take half the time that they take alone."""

    @staticmethod
    def _latency_ms(spec: TenantSpec, specs: Any, mps: str) -> float:
        alone_ms = Study._latency_ms(spec, [spec], mps)
        return alone_ms / 2 if mps == "default" and len(specs) > 1 else Study._latency_ms(spec, specs, mps)


def test_an_impossible_point_is_in_no_ranking_average_or_claim(tmp_path: Path) -> None:
    """It is in a table of its own, with its STP and the reason, and the findings speak of the others only."""
    study = Faster(tmp_path, iterations=30)
    for mps in ("disabled", "default", "quarter"):
        study.run(PAIR, mps, repetitions=3)
    results = pool(load(records=tmp_path), draws=2000)
    apart = tables.impossible(results)
    assert apart["sharing"].tolist() == ["MPS"]
    assert apart["stp"].iloc[0] == pytest.approx(4, rel=0.05)
    assert "more STP" in apart["reason"].iloc[0]
    assert set(tables.combinations(results)["sharing"]) == {"time slicing", "MPS 25 %"}
    for table in (tables.overview(results), tables.tenants(results), tables.pairs(results), tables.fairness(results)):
        assert "MPS" not in set(table["sharing"])
    said = " ".join(answer.text for answer in findings(results))
    assert "under MPS" not in said.replace("under MPS 25 %", "")
    assert "## Impossible" in markdown.page(results, title="t")


def test_noise_at_the_limit_is_not_impossible(tmp_path: Path) -> None:
    """Six studies of tenants that do not disturb each other, runs that differ by 10 %: no point is lost."""

    class Undisturbed(Study):
        @staticmethod
        def _latency_ms(spec: TenantSpec, specs: Any, mps: str) -> float:
            return Study._latency_ms(spec, [spec], mps)

    lost = 0
    for seed in range(6):
        study = Undisturbed(tmp_path / str(seed), iterations=20, spread=0.1, seed=seed)
        study.run(["bert_base"], repetitions=2)
        study.run(["distilgpt2"], repetitions=2)
        for mps in ("disabled", "default"):
            study.run(PAIR, mps, repetitions=2)
        lost += len(pool(load(records=tmp_path / str(seed)), draws=4000).impossible)
    assert lost == 0

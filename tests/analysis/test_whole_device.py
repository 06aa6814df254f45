"""Sharing modes are compared against the whole device: what a mode itself costs is in the headline, or said to be
missing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import markdown, report, tables
from analysis.answers import gains
from analysis.data import load
from analysis.dataset import Dataset
from analysis.findings import findings
from analysis.pooling import pool
from analysis.summary import summary
from tests.analysis.crossover_study import CrossoverStudy


@pytest.fixture(scope="module")
def in_turns(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A pair in rounds under both modes: between neighbours MPS gets more done."""
    folder: Path = tmp_path_factory.mktemp("in-turns")
    study = CrossoverStudy(folder)
    for mps in ("disabled", "default"):
        study.measure(["bert_base", "llama_3_2_1b"], mps, "cuda_graph")
    return load(records=folder)


def side_by_side(data: Dataset, stp_whole: float, ratio: float) -> Dataset:
    """The same as if both modes had been measured side by side, each figure known to 1 %."""
    mps = data.runs["mps_settings"] == "default"
    figures = {"stp_whole": stp_whole, "antt_whole": 2 / stp_whole, "stp_whole_ratio": ratio}
    runs, tenants = data.runs.copy(), data.tenants.copy()
    for frame, own in ((runs, figures), (tenants, {"slowdown_whole": 2 / stp_whole, "mode_cost": 1.3})):
        rows = frame["record_id"].isin(runs.loc[mps, "record_id"])
        for name, value in own.items():
            for end, factor in (("", 1), ("_ci_low", 0.99), ("_ci_high", 1.01)):
                frame[name + end] = np.where(rows, value * factor, np.nan)
    return replace(data, runs=runs, tenants=tenants)


def test_what_the_mode_costs_decides_the_headline(in_turns: Dataset) -> None:
    """MPS wins between neighbours, and loses once what it costs alone is counted: the advice is against it."""
    results = pool(side_by_side(in_turns, 1.02, 0.9), draws=400)
    assert gains(results, "MPS")[0][0][1].value == pytest.approx(0.9)
    first = summary(results)
    assert first.advice.startswith("Do not share with MPS: it gets only 0.90 [0.89, 0.91]")
    assert first.tiles[0].value == "×0.90"
    (answer,) = [a for a in findings(results) if a.question == "Is MPS efficient?"]
    assert "alone under MPS a request takes 1.30 [1.29, 1.31] times as long" in answer.text


def test_combinations_are_ranked_on_the_whole_device(in_turns: Dataset) -> None:
    """Their STP and the slowdown of who is worst off have what the mode costs in them."""
    found = tables.combinations(pool(side_by_side(in_turns, 1.02, 0.9), draws=400)).set_index("sharing")
    assert found.loc["MPS", "stp"] == pytest.approx(1.02)
    assert found.loc["MPS", "worst_slowdown"] == pytest.approx(2 / 1.02)


def test_runs_side_by_side_are_named_by_what_tells_them_apart(in_turns: Dataset) -> None:
    """Replicas with and without shared weights, green contexts of two sizes: the mode alone would name them alike."""
    run, own = in_turns.runs.head(1), in_turns.tenants[in_turns.tenants["record_id"] == in_turns.runs["record_id"][0]]
    runs, tenants = [], []
    for record, mode, weights, sizes in (
        ("first", "processes", "", (None, None)),
        ("shared", "processes", "shared", (None, None)),
        ("even", "green_contexts", "", (64, 64)),
        ("uneven", "green_contexts", "", (96, 32)),
    ):
        runs.append(run.assign(record_id=record, sharing=mode, mps_settings="disabled", session="s"))
        tenants.append(own.assign(record_id=record, weights=weights, partition_sms=pd.array(sizes, dtype="Int64")))
    compared = pd.concat(runs, ignore_index=True)
    compared["session_reference"] = [None, "first", "first", "first"]
    data = replace(in_turns, runs=compared, tenants=pd.concat(tenants, ignore_index=True))
    frame = tables.side_by_side(replace(pool(in_turns, draws=100), data=data))
    assert frame["sharing"].tolist()[::2] == [
        "time slicing, shared weights",
        "green contexts, 64 SMs",
        "green contexts, 96+32 SMs",
    ]
    assert set(frame["against"]) == {"time slicing"}


def test_one_axis_has_modes_side_by_side_on_the_whole_device(tmp_path: Path) -> None:
    """Its slowdown has what the mode costs in it; without a p99, for that of the mode compares with alone under it."""
    study = CrossoverStudy(tmp_path)
    for mps in ("disabled", "default", "half"):
        study.measure(["bert_base", "llama_3_2_1b"], mps, "cuda_graph")
    data = side_by_side(load(records=tmp_path), 1.02, 0.9)
    tenants = data.tenants.assign(slowdown_p99=1.5, latency_ratio=data.tenants["slowdown_whole"])
    found = tables.one_axis(pool(replace(data, tenants=tenants), draws=400)).set_index(["sharing", "model"])
    assert found.loc["MPS", "slowdown"].tolist() == pytest.approx([2 / 1.02] * 2)
    assert found.loc["time slicing", "slowdown"].tolist() != pytest.approx([2 / 1.02] * 2)
    assert found["slowdown_p99"].notna().sum() == 0


def test_what_is_not_known_of_the_mode_is_said(in_turns: Dataset) -> None:
    """Runs in turns of one mode each compare with alone under it: the headline says what it leaves out."""
    results = pool(in_turns, draws=400)
    assert not gains(results, "MPS")[1]
    assert "without what the mode itself costs" in summary(results).advice


def test_the_advice_names_its_price(in_turns: Dataset) -> None:
    """Fairness beside that of time slicing, and who is slowed most; against what, where two references are known."""
    said = summary(pool(side_by_side(in_turns, 1.5, 1.2), draws=400)).advice
    assert said.startswith("Share with MPS: it gets 1.20 ")
    price = said.partition(" The price: ")[2]
    assert re.match(
        r"its fairness is 0\.\d\d \[.*\], that of time slicing 0\.\d\d \[.*\] \(1 = all slowed alike\); ", price
    )
    assert re.search(
        r"slowed most is \w+ in bert_base\+llama_3_2_1b, 1\.33 \[.*\] times against alone without MPS\.", price
    )
    plain = summary(pool(in_turns, draws=400)).advice
    assert plain.endswith("times against alone.")


def test_a_page_with_two_references_says_which_table_has_which(in_turns: Dataset) -> None:
    """Alone under the mode, or alone without it: only where the runs know both."""
    both, one = pool(side_by_side(in_turns, 1.5, 1.2), draws=400), pool(in_turns, draws=400)
    said, plain = markdown.page(both, title="t"), markdown.page(one, title="t")
    under = "against alone under MPS"
    for text in ("STP, ANTT and fairness here compare with alone under the same sharing mode", under):
        assert text in said
        assert text not in plain
    assert "alone under the same sharing mode" in report.build(both, {}).partition("<nav")[0]
    assert "alone under the same sharing mode" not in report.build(one, {})


def test_a_legend_explains_the_columns_that_are_there(in_turns: Dataset) -> None:
    """By the names that they have on the page."""
    results = pool(in_turns, draws=400)
    page, html = markdown.page(results, title="t"), report.build(results, {})
    for absent in ("Spread", "apped", "Open symbols"):
        assert absent not in page
        assert absent not in html
    capped = replace(results, points=results.points.assign(gpu_throttled_power_cap_s=0.1))
    assert "Capped %: share of the window" in markdown.page(capped, title="t")
    assert "Power-capped (%): share of the window" in report.build(capped, {})

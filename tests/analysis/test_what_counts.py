"""What counts how much: mixes in the ratio of the clocks, settings that are one, energy, what the timer hides."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from analysis_study import Study

from analysis import tables
from analysis.data import load
from analysis.findings import findings
from analysis.pooling import pool


def timer_ratio(folder: Path) -> float:
    """The ratio of the two clocks under time slicing, as the findings have it."""
    answers = findings(pool(load(records=folder), draws=400))
    (answer,) = (a for a in answers if a.question == "Is the CUDA-event timer right?" and "time slicing" in a.text)
    assert answer.interval is not None
    return answer.interval.value


def test_a_mix_of_many_tenants_counts_once_in_the_ratio_of_the_clocks(tmp_path: Path) -> None:
    """Eight tenants whose timer misses a factor of eight, and a pair whose timer misses two: the mean is four."""
    study = Study(tmp_path, iterations=30)
    study.run(["bert_base"] * 2)
    study.run(["bert_base"] * 8)
    assert timer_ratio(tmp_path) == pytest.approx(np.sqrt(2 * 8), rel=0.1)  # by tenants: (2**2 * 8**8) ** 0.1 = 6.1


def test_pairs_are_said_beside_larger_mixes(tmp_path: Path) -> None:
    """How far the clocks lie apart depends on the number of tenants."""
    study = Study(tmp_path, iterations=30)
    study.run(["bert_base"] * 2)
    study.run(["bert_base"] * 8)
    (text,) = (a.text for a in findings(pool(load(records=tmp_path), draws=400)) if "event timer misses" in a.text)
    found = re.search(r"in pairs alone the ratio is (\d\.\d+)", text)
    assert found is not None
    assert float(found[1]) == pytest.approx(2, rel=0.05)


def test_half_for_each_of_two_is_an_equal_share(tmp_path: Path) -> None:
    """One point where both were measured; of three tenants half is no equal share, and alone it keeps its name."""
    both, alone = tmp_path / "both", tmp_path / "alone"
    study = Study(both, iterations=20)
    for models in (["bert_base"] * 2, ["bert_base"] * 3):
        for mps in ("half", "equal_share"):
            study.run(models, mps)
    points = pool(load(records=both), draws=50).points
    counted = {(p["num_tenants"], p["sharing"]): p["repetitions"] for p in points.to_dict("records")}
    assert {key: n for key, n in counted.items() if key[0] == 3} == {(3, "MPS 50 %"): 1, (3, "MPS equal share"): 1}
    assert {key[1] for key in counted if key[0] == 2} == {"MPS equal share"}
    Study(alone, iterations=20).run(["bert_base"] * 2, "half")
    assert pool(load(records=alone), draws=50).points["sharing"].tolist() == ["MPS 50 %"]


def test_the_interval_of_energy_knows_how_far_the_counter_is_off(tmp_path: Path) -> None:
    """A counter that says 0.87 of the sampled power is uncertain by that, though time repeats to a percent."""
    halves = []
    for name, power_w in (("right", 500.0), ("short", 500.0 / 0.87)):
        study = Study(tmp_path / name, iterations=60)
        study.run(["bert_base"] * 2, repetitions=3, telemetry={"gpu_power_w_mean": power_w})
        row = pool(load(records=tmp_path / name), draws=2000).points.iloc[0]
        halves.append(np.log(row["energy_j_per_request_ci_high"] / row["energy_j_per_request_ci_low"]) / 2)
    assert halves[0] < 0.05
    assert halves[1] == pytest.approx(1.96 * -np.log(0.87), rel=0.15)


def test_energy_without_sampled_power_has_no_interval(tmp_path: Path) -> None:
    """How far the counter is off is not known: a figure and no ends."""
    Study(tmp_path, iterations=30).run(["bert_base"] * 2)
    row = pool(load(records=tmp_path), draws=200).points.iloc[0]
    assert row["energy_j_per_request"] > 0
    assert np.isnan(row["energy_j_per_request_ci_low"])
    assert np.isnan(row["energy_j_per_request_ci_high"])


def test_what_the_timer_hides_is_never_negative(tmp_path: Path) -> None:
    """Runs that differ by a factor, and an event span of 98 % of latency: 2 % are hidden, of means of one kind."""
    study = Study(tmp_path / "mps", iterations=30, spread=0.3, seed=3)
    study.run(["bert_base", "distilgpt2"], "default", repetitions=5)
    hidden = tables.event_timer(pool(load(records=tmp_path / "mps"), draws=200))["hidden_pct"]
    assert hidden.to_numpy() == pytest.approx([2, 2], abs=0.1)
    study = Study(tmp_path / "turns", iterations=30)
    study.run(["bert_base", "bert_base"])
    hidden = tables.event_timer(pool(load(records=tmp_path / "turns"), draws=200))["hidden_pct"]
    assert hidden.to_numpy() == pytest.approx([51, 51], abs=2)  # 0.98 of half of the latency is seen

"""Points, tables and findings of a study whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_study import Study
from hypothesis import given
from hypothesis import strategies as st

from analysis import tables
from analysis.data import load
from analysis.findings import findings, paragraph
from analysis.intervals import differs, geometric_mean, ratio, text
from analysis.pooling import Results, interval_of, pool, sharing_name
from mtexp.metrics.bootstrap import Interval

INTERVALS = st.builds(
    lambda low, below, above: Interval(low + below, low, low + below + above),
    st.floats(0.1, 10),
    st.floats(0, 1),
    st.floats(0, 1),
)


@given(INTERVALS, INTERVALS)
def test_a_ratio_turned_round_is_its_inverse(first: Interval, second: Interval) -> None:
    """a/b and b/a say the same."""
    forth, back = ratio(first, second), ratio(second, first)
    assert np.allclose([forth.value, forth.low, forth.high], [1 / back.value, 1 / back.high, 1 / back.low])
    assert forth.low <= forth.value <= forth.high


@given(st.lists(INTERVALS, min_size=1, max_size=5))
def test_a_mean_lies_among_its_figures(figures: list[Interval]) -> None:
    """A geometric mean lies between the least and the most, and its interval round it."""
    mean = geometric_mean(figures)
    assert min(f.value for f in figures) * 0.999 <= mean.value <= max(f.value for f in figures) * 1.001
    assert mean.low <= mean.value * 1.001
    assert mean.high >= mean.value * 0.999


def test_no_figure_has_no_mean() -> None:
    """An average of nothing is refused, not invented."""
    with pytest.raises(ValueError, match="at least one"):
        geometric_mean([])


def test_a_difference_needs_an_interval_beside_one() -> None:
    """Claimed only when 1 is out; and text never shows an end at 1 that is not."""
    assert not differs(Interval(1.1, 0.99, 1.2))
    assert differs(Interval(1.1, 1.01, 1.2))
    assert text(Interval(1.02, 1.004, 1.04)) == "1.020 [1.004, 1.040]"
    assert text(Interval(2.0, 1.5, 2.5)) == "2.00 [1.50, 2.50]"


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ({"runtime": "gpu", "sharing": "processes", "mps_settings": "disabled"}, "time slicing"),
        ({"runtime": "gpu", "sharing": "processes", "mps_settings": "default"}, "MPS"),
        ({"runtime": "gpu", "sharing": "processes", "mps_settings": "75pct"}, "MPS 75 %"),
        ({"runtime": "gpu", "sharing": "streams", "mps_settings": "disabled"}, "streams"),
        ({"runtime": "gpu", "sharing": "mig", "mps_settings": "disabled"}, "MIG"),
        ({"runtime": "cpu", "sharing": "processes", "mps_settings": "default"}, "CPU (default)"),
    ],
)
def test_sharing_modes_have_names(run: dict[str, str], name: str) -> None:
    """What a CPU does is never called MPS or time slicing."""
    assert sharing_name(run) == name


def test_repetitions_are_one_point(results: Results) -> None:
    """The mix that was run three times is one row, with an interval over the three."""
    mixed = results.points[results.points["mix"] == "mixed"]
    assert mixed["repetitions"].tolist() == [3, 3]
    figure = interval_of(mixed.iloc[0], "stp")
    assert figure is not None
    assert figure.low < figure.value < figure.high
    assert (results.tenants.loc[results.tenants["point"].isin(mixed["point"]), "spread_pct"] > 0).all()


def test_the_same_tenants_under_two_names_are_one_point(tmp_path: Path) -> None:
    """What was measured counts, not what it was called nor in which order its tenants were written."""
    study = Study(tmp_path, iterations=20)
    study.run(["bert_base", "distilgpt2"], mix="pair")
    study.run(["distilgpt2", "bert_base"], mix="other")
    points = pool(load(records=tmp_path), draws=50).points
    assert points["repetitions"].tolist() == [2]


def test_the_matrix_has_the_known_slowdowns(results: Results) -> None:
    """Row pays, column costs: under time slicing each adds the shorter of the two requests, under MPS 30 %."""
    turns, mps = (tables.matrix(results, sharing) for sharing in ("time slicing", "MPS"))
    assert turns.loc["bert_base", "llama_3_2_1b"] == pytest.approx(2.0, abs=0.1)
    assert turns.loc["llama_3_2_1b", "bert_base"] == pytest.approx(1 + 3.5 / 9, abs=0.1)
    assert turns.loc["bert_base", "bert_base"] == pytest.approx(2.0, abs=0.1)
    assert np.allclose(mps, 1.3, atol=0.1)
    assert turns.shape == mps.shape == (4, 4)


def test_stressors_and_other_work_stay_out_of_the_matrix(results: Results) -> None:
    """They have tables of their own."""
    found = tables.matrix_pairs(results)
    assert not found["neighbour"].str.contains("stress|decode|generate").any()
    assert set(tables.sensitivity(results)["neighbour"]) == {"stress_sm"}


def test_scaling_starts_at_one_tenant(results: Results) -> None:
    """One tenant is there as measured, or as 1 by definition where only the baseline was."""
    frame = tables.scaling(results)
    bert = frame[(frame["label"] == "bert_base") & (frame["sharing"] == "MPS")]
    assert bert["num_tenants"].tolist() == [1, 2, 4]
    other = frame[(frame["label"] == "distilgpt2") & (frame["num_tenants"] == 1)]
    assert (other["stp"] == 1).all()
    assert other["stp_ci_low"].isna().all()


def test_percentiles_without_enough_iterations_are_absent(results: Results) -> None:
    """A p99 of 120 iterations is not shown."""
    frame = tables.tenants(results)
    few = frame["iterations_fewest"] < 662
    assert frame.loc[few, "latency_p99_ms"].isna().all()
    assert frame.loc[~few, "latency_p99_ms"].notna().all()


def test_the_timer_hides_the_wait_under_time_slicing_only(results: Results) -> None:
    """The table has the known answer: nothing of the slowdown is seen under time slicing, all of it under MPS."""
    frame = tables.event_timer(results)
    frame = frame[frame["mix"] == "mixed"]
    turns, mps = frame[frame["sharing"] == "time slicing"], frame[frame["sharing"] == "MPS"]
    assert np.allclose(turns["timer_slowdown"], 1, atol=0.1)
    assert (turns["slowdown"] > 2).all()
    assert np.allclose(mps["timer_slowdown"], mps["slowdown"], rtol=0.05)


def test_runs_without_baselines_are_named(tmp_path: Path) -> None:
    """They have no slowdown, and the table says which they are."""
    study = Study(tmp_path, iterations=20)
    study.run(["bert_base", "distilgpt2"])
    study.run(["bert_base", "bert_base"], baseline=False)
    results = pool(load(records=tmp_path), draws=50)
    assert tables.without_baseline(results)["mix"].tolist() == ["bert_base+bert_base"]
    assert tables.pairs(results)["mix"].unique().tolist() == ["bert_base+distilgpt2"]


def by_question(results: Results) -> dict[str, str]:
    found: dict[str, str] = {}
    for answer in findings(results):
        found[answer.question] = f"{found.get(answer.question, '')} {answer.text}".strip()
    return found


def test_findings_have_the_known_answers(results: Results) -> None:
    """MPS wins, is fairer, and the timer is wrong under time slicing only; each with an interval."""
    said = by_question(results)
    assert "MPS gets more done than time slicing" in said["Is MPS efficient?"]
    assert "fairer than time slicing" in said["Is MPS fair?"]
    assert "Under time slicing the event timer misses part" in said["Is the CUDA-event timer right?"]
    assert "Under MPS the event timer and the host clock agree" in said["Is the CUDA-event timer right?"]
    assert "bert_base under MPS gets more done with 4 tenants" in said["Does the number of processes matter?"]
    assert all("[" in answer.text for answer in findings(results) if answer.claimed)


def test_nothing_is_claimed_when_the_interval_crosses_one(tmp_path: Path) -> None:
    """Two sharing modes that do the same are said not to differ."""
    study = Study(tmp_path, iterations=40)
    study.run(["bert_base", "deberta_v3_base"], repetitions=2)
    study._latency_ms = lambda spec, specs, mps: Study._latency_ms(spec, specs, "disabled")  # type: ignore[method-assign]
    study.run(["bert_base", "deberta_v3_base"], "default", repetitions=2)
    results = pool(load(records=tmp_path), draws=300)
    answer = next(a for a in findings(results) if a.question == "Is MPS efficient?")
    assert not answer.claimed
    assert "do not differ in STP" in answer.text
    assert answer.text not in paragraph(findings(results))


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    """Each question without data says what it needs and how to get it."""
    Study(tmp_path, iterations=20).run(["bert_base"])
    missing = [a for a in findings(pool(load(records=tmp_path), draws=50)) if a.text.startswith("Not measured")]
    assert len(missing) == 6
    assert all("python run.py" in answer.text for answer in missing)


def test_load_curves_count_from_arrival(results: Results) -> None:
    """Open-loop tenants have a rate, and more of it means more latency."""
    frame = tables.load_curve(results)
    for _, line in frame.groupby("sharing"):
        assert line["offered_rps"].is_monotonic_increasing
        assert line["latency_mean_ms"].is_monotonic_increasing
    assert isinstance(frame, pd.DataFrame)

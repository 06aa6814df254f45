"""Points, tables and findings of a study whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis_study import Study

from analysis import markdown, tables
from analysis.data import load
from analysis.dataset import Dataset
from analysis.findings import findings, paragraph
from analysis.intervals import text
from analysis.pooling import Results, pool, sharing_name
from mtexp.metrics.bootstrap import Interval
from mtexp.metrics.samples import Samples
from mtexp.records.record import save
from mtexp.spec import MpsLimits, TenantSpec


def test_no_end_of_an_interval_is_rounded_to_one() -> None:
    """A reader takes 1 for no difference."""
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
        ({"sharing": "processes", "mps_settings": "default", "overlap": "fixed"}, "MPS, fixed"),
    ],
)
def test_sharing_modes_have_names(run: dict[str, str], name: str) -> None:
    """What a CPU does is never called MPS or time slicing."""
    assert sharing_name(run) == name


def test_repetitions_are_one_point(results: Results) -> None:
    """The mix that was run three times is one row, with an interval over the three."""
    mixed = results.points[results.points["mix"] == "mixed"]
    assert mixed["repetitions"].tolist() == [3, 3]
    figure = results.figure(mixed.iloc[0].to_dict(), "stp")
    assert figure is not None
    assert figure.interval.low < figure.value < figure.interval.high
    assert (results.tenants.loc[results.tenants["point"].isin(mixed["point"]), "spread_pct"] > 0).all()


def test_the_same_tenants_under_two_names_are_one_point(tmp_path: Path) -> None:
    """What was measured counts, not what it was called nor in which order its tenants were written."""
    study = Study(tmp_path, iterations=20)
    study.run(["bert_base", "distilgpt2"], mix="pair")
    study.run(["distilgpt2", "bert_base"], mix="other")
    points = pool(load(records=tmp_path), draws=50).points
    assert points["repetitions"].tolist() == [2]


@pytest.mark.parametrize(
    ("other", "label"),
    [
        ({"new_tokens": 256}, "llama_3_2_1b 256 new tokens"),
        ({"limits": MpsLimits(priority=1)}, "llama_3_2_1b priority 1"),
        ({"limits": MpsLimits(pinned_memory_limit="4G")}, "llama_3_2_1b limit 4G"),
        ({"limits": MpsLimits(active_thread_pct=10)}, "llama_3_2_1b 10 % of SMs"),
        ({"overlap": "fixed"}, "llama_3_2_1b"),
    ],
)
def test_different_requests_and_limits_are_different_points(tmp_path: Path, other: dict[str, Any], label: str) -> None:
    """They are no repetitions of each other, and tables tell them apart by label or sharing."""
    study = Study(tmp_path, iterations=20)
    study.run(["llama_3_2_1b", "bert_base"], "default", workload="generate", repetitions=2)
    study.run(["llama_3_2_1b", "bert_base"], "default", workload="generate", **other)
    found = pool(load(records=tmp_path), draws=50)
    assert found.points["repetitions"].tolist() == [2, 1]
    assert label in found.points["labels"].iloc[1]
    assert len({(point["labels"], point["sharing"]) for point in found.points.to_dict("records")}) == 2


def test_records_of_an_older_mtexp_are_repetitions_too(study: Dataset) -> None:
    """They lack parameters that came later: what they do not say is what the others usually have."""
    tenants = study.tenants.assign(parameters=100)
    first = study.runs["record_id"][study.runs["mix"] == "mixed"].iloc[0]
    tenants["parameters"] = tenants["parameters"].where(tenants["record_id"] != first)
    points = pool(replace(study, tenants=tenants), draws=50).points
    assert points.loc[points["mix"] == "mixed", "repetitions"].tolist() == [3, 3]


def test_open_loop_does_not_scale(tmp_path: Path) -> None:
    """What tenants in open loop get done is what was asked of them: no STP against their number, no fairness."""
    study = Study(tmp_path, iterations=40)
    for count in (2, 4):
        study.run(["bert_base"] * count, load=0.1)
    found = pool(load(records=tmp_path), draws=50)
    assert tables.scaling(found).empty
    assert tables.fairness(found).empty


def test_a_point_that_could_not_keep_up_once_has_no_latency(tmp_path: Path) -> None:
    """As a single saturated run has none: its queue grew as long as it was measured."""
    study = Study(tmp_path, iterations=200)
    study.run(["bert_base"], load=0.3, repetitions=2)
    good = pool(load(records=tmp_path), draws=50)
    assert tables.tenants(good)["latency_mean_ms"].notna().all()
    (record,) = study.run(["bert_base"], load=0.3)
    (tenant,) = record.tenants
    late = {name: value for name, value in tenant.metrics.items() if not name.startswith(("latency_", "slowdown"))}
    save(replace(record, tenants=(replace(tenant, metrics=late | {"saturated": 1.0}),)), tmp_path / "003", {})
    frame = tables.tenants(pool(load(records=tmp_path), draws=50))
    assert frame["repetitions"].tolist() == [3]
    assert frame["saturated"].tolist() == [1.0]
    assert frame[["latency_mean_ms", "latency_p50_ms", "slowdown"]].isna().all(axis=None)


def test_the_matrix_has_the_known_slowdowns(results: Results) -> None:
    """Row pays, column costs: under time slicing each adds the shorter of the two requests, under MPS 30 %."""
    found = tables.matrix_pairs(results)
    own = (found[found["sharing"] == sharing] for sharing in ("time slicing", "MPS"))
    turns, mps = (rows.pivot(index="victim", columns="neighbour", values="slowdown") for rows in own)
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


def test_scaling_starts_at_a_tenant_that_nobody_slows(tmp_path: Path) -> None:
    """A run of one tenant without a sharing mode has no STP: it is 1, and its throughput as measured."""
    study = Study(tmp_path, iterations=60)
    study.run(["bert_base"], baseline=False)
    study.run(["bert_base"] * 2)
    first, second = tables.scaling(pool(load(records=tmp_path), draws=50)).to_dict("records")
    assert (first["num_tenants"], first["stp"], first["antt"]) == (1, 1, 1)
    assert first["throughput_rps_ci_low"] == first["throughput_rps_ci_low"]
    assert second["stp"] < 1.2


def test_scaling_claims_nothing_of_a_mode_without_a_baseline(tmp_path: Path) -> None:
    """One tenant under MPS may be slowed by it: without a baseline its STP is not known, and is not 1."""
    study = Study(tmp_path, iterations=60)
    study.run(["bert_base"], "default", baseline=False)
    study.run(["bert_base"] * 2, "default")
    first, second = tables.scaling(pool(load(records=tmp_path), draws=50)).to_dict("records")
    assert (first["num_tenants"], second["num_tenants"]) == (1, 2)
    assert np.isnan([first["stp"], first["antt"]]).all()


def test_a_tenant_that_nobody_slows_lacks_nothing(tmp_path: Path) -> None:
    """Alone without a mode: no baseline is asked for, and there is nothing to be fair to."""
    study = Study(tmp_path, iterations=60)
    study.run(["bert_base"], baseline=False)
    study.run(["distilgpt2"])
    study.run(["distilgpt2"], "default", baseline=False)
    data = load(records=tmp_path)
    results = pool(replace(data, runs=data.runs.drop(columns=["stp", "antt", "fairness"])), draws=50)
    assert tables.without_baseline(results)["sharing"].tolist() == ["MPS"]
    assert not {"stp", "fairness"} & set(results.points)


def test_percentiles_without_enough_iterations_are_absent(results: Results) -> None:
    """A p99 of 120 iterations is not shown."""
    frame = tables.tenants(results)
    few = frame["iterations_fewest"] < 662
    assert frame.loc[few, "latency_p99_ms"].isna().all()
    assert frame.loc[~few, "latency_p99_ms"].notna().all()


class Streaky(Study):
    """Tenant ``a`` of a mix gets slower request by request: in one run its tail has no upper end."""

    def _samples(self, spec: TenantSpec, specs: Sequence[TenantSpec], *how: Any) -> Samples:
        samples = super()._samples(spec, specs, *how)
        if spec.id != "a" or len(specs) == 1:
            return samples
        service_ns = np.sort(samples.end_ns - samples.start_ns)
        end_ns = samples.start_ns[0] + np.cumsum(service_ns)
        start_ns = end_ns - service_ns
        return replace(samples, arrival_ns=start_ns, start_ns=start_ns, end_ns=end_ns)


@pytest.mark.parametrize("repetitions", [1, 3])
def test_a_percentile_without_an_upper_end_costs_nobody_else_theirs(tmp_path: Path, repetitions: int) -> None:
    """Every tenant with enough iterations has its p90; one whose runs do not bound it has no interval, until three
    runs give it theirs."""
    Streaky(tmp_path, iterations=100).run(["bert_base", "distilgpt2"], "default", repetitions=repetitions)
    results = pool(load(records=tmp_path), draws=400)
    frame = tables.tenants(results).set_index("model")
    assert frame["slowdown_p90"].notna().all()
    bounded = frame["slowdown_p90_ci_high"].notna()
    assert bounded.to_dict() == {"bert_base": repetitions == 3, "distilgpt2": True}
    assert frame["slowdown_ci_high"].notna().all()


def test_wild_draws_fit_a_float(tmp_path: Path) -> None:
    """A spread that two runs alone vouch for has no bound: its draws make wide intervals, no warning and no NaN."""
    study = Study(tmp_path, iterations=20, spread=0.3, seed=6)
    study.run(["bert_base"] * 2, repetitions=2)
    study.run(["distilgpt2"] * 4)
    results = pool(load(records=tmp_path), draws=20_000)
    known = [figure for (_, _, key), figure in results.figures.items() if key != "energy_j_per_request"]
    assert all(np.isfinite(figure.errors).all() for figure in known)


def test_a_tail_that_was_not_repeated_leaves_the_mean_its_spread(tmp_path: Path) -> None:
    """What was repeated has too few requests for a p90, one run has it: its mean's interval knows of the former."""
    study = Study(tmp_path, iterations=100, spread=0.1)
    study.run(["bert_base", "bert_base"], "default")
    study.iterations = 20
    study.run(["bert_base"], repetitions=6)
    results = pool(load(records=tmp_path), draws=2_000)
    row = results.tenants[results.tenants["slowdown_p90"].notna()].iloc[0]
    assert row["slowdown_ci_high"] / row["slowdown_ci_low"] > 1.2


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


def test_every_run_alone_is_compared_with(tmp_path: Path) -> None:
    """A baseline and runs of that tenant alone under time slicing are one group; under MPS, open loop, INVALID: not."""
    study = Study(tmp_path, iterations=40)
    solo = study.run(["bert_base"], repetitions=2)
    study.run(["bert_base"], "default")
    study.run(["bert_base"], load=0.2)
    study.run(["bert_base"], verdict="INVALID")
    pair = study.run(["bert_base", "distilgpt2"])
    results = pool(load(records=tmp_path), draws=200)
    alone = tables.baselines(results)
    assert alone.set_index("model")["runs"].to_dict() == {"bert_base": 3, "distilgpt2": 1}
    data = results.data
    first = results.tenants[results.tenants["records"] == (pair[0].record_id,)].iloc[0]
    assert {record for record, _ in first["compared"][0]} >= {run.record_id for run in solo}
    rows = results.alone.runs
    logs = np.log(rows.loc[rows["model"] == "bert_base", "latency_mean_ms"].to_numpy(float))
    own = data.tenants[data.tenants["record_id"] == pair[0].record_id].iloc[0]
    assert first["slowdown"] == pytest.approx(own["latency_mean_ms"] / np.exp(logs.mean()))


def test_a_run_alone_is_not_compared_with_itself(tmp_path: Path) -> None:
    """Measured again, a model alone shows how well it repeats; the only run there is stays 1 by definition."""
    study = Study(tmp_path, iterations=40)
    (solo,) = study.run(["bert_base"])
    results = pool(load(records=tmp_path), draws=200)
    (tenant,) = results.tenants.to_dict("records")
    assert solo.record_id not in {record for record, _ in tenant["compared"][0]}
    assert tenant["slowdown"] != 1


def test_the_spread_of_baselines_is_in_every_interval(tmp_path: Path) -> None:
    """Runs alone that differ widen the interval of a mix that was measured once, and of one measured three times."""
    widths = []
    for name, spread in (("steady", 0.0), ("shaky", 0.1)):
        study = Study(tmp_path / name, iterations=40, spread=spread)
        study.run(["bert_base"], repetitions=4)
        study.run(["bert_base", "bert_base"], repetitions=3)
        study.run(["bert_base", "bert_base"], "default")
        points = pool(load(records=tmp_path / name), draws=1000).points
        pairs = points[points["num_tenants"] == 2]
        widths.append((pairs["stp_ci_high"] / pairs["stp_ci_low"]).to_numpy())
    assert (np.log(widths[1]) > 3 * np.log(widths[0])).all()


def test_two_modes_of_one_mix_do_not_pay_for_their_baseline_twice(tmp_path: Path) -> None:
    """Against the same uncertain baseline each STP is uncertain, and which of the two is larger is not."""
    study = Study(tmp_path, iterations=60)
    for mps in ("disabled", "default"):
        study.run(["bert_base", "distilgpt2"], mps, repetitions=3)
    study.spread = 0.2
    study.run(["bert_base"], repetitions=3)
    study.run(["distilgpt2"], repetitions=3)
    results = pool(load(records=tmp_path), draws=1000)
    figures = [results.figure(point, "stp") for point in results.points.to_dict("records") if point["num_tenants"] == 2]
    turns, mps_stp = (figure for figure in figures if figure is not None)
    assert turns.interval.half_width_pct > 10
    assert (mps_stp / turns).interval.half_width_pct < turns.interval.half_width_pct / 2


def test_combinations_say_which_pay(results: Results) -> None:
    """By the lower end of STP, with who is worst off; what surely has more and costs less keeps others off."""
    frame = tables.combinations(results)
    assert frame["stp_ci_low"].is_monotonic_decreasing
    assert set(frame.loc[frame["sharing"] == "MPS", "pays"]) == {"yes"}
    assert (frame.loc[frame["pays"] == "no", "stp"] < 1).all()
    mixed = frame[(frame["mix"] == "mixed") & (frame["sharing"] == "time slicing")].iloc[0]
    slowed = results.tenants[results.tenants["point"] == mixed["point"]]
    assert mixed["worst_slowdown"] == slowed["slowdown"].max()
    ends = frame["stp_ci_low"], frame["worst_slowdown_ci_high"]
    for _, row in frame[~frame["frontier"]].iterrows():
        assert ((ends[0] >= row["stp_ci_low"]) & (ends[1] <= row["worst_slowdown_ci_high"])).sum() > 1
    assert not frame["mix"].str.contains("stress").any()


def test_shares_are_there_for_percentages_only(results: Results) -> None:
    """Tenants of different models under a percentage, each with its neighbour and share in its name."""
    frame = tables.shares(results)
    pairs = ("distilgpt2 beside llama_3_2_1b", "llama_3_2_1b beside distilgpt2")
    assert set(frame["place"]) == {f"{pair}, {share} %" for pair in pairs for share in (25, 50)}


def test_nothing_repeated_is_said(tmp_path: Path, results: Results) -> None:
    """Intervals that do not know how runs differ say so; those that do, do not."""
    Study(tmp_path, iterations=20).run(["bert_base", "distilgpt2"])
    once = pool(load(records=tmp_path), draws=50)
    assert not once.repeated
    assert results.repeated
    assert markdown.ONCE in markdown.page(once, title="t")
    assert markdown.ONCE not in markdown.page(results, title="t")


def by_question(results: Results) -> dict[str, str]:
    found: dict[str, str] = {}
    for answer in findings(results):
        found[answer.question] = f"{found.get(answer.question, '')} {answer.text}".strip()
    return found


def test_findings_have_the_known_answers(results: Results) -> None:
    """MPS wins, is fairer, and the timer is wrong under time slicing only; each with an interval."""
    said = by_question(results)
    assert "surely get more done than taking turns" in said["Which combinations pay?"]
    assert "mixed under MPS" in said["Which combinations pay?"]
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
    assert "do not clearly differ in STP" in answer.text
    assert answer.text not in paragraph(findings(results))


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    """Each question without data says what it needs and how to get it."""
    Study(tmp_path, iterations=20).run(["bert_base"])
    missing = [a for a in findings(pool(load(records=tmp_path), draws=50)) if a.text.startswith("Not measured")]
    assert len(missing) == 9
    assert all("python run.py" in answer.text for answer in missing)


def test_load_curves_count_from_arrival(results: Results) -> None:
    """Open-loop tenants have a rate, and more of it means more latency."""
    frame = tables.load_curve(results)
    for _, line in frame.groupby("sharing"):
        assert line["offered_rps"].is_monotonic_increasing
        assert line["latency_mean_ms"].is_monotonic_increasing
    assert isinstance(frame, pd.DataFrame)

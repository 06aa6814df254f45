"""Packing advice: what a user is told to run, on what it rests, and what was not measured."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from analysis_study import Study

from analysis import advise, forecast
from analysis.advice import MISSES, UNKNOWN, Advice
from analysis.data import load
from analysis.objective import Objective
from analysis.pooling import Results, pool


def test_advice_is_the_fastest_mix_that_keeps_every_level(results: Results) -> None:
    """With room, the mode that serves most; with tight levels, none; with its runs named."""
    models = ["bert_base", "llama_3_2_1b"]
    best = advise.advise(results, models, dict.fromkeys(models, 1000.0)).best
    assert best is not None
    assert best.sharing == "MPS"
    assert all(record in set(results.data.runs["record_id"]) for record in best.records)
    tight = advise.advise(results, models, dict.fromkeys(models, 1.0))
    assert tight.best is None
    assert "misses its level" in str(tight)


def test_advice_leaves_out_modes_that_miss_a_level(results: Results) -> None:
    """A level between what two modes reach decides for the one that keeps it, and says the other misses."""
    models = ["bert_base", "llama_3_2_1b"]
    mixed = advise.advise(results, models, {"bert_base": 100.0, "llama_3_2_1b": 100.0})
    found = {c.sharing: next(level for level in c.levels if level.label == "llama_3_2_1b").latency_ms
           for c in (mixed.best, *mixed.others) if c is not None}  # fmt: skip
    turns, mps = found["time slicing"], found["MPS"]
    assert turns is not None
    assert mps is not None
    assert mps.value < turns.value, "in this study MPS is the gentler one for the slow model"
    between = (mps.high + turns.low) / 2
    advice = advise.advise(results, models, {"bert_base": 100.0, "llama_3_2_1b": between})
    assert advice.best is not None
    assert advice.best.sharing == "MPS"
    assert [c.state for c in advice.others] == [MISSES]


def advice_on(folder: Path, models: str, levels: float, **how: Any) -> Advice:
    names = models.split("+")
    return advise.advise(pool(load(records=folder), draws=1), names, dict.fromkeys(names, levels), **how)


def test_a_mix_that_was_measured_less_is_not_preferred(tmp_path: Path) -> None:
    """All are judged by one percentile; one that a mix cannot support leaves it unjudged, and says what it needs."""
    study = Study(tmp_path, iterations=200)
    study.run(["bert_base", "distilgpt2"])
    study.iterations = 20
    study.run(["bert_base", "distilgpt2"], "default")
    advice = advice_on(tmp_path, "bert_base+distilgpt2", 1000)
    assert advice.best is not None
    assert (advice.best.sharing, advice.percentile) == ("time slicing", 95)
    (other,) = advice.others
    assert (other.sharing, other.state) == ("MPS", UNKNOWN)
    assert other.throughput_rps > advice.best.throughput_rps
    assert "cannot be judged: p95 needs 130 requests, 19 were measured" in str(advice)
    assert "Judged by p95 of latency, the highest that all of them support: p99 needs 662 requests" in str(advice)
    asked = advice_on(tmp_path, "bert_base+distilgpt2", 1000, percentile=99)
    assert asked.best is None
    assert "Judged by p99 of latency." in str(asked)
    assert {other.state for other in asked.others} == {UNKNOWN}


def test_few_requests_are_enough_to_miss_a_level(tmp_path: Path) -> None:
    """Twenty requests bound a p90 from below; without one above nothing is kept, and nothing is claimed."""
    Study(tmp_path, iterations=20).run(["bert_base", "distilgpt2"])
    for level, state in ((1.0, MISSES), (1000.0, UNKNOWN)):
        advice = advice_on(tmp_path, "bert_base+distilgpt2", level)
        assert advice.best is None
        assert [other.state for other in advice.others] == [state]
    assert re.search(r"p90 needs 64 requests, \d\d were measured", str(advice))


def test_only_requests_of_one_kind_are_compared(results: Results) -> None:
    """Open loop serves what was asked for: it is ranked only where closed loop was not measured. Precision and
    execution make another kind too."""
    models, levels = ["bert_base"], {"bert_base": 1000.0}
    advice = advise.advise(results, models, levels)
    assert len(advice.others) == 5, "one, two and four tenants in closed loop, under two modes, less the best"
    other = "bert_base forward (batch 8, sequence 128, fp16, eager, sdpa attention, poisson arrival)"
    assert f"requests of another kind: {other}" in str(advice)
    open_loop = results.points.loc[~results.points["closed"] & (results.points["num_tenants"] == 1), "point"]
    only = replace(results, points=results.points[results.points["point"].isin(open_loop)])
    assert advise.advise(only, models, levels).best is not None
    for column, value in (("precision", "bf16"), ("execution", "cuda_graph")):
        tenants = results.tenants.copy()
        four = results.points.loc[results.points["mix"] == "bert_base*4", "point"].iloc[0]
        tenants.loc[tenants["point"] == four, column] = value
        fewer = advise.advise(replace(results, tenants=tenants), models, levels)
        assert len(fewer.others) == len(advice.others) - 1
        assert value in fewer.unmeasured[-1]


def test_a_level_that_is_kept_but_not_surely_says_by_how_much(results: Results) -> None:
    """Within as measured, but not with its whole interval: the figure and its interval are there to see."""
    models = ["bert_base", "llama_3_2_1b"]
    wide = advise.advise(results, models, dict.fromkeys(models, 1000.0))
    assert wide.best is not None
    level = next(level for level in wide.best.levels if level.label == "llama_3_2_1b")
    assert level.latency_ms is not None
    at = level.latency_ms
    tight = {"bert_base": 1000.0, "llama_3_2_1b": (at.value + at.high) / 2}
    said = str(advise.advise(results, models, tight))
    assert f"not surely for llama_3_2_1b (p90 {at.value:.1f} ms [{at.low:.1f}, {at.high:.1f}] against" in said


def test_advice_of_invalid_runs_is_given_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The option that the refusal names is there, and the answer says what it rests on."""
    Study(tmp_path, iterations=100).run(["bert_base", "distilgpt2"], verdict="INVALID")
    arguments = ["--models", "bert_base,distilgpt2", "--slo-ms", "bert_base=99,distilgpt2=99"]
    arguments += ["--records", str(tmp_path)]
    assert advise.main(arguments) == 2
    assert "--include-invalid" in capsys.readouterr().err
    assert advise.main([*arguments, "--include-invalid"]) == 0
    assert "every level kept in the one run measured (INVALID run included)" in capsys.readouterr().out


def test_advice_says_what_was_not_measured(results: Results) -> None:
    """More tenants, other sharing modes: named, not guessed."""
    said = str(advise.advise(results, ["bert_base", "distilgpt2"], {"bert_base": 50, "distilgpt2": 50}))
    assert "with 1 more bert_base" in said
    assert "any mix under MPS equal share (mps_settings=equal_share), streams (sharing=streams)" in said


@pytest.mark.parametrize(
    ("sharing", "words"),
    [
        ("time slicing", "mps_settings=disabled"),
        ("MPS 25 %", "mps_settings=quarter"),
        ("MPS 30 %", "mps_settings=30pct"),
        ("MPS external", "mps_settings=external"),
        ("CPU (default)", "mps_settings=default"),
        ("streams", "sharing=streams"),
        ("MPS, fixed", "mps_settings=default measure.overlap=fixed"),
    ],
)
def test_the_command_that_advice_names_measures_that_mode(sharing: str, words: str) -> None:
    """Whatever a mode is called, the command does not measure another."""
    assert forecast.words_of(sharing) == words


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-run")
    Study(folder).run(["bert_base"])
    return folder


@pytest.mark.parametrize(
    ("models", "levels", "message"),
    [
        ("gpt5", "gpt5=1", "was not measured"),
        ("bert_base", "", "no level for bert_base"),
        ("bert_base", "bert_base=fast", "MODEL=MILLISECONDS"),
        ("bert_base", "bert_base=-1", "--slo-ms bert_base=-1: allowed: milliseconds above 0"),
        ("bert_base", "bert_base=inf", "--slo-ms bert_base=inf: allowed: milliseconds above 0"),
        ("bert_base", "bert_base=nan", "--slo-ms bert_base=nan: allowed: milliseconds above 0"),
        ("bert_base", "bert_base=9,nosuch=3", "--slo-ms nosuch=3: --models has no nosuch, only bert_base"),
        ("bert_base", "bert_base=9,bert_base=3", "bert_base has a value already, 9"),
        (",", "a=1", "--models is empty"),
    ],
)
def test_advice_refuses_what_it_cannot_answer(
    one_run: Path, capsys: pytest.CaptureFixture[str], models: str, levels: str, message: str
) -> None:
    """Unknown models and levels that are none: exit code 2 and what to give."""
    arguments = ["--models", models, "--slo-ms", levels, "--records", str(one_run)]
    assert advise.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("percentile", "allowed"), [("p99", "a number"), ("100", "below 100"), ("nan", "below 100")])
def test_a_percentile_that_is_none_is_refused(
    one_run: Path, capsys: pytest.CaptureFixture[str], percentile: str, allowed: str
) -> None:
    """It is named, with what is allowed."""
    arguments = ["--models", "bert_base", "--slo-ms", "bert_base=9", "--records", str(one_run)]
    assert advise.main([*arguments, "--percentile", percentile]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"--percentile {percentile}: allowed: ")
    assert allowed in said


def _launch_bound(folder: Path, share_pct: float = 60.0) -> None:
    for path in folder.glob("*/record.json"):
        record = json.loads(path.read_text())
        if record["kind"] == "baseline":
            record["tenants"][0]["metrics"]["launch_bound_pct"] = share_pct
            path.write_text(json.dumps(record))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pairs of five models under MPS but one; intervals need ten pairs. Launch-bound shares are known."""
    folder = tmp_path_factory.mktemp("pairs")
    study = Study(folder, iterations=70)
    names = ("bert_base", "deberta_v3_base", "distilgpt2", "llama_3_2_1b", "mistral_7b")
    for pair in itertools.combinations_with_replacement(names, 2):
        if pair != ("bert_base", "llama_3_2_1b"):
            study.run(pair, "default")
    _launch_bound(folder)
    return folder


def test_a_mix_that_was_not_measured_is_predicted_and_marked(pairs: Path) -> None:
    """Nothing was measured for the question: a prediction with its risk, its basis, and the run that confirms it."""
    advice = advice_on(pairs, "bert_base+llama_3_2_1b", 100)
    assert advice.best is None
    (first, *_) = [one for one in advice.predicted if one.mix == "bert_base+llama_3_2_1b"]
    assert first.risk < 0.1
    true_rps = 1e3 / 1.3 / 3.5 + 1e3 / 1.3 / 9.0  # of the made-up GPU
    assert first.predicted_rps == pytest.approx(true_rps, rel=0.15)
    said = str(advice)
    assert "No measured mix serves" in said
    assert "Predicted, not measured:" in said
    assert "mix=bert_base+llama_3_2_1b mps_settings=default measure.iterations=" in said


def test_tight_levels_have_a_risk_and_hopeless_ones_no_forecast(pairs: Path) -> None:
    """The tighter the level, the higher the risk; beyond even odds nothing is given."""
    risks = []
    for level in (100.0, 13.5, 2.0):
        found = [one for one in advice_on(pairs, "bert_base+llama_3_2_1b", level).predicted if one.mix.count("+") == 1]
        risks.append(min((one.risk for one in found), default=None))
    assert risks[0] is not None
    assert risks[1] is not None
    assert risks[0] < 0.01 < risks[1]
    assert risks[2] is None


def test_what_was_measured_comes_first(pairs: Path) -> None:
    """A measured mix that keeps its levels is the advice, and only predictions that would serve more stand below it."""
    advice = advice_on(pairs, "bert_base+distilgpt2", 1000)
    assert advice.best is not None
    assert advice.best.mix == "bert_base+distilgpt2"
    assert all(one.predicted_rps > advice.best.throughput_rps for one in advice.predicted)
    worse = [one for one in forecast_all(pairs) if one.mix == "bert_base+llama_3_2_1b"]
    assert worse[0].predicted_rps < advice.best.throughput_rps, "a prediction that serves less is not shown above"


def forecast_all(folder: Path) -> list[forecast.Forecast]:
    results = pool(load(records=folder), draws=1)
    models = ["bert_base", "llama_3_2_1b"]
    return forecast.forecasts(results, models, dict.fromkeys(models, 1000.0), 90.0, set())


def test_without_launch_bound_shares_nothing_is_predicted(results: Results) -> None:
    """Records that lack them are advised on as before; the best mix is confirmed by measuring it again."""
    models = ["bert_base", "llama_3_2_1b"]
    advice = advise.advise(results, models, dict.fromkeys(models, 1000.0))
    assert advice.predicted == ()
    assert advice.confirm is not None
    assert advice.confirm[:2] == ("mix=bert_base+llama_3_2_1b", "mps_settings=default")


def test_confirm_runs_the_command_that_is_shown(pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """As a sweep of its own; where nothing keeps every level there is nothing to run."""
    ran: list[list[str]] = []
    monkeypatch.setattr("mtexp.terminal.early.main", lambda overrides: ran.append(overrides) or 3)
    arguments = ["--models", "bert_base,llama_3_2_1b", "--records", str(pairs), "--confirm"]
    assert advise.main([*arguments, "--slo-ms", "bert_base=100,llama_3_2_1b=100"]) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[said.index("Confirm it with:") + 1].endswith(" ".join(ran[0]))
    assert ran[0][0] == "-m"
    assert advise.main([*arguments, "--slo-ms", "bert_base=1,llama_3_2_1b=1"]) == 2
    assert "nothing to confirm" in capsys.readouterr().err
    assert len(ran) == 1


def test_without_weights_normalized_progress_decides(results: Results) -> None:
    """A request of a small model is not worth one of a large model: progress ranks, not the sum of requests."""
    models = ["bert_base", "llama_3_2_1b"]
    levels = dict.fromkeys(models, 1000.0)
    advice = advise.advise(results, models, levels)
    assert advice.best is not None
    rows = results.tenants[results.tenants["records"].map(lambda own: own == advice.best.records)]
    assert advice.best.score == pytest.approx(rows["normalized_progress"].sum())
    assert "normalized progress" in str(advice)
    weighted = advise.advise(results, models, levels, objective=Objective({"bert_base": 3.0}, cost_per_hour=3.6))
    assert weighted.best is not None
    rows = results.tenants[results.tenants["records"].map(lambda own: own == weighted.best.records)]
    rates = rows.set_index("model")["throughput_rps"]
    assert weighted.best.score == pytest.approx(3 * rates["bert_base"] + rates["llama_3_2_1b"])
    assert f"{1000 / weighted.best.score:.3g} a million weighted requests" in str(weighted)


def test_a_target_file_says_levels_weights_and_percentile(tmp_path: Path, study_folder: Path, capsys: Any) -> None:
    """The same as the options; a wrong key is named with what is allowed. CSV has a row a tenant."""
    path = tmp_path / "targets.yaml"
    path.write_text("percentile: 90\nmodels:\n  bert_base: {slo_ms: 1000, weight: 2}\n  llama_3_2_1b: {slo_ms: 1000}\n")
    source = ["--records", str(study_folder), "--targets", str(path)]
    assert advise.main([*source, "--csv"]) == 0
    head, *rows = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("chosen,mix,sharing")
    assert len(rows) >= 4
    path.write_text("models:\n  bert_base: {slo: 20}\n")
    assert advise.main(source) == 2
    assert "slo_ms, weight" in capsys.readouterr().err

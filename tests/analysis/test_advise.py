"""Packing advice: what a user is told to run, on what it rests, and what was not measured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from analysis_study import Study

from analysis import advise
from analysis.data import load
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
    assert [c.state for c in advice.others] == [advise.MISSES]


def advice_on(folder: Path, models: str, levels: float, **how: Any) -> advise.Advice:
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
    assert (other.sharing, other.state) == ("MPS", advise.UNKNOWN)
    assert other.throughput_rps > advice.best.throughput_rps
    assert "cannot be judged: p95 needs 130 requests, 19 were measured" in str(advice)
    assert "Judged by p95 of latency, the highest that all of them support: p99 needs 662 requests" in str(advice)
    asked = advice_on(tmp_path, "bert_base+distilgpt2", 1000, percentile=99)
    assert asked.best is None
    assert "Judged by p99 of latency." in str(asked)
    assert {other.state for other in asked.others} == {advise.UNKNOWN}


def test_few_requests_are_enough_to_miss_a_level(tmp_path: Path) -> None:
    """Twenty requests bound a p90 from below; without one above nothing is kept, and nothing is claimed."""
    Study(tmp_path, iterations=20).run(["bert_base", "distilgpt2"])
    for level, state in ((1.0, advise.MISSES), (1000.0, advise.UNKNOWN)):
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
    assert advise._how(sharing) == words


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
        ("bert_base", "bert_base=9,bert_base=3", "bert_base has a level already, 9 ms"),
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

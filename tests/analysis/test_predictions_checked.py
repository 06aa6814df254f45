"""Predictions on runs in rounds: alone blocks as runs alone, both regimes, and predictions checked by later runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from crossover_study import BUSY, GRAPH_MS, MODELS, MPS_COST, CrossoverStudy

from analysis import predict
from analysis.data import load
from analysis.laws import Lone
from analysis.learning import learn_predictor
from analysis.pooling import pool
from analysis.predictions import not_measured
from analysis.predictor import Cell, NotPredictable, Predictor
from analysis.predictor_data import lone_models, measured_cells

FIRST, REST = "2026-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00"
SETTINGS = list(itertools.product(("disabled", "default"), ("eager", "cuda_graph")))
PAIRS = list(itertools.combinations_with_replacement(MODELS, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thirds of the pairs of seven models, in both modes and both regimes; no model by itself."""
    study = CrossoverStudy(tmp_path_factory.mktemp("first"))
    for pair, (mps, execution) in itertools.product([p for i, p in enumerate(PAIRS) if i % 3], SETTINGS):
        study.measure(pair, mps, execution, at=FIRST)
    return study.folder


def test_alone_blocks_are_runs_alone(folder: Path) -> None:
    """Latency outside MPS and in it, and the busy share; eager and graphs are models of their own."""
    results = pool(load(records=folder), draws=1)
    lone = {(one.does[0], one.execution): one for one in lone_models(results).values()}
    assert len(lone) == 2 * len(MODELS)
    for model in MODELS:
        graph, eager = lone[model, "cuda_graph"], lone[model, "eager"]
        assert graph.latency_ms == pytest.approx(GRAPH_MS[model], rel=0.02)
        assert graph.in_mode_ms["MPS"] / graph.latency_ms == pytest.approx(MPS_COST, rel=0.02)
        assert (graph.busy, eager.busy) == pytest.approx((1, BUSY[model]), rel=0.05)
    modes = {cell.mode for cell in measured_cells(results)}
    assert modes == {"time slicing", "MPS", "time slicing, cuda_graph", "MPS, cuda_graph"}


def test_without_a_probe_a_graph_says_how_busy_its_model_is(tmp_path: Path) -> None:
    study = CrossoverStudy(tmp_path)
    for execution in ("eager", "cuda_graph"):
        study.measure(["bert_base", "gpt2"], "disabled", execution, probed=False)
    lone = {(one.does[0], one.execution): one for one in lone_models(pool(load(records=tmp_path), draws=1)).values()}
    assert lone["bert_base", "eager"].busy == pytest.approx(BUSY["bert_base"], rel=0.05)
    assert lone["gpt2", "cuda_graph"].busy == 1


def test_predictions_kept_before_are_scored_by_runs_after(folder: Path, tmp_path: Path, capsys: Any) -> None:
    """Frozen, the rest predicted, the rest measured: errors by regime beside rivals, and intervals that hold."""
    frozen, kept = tmp_path / "predictor.json", tmp_path / "predictions.json"
    triple = "bert_base+gpt2+vit_base"
    write = ["--records", str(folder), "--save", str(frozen), "--rest", "--write", str(kept)]
    assert predict.main([triple, *write]) == 0
    said = json.loads(kept.read_text())
    assert said["predictor"] == capsys.readouterr().out.split()[-1].strip(".")
    assert len(said["predictions"]) == 1 + 2 * len(PAIRS[::3])  # a pair as graphs has a label of its own
    study = CrossoverStudy(tmp_path / "rest", seed=1)
    study.suffers = CrossoverStudy(tmp_path).suffers
    for pair, (mps, execution) in itertools.product(PAIRS[::3], SETTINGS):
        study.measure(pair, mps, execution, at=REST)
    for mps, execution in SETTINGS:
        study.measure(triple.split("+"), mps, execution, at=REST)
    study.measure(PAIRS[0], "disabled", "eager", at=FIRST)
    assert predict.main(["--check", str(kept), "--records", str(tmp_path / "rest"), "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["runs_before"] == 1
    pairs = {name: own for name, own in score["regimes"].items() if "pairs" in name}
    assert set(pairs) == {
        f"{mode}, pairs, new mix" for mode in ("time slicing", "MPS", "time slicing, cuda_graph", "MPS, cuda_graph")
    }
    for regime in pairs.values():
        ours, rivals = regime["errors"]["predicted"], regime["errors"]
        assert ours["median_pct"] < 3
        assert ours["median_pct"] < rivals["slowdown 1"]["median_pct"] / 4
        assert {"mean of the mode", "victim + neighbours, no form"} <= set(rivals)
        assert regime["intervals"]["of"] == ours["count"]
    held = [sum(regime["intervals"][key] for regime in pairs.values()) for key in ("held", "of")]
    assert 0.8 <= held[0] / held[1] <= 1
    assert any("3 tenants" in name for name in score["regimes"])
    assert predict.main(["--check", str(kept), "--records", str(tmp_path / "rest")]) == 0
    assert "frozen" in capsys.readouterr().out


def test_a_frozen_predictor_predicts_a_model_that_was_measured_alone_since(tmp_path: Path, capsys: Any) -> None:
    """Its coefficients stay, what it knew stays, the new model is added; the file of predictions says all three."""
    study, frozen, kept = CrossoverStudy(tmp_path / "first"), tmp_path / "predictor.json", tmp_path / "predictions.json"
    for pair in itertools.combinations(MODELS[:-1], 2):
        study.measure(pair, "disabled", "cuda_graph", at=FIRST)
    assert predict.main(["--records", str(study.folder), "--save", str(frozen)]) == 0
    hashed = capsys.readouterr().out.split()[-1].strip(".")
    new = CrossoverStudy(tmp_path / "alone", seed=2)
    for model in (MODELS[-1], MODELS[0]):
        new.measure([model], "disabled", "cuda_graph", at=FIRST, probed=False)
    mixes = [f"{MODELS[0]}+{MODELS[-1]}", "+".join((MODELS[1], MODELS[2], MODELS[-1]))]
    asked = [*mixes, "--predictor", str(frozen), "--records", str(new.folder)]
    assert predict.main([*asked, "--write", str(kept)]) == 0
    text = capsys.readouterr().out
    said = json.loads(kept.read_text())
    assert said["frozen"] == hashed != said["predictor"]
    assert said["added"] == [MODELS[-1]]
    assert f"Predictor {said['predictor']}: {hashed} as it was frozen, with runs alone of {MODELS[-1]}." in text
    (pair, triple) = ({one["label"]: one for one in mix["modes"][0]["tenants"]} for mix in said["predictions"])
    assert {one["basis"] for one in pair.values()} == {"new model"}
    assert pair[MODELS[-1]]["predicted_latency_ms"] > GRAPH_MS[MODELS[-1]]
    assert len(triple) == 3
    later = CrossoverStudy(tmp_path / "later", seed=3)
    for mix in mixes:
        later.measure(mix.split("+"), "disabled", "cuda_graph", at=REST)
    assert predict.main(["--check", str(kept), "--records", str(later.folder)]) == 0
    text = capsys.readouterr().out
    assert "3 tenants, new model" in text
    assert hashed in text
    assert predict.main([mixes[0], "--predictor", str(frozen), "--records", str(study.folder)]) == 2
    assert "no run alone of a model that the predictor does not know" in capsys.readouterr().err
    other = json.loads(frozen.read_text()) | {"device": "NVIDIA A30"}
    frozen.write_text(json.dumps(other))
    assert predict.main(asked) == 2
    assert "NVIDIA A30" in capsys.readouterr().err


def test_runs_that_say_nothing_of_a_busy_share_check_predictions_all_the_same(
    folder: Path, tmp_path: Path, capsys: Any
) -> None:
    """Eager pairs in rounds without a graph of the same model beside them."""
    kept = tmp_path / "predictions.json"
    assert predict.main(["--records", str(folder), "--rest", "--write", str(kept)]) == 0
    study = CrossoverStudy(tmp_path / "rest", seed=1)
    study.measure(PAIRS[3], "disabled", "eager", at=REST, probed=False)
    capsys.readouterr()
    assert predict.main(["--check", str(kept), "--records", str(study.folder), "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["regimes"]["time slicing, pairs, new mix"]["errors"]["predicted"]["count"]
        == 2
    )


def test_what_was_measured_before_is_no_evidence(folder: Path, tmp_path: Path, capsys: Any) -> None:
    kept = tmp_path / "predictions.json"
    assert predict.main(["--records", str(folder), "--rest", "--write", str(kept)]) == 0
    capsys.readouterr()
    assert predict.main(["--check", str(kept), "--records", str(folder)]) == 2
    assert "no predicted mix was measured after" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--check", "nowhere.json"], ("nowhere.json", "--write")),
        (["--rest"], ("--rest", "--write")),
        (["--suspects", "--write", "x.json"], ("nothing to write", "--rest")),
        (["--next", "-3"], ("--next -3", "0 or more")),
    ],
)
def test_bad_input_is_refused(folder: Path, arguments: list[str], facts: tuple[str, ...], capsys: Any) -> None:
    assert predict.main([*arguments, "--records", str(folder)]) == 2
    said = capsys.readouterr().err
    assert all(fact in said for fact in facts), said


def predictor_of_three(mode: str) -> Predictor:
    """Of four models as graphs, learnt from the pairs of three."""
    lone = {f"m{n}": Lone(f"m{n}", 2.0 + n, 1.0, 3, "cuda_graph", odds=0.2 * n, eager_busy=0.3) for n in range(4)}
    pairs = [(a, b) for a in range(3) for b in range(3)]
    cells = [Cell(mode, f"m{a}+m{b}", lone[f"m{a}"], (lone[f"m{b}"],), 0.7 + 0.1 * b - 0.1 * a) for a, b in pairs]
    return learn_predictor(cells, lone, "GPU")


def test_pairs_that_were_not_measured_are_listed() -> None:
    mode = "MPS, cuda_graph"
    found = not_measured(predictor_of_three(mode), [mode])
    assert ("m0", "m3") in found
    assert ("m0", "m1") not in found


@pytest.mark.parametrize(
    ("mode", "part", "broken"),
    [
        ("MPS, cuda_graph", "coefficients", [0.1]),
        ("MPS, cuda_graph", "coefficients", ["a", "b", "c"]),
        ("MPS, cuda_graph", "coefficients", [0.1, float("nan"), 1.0]),
        ("MPS, cuda_graph", "half_widths", {"new mix": "wide"}),
        ("MPS, cuda_graph", "ranges", {"SM activity": [1.0]}),
        ("time slicing, cuda_graph", "slices", []),
    ],
)
def test_a_file_that_cannot_predict_is_refused_when_it_is_read(mode: str, part: str, broken: Any) -> None:
    whole: Any = json.loads(json.dumps(predictor_of_three(mode).to_json()))
    assert Predictor.from_json(whole).predict(["m0", "m1"], mode)
    whole["fits"][mode][part] = broken
    with pytest.raises(NotPredictable, match="not a predictor"):
        Predictor.from_json(whole)


@pytest.mark.parametrize("latency_ms", [0, -1.0, float("nan"), "fast", None])
def test_a_model_without_a_latency_is_refused_when_it_is_read(latency_ms: Any) -> None:
    whole: Any = json.loads(json.dumps(predictor_of_three("MPS, cuda_graph").to_json()))
    whole["lone"]["m0"]["latency_ms"] = latency_ms
    with pytest.raises(NotPredictable, match="not a predictor"):
        Predictor.from_json(whole)


def test_a_file_without_ranges_is_refused() -> None:
    whole: Any = json.loads(json.dumps(predictor_of_three("MPS, cuda_graph").to_json()))
    del whole["fits"]["MPS, cuda_graph"]["ranges"]
    with pytest.raises(NotPredictable, match="ranges"):
        Predictor.from_json(whole)

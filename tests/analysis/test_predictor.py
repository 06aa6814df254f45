"""Predictions: how near they come to a known truth, how often their intervals hold, and what they say of themselves."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis_study import Study

from analysis import predict
from analysis.data import load
from analysis.learning import fit, learn_predictor, measure_next, quantile, suspects
from analysis.pooling import pool
from analysis.predictor import NEW_MIX, NEW_MODEL, Cell, Lone, NotPredictable, Predictor
from analysis.predictor_data import measured_cells


def models(count: int, rng: np.random.Generator) -> dict[str, Lone]:
    busy = np.linspace(0.15, 0.95, count)
    return {f"m{i:02d}": Lone(f"m{i:02d}", float(rng.uniform(3, 30)), float(b), 3) for i, b in enumerate(busy)}


def study(
    lone: dict[str, Lone], rng: np.random.Generator, noise: float = 0.05, sizes: tuple[int, ...] = (2,)
) -> list[Cell]:
    """Slowdowns of a law of its own, with what each model suffers and inflicts, and noise."""
    suffers = {name: rng.normal(0, 0.05) for name in lone}
    found = []
    for size in sizes:
        for mix in itertools.combinations_with_replacement(sorted(lone), size):
            for victim in sorted(set(mix)):
                others = list(mix)
                others.remove(victim)
                total = sum(lone[name].busy for name in others)
                log = 0.8 * math.log(max(1, lone[victim].busy + total)) + 0.3 * math.log1p(lone[victim].busy * total)
                log += suffers[victim] + rng.normal(0, noise)
                found.append(Cell("MPS", "+".join(mix), lone[victim], tuple(lone[o] for o in others), log, ("r",)))
    return found


def test_a_model_that_was_left_out_is_predicted_from_its_two_numbers() -> None:
    """Of a law that is not the one assumed: nearer than the mean, and inside nine of ten intervals."""
    rng = np.random.default_rng(0)
    covered, errors, plain = [], [], []
    for _ in range(6):
        lone = models(7, rng)
        cells = study(lone, rng)
        for left in lone:
            train = [cell for cell in cells if left not in cell.models]
            predictor = learn_predictor(train, lone, "GPU")
            for cell in (cell for cell in cells if left in cell.models and len(cell.models) == 2):
                (one,) = [p for p in predictor.predict(list(cell.tenants), "MPS") if p.label == cell.victim.label]
                assert one.basis == NEW_MODEL
                covered.append(one.low <= math.exp(cell.log) <= one.high or one.low == 1 >= math.exp(cell.log))
                errors.append(abs(math.log(one.slowdown) - cell.log))
                plain.append(abs(np.mean([c.log for c in train]) - cell.log))
    assert 0.85 <= np.mean(covered) <= 0.96
    assert np.median(errors) < 0.6 * np.median(plain)


def test_measured_pairs_make_predictions_better() -> None:
    """What a model suffers beyond its two numbers is learnt from its other mixes."""
    rng = np.random.default_rng(1)
    lone = models(8, rng)
    learnt = fit(study(lone, rng, noise=0.01))
    assert learnt.half_widths[NEW_MIX] < 0.8 * learnt.half_widths[NEW_MODEL]


def test_larger_mixes_have_an_interval_of_their_own_or_none() -> None:
    """Three tenants are not predicted with the confidence of two; where none was measured it is not known."""
    rng = np.random.default_rng(2)
    lone = models(6, rng)
    pairs = learn_predictor(study(lone, rng), lone, "GPU")
    three = ["m00", "m03", "m05"]
    assert all(one.high == math.inf for one in pairs.predict(three, "MPS"))
    both = learn_predictor(study(lone, rng, sizes=(2, 3)), lone, "GPU")
    assert all(one.high < math.inf for one in both.predict(three, "MPS"))


def test_a_quantile_needs_ten_errors() -> None:
    """Of nine errors none is a 90 % bound."""
    assert quantile([0.1] * 9) == math.inf
    assert quantile(list(np.arange(1, 20) / 100)) == pytest.approx(0.18)


def test_equal_predictors_have_equal_hashes_and_survive_a_file() -> None:
    """What is frozen predicts the same; another predictor has another hash; other files are refused."""
    rng = np.random.default_rng(3)
    lone = models(5, rng)
    cells = study(lone, rng)
    predictor = learn_predictor(cells, lone, "GPU")
    again = Predictor.from_json(json.loads(json.dumps(predictor.to_json())))
    assert again.hash == predictor.hash
    assert again.predict(["m00", "m01"], "MPS")[0].slowdown == pytest.approx(
        predictor.predict(["m00", "m01"], "MPS")[0].slowdown
    )
    assert learn_predictor(cells[1:], lone, "GPU").hash != predictor.hash
    with pytest.raises(NotPredictable, match="not a predictor"):
        Predictor.from_json({"kind": "prediction", "format": 2})


def test_the_next_pairs_are_of_models_that_are_least_known() -> None:
    """A model that is in no pair comes first; what is measured is not asked for again; all measured: nothing."""
    rng = np.random.default_rng(4)
    lone = models(5, rng)
    cells = [cell for cell in study(lone, rng) if "m02" not in cell.models]
    asked = measure_next(cells, lone, 3)
    assert len(set(asked)) == 3
    assert all("m02" in pair for pair in asked)
    assert measure_next(study(lone, rng), lone, 3) == []


def test_a_point_far_outside_is_suspect() -> None:
    rng = np.random.default_rng(5)
    lone = models(7, rng)
    cells = study(lone, rng, noise=0.03)
    wrong = cells[10]
    cells[10] = Cell(wrong.mode, wrong.mix, wrong.victim, wrong.neighbours, wrong.log + 1.0, wrong.records)
    found = suspects(cells)
    assert found[0][0] is cells[10]
    assert len(found) <= 2
    assert suspects(study(lone, np.random.default_rng(6), noise=0.03)) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of four models under MPS and time slicing, each model alone with its launch-bound share."""
    folder = tmp_path_factory.mktemp("predict")
    study = Study(folder, iterations=30)
    names = ("bert_base", "distilgpt2", "llama_3_2_1b", "mistral_7b")
    for mps in ("disabled", "default"):
        for pair in itertools.combinations(names, 2):
            study.run(pair, mps)
    for path in folder.glob("*/record.json"):
        record = json.loads(path.read_text())
        if record["kind"] == "baseline":
            record["tenants"][0]["metrics"]["launch_bound_pct"] = 50.0
            path.write_text(json.dumps(record))
    return folder


def test_the_command_says_predicted_not_measured(folder: Path, capsys: Any) -> None:
    """Every figure is marked, what it rests on is named, and JSON never calls it a slowdown."""
    assert predict.main(["bert_base*2+mistral_7b", "--records", str(folder), "--mode", "MPS"]) == 0
    said = capsys.readouterr().out
    assert "predicted, not measured" in said
    assert "rests on 6 measured mixes and runs alone of bert_base" in said
    assert predict.main(["bert_base+mistral_7b", "--records", str(folder), "--json", "--next", "2", "--suspects"]) == 0
    found = json.loads(capsys.readouterr().out)
    (mix,) = found["predictions"]
    assert mix["kind"] == "prediction"
    assert mix["predictor"] == found["predictor"]
    tenant = mix["modes"][0]["tenants"][0]
    assert "slowdown" not in tenant
    assert tenant["predicted_slowdown"] >= 1
    assert (
        found["measure_next"]["MPS"] == ["bert_base+bert_base", "distilgpt2+distilgpt2"]
        or len(found["measure_next"]["MPS"]) == 2
    )


def test_a_frozen_predictor_needs_no_runs(folder: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "frozen" / "predictor.json"
    assert predict.main(["--records", str(folder), "--save", str(file)]) == 0
    hashed = capsys.readouterr().out.split()[-1].strip(".")
    assert predict.main(["bert_base+mistral_7b", "--predictor", str(file)]) == 0
    assert hashed in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["gpt5+bert_base"], ("gpt5", "no run of it alone", "mix=gpt5")),
        (["bert_base+mistral_7b", "--mode", "streams"], ("streams", "there are", "time slicing")),
        (["bert_base*x"], ("bert_base*x", "allowed")),
        ([], ("nothing to do",)),
        (["bert_base", "--predictor", "nowhere.json"], ("nowhere.json", "--save")),
        (["--predictor", "nowhere.json", "--next", "3"], ("--next",)),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    folder: Path, arguments: list[str], facts: tuple[str, ...], capsys: Any
) -> None:
    source = [] if "--predictor" in arguments else ["--records", str(folder)]
    assert predict.main([*arguments, *source]) == 2
    said = capsys.readouterr().err
    assert all(fact in said for fact in facts), said


def test_without_launch_bound_shares_it_says_what_to_measure(tmp_path: Path, capsys: Any) -> None:
    Study(tmp_path, iterations=30).run(["bert_base", "mistral_7b"])
    assert predict.main(["bert_base+mistral_7b", "--records", str(tmp_path)]) == 2
    assert "nothing to learn from" in capsys.readouterr().err


def test_a_study_gives_a_cell_for_each_tenant_of_each_pair(folder: Path) -> None:
    """Six pairs under two modes, each victim with its neighbour and its busy share."""
    cells = measured_cells(pool(load(records=folder), draws=1))
    assert len(cells) == 2 * 6 * 2
    assert {len(cell.neighbours) for cell in cells} == {1}
    assert [cell.victim.busy for cell in cells] == pytest.approx([0.5] * len(cells))

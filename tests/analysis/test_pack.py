"""Packing a demand on GPUs: small cases whose answer is known, and what the command says and refuses."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis_study import Study
from crossover_study import GRAPH_MS, CrossoverStudy

from analysis import pack
from analysis.data import DataError
from analysis.pack import ALONE, MEASURED, PREDICTED, Configuration


def configuration(kind: str = MEASURED, **rates: float) -> Configuration:
    return Configuration("+".join(rates), "MPS", rates, kind)


def brute(choices: list[Configuration], demand: dict[str, float], most: int) -> int:
    """The fewest GPUs, by trying every multiset of configurations."""
    for count in range(1, most + 1):
        for chosen in itertools.combinations_with_replacement(choices, count):
            if all(sum(one.rates.get(m, 0) for one in chosen) >= wanted for m, wanted in demand.items()):
                return count
    return 0


def test_two_models_that_share_need_fewer_gpus() -> None:
    """Alone: two for a and one for b. Together two GPUs serve both."""
    choices = [configuration(ALONE, a=100), configuration(ALONE, b=50), configuration(a=80, b=40)]
    found = pack.pack(choices, {"a": 160, "b": 50})
    assert (found.gpus, found.bound, found.one_model_each) == (2, 2, 3)
    assert found.served["a"] >= 160
    assert found.served["b"] >= 50


def test_an_exact_fit_is_not_one_gpu_more() -> None:
    """Rates that add up to the demand but for rounding: 3 times 0.1 serve 0.3."""
    found = pack.pack([configuration(ALONE, a=0.1)], {"a": 0.3})
    assert (found.gpus, found.one_model_each) == (3, 3)


def test_packings_are_the_fewest() -> None:
    """Beside every combination tried, for forty random demands."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        names = ["a", "b", "c"]
        choices = [configuration(ALONE, **{name: float(rng.integers(20, 60))}) for name in names]
        for pair in itertools.combinations(names, 2):
            choices += [configuration(**{name: float(rng.integers(10, 60)) for name in pair})]
        demand = {name: float(rng.integers(10, 90)) for name in names}
        found = pack.pack(choices, demand)
        assert found.gpus == brute(choices, demand, 7)
        assert all(found.served[name] >= demand[name] * (1 - 1e-5) for name in names)


def test_of_two_that_serve_alike_the_measured_one_is_taken() -> None:
    choices = [configuration(PREDICTED, a=80, b=40), configuration(MEASURED, a=80, b=40)]
    (one,) = pack.pack(choices, {"a": 80, "b": 40}).placements
    assert one.configuration.kind == MEASURED


def test_a_model_that_nothing_serves_is_named() -> None:
    with pytest.raises(DataError, match="--demand b: no mix"):
        pack.pack([configuration(a=100)], {"a": 10, "b": 10})
    assert pack.pack([configuration(a=10, b=10)], {"a": 10, "b": 10}).one_model_each is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pairs of three models under MPS: a neighbour costs 30 %, so sharing serves 1.54 times as much."""
    folder = tmp_path_factory.mktemp("pack")
    study = Study(folder, iterations=80)
    names = ("bert_base", "distilgpt2", "llama_3_2_1b")
    for pair in itertools.combinations_with_replacement(names, 2):
        study.run(pair, "default")
    for path in folder.glob("*/record.json"):
        record = json.loads(path.read_text())
        if record["kind"] == "baseline":
            record["tenants"][0]["metrics"]["launch_bound_pct"] = 60.0
            path.write_text(json.dumps(record))
    return folder


def asked(folder: Path, *more: str, gpus: int = 8) -> list[str]:
    demand, levels = "bert_base=400,llama_3_2_1b=150", "bert_base=50,llama_3_2_1b=50"
    return ["--gpus", str(gpus), "--demand", demand, "--slo-ms", levels, "--records", str(folder), *more]


def test_the_command_packs_measured_mixes(folder: Path, capsys: Any) -> None:
    """Free of predictions and headroom the answer is the one that the law of the made-up GPU gives."""
    assert pack.main(asked(folder, "--risk", "0", "--headroom", "0", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    bert, llama = 1e3 / 3.5, 1e3 / 9.0
    choices = [
        configuration(bert_base=bert),
        configuration(llama_3_2_1b=llama),
        configuration(bert_base=bert / 1.3, llama_3_2_1b=llama / 1.3),
        configuration(bert_base=2 * bert / 1.3),
        configuration(llama_3_2_1b=2 * llama / 1.3),
    ]
    assert found["gpus"] == found["bound"] == brute(choices, {"bert_base": 400, "llama_3_2_1b": 150}, 6)
    assert found["one_model_each"] == math.ceil(400 / bert) + math.ceil(150 / llama)
    assert {one["kind"] for one in found["placements"]} <= {ALONE, MEASURED}


def test_predicted_mixes_are_marked(folder: Path, capsys: Any) -> None:
    """With levels that only small mixes keep surely, and a risk that is allowed, predictions may take part, marked."""
    assert pack.main(asked(folder, "--risk", "50")) == 0
    said = capsys.readouterr().out
    assert "With one model a GPU:" in said
    assert ("predicted" in said) == ("confirm each before you rely on it" in said)


def test_too_few_gpus_are_an_exit_code(folder: Path, capsys: Any) -> None:
    assert pack.main(asked(folder, gpus=1)) == 1
    assert "too few" in capsys.readouterr().out


def test_blocks_alone_are_models_alone(tmp_path: Path, capsys: Any) -> None:
    """Of runs in rounds no model has a run of its own: what it did in its blocks alone says what a GPU serves."""
    study = CrossoverStudy(tmp_path)
    for mps in ("disabled", "default"):
        study.measure(["bert_base", "llama_3_2_1b"], mps, "cuda_graph")
    assert pack.main(asked(tmp_path, "--headroom", "0", "--json")) == 0
    alone_s = {model: GRAPH_MS[model] / 1e3 for model in ("bert_base", "llama_3_2_1b")}
    found = json.loads(capsys.readouterr().out)
    assert found["one_model_each"] == math.ceil(400 * alone_s["bert_base"]) + math.ceil(150 * alone_s["llama_3_2_1b"])


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"--demand": "bert_base=0"}, ("--demand bert_base=0", "above 0")),
        ({"--demand": "bert_base"}, ("--demand bert_base", "allowed")),
        ({"--demand": "bert_base=1,bert_base=2"}, ("has a value already",)),
        ({"--demand": "bert_base=1"}, ("same models", "llama_3_2_1b")),
        ({"--demand": "gpt5=1", "--slo-ms": "gpt5=5"}, ("gpt5", "not measured")),
        ({"--slo-ms": "bert_base=1,llama_3_2_1b=50"}, ("--demand bert_base", "--slo-ms bert_base")),
        ({"--gpus": "0"}, ("--gpus 0",)),
        ({"--headroom": "100"}, ("--headroom 100",)),
        ({"--risk": "x"}, ("--risk x",)),
        ({"--demand": ""}, ("--demand is empty",)),
    ],
)
def test_what_cannot_be_packed_is_refused(
    folder: Path, change: dict[str, str], facts: tuple[str, ...], capsys: Any
) -> None:
    arguments = asked(folder)
    for option, value in change.items():
        arguments = [*arguments, option, value]
    assert pack.main(arguments) == 2
    said = capsys.readouterr().err
    assert all(fact in said for fact in facts), said

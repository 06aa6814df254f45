"""Predictions: how near they come to a known truth, how often their intervals hold, and what they say of themselves."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis_study import Study

from analysis import predict
from analysis.data import load
from analysis.laws import Lone
from analysis.learning import fit, learn_predictor, measure_next, quantile, solve, suspects
from analysis.pooling import pool
from analysis.predictions import rests_on, text
from analysis.predictor import NEW_MIX, NEW_MODEL, NOT_SAMPLED, ONE_MIX, OUTSIDE, Cell, Fit, NotPredictable, Predictor
from analysis.predictor_data import lone_models, measured_cells


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


def graph(name: str, latency_ms: float, odds: float | None = None, eager_busy: float | None = None) -> Lone:
    return Lone(name, latency_ms, 1.0, 3, "cuda_graph", odds=odds, eager_busy=eager_busy)


def graph_pairs(lone: dict[str, Lone], sharing: str, slowdown: Callable[[Lone, Lone], float]) -> list[Cell]:
    pairs = itertools.combinations_with_replacement(sorted(lone), 2)
    return [
        Cell(f"{sharing}, cuda_graph", f"{a}+{b}", lone[v], (lone[n],), math.log(slowdown(lone[v], lone[n])), ("r",))
        for a, b in pairs
        for v, n in sorted({(a, b), (b, a)})
    ]


def taking_turns(victim: Lone, neighbour: Lone, slice_ms: float = 2.0, switch_ms: float = 0.2) -> float:
    """Slowdown of two processes that take turns of a time slice; who has nothing more to do hands over at once."""
    left_ms, now_ms, done, whose = [victim.latency_ms, neighbour.latency_ms], 0.0, 0, 0
    lengths_ms = tuple(left_ms)
    while done < 200:
        turn_ms = min(slice_ms, left_ms[whose])
        now_ms += turn_ms + switch_ms / 2
        left_ms[whose] -= turn_ms
        if left_ms[whose] <= 1e-9:
            left_ms[whose] = lengths_ms[whose]
            done += whose == 0
        whose = 1 - whose
    return now_ms / 200 / victim.latency_ms


def test_graphs_that_take_turns_are_predicted_from_their_latencies() -> None:
    """Two processes that are simulated slice by slice: a model that is in no pair is predicted to a few percent."""
    rng = np.random.default_rng(7)
    errors = []
    for _ in range(3):
        lone = {f"m{i}": graph(f"m{i}", float(ms)) for i, ms in enumerate(np.exp(rng.uniform(0.3, 3.4, 8)))}
        cells = graph_pairs(lone, "time slicing", taking_turns)
        for left in lone:
            learnt = solve([cell for cell in cells if left not in cell.models])  # as fit, without intervals
            for cell in (cell for cell in cells if left in cell.models):
                errors += [abs(learnt.log(cell.victim, cell.neighbours) - cell.log)]
    assert np.median(errors) < 0.02


def kernels(count: int, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Busy share in eager mode and odds that an SM works, by model: kernels of some length on some of the SMs."""
    return {f"m{i}": (float(rng.uniform(0.12, 0.95)), float(rng.uniform(-0.5, 1.8))) for i in range(count)}


def behind_kernels(known: dict[str, tuple[float, float]], rng: np.random.Generator) -> Callable[[Lone, Lone], float]:
    """Slowdown of who has short kernels behind who has long ones on many SMs."""

    def slowdown(victim: Lone, neighbour: Lone) -> float:
        (own, _), (busy, odds) = known[victim.label], known[neighbour.label]
        return 1 + 0.45 * own**-0.7 * (busy * math.exp(odds)) ** 0.5 * float(rng.normal(1, 0.01))

    return slowdown


def test_under_mps_graphs_are_predicted_from_their_kernels() -> None:
    """A new model needs what its kernels are like: their length from the busy share, how many SMs from counters."""
    rng = np.random.default_rng(8)
    known = kernels(11, rng)
    lone = {
        name: graph(name, float(rng.uniform(1, 30)), odds if place < 9 else None, busy)
        for place, (name, (busy, odds)) in enumerate(known.items())
    }
    cells = graph_pairs(lone, "MPS", behind_kernels(known, rng))
    errors: dict[str, list[float]] = {}
    for left in lone:
        learnt = solve([cell for cell in cells if left not in cell.models])  # as fit, without intervals
        for cell in (cell for cell in cells if left in cell.models):
            basis = learnt.basis((cell.victim, *cell.neighbours))
            errors.setdefault(basis, []).append(abs(learnt.log(cell.victim, cell.neighbours) - cell.log))
    assert set(errors) == {NEW_MODEL, NOT_SAMPLED, OUTSIDE}
    blind = learn_predictor([cell for cell in cells if "m10" not in cell.models], lone, "GPU")
    mode = "MPS, cuda_graph"
    assert "counters of m10" in rests_on(blind, mode, blind.predict(["m0", "m10"], mode))
    assert np.median(errors[NEW_MODEL]) < 0.05 < np.median(errors[NOT_SAMPLED])
    widths = fit(cells).half_widths
    assert widths[NEW_MIX] < widths[NEW_MODEL] < widths[NOT_SAMPLED]


def odd(known: dict[str, tuple[float, float]], rng: np.random.Generator) -> Callable[[Lone, Lone], float]:
    """The same, but every model suffers and inflicts something of its own that no run alone shows."""
    own = {name: rng.normal(0, 0.3, 2) for name in known}
    law = behind_kernels(known, rng)
    return lambda v, n: 1 + (law(v, n) - 1) * math.exp(own[v.label][0] + own[n.label][1])


def test_one_pair_says_most_about_a_new_model() -> None:
    """What it suffers and inflicts shows in one pair; the prediction says that it rests on one, with an interval."""
    rng = np.random.default_rng(3)
    known = kernels(11, rng)
    lone = {name: graph(name, 5.0, odds, busy) for name, (busy, odds) in known.items()}
    cells, mode = graph_pairs(lone, "MPS", odd(known, rng)), "MPS, cuda_graph"
    off: dict[str, list[float]] = {"alone": [], "one pair": []}
    held = []
    for left in sorted(lone):
        rest = [cell for cell in cells if left not in cell.models]
        probe = [cell for cell in cells if cell.models == {left, "m0" if left != "m0" else "m1"}]
        asked = [cell for cell in cells if left in cell.models and len(cell.models) == 2 and cell not in probe]
        for name, predictor in (("alone", solve(rest)), ("one pair", solve(rest + probe))):
            off[name] += [abs(predictor.log(cell.victim, cell.neighbours) - cell.log) for cell in asked]
        whole = learn_predictor(rest + probe, lone, "GPU")
        for cell in asked:
            (one,) = [p for p in whole.predict(list(cell.tenants), mode) if p.label == cell.victim.label]
            assert one.basis == ONE_MIX
            held.append(one.low <= math.exp(cell.log) <= one.high)
    assert np.median(off["one pair"]) < 0.3 * np.median(off["alone"])
    assert 0.85 <= np.mean(held) <= 1
    assert f"{left} in one only" in rests_on(whole, mode, whole.predict([left, "m3"], mode))
    widths = fit(cells).half_widths
    assert widths[NEW_MIX] <= widths[ONE_MIX] < 0.5 * widths[NEW_MODEL]


def test_a_stressor_tells_as_much_as_a_pair_and_is_judged_by_nobody() -> None:
    """Whatever it suffers and inflicts itself: intervals are of models, and it is not what to measure next."""
    rng = np.random.default_rng(4)
    known = kernels(10, rng)
    lone = {name: graph(name, 5.0, odds, busy) for name, (busy, odds) in known.items()}
    slowdown, mode = odd(known, rng), "MPS, cuda_graph"
    cells = graph_pairs(lone, "MPS", slowdown)
    stressor = replace(graph("stress_sm", 2.0), stressor=True)
    beside = []
    for name in ("m1", "m2", "m3", "m9"):
        suffers, inflicts = (4 * (slowdown(lone[name], lone["m0"]) - 1), 9 * (slowdown(lone["m0"], lone[name]) - 1))
        for victim, neighbour, excess in ((lone[name], stressor, suffers), (stressor, lone[name], inflicts)):
            beside.append(Cell(mode, f"{name}+stress_sm", victim, (neighbour,), math.log1p(excess)))
    rest = [cell for cell in cells if "m9" not in cell.models]
    asked = [cell for cell in cells if "m9" in cell.models and len(cell.models) == 2]

    def off(learnt: Fit) -> float:
        return float(np.median([abs(learnt.log(cell.victim, cell.neighbours) - cell.log) for cell in asked]))

    with_it = fit(rest + beside)
    assert off(with_it) < 0.5 * off(solve(rest))
    assert with_it.half_widths[NEW_MODEL] < 1.5 * fit(rest).half_widths[NEW_MODEL]
    assert ("m9", "stress_sm") in with_it.measured
    assert all("stress_sm" not in pair for pair in measure_next(rest + beside, lone, 5))
    assert all(not cell.stressed for cell, _ in suspects(rest + beside))


def test_beyond_what_was_learnt_there_is_no_interval() -> None:
    """The law goes on there, but nobody has seen how well; a model at the end that was left out widens no interval."""
    rng = np.random.default_rng(5)
    known = {f"m{i}": (float(b), 0.9) for i, b in enumerate(np.linspace(0.2, 0.8, 9))}
    known |= {"low": (0.1, 0.9), "inside": (0.5, 0.9)}
    lone = {name: graph(name, 5.0, odds, busy) for name, (busy, odds) in known.items()}
    slowdown = behind_kernels(known, rng)
    measured = {name: own for name, own in lone.items() if name.startswith("m")}
    predictor = learn_predictor(graph_pairs(measured, "MPS", slowdown), lone, "GPU")
    mode = "MPS, cuda_graph"
    for pair in (["low", "m4"], ["m4", "low"]):
        found = {one.label: one for one in predictor.predict(pair, mode)}
        assert found["low"].slowdown == pytest.approx(slowdown(lone["low"], lone["m4"]), rel=0.05)
        assert found["m4"].slowdown == pytest.approx(slowdown(lone["m4"], lone["low"]), rel=0.05)
        assert {(one.basis, one.high) for one in found.values()} == {(OUTSIDE, math.inf)}
    assert {(one.basis, one.high < 1.2 * one.slowdown) for one in predictor.predict(["inside", "m4"], mode)} == {
        (NEW_MODEL, True)
    }
    assert OUTSIDE not in predictor.fits[mode].half_widths


def test_more_neighbours_make_graphs_wait_for_each() -> None:
    """Learnt from pairs, four equal tenants that take turns wait for three."""
    lone = {f"m{i}": graph(f"m{i}", ms) for i, ms in enumerate((1.5, 2.9, 4.7, 6.8, 11.0, 17.0))}
    learnt = fit(graph_pairs(lone, "time slicing", taking_turns))
    assert math.exp(learnt.log(lone["m0"], [lone["m0"]] * 3)) == pytest.approx(1 + 3 * 1.7 / 1.5, rel=0.05)


def test_larger_mixes_have_an_interval_of_their_own_or_none() -> None:
    """Three tenants are not predicted with the confidence of two; where none was measured it is not known."""
    rng = np.random.default_rng(2)
    lone = models(6, rng)
    pairs = learn_predictor(study(lone, rng), lone, "GPU")
    three = ["m00", "m03", "m05"]
    unknown = pairs.predict(three, "MPS")
    assert all(one.high == math.inf for one in unknown)
    shown = text("three", {"MPS": unknown}, pairs, width=120)
    assert next(line for line in shown.splitlines() if " STP " in line).endswith("[not known]")
    both = learn_predictor(study(lone, rng, sizes=(2, 3)), lone, "GPU")
    assert all(one.high < math.inf for one in both.predict(three, "MPS"))


def test_a_quantile_needs_ten_errors() -> None:
    """Of nine errors none is a 90 % bound; errors of few mixes say less than as many of more."""
    assert quantile([0.1] * 9) == math.inf
    errors = list(np.arange(1, 20) / 100)
    assert quantile(errors) == pytest.approx(0.18)
    assert quantile(errors, 10) == pytest.approx(0.19)
    assert quantile(errors, 9) == math.inf


def test_three_pairs_give_no_interval() -> None:
    """Of a new model: each of their six tenants counts once, though two models of its mix are left out in turn."""
    rng = np.random.default_rng(11)
    lone = models(6, rng)
    few = [cell for cell in study(lone, rng) if cell.tenants in {("m00", "m01"), ("m02", "m03"), ("m04", "m05")}]
    assert len(few) == 6
    assert fit(few).half_widths == {}
    assert NEW_MODEL in fit(study(lone, rng)).half_widths


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
        Predictor.from_json({"kind": "prediction", "format": 5})
    with pytest.raises(NotPredictable, match="format=2"):
        Predictor.from_json(predictor.to_json() | {"format": 2})


def test_a_model_whose_attention_is_eager_too_is_named_in_the_execution_of_the_mode() -> None:
    """The word eager stands for its attention as well, and that stays."""
    ways = {
        f"m{n}{end}": Lone(
            f"m{n}{end}", 2.0 + n, 1.0, 3, how, does=(f"m{n}", "forward", how, "fp16", "8", "128", "eager")
        )
        for n in range(3)
        for how, end in (("eager", ""), ("cuda_graph", " cuda_graph"))
    }
    graphs = {name: lone for name, lone in ways.items() if lone.execution == "cuda_graph"}
    cells = graph_pairs(graphs, "time slicing", taking_turns)
    predictor = learn_predictor(cells, ways, "GPU")
    found = predictor.predict(["m0", "m1"], "time slicing, cuda_graph")
    assert [one.label for one in found] == ["m0 cuda_graph", "m1 cuda_graph"]


def test_the_next_pairs_are_of_models_that_are_least_known() -> None:
    """A model that is in no pair comes first; what is measured is not asked for again; all measured: nothing."""
    rng = np.random.default_rng(4)
    lone = models(5, rng)
    cells = [cell for cell in study(lone, rng) if "m02" not in cell.models]
    asked = measure_next(cells, lone, 3)
    assert len(set(asked)) == 3
    assert all("m02" in pair for pair in asked)
    assert measure_next(study(lone, rng), lone, 3) == []


def test_of_pairs_that_say_as_much_the_first_in_the_alphabet_is_next() -> None:
    """Models that differ in nothing but their names: rounding of sums does not choose among them."""
    lone = {name: Lone(name, 7.3, 0.37, 3) for name in "abcdefg"}
    assert measure_next([], lone, 3) == [("a", "b"), ("c", "d"), ("e", "f")]


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
    probed(folder)
    return folder


def probed(folder: Path) -> None:
    """Say how busy the device is in every baseline."""
    for path in folder.glob("*/record.json"):
        record = json.loads(path.read_text())
        if record["kind"] == "baseline":
            record["tenants"][0]["metrics"]["launch_bound_pct"] = 50.0
            path.write_text(json.dumps(record))


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


def test_counters_of_a_run_alone_in_eager_mode_say_how_many_sms_work(tmp_path: Path) -> None:
    """Two of three SMs work while the device does. Runs under MPS do not count; without counters there are no odds."""
    study = Study(tmp_path, iterations=30)
    for mps, working in (("disabled", 20.0), ("default", 28.0)):
        counters = {"gpu_sm_active_pct_mean": working, "gpu_gr_active_pct_mean": 30.0}
        study.run(["bert_base"], mps, telemetry=counters)
    study.run(["mistral_7b"])
    probed(tmp_path)
    lone = lone_models(pool(load(records=tmp_path), draws=1))
    assert lone["bert_base"].odds == pytest.approx(math.log(2))
    assert lone["mistral_7b"].odds is None
    assert lone["bert_base"].eager_busy == pytest.approx(lone["bert_base"].busy)

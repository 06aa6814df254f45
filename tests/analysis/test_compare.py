"""Two sweeps against each other: what is found, what is not claimed, what is refused."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from analysis_study import ALONE_MS, Study

from analysis import compare
from analysis.changes import ALONE, SLOWDOWN, TOGETHER, Comparison, NotComparable, Row
from analysis.changes import compare as compared
from analysis.data import DataError, load
from analysis.dataset import Dataset
from mtexp.metrics.change import CHANGED, EQUAL, NOT_KNOWN

PAIR, OTHER = ("bert_base", "llama_3_2_1b"), ("bert_base", "distilgpt2")


def sweep(folder: Path, seed: int, *, repetitions: int = 4, **how: Any) -> Path:
    study = Study(folder, seed=seed, iterations=40, sweep=folder.name, spread=0.002, **how)
    for models in (PAIR, OTHER):
        for mps in ("disabled", "default"):
            study.run(models, mps, repetitions=repetitions)
    for model in dict.fromkeys((*PAIR, *OTHER)):  # not a set: its order differs from process to process
        study.run([model], repetitions=repetitions)
    return folder


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep(tmp_path_factory.mktemp("a"), 1)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep(tmp_path_factory.mktemp("same"), 2, driver_version="590.1")


@pytest.fixture(scope="module")
def faster_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT is 20 % faster wherever it runs; beside it, under time slicing, the others wait less."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ALONE_MS, "bert_base", ALONE_MS["bert_base"] * 0.8)
        return sweep(tmp_path_factory.mktemp("faster"), 3, driver_version="590.1")


Loaded = Callable[[Path], Dataset]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """Reads a folder once for all tests that only look at it."""
    return functools.cache(lambda folder: load(records=folder))


@pytest.fixture(scope="module")
def with_faster(a: Path, faster_alone: Path, loaded: Loaded) -> Comparison:
    return compared(loaded(a), loaded(faster_alone))


def row(found: Comparison, figure: str, tenant: str, mix: str = "", sharing: str = "MPS") -> Row:
    (one,) = [
        r
        for r in found.rows
        if (r.figure, r.tenant) == (figure, tenant) and (not mix or (r.mix, r.sharing) == (mix, sharing))
    ]
    return one


def test_sweeps_of_the_same_are_equal(a: Path, same: Path, loaded: Loaded) -> None:
    """With another driver, which is named; every figure of every point within 3 %."""
    found = compared(loaded(a), loaded(same))
    assert {r.answer for r in (*found.rows, *found.totals)} == {EQUAL}
    assert {r.figure for r in found.totals} == {ALONE, TOGETHER, SLOWDOWN}
    differ = compare.environments(loaded(a), loaded(same))
    assert [(name, second) for name, _, second in differ] == [("driver", "590.1")]


def test_a_faster_baseline_is_told_apart_from_a_slowdown(with_faster: Comparison) -> None:
    """Under MPS BERT is slowed as before, and faster alone and together; nothing else of its own changed."""
    found = with_faster
    assert row(found, ALONE, "bert_base").answer == CHANGED
    assert row(found, ALONE, "bert_base").ratio.value == pytest.approx(0.8, abs=0.01)
    assert row(found, TOGETHER, "bert_base", "+".join(PAIR)).ratio.value == pytest.approx(0.8, abs=0.01)
    assert row(found, SLOWDOWN, "bert_base", "+".join(PAIR)).answer == EQUAL
    assert row(found, ALONE, "llama_3_2_1b").answer == EQUAL
    turns = row(found, SLOWDOWN, "bert_base", "+".join(OTHER), "time slicing")
    assert (turns.answer, turns.ratio.value > 1) == (CHANGED, True)


def test_single_runs_claim_nothing(tmp_path: Path) -> None:
    """Nothing repeated on either side: no answer, and the note says what to do."""
    first, second = (sweep(tmp_path / name, seed, repetitions=1) for name, seed in (("a", 1), ("b", 2)))
    for folder in (first, second):  # each model alone once
        for record in sorted(folder.glob("0*")):
            described = json.loads((record / "record.json").read_text())
            if described["kind"] == "mix" and len(described["tenants"]) == 1:
                for file in record.iterdir():
                    file.unlink()
                record.rmdir()
    found = compared(load(records=first), load(records=second))
    assert {r.answer for r in found.rows} == {NOT_KNOWN}
    assert any("repetitions=3" in note for note in found.notes)


def test_a_model_with_several_baselines_says_which_points_each_is_for(tmp_path: Path) -> None:
    """Two baselines of one model under one name could not be told from each other."""
    sides = []
    for seed, name in enumerate(("a", "b")):
        folder = tmp_path / name
        Study(folder / "first", seed=seed).run(["bert_base", "distilgpt2"])
        later = Study(folder / "second", seed=10 + seed)
        later.run(["mistral_7b"], baseline=False, repetitions=3)  # so that the next baselines have hashes of their own
        later.run(["llama_3_2_1b", "bert_base"])
        sides.append(load(records=folder))
    printed = compare.text(compared(*sides, delta=0.03), *sides, width=200)
    assert "bert_base, for bert_base+distilgpt2 time slicing" in printed
    assert "bert_base, for llama_3_2_1b+bert_base time slicing" in printed
    assert "distilgpt2, for" not in printed
    alone = [p for p in compare.as_json(compared(*sides), *sides)["points"] if p["figure"] == ALONE]
    assert [p["used_by"] for p in alone if p["tenant"] == "bert_base"] == [
        ["bert_base+distilgpt2 time slicing"],
        ["llama_3_2_1b+bert_base time slicing"],
    ]
    assert not any("used_by" in p for p in alone if p["tenant"] == "distilgpt2")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_the_terminal(
    a: Path, faster_alone: Path, with_faster: Comparison, loaded: Loaded, width: int
) -> None:
    """Environments first; no line is longer than the terminal is wide; no name or number is cut."""
    text = compare.text(with_faster, loaded(a), loaded(faster_alone), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.index("driver") < text.index("All points together")
    squeezed = "".join(text.split())
    assert "590.1" in squeezed
    assert "llama_3_2_1binbert_base" in squeezed or width < 120
    assert "…" not in text


def test_json_and_page_say_the_same(a: Path, faster_alone: Path, tmp_path: Path, capsys: Any) -> None:
    """Ratio, ends and answer of every point; the page has one figure; a change is an exit code for CI."""
    page = tmp_path / "deep" / "page.html"
    arguments = [str(a), str(faster_alone), "--json", "--html", str(page), "--fail-on", "changed"]
    assert compare.main(arguments) == 1
    said = json.loads(capsys.readouterr().out)
    assert {"ratio", "low", "high", "answer", "more_runs"} <= set(said["points"][0])
    assert {p["answer"] for p in said["points"]} == {CHANGED, EQUAL}
    assert said["overall"][ALONE]["ratio"] < 1
    assert said["environment"] == [{"name": "driver", "a": "580.95.05", "b": "590.1"}]
    html = page.read_text()
    assert html.count("<figure>") == 1
    assert "equal within 3 %" in html


def test_exit_codes_are_for_what_was_asked(
    a: Path, same: Path, faster_alone: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal sweeps fail nothing; what got faster is a change and not worse alone."""
    monkeypatch.setattr(compare, "load", lambda records: loaded(records))
    assert compare.main([str(a), str(same), "--fail-on", "changed"]) == 0
    assert compare.main([str(a), str(faster_alone)]) == 0
    assert compare.main([str(faster_alone), str(a), "--fail-on", "worse"]) == 1
    assert compare.main([str(a), str(faster_alone), "--fail-on", "worse"]) == 0, "slowdowns rose, but nothing is slower"


def _no_common(tmp_path: Path, a: Path) -> tuple[Path, Path]:
    study = Study(tmp_path / "b", sweep="b")
    study.run(["mistral_7b", "distilgpt2"])
    return a, tmp_path / "b"


def _itself(tmp_path: Path, a: Path) -> tuple[Path, Path]:
    return a, a


def _invalid(tmp_path: Path, a: Path) -> tuple[Path, Path]:
    Study(tmp_path / "b", sweep="b").run(PAIR, verdict="INVALID")
    return a, tmp_path / "b"


def _missing(tmp_path: Path, a: Path) -> tuple[Path, Path]:
    return a, tmp_path / "nowhere"


def _empty(tmp_path: Path, a: Path) -> tuple[Path, Path]:
    (tmp_path / "b").mkdir()
    return a, tmp_path / "b"


@pytest.mark.parametrize(
    ("sides", "facts"),
    [
        (_no_common, ("no point in common", "mistral_7b+distilgpt2", "bert_base+llama_3_2_1b")),
        (_itself, ("in A and in B", "share none")),
        (_invalid, ("B: ", "no run is VALID", "Measure again")),
        (_missing, ("B: ", "no such folder")),
        (_empty, ("B: ", "no record.json")),
    ],
)
def test_what_cannot_be_compared_is_refused(
    sides: Callable[[Path, Path], tuple[Path, Path]], facts: tuple[str, ...], tmp_path: Path, a: Path, capsys: Any
) -> None:
    """One message that says which side, what was found and what to do."""
    first, second = sides(tmp_path, a)
    assert compare.main([str(first), str(second)]) == 2
    said = capsys.readouterr().err
    assert all(fact in said for fact in facts), said
    assert said.count("\n") == 1


def test_a_cpu_is_not_compared_with_a_gpu(a: Path, same: Path, loaded: Loaded) -> None:
    cpu = replace(loaded(same), runs=loaded(same).runs.assign(runtime="cpu"))
    with pytest.raises(NotComparable, match="A was measured on a GPU, B on a CPU"):
        compared(loaded(a), cpu)


@pytest.mark.parametrize("delta", ["0", "-1", "100", "nan"])
def test_a_margin_is_a_percentage(a: Path, delta: str, capsys: Any) -> None:
    assert compare.main([str(a), str(a), "--delta", delta]) == 2
    assert "--delta" in capsys.readouterr().err


def test_designs_are_never_paired(a: Path, same: Path, loaded: Loaded) -> None:
    """Crossover runs compare with something else than sustained ones: no point in common, and the message says why."""
    data, other = (
        replace(own, runs=own.runs.assign(design=design), tenants=own.tenants.assign(design=design))
        for own, design in ((loaded(a), "sustained"), (loaded(same), "crossover"))
    )
    with pytest.raises(NotComparable, match="design is sustained in A and crossover in B"):
        compared(data, other)


def test_crossover_runs_bring_their_own_slowdowns(tmp_path: Path) -> None:
    """One run on each side is enough: its rounds say how far it errs. Nothing else of it is claimed."""
    sides = []
    for name, seed in (("a", 1), ("b", 2)):
        Study(tmp_path / name, seed=seed, sweep=name).run(PAIR)
        side = load(records=tmp_path / name)
        side.runs["design"], side.tenants["design"] = "crossover", "crossover"
        for key in ("slowdown", "normalized_progress"):
            side.tenants[f"{key}_ci_low"], side.tenants[f"{key}_ci_high"] = (
                side.tenants[key] * 0.99,
                side.tenants[key] * 1.01,
            )
        sides.append(side)
    found = compared(*sides, delta=0.05)
    assert {r.answer for r in found.rows if r.figure == SLOWDOWN} == {EQUAL}
    assert {r.answer for r in found.rows if r.figure == TOGETHER} == {NOT_KNOWN}
    sides[1].tenants[["slowdown", "slowdown_ci_low", "slowdown_ci_high"]] *= 1.3
    assert {r.answer for r in compared(*sides).rows if r.figure == SLOWDOWN} == {CHANGED}


def test_points_are_paired_by_the_load_that_was_asked(tmp_path: Path) -> None:
    """The rate that a load gives depends on the baseline; the load is what was asked."""
    sides = []
    for name, rate in (("first", 50.0), ("second", 52.5)):
        Study(tmp_path / name, seed=len(name), sweep=name).run(["bert_base", "llama_3_2_1b"], load=0.2, repetitions=2)
        side = load(records=tmp_path / name)
        side.tenants["load"], side.tenants["rate_rps"] = 0.2, rate
        sides.append(side)
    assert {r.figure for r in compared(*sides).rows} == {TOGETHER}
    for side in sides:
        side.tenants["load"] = float("nan")  # now the rates were asked, and differ
    with pytest.raises(NotComparable, match="no point in common"):
        compared(*sides)


def test_a_side_is_a_folder_a_sweep_or_a_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by how it is written; an empty one is refused."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(compare, "load", lambda query="", **how: asked.append({"query": query, **how}))
    compare.side("A", str(tmp_path), {})
    compare.side("A", "latest", {})
    compare.side("A", "params.mix = 'pair'", {})
    assert [{k: v for k, v in one.items() if v} for one in asked] == [
        {"records": tmp_path},
        {"sweep": "latest"},
        {"query": "params.mix = 'pair'"},
    ]
    with pytest.raises(DataError, match="A: empty"):
        compare.side("A", "", {})

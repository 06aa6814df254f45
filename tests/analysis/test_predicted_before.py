"""The committed test of a frozen predictor: what it said, what was measured, and what the page says of both."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import predict, rivals
from analysis.laws import BUSY_SHARE, SM_ACTIVITY
from analysis.predictions import as_json, read_kept, text
from analysis.predictor import OUTSIDE, Predictor
from analysis.predictor_data import lone_models, with_runs_alone
from analysis.scoring import score
from benchmarks import predicted_before as before

PAGE = before.RESULTS / "predicted.md"
FROZEN = before.RESULTS / "predicted" / "graphs.json"
TURNS, MPS = "time slicing, cuda_graph", "MPS, cuda_graph"
BEYOND = {"minilm_l6", "modernbert_base", "t5_base", "gemma_3_1b", "wav2vec2_base", "yolos_small"}


@pytest.fixture(scope="module")
def tables() -> dict[str, list[before.Row]]:
    return before.tables(before.FIRST)


@pytest.fixture(scope="module")
def today() -> Predictor:
    """What is learnt today from what the frozen predictor was learnt from, with the new models alone."""
    whole, _ = with_runs_alone(before.learnt_from(before.TEN), before.pooled(before.FIRST.alone))
    return whole


def test_the_frozen_file_is_what_was_committed(capsys: pytest.CaptureFixture[str]) -> None:
    """The predictions that were kept name its hash. A later program has another law, and says so."""
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    found = hashlib.sha256(json.dumps(frozen, sort_keys=True).encode()).hexdigest()[:16]
    assert found == "0a658631354ec811" == read_kept(before.KEPT)["frozen"]
    assert predict.main(["bert_base+mistral_7b", "--predictor", str(FROZEN)]) == 2
    assert "format=3" in capsys.readouterr().err


def test_the_files_are_those_whose_hashes_were_written_on_the_gpu_host() -> None:
    log = (before.RESULTS / "predicted" / "sha256.txt").read_text(encoding="utf-8")
    for path, name in ((before.KEPT, "predicted/A_graphs.json"), (FROZEN, "frozen/graphs.json")):
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}" in log


def test_pairs_began_after_the_predictions_were_written_and_triples_before() -> None:
    """The tool itself counts the pairs, all of them, and refuses the triples."""
    kept = read_kept(before.KEPT)
    found = score(kept, before.pooled(["predicted/records/pairs"]).data)
    assert found.before == 0
    assert found.held == {f"{TURNS}, pairs, new model": (48, 48), f"{MPS}, pairs, new model": (18, 48)}
    with pytest.raises(Exception, match="28 runs started before, 0 after"):
        score(kept, before.pooled(["predicted/records/triples"]).data)


@pytest.mark.parametrize(
    ("title", "median", "count"),
    [
        (f"pairs, {TURNS}", 1.7, 48),
        (f"pairs, {MPS}", 26.1, 48),
        (f"triples, {TURNS}", 2.2, 42),
        (f"triples, {MPS}", 6.6, 42),
    ],
)
def test_the_page_says_what_the_records_say(
    tables: dict[str, list[before.Row]], title: str, median: float, count: int
) -> None:
    """Each column of its table, row by row, is computed again."""
    rows, column = tables[title], [f"{what}, {mode}" for what in ("pairs", "triples") for mode in (TURNS, MPS)]
    ours = before.errors(rows, before.OURS)
    assert ours is not None
    assert (ours.count, round(ours.median_pct, 1)) == (count, median)
    section = PAGE.read_text(encoding="utf-8").partition("## The first test")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| ")]
    for row, name in (
        ("**predicted before**", before.OURS),
        ("slowdown 1", rivals.ONE),
        ("mean of the mode", rivals.MEAN),
        ("victim + neighbours", rivals.ADDITIVE),
        ("gpulets' form", rivals.GPULETS),
        ("found after", before.MENDED),
    ):
        (line,) = [line for line in table if line.startswith(f"| {row}")]
        cell = re.sub(r"[*]", "", line.split("|")[2 + column.index(title)]).strip()
        found = before.errors(rows, name)
        assert cell == ("—" if found is None else f"{found.median_pct:.1f} / {found.p90_pct:.0f}"), (row, title)


def test_the_law_of_today_misses_them_less(tables: dict[str, list[before.Row]]) -> None:
    """All six new models lie outside what is learnt from ten; they are marked, and missed far less."""
    rows = tables[f"pairs, {MPS}"]
    assert {label.split()[0] for row in rows for label in row.outside} == BEYOND
    errors = [before.errors(rows, name) for name in (before.OURS, before.MENDED)]
    assert errors[0] is not None
    assert errors[1] is not None
    assert errors[1].median_pct < errors[0].median_pct / 4
    assert not any(row.outside for title, own in tables.items() if title != f"pairs, {MPS}" for row in own)


def test_there_is_no_interval_outside_what_was_learned(today: Predictor) -> None:
    """In text and JSON: what, by how much, and that no interval is known."""
    found = today.predict(["bert_base cuda_graph", "yolos_small"], MPS)
    assert [(one.basis, one.high) for one in found] == [(OUTSIDE, math.inf)] * 2
    shown = " ".join(text("bert_base+yolos_small", {MPS: found}, today, width=200).split())
    assert "[outside]" in shown
    assert (
        "outside what was learned, so no interval is known: SM activity of yolos_small alone 31 %, "
        "nearest learned 52 %; busy share in eager mode of yolos_small alone 97 %, nearest learned 88 %"
    ) in shown
    (mode,) = as_json("bert_base+yolos_small", {MPS: found}, today)["modes"]
    places = mode["rests_on"]["outside_what_was_learned"]
    assert [(one["label"], one["trait"]) for one in places] == [
        ("yolos_small", SM_ACTIVITY),
        ("yolos_small", BUSY_SHARE),
    ]
    assert places[0]["value"] < places[0]["learned"] == pytest.approx(today.fits[MPS].ranges[SM_ACTIVITY][0])
    assert all(one["predicted_high"] is None for one in mode["tenants"])
    inside = today.predict(["bert_base cuda_graph", "mistral_7b cuda_graph"], MPS)
    assert all(one.high < math.inf for one in inside)
    (mode,) = as_json("bert_base+mistral_7b", {MPS: inside}, today)["modes"]
    assert mode["rests_on"]["outside_what_was_learned"] == []
    again = Predictor.from_json(json.loads(json.dumps(today.to_json())))
    assert again.hash == today.hash
    assert again.predict(["bert_base cuda_graph", "yolos_small"], MPS)[0].high == math.inf


# --- graphs without masks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unmasked() -> dict[str, list[before.Row]]:
    return before.without_masks()


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("as it stood", before.AS_IT_STOOD),
        ("runs alone without masks", before.KNOWN),
        ("the same, models taken as unseen", before.UNSEEN),
    ],
)
def test_the_page_says_what_pairs_without_masks_say(unmasked: dict[str, list[before.Row]], row: str, name: str) -> None:
    """Errors and intervals by time slicing and under MPS, of all 147 slowdowns."""
    section = PAGE.read_text(encoding="utf-8").partition("## Graphs without masks")[2].partition("\n## ")[0]
    (line,) = [line for line in section.splitlines() if re.match(rf"\| \**{re.escape(row)}", line)]
    cells = [re.sub(r"[*]", "", cell).strip() for cell in line.split("|")[2:-1]]
    for place, mode in enumerate((TURNS, MPS)):
        rows = unmasked[f"without masks, {mode}"]
        found = before.errors(rows, name)
        assert found is not None
        assert found.count == 147
        assert cells[2 * place] == f"{found.median_pct:.1f} / {found.p90_pct:.0f}"
        held = [one.held[name] for one in rows if one.held.get(name) is not None]
        assert cells[2 * place + 1] == (f"{sum(map(bool, held))} of {len(held)}" if held else "")


# --- the second test --------------------------------------------------------------------------------------------------

SECOND = before.RESULTS / "predicted" / "second"
GRAPHS, ONE_PAIR, STRESSED, EAGER = before.SECOND
ROWS = {
    "graphs, time slicing, from runs alone": (GRAPHS, f"graphs, {TURNS}"),
    "graphs, MPS, from runs alone": (GRAPHS, f"graphs, {MPS}"),
    "graphs, MPS, one pair known": (ONE_PAIR, f"graphs, {MPS}"),
    "eager mode, time slicing, from runs alone": (EAGER, "eager, time slicing"),
    "eager mode, MPS, from runs alone": (EAGER, "eager, MPS"),
    "exploratory: graphs, MPS, pairs with stressors known": (STRESSED, f"graphs, {MPS}"),
}
"""Rows of the page's two tables, with the test and the mode that they are of."""
DECODERS = {"distilgpt2", "llama_3_2_1b", "mistral_7b", "qwen3_0_6b"}
"""Those of known models whose runs alone had a causal mask."""


@pytest.fixture(scope="module")
def second() -> dict[str, list[before.Row]]:
    """Slowdowns by row of the page."""
    found = {name: before.tables(test) for name, test in before.SECOND.items()}
    return {row: found[name][mode] for row, (name, mode) in ROWS.items()}


def _judged(rows: list[before.Row], name: str = before.OURS) -> tuple[float, int, int]:
    """The median error, and how many intervals held of how many."""
    found, held = before.errors(rows, name), [one.held[name] for one in rows if one.held[name] is not None]
    assert found is not None
    return round(found.median_pct, 1), sum(map(bool, held)), len(held)


@pytest.mark.parametrize("row", ROWS)
def test_the_page_says_what_the_second_test_says(second: dict[str, list[before.Row]], row: str) -> None:
    """Errors, intervals and whether the plan's aims were met, with other predictors beside."""
    section = PAGE.read_text(encoding="utf-8").partition("## The second test")[2].partition("\n## ")[0]
    first, other = [line for line in section.splitlines() if line.startswith(f"| {row} |")]
    error, aim, met, intervals, enough = [re.sub(r"[*]", "", cell).strip() for cell in first.split("|")[2:-1]]
    again, *others = [re.sub(r"[*]", "", cell).strip() for cell in other.split("|")[2:-1]]
    ours = before.errors(second[row], before.OURS)
    assert ours is not None
    assert ours.count == 40
    assert error == f"{ours.median_pct:.1f} / {ours.p90_pct:.0f}"
    assert again == f"{ours.median_pct:.1f}"
    _, held, of = _judged(second[row])
    assert intervals == f"{held} of {of} ({100 * held / of:.0f} %)"
    if not row.startswith("exploratory"):
        assert int(aim) == (6 if row.startswith("eager") else 4)
        assert met == ("yes" if ours.median_pct <= int(aim) else "no")
        assert enough == ("yes" if 0.85 <= held / of <= 0.95 else "no")
    for cell, name in zip(others, (rivals.ONE, rivals.MEAN, rivals.ADDITIVE, rivals.GPULETS), strict=True):
        found = before.errors(second[row], name)
        assert cell == ("—" if found is None else f"{found.median_pct:.1f}"), name


def test_which_pairs_were_missed(second: dict[str, list[before.Row]]) -> None:
    """The page's reasons: decoders alone by time slicing, two models under MPS."""

    def parted(row: str, models: set[str]) -> tuple[list[before.Row], list[before.Row]]:
        there = [{one.does[0] for one in (own.cell.victim, *own.cell.neighbours)} & models for own in second[row]]
        pairs = list(zip(second[row], there, strict=True))
        return [own for own, found in pairs if found], [own for own, found in pairs if not found]

    turns = "graphs, time slicing, from runs alone"
    with_mask, without = parted(turns, DECODERS)
    assert (_judged(with_mask), _judged(without)) == ((4.7, 9, 22), (1.4, 18, 18))
    assert _judged(second[turns], before.AGAIN) == (1.5, 36, 40)
    odd, others = parted("graphs, MPS, from runs alone", {"dac_44khz", "smollm2_360m"})
    assert (_judged(odd), _judged(others)) == ((12.1, 13, 18), (2.4, 11, 12))
    assert [_judged(parted("graphs, MPS, one pair known", {one})[0])[0] for one in ("dac_44khz", "smollm2_360m")] == [
        2.7,
        1.6,
    ]
    for mode, medians in {"time slicing": (20.0, 7.6), "MPS": (8.3, 4.8)}.items():
        with_dac, rest = parted(f"eager mode, {mode}, from runs alone", {"dac_44khz"})
        assert (_judged(with_dac)[0], _judged(rest)[0]) == medians


def test_predictions_of_the_second_test_came_before_its_pairs() -> None:
    """Files have the hashes that were written on the GPU host; every run of a pair began after."""
    log = (SECOND / "predictions" / "sha256.txt").read_text(encoding="utf-8")
    for test in before.SECOND.values():
        path = before.RESULTS / test.kept
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" in log
        found = score(read_kept(path), before.pooled([*test.measured.values()]).data)
        assert (found.before, found.missing) == (0, 0)


def test_what_was_frozen_is_learned_again_from_committed_records() -> None:
    """With the hash of the program that froze them: later programs may read otherwise and learn the same."""
    files = {GRAPHS: "frozen", EAGER: "frozen", ONE_PAIR: "predictor", STRESSED: "predictor"}
    for name, key in files.items():
        test = before.SECOND[name]
        kept = read_kept(before.RESULTS / test.kept)
        again = replace(before.learnt_from(test.learnt, test.without), code=kept["code"])
        assert again.hash == kept[key], name


@pytest.mark.parametrize(("name", "modes"), [("graphs", {TURNS, MPS}), ("eager", {"time slicing", "MPS"})])
def test_what_the_plan_names_is_frozen_and_can_be_read(name: str, modes: set[str]) -> None:
    """Later programs read it, and what they would write has the hash in the plan."""
    frozen = Predictor.from_json(json.loads((SECOND / f"{name}.json").read_text(encoding="utf-8")))
    assert modes <= set(frozen.fits)
    assert f"[{name}.json]({name}.json), `{frozen.hash}`" in (SECOND / "plan.md").read_text(encoding="utf-8")


def test_a_graph_and_an_eager_model_of_one_name_are_both_known() -> None:
    """Baselines in eager mode and graphs in pairs are both called after the model alone."""
    lone = lone_models(before.pooled(before.WITHOUT_MASKS))
    assert (lone["bert_base"].execution, lone["bert_base eager"].execution) == ("cuda_graph", "eager")
    assert lone["bert_base"].eager_busy == lone["bert_base eager"].busy


def test_the_second_test_names_models_that_there_are(tmp_path: Path) -> None:
    """What its script would run: 28 pairs of graphs and 24 in eager mode, of which none was learned from."""
    said = ""
    for part in ("alone", "probe", "stress", "host", "pairs"):
        done = subprocess.run(
            [SECOND / "measure.sh", part],
            env=os.environ | {"OUT": str(tmp_path), "DRY": "1", "PYTHON": "echo"},
            capture_output=True,
            text=True,
            check=True,
        )
        said += done.stdout
    mixes = {sweep: mix.split(",") for sweep, mix in re.findall(r"sweep=(\S+) .*mix=(\S+)", said)}
    assert {sweep: len(set(own)) for sweep, own in mixes.items()} == {
        **{"lone": 7, "probe": 7, "stress": 27, "host": 16},
        **{"graphs": 28, "eager": 24},
    }
    there = {path.stem for folder in (before.common.ROOT / "conf", SECOND) for path in folder.glob("models/*.yaml")}
    assert {model for own in mixes.values() for mix in own for model in mix.split("+")} <= there
    learned = {lone.label.split()[0] for lone in lone_models(before.pooled(before.WITHOUT_MASKS)).values()}
    assert set(mixes["host"]) == learned
    assert not learned & set(mixes["lone"])

"""The committed test of a frozen predictor: what it said, what was measured, and what the page says of both."""

from __future__ import annotations

import hashlib
import json
import math
import re

import pytest

from analysis import predict, rivals
from analysis.laws import SM_ACTIVITY
from analysis.predictions import as_json, read_kept, text
from analysis.predictor import OUTSIDE, Predicted, Predictor
from analysis.predictor_data import with_runs_alone
from analysis.scoring import score
from benchmarks import predicted_before as before

PAGE = before.RESULTS / "predicted.md"
TURNS, MPS = "time slicing, cuda_graph", "MPS, cuda_graph"
BEYOND = {"minilm_l6", "t5_base", "gemma_3_1b", "wav2vec2_base", "yolos_small"}


@pytest.fixture(scope="module")
def tables() -> dict[str, list[before.Row]]:
    return before.tables()


@pytest.fixture(scope="module")
def frozen() -> Predictor:
    return Predictor.from_json(json.loads(before.FROZEN.read_text(encoding="utf-8")))


def test_the_frozen_file_is_what_was_committed_and_says_what_it_said(frozen: Predictor) -> None:
    """A later program reads the file of an earlier one: its hash and every prediction of it stay."""
    assert frozen.hash == "0a658631354ec811"
    kept = read_kept(before.KEPT)
    whole, said = with_runs_alone(frozen, before.pooled(["predicted/records/lone"]))
    assert (said.predictor, whole.hash) == (kept["frozen"], kept["predictor"])
    compared = 0
    for mix in kept["predictions"]:
        for mode in mix["modes"]:
            labels = [one["label"] for one in mode["tenants"] for _ in range(one["count"])]
            for one, then in zip(whole.predict(labels, mode["mode"]), mode["tenants"], strict=True):
                assert one.slowdown == pytest.approx(then["predicted_slowdown"], rel=1e-6)
                assert one.high == pytest.approx(then["predicted_high"] or math.inf, rel=1e-6)
                assert one.basis == then["basis"]
                compared += 1
    assert compared > 300


def test_a_file_of_the_earlier_format_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """It predicts as it did, beyond what it was learnt from too."""
    asked = ["bert_base+yolos_small", "--mode", MPS, "--predictor", str(before.FROZEN), "--json"]
    assert predict.main([*asked, "--records", str(before.RECORDS / "lone")]) == 0
    said, warned = capsys.readouterr()
    assert "neither marks nor bounds a model that lies outside" in warned
    (mode,) = json.loads(said)["predictions"][0]["modes"]
    (yolos,) = [one for one in mode["tenants"] if one["label"] == "yolos_small"]
    assert yolos["predicted_high"] is not None
    assert yolos["basis"] == "new model"


def test_the_files_are_those_whose_hashes_were_written_on_the_gpu_host() -> None:
    log = (before.RESULTS / "predicted" / "sha256.txt").read_text(encoding="utf-8")
    for path, name in ((before.KEPT, "predicted/A_graphs.json"), (before.FROZEN, "frozen/graphs.json")):
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
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
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


def test_what_lies_outside_is_marked_and_nearer(tables: dict[str, list[before.Row]], frozen: Predictor) -> None:
    """Five of the six new models lie below what the law of kernels was learnt from; what lies inside was predicted."""
    rows = tables[f"pairs, {MPS}"]
    assert {label.split()[0] for row in rows for label in row.outside} == BEYOND
    errors = [before.errors(rows, name) for name in (before.OURS, before.MENDED)]
    assert errors[0] is not None
    assert errors[1] is not None
    assert errors[1].median_pct < errors[0].median_pct / 2
    inside = before.errors([row for row in rows if not row.outside], before.OURS)
    assert inside is not None
    assert inside.median_pct < 2
    assert not any(row.outside for title, own in tables.items() if title != f"pairs, {MPS}" for row in own)


def test_a_fit_with_ranges_gives_no_interval_outside(frozen: Predictor) -> None:
    """In text and JSON: what, by how much, and that no interval is known."""
    whole, _ = with_runs_alone(frozen, before.pooled(["predicted/records/lone"]))
    fits = {mode: before.bounded(fit, whole.lone) for mode, fit in whole.fits.items()}
    today = Predictor(whole.device, fits, whole.lone)
    found = today.predict(["bert_base cuda_graph", "yolos_small"], MPS)
    assert [(one.basis, one.high) for one in found] == [(OUTSIDE, math.inf)] * 2
    shown = " ".join(text("bert_base+yolos_small", {MPS: found}, today, width=200).split())
    assert "[outside]" in shown
    assert "outside what was learned, so no interval is known: SM activity of yolos_small alone 31 %" in shown
    (mode,) = as_json("bert_base+yolos_small", {MPS: found}, today)["modes"]
    (place,) = mode["rests_on"]["outside_what_was_learned"]
    assert (place["label"], place["trait"]) == ("yolos_small", SM_ACTIVITY)
    assert place["value"] < place["taken"] == pytest.approx(fits[MPS].ranges[SM_ACTIVITY][0])
    assert all(one["predicted_high"] is None for one in mode["tenants"])
    inside: list[Predicted] = today.predict(["bert_base cuda_graph", "modernbert_base"], MPS)
    assert all(one.high < math.inf for one in inside)
    (mode,) = as_json("bert_base+modernbert_base", {MPS: inside}, today)["modes"]
    assert mode["rests_on"]["outside_what_was_learned"] == []
    again = Predictor.from_json(json.loads(json.dumps(today.to_json())))
    assert again.hash == today.hash
    assert again.predict(["bert_base cuda_graph", "yolos_small"], MPS)[0].high == math.inf

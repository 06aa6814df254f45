"""Predictions that were frozen before their mixes were measured, beside other predictors: docs/results/predicted.md.

No benchmark of speed. The predictions are those of the committed files, as they were written on the GPU host before the
first pair; the others learn from the mixes that the frozen predictor was learnt from. Rows called "found after" are no
test: in the first test they are of the law of today, which was found on these runs, in the second of the frozen law
with newer runs alone. The last tables are of graphs without masks, of which a predictor that was learnt from graphs
with masks had not learnt. They were measured before it was committed, and looked at after.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from analysis.data import load
from analysis.dataset import Dataset, together
from analysis.laws import Lone
from analysis.pooling import Results, pool
from analysis.predictions import read_kept
from analysis.predictor import NEW_MIX, Cell, Predictor, kind_of
from analysis.predictor_data import lone_models, measured_cells, predictor_of, with_runs_alone
from analysis.rivals import ADDITIVE, Rival, rivals_of, utilisations_of
from analysis.scoring import Errors
from benchmarks import common

RESULTS = common.ROOT / "docs" / "results"
OURS, MENDED = "predicted before", "found after: the law of today"
AGAIN = "found after: known models alone measured again"
AS_IT_STOOD, KNOWN, UNSEEN = "as it stood", "runs alone without masks", "the same, models taken as unseen"


@dataclass(frozen=True)
class Test:
    """Predictions, and what they are compared with; folders are below docs/results."""

    kept: str
    """The file of predictions."""
    learnt: Sequence[str]
    """What the frozen predictor was learnt from."""
    measured: Mapping[str, str]
    """What was measured afterwards, by name."""
    alone: Sequence[str] = ()
    """Runs alone of the new models, where they are not in what was learnt from."""
    without: str = ""
    """A sweep that was measured later, and is left out of what was learnt from."""
    mended: bool = False
    """Whether the law of today is beside it."""
    again: Sequence[str] = ()
    """Newer runs alone of known models, to see what they would have changed."""


TEN = ("../archive/h200-masks/records", "../archive/h200/records")
WITHOUT_MASKS = ("../archive/h200-causal-masks/records", "pairs/six-more/records", "pairs/alone/records")
FIRST = Test(
    "predicted/predictions.json",
    TEN,
    {what: f"predicted/records/{what}" for what in ("pairs", "triples")},
    alone=["predicted/records/lone"],
    mended=True,
)
_RECORDS, _PREDICTIONS = "predicted/second/records", "predicted/second/predictions"
SECOND = {
    "graphs, from runs alone": Test(
        f"{_PREDICTIONS}/graphs-alone.json",
        WITHOUT_MASKS,
        {"graphs": f"{_RECORDS}/graphs"},
        alone=[f"{_RECORDS}/lone"],
        again=["pairs/graphs/records"],
    ),
    "graphs, one pair known": Test(
        f"{_PREDICTIONS}/graphs-one-pair.json",
        [*WITHOUT_MASKS, f"{_RECORDS}/lone", f"{_RECORDS}/probe"],
        {"graphs": f"{_RECORDS}/graphs"},
    ),
    "graphs, pairs with stressors": Test(
        f"{_PREDICTIONS}/graphs-stress.json",
        [*WITHOUT_MASKS, f"{_RECORDS}/lone", f"{_RECORDS}/stress"],
        {"graphs": f"{_RECORDS}/graphs"},
    ),
    "eager mode, from runs alone": Test(
        f"{_PREDICTIONS}/eager-alone.json",
        ["../archive/h200-causal-masks/records", "pairs/eager/records"],
        {"eager": f"{_RECORDS}/eager"},
        alone=[f"{_RECORDS}/lone", "pairs/alone/records"],
        without="eagerrest",
    ),
}
"""By name. The runs alone in pairs/alone have the counters of known models for gpulets' form."""
KEPT = RESULTS / FIRST.kept
MASKED = RESULTS / "predicted" / "second" / "graphs-masked.json"
WITH_MASKS = (*TEN, "predicted/records")


def arguments() -> argparse.ArgumentParser:
    return common.parser(__doc__ or "", repeats=3)


@dataclass(frozen=True)
class Row:
    """A measured slowdown with what was said of it: logarithms by predictor."""

    cell: Cell
    said: Mapping[str, float]
    held: Mapping[str, bool | None]
    """Whether the interval of kept predictions held it; None = it had none."""
    outside: tuple[str, ...]
    """Models that lie outside what the law of today learns from the same mixes."""


def main() -> None:
    arguments().parse_args()
    found = {
        f"second test, {name}, {title}": rows for name, own in SECOND.items() for title, rows in tables(own).items()
    }
    found |= {f"first test, {title}": rows for title, rows in tables(FIRST).items()}
    for title, rows in (found | without_masks()).items():
        held = {name: [row.held[name] for row in rows if row.held.get(name) is not None] for name in rows[0].held}
        print(f"\n{title}: {len(rows)} slowdowns; error in percent, and how many 90 % intervals held")
        print(f"  {'':52} count median  mean  90 %  worst   held")
        for name in dict.fromkeys(name for row in rows for name in row.said):
            _line(name, rows, held.get(name, []))


def tables(test: Test) -> dict[str, list[Row]]:
    """Rows by what was measured and how, e.g. triples under MPS."""
    today, rivals = _learnt(test)
    newer = {one.does: one.latency_ms for one in lone_models(pooled(test.again)).values()} if test.again else {}
    kept = _said(RESULTS / test.kept)
    found: dict[str, list[Row]] = {}
    for what, folder in test.measured.items():
        for cell in measured_cells(pooled([folder]), unprobed=True):
            everyone = (cell.victim, *cell.neighbours)
            said = kept.get((cell.mode, tuple(sorted(one.does for one in everyone)), cell.victim.does))
            if said is None:  # of another execution
                continue
            fit = today.fits[cell.mode]
            victim, *around = models = [_known(today, one) for one in everyone]
            logs, held = {OURS: math.log(said["predicted_slowdown"])}, {OURS: _held(cell, said)}
            for name, rival in rivals[cell.mode].items():
                log = rival(victim, around)
                if log is not None and (name != ADDITIVE or all(one.label in fit.suffers for one in models)):
                    logs[name] = log
            if test.mended:
                logs[MENDED] = fit.log(victim, around)
            if newer:
                own, *others = [replace(one, latency_ms=newer.get(one.does, one.latency_ms)) for one in models]
                logs[AGAIN] = fit.log(own, others)
                half = fit.half_widths.get(kind_of(fit.basis([own, *others]), len(models)))
                held[AGAIN] = None if half is None else abs(logs[AGAIN] - cell.log) <= half
            outside = tuple(one.label for one in models if fit.outside(one))
            found.setdefault(f"{what}, {cell.mode}", []).append(Row(cell, logs, held, outside))
    return found


def _learnt(test: Test) -> tuple[Predictor, dict[str, dict[str, Rival]]]:
    """What is learnt today from what the frozen predictor was learnt from, and other predictors by mode and name."""
    before = pooled(test.learnt, test.without)
    predictor, utilisations = learnt_from(test.learnt, test.without), utilisations_of(before)
    if test.alone:
        alone = pooled(test.alone)
        predictor, _ = with_runs_alone(predictor, alone)
        utilisations |= utilisations_of(alone)
    cells: dict[str, list[Cell]] = {}
    for cell in measured_cells(before):
        if not cell.stressed:
            cells.setdefault(cell.mode, []).append(cell)
    return predictor, {mode: rivals_of(own, utilisations) for mode, own in cells.items()}


def without_masks() -> dict[str, list[Row]]:
    """Rows by sharing mode: what is said of graphs without masks by what was learnt from graphs with masks."""
    frozen, before = Predictor.from_json(json.loads(MASKED.read_text(encoding="utf-8"))), pooled(WITH_MASKS)
    found: dict[str, list[Row]] = {}
    pairs = [cell for cell in measured_cells(before) if len(cell.neighbours) == 1]
    by_mode = {mode: [cell for cell in pairs if cell.mode == mode] for mode in frozen.fits if "cuda_graph" in mode}
    rivals = {mode: rivals_of(own, utilisations_of(before)) for mode, own in by_mode.items()}
    for cell in measured_cells(pooled(WITHOUT_MASKS)):
        fit = frozen.fits[cell.mode]
        law = replace(fit, suffers={}, inflicts={})
        then = [_known(frozen, one) for one in (cell.victim, *cell.neighbours)]
        now = [
            replace(one, label=known.label) for one, known in zip((cell.victim, *cell.neighbours), then, strict=True)
        ]
        logs = {name: one(now[0], now[1:]) for name, one in rivals[cell.mode].items()}
        logs |= {
            AS_IT_STOOD: fit.log(then[0], then[1:]),
            KNOWN: fit.log(now[0], now[1:]),
            UNSEEN: law.log(now[0], now[1:]),
        }
        bases = {AS_IT_STOOD: NEW_MIX, KNOWN: NEW_MIX, UNSEEN: law.basis(now)}
        said = {name: log for name, log in logs.items() if log is not None}
        halves = {name: fit.half_widths.get(kind_of(basis, len(now))) for name, basis in bases.items()}
        held = {name: None if half is None else abs(said[name] - cell.log) <= half for name, half in halves.items()}
        found.setdefault(f"without masks, {cell.mode}", []).append(Row(cell, said, held, ()))
    return found


def _said(path: Path) -> dict[tuple[str, tuple[tuple[str, ...], ...], tuple[str, ...]], Mapping[str, Any]]:
    """Kept predictions by mode, what all tenants do, and what this one does."""
    return {
        (mode["mode"], _mix(mode["tenants"]), tuple(tenant["does"])): tenant
        for mix in read_kept(path)["predictions"]
        for mode in mix["modes"]
        for tenant in mode["tenants"]
    }


def _mix(tenants: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple(sorted(tuple(one["does"]) for one in tenants for _ in range(one["count"])))


def _known(predictor: Predictor, one: Lone) -> Lone:
    """A model as the predictor knows it."""
    return next(own for own in predictor.lone.values() if own.does == one.does)


def _held(cell: Cell, tenant: Mapping[str, float | None]) -> bool | None:
    low, high = tenant["predicted_low"], tenant["predicted_high"]
    if low is None or high is None:
        return None
    return (0.0 if low <= 1 else low) <= math.exp(cell.log) <= high


def pooled(parts: Sequence[str], without: str = "") -> Results:
    """Runs in folders below docs/results, read once; ``without`` a sweep."""
    return _pooled(tuple(parts), without)


@cache
def _pooled(parts: tuple[str, ...], without: str) -> Results:
    whole = together([_read(part) for part in parts], RESULTS)
    runs = whole.runs[whole.runs["sweep"] != without] if without else whole.runs
    tenants = whole.tenants[whole.tenants["record_id"].isin(runs["record_id"])]
    return pool(replace(whole, runs=runs, tenants=tenants), draws=1)


@cache
def _read(part: str) -> Dataset:
    return load(records=RESULTS / part)


def learnt_from(parts: Sequence[str], without: str = "") -> Predictor:
    """What is learnt today from :func:`pooled` runs, once."""
    return _learnt_from(tuple(parts), without)


@cache
def _learnt_from(parts: tuple[str, ...], without: str) -> Predictor:
    return predictor_of(_pooled(parts, without))


def errors(rows: Sequence[Row], name: str) -> Errors | None:
    """Errors of one predictor; None if it predicted none of the rows."""
    logs = [row.said[name] - row.cell.log for row in rows if name in row.said]
    return Errors.of(logs) if logs else None


def _line(name: str, rows: Sequence[Row], held: Sequence[bool | None]) -> None:
    own = errors(rows, name)
    if own is not None:
        figures = f"{own.median_pct:6.1f} {own.mean_pct:5.1f} {own.p90_pct:5.1f} {own.worst_pct:6.0f}"
        print(f"  {name:52} {own.count:5} {figures}" + (f"   {sum(map(bool, held))} of {len(held)}" if held else ""))


if __name__ == "__main__":
    main()

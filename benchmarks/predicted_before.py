"""Predictions that were frozen before their mixes were measured, beside other predictors: docs/results/predicted.md.

No benchmark of speed. The predictions are those of the committed files, as they were written on the GPU host before the
first pair; the others learn from the mixes that the frozen predictor was learnt from. The last row of the first test is
what the law of today says: it was found after these runs, so they are no test of it. The second table is of graphs
without masks, of which a predictor that was learnt from graphs with masks had not learnt. They were measured before it
was committed, and looked at after.
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
from analysis.dataset import together
from analysis.laws import Lone
from analysis.pooling import Results, pool
from analysis.predictions import read_kept
from analysis.predictor import NEW_MIX, Cell, Predictor, kind_of
from analysis.predictor_data import measured_cells, predictor_of, with_runs_alone
from analysis.rivals import ADDITIVE, rivals_of, utilisations_of
from analysis.scoring import Errors
from benchmarks import common

RESULTS = common.ROOT / "docs" / "results"
OURS, MENDED = "predicted before", "found after: the law of today"
AS_IT_STOOD, KNOWN, UNSEEN = "as it stood", "runs alone without masks", "the same, models taken as unseen"


@dataclass(frozen=True)
class Test:
    """Predictions, and what they are compared with; folders are below docs/results."""

    kept: Mapping[str, str]
    """Files of predictions, by name."""
    learnt: Sequence[str]
    """What the frozen predictor was learnt from."""
    alone: str
    """Runs alone of the new models."""
    measured: Mapping[str, str]
    """What was measured afterwards, by name."""
    mended: bool = False
    """Whether the law of today is beside it."""


TEN = ("../archive/h200-masks/records", "../archive/h200/records")
FIRST = Test(
    {OURS: "predicted/predictions.json"},
    TEN,
    "predicted/records/lone",
    {what: f"predicted/records/{what}" for what in ("pairs", "triples")},
    mended=True,
)
KEPT = RESULTS / FIRST.kept[OURS]
MASKED = RESULTS / "predicted" / "second" / "graphs-masked.json"
WITH_MASKS = (*TEN, "predicted/records")
WITHOUT_MASKS = ("../archive/h200-causal-masks/records", "pairs/six-more/records", "pairs/alone/records")


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
    for title, rows in (tables(FIRST) | without_masks()).items():
        held = {name: [row.held[name] for row in rows if row.held.get(name) is not None] for name in rows[0].held}
        print(f"\n{title}: {len(rows)} slowdowns; error in percent, and how many 90 % intervals held")
        print(f"  {'':52} count median  mean  90 %  worst   held")
        for name in dict.fromkeys(name for row in rows for name in row.said):
            _line(name, rows, held.get(name, []))


def tables(test: Test) -> dict[str, list[Row]]:
    """Rows by what was measured and how: unseen pairs and triples by sharing mode."""
    before, alone = pooled(test.learnt), pooled([test.alone])
    learnt: dict[str, list[Cell]] = {}
    for cell in measured_cells(before):
        learnt.setdefault(cell.mode, []).append(cell)
    rivals = {mode: rivals_of(own, utilisations_of(before) | utilisations_of(alone)) for mode, own in learnt.items()}
    today, _ = with_runs_alone(predictor_of(before), alone)
    kept = {name: _said(RESULTS / file) for name, file in test.kept.items()}
    found: dict[str, list[Row]] = {}
    for what, folder in test.measured.items():
        for cell in measured_cells(pooled([folder]), unprobed=True):
            everyone = (cell.victim, *cell.neighbours)
            key = cell.mode, tuple(sorted(one.does for one in everyone)), cell.victim.does
            said = {name: own[key] for name, own in kept.items() if key in own}
            if not said:  # of another execution
                continue
            fit = today.fits[cell.mode]
            victim, *around = (_known(today, one) for one in everyone)
            logs = {name: math.log(one["predicted_slowdown"]) for name, one in said.items()}
            for name, rival in rivals[cell.mode].items():
                log = rival(victim, around)
                if log is not None and (name != ADDITIVE or all(one.label in fit.suffers for one in (victim, *around))):
                    logs[name] = log
            if test.mended:
                logs[MENDED] = fit.log(victim, around)
            outside = tuple(one.label for one in (victim, *around) if fit.outside(one))
            held = {name: _held(cell, one) for name, one in said.items()}
            found.setdefault(f"{what}, {cell.mode}", []).append(Row(cell, logs, held, outside))
    return found


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


def pooled(parts: Sequence[str]) -> Results:
    """Runs in folders below docs/results, read once."""
    return _pooled(tuple(parts))


@cache
def _pooled(parts: tuple[str, ...]) -> Results:
    return pool(together([load(records=RESULTS / part) for part in parts], RESULTS), draws=1)


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

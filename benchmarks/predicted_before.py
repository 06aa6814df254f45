"""Predictions that were frozen before their mixes were measured, beside other predictors: docs/results/predicted.md.

No benchmark of speed. The predictions are those of the committed file, as they were written on the GPU host before the
first pair; the others learn from the pairs that the frozen predictor was learnt from. The last rows are what is done
since about models outside what was learned: found after these runs, so they are no test of it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.data import load
from analysis.dataset import together
from analysis.laws import Lone, ranges_of
from analysis.pooling import Results, pool
from analysis.predictions import read_kept
from analysis.predictor import Cell, Fit, Predictor
from analysis.predictor_data import measured_cells, with_runs_alone
from analysis.rivals import ADDITIVE, GPULETS, MEAN, ONE, rivals_of, utilisations_of
from analysis.scoring import Errors
from benchmarks import common

RESULTS = common.ROOT / "docs" / "results"
RECORDS, FROZEN = RESULTS / "predicted" / "records", RESULTS / "predicted" / "graphs.json"
KEPT = RESULTS / "predicted" / "predictions.json"
LEARNT = ("pairs/graphs", "../archive/h200")
"""What the frozen predictor was learnt from."""
OURS, MENDED = "predicted before", "found after: nearest that was learned"
NARROW = ("yolos_small", "wav2vec2_base")
"""Models with long kernels on few SMs."""


def arguments() -> argparse.ArgumentParser:
    return common.parser(__doc__ or "", repeats=3)


@dataclass(frozen=True)
class Row:
    """A measured slowdown with what was said of it: logarithms by predictor."""

    cell: Cell
    said: Mapping[str, float]
    held: bool | None
    """Whether the interval of the predictions held it; None = it had none."""
    outside: tuple[str, ...]
    """Models that lie outside what was learned."""


def main() -> None:
    arguments().parse_args()
    for title, rows in tables().items():
        held = [row.held for row in rows if row.held is not None]
        print(f"\n{title}: {len(rows)} slowdowns; 90 % intervals held {sum(held)} of {len(held)}; error in percent")
        print(f"  {'':52} count median  mean  90 %  worst")
        for name in (OURS, ONE, MEAN, ADDITIVE, GPULETS, MENDED):
            _line(name, name, rows)
        inside, wide = ([row for row in rows if not row.outside], [row for row in rows if not _narrow(row)])
        for note, own in (("inside what was learned", inside), ("without " + " and ".join(NARROW), wide)):
            if 0 < len(own) < len(rows):
                print(f"  {note}")
                for name in (OURS, GPULETS, MENDED):
                    _line(f"  {name}", name, own)


def tables() -> dict[str, list[Row]]:
    """Rows by what was measured and how: unseen pairs and triples by sharing mode."""
    frozen, kept = Predictor.from_json(json.loads(FROZEN.read_text(encoding="utf-8"))), read_kept(KEPT)
    before, alone = pooled([f"{part}/records" for part in LEARNT]), pooled(["predicted/records/lone"])
    whole, _ = with_runs_alone(frozen, alone)
    learnt: dict[str, list[Cell]] = {}
    for cell in measured_cells(before):
        learnt.setdefault(cell.mode, []).append(cell)
    rivals = {mode: rivals_of(own, utilisations_of(before) | utilisations_of(alone)) for mode, own in learnt.items()}
    said = {
        (mode["mode"], _mix(mode["tenants"]), tuple(tenant["does"])): tenant
        for mix in kept["predictions"]
        for mode in mix["modes"]
        for tenant in mode["tenants"]
    }
    found: dict[str, list[Row]] = {}
    for what in ("pairs", "triples"):
        for cell in measured_cells(pooled([f"predicted/records/{what}"]), unprobed=True):
            everyone = (cell.victim, *cell.neighbours)
            tenant = said[cell.mode, tuple(sorted(one.does for one in everyone)), cell.victim.does]
            fit = bounded(whole.fits[cell.mode], whole.lone)
            victim, *around = (_known(whole, one) for one in everyone)
            logs = {OURS: math.log(tenant["predicted_slowdown"]), MENDED: fit.log(victim, around)}
            for name, rival in rivals[cell.mode].items():
                log = rival(victim, around)
                if log is not None and (name != ADDITIVE or all(one.label in fit.suffers for one in (victim, *around))):
                    logs[name] = log
            outside = tuple(one.label for one in (victim, *around) if fit.outside(one))
            found.setdefault(f"{what}, {cell.mode}", []).append(Row(cell, logs, _held(cell, tenant), outside))
    return found


def bounded(fit: Fit, lone: Mapping[str, Lone]) -> Fit:
    """A fit of a file that says no ranges, with those of the models that it was learnt from."""
    models = {label for mix in fit.measured for label in mix}
    return replace(fit, ranges=ranges_of(fit.law, [lone[label] for label in models], fit.columns))


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
    """Runs in folders below docs/results."""
    return pool(together([load(records=RESULTS / part) for part in parts], RESULTS), draws=1)


def _narrow(row: Row) -> bool:
    return any(one.does[0] in NARROW for one in (row.cell.victim, *row.cell.neighbours))


def errors(rows: Sequence[Row], name: str) -> Errors | None:
    """Errors of one predictor; None if it predicted none of the rows."""
    logs = [row.said[name] - row.cell.log for row in rows if name in row.said]
    return Errors.of(logs) if logs else None


def _line(title: str, name: str, rows: Sequence[Row]) -> None:
    own = errors(rows, name)
    if own is not None:
        figures = f"{own.median_pct:6.1f} {own.mean_pct:5.1f} {own.p90_pct:5.1f} {own.worst_pct:6.0f}"
        print(f"  {title:52} {own.count:5} {figures}")


if __name__ == "__main__":
    main()

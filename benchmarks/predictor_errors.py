"""How far predictions of slowdowns lie from what was measured, beside other predictors, on committed records.

No benchmark of speed: every measured mix, or every model, is left out in turn and predicted from the rest.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from analysis.data import load
from analysis.learning import Keeps, fit, leave_out, solve
from analysis.pooling import Results, pool
from analysis.predictor import NEW_MIX, NEW_MODEL, Cell, kind_of
from analysis.predictor_data import measured_cells
from analysis.rivals import ADDITIVE, GPULETS, MEAN, ONE, Utilisations, rivals_of, utilisations_of
from benchmarks import common

FOLDERS = [common.ROOT / "docs" / "results" / name / "records" for name in ("h200", "h100", "pairs/graphs")]
MODES = ("time slicing", "MPS", "MPS equal share")
"""Sharing modes; the mode of graphs is such a name with their execution."""


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=3)
    made.add_argument("records", type=Path, nargs="*", default=FOLDERS, help="folders of records, one GPU kind each")
    return made


def main() -> None:
    options = arguments().parse_args()
    studies = [(folder.parent.name, pool(load(records=folder), draws=400)) for folder in options.records]
    cells = {name: measured_cells(results) for name, results in studies}
    for name, results in studies:
        found = {cell.mode for cell in cells[name]}
        for mode in sorted(mode for mode in found if mode.partition(", ")[0] in MODES):
            own = [cell for cell in cells[name] if cell.mode == mode]
            others = [cell for other in cells if other != name for cell in cells[other] if cell.mode == mode]
            if len({cell.tenants for cell in own}) > 9:
                _show(f"{name}, {mode}", own, others, results)


def _show(title: str, cells: list[Cell], others: list[Cell], results: Results) -> None:
    pairs = [cell for cell in cells if len(cell.neighbours) == 1]
    more = [cell for cell in cells if len(cell.neighbours) > 1]
    print(f"\n{title}: {len(pairs)} victims in pairs, {len(more)} in larger mixes; error of the slowdown in percent")
    print(f"  {'':44} median  mean  90 %  worst")
    _line("measurement noise (a perfect predictor)", _noise(cells, results))
    rivals, utilisations = (ONE, MEAN, GPULETS, ADDITIVE), utilisations_of(results)
    _line("1 + b B, nothing fitted", [(c, _queue(c)) for c in pairs])
    for name in rivals:
        keeps, by = (_without_mix, ", pair left out") if name == ADDITIVE else (_without_model, ", model left out")
        _line(name + ("" if name == ONE else by), _rival(name, pairs, keeps, utilisations))
    _line("mtexp: model left out", leave_out(pairs, _without_model))
    _line("mtexp: both models left out", leave_out(pairs, _without_both))
    _line("mtexp: pair left out", leave_out(pairs, _without_mix))
    if others:
        _line("mtexp: fit of the other GPU, pairs", [(c, _without_effects(others, c)) for c in pairs])
    if more:
        learnt = solve(pairs)
        _line("mtexp: larger mixes from pairs alone", [(c, learnt.log(c.victim, c.neighbours)) for c in more])
        every = [(c, log) for c, log in leave_out(cells, _without_mix) if len(c.neighbours) > 1]
        _line("mtexp: larger mixes, mix left out", every)
    for name, found in (
        ("model", _covered(cells, _models(cells), NEW_MODEL)),
        ("mix", _covered(cells, _mixes(cells), NEW_MIX)),
    ):
        if found:
            print(f"  90 % intervals hold, {name} left out: {100 * np.mean(found):.0f} % of {len(found)}")


def _line(name: str, found: Iterable[tuple[Cell, float]]) -> None:
    errors = np.array([100 * abs(math.exp(log - cell.log) - 1) for cell, log in found])
    if len(errors):
        print(
            f"  {name:52} {np.median(errors):6.1f} {errors.mean():5.1f} {np.quantile(errors, 0.9):5.0f} "
            f"{errors.max():6.0f}"
        )


def _noise(cells: Sequence[Cell], results: Results) -> list[tuple[Cell, float]]:
    """Every cell with what its measurement errs by, one draw each of hundred."""
    by_point = dict(zip(results.points["records"].tolist(), results.points["point"].tolist(), strict=True))
    found = []
    for cell in cells:
        rows = results.tenants[
            (results.tenants["point"] == by_point[cell.records]) & (results.tenants["label"] == cell.victim.label)
        ]
        figure = (
            results.figures.get((int(rows["point"].iloc[0]), int(rows["position"].iloc[0]), "slowdown"))
            if len(rows)
            else None
        )
        if figure is not None:
            found += [(cell, cell.log + float(error)) for error in figure.errors[:100]]
    return found


def _queue(cell: Cell) -> float:
    return math.log1p(cell.victim.busy * sum(other.busy for other in cell.neighbours))


def _without_model(cell: Cell) -> list[Callable[[Cell], bool]]:
    return [partial(_lacks, model) for model in sorted(cell.models)]


def _lacks(model: str, cell: Cell) -> bool:
    return model not in cell.models


def _has(model: str, cell: Cell) -> bool:
    return model in cell.models


def _is(mix: tuple[str, ...], cell: Cell) -> bool:
    return cell.tenants == mix


def _without_both(cell: Cell) -> list[Callable[[Cell], bool]]:
    return [lambda other: not cell.models & other.models]


def _without_mix(cell: Cell) -> list[Callable[[Cell], bool]]:
    return [lambda other: other.tenants != cell.tenants]


def _rival(name: str, cells: Sequence[Cell], keeps: Keeps, utilisations: Utilisations) -> list[tuple[Cell, float]]:
    """Every cell as a rival predicts it from those that ``keeps`` keeps for it; their mean where it can't say."""
    found = []
    for cell in cells:
        for keep in keeps(cell):
            train = [other for other in cells if keep(other)]
            known = rivals_of(train, utilisations)
            log = known[name](cell.victim, cell.neighbours)
            found.append((cell, log if log is not None else float(np.mean([c.log for c in train]))))
    return found


def _without_effects(train: Sequence[Cell], cell: Cell) -> float:
    """The fit of another GPU: its form and its models."""
    return solve([other for other in train if len(other.neighbours) == 1]).log(cell.victim, cell.neighbours)


def _models(cells: Sequence[Cell]) -> list[Callable[[Cell], bool]]:
    names = sorted({model for cell in cells for model in cell.models})
    return [partial(_has, model) for model in names]


def _mixes(cells: Sequence[Cell]) -> list[Callable[[Cell], bool]]:
    return [partial(_is, mix) for mix in sorted({cell.tenants for cell in cells})]


def _covered(cells: Sequence[Cell], lefts: Sequence[Callable[[Cell], bool]], basis: str) -> list[bool]:
    """Whether the interval of what was left out, itself made without it, holds what was measured there."""
    found = []
    for left in lefts:
        train, test = [c for c in cells if not left(c)], [c for c in cells if left(c)]
        learnt = fit(train)
        for cell in test:
            half = learnt.half_widths.get(kind_of(basis, 1 + len(cell.neighbours)))
            if half is not None:
                found.append(abs(learnt.log(cell.victim, cell.neighbours) - cell.log) <= half)
    return found


if __name__ == "__main__":
    main()

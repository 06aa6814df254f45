"""How far predictions of slowdowns lie from what was measured, beside other predictors, on committed records.

No benchmark of speed: every measured mix, or every model, is left out in turn and predicted from the rest. All that is
learnt is learnt again without it, the strengths of the regression, the time slice and the intervals too.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from analysis.data import load
from analysis.dataset import together
from analysis.learning import fit, solve
from analysis.pooling import Results, pool
from analysis.predictor import NEW_MODEL, NOT_SAMPLED, OUTSIDE, Cell, Fit, kind_of
from analysis.predictor_data import measured_cells
from analysis.rivals import ADDITIVE, GPULETS, MEAN, ONE, Utilisations, rivals_of, utilisations_of
from benchmarks import common

RESULTS = common.ROOT / "docs" / "results"
STUDIES = {
    "H200, runs apart": (["../archive/h200"], "eager"),
    "H100, runs apart": (["../archive/h100"], "eager"),
    "H200, in rounds": (["pairs/eager", "pairs/graphs"], "eager"),
    "H200, in rounds, CUDA graphs": (["pairs/graphs", "pairs/alone"], "cuda_graph"),
    "H200, in rounds, CUDA graphs, decoders with a mask": (
        ["../archive/h200-causal-masks", "pairs/six-more", "pairs/alone"],
        "cuda_graph",
    ),
    "H200, in rounds, CUDA graphs with masks": (
        ["../archive/h200-masks", "../archive/h200", "predicted"],
        "cuda_graph",
    ),
}
"""Folders of results, and which execution is scored: the rest says how models are alone. With masks: the triples."""
Keeps = Callable[[Cell], Sequence[Callable[[Cell], bool]]]
"""For a cell, which other cells it is predicted from: one function for each prediction."""
MODES = ("time slicing", "MPS", "MPS equal share")


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=3)
    made.add_argument("records", type=Path, nargs="*", help="folders of records, one GPU kind each; default: committed")
    return made


def main() -> None:
    folders = arguments().parse_args().records
    named = {name: ([RESULTS / part / "records" for part in parts], how) for name, (parts, how) in STUDIES.items()}
    chosen = {str(folder): ([folder], "") for folder in folders} or named
    studies = {name: _read(parts) for name, (parts, _) in chosen.items()}
    cells = {
        name: [
            cell for cell in measured_cells(studies[name]) if how in ("", cell.victim.execution) and not cell.stressed
        ]
        for name, (_, how) in chosen.items()
    }
    device = {name: results.data.runs["device"].iloc[0] for name, results in studies.items()}
    for name, results in studies.items():
        elsewhere = [cell for other in cells if device[other] != device[name] for cell in cells[other]]
        found = {cell.mode for cell in cells[name]}
        for mode in sorted(mode for mode in found if mode.partition(", ")[0] in MODES):
            own = [cell for cell in cells[name] if cell.mode == mode]
            if len({cell.tenants for cell in own}) > 9:
                _show(f"{name}, {mode}", own, [c for c in elsewhere if c.mode == mode and _is_pair(c)], results)


def _read(folders: Sequence[Path]) -> Results:
    return pool(together([load(records=folder) for folder in folders], folders[0]), draws=400)


def _is_pair(cell: Cell) -> bool:
    return len(cell.neighbours) == 1


def _show(title: str, cells: list[Cell], others: list[Cell], results: Results) -> None:
    pairs = [cell for cell in cells if _is_pair(cell)]
    more = [cell for cell in cells if not _is_pair(cell)]
    print(f"\n{title}: {len(pairs)} victims in pairs, {len(more)} in larger mixes; error of the slowdown in percent")
    print(f"  {'':44} median  mean  90 %  worst")
    _line("measurement noise (a perfect predictor)", _noise(cells, results))
    rivals, utilisations = (ONE, MEAN, GPULETS, ADDITIVE), utilisations_of(results)
    _line("1 + b B, nothing fitted", [(c, _queue(c)) for c in pairs])
    for name in rivals:
        keeps, by = (_without_mix, ", pair left out") if name == ADDITIVE else (_without_model, ", model left out")
        _line(name + ("" if name == ONE else by), _rival(name, pairs, keeps, utilisations))
    by_model, by_mix = _left_out(cells, _models(cells)), _left_out(cells, _mixes(cells))
    _line("mtexp: model left out", [(c, log) for c, log, _, _ in by_model if _is_pair(c)])
    for basis in (NEW_MODEL, NOT_SAMPLED, OUTSIDE):
        _line(f"  of it, {basis}", [(c, log) for c, log, own, _ in by_model if own == basis and _is_pair(c)])
    one_pair = _one_pair_known(pairs)
    _line("mtexp: one pair of the model known", [(c, log) for c, log, _, _ in one_pair])
    _line("mtexp: pair left out", [(c, log) for c, log, _, _ in by_mix if _is_pair(c)])
    there = _held(fit(others), pairs) if others else []
    _line("mtexp: fit of the other GPU, pairs", [(c, log) for c, log, _, _ in there])
    if more:
        learnt = solve(pairs)
        _line("mtexp: larger mixes from pairs alone", [(c, learnt.log(c.victim, c.neighbours)) for c in more])
        _line("mtexp: larger mixes, model left out", [(c, log) for c, log, _, _ in by_model if not _is_pair(c)])
        _line("mtexp: larger mixes, mix left out", [(c, log) for c, log, _, _ in by_mix if not _is_pair(c)])
    for name, found in (
        ("model left out", by_model),
        ("one pair of the model known", one_pair),
        ("mix left out", by_mix),
        ("fit of the other GPU", there),
    ):
        held = [abs(log - cell.log) <= half for cell, log, _, half in found if half < math.inf]
        if held:
            print(f"  90 % intervals hold, {name}: {100 * np.mean(held):.0f} % of {len(held)}")


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


def _models(cells: Sequence[Cell]) -> list[Callable[[Cell], bool]]:
    names = sorted({model for cell in cells for model in cell.models})
    return [partial(_has, model) for model in names]


def _mixes(cells: Sequence[Cell]) -> list[Callable[[Cell], bool]]:
    return [partial(_is, mix) for mix in sorted({cell.tenants for cell in cells})]


def _left_out(cells: Sequence[Cell], lefts: Sequence[Callable[[Cell], bool]]) -> list[tuple[Cell, float, str, float]]:
    """What was left out, as a fit that was made without it predicts it."""
    return [
        found
        for left in lefts
        for found in _held(fit([cell for cell in cells if not left(cell)]), [cell for cell in cells if left(cell)])
    ]


def _one_pair_known(pairs: Sequence[Cell]) -> list[tuple[Cell, float, str, float]]:
    """What was left out, where of all pairs of a model only that with the most frequent of its partners is known."""
    often = Counter(model for tenants in {cell.tenants for cell in pairs} for model in tenants)
    found = []
    for model in often:
        own = [cell for cell in pairs if model in cell.models and len(cell.models) == 2]
        partner = max({o for cell in own for o in cell.models - {model}}, key=lambda o: (often[o], o))
        known = [cell for cell in pairs if model not in cell.models or cell.models == {model, partner}]
        found += _held(fit(known), [cell for cell in own if partner not in cell.models])
    return found


def _held(learnt: Fit, cells: Sequence[Cell]) -> list[tuple[Cell, float, str, float]]:
    """Every cell with its prediction, what that rests on and half its interval."""
    found = []
    for cell in cells:
        basis = learnt.basis((cell.victim, *cell.neighbours))
        half = learnt.half_widths.get(kind_of(basis, 1 + len(cell.neighbours)), math.inf)
        found.append((cell, learnt.log(cell.victim, cell.neighbours), basis, half))
    return found


if __name__ == "__main__":
    main()

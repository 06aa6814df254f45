"""How a predictor learns from measured mixes, how well it would have predicted them, and what to measure next.

Lives here: :func:`learn_predictor`, :func:`leave_out`, :func:`measure_next`, :func:`suspects`. May touch: numpy. The
form and its sources are those of :mod:`analysis.predictor`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtexp.metrics.samples import Floats

from .predictor import COVERAGE, NEW_MIX, NEW_MODEL, Cell, Fit, Lone, Predictor, form, kind_of

_TOWARDS = (0.0, 0.5, 0.5)
_RIDGE = (3.0, 3.0)
"""Penalties of coefficients, and of what models suffer and inflict, where too little is measured to choose them: each
counts like three tenants for which 0 was measured."""
_RIDGES = tuple((form, own) for form in (0.3, 3.0, 30.0) for own in (0.1, 0.3, 1.0, 3.0, 10.0))
_FEWEST = 10
"""Errors from which on their 90 % quantile is an interval: with nine or fewer it would be infinite."""
_SUSPECT = 2.5
"""So many half widths of the interval from its prediction, a measured figure is suspect."""


def learn_predictor(cells: Sequence[Cell], lone: Mapping[str, Lone], device: str) -> Predictor:
    """Learn from measured mixes, one fit for each mode that has two mixes or more."""
    by_mode: dict[str, list[Cell]] = {}
    for cell in cells:
        by_mode.setdefault(cell.mode, []).append(cell)
    fits = {mode: fit(own) for mode, own in by_mode.items() if len({cell.tenants for cell in own}) > 1}
    return Predictor(device, fits, lone)


def fit(cells: Sequence[Cell]) -> Fit:
    """Coefficients, and intervals from predictions of what was left out."""
    learnt = solve(cells)
    errors: dict[str, list[float]] = {}
    for basis, keeps in ((NEW_MIX, _other_mix), (NEW_MODEL, _other_models)):
        for cell, log in leave_out(cells, keeps, learnt.ridge):
            errors.setdefault(kind_of(basis, 1 + len(cell.neighbours)), []).append(abs(cell.log - log))
    widths = {kind: quantile(own) for kind, own in errors.items()}
    return replace(
        learnt,
        half_widths={kind: width for kind, width in widths.items() if width < math.inf},
        measured=tuple(sorted({cell.tenants for cell in cells})),
    )


def quantile(errors: Sequence[float]) -> float:
    """The conformal 90 % quantile of absolute errors; infinite for nine or fewer."""
    place = math.ceil((len(errors) + 1) * COVERAGE)
    return sorted(errors)[place - 1] if place <= len(errors) and len(errors) >= _FEWEST else math.inf


Keeps = Callable[[Cell], Sequence[Callable[[Cell], bool]]]
"""For a cell, which other cells it is predicted from: one function for each prediction."""


def _other_mix(cell: Cell) -> list[Callable[[Cell], bool]]:
    return [lambda other: other.tenants != cell.tenants]


def _other_models(cell: Cell) -> list[Callable[[Cell], bool]]:
    """Once without each of its models."""
    return [lambda other, model=model: model not in other.models for model in sorted(cell.models)]  # type: ignore[misc]


def leave_out(
    cells: Sequence[Cell], keeps: Keeps, ridge: tuple[float, float] | None = None
) -> list[tuple[Cell, float]]:
    """Every cell with the logarithm of its slowdown predicted from those cells that ``keeps`` keeps for it."""
    design = _Design.of(cells)
    return design.left_out(design.blocks(keeps), ridge or design.best_ridge())


def solve(cells: Sequence[Cell]) -> Fit:
    """Coefficients without intervals."""
    design = _Design.of(cells)
    ridge = design.best_ridge()
    found, own = design.solve(ridge), len(_TOWARDS) + len(design.columns)
    suffers, inflicts = (found[at : at + len(design.models)] for at in (own, own + len(design.models)))
    return Fit(
        cells[0].mode.partition(", ")[0],
        "/".join(sorted({cell.victim.execution for cell in cells})),
        design.columns,
        ridge,
        tuple(map(float, found[:own])),
        dict(zip(design.models, map(float, suffers), strict=True)),
        dict(zip(design.models, map(float, inflicts), strict=True)),
        {},
        len(cells),
        (),
    )


@dataclass(frozen=True, eq=False)
class _Design:
    """The regression of one mode."""

    cells: Sequence[Cell]
    models: Sequence[str]
    columns: tuple[str, ...]
    rows: Floats
    """Predictors of each cell, less what the coefficients are drawn towards."""
    logs: Floats

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> _Design:
        models = sorted({model for cell in cells for model in cell.models})
        known = [set(lone.traits) for cell in cells for lone in (cell.victim, *cell.neighbours)]
        own = f"{cells[0].mode.partition(', ')[0]}: "
        columns = tuple(sorted(name for name in set.intersection(*known) if name.startswith(own)))
        rows = np.array([_row(cell.victim, cell.neighbours, models, columns) for cell in cells])
        logs = np.array([cell.log for cell in cells])
        return cls(cells, models, columns, rows, logs - rows[:, : len(_TOWARDS)] @ np.array(_TOWARDS))

    def penalty(self, ridge: tuple[float, float]) -> Floats:
        return np.repeat(ridge, [len(_TOWARDS) + len(self.columns), 2 * len(self.models)])

    def solve(self, ridge: tuple[float, float]) -> Floats:
        """All coefficients."""
        found: Floats = _covariance(self.rows, self.penalty(ridge)) @ self.rows.T @ self.logs
        found[: len(_TOWARDS)] += _TOWARDS
        return found

    def blocks(self, keeps: Keeps) -> list[tuple[int, tuple[int, ...]]]:
        """The cell of each prediction, with the cells left out for it; no prediction where none would be left."""
        found = []
        for place, cell in enumerate(self.cells):
            for keep in keeps(cell):
                out = tuple(at for at, other in enumerate(self.cells) if not keep(other))
                if len(out) < len(self.cells):
                    found.append((place, out))
        return found

    def left_out(
        self, blocks: Sequence[tuple[int, tuple[int, ...]]], ridge: tuple[float, float]
    ) -> list[tuple[Cell, float]]:
        """Predictions without a block that the cell is in: they follow from the fit of all.

        As PRESS does for one (D. M. Allen, Technometrics 16, 1974): the errors of a block that is left out are
        (1 - H)^-1 times its residuals, H its part of the hat matrix.
        """
        covariance = _covariance(self.rows, self.penalty(ridge))
        hat = self.rows @ covariance @ self.rows.T
        residuals = self.logs - hat @ self.logs
        known: dict[tuple[int, ...], dict[int, float]] = {}
        found = []
        for place, out in blocks:
            if out not in known:
                rest = np.linalg.solve(np.eye(len(out)) - hat[np.ix_(out, out)], residuals[list(out)])
                known[out] = dict(zip(out, map(float, rest), strict=True))
            cell = self.cells[place]
            found.append((cell, max(cell.log - known[out][place], 0.0)))
        return found

    def best_ridge(self) -> tuple[float, float]:
        """The strengths that predict mixes and models that are left out best, by their squared errors."""
        blocks = self.blocks(_other_mix), self.blocks(_other_models)
        if len({cell.tenants for cell in self.cells}) < _FEWEST or not all(blocks):
            return _RIDGE

        def error(ridge: tuple[float, float]) -> float:
            return sum(
                float(np.mean([(cell.log - log) ** 2 for cell, log in self.left_out(own, ridge)])) for own in blocks
            )

        return min(_RIDGES, key=error)


def _covariance(rows: Floats, penalty: Floats) -> Floats:
    """Covariance of the coefficients, in units of the variance of one cell."""
    return np.asarray(np.linalg.inv(rows.T @ rows + np.diag(penalty)), np.float64)


def _row(victim: Lone, neighbours: Sequence[Lone], models: Sequence[str], columns: Sequence[str] = ()) -> list[float]:
    around = Counter(other.label for other in neighbours)
    return [
        *form(victim, neighbours, columns),
        *(float(model == victim.label) for model in models),
        *(around[model] / max(len(neighbours), 1) for model in models),
    ]


# --- what to measure, and what to doubt -------------------------------------------------------------------------------


def measure_next(cells: Sequence[Cell], lone: Mapping[str, Lone], count: int) -> list[tuple[str, str]]:
    """Pairs of one mode that were not measured and whose measurement would make all such pairs known best.

    The one that takes most off the sum of their variances comes first, then the one that does so once it is measured
    (A-optimal design, one after the other; V. V. Fedorov, Theory of Optimal Experiments, 1972).
    """
    there = {cell.tenants for cell in cells}
    names = sorted(lone)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place:] if (a, b) not in there]
    sides = {pair: np.array([_row(lone[v], [lone[n]], names) for v, n in {pair, pair[::-1]}]) for pair in pairs}
    rows = np.array([_row(cell.victim, cell.neighbours, names) for cell in cells]).reshape(len(cells), -1)
    if not pairs:
        return []
    left = np.vstack(list(sides.values()))
    penalty = np.repeat(solve(cells).ridge if cells else _RIDGE, [len(_TOWARDS), 2 * len(names)])
    covariance = _covariance(rows if len(rows) else np.zeros((1, left.shape[1])), penalty)
    chosen: list[tuple[str, str]] = []
    while len(chosen) < min(count, len(pairs)):
        best = max((p for p in pairs if p not in chosen), key=lambda pair: _gain(covariance, sides[pair], left))
        covariance = np.asarray(covariance - _update(covariance, sides[best]), np.float64)
        chosen.append(best)
    return chosen


def _update(covariance: Floats, rows: Floats) -> Floats:
    """What measuring ``rows`` takes off the covariance."""
    along = covariance @ rows.T
    taken: Floats = along @ np.linalg.inv(np.eye(len(rows)) + rows @ along) @ along.T
    return taken


def _gain(covariance: Floats, rows: Floats, left: Floats) -> float:
    return float(np.einsum("ij,jk,ik->", left, _update(covariance, rows), left))


def suspects(cells: Sequence[Cell]) -> list[tuple[Cell, float]]:
    """Measured cells of one mode that lie far outside what all others predict for them, with that prediction."""
    found = leave_out(cells, _other_mix)
    widths: dict[str, float] = {}
    for kind in {kind_of(NEW_MIX, 1 + len(cell.neighbours)) for cell in cells}:
        own = [abs(cell.log - log) for cell, log in found if kind_of(NEW_MIX, 1 + len(cell.neighbours)) == kind]
        widths[kind] = quantile(own)
    far = [
        (cell, math.exp(log))
        for cell, log in found
        if abs(cell.log - log) > _SUSPECT * widths[kind_of(NEW_MIX, 1 + len(cell.neighbours))]
    ]
    return sorted(far, key=lambda one: -abs(one[0].log - math.log(one[1])))

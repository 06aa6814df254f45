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

from .laws import (
    KERNELS,
    QUEUE,
    SLICES,
    TOWARDS,
    Lone,
    floored,
    form,
    from_law,
    law_of,
    offset,
    ranges_of,
    to_law,
    turns,
)
from .predictor import COVERAGE, NEW_MIX, OUTSIDE, Cell, Fit, Predictor, kind_of

_RIDGE = (3.0, 3.0)
"""Penalties of coefficients, and of what models suffer and inflict, where too little is measured to choose them: each
counts like three tenants for which 0 was measured."""
_RIDGES = tuple((form, own) for form in (0.3, 3.0, 30.0) for own in (0.1, 0.3, 1.0, 3.0, 10.0))
_FLOORS = (-0.4, -0.2, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Floors of log odds that are tried, beside none."""
_WORTH = 0.85
"""A floor must bring errors down to this part of what they are without, or there is none."""
_SLICES_MS, _SWITCHES_MS = np.arange(0.5, 5.01, 0.02), np.arange(0.02, 0.61, 0.02)
"""Lengths of a time slice and of a switch that are tried."""
_USUAL_SLICE_MS = 2.0
"""Towards which the length of a time slice is drawn, as by one measured tenant."""
_FEWEST = 10
"""Fewest independent errors whose 90 % quantile is an interval."""
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
    for cell, log in leave_out(cells, _other_mix, learnt):
        errors.setdefault(kind_of(NEW_MIX, 1 + len(cell.neighbours)), []).append(abs(cell.log - log))
    judged = Counter(kind_of(NEW_MIX, len(tenants)) for tenants in {cell.tenants for cell in cells})
    blindly: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
    for model in learnt.suffers:
        of_it, rest = ([cell for cell in cells if (model in cell.models) == there] for there in (True, False))
        if rest:
            blind = solve(rest, learnt)
            for cell in of_it:
                basis = blind.basis((cell.victim, *cell.neighbours))
                if basis == OUTSIDE:  # its error tells no interval for another model outside
                    continue
                kind = kind_of(basis, 1 + len(cell.neighbours))
                errors.setdefault(kind, []).append(abs(cell.log - blind.log(cell.victim, cell.neighbours)))
                blindly.setdefault(kind, set()).add((cell.victim.label, cell.tenants))
    judged.update({kind: len(own) for kind, own in blindly.items()})
    widths = {kind: quantile(own, judged[kind]) for kind, own in errors.items()}
    return replace(
        learnt,
        half_widths={kind: width for kind, width in widths.items() if width < math.inf},
        measured=tuple(sorted({cell.tenants for cell in cells})),
    )


def quantile(errors: Sequence[float], independent: int | None = None) -> float:
    """The conformal 90 % quantile of absolute errors; infinite where they are too few for one.

    Args:
        errors: One for each prediction.
        independent: How many of them are independent, if not all: tenants of one mix err alike, and a tenant counts
            once, however many of the models of its mix were left out in turn.
    """
    count = len(errors) if independent is None else independent
    if count < _FEWEST:
        return math.inf
    place = math.ceil((count + 1) * COVERAGE) * len(errors) / count
    return sorted(errors)[min(math.ceil(round(place, 6)), len(errors)) - 1]


Keeps = Callable[[Cell], Sequence[Callable[[Cell], bool]]]
"""For a cell, which other cells it is predicted from: one function for each prediction."""


def _other_mix(cell: Cell) -> list[Callable[[Cell], bool]]:
    return [lambda other: other.tenants != cell.tenants]


def _other_models(cell: Cell) -> list[Callable[[Cell], bool]]:
    """Once without each of its models."""
    return [lambda other, model=model: model not in other.models for model in sorted(cell.models)]  # type: ignore[misc]


def leave_out(cells: Sequence[Cell], keeps: Keeps, like: Fit | None = None) -> list[tuple[Cell, float]]:
    """Every cell with the logarithm of its slowdown predicted from those cells that ``keeps`` keeps for it.

    Args:
        cells: Of one mode.
        keeps: Which.
        like: A fit whose strengths and floor are taken in place of the best.
    """
    design, ridge = _best(cells, like)
    return design.left_out(design.blocks(keeps), ridge)


def solve(cells: Sequence[Cell], like: Fit | None = None) -> Fit:
    """Coefficients without intervals; with the strengths and the floor of ``like``, or the best."""
    design, ridge = _best(cells, like)
    found, own = design.solve(ridge), len(design.towards)
    suffers, inflicts = (found[at : at + len(design.models)] for at in (own, own + len(design.models)))
    sharing, execution = _ways(cells)
    return Fit(
        sharing,
        execution,
        design.columns,
        design.slices,
        ridge,
        tuple(map(float, found[:own])),
        dict(zip(design.models, map(float, suffers), strict=True)),
        dict(zip(design.models, map(float, inflicts), strict=True)),
        {},
        len(cells),
        (),
        ranges_of(design.law, (lone for cell in cells for lone in (cell.victim, *cell.neighbours)), design.columns),
        design.floor,
    )


def _best(cells: Sequence[Cell], like: Fit | None) -> tuple[_Design, tuple[float, float]]:
    if like is not None:
        return _Design.of(cells, like.floor), like.ridge
    design = _Design.of(cells)
    if design.law == KERNELS:
        design = design.best_floor()
    return design, design.best_ridge()


def _ways(cells: Sequence[Cell]) -> tuple[str, str]:
    """Sharing mode and execution of cells of one mode."""
    executions = {lone.execution for cell in cells for lone in (cell.victim, *cell.neighbours)}
    return cells[0].mode.partition(", ")[0], "/".join(sorted(executions))


def _law(cell: Cell) -> str:
    return law_of(*_ways([cell]))


@dataclass(frozen=True, eq=False)
class _Design:
    """The regression of one mode."""

    cells: Sequence[Cell]
    models: Sequence[str]
    columns: tuple[str, ...]
    law: str
    slices: tuple[float, ...]
    rows: Floats
    """Predictors of each cell."""
    values: Floats
    """What the law predicts, for each cell, less what it says before anything is learnt."""
    floor: float | None

    @classmethod
    def of(cls, cells: Sequence[Cell], floor: float | None = None) -> _Design:
        models = sorted({model for cell in cells for model in cell.models})
        known = [set(lone.traits) for cell in cells for lone in (cell.victim, *cell.neighbours)]
        own = f"{cells[0].mode.partition(', ')[0]}: "
        columns = tuple(sorted(name for name in set.intersection(*known) if name.startswith(own)))
        law = _law(cells[0])
        slices = _slices(cells) if law == SLICES else ()
        rows = np.array([_row(law, cell.victim, cell.neighbours, models, columns, floor) for cell in cells])
        values = [to_law(law, c.log) - offset(law, c.victim, c.neighbours, slices) for c in cells]
        design = cls(cells, models, columns, law, slices, rows, np.array(values), floor)
        return replace(design, values=design.values - rows[:, : len(design.towards)] @ design.towards)

    @property
    def towards(self) -> Floats:
        """What the coefficients are drawn towards."""
        return np.array([*TOWARDS[self.law], *(0.0 for _ in self.columns)])

    def penalty(self, ridge: tuple[float, float]) -> Floats:
        return np.repeat(ridge, [len(self.towards), 2 * len(self.models)])

    def solve(self, ridge: tuple[float, float]) -> Floats:
        """All coefficients."""
        found: Floats = _covariance(self.rows, self.penalty(ridge)) @ self.rows.T @ self.values
        found[: len(self.towards)] += self.towards
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
        residuals = self.values - hat @ self.values
        known: dict[tuple[int, ...], dict[int, float]] = {}
        found = []
        for place, out in blocks:
            if out not in known:
                rest = np.linalg.solve(np.eye(len(out)) - hat[np.ix_(out, out)], residuals[list(out)])
                known[out] = dict(zip(out, map(float, rest), strict=True))
            cell = self.cells[place]
            found.append((cell, from_law(self.law, to_law(self.law, cell.log) - known[out][place])))
        return found

    def best_floor(self) -> _Design:
        """The design with the floor that predicts models that are left out best, by their absolute errors.

        So that a model whose kernels are of another kind decides little.
        """
        blocks = self.blocks(_other_models)
        known = [lone.odds for cell in self.cells for lone in (cell.victim, *cell.neighbours) if lone.odds is not None]
        floors = [floor for floor in _FLOORS if min(known, default=math.inf) < floor < max(known, default=math.inf)]
        if len({cell.tenants for cell in self.cells}) < _FEWEST or not blocks or not floors:
            return self

        def error(design: _Design) -> float:
            return float(np.mean([abs(cell.log - log) for cell, log in design.left_out(blocks, _RIDGE)]))

        best = min((_Design.of(self.cells, floor) for floor in floors), key=error)
        return best if error(best) < _WORTH * error(self) else self

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


def _slices(cells: Sequence[Cell]) -> tuple[float, float]:
    """Length of a time slice and of a switch with which the law alone says ``cells`` best, in ms.

    By absolute errors, so that a model that keeps to no slices, as one at the power cap, decides little.
    """
    most = max(len(cell.neighbours) for cell in cells)
    alone_ms = np.full((len(cells), 1 + most), np.nan)
    for own, cell in zip(alone_ms, cells, strict=True):
        own[: 1 + len(cell.neighbours)] = [lone.latency_ms for lone in (cell.victim, *cell.neighbours)]
    around = (~np.isnan(alone_ms[:, 1:])).sum(axis=1)
    measured = np.array([to_law(SLICES, cell.log) for cell in cells])
    best = (math.inf, 0.0, 0.0)
    for slice_ms in _SLICES_MS:
        often = turns(alone_ms, float(slice_ms))
        holds_ms = np.nansum((alone_ms / often)[:, 1:], axis=1)
        said = np.log(often[:, 0] / alone_ms[:, 0] * (holds_ms + np.outer(_SWITCHES_MS, around)))
        errors = np.abs(said - measured).sum(axis=1) + abs(math.log(slice_ms / _USUAL_SLICE_MS))
        place = int(errors.argmin())
        best = min(best, (float(errors[place]), float(slice_ms), float(_SWITCHES_MS[place])))
    return best[1:]


def _row(
    law: str,
    victim: Lone,
    neighbours: Sequence[Lone],
    models: Sequence[str],
    columns: Sequence[str] = (),
    floor: float | None = None,
) -> list[float]:
    around = Counter(other.label for other in neighbours)
    return [
        *form(law, floored(victim, floor), [floored(other, floor) for other in neighbours], columns),
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
    names, law = sorted(lone), _law(cells[0]) if cells else QUEUE
    ridge, floor = (learnt.ridge, learnt.floor) if (learnt := solve(cells) if cells else None) else (_RIDGE, None)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place:] if (a, b) not in there]
    sides = {
        pair: np.array([_row(law, lone[v], [lone[n]], names, (), floor) for v, n in {pair, pair[::-1]}])
        for pair in pairs
    }
    rows = [_row(law, cell.victim, cell.neighbours, names, (), floor) for cell in cells]
    if not pairs:
        return []
    left = np.vstack(list(sides.values()))
    penalty = np.repeat(ridge, [len(TOWARDS[law]), 2 * len(names)])
    covariance = _covariance(np.array(rows) if rows else np.zeros((1, left.shape[1])), penalty)
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

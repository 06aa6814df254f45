"""How a predictor learns from measured mixes, how well it would have predicted them, and what to measure next.

Lives here: :func:`learn_predictor`, :func:`leave_out`, :func:`measure_next`, :func:`suspects`. May touch: numpy. The
form and its sources are those of :mod:`analysis.predictor`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtexp.metrics.samples import Floats

from .laws import (
    QUEUE,
    SLICES,
    TOWARDS,
    Lone,
    form,
    from_law,
    law_of,
    offset,
    ranges_of,
    to_law,
    turns,
)
from .predictor import COVERAGE, NEW_MIX, ONE_MIX, OUTSIDE, Cell, Fit, Predictor, kind_of

_FORM = 3.0
"""Penalty of the coefficients of a law: what they are drawn towards counts like three tenants."""
_RIDGES, _RIDGE = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0), 3.0
"""Penalties of what models suffer and inflict that are tried, and the one where too little is measured to choose."""
_FREE = 1e-3
"""Penalty of what a stressor suffers and inflicts."""
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
    fits = {mode: fit(own) for mode, own in by_mode.items() if len(_mixes(own)) > 1}
    return Predictor(device, fits, lone)


def fit(cells: Sequence[Cell]) -> Fit:
    """Coefficients, and intervals from predictions of what was left out."""
    learnt = solve(cells)
    errors: dict[str, list[float]] = {}
    for cell, log in leave_out(cells, by_mix(cells), learnt):
        errors.setdefault(kind_of(NEW_MIX, 1 + len(cell.neighbours)), []).append(abs(cell.log - log))
    judged = Counter(kind_of(NEW_MIX, len(tenants)) for tenants in _mixes(cells))
    blindly: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
    for cell, log in leave_out(cells, but_one_pair(cells), learnt):
        kind = kind_of(ONE_MIX, 1 + len(cell.neighbours))
        errors.setdefault(kind, []).append(abs(cell.log - log))
        blindly.setdefault(kind, set()).add((cell.victim.label, cell.tenants))
    for model in _models(cells):
        of_it, rest = ([cell for cell in cells if (model in cell.models) == there] for there in (True, False))
        if _mixes(rest):
            blind = solve(rest, learnt)
            for cell in _judged(of_it):
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


Blocks = list[tuple[int, ...]]
"""Places of cells that are left out together, and predicted from the rest."""


def by_mix(cells: Sequence[Cell]) -> Blocks:
    """Every mix without a stressor."""
    return _blocks(cells, [lambda cell, mix=mix: cell.tenants == mix for mix in _mixes(cells)])  # type: ignore[misc]


def but_one_pair(cells: Sequence[Cell]) -> Blocks:
    """Every model with all of its mixes but one pair, for each of its pairs."""
    mixes, models = {cell.tenants for cell in cells}, _models(cells)
    pairs = [(model, mix) for mix in sorted(mixes) if len(mix) == 2 for model in models if model in mix]
    return _blocks(
        cells,
        [lambda cell, model=model, mix=mix: model in cell.models and cell.tenants != mix for model, mix in pairs],  # type: ignore[misc]
    )


def _blocks(cells: Sequence[Cell], belong: Sequence[Callable[[Cell], bool]]) -> Blocks:
    """Those that leave something out and something in."""
    found = [tuple(place for place, cell in enumerate(cells) if one(cell)) for one in belong]
    return [block for block in found if 0 < len(block) < len(cells)]


def _judged(cells: Sequence[Cell]) -> list[Cell]:
    """Those that are predicted to see how well: without a stressor."""
    return [cell for cell in cells if not cell.stressed]


def _mixes(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    return sorted({cell.tenants for cell in _judged(cells)})


def _models(cells: Sequence[Cell]) -> list[str]:
    return sorted({lone.label for lone in _tenants(cells) if not lone.stressor})


def _tenants(cells: Sequence[Cell]) -> Iterator[Lone]:
    return (lone for cell in cells for lone in (cell.victim, *cell.neighbours))


def leave_out(cells: Sequence[Cell], blocks: Blocks, like: Fit | None = None) -> list[tuple[Cell, float]]:
    """Every cell of every block with the logarithm of its slowdown predicted without the block.

    Args:
        cells: Of one mode.
        blocks: Of places in ``cells``.
        like: A fit whose strength is taken in place of the best.
    """
    design, ridge = _best(cells, like)
    return design.left_out(blocks, ridge)


def solve(cells: Sequence[Cell], like: Fit | None = None) -> Fit:
    """Coefficients without intervals; with the strength of ``like``, or the best."""
    design, ridge = _best(cells, like)
    found, own = design.solve(ridge), len(design.towards)
    suffers, inflicts = (found[at : at + len(design.models)] for at in (own, own + len(design.models)))
    sharing, execution = _ways(cells)
    return Fit(
        sharing,
        execution,
        design.slices,
        ridge,
        tuple(map(float, found[:own])),
        dict(zip(design.models, map(float, suffers), strict=True)),
        dict(zip(design.models, map(float, inflicts), strict=True)),
        {},
        len(cells),
        (),
        ranges_of(design.law, (lone for lone in _tenants(cells) if not lone.stressor)),
    )


def _best(cells: Sequence[Cell], like: Fit | None) -> tuple[_Design, float]:
    design = _Design.of(cells)
    return design, design.best_ridge() if like is None else like.ridge


def _ways(cells: Sequence[Cell]) -> tuple[str, str]:
    """Sharing mode and execution of cells of one mode."""
    executions = {lone.execution for lone in _tenants(cells)}
    return cells[0].mode.partition(", ")[0], "/".join(sorted(executions))


def _law(cell: Cell) -> str:
    return law_of(*_ways([cell]))


@dataclass(frozen=True, eq=False)
class _Design:
    """The regression of one mode."""

    cells: Sequence[Cell]
    models: Sequence[str]
    law: str
    slices: tuple[float, ...]
    rows: Floats
    """Predictors of each cell."""
    values: Floats
    """What the law predicts, for each cell, less what it says before anything is learnt."""

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> _Design:
        models = sorted({lone.label for lone in _tenants(cells)})
        law = _law(cells[0])
        slices = _slices(_judged(cells)) if law == SLICES else ()
        rows = np.array([_row(law, cell.victim, cell.neighbours, models) for cell in cells])
        values = [to_law(law, c.log) - offset(law, c.victim, c.neighbours, slices) for c in cells]
        design = cls(cells, models, law, slices, rows, np.array(values))
        return replace(design, values=design.values - rows[:, : len(design.towards)] @ design.towards)

    @property
    def towards(self) -> Floats:
        """What the coefficients are drawn towards."""
        return np.array(TOWARDS[self.law])

    def penalty(self, ridge: float) -> Floats:
        drawn = set(_models(self.cells))
        own = [ridge if model in drawn else _FREE for model in self.models]
        return np.array([*(_FORM for _ in self.towards), *own, *own])

    def solve(self, ridge: float) -> Floats:
        """All coefficients."""
        found: Floats = _covariance(self.rows, self.penalty(ridge)) @ self.rows.T @ self.values
        found[: len(self.towards)] += self.towards
        return found

    def left_out(self, blocks: Blocks, ridge: float) -> list[tuple[Cell, float]]:
        """Predictions of the cells of each block without it, but for stressors: they follow from the fit of all.

        As PRESS does for one (D. M. Allen, Technometrics 16, 1974): the errors of a block that is left out are
        (1 - H)^-1 times its residuals, H its part of the hat matrix.
        """
        covariance = _covariance(self.rows, self.penalty(ridge))
        hat = self.rows @ covariance @ self.rows.T
        residuals, rest = self.values - hat @ self.values, np.eye(len(hat)) - hat
        judged = {place: to_law(self.law, cell.log) for place, cell in enumerate(self.cells) if not cell.stressed}
        found = []
        for block in blocks:
            places = np.array(block)
            errors = np.linalg.solve(rest[places[:, None], places], residuals[places]).tolist()
            for place, error in zip(block, errors, strict=True):
                if place in judged:
                    found.append((self.cells[place], from_law(self.law, judged[place] - error)))
        return found

    def best_ridge(self) -> float:
        """The strength that predicts mixes best, left out one by one, and all of a model but one pair.

        By absolute errors: an odd model decides little.
        """
        blocks = by_mix(self.cells) + but_one_pair(self.cells)
        if len(_mixes(self.cells)) < _FEWEST:
            return _RIDGE
        return min(_RIDGES, key=lambda ridge: sum(abs(cell.log - log) for cell, log in self.left_out(blocks, ridge)))


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
) -> list[float]:
    around = Counter(other.label for other in neighbours)
    return [
        *form(law, victim, neighbours),
        *(float(model == victim.label) for model in models),
        *(around[model] / max(len(neighbours), 1) for model in models),
    ]


# --- what to measure, and what to doubt -------------------------------------------------------------------------------


def measure_next(cells: Sequence[Cell], lone: Mapping[str, Lone], count: int) -> list[tuple[str, str]]:
    """Pairs of one mode that were not measured and whose measurement would make all such pairs known best.

    The one that takes most off the sum of their variances comes first, then the one that does so once it is measured
    (A-optimal design, one after the other; V. V. Fedorov, Theory of Optimal Experiments, 1972).
    """
    cells = _judged(cells)
    there = {cell.tenants for cell in cells}
    names, law = sorted(lone), _law(cells[0]) if cells else QUEUE
    ridge = solve(cells).ridge if cells else _RIDGE
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place:] if (a, b) not in there]
    sides = {
        pair: np.array([_row(law, lone[v], [lone[n]], names) for v, n in dict.fromkeys((pair, pair[::-1]))])
        for pair in pairs
    }
    rows = [_row(law, cell.victim, cell.neighbours, names) for cell in cells]
    if not pairs:
        return []
    left = np.vstack(list(sides.values()))
    penalty = np.repeat([_FORM, ridge], [len(TOWARDS[law]), 2 * len(names)])
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
    """To nine digits: of equals, the first in the alphabet is taken, whatever the order of sums rounds to."""
    return float(f"{np.einsum('ij,jk,ik->', left, _update(covariance, rows), left):.9g}")


def suspects(cells: Sequence[Cell]) -> list[tuple[Cell, float]]:
    """Measured cells of one mode that lie far outside what all others predict for them, with that prediction."""
    found = leave_out(cells, by_mix(cells))
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

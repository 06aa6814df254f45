"""Slowdowns of mixes that were not measured, from runs alone and from the mixes that were.

Lives here: :class:`Predictor`, :func:`learn_predictor`. May touch: numpy. A tenant is known by two numbers: its mean
latency alone, and its busy share b, the part of that latency in which the device works (1 - launch-bound). For each
sharing mode and execution the logarithm of a slowdown is

    c0 + c1 log max(1, b + B) + c2 log(1 + b B) + what this model suffers + what its neighbours inflict on average

with B the sum of the neighbours' busy shares. The first form is a device that is full, the second two customers who
share one server. The coefficients are drawn towards (0, 1/2, 1/2), the geometric mean of both, and what a model suffers
and inflicts towards 0 (ridge regression, A. E. Hoerl, R. W. Kennard, Technometrics 12, 1970). So a model that is in no
measured mix is predicted from its two numbers, and better once a few mixes have it. Intervals are conformal: the 90 %
quantile of the errors of predictions of mixes, or of models, that were left out (J. Lei et al., Distribution-Free
Predictive Inference for Regression, JASA 113, 2018). They hold a single measurement, with its noise.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mtexp.errors import MtexpError
from mtexp.metrics.samples import Floats

_TOWARDS = (0.0, 0.5, 0.5)
_RIDGE = 3.0
"""Of coefficients, and of what models suffer and inflict: each counts like three measured tenants that say 0."""
COVERAGE = 0.9
_FEWEST = 10
"""Errors from which on their 90 % quantile is an interval: with nine or fewer it would be infinite."""
_SUSPECT = 2.5
"""So many half widths of the interval from its prediction, a measured figure is suspect."""
NEW_MODEL, NEW_MIX = "new model", "new mix"
FORMAT = 1


class NotPredictable(MtexpError):
    """A mix that nothing can be said of: no run of a model alone, or nothing measured in its sharing mode."""


@dataclass(frozen=True, slots=True)
class Lone:
    """A model alone."""

    label: str
    latency_ms: float
    """Mean latency, geometric mean of runs."""
    busy: float
    """Share of it in which the device works, from 0 to 1."""
    runs: int
    execution: str = "eager"


@dataclass(frozen=True, slots=True)
class Cell:
    """A measured slowdown: one kind of tenant of one mix."""

    mode: str
    """Sharing mode and execution (:func:`mode_name`)."""
    mix: str
    victim: Lone
    neighbours: tuple[Lone, ...]
    log: float
    """Logarithm of the slowdown."""
    records: tuple[str, ...] = ()

    @property
    def models(self) -> frozenset[str]:
        """Labels of all its tenants."""
        return frozenset((self.victim.label, *(other.label for other in self.neighbours)))

    @property
    def tenants(self) -> tuple[str, ...]:
        """Labels of all its tenants, sorted: cells of one mix have the same."""
        return tuple(sorted((self.victim.label, *(other.label for other in self.neighbours))))


def mode_name(sharing: str, execution: str) -> str:
    """Name of a sharing mode with the execution that its tenants had, if that is not eager."""
    return sharing if execution == "eager" else f"{sharing}, {execution}"


@dataclass(frozen=True)
class Fit:
    """What the measured mixes of one sharing mode say."""

    coefficients: tuple[float, float, float]
    suffers: Mapping[str, float]
    """By model, on logarithms."""
    inflicts: Mapping[str, float]
    half_widths: Mapping[str, float]
    """Of the interval, on logarithms: by :data:`NEW_MODEL` and :data:`NEW_MIX`, with ``, more`` of three tenants or
    more. Absent where too little was measured to know it."""
    cells: int
    measured: tuple[tuple[str, ...], ...]
    """The mixes it was learnt from, as labels of their tenants."""

    @property
    def mixes(self) -> int:
        """How many there are."""
        return len(self.measured)

    def log(self, victim: Lone, neighbours: Sequence[Lone]) -> float:
        """Logarithm of the predicted slowdown; a prediction is never a speed-up."""
        own = float(np.dot(_form(victim, neighbours), self.coefficients)) + self.suffers.get(victim.label, 0.0)
        return max(own + float(np.mean([self.inflicts.get(other.label, 0.0) for other in neighbours] or [0.0])), 0.0)


@dataclass(frozen=True, slots=True)
class Predicted:
    """A prediction of one kind of tenant of a mix. Not a measurement."""

    label: str
    count: int
    slowdown: float
    low: float
    """Lower end of the 90 % interval; 1 where nothing bounds it."""
    high: float
    """Upper end; infinite where too little was measured to know it."""
    latency_ms: float
    """Predicted mean latency."""
    basis: str
    """:data:`NEW_MODEL` or :data:`NEW_MIX`."""


@dataclass(frozen=True)
class Predictor:
    """A frozen predictor of one kind of GPU."""

    device: str
    fits: Mapping[str, Fit]
    """By mode."""
    lone: Mapping[str, Lone]

    def predict(self, labels: Sequence[str], mode: str) -> list[Predicted]:
        """Slowdown of each kind of tenant of a mix.

        Args:
            labels: Of its tenants, each as often as it has tenants.
            mode: Of :attr:`fits`.

        Raises:
            NotPredictable: A model has no run alone, or nothing was measured in that mode.
        """
        if mode not in self.fits:
            there = ", ".join(self.fits) or "none"
            raise NotPredictable(
                f"no mix was measured under {mode}; there are: {there}. Measure some pairs in it, or choose another"
            )
        if unknown := [label for label in dict.fromkeys(labels) if label not in self.lone]:
            raise NotPredictable(
                f"{', '.join(unknown)}: no run of it alone. There are {', '.join(sorted(self.lone))}. Measure it alone "
                f"first (mix={unknown[0].split()[0]}): one run is enough"
            )
        fit, found = self.fits[mode], []
        for label, count in Counter(labels).items():
            neighbours = [self.lone[other] for other in labels]
            neighbours.remove(self.lone[label])
            log = fit.log(self.lone[label], neighbours)
            if not neighbours:
                log = 0.0
            basis = NEW_MIX if set(labels) <= set(fit.suffers) else NEW_MODEL
            half = fit.half_widths.get(kind_of(basis, len(labels)), math.inf)
            slowdown = math.exp(log)
            found.append(
                Predicted(
                    label,
                    count,
                    slowdown,
                    max(1.0, slowdown * math.exp(-half)),
                    slowdown * math.exp(half) if half < math.inf else math.inf,
                    slowdown * self.lone[label].latency_ms,
                    basis,
                )
            )
        return found

    @property
    def hash(self) -> str:
        """Of all that predictions depend on: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, object]:
        """The predictor as plain data; numbers to nine digits, so that equal predictors have equal hashes."""
        whole: dict[str, object] = _rounded({"format": FORMAT, "kind": "predictor", **asdict(self)})  # type: ignore[assignment]
        return whole

    @classmethod
    def from_json(cls, found: Mapping[str, object]) -> Predictor:
        """The predictor that :meth:`to_json` wrote.

        Raises:
            NotPredictable: It is something else.
        """
        try:
            if (found["kind"], found["format"]) != ("predictor", FORMAT):
                raise KeyError(f"kind={found['kind']}, format={found['format']}")
            fits = {
                name: Fit(
                    **{
                        **own,
                        "coefficients": tuple(own["coefficients"]),
                        "measured": tuple(map(tuple, own["measured"])),
                    }
                )
                for name, own in found["fits"].items()  # type: ignore[attr-defined]
            }
            lone = {name: Lone(**own) for name, own in found["lone"].items()}  # type: ignore[attr-defined]
            return cls(str(found["device"]), fits, lone)
        except (KeyError, TypeError, AttributeError) as error:
            raise NotPredictable(f"not a predictor of this version (format {FORMAT}): {error}") from error


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(own) for key, own in value.items()}
    return [_rounded(own) for own in value] if isinstance(value, list | tuple) else value


# --- learning ---------------------------------------------------------------------------------------------------------


def learn_predictor(cells: Sequence[Cell], lone: Mapping[str, Lone], device: str) -> Predictor:
    """Learn from measured mixes, one fit for each mode that has two mixes or more."""
    by_mode: dict[str, list[Cell]] = {}
    for cell in cells:
        by_mode.setdefault(cell.mode, []).append(cell)
    fits = {mode: fit(own) for mode, own in by_mode.items() if len({cell.tenants for cell in own}) > 1}
    return Predictor(device, fits, lone)


def fit(cells: Sequence[Cell]) -> Fit:
    """Coefficients, and intervals from predictions of what was left out."""
    errors: dict[str, list[float]] = {}
    for basis, found in ((NEW_MIX, leave_out(cells, _other_mix)), (NEW_MODEL, leave_out(cells, _other_models))):
        for cell, log in found:
            errors.setdefault(kind_of(basis, 1 + len(cell.neighbours)), []).append(abs(cell.log - log))
    widths = {kind: quantile(own) for kind, own in errors.items()}
    learnt = solve(cells)
    return Fit(
        learnt.coefficients,
        learnt.suffers,
        learnt.inflicts,
        {kind: width for kind, width in widths.items() if width < math.inf},
        len(cells),
        tuple(sorted({cell.tenants for cell in cells})),
    )


def quantile(errors: Sequence[float]) -> float:
    """The conformal 90 % quantile of absolute errors; infinite for nine or fewer."""
    place = math.ceil((len(errors) + 1) * COVERAGE)
    return sorted(errors)[place - 1] if place <= len(errors) and len(errors) >= _FEWEST else math.inf


def _other_mix(cell: Cell) -> list[Callable[[Cell], bool]]:
    return [lambda other: other.tenants != cell.tenants]


def _other_models(cell: Cell) -> list[Callable[[Cell], bool]]:
    """Once without each of its models."""
    return [lambda other, model=model: model not in other.models for model in sorted(cell.models)]  # type: ignore[misc]


def leave_out(
    cells: Sequence[Cell], keeps: Callable[[Cell], Sequence[Callable[[Cell], bool]]]
) -> list[tuple[Cell, float]]:
    """Every cell with the logarithm of its slowdown predicted from those cells that ``keeps`` keeps for it."""
    found = []
    known: dict[frozenset[int], Fit] = {}
    for cell in cells:
        for keep in keeps(cell):
            places = frozenset(place for place, other in enumerate(cells) if keep(other))
            if not places:
                continue
            if places not in known:
                known[places] = solve([cells[place] for place in sorted(places)])
            found.append((cell, known[places].log(cell.victim, cell.neighbours)))
    return found


def solve(cells: Sequence[Cell]) -> Fit:
    """Coefficients without intervals."""
    models = sorted({model for cell in cells for model in cell.models})
    rows = np.array([_row(cell.victim, cell.neighbours, models) for cell in cells])
    logs = np.array([cell.log for cell in cells])
    towards = np.array([*_TOWARDS, *[0.0] * (2 * len(models))])
    found = towards + _covariance(rows) @ rows.T @ (logs - rows @ towards)
    suffers = dict(zip(models, map(float, found[3 : 3 + len(models)]), strict=True))
    inflicts = dict(zip(models, map(float, found[3 + len(models) :]), strict=True))
    return Fit((float(found[0]), float(found[1]), float(found[2])), suffers, inflicts, {}, len(cells), ())


def _covariance(rows: Floats) -> Floats:
    """Of the coefficients, in units of the variance of one cell."""
    return np.asarray(np.linalg.inv(rows.T @ rows + _RIDGE * np.eye(rows.shape[1])), np.float64)


def _form(victim: Lone, neighbours: Sequence[Lone]) -> tuple[float, float, float]:
    others = sum(other.busy for other in neighbours)
    return 1.0, math.log(max(1.0, victim.busy + others)), math.log1p(victim.busy * others)


def _row(victim: Lone, neighbours: Sequence[Lone], models: Sequence[str]) -> list[float]:
    around = Counter(other.label for other in neighbours)
    return [
        *_form(victim, neighbours),
        *(float(model == victim.label) for model in models),
        *(around[model] / max(len(neighbours), 1) for model in models),
    ]


def kind_of(basis: str, tenants: int) -> str:
    """Name of the interval of a mix of so many tenants."""
    return basis if tenants <= 2 else f"{basis}, more"


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
    covariance: Floats = _covariance(rows if len(rows) else np.zeros((1, left.shape[1])))
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

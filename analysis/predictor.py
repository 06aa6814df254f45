"""Slowdowns of mixes that were not measured, from runs alone and from the mixes that were.

Lives here: :class:`Predictor`; :mod:`analysis.learning` makes it. May touch: nothing. What happens depends on how the
tenants run, so there are three laws (:mod:`analysis.laws`), and one fit for each sharing mode and execution. To each
law is added what this model suffers, and what its neighbours inflict on average.

The coefficients are drawn towards :data:`~analysis.laws.TOWARDS`, and what a model suffers and inflicts towards 0
(ridge regression, A. E. Hoerl, R. W. Kennard, Technometrics 12, 1970), these as strongly as predicts best what is left
out: quiet measurements draw less. So a model that is in no measured mix is predicted from its runs alone, and better
once one pair has it. A stressor is a neighbour like any other, but free: what it suffers and inflicts is what was seen,
and nobody asks how well it is predicted.

Intervals are conformal: the 90 % quantile of the errors of predictions of mixes, or of models, that were left out (J.
Lei et al., Distribution-Free Predictive Inference for Regression, JASA 113, 2018). They hold a single measurement, with
its noise. What a law has a slope for was learnt between the least and the most of the measured models. Beyond, the
slope goes on, but the prediction says so and has no interval: errors there are larger than those of models inside.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mtexp.errors import MtexpError

from .laws import (
    SLICES,
    TOWARDS,
    Lone,
    Ranges,
    form,
    from_law,
    law_of,
    offset,
    outside,
    sampled,
)

COVERAGE = 0.9
NEW_MODEL, NEW_MIX, NOT_SAMPLED = "new model", "new mix", "new model without counters"
ONE_MIX = "model of one mix"
OUTSIDE = "new model outside what was learned"
FORMAT = 5
_PROGRAM = [Path(__file__).with_name(name) for name in ("laws.py", "predictor.py", "learning.py")]
CODE = hashlib.sha256(b"".join(path.read_bytes() for path in _PROGRAM)).hexdigest()[:16]
"""Hash of the program that learns and predicts."""


class NotPredictable(MtexpError):
    """A mix that cannot be predicted: no run of a model alone, or nothing measured in its sharing mode."""


@dataclass(frozen=True)
class Cell:
    """A measured slowdown: one kind of tenant of one mix."""

    mode: str
    """Sharing mode and execution (:func:`analysis.laws.mode_name`)."""
    mix: str
    victim: Lone
    neighbours: tuple[Lone, ...]
    log: float
    """Logarithm of the slowdown."""
    records: tuple[str, ...] = ()

    @cached_property
    def models(self) -> frozenset[str]:
        """Labels of all its tenants."""
        return frozenset((self.victim.label, *(other.label for other in self.neighbours)))

    @cached_property
    def stressed(self) -> bool:
        """Whether a stressor is among them."""
        return any(lone.stressor for lone in (self.victim, *self.neighbours))

    @cached_property
    def tenants(self) -> tuple[str, ...]:
        """Labels of all its tenants, sorted: cells of one mix have the same."""
        return tuple(sorted((self.victim.label, *(other.label for other in self.neighbours))))


def kind_of(basis: str, tenants: int) -> str:
    """Name of the interval of a mix of so many tenants."""
    return basis if tenants <= 2 else f"{basis}, more"


@dataclass(frozen=True)
class Fit:
    """What was learnt from the measured mixes of one sharing mode and execution."""

    sharing: str
    execution: str
    slices: tuple[float, ...]
    """Length of a time slice and of a switch, in ms; empty where the law knows none."""
    ridge: float
    """How strongly what models suffer and inflict was drawn."""
    coefficients: tuple[float, ...]
    """Of the form."""
    suffers: Mapping[str, float]
    """By model, on logarithms."""
    inflicts: Mapping[str, float]
    half_widths: Mapping[str, float]
    """Half widths of the interval, on logarithms: by :meth:`basis`, with ``, more`` for three tenants or more. Absent
    where too little was measured to know it."""
    cells: int
    measured: tuple[tuple[str, ...], ...]
    """The mixes it was learnt from, as labels of their tenants."""
    ranges: Ranges
    """The least and the most that was learnt from of all that the law has a slope for."""

    @property
    def mixes(self) -> int:
        """How many there are."""
        return len(self.measured)

    @property
    def law(self) -> str:
        """How its tenants get in each other's way."""
        return law_of(self.sharing, self.execution)

    def log(self, victim: Lone, neighbours: Sequence[Lone]) -> float:
        """Logarithm of the predicted slowdown beside one neighbour or more."""
        own = float(np.dot(form(self.law, victim, neighbours), self.coefficients))
        own += offset(self.law, victim, neighbours, self.slices) + self.suffers.get(victim.label, 0.0)
        return from_law(self.law, own + float(np.mean([self.inflicts.get(o.label, 0.0) for o in neighbours])))

    def basis(self, tenants: Sequence[Lone]) -> str:
        """Which interval predictions of a mix have."""
        new = [lone for lone in tenants if lone.label not in self.suffers]
        if not new:
            return ONE_MIX if any(self.often(lone.label) == 1 for lone in tenants) else NEW_MIX
        if any(self.outside(lone) for lone in new):
            return OUTSIDE
        return NEW_MODEL if all(sampled(self.law, lone) for lone in new) else NOT_SAMPLED

    def often(self, label: str) -> int:
        """How many measured mixes have a model."""
        return sum(label in mix for mix in self.measured)

    def outside(self, lone: Lone) -> dict[str, tuple[float, float]]:
        """What of a model lies beyond what was learnt, by name: its value, and the nearest that was."""
        return outside(self.law, lone, self.ranges)


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
    """:data:`NEW_MIX`, :data:`ONE_MIX`, :data:`NEW_MODEL`, :data:`NOT_SAMPLED` or :data:`OUTSIDE`."""


@dataclass(frozen=True)
class Predictor:
    """A frozen predictor of one kind of GPU."""

    device: str
    fits: Mapping[str, Fit]
    """By mode."""
    lone: Mapping[str, Lone]
    code: str = CODE
    """Hash of the program that made it."""

    def named(self, label: str, mode: str) -> str:
        """The label of a model in a mode's execution: ``label`` itself, or that of the same model run that way."""
        own, execution = self.lone.get(label), self.fits[mode].execution
        if "/" in execution or (own is not None and own.execution == execution):
            return label
        ways = [other for other in self.lone.values() if other.does and other.execution == execution]
        if own is None:
            like = [other.label for other in ways if other.does[0] == label]
        else:
            words = list(own.does)
            if own.execution in words:  # the first of them: the attention may be called eager, too
                words[words.index(own.execution)] = execution
            like = [other.label for other in ways if other.does == tuple(words)]
        return like[0] if len(like) == 1 else label

    def alone_ms(self, lone: Lone, mode: str) -> float:
        """Mean latency of a model alone in the sharing mode; where only others were measured in it, at their cost."""
        sharing = self.fits[mode].sharing
        if sharing in lone.in_mode_ms:
            return lone.in_mode_ms[sharing]
        costs = [
            math.log(other.in_mode_ms[sharing] / other.latency_ms)
            for other in self.lone.values()
            if other.execution == lone.execution and sharing in other.in_mode_ms
        ]
        return lone.latency_ms * math.exp(float(np.mean(costs or [0.0])))

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
        labels = [self.named(label, mode) for label in labels]
        if unknown := [label for label in dict.fromkeys(labels) if label not in self.lone]:
            raise NotPredictable(
                f"{', '.join(unknown)}: no run of it alone. There are {', '.join(sorted(self.lone))}. Measure it alone "
                f"first (mix={unknown[0].split()[0]}): one run is enough"
            )
        fit, found = self.fits[mode], []
        if wrong := [o for o in labels if self.lone[o].execution not in fit.execution.split("/")]:
            raise NotPredictable(
                f"{', '.join(dict.fromkeys(wrong))}: no run of it alone with execution={fit.execution}, which {mode} "
                f"is about. Measure it alone first (mix={wrong[0].split()[0]} execution={fit.execution})"
            )
        for label, count in Counter(labels).items():
            neighbours = [self.lone[other] for other in labels]
            neighbours.remove(self.lone[label])
            log = fit.log(self.lone[label], neighbours) if neighbours else 0.0
            basis = fit.basis([self.lone[label], *neighbours])
            half = fit.half_widths.get(kind_of(basis, len(labels)), math.inf)
            slowdown = math.exp(log)
            found.append(
                Predicted(
                    label,
                    count,
                    slowdown,
                    max(1.0, slowdown * math.exp(-half)),
                    slowdown * math.exp(half) if half < math.inf else math.inf,
                    slowdown * self.alone_ms(self.lone[label], mode),
                    basis,
                )
            )
        return found

    @property
    def hash(self) -> str:
        """Hash of everything that predictions depend on: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, object]:
        """The predictor as plain data; numbers to nine digits, so that equal predictors have equal hashes."""
        found: dict[str, object] = _rounded({"kind": "predictor", "format": FORMAT, **asdict(self)})  # type: ignore[assignment]
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, object]) -> Predictor:
        """The predictor that :meth:`to_json` wrote.

        Raises:
            NotPredictable: It is something else.
        """
        try:
            if found["kind"] != "predictor" or found["format"] != FORMAT:
                raise KeyError(f"kind={found['kind']}, format={found['format']}")
            fits = {
                name: Fit(
                    **{
                        **own,
                        **{name: tuple(own[name]) for name in ("slices", "coefficients")},
                        "measured": tuple(map(tuple, own["measured"])),
                        "ranges": {trait: (low, high) for trait, (low, high) in own["ranges"].items()},
                    }
                )
                for name, own in found["fits"].items()  # type: ignore[attr-defined]
            }
            lone = {name: _lone(own) for name, own in found["lone"].items()}  # type: ignore[attr-defined]
            for name, fit in fits.items():
                _require_whole(name, fit)
            for name, one in lone.items():
                _require_numbers(name, one)
            return cls(str(found["device"]), fits, lone, str(found["code"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise NotPredictable(f"not a predictor of this version (format {FORMAT}): {error}") from error


def _lone(own: Mapping[str, Any]) -> Lone:
    return Lone(**{**own, "does": tuple(own["does"])})


def _require_whole(name: str, fit: Fit) -> None:
    """Raise ValueError for a fit that cannot predict."""
    if len(fit.coefficients) != len(TOWARDS[fit.law]):
        raise ValueError(f"{name} has {len(fit.coefficients)} coefficients")
    if len(fit.slices) != (2 if fit.law == SLICES else 0):
        raise ValueError(f"{name} has {len(fit.slices)} lengths of a time slice and a switch")
    by_name = (fit.suffers, fit.inflicts, fit.half_widths)
    numbers = [fit.ridge, *fit.coefficients, *fit.slices, *(number for own in by_name for number in own.values())]
    numbers += [end for ends in fit.ranges.values() for end in ends]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} has numbers that are not finite")


def _require_numbers(name: str, lone: Lone) -> None:
    """Raise ValueError for a model alone with numbers that it cannot have."""
    above = (lone.latency_ms, *lone.in_mode_ms.values())
    others = (
        lone.busy,
        lone.odds or 0.0,
        lone.eager_busy or 0.0,
    )
    if not (all(math.isfinite(ms) and ms > 0 for ms in above) and all(map(math.isfinite, others))):
        raise ValueError(f"{name} has a latency that is not above 0, or numbers that are not finite")


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(own) for key, own in value.items()}
    return [_rounded(own) for own in value] if isinstance(value, list | tuple) else value

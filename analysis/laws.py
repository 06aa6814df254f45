"""How tenants of one GPU get in each other's way: three laws, and what each needs to know of a model alone.

Lives here: the laws, :class:`Lone`. May touch: nothing outside its arguments. :class:`analysis.predictor.Fit` has
their coefficients.

**Queue** (eager and compiled models). A model is known by its busy share b, the part of its latency alone in which the
device works (1 - launch-bound); B is the sum of the neighbours':

    log slowdown = c0 + c1 log max(1, b + B) + c2 log(1 + b B)

The first form is a device that is full, the second two customers who share one server.

**Slices** (CUDA graphs, time slicing). A graph keeps the device busy, so processes take turns of one time slice T. A
request of latency L alone needs n = ceil(L / T) turns (averaged over T +- 3 %, for T is not known better), and holds
the device for L / n in each. Before each of its turns it waits for one turn of every neighbour j and for a switch s:

    log(slowdown - 1) = c0 + log(n / L (sum over j of (L_j / n_j + s)))

**Kernels** (CUDA graphs, MPS and all else). The kernels of both take turns, so what counts is how long they are, and
how many SMs those of the neighbours fill. In eager mode every model launches its kernels about as fast as any other:
the longer they are, the larger its busy share b there. With p the share of SMs that work while the device works
(counters of runs alone in eager mode), and k neighbours:

    log(slowdown - 1) = c0 + log k + c1 log b + c2 (log(b p / (1 - p)) of the neighbours, averaged)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtexp.metrics.samples import Floats

QUEUE, SLICES, KERNELS = "queue", "slices", "kernels"
TOWARDS = {QUEUE: (0.0, 0.5, 0.5), SLICES: (0.0,), KERNELS: (-0.8, -0.7, 0.5)}
"""What the coefficients of each law are drawn towards."""
_ODDS = math.log(2)
"""Odds of a model without counters, as a logarithm: two of three SMs work."""
_SHARE = math.log(0.3)
"""Busy share in eager mode of a model without a run alone there, as a logarithm."""
SM_ACTIVITY, BUSY_SHARE = "SM activity", "busy share in eager mode"
"""The traits that the law of kernels has slopes for."""
Ranges = Mapping[str, tuple[float, float]]
"""The least and the most that a fit was learnt from, by trait."""
_ABOUT = np.linspace(0.97, 1.03, 13)
"""Lengths of a time slice that are averaged over, in parts of it: a request that just fits may not."""
_SAME = 1e-6
"""Closer values are one: files keep nine digits."""
_LEAST = 0.02
"""Below this slowdown - 1 its logarithm is that of noise."""


@dataclass(frozen=True, slots=True)
class Lone:
    """A model alone."""

    label: str
    latency_ms: float
    """Mean latency outside MPS, geometric mean of runs."""
    busy: float
    """Share of it in which the device works, from 0 to 1."""
    runs: int
    execution: str = "eager"
    does: tuple[str, ...] = ()
    """Model, workload, execution ... (:data:`analysis.predictor_data.SAME`): what the label abbreviates."""
    in_mode_ms: Mapping[str, float] = field(default_factory=dict)
    """Mean latency alone *in* a sharing mode, by its name, where that was measured: what a mode costs without
    neighbours is in it, and not in a slowdown that was measured in turns."""
    odds: float | None = None
    """Log odds that an SM works while the device works; None where no run alone in eager mode sampled it."""
    eager_busy: float | None = None
    """Busy share of the same model alone in eager mode; None where no run says it."""
    stressor: bool = False


def mode_name(sharing: str, execution: str) -> str:
    """Name of a sharing mode with the execution that its tenants had, if that is not eager."""
    return sharing if execution == "eager" else f"{sharing}, {execution}"


def law_of(sharing: str, execution: str) -> str:
    """How tenants of a sharing mode get in each other's way: :data:`QUEUE`, :data:`SLICES` or :data:`KERNELS`."""
    if execution != "cuda_graph":
        return QUEUE
    return SLICES if sharing.startswith("time slicing") else KERNELS


def form(law: str, victim: Lone, neighbours: Sequence[Lone]) -> list[float]:
    """Columns of a law."""
    found = [1.0]
    if law == QUEUE:
        others = sum(other.busy for other in neighbours)
        found += [math.log(max(1.0, victim.busy + others)), math.log1p(victim.busy * others)]
    elif law == KERNELS:
        found += [_length(victim), float(np.mean([_length(other) + _odds(other) for other in neighbours]))]
    return found


def offset(law: str, victim: Lone, neighbours: Sequence[Lone], slices: Sequence[float]) -> float:
    """What a law says with nothing but ``slices`` learnt: the length of a time slice and of a switch, in ms."""
    if law == KERNELS:
        return math.log(len(neighbours))
    if law == QUEUE:
        return 0.0
    slice_ms, switch_ms = slices
    own_ms, *around_ms = (lone.latency_ms for lone in (victim, *neighbours))
    waits_ms = np.sum(around_ms / turns(around_ms, slice_ms) + switch_ms)
    return math.log(float(turns(own_ms, slice_ms) * waits_ms / own_ms))


def turns(latency_ms: float | Sequence[float] | Floats, slice_ms: float) -> Floats:
    """How many time slices a request takes: on average over slices of about that length."""
    found: Floats = np.ceil(np.divide.outer(latency_ms, slice_ms * _ABOUT)).mean(axis=-1)
    return found


def _length(lone: Lone) -> float:
    """How long its kernels are: the logarithm of what it keeps the device busy while it launches them."""
    return math.log(lone.eager_busy) if lone.eager_busy else _SHARE


def _odds(lone: Lone) -> float:
    return _ODDS if lone.odds is None else lone.odds


def sampled(law: str, lone: Lone) -> bool:
    """Whether all is known of a model alone that the law is about."""
    return law != KERNELS or (lone.odds is not None and lone.eager_busy is not None)


def to_law(law: str, log: float) -> float:
    """The logarithm of a slowdown as what the law is about."""
    return log if law == QUEUE else math.log(max(math.expm1(log), _LEAST))


def from_law(law: str, value: float) -> float:
    """Undo :func:`to_law`; a prediction is never a speed-up."""
    return max(value, 0.0) if law == QUEUE else math.log1p(math.exp(value))


# --- what lies beyond what was learnt ---------------------------------------------------------------------------------


def slopes(law: str, lone: Lone) -> dict[str, float]:
    """What is known of a model alone that the law has a free slope for, by name.

    Turns of a time slice have none. Busy shares in eager mode are bounded, and so is what follows: with the busiest and
    the least busy model of a study left out in turn, intervals held 92 % of the time.
    """
    found = {}
    if law == KERNELS and lone.odds is not None:
        found[SM_ACTIVITY] = lone.odds
    if law == KERNELS and lone.eager_busy is not None:
        found[BUSY_SHARE] = math.log(lone.eager_busy)
    return found


def ranges_of(law: str, models: Iterable[Lone]) -> dict[str, tuple[float, float]]:
    """The least and the most of what measured models have."""
    found: dict[str, tuple[float, float]] = {}
    for lone in models:
        for name, value in slopes(law, lone).items():
            low, high = found.get(name, (value, value))
            found[name] = min(low, value), max(high, value)
    return found


def outside(law: str, lone: Lone, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """What of a model lies beyond the ranges, by name: its value, and the nearest that was learnt."""
    found = {}
    for name, value in slopes(law, lone).items():
        low, high = ranges.get(name, (value, value))
        near = min(max(value, low), high)
        if not math.isclose(near, value, rel_tol=_SAME, abs_tol=_SAME):
            found[name] = value, near
    return found


def in_words(name: str, value: float) -> str:
    """A trait for people."""
    return f"{100 * (math.exp(value) if name == BUSY_SHARE else 1 / (1 + math.exp(-value))):.0f} %"

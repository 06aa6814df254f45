"""Other predictors of slowdowns, for comparison with ours, learnt from the same measured mixes.

Lives here: :func:`rivals_of`. May touch: numpy. Slowdown 1; the mean of the mode; what a victim suffers and its
neighbours inflict added up, without a form; and the form of gpulets, linear in the utilisations of both tenants alone
(S. Choi et al., Serving Heterogeneous Machine Learning Models on Multi-GPU Servers with Spatio-Temporal Sharing, USENIX
ATC 2022), here SM and DRAM activity, for pairs of models whose runs alone were sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mtexp.metrics.samples import Floats

from .laws import Lone
from .pooling import Results
from .predictor import Cell

Rival = Callable[[Lone, Sequence[Lone]], float | None]
"""The logarithm of a slowdown of a tenant beside its neighbours; None where it can't say."""
ONE, MEAN, ADDITIVE, GPULETS = "slowdown 1", "mean of the mode", "victim + neighbours, no form", "gpulets' form"
_FEWEST = 6
"""Pairs from which on the five coefficients of gpulets' form are fitted."""
Utilisations = Mapping[str, Sequence[float]]


def rivals_of(cells: Sequence[Cell], utilisations: Utilisations) -> dict[str, Rival]:
    """By name; each learnt from ``cells``, which are of one mode."""
    mean = float(np.mean([cell.log for cell in cells]))
    found: dict[str, Rival] = {
        ONE: lambda victim, neighbours: 0.0,
        MEAN: lambda victim, neighbours: mean,
        ADDITIVE: _additive(cells),
    }
    return found | {GPULETS: _gpulets(cells, utilisations)}


def utilisations_of(results: Results) -> dict[str, list[float]]:
    """SM and DRAM activity of models alone in eager mode, from 0 to 1, by name of the model; where it was sampled."""
    names = ["gpu_sm_active_pct_mean", "gpu_dram_bw_pct_mean"]
    runs = results.data.runs[results.data.runs["num_tenants"] == 1].reindex(columns=["record_id", *names])
    known = runs.merge(results.data.tenants.reindex(columns=["record_id", "model", "execution"]), on="record_id")
    known = known[known["execution"].astype(str) == "eager"].dropna(subset=names)
    return {str(model): (own[names].mean() / 100).tolist() for model, own in known.groupby("model", observed=True)}


def _additive(cells: Sequence[Cell]) -> Rival:
    models = sorted({model for cell in cells for model in cell.models})

    def row(victim: Lone, neighbours: Sequence[Lone]) -> list[float]:
        around = [other.label for other in neighbours]
        return [1.0, *(float(m == victim.label) for m in models), *(float(around.count(m)) for m in models)]

    fitted = _solved([row(cell.victim, cell.neighbours) for cell in cells], [cell.log for cell in cells])
    return lambda victim, neighbours: float(np.dot(row(victim, neighbours), fitted))


def _gpulets(cells: Sequence[Cell], utilisations: Utilisations) -> Rival:
    def row(victim: Lone, neighbours: Sequence[Lone]) -> list[float] | None:
        sides = [utilisations.get(lone.does[0] if lone.does else "") for lone in (victim, *neighbours)]
        known = [side for side in sides if side is not None]
        return [1.0, *known[0], *known[1]] if len(known) == len(sides) == 2 else None

    rows = [(row(cell.victim, cell.neighbours), math.exp(cell.log)) for cell in cells]
    known = [(own, slowdown) for own, slowdown in rows if own is not None]
    if len(known) < _FEWEST:
        return lambda victim, neighbours: None
    fitted = _solved([own for own, _ in known], [slowdown for _, slowdown in known])

    def rival(victim: Lone, neighbours: Sequence[Lone]) -> float | None:
        own = row(victim, neighbours)
        return None if own is None else math.log(max(float(np.dot(own, fitted)), 1.0))

    return rival


def _solved(rows: Sequence[Sequence[float]], values: Sequence[float]) -> Floats:
    found: Floats = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return found

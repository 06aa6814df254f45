"""Slowdowns that runs measured themselves, in rounds of blocks alone and together. Lives here: :class:`InRounds`.

May touch: nothing outside its arguments. Such a run needs no baseline: it has each tenant's slowdown with an interval
over its rounds (:mod:`mtexp.metrics.crossover`). What several runs of a point differ by beyond that is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.repeats import Estimate, NormalDraws
from mtexp.metrics.samples import Floats
from mtexp.records import keys

from .baseline_runs import Measured
from .frames import rows_of

_Z = 1.96
_KEYS = ("slowdown", "normalized_progress")
_WHOLE = ("slowdown_whole", "mode_cost")
"""Figures of a mode that was measured side by side with time slicing, against the tenant alone on the whole device."""
_OF_RUN = ("stp", "antt", "stp_whole", "antt_whole", "stp_whole_ratio")
"""Figures of all tenants of a run, whose intervals keep what its tenants have in common in a round."""
_SUMS = ("stp", "antt", "stp_whole", "antt_whole")
"""Those whose intervals reach as far up as down; the others do on logarithms."""


@dataclass(frozen=True, eq=False)
class InRounds:
    """A tenant of a point whose runs were crossover runs."""

    logs: Mapping[str, float]
    """Mean over runs of the log of ``slowdown``, ``normalized_progress`` and what else all runs have."""
    errors: Mapping[str, Floats]
    """Draws of its error, shape (draws,)."""

    def log(self, name: str) -> float:
        """Shared against alone, on logarithms: ``mean`` latency or ``throughput``."""
        return self.logs["normalized_progress" if name == "throughput" else "slowdown"]

    def error(self, name: str) -> Floats:
        """Draws of its error."""
        return self.errors["normalized_progress" if name == "throughput" else "slowdown"]

    def figures(self) -> dict[str, Estimate]:
        """Slowdown and progress of the tenant; what its runs say of it on the whole device."""
        return {key: Estimate(float(np.exp(log)), self.errors[key]) for key, log in self.logs.items()}


def measured_in_rounds(tenants: pd.DataFrame) -> dict[Measured, dict[str, tuple[float, float]]]:
    """Log and its standard error of the figures of each tenant of a crossover run; those without interval are absent.

    Args:
        tenants: One row per tenant of a run, with ``design``.
    """
    found = {}
    for row in rows_of(tenants):
        known = _known(row, (*_KEYS, *_WHOLE)) if str(row.get("design")) == "crossover" else {}
        if all(key in known for key in _KEYS):
            found[str(row["record_id"]), str(row["tenant"])] = known
    return found


def runs_in_rounds(runs: pd.DataFrame) -> dict[str, dict[str, tuple[float, float]]]:
    """Log and its standard error of STP and ANTT of each crossover run; on the whole device too, if it was measured
    side by side with time slicing.
    """
    in_turns = [row for row in rows_of(runs) if str(row.get("design")) == "crossover"]
    return {str(row["record_id"]): _known(row, _OF_RUN) for row in in_turns}


def _known(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Log and standard error of the figures of a row that have an interval."""
    found = {}
    for name in names:
        ends: list[Any] = [row.get(key) for key in (name, *keys.interval(name))]
        if not all(pd.notna(end) for end in ends):
            continue
        value, low, high = map(float, ends)
        if name in _SUMS:
            found[name] = float(np.log(value)), (high - value) / (value * _Z)
        elif low > 0:
            found[name] = float(np.log(value)), float(np.log(high / low)) / (2 * _Z)
    return found


def run_figures(runs: Sequence[Mapping[str, tuple[float, float]]], normals: NormalDraws) -> dict[str, Estimate]:
    """Figures of a point that its runs know themselves; without those that a run does not have."""
    there = [key for key in _OF_RUN if all(key in run for run in runs)]
    if not there:
        return {}
    draws, found = normals.normal(()), {}
    for key in there:
        log, error = mean_over_runs([run[key] for run in runs])
        found[key] = Estimate(float(np.exp(log)), (error if key.startswith("antt") else -error) * draws)
    return found


def in_rounds(runs: Sequence[Mapping[str, tuple[float, float]] | None], normals: NormalDraws) -> InRounds | None:
    """Runs of one tenant put together; None where one of them was no crossover run.

    The variance of the mean is that within runs and, where runs differ by more, that between them (the moment estimator
    of DerSimonian and Laird, Controlled Clinical Trials 7, 1986, with equal weights).
    """
    known = [run for run in runs if run is not None]
    if not known or len(known) < len(runs):
        return None
    draws = normals.normal(())
    logs, errors = {}, {}
    for key in (key for key in known[0] if all(key in run for run in known)):
        logs[key], error = mean_over_runs([run[key] for run in known])
        sign = -1.0 if key == "normalized_progress" else 1.0  # in closed loop it is the inverse of the slowdown
        errors[key] = sign * error * draws
    return InRounds(logs, errors)


def mean_over_runs(runs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean of the logs of runs, and its standard error, of each run's log and standard error."""
    values, within = np.array(runs).T
    variance = float(np.mean(within**2))
    if len(runs) > 1:
        variance = max(variance, float(values.var(ddof=1)))
    return float(values.mean()), float(np.sqrt(variance / len(runs)))

"""Slowdowns that runs measured themselves, in rounds of blocks alone and together. Lives here: :class:`InRounds`.

May touch: nothing outside its arguments. Such a run needs no baseline: it has each tenant's slowdown with an interval
over its rounds (:mod:`mtexp.metrics.crossover`). What several runs of a point differ by beyond that is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mtexp.metrics.repeats import Estimate, Throws
from mtexp.metrics.samples import Floats

from .baseline_runs import Measured
from .frames import rows_of

_Z = 1.96
_KEYS = ("slowdown", "normalized_progress")


@dataclass(frozen=True, eq=False)
class InRounds:
    """A tenant of a point whose runs were crossover runs."""

    logs: Mapping[str, float]
    """Mean over runs of the log of ``slowdown`` and ``normalized_progress``."""
    errors: Mapping[str, Floats]
    """Draws of its error, shape (draws,)."""

    def log(self, name: str) -> float:
        """Shared against alone, on logarithms: ``mean`` latency or ``throughput``."""
        return self.logs["normalized_progress" if name == "throughput" else "slowdown"]

    def error(self, name: str) -> Floats:
        """Draws of its error."""
        return self.errors["normalized_progress" if name == "throughput" else "slowdown"]

    def figures(self) -> dict[str, Estimate]:
        """Slowdown and progress of the tenant."""
        return {key: Estimate(float(np.exp(self.logs[key])), self.errors[key]) for key in _KEYS}


def measured_in_rounds(tenants: pd.DataFrame) -> dict[Measured, dict[str, tuple[float, float]]]:
    """Log and its standard error of the figures of each tenant of a crossover run; those without interval are absent.

    Args:
        tenants: One row per tenant of a run, with ``design``.
    """
    names = [f"{key}{end}" for key in _KEYS for end in ("", "_ci_low", "_ci_high")]
    found = {}
    for row in rows_of(tenants.reindex(columns=["record_id", "tenant", "design", *names])):
        if row["design"] != "crossover" or any(not float(row[name] or np.nan) > 0 for name in names):
            continue
        found[str(row["record_id"]), str(row["tenant"])] = {
            key: (
                float(np.log(row[key])),
                float(np.log(row[f"{key}_ci_high"] / row[f"{key}_ci_low"])) / (2 * _Z),
            )
            for key in _KEYS
        }
    return found


def in_rounds(runs: Sequence[Mapping[str, tuple[float, float]] | None], throws: Throws) -> InRounds | None:
    """Runs of one tenant put together; None where one of them was no crossover run.

    The variance of the mean is that within runs and, where runs differ by more, that between them (the moment estimator
    of DerSimonian and Laird, Controlled Clinical Trials 7, 1986, with equal weights).
    """
    known = [run for run in runs if run is not None]
    if not known or len(known) < len(runs):
        return None
    draws = throws.normal(())
    logs, errors = {}, {}
    for key in _KEYS:
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

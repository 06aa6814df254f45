"""Figures of points with their errors: within runs, between runs, and of what they are compared with.

Lives here: :class:`Study`, :func:`figures_of`. May touch: nothing outside its arguments. The formulas are those of
:mod:`mtexp.metrics`; here they are given every run of a point and every run of its tenants alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.interference import antt_rows, stp_rows
from mtexp.metrics.repeats import Estimate, NormalDraws, Together, readings, run_errors
from mtexp.metrics.samples import Floats

from .baseline_runs import BaselineRuns, Measured
from .dataset import Dataset
from .fairness import Progress, true_fairness
from .frames import rows_of
from .rounds import InRounds, in_rounds, measured_in_rounds, run_figures, runs_in_rounds
from .spread import ALONE, Known, Readings, Repeated, learn

RUN = -1
"""Position of a figure that is of the whole point."""
_CLOSED = 0.02
"""On logarithms: so near to the inverse of latency, a throughput is that of a closed loop (the window has edges)."""
_MOST_LOG = 100.0
"""On logarithms, the largest error of a draw: t of one degree of freedom has no bound, but what is made of its draws
(ratios of sums of exponentials) must fit a float. The quantiles of an interval lie far within."""
Key = tuple[int, int, str]
"""Point, position of the tenant or :data:`RUN`, name of the figure."""

TIMER = "timer_slowdown"
"""What the CUDA-event timer would call the slowdown."""
_SLOWDOWNS = {"slowdown": "mean", TIMER: "gpu_time"} | {
    f"slowdown_{name}": name for name in ("p50", "p90", "p95", "p99")
}
_LIKE = ("model", "workload", "execution")
"""Runs that agree in these, in the sharing mode and in how full the device is, are taken to vary equally."""


@dataclass(frozen=True, eq=False)
class Side:
    """Runs of the same tenants together."""

    names: list[str]
    """Statistics that some tenant has in all of them."""
    logs: Floats
    """Means over runs, shape (tenants, names); NaN where a tenant lacks a statistic in a run."""
    errors: Floats
    """Errors of these means, shape (tenants, names, draws)."""

    def has(self, tenant: int, name: str) -> bool:
        """Whether the tenant has the statistic in every run."""
        return name in self.names and not math.isnan(self.log(tenant, name))

    def log(self, tenant: int, name: str) -> float:
        """Mean over runs."""
        return float(self.logs[tenant, self.names.index(name)])

    def error(self, tenant: int, name: str) -> Floats:
        """Draws of its error."""
        errors: Floats = self.errors[tenant, self.names.index(name)]
        return errors


@dataclass(eq=False)
class Study:
    """What the points of one dataset have in common."""

    data: Dataset
    normals: NormalDraws
    rows_alone: dict[Measured, Mapping[str, Any]] = field(default_factory=dict)
    """The tenant of each run alone, as :func:`analysis.spread.path_of` takes it."""
    by_point: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """The tenants of each point, as :func:`analysis.spread.path_of` takes them."""
    known: Known = field(default_factory=Known)
    read: dict[Measured, Readings | None] = field(default_factory=dict)
    sides: dict[tuple[Measured, ...], Side | None] = field(default_factory=dict)
    in_rounds: Mapping[Measured, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """What crossover runs measured themselves."""
    runs: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """What crossover runs know of all their tenants together, by record."""

    @classmethod
    def of(
        cls, data: Dataset, alone: BaselineRuns, points: pd.DataFrame, tenants: pd.DataFrame, normals: NormalDraws
    ) -> Study:
        """Points (:attr:`analysis.pooling.Results.points`) and their tenants; how runs differ is not learnt yet."""
        study = cls(data, normals, _alone_rows(alone), in_rounds=measured_in_rounds(data.tenants))
        study.runs = runs_in_rounds(data.runs)
        modes = dict(zip(points["point"], points["sharing"], strict=True)) if len(points) else {}
        for tenant in rows_of(tenants.reindex(columns=["point", "position", "records", "ids", "compared", *_LIKE])):
            number = int(tenant["point"])
            study.by_point.setdefault(number, []).append(tenant | {"mode": modes[number]})
        for rows in study.by_point.values():
            fill = _fill(study, rows, study.rows_alone)
            for row in rows:
                row["fill"] = fill
        return study

    def readings(self, measured: Measured) -> Readings | None:
        """Statistics of a tenant in one run; None where its samples are not there."""
        if measured not in self.read:
            series = self.data.series(*measured)
            gpu = self.data.series(*measured, "gpu_time_ms")
            times = {} if gpu is None else {"gpu_time": gpu.latency_ms}
            self.read[measured] = None if series is None else readings(series, **times)
        return self.read[measured]

    def repeated(self, runs: Sequence[Sequence[Measured]], tenants: Sequence[Mapping[str, Any]]) -> Repeated | None:
        """Runs of the same tenants; None where samples of one are not there."""
        found = [[self.readings(measured) for measured in run] for run in runs]
        known = [[own for own in run if own is not None] for run in found]
        return None if not known or any(len(run) != len(tenants) for run in known) else Repeated(tenants, known)

    def side(self, runs: Sequence[Sequence[Measured]], tenants: Sequence[Mapping[str, Any]]) -> Side | None:
        """Runs of the same tenants with their errors; None where samples of one are not there."""
        found = self.repeated(runs, tenants)
        if found is None:
            return None
        known = [list(run) for run in found.runs]
        whole = [name for own in zip(*known, strict=True) for name in own[0] if all(name in run for run in own)]
        names = list(dict.fromkeys(whole))
        how = Together(self.known.tenants, [[self.known.follows(name, tenant) for name in names] for tenant in tenants])
        errors = run_errors(known, names, self.known.spreads(found, names), how, self.normals)
        logs = np.array([[[own[n].log if n in own else np.nan for n in names] for own in run] for run in known])
        throughput, mean = names.index("throughput"), names.index("mean")
        closed = (np.abs(logs[:, :, throughput] + logs[:, :, mean] - np.log(1e3)) < _CLOSED).all(axis=0)
        errors[closed, throughput] = -errors[closed, mean]  # there throughput is the inverse of latency, errors too
        return Side(names, logs.mean(axis=0), np.clip(errors, -_MOST_LOG, _MOST_LOG))

    def alone(self, group: tuple[Measured, ...], tenant: Mapping[str, Any], name: str = "mean") -> Side | None:
        """A tenant alone, in those runs that have the statistic; the same draws whenever it is asked for."""
        group = tuple(measured for measured in group if name in (self.readings(measured) or ()))
        if group not in self.sides:
            self.sides[group] = self.side([[measured] for measured in group], [tenant])
        return self.sides[group]


@dataclass(frozen=True, eq=False)
class Estimates:
    """Figures with their errors."""

    figures: Mapping[Key, Estimate]
    """Every figure of the points and their tenants that there are samples for."""
    progress: Mapping[int, Progress]
    """Progress of the tenants of each point, for the fairness over several points."""
    latency_alone_ms: Mapping[str, Estimate]
    """Mean latency alone, by group of runs alone."""


def figures_of(study: Study, alone: BaselineRuns, points: pd.DataFrame) -> Estimates:
    """Learn how runs of a study differ, then every figure of ``points``, which are all of its points or some."""
    study.known = learn(_repeated(study, alone))
    found: dict[Key, Estimate] = {}
    progress: dict[int, Progress] = {}
    for point in rows_of(points.reindex(columns=["point", "energy_j_per_request", "energy_counter_log"])):
        number = int(point["point"])
        figures, own = _together(study, study.by_point[number], point, study.rows_alone)
        found |= {(number, *key): figure for key, figure in figures.items()}
        if own is not None:
            progress[number] = own
    sides = {name: study.alone(group, study.rows_alone[group[0]]) for name, group in alone.groups.items()}
    return Estimates(found, progress, {n: _absolute(side, 0, "mean") for n, side in sides.items() if side is not None})


# --- which runs are pooled --------------------------------------------------------------------------------------------


def _alone_rows(alone: BaselineRuns) -> dict[Measured, Mapping[str, Any]]:
    """The rows of models alone, each with how full the device was: the part of latency not spent launching."""
    rows = rows_of(alone.runs.reindex(columns=["record_id", "tenant", "launch_bound_pct", *_LIKE]))
    by_run = {(str(row["record_id"]), str(row["tenant"])): row for row in rows}
    for group in alone.groups.values():
        shares = [by_run[measured]["launch_bound_pct"] for measured in group]
        known = [float(share) for share in shares if pd.notna(share)]
        fill = 1 - float(np.mean(known)) / 100 if known else np.nan
        for measured in group:
            by_run[measured] |= {"mode": ALONE, "fill": fill}
    return dict(by_run)


def _fill(study: Study, rows: Sequence[Mapping[str, Any]], alone: Mapping[Measured, Mapping[str, Any]]) -> float:
    """Share of the device's time that the tenants of a point use: their rates times their busy time alone."""
    total = 0.0
    for row in rows:
        group: tuple[Measured, ...] = row["compared"][0] if row["compared"] else ()
        shared, own = study.readings((str(row["records"][0]), str(row["ids"][0]))), [study.readings(m) for m in group]
        known = [reading["mean"].log for reading in own if reading is not None]
        if shared is None or not known:
            return np.nan
        total += float(np.exp(shared["throughput"].log + np.mean(known)) / 1e3) * float(alone[group[0]]["fill"])
    return total


def _repeated(study: Study, alone: BaselineRuns) -> Iterable[Repeated]:
    """Runs of points and of models alone; those of one tenant that are a model alone are among the latter only."""
    for rows in study.by_point.values():
        runs = runs_of(rows)
        if any(measured not in study.rows_alone for run in runs for measured in run):
            repeated = study.repeated(runs, rows)
            if repeated is not None:
                yield repeated
    for group in alone.groups.values():
        repeated = study.repeated([[measured] for measured in group], [study.rows_alone[group[0]]])
        if repeated is not None:
            yield repeated


def runs_of(rows: Sequence[Mapping[str, Any]]) -> list[list[Measured]]:
    """``runs[run][tenant]`` of a point, of the rows of its tenants."""
    return [
        [(str(row["records"][run]), str(row["ids"][run])) for row in rows] for run in range(len(rows[0]["records"]))
    ]


# --- figures ----------------------------------------------------------------------------------------------------------


def _together(
    study: Study,
    rows: list[dict[str, Any]],
    point: Mapping[str, Any],
    rows_alone: Mapping[Measured, Mapping[str, Any]],
) -> tuple[dict[tuple[int, str], Estimate], Progress | None]:
    """Figures of the tenants of a point, and of all of them together; nothing where samples are missing."""
    count = len(rows[0]["records"])
    runs = runs_of(rows)
    shared = study.side(runs, rows)
    if shared is None:
        return {}, None
    found: dict[tuple[int, str], Estimate] = {}
    for i in range(len(rows)):
        found[i, "latency_mean_ms"] = _absolute(shared, i, "mean")
        if shared.has(i, "gpu_time"):
            found[i, "gpu_time_mean_ms"] = _absolute(shared, i, "gpu_time")
    found |= {(RUN, key): figure for key, figure in _totals(study, shared, point).items()}
    pairs: list[_Pair | InRounds] = []
    for i, row in enumerate(rows):
        own = [study.in_rounds.get(run[i]) for run in runs]
        if (measured := in_rounds(own, study.normals)) is not None:
            pairs.append(measured)
            found |= {(i, key): figure for key, figure in measured.figures().items()}
            continue
        against: dict[str, list[Side]] = {}
        for name in (name for name in shared.names if shared.has(i, name)):
            groups = [group for group in row["compared"] if group]
            sides = [study.alone(group, rows_alone[group[0]], name) for group in groups]
            against[name] = [side for side in sides if side is not None]
        pair = _Pair(shared, {name: sides for name, sides in against.items() if len(sides) == count}, i)
        if "throughput" in pair.alone:
            pairs.append(pair)
            found |= {(i, key): figure for key, figure in pair.figures().items()}
    if len(pairs) < len(rows):
        return found, None
    progress = Progress(
        np.array([pair.log("throughput") for pair in pairs]), np.array([pair.error("throughput") for pair in pairs])
    )
    known = [study.runs.get(own, {}) for own in rows[0]["records"]]
    of_all = _of_all(pairs, progress) | run_figures(known, study.normals)
    return found | {(RUN, key): figure for key, figure in of_all.items()}, progress


def _totals(study: Study, shared: Side, point: Mapping[str, Any]) -> dict[str, Estimate]:
    """Requests a second of all tenants, and the energy of one.

    Energy errs as the time that requests take and as the counter does, which is known where power was sampled beside
    it: by how far the two lie apart. Elsewhere the error is not known.
    """
    tenants = range(len(shared.logs))
    logs = np.array([shared.log(i, "throughput") for i in tenants])
    total = _made_of(lambda rows: rows.sum(axis=-1), logs, np.array([shared.error(i, "throughput") for i in tenants]))
    found = {"throughput_rps": total}
    energy_j, counter = (float(point.get(name, np.nan)) for name in ("energy_j_per_request", "energy_counter_log"))
    if np.isfinite(energy_j):
        found["energy_j_per_request"] = Estimate(energy_j, counter * study.normals.normal(()) - total.errors)
    return found


def _made_of(formula: Callable[[Floats], Floats], logs: Floats, errors: Floats) -> Estimate:
    """A figure of several tenants with its error.

    A mean of exponentials of noisy logarithms is too large on average, of the measured ones as of the draws. So the
    truth lies as far on the other side of the figure as a draw does (the basic bootstrap: A. C. Davison, D. V. Hinkley,
    Bootstrap Methods and their Application, 1997, section 5.2).

    Args:
        formula: Rows, shape (..., tenants), to the figure of each.
        logs: Of what it is made of, shape (tenants,).
        errors: Draws of their errors, shape (tenants, draws).
    """
    value = float(formula(np.exp(logs)))
    drawn = formula(np.exp(logs[:, None] - errors).T)
    return Estimate.of(value, value**2 / drawn)


def _absolute(side: Side, tenant: int, name: str) -> Estimate:
    return Estimate(float(np.exp(side.log(tenant, name))), side.error(tenant, name))


@dataclass(frozen=True, eq=False)
class _Pair:
    """A tenant and what it is compared with."""

    shared: Side
    alone: Mapping[str, Sequence[Side]]
    """By statistic, a side for each run: of runs alone, those that have enough iterations for it."""
    tenant: int

    def log(self, name: str) -> float:
        """Shared against alone, on logarithms."""
        return self.shared.log(self.tenant, name) - float(np.mean([side.log(0, name) for side in self.alone[name]]))

    def error(self, name: str) -> Floats:
        """Draws of its error."""
        alone: Floats = np.mean([side.error(0, name) for side in self.alone[name]], axis=0)
        return self.shared.error(self.tenant, name) - alone

    def figures(self) -> dict[str, Estimate]:
        """Slowdowns and progress of the tenant."""
        parts = {name: Estimate(float(np.exp(self.log(name))), self.error(name)) for name in self.alone}
        found = {key: parts[name] for key, name in _SLOWDOWNS.items() if name in parts}
        found["normalized_progress"] = parts["throughput"]
        if "p99" in parts:
            found["tail_inflation"] = parts["p99"] / parts["p50"]
        return found


def _of_all(pairs: Sequence[_Pair | InRounds], progress: Progress) -> dict[str, Estimate]:
    """STP, ANTT, fairness."""
    slowdowns, errors = [np.array(own) for own in zip(*[(p.log("mean"), p.error("mean")) for p in pairs], strict=True)]
    return {
        "stp": _made_of(stp_rows, progress.logs, progress.errors),
        "antt": _made_of(antt_rows, slowdowns, errors),
        "fairness": true_fairness([progress]),
    }

"""Figures of points with what they err by: within runs, between runs, and by what they are compared with.

Lives here: :func:`estimates`. May touch: nothing outside its arguments. The formulas are those of
:mod:`mtexp.metrics`; here they are given every run of a point and every run of its tenants alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.interference import antt_rows, fairness_rows, jain_fairness_rows, stp_rows
from mtexp.metrics.repeats import Between, Estimate, Reading, between_errors, mean_errors, pooled, readings
from mtexp.metrics.samples import Floats

from .baseline_runs import Alone, Measured
from .data import Dataset
from .frames import rows_of

RUN = -1
"""Position of a figure that is of the whole point."""
_CLOSED = 0.02
"""On logarithms: so near to the inverse of latency, a throughput is that of a closed loop (the window has edges)."""
_MOST_LOG = 100.0
"""On logarithms, the largest error of a draw: t of one degree of freedom has no bound, but what is made of its draws
(ratios of sums of exponentials) must fit a float. The quantiles of an interval lie far within."""
Key = tuple[int, int, str]
"""Point, position of the tenant or :data:`RUN`, name of the figure."""
Readings = Mapping[str, Reading]

TIMER = "timer_slowdown"
"""What the CUDA-event timer would call the slowdown."""
_SLOWDOWNS = {"slowdown": "mean", TIMER: "gpu_time"} | {
    f"slowdown_{name}": name for name in ("p50", "p90", "p95", "p99")
}
_LIKE = ("model", "workload", "execution")
"""What makes runs alike in how they differ."""
_EVEN: dict[str, Callable[[Floats], Floats]] = {"jain_fairness": jain_fairness_rows, "fairness": fairness_rows}


@dataclass(frozen=True, eq=False)
class Side:
    """Runs of the same tenants together."""

    runs: list[list[Readings]]
    """``runs[run][tenant]``."""
    names: list[str]
    """Statistics that some tenant has in all of them."""
    errors: Floats
    """Of the means over runs, shape (tenants, names, draws); the spread between few runs is not in them."""
    between: Floats
    """That spread, were every tenant on its own; the same shape."""
    common: Floats
    """That spread, were it the same throw for all tenants."""

    def has(self, tenant: int, name: str) -> bool:
        """Whether the tenant has the statistic in every run."""
        return all(name in run[tenant] for run in self.runs)

    def log(self, tenant: int, name: str) -> float:
        """Mean over runs."""
        return float(np.mean([run[tenant][name].log for run in self.runs]))

    def error(self, tenant: int, name: str, *, common: bool = False) -> Floats:
        """Draws of its error."""
        index = self.names.index(name)
        errors = self.errors[tenant, index] + (self.common if common else self.between)[tenant, index]
        return np.clip(errors, -_MOST_LOG, _MOST_LOG)


@dataclass(eq=False)
class _Study:
    """What the points of one dataset have in common."""

    data: Dataset
    draws: int
    rng: np.random.Generator
    spreads: dict[tuple[str, str], Between | None] = field(default_factory=dict)
    """By statistic and what was run (:func:`_kinds`)."""
    read: dict[Measured, Readings | None] = field(default_factory=dict)
    sides: dict[tuple[Measured, ...], Side | None] = field(default_factory=dict)

    def readings(self, measured: Measured) -> Readings | None:
        if measured not in self.read:
            series = self.data.series(*measured)
            gpu = self.data.series(*measured, "gpu_time_ms")
            times = {} if gpu is None else {"gpu_time": gpu.latency_ms}
            self.read[measured] = None if series is None else readings(series, **times)
        return self.read[measured]

    def spread(self, name: str, tenant: Mapping[str, Any]) -> Between:
        """Of the runs that are most like those of this tenant."""
        known = (self.spreads.get((name, kind)) for kind in _kinds(tenant))
        return next((spread for spread in known if spread), Between(0.0, 0))

    def side(self, runs: Sequence[Sequence[Measured]], tenants: Sequence[Mapping[str, Any]]) -> Side | None:
        """Runs of the same tenants; None where samples of one are not there."""
        found = [[self.readings(measured) for measured in run] for run in runs]
        known = [[own for own in run if own is not None] for run in found]
        if not known or any(len(run) != len(tenants) for run in known):
            return None
        whole = [name for own in zip(*known, strict=True) for name in own[0] if all(name in run for run in own)]
        names = list(dict.fromkeys(whole))
        errors = mean_errors(known, names, self.draws, self.rng)
        spreads = [[self.spread(name, tenant) for name in names] for tenant in tenants]
        freedom = np.array([[own.freedom for own in row] for row in spreads])
        each = [between_errors(len(known), own, self.draws, self.rng) for own in freedom]
        signs = np.array([-1.0 if name == "throughput" else 1.0 for name in names])
        sd = (signs * np.array([[own.sd for own in row] for row in spreads]))[:, :, None]
        common = between_errors(len(known), freedom, self.draws, self.rng)
        for tenant in range(len(tenants)):  # in closed loop throughput is the inverse of latency, errors too
            if all(
                abs(run[tenant]["throughput"].log + run[tenant]["mean"].log - np.log(1e3)) < _CLOSED for run in known
            ):
                errors[tenant, names.index("throughput")] = -errors[tenant, names.index("mean")]
        return Side(known, names, errors, sd * np.array(each), sd * common)

    def alone(self, group: tuple[Measured, ...], tenant: Mapping[str, Any], name: str = "mean") -> Side | None:
        """A tenant alone, in those runs that have the statistic; the same draws whenever it is asked for."""
        group = tuple(measured for measured in group if name in (self.readings(measured) or ()))
        if group not in self.sides:
            self.sides[group] = self.side([[measured] for measured in group], [tenant])
        return self.sides[group]


def estimates(
    data: Dataset, alone: Alone, points: pd.DataFrame, tenants: pd.DataFrame, *, draws: int, seed: int
) -> tuple[dict[Key, Estimate], dict[str, Estimate]]:
    """Every figure of the points and their tenants that there are samples for; mean latency of each baseline hash.

    Args:
        data: Runs.
        alone: Models alone.
        points: :attr:`analysis.pooling.Results.points`.
        tenants: Their tenants, each with ``records``, ``ids`` and ``compared`` (a group of runs alone for each run).
        draws: Draws of errors.
        seed: Of the draws.
    """
    study = _Study(data, draws, np.random.Generator(np.random.SFC64(seed)))
    by_point: dict[int, list[dict[str, Any]]] = {}
    for tenant in rows_of(tenants.reindex(columns=["point", "position", "records", "ids", "compared", *_LIKE])):
        by_point.setdefault(int(tenant["point"]), []).append(tenant)
    study.spreads |= _spreads(study, alone, by_point.values())
    found: dict[Key, Estimate] = {}
    for point in rows_of(points.reindex(columns=["point", "energy_j_per_request"])):
        number = int(point["point"])
        found |= {(number, *key): figure for key, figure in _together(study, by_point[number], point).items()}
    rows = _by_measured(alone)
    sides = {name: study.alone(group, rows[group[0]]) for name, group in alone.groups.items()}
    return found, {name: _absolute(side, 0, "mean") for name, side in sides.items() if side is not None}


# --- the spread between runs ------------------------------------------------------------------------------------------


def _by_measured(alone: Alone) -> dict[Measured, Mapping[str, Any]]:
    """The rows of models alone."""
    rows = rows_of(alone.runs[["record_id", "tenant", *_LIKE]])
    return {(str(row["record_id"]), str(row["tenant"])): row for row in rows}


def _kinds(tenant: Mapping[str, Any]) -> tuple[str, ...]:
    """Whose spread a tenant has: that of its model doing the same, of its model, of any."""
    model = str(tenant["model"])
    return f"{model} {tenant.get('workload')} {tenant.get('execution')}", model, ""


def _spreads(
    study: _Study, alone: Alone, points: Iterable[list[dict[str, Any]]]
) -> dict[tuple[str, str], Between | None]:
    """By statistic and kind: of what was repeated, one tenant of each model of a point, and models alone."""
    repeated: list[tuple[Mapping[str, Any], list[Measured]]] = []
    for rows in points:
        firsts = {_kinds(row)[0]: row for row in reversed(rows)}
        repeated += [(row, list(zip(row["records"], row["ids"], strict=True))) for row in firsts.values()]
    rows_alone = _by_measured(alone)
    repeated += [(rows_alone[group[0]], list(group)) for group in alone.groups.values()]
    logs: dict[tuple[str, str], list[list[float]]] = {}
    for tenant, runs in repeated:
        known = [own for own in map(study.readings, runs) if own is not None]
        for name in dict.fromkeys(name for own in known for name in own):
            values = [own[name].log for own in known if name in own]
            for kind in _kinds(tenant):
                logs.setdefault((name, kind), []).append(values)
    return {key: pooled(groups) for key, groups in logs.items()}


# --- figures ----------------------------------------------------------------------------------------------------------


def _together(study: _Study, rows: list[dict[str, Any]], point: Mapping[str, Any]) -> dict[tuple[int, str], Estimate]:
    """Figures of the tenants of a point, and of all of them together; nothing where samples are missing."""
    count = len(rows[0]["records"])
    runs = [[(str(row["records"][run]), str(row["ids"][run])) for row in rows] for run in range(count)]
    shared = study.side(runs, rows)
    if shared is None:
        return {}
    found = {(i, "latency_mean_ms"): _absolute(shared, i, "mean") for i in range(len(rows))}
    found |= {(RUN, key): figure for key, figure in _totals(shared, point).items()}
    pairs = []
    for i, row in enumerate(rows):
        against: dict[str, list[Side]] = {}
        for name in (name for name in shared.names if shared.has(i, name)):
            sides = [study.alone(group, row, name) for group in row["compared"]]
            against[name] = [side for side in sides if side is not None]
        pair = _Pair(shared, {name: sides for name, sides in against.items() if len(sides) == count}, i)
        if "throughput" in pair.alone:
            pairs.append(pair)
            found |= {(i, key): figure for key, figure in pair.figures().items()}
    if len(pairs) == len(rows):
        found |= {(RUN, key): figure for key, figure in _of_all(pairs).items()}
    return found


def _totals(shared: Side, point: Mapping[str, Any]) -> dict[str, Estimate]:
    """Requests a second of all tenants, and the energy of one: it is taken to err as the time that it takes."""
    tenants = range(len(shared.runs[0]))
    each = np.array([shared.log(i, "throughput") + shared.error(i, "throughput", common=True) for i in tenants])
    value = sum(float(np.exp(shared.log(i, "throughput"))) for i in tenants)
    total = Estimate.of(value, np.exp(each).sum(axis=0))
    found = {"throughput_rps": total}
    energy_j = float(point.get("energy_j_per_request", np.nan))
    if np.isfinite(energy_j):
        found["energy_j_per_request"] = Estimate(energy_j, -total.errors)
    return found


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

    def error(self, name: str, *, common: bool = False) -> Floats:
        """Draws of its error."""
        apart: Floats = np.mean([side.error(0, name) for side in self.alone[name]], axis=0)
        return self.shared.error(self.tenant, name, common=common) - apart

    def figures(self) -> dict[str, Estimate]:
        """Slowdowns and progress of the tenant."""
        parts = {name: Estimate(float(np.exp(self.log(name))), self.error(name)) for name in self.alone}
        found = {key: parts[name] for key, name in _SLOWDOWNS.items() if name in parts}
        found["normalized_progress"] = parts["throughput"]
        if "p99" in parts:
            found["tail_inflation"] = parts["p99"] / parts["p50"]
        return found


def _of_all(pairs: Sequence[_Pair]) -> dict[str, Estimate]:
    """STP, ANTT, Jain and fairness.

    Whether few runs differ in all tenants alike or in each on its own is not known: sums take the one and evenness the
    other, which is what makes the interval wider.
    """
    progress = np.exp([pair.log("throughput") for pair in pairs])
    slowdowns = np.exp([pair.log("mean") for pair in pairs])
    up = np.exp([pair.error("throughput", common=True) for pair in pairs])
    slower = np.exp([pair.error("mean", common=True) for pair in pairs])
    apart = np.exp([pair.error("throughput") for pair in pairs]).T
    found = {
        "stp": Estimate.of(float(stp_rows(progress)), stp_rows((progress[:, None] * up).T)),
        "antt": Estimate.of(float(antt_rows(slowdowns)), antt_rows((slowdowns[:, None] * slower).T)),
    }
    for name, formula in _EVEN.items():
        found[name] = Estimate.evenness(float(formula(progress)), formula(progress * apart), formula(apart))
    return found

"""What the runs of a study that were repeated say about how runs differ.

Lives here: :class:`Known`, :func:`learn`. May touch: nothing outside its arguments. Runs are pooled by model and
what it does, sharing mode, and how full the device is (:mod:`mtexp.metrics.spread` shrinks one to the other).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtexp.metrics.repeats import Reading, correlation
from mtexp.metrics.samples import Floats
from mtexp.metrics.spread import NOT_KNOWN, Between, Group, LikeRuns, Path

Readings = Mapping[str, Reading]
ALONE = "alone"
_FULL = 0.6
"""Share of the device's time in use from which on it counts as full: there runs differ half as much."""
_FOLLOWS_FREEDOM = 4.0
"""Degrees of freedom from which on a correlation of two statistics is taken from runs of that sharing mode alone."""


def path_of(tenant: Mapping[str, Any]) -> Path:
    """The group in which runs of a tenant are pooled: what it does, its sharing ``mode``, ``fill`` of its device."""
    does = f"{tenant['model']} {tenant.get('workload')} {tenant.get('execution')}"
    mode, fill = str(tenant.get("mode", "")), float(tenant.get("fill", np.nan))
    if mode == ALONE or np.isnan(fill):
        return does, mode, ""
    return does, "MPS" if mode.startswith("MPS") else mode, "full" if fill >= _FULL else "part"


@dataclass(frozen=True, eq=False)
class Repeated:
    """Runs of the same tenants together."""

    tenants: Sequence[Mapping[str, Any]]
    """What each is (:func:`path_of`)."""
    runs: Sequence[Sequence[Readings]]
    """``runs[run][tenant]``."""

    def logs(self, name: str, tenants: Sequence[int]) -> Floats:
        """Logarithms from the runs in which all these tenants have the statistic, shape (runs, tenants)."""
        rows = [[run[t][name].log for t in tenants] for run in self.runs if all(name in run[t] for t in tenants)]
        return np.array(rows).reshape(len(rows), len(tenants))

    def by_path(self) -> dict[Path, list[int]]:
        """Positions of the tenants of each group."""
        found: dict[Path, list[int]] = {}
        for position, tenant in enumerate(self.tenants):
            found.setdefault(path_of(tenant), []).append(position)
        return found

    def groups(self, name: str, together: float) -> dict[Path, Group]:
        """Sum of squares and degrees of freedom of the tenants of each group."""
        found = {}
        for path, positions in self.by_path().items():
            logs = self.logs(name, positions)
            independent = len(positions) / (1 + (len(positions) - 1) * together)
            if len(logs) > 1:
                squares = float(((logs - logs.mean(axis=0)) ** 2).sum(axis=0).mean())
                found[path] = Group(path, squares * independent, (len(logs) - 1) * independent)
            else:
                found[path] = Group(path, 0.0, 0.0)
        return found


@dataclass(frozen=True, eq=False)
class Known:
    """What repeated runs say."""

    like: Mapping[str, LikeRuns] = field(default_factory=dict)
    """By statistic."""
    tenants: float = 0.0
    """Correlation of tenants of one run."""
    correlations: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Correlations with the mean latency, by statistic and sharing mode; '' for all modes."""

    def follows(self, name: str, tenant: Mapping[str, Any]) -> float:
        """Correlation of a statistic of a tenant with its mean latency."""
        known = self.correlations.get((name, path_of(tenant)[1]), self.correlations.get((name, ""), 1.0))
        return 1.0 if name == "mean" else known

    def spreads(self, runs: Repeated, names: Sequence[str]) -> list[list[Between]]:
        """The spread of each tenant and statistic, from runs like it together with its own runs."""
        table: list[list[Between]] = [[NOT_KNOWN] * len(names) for _ in runs.tenants]
        for index, name in enumerate(names):
            like = self.like.get(name, LikeRuns())
            groups = runs.groups(name, self.tenants)
            for path, positions in runs.by_path().items():
                own = like.expected(path).with_own(groups[path].squares, groups[path].freedom)
                for position in positions:
                    table[position][index] = own
        return table


def learn(repeated: Iterable[Repeated]) -> Known:
    """Return the spreads that repeated points show; points of a single run are ignored."""
    known = [runs for runs in repeated if len(runs.runs) > 1]
    names = list(dict.fromkeys(name for runs in known for run in runs.runs for own in run for name in own))
    alone = {name: LikeRuns.of(g for runs in known for g in runs.groups(name, 1.0).values()) for name in names}
    if not names:
        return Known()
    together = correlation(_pairs(known, alone["mean"]))
    like = {name: LikeRuns.of(g for runs in known for g in runs.groups(name, together).values()) for name in names}
    return Known(like, together, _correlations(known, names))


def _pairs(known: Sequence[Repeated], like: LikeRuns) -> Iterable[tuple[float, float, float]]:
    """Covariance of tenants of one run in mean latency, as :func:`mtexp.metrics.repeats.correlation` takes it."""
    for runs in known:
        count = len(runs.tenants)
        logs = runs.logs("mean", range(count))
        if count > 1 and len(logs) > 1:
            apart = logs - logs.mean(axis=0)
            sds = np.array([like.expected(path_of(tenant)).sd for tenant in runs.tenants])
            scaled = apart / np.maximum(sds, 1e-9)
            of_pairs = (scaled.sum(axis=1) ** 2 - (scaled**2).sum(axis=1)).sum() / (count * (count - 1))
            yield float(of_pairs) / (len(logs) - 1), 1.0, len(logs) - 1.0


def _correlations(known: Sequence[Repeated], names: Sequence[str]) -> dict[tuple[str, str], float]:
    """Correlations of each statistic with the mean, over runs: of sharing modes with enough runs, and of all modes."""
    sums: dict[tuple[str, str], Floats] = {}
    for runs in known:
        for name in names:
            for position, tenant in enumerate(runs.tenants):
                own = [run[position] for run in runs.runs if name in run[position]]
                if len(own) < 2:
                    continue
                first, second = (np.array([reading[n].log for reading in own]) for n in ("mean", name))
                a, b = first - first.mean(), second - second.mean()
                for mode in ("", path_of(tenant)[1]):
                    found = sums.setdefault((name, mode), np.zeros(4))
                    found += [(a * b).sum(), (a * a).sum(), (b * b).sum(), len(own) - 1]
    return {
        key: float(np.clip(product / np.sqrt(first * second), -1, 1))
        for key, (product, first, second, freedom) in sums.items()
        if first * second > 0 and (not key[1] or freedom >= _FOLLOWS_FREEDOM)
    }

"""One of two sets of runs that are compared: its points, and its runs of one model alone.

Lives here: :class:`Side`, :class:`Point`. May touch: nothing outside its arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mtexp.metrics.repeats import NormalDraws

from .baseline_runs import BaselineRuns, Measured
from .dataset import Dataset
from .estimates import Study, runs_of
from .frames import rows_of
from .points import Repetitions, points_of
from .spread import Repeated


@dataclass(frozen=True, eq=False)
class Point:
    """The runs of one point on one side."""

    mix: str
    sharing: str
    labels: tuple[str, ...]
    """Labels of the tenants, in the same order on both sides."""
    tenants: Sequence[Mapping[str, Any]]
    """As :func:`analysis.spread.path_of` takes them."""
    runs: Sequence[Sequence[Measured]]
    """``runs[run][tenant]``."""
    compared: Sequence[frozenset[Measured]]
    """The runs alone that each tenant is compared with."""


@dataclass(frozen=True, eq=False)
class Side:
    """One of two sets of runs."""

    study: Study
    points: Mapping[Any, Point]
    """By what was asked."""
    groups: frozenset[frozenset[Measured]]
    """Runs that measured one model alone."""

    @classmethod
    def of(cls, data: Dataset, repeated: Repetitions) -> Side:
        """The points of ``repeated``, which are of ``data``."""
        alone = BaselineRuns.of(data)
        points, tenants = points_of(repeated, alone)
        normals = NormalDraws(1, np.random.default_rng(0))  # its draws are not used
        study = Study.of(data, alone, points, tenants, normals)
        found = {}
        for key, point in zip(repeated.members, rows_of(points), strict=True):
            rows = study.by_point[int(point["point"])]
            runs = runs_of(rows)
            compared = [
                frozenset(m for own in row["compared"] for m in own)
                | {run[at] for run in runs if run[at] in study.rows_alone}
                for at, row in enumerate(rows)
            ]
            found[key] = Point(str(point["mix"]), str(point["sharing"]), point["labels"], rows, runs, compared)
        return cls(study, found, frozenset(frozenset(group) for group in alone.groups.values()))

    def part(self, records: Collection[str]) -> Side:
        """The side with only those of its runs and baselines that are among ``records``."""
        points = {}
        for key, point in self.points.items():
            runs = [run for run in point.runs if run[0][0] in records]
            compared = [frozenset(m for m in own if m[0] in records) for own in point.compared]
            if runs:
                points[key] = replace(point, runs=runs, compared=compared)
        groups = (frozenset(m for m in group if m[0] in records) for group in self.groups)
        return replace(self, points=points, groups=frozenset(group for group in groups if group))

    def alone(self, group: frozenset[Measured]) -> Repeated | None:
        """Runs of one model alone; None where there are none or samples are missing."""
        ordered = sorted(group)
        return self.study.repeated([[m] for m in ordered], [self.study.rows_alone[ordered[0]]]) if ordered else None

    def together(self, point: Point) -> Repeated | None:
        """Runs of a point; None where samples are missing, or all of them are runs of a model alone."""
        if all(measured in self.study.rows_alone for run in point.runs for measured in run):
            return None
        return self.study.repeated(point.runs, point.tenants)

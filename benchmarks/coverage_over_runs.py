"""How often intervals over runs hold the truth, and how wide they are: studies simulated from committed records.

No benchmark of speed. Each study has the points, runs and tenants of the committed one. The truth of a tenant is what
was measured; its runs are drawn anew, with the spread of runs like them (model, sharing mode, how full the device is),
with variances that differ from point to point as they do there, and with the measured correlation of tenants of a run.
Noise is normal, or that of a host that is slow in three runs of ten. The figure is the ratio of STP of MPS and time
slicing, geometric mean over mixes, as the findings have it. *Needed* is the width that holds the truth in 95 % if the
spread of the estimate is known.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.answers import TURNS
from analysis.baseline_runs import BaselineRuns, Measured
from analysis.data import load
from analysis.estimates import RUN, Estimates, Study, figures_of, runs_of
from analysis.points import points_of
from analysis.pooling import repetitions
from analysis.spread import Readings, path_of
from benchmarks import common
from mtexp.metrics.repeats import NormalDraws, Reading, geometric_mean

Floats = NDArray[np.float64]
STUDIES = {name: common.ROOT / "docs" / "archive" / name / "records" for name in ("h200", "h100")}
ALIKE = 1e6
"""Degrees of freedom with which variances do not differ."""
WITHIN = 0.005
"""Standard error of a run by its own iterations, on logarithms: small beside that between runs."""


def two_states(rng: np.random.Generator, count: int) -> Floats:
    """A host that is slow in three runs of ten; mean 0, standard deviation 1."""
    return np.where(rng.random(count) < 0.3, math.sqrt(0.7 / 0.3), -math.sqrt(0.3 / 0.7))


def normal(rng: np.random.Generator, count: int) -> Floats:
    """Standard normal."""
    return rng.standard_normal(count)


NOISES: dict[str, Callable[[np.random.Generator, int], Floats]] = {"normal": normal, "two states": two_states}


@dataclass(frozen=True, eq=False)
class Point:
    """Runs of the same tenants together."""

    runs: list[list[Measured]]
    logs: Floats
    """True logarithm of the mean latency of each tenant."""
    sds: Floats
    """Spread of each between runs."""
    kinds: list[int]
    """Tenants of one kind have one variance."""


@dataclass(frozen=True, eq=False)
class Template:
    """A committed study, as what others like it are drawn from."""

    study: Study
    alone: BaselineRuns
    points: Any
    drawn: list[Point]
    together: float
    """Correlation of tenants of one run."""
    freedom: float
    """Degrees of freedom of variances from point to point."""
    pairs: list[tuple[int, int]]
    """The points of each mix under MPS and under time slicing."""
    truth: float
    """Logarithm of the figure."""

    @classmethod
    def of(cls, folder: Path) -> Template:
        """Read a study."""
        data = load(records=folder)
        alone = BaselineRuns.of(data)
        points, tenants = points_of(repetitions(data.runs, data.tenants), alone)
        points["energy_counter_log"] = np.nan
        study = Study.of(data, alone, points, tenants, NormalDraws(2, np.random.default_rng(0)))
        figures_of(study, alone, points.iloc[:0])  # learns how its runs differ
        known, like = study.known, study.known.like["mean"]
        units: list[tuple[list[list[Measured]], Any]] = [
            ([[m] for m in group], [study.rows_alone[group[0]]]) for group in alone.groups.values()
        ]
        there = {m for group in alone.groups.values() for m in group}
        units += [(runs_of(rows), rows) for rows in study.by_point.values() if runs_of(rows)[0][0] not in there]
        drawn = [_point(study, runs, rows, lambda path: like.expected(path).sd) for runs, rows in units]
        logs = {m: float(log) for p in drawn for run in p.runs for m, log in zip(run, p.logs, strict=True)}
        mixes = points[(points["num_tenants"] > 1) & points["closed"].astype(bool)]
        modes = {
            name: {tuple(sorted(labels)): int(point) for labels, point in zip(own["labels"], own["point"], strict=True)}
            for name, own in mixes.groupby("sharing")
        }
        pairs = [(point, modes[TURNS][mix]) for mix, point in modes["MPS"].items() if mix in modes[TURNS]]
        pairs = [pair for pair in pairs if all(row["compared"][0] for at in pair for row in study.by_point[at])]
        stp = {at: _stp(study.by_point[at], logs) for pair in pairs for at in pair}
        truth = float(np.mean([math.log(stp[mps] / stp[turns]) for mps, turns in pairs]))
        return cls(study, alone, points, drawn, known.tenants, like.prior, pairs, truth)

    def draw(self, rng: np.random.Generator, noise: str, freedom: float) -> dict[Measured, Readings | None]:
        """Readings of all runs of another study."""
        throw = NOISES[noise]
        found: dict[Measured, Readings | None] = {}
        for point in self.drawn:
            variances = (freedom - 2) / rng.chisquare(freedom, max(point.kinds) + 1)
            sds = point.sds * np.sqrt(variances[point.kinds])
            for run in point.runs:
                own, common_throw = throw(rng, len(run)), throw(rng, 1)
                errors = sds * (math.sqrt(self.together) * common_throw + math.sqrt(1 - self.together) * own)
                for measured, log in zip(run, point.logs + errors, strict=True):
                    mean = Reading(float(log), WITHIN)
                    found[measured] = {"throughput": Reading(math.log(1e3) - mean.log, WITHIN), "mean": mean}
        return found

    def figure(self, seed: int, noise: str, freedom: float) -> float:
        """The logarithm of the figure of another study without its interval, in a tenth of the time."""
        found = self.draw(np.random.default_rng(seed), noise, freedom)
        logs = {measured: own["mean"].log for measured, own in found.items() if own is not None}
        stp = {at: _stp(self.study.by_point[at], logs) for pair in self.pairs for at in pair}
        return float(np.mean([math.log(stp[mps] / stp[turns]) for mps, turns in self.pairs]))

    def estimate(self, seed: int, noise: str, draws: int, freedom: float) -> tuple[float, float, float]:
        """The figure of another study and its interval, on logarithms."""
        rng = np.random.default_rng(seed)
        normals = NormalDraws(draws, np.random.Generator(np.random.SFC64(seed)))
        study = Study(
            self.study.data,
            normals,
            self.study.rows_alone,
            self.study.by_point,
            read=self.draw(rng, noise, freedom),
        )
        wanted = {at for pair in self.pairs for at in pair}
        found: Estimates = figures_of(study, self.alone, self.points[self.points["point"].isin(wanted)])
        stp = {at: found.figures[at, RUN, "stp"] for at in wanted}
        ratio = geometric_mean([stp[mps] / stp[turns] for mps, turns in self.pairs])
        interval = ratio.interval
        return math.log(ratio.value), math.log(interval.low), math.log(interval.high)


def _point(study: Study, runs: list[list[Measured]], rows: list[Any], sd: Callable[[tuple[str, ...]], float]) -> Point:
    known = [[study.readings(measured) for measured in run] for run in runs]
    logs = np.array([[own["mean"].log if own else np.nan for own in run] for run in known])
    paths = [path_of(row) for row in rows]
    order = list(dict.fromkeys(paths))
    return Point(runs, logs.mean(axis=0), np.array([sd(path) for path in paths]), [order.index(p) for p in paths])


def _stp(rows: list[dict[str, Any]], logs: Mapping[Measured, float]) -> float:
    """Of the geometric means over runs, alone and together."""
    total = 0.0
    for row in rows:
        together = [logs[measured] for measured in zip(row["records"], row["ids"], strict=True)]
        alone = [sum(logs[measured] for measured in group) / len(group) for group in row["compared"]]
        total += math.exp(sum(alone) / len(alone) - sum(together) / len(together))
    return total


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the intervals of many studies come to."""

    studies: int
    held: float
    """Share that hold the truth."""
    below: float
    """Share that lie below it."""
    above: float
    width: float
    """Mean, over what is needed."""
    bias: float
    """Of the figure, in its standard deviations."""

    @property
    def error(self) -> float:
        """Standard error of :attr:`held`."""
        return math.sqrt(self.held * (1 - self.held) / self.studies)


def coverage(found: Floats, truth: float) -> Coverage:
    """Of rows (figure, lower end, upper end)."""
    figure, low, high = found.T
    sd = float(figure.std(ddof=1))
    return Coverage(
        len(found),
        float(np.mean((low <= truth) & (truth <= high))),
        float(np.mean(high < truth)),
        float(np.mean(low > truth)),
        float((high - low).mean()) / (2 * 1.96 * sd),
        (float(figure.mean()) - truth) / sd,
    )


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=400)
    made.add_argument("--draws", type=int, default=1000, help="draws of errors in each study")
    made.add_argument("--alike", action="store_true", help="variances do not differ from point to point")
    made.add_argument("studies", nargs="*", default=list(STUDIES), help=f"{' or '.join(STUDIES)}; default: both")
    return made


def main() -> None:
    options = arguments().parse_args()
    if unknown := sorted(set(options.studies) - set(STUDIES)):
        arguments().error(f"no study {', '.join(unknown)}: choose from {', '.join(STUDIES)}")
    count = common.repeats_of(options)
    print("study, noise              held %      too low %  too high %  width / needed  bias / SD")
    for name in options.studies:
        template = Template.of(STUDIES[name])
        freedom = ALIKE if options.alike else template.freedom
        for noise in NOISES:
            found = np.array([template.estimate(seed, noise, options.draws, freedom) for seed in range(count)])
            own = coverage(found, template.truth)
            print(
                f"{name + ', ' + noise:24} {100 * own.held:5.1f} +- {100 * own.error:.1f} {100 * own.below:10.1f} "
                f"{100 * own.above:11.1f} {own.width:15.2f} {own.bias:+10.2f}   ({len(template.pairs)} mixes, {count} "
                f"studies, variances of {freedom:g} degrees of freedom, correlation {template.together:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()

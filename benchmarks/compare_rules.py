"""How often a comparison of two sets of runs is wrong, and what it finds: mtexp's rule beside nvbench's and pyperf's.

Committed records are split at random into two halves, A and B, which differ in nothing (A/A); or all latencies of B are
multiplied (a planted change). A rule is wrong in an A/A split if it calls any figure changed. The other rules see what
they see in their own tools: nvbench_compare.py (NVIDIA) calls a difference of means real that exceeds the smaller of
both relative standard deviations of samples; pyperf compares the values of all runs by Student's t test at 5 %.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

from analysis.baseline_runs import Measured
from analysis.changes import ALONE, TOGETHER, Comparison, judge, side_of
from analysis.data import load
from analysis.dataset import Dataset
from analysis.sides import Side
from analysis.spread import Readings
from benchmarks import common
from mtexp.metrics.change import CHANGED, EQUAL
from mtexp.metrics.repeats import Reading

DELTA = 0.03


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=200)
    folders = [common.ROOT / "docs" / "archive" / name / "records" for name in ("h200", "h100")]
    made.add_argument("records", type=Path, nargs="*", default=folders, help="folders of records, one kind of GPU each")
    made.add_argument("--planted", default="0,5,10", help="percent that B is slower by")
    return made


def main() -> None:
    options = arguments().parse_args()
    for folder in options.records:
        data = load(records=folder)
        whole = side_of(data)
        splits = [halves(whole, np.random.default_rng(seed)) for seed in range(common.repeats_of(options))]
        samples = Samples(data)
        for planted in map(float, options.planted.split(",")):
            _show(folder, planted, whole, splits, samples)


def halves(whole: Side, rng: np.random.Generator) -> tuple[set[str], set[str]]:
    """The runs of each point, and the baselines of each model, dealt to A and B in random order."""
    dealt: dict[str, int] = {}

    def deal(records: list[str]) -> None:
        first = int(rng.integers(2))
        for place, index in enumerate(rng.permutation(len(records))):
            dealt.setdefault(records[index], (place + first) % 2)

    for point in whole.points.values():
        deal([run[0][0] for run in point.runs])
    for group in sorted(map(sorted, whole.groups)):
        deal([record for record, _ in group if record not in dealt])
    return ({r for r, side in dealt.items() if side == 0}, {r for r, side in dealt.items() if side == 1})


class Samples:
    """Latencies of single requests, for the rules that look at them."""

    def __init__(self, data: Dataset):
        self.data = data
        self.known: dict[tuple[str, str], np.ndarray] = {}

    def of(self, runs: list[tuple[str, str]]) -> np.ndarray:
        """Those of all these runs."""
        for record, tenant in runs:
            if (record, tenant) not in self.known:
                found = self.data.samples(record, tenant)["latency_ms"].to_numpy(np.float64)
                self.known[record, tenant] = found
        return np.concatenate([self.known[run] for run in runs])


def nvbench(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether nvbench_compare.py calls it SLOW or FAST."""
    noise = min(a.std() / a.mean(), b.std() / b.mean())
    return bool(abs(b.mean() / a.mean() - 1) > noise)


def pyperf(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether pyperf calls it significant."""
    return bool(stats.ttest_ind(a, b).pvalue < 0.05)


def _pairs(a: Side, b: Side) -> Iterator[tuple[list[tuple[str, str]], list[tuple[str, str]]]]:
    """Runs of each tenant together, and of each model alone, in A and in B."""
    for key in (key for key in a.points if key in b.points):
        for position in range(len(a.points[key].labels)):
            yield [run[position] for run in a.points[key].runs], [run[position] for run in b.points[key].runs]
    for group in a.groups:
        other = [own for own in b.groups if {a.study.rows_alone[m]["model"] for m in group} ==
                 {b.study.rows_alone[m]["model"] for m in own}]  # fmt: skip
        if len(other) == 1:
            yield sorted(group), sorted(other[0])


def slower(side: Side, factor: float) -> Side:
    """A side whose every latency is multiplied."""
    if factor == 1:
        return side
    plain = {measured: own for measured, own in side.study.read.items() if own is not None}
    moved: dict[Measured, Readings | None] = {
        measured: {name: Reading(one.log + math.log(factor), one.error) for name, one in own.items()}
        for measured, own in plain.items()
    }
    return replace(side, study=replace(side.study, read=moved))


def _show(folder: Path, planted: float, whole: Side, splits: list[tuple[set[str], set[str]]], samples: Samples) -> None:
    any_changed = dict.fromkeys(("mtexp", "nvbench", "pyperf"), 0)
    share: dict[str, list[float]] = {name: [] for name in any_changed}
    overall: dict[str, list[float]] = {}
    equal = []
    factor = 1 + planted / 100
    for records in splits:
        a, b = whole.part(records[0]), slower(whole.part(records[1]), factor)
        found: Comparison = judge(a, b, DELTA)
        said = [row.answer for row in found.rows if row.figure in (ALONE, TOGETHER)]
        claims = {"mtexp": [answer == CHANGED for answer in said], "nvbench": [], "pyperf": []}
        for first, second in _pairs(a, b):
            one, two = samples.of(first), samples.of(second) * factor
            claims["nvbench"].append(nvbench(one, two))
            claims["pyperf"].append(pyperf(one, two))
        every = [row.answer == CHANGED for row in (*found.rows, *found.totals)]
        for name, own in claims.items():
            any_changed[name] += any(every) if name == "mtexp" else any(own)
            share[name].append(float(np.mean(own)))
        equal.append(np.mean([row.answer == EQUAL for row in found.rows]))
        for row in found.totals:
            overall.setdefault(row.figure, []).append(float(row.answer == CHANGED))
    count = len(splits)
    print(f"\n{folder}: B is {planted:g} % slower, {count} splits")
    for name in any_changed:
        print(f"  {name:8} splits with any change {any_changed[name]:4d} of {count}; "
              f"of latencies called changed {100 * np.mean(share[name]):5.1f} %")  # fmt: skip
    print(
        "  mtexp, all points together: "
        + ", ".join(f"{k} changed in {100 * np.mean(v):.0f} %" for k, v in overall.items())
    )
    print(f"  mtexp, figures called equal within {100 * DELTA:g} %: {100 * np.mean(equal):.1f} %", flush=True)


if __name__ == "__main__":
    main()

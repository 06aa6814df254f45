"""Two sets of runs, point by point: what each figure changed by, and whether that is certain.

Lives here: :func:`compare`, :class:`Comparison`. May touch: nothing outside its arguments. Points are paired by what
was asked (:func:`analysis.pooling.repetitions`), whatever the environments were. Three figures: mean latency ``alone``,
mean latency ``together``, and ``slowdown``, their ratio. The spread between runs is learnt from both sides together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mtexp.errors import MtexpError
from mtexp.metrics.bootstrap import Interval
from mtexp.metrics.change import NOT_KNOWN, Change, Part, answers, claim_levels
from mtexp.metrics.spread import LikeRuns
from mtexp.records import keys
from mtexp.text_tables import counted

from .baseline_runs import Measured
from .dataset import Dataset
from .pooling import repetitions
from .rounds import mean_over_runs
from .sides import Point, Side
from .spread import Known, Repeated, learn, path_of

ALONE, TOGETHER, SLOWDOWN = "alone", "together", "slowdown"
FIGURES = (ALONE, TOGETHER, SLOWDOWN)
_ROUNDS_FREEDOM = 9.0
"""Degrees of freedom of one crossover run: it has ten rounds or more."""
_TAILS = 3.0
"""Degrees of freedom that few runs have at most, whatever is known of runs like them: what differs between runs of one
thing has the tails of Student's t with three (of single runs of one point in docs/archive/h200, 0.7 % differ by more
than their spread explains with a chance of 0.1 %)."""
_MOST_NAMED = 4


class NotComparable(MtexpError):
    """Two sets of runs that have nothing in common, or must not be compared."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one kind of tenant at one point, or of all points together."""

    figure: str
    mix: str
    """Empty for all points together."""
    sharing: str
    tenant: str
    runs: tuple[int, int]
    """In A and in B."""
    change: Change
    answer: str = NOT_KNOWN
    more_runs: int | None = None
    """On each side, so that there is an answer; None where there is one, or too many are needed."""
    used_by: tuple[str, ...] = ()
    """Where a model has several groups of runs alone: the points that are compared with this one."""

    @property
    def ratio(self) -> Interval:
        """B over A."""
        return self.change.interval


@dataclass(frozen=True)
class Comparison:
    """What two sets of runs differ by."""

    rows: tuple[Row, ...]
    totals: tuple[Row, ...]
    """One for each figure: geometric means over mixes (over models, alone)."""
    delta: float
    only: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Points of one side that the other has not, in words."""
    notes: tuple[str, ...] = ()


def compare(a: Dataset, b: Dataset, *, delta: float = 0.03) -> Comparison:
    """Compare ``b`` with ``a``: every ratio is B over A.

    Args:
        a: The reference.
        b: What is compared with it.
        delta: Margin within which figures count as equal: 0.03 for 3 %.

    Raises:
        NotComparable: The sides share runs, are a CPU and a GPU, or have no point in common.
    """
    _check(a, b)
    sides = (("A", a), ("B", b))
    tenants = pd.concat([_asked(_described(data.tenants)).assign(side=name) for name, data in sides], ignore_index=True)
    runs = pd.concat([_described(data.runs).assign(side=name) for name, data in sides], ignore_index=True)
    both = repetitions(runs, tenants)
    side = both.runs["side"].tolist()
    by_side = [
        replace(
            both,
            members={k: own for k, found in both.members.items() if (own := [m for m in found if side[m[0]] == name])},
        )
        for name in ("A", "B")
    ]
    first, second = (Side.of(data, own) for (_, data), own in zip(sides, by_side, strict=True))
    only = [
        tuple(f"{point.mix} under {point.sharing}" for key, point in one.points.items() if key not in other.points)
        for one, other in ((first, second), (second, first))
    ]
    found = judge(first, second, delta)
    if not found.rows:
        raise NotComparable(_nothing_in_common(a, b, only))
    return replace(found, only=(only[0], only[1]))


def side_of(data: Dataset) -> Side:
    """All points of ``data`` as one side."""
    return Side.of(data, repetitions(_described(data.runs), _asked(_described(data.tenants))))


def judge(a: Side, b: Side, delta: float) -> Comparison:
    """Compare the points that both sides have; without rows where they have none in common."""
    known = _learn(a, b)
    rows = _rows(a, b, known)
    totals = _totals(rows, known)
    said, overall = answers([row.change for row in rows], [row.change for row in totals], delta)
    levels = claim_levels(len(rows), len(totals))
    return Comparison(
        tuple(_answered(row, answer, delta, levels[0]) for row, answer in zip(rows, said, strict=True)),
        tuple(_answered(row, answer, delta, levels[1]) for row, answer in zip(totals, overall, strict=True)),
        delta,
        notes=tuple(_notes(rows, known)),
    )


def _answered(row: Row, answer: str, delta: float, level: float) -> Row:
    more = row.change.more_runs(delta, level) if answer == NOT_KNOWN else None
    return replace(row, answer=answer, more_runs=more)


def _check(a: Dataset, b: Dataset) -> None:
    kinds = [set(data.runs["runtime"].dropna().astype(str)) for data in (a, b)]
    if all(kinds) and not kinds[0] & kinds[1]:
        names = ["a CPU" if kind == {"cpu"} else "a GPU" for kind in kinds]
        raise NotComparable(
            f"A was measured on {names[0]}, B on {names[1]}: on a CPU models are shrunk and sharing modes are nominal. "
            "Compare runs of one kind"
        )
    both = set(a.runs["record_id"]) & set(b.runs["record_id"])
    if both:
        raise NotComparable(
            f"{len(both)} runs are in A and in B ({len(a.runs)} and {len(b.runs)} runs): they would be compared with "
            "themselves. Choose A and B so that they share none, e.g. by --sweep names or by a query on tags"
        )


def _described(frame: pd.DataFrame) -> pd.DataFrame:
    """What runs or tenants were, without what was measured, which is not needed here and takes its time."""
    return frame[[name for name in frame if name not in keys.METRICS or name == "iterations_in_window"]].copy()


def _asked(tenants: pd.DataFrame) -> pd.DataFrame:
    """Tenants with what was asked: of a load the share of the baseline, not the rate that this gave on that machine."""
    if "load" not in tenants:
        return tenants
    by_load = tenants["load"].notna() & (tenants["load"] > 0)
    arrival = tenants["arrival"].astype(object)
    loads = [f"{kind} load {load:g}" for kind, load in zip(arrival, tenants["load"], strict=True)]
    return tenants.assign(
        arrival=arrival.where(~by_load, pd.Series(loads, tenants.index)),
        rate_rps=tenants["rate_rps"].where(~by_load),
    )


def _nothing_in_common(a: Dataset, b: Dataset, only: Sequence[Sequence[str]]) -> str:
    differ = []
    for name in ("precision", "workload", "execution", "batch_size", "seq_len", "arrival", "design", "shrunk"):
        values = [sorted({str(v) for v in d.tenants.reindex(columns=[name])[name].dropna()}) for d in (a, b)]
        if name == "shrunk":
            values = [sorted({str(v) for v in d.runs.reindex(columns=[name])[name].dropna()}) for d in (a, b)]
        if all(values) and not set(values[0]) & set(values[1]):
            differ.append(f"{name} is {'/'.join(values[0])} in A and {'/'.join(values[1])} in B")
    sides = []
    for side, names in zip("AB", only, strict=True):
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        sides.append(f"{side} has {', '.join(names[:_MOST_NAMED]) or 'no run with samples'}{more}")
    why = f" They differ in what was asked: {'; '.join(differ)}." if differ else ""
    return f"A and B have no point in common. {'. '.join(sides)}.{why} Measure the same mixes and sharing modes on both"


# --- figures ----------------------------------------------------------------------------------------------------------

_Group = tuple[frozenset[Measured], frozenset[Measured]]
"""Runs of a model alone, in A and in B."""


def _learn(a: Side, b: Side) -> Known:
    """How runs differ, from both sides; runs alone that both have count once."""
    alone = [a.alone(group) for group in a.groups] + [b.alone(group) for group in b.groups - a.groups]
    shared = [side.together(point) for side in (a, b) for point in side.points.values()]
    return learn(repeated for repeated in (*alone, *shared) if repeated is not None)


def _rows(a: Side, b: Side, known: Known) -> list[Row]:
    alone: dict[_Group, Row] = {}
    shared: list[Row] = []
    for key in (key for key in a.points if key in b.points):
        shared += _of_point((a, b), (a.points[key], b.points[key]), known, alone)
    both = [row for row in alone.values() if row.change.terms[0][1].variance > 0]  # else they are the same runs
    groups = Counter(row.tenant for row in both)
    both = [row if groups[row.tenant] > 1 else replace(row, used_by=()) for row in both]
    return [*sorted(both, key=lambda row: row.tenant), *shared]


def _of_point(
    sides: tuple[Side, Side], points: tuple[Point, Point], known: Known, alone: dict[_Group, Row]
) -> list[Row]:
    """Rows of a point, one or two for each kind of tenant; adds those of its models alone to ``alone``."""
    found = []
    repeated = [side.together(point) for side, point in zip(sides, points, strict=True)]
    kinds: dict[str, list[int]] = {}
    for position, label in enumerate(points[0].labels):
        kinds.setdefault(label, []).append(position)
    name = f"{points[0].mix} {points[0].sharing}"
    for label, positions in kinds.items():
        pair = _alone(sides, points, positions[0], label, known, alone, name)
        first, second = repeated
        if first is None or second is None:
            continue
        place = (points[0].mix, points[0].sharing, label, (len(first.runs), len(second.runs)))
        part = replace(_difference(first, second, positions, known), together=name)
        found.append(Row(TOGETHER, *place, Change(((1.0, part),))))
        in_rounds = _in_rounds(sides, points, positions)
        if in_rounds is not None:
            found.append(Row(SLOWDOWN, *place, Change(((1.0, replace(in_rounds, together=name)),))))
        elif pair is not None:
            found.append(Row(SLOWDOWN, *place, Change(((1.0, part), (-1.0, pair)))))
    return found


def _difference(a: Repeated, b: Repeated, positions: Sequence[int], known: Known) -> Part:
    """Mean latency of equal tenants, as one; their spread is that of both sides and of runs like them."""
    logs = [np.array([[run[t]["mean"].log for t in positions] for run in side.runs]) for side in (a, b)]
    within = [np.mean([[run[t]["mean"].error ** 2 for t in positions] for run in side.runs]) for side in (a, b)]
    paths = [path_of(side.tenants[positions[0]]) for side in (a, b)]
    groups = [side.groups("mean", known.tenants)[path] for side, path in zip((a, b), paths, strict=True)]
    like = known.like.get("mean", LikeRuns()).expected(paths[0])
    spread = like.with_own(sum(own.squares for own in groups), sum(own.freedom for own in groups))
    count = len(positions)
    of_mean = spread.sd**2 * (1 + (count - 1) * known.tenants) / count
    variances = tuple(max(of_mean, float(own) / count) for own in within)
    log = float(logs[1].mean() - logs[0].mean())
    runs = len(a.runs), len(b.runs)
    return Part(log, (variances[0], variances[1]), runs, min(spread.freedom, max(_TAILS, sum(runs) - 2)))


def _alone(
    sides: tuple[Side, Side],
    points: tuple[Point, Point],
    position: int,
    label: str,
    known: Known,
    alone: dict[_Group, Row],
    name: str,
) -> Part | None:
    """The difference of the runs alone that a tenant of the point ``name`` is compared with; None where one side has
    none.
    """
    key = points[0].compared[position], points[1].compared[position]
    if key not in alone:
        first, second = (side.alone(group) for side, group in zip(sides, key, strict=True))
        if first is None or second is None:
            return None
        part = replace(_difference(first, second, [0], known), shared=len(key[0] & key[1]))
        alone[key] = Row(ALONE, label, "alone", label, part.runs, Change(((1.0, part),)))
    elif len(label) < len(alone[key].tenant):  # that of a tenant without limits of its own
        alone[key] = replace(alone[key], mix=label, tenant=label)
    alone[key] = replace(alone[key], used_by=(*alone[key].used_by, name))
    return alone[key].change.terms[0][1]


def _in_rounds(sides: tuple[Side, Side], points: tuple[Point, Point], positions: Sequence[int]) -> Part | None:
    """The slowdown that crossover runs measured themselves; None where one side has other runs."""
    logs, variances = [], []
    for side, point in zip(sides, points, strict=True):
        known = [[side.study.in_rounds.get(run[t]) for run in point.runs] for t in positions]
        means = [mean_over_runs([one["slowdown"] for one in own if one is not None]) for own in known if all(own)]
        if len(means) < len(positions):
            return None
        logs.append(float(np.mean([log for log, _ in means])))
        variances.append(float(np.mean([error**2 for _, error in means])) * len(point.runs))
    runs = len(points[0].runs), len(points[1].runs)
    return Part(logs[1] - logs[0], (variances[0], variances[1]), runs, _ROUNDS_FREEDOM * sum(runs))


def _totals(rows: Sequence[Row], known: Known) -> list[Row]:
    """Geometric means in which each point counts once, and each model alone."""
    found = []
    for figure in FIGURES:
        own = [row for row in rows if row.figure == figure]
        if not own:
            continue
        points: dict[tuple[str, ...], list[Row]] = {}
        for row in own:
            points.setdefault((row.mix, row.sharing), []).append(row)
        terms: dict[int, tuple[float, Part]] = {}
        for there in points.values():
            for row in there:
                for weight, part in row.change.terms:
                    before = terms[id(part)][0] if id(part) in terms else 0.0
                    terms[id(part)] = (before + weight / len(there) / len(points), part)
        runs = sum(row.runs[0] for row in own), sum(row.runs[1] for row in own)
        found.append(Row(figure, "", "", "", runs, Change(tuple(terms.values()), known.tenants)))
    return found


def _notes(rows: Sequence[Row], known: Known) -> list[str]:
    found = []
    if not known.like and any(not row.change.known for row in rows):
        found.append(
            "Nothing was repeated in A or in B, so it is not known how runs differ, and nothing is claimed. "
            "Measure both again with repetitions=3"
        )
    placed = {(row.mix, row.sharing, row.tenant) for row in rows if row.figure == SLOWDOWN}
    without = {
        (row.mix, row.sharing)
        for row in rows
        if row.figure == TOGETHER and (row.mix, row.sharing, row.tenant) not in placed
    }
    if without:
        found.append(
            f"{counted(len(without), 'point')} without a slowdown on one side or both "
            "(open loop, or no run of the model alone)"
        )
    return found

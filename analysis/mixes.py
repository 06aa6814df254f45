"""Mixes against each other: which pay, who pays in a pair, kinds and numbers of models.

Lives here: four questions of :mod:`analysis.findings`. May touch: nothing outside its arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.bootstrap import Interval
from mtexp.metrics.repeats import Estimate, geometric_mean

from . import tables
from .answers import Answer, Judge, comparable, missing
from .estimates import RUN
from .frames import rows_of
from .intervals import text
from .pooling import Results, in_order

_MOST_NAMED = 3
_FEWEST_RESIDUALS = 6
"""Fewest degrees of freedom with which the effect of size can be separated from that of the kind of model."""
_KINDS = {"encoder": "two encoders", "decoder": "two decoders", "mixed": "an encoder and a decoder"}


def which_pay(results: Results, judge: Judge) -> Iterable[Answer]:
    """Mixes that surely get more done than taking turns, those that lose, and those that no other surely beats.

    The lower end of STP ranks them, so that a baseline that did not repeat puts none first.
    """
    question = "Which combinations pay?"
    found = tables.combinations(results, judge.limit)
    judge.asked.extend(found["p_value"])
    if found.empty:
        yield missing(question, "a mix of two tenants or more with baselines", "mix=pair")
        return
    states = {state: rows_of(found[found["pays"] == state]) for state in ("yes", "no", "open")}
    claim = _one(results, rows_of(found)[0]) if len(found) == 1 else _many(found, states)
    first = results.figure(rows_of(found)[0], "stp")
    interval = first.interval if first is not None else None
    yield Answer(question, f"{claim}.", bool(states["yes"] or states["no"]), interval)
    for count, what in ((2, "pair"), (0, "mix of more than two")):
        rows = rows_of(found[found["num_tenants"] == 2] if count else found[found["num_tenants"] > 2])
        paying = [row for row in rows if row["pays"] == "yes"]
        if paying:
            best = _named(paying[:_MOST_NAMED], "stp")
            yield Answer(question, f"Most done by a {what}, by the lower end: {best}.", True, interval)
    frontier = rows_of(found[found["frontier"]].sort_values("worst_slowdown"))
    yield Answer(
        question,
        f"Judged by the unfavourable ends of intervals, no other combination has both more STP and a smaller worst "
        f"slowdown than "
        f"{_named(frontier, 'worst_slowdown')}.",
        False,
    )
    above = found[found["above_ideal"]]
    if len(above):
        spread = above["spread_alone_pct"].max()
        reason = f": runs alone of their models lie up to {spread:.0f} % apart" if spread > 0 else ""
        named = _named(rows_of(above), "stp")
        yield Answer(
            question, f"Sharing cannot give an STP above the number of tenants; found in {named}{reason}.", False
        )


def _many(found: pd.DataFrame, states: dict[str, list[dict[str, Any]]]) -> str:
    """How many combinations pay, and which most and least."""
    claim = (
        f"{len(states['yes'])} of {len(found)} combinations of a mix and a sharing mode surely get more done than "
        f"taking turns, {len(states['no'])} surely less, {len(states['open'])} open: most, by the lower end, by "
        f"{_named(rows_of(found)[:1], 'stp')}"
    )
    return claim + (f"; less: {_named(states['no'], 'stp')}" if states["no"] else "")


def _one(results: Results, row: dict[str, Any]) -> str:
    """The only combination: its STP, and the slowdown of each tenant."""
    word = {"yes": "gets more done than", "no": "gets less done than"}.get(
        str(row["pays"]), "is not clearly better than"
    )
    stp = Interval(*(row[name] for name in tables.with_intervals(("stp",))))
    own = rows_of(results.tenants[results.tenants["point"] == row["point"]])
    each = [(str(tenant["label"]), results.figure(tenant, "slowdown")) for tenant in own]
    slowed = ", ".join(f"{label} {text(figure.interval)}" for label, figure in each if figure is not None)
    return (
        f"{row['mix']} under {row['sharing']} {word} taking turns: STP {text(stp)} of {row['num_tenants']}"
        f"; times slower than alone: {slowed}"
    )


def _named(rows: Sequence[dict[str, Any]], key: str) -> str:
    """Mixes with a figure and its interval, the first few of them."""
    words = {"stp": "STP", "worst_slowdown": "worst slowdown"}
    said = []
    for row in rows[:_MOST_NAMED]:
        figure = Interval(*(row[name] for name in tables.with_intervals((key,))))
        said.append(f"{row['mix']} under {row['sharing']} ({words[key]} {text(figure)})")
    return ", ".join(said) + (f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else "")


def who_pays(results: Results, judge: Judge) -> Iterable[Answer]:
    """Worst pair, the model that pays most, the neighbour that costs most; by sharing mode."""
    question = "Who pays in a pair?"
    found = tables.matrix_pairs(results)
    if found.empty:
        yield missing(question, "pairs of models with baselines", "+experiment=pairs")
    for sharing in in_order(found["sharing"].unique()):
        cells = [(cell, _slowdown(results, cell)) for cell in rows_of(found[found["sharing"] == sharing])]
        known = [(cell, figure) for cell, figure in cells if figure is not None]
        if not known:
            continue
        cell, most = max(known, key=lambda pair: pair[1].value)
        largest = f", the largest of {len(known)}" if len(known) > 1 else ""
        against = f" against alone under {sharing}" if tables.compared_within_mode(results, sharing) else ""
        worst = most.interval
        claim = (
            f"Under {sharing} the worst off, as measured, is {cell['victim']} beside {cell['neighbour']}, "
            f"slowed {text(worst)} times{against}{largest}"
        )
        for name, says in (("victim", "{} pays most"), ("neighbour", "{} costs its neighbours most")):
            claim += _extreme(known, name, says, judge)
        yield Answer(question, f"{claim}.", judge.differs(most), worst)


def _slowdown(results: Results, cell: dict[str, Any]) -> Estimate | None:
    """The slowdown in a row of :func:`analysis.tables.pairs`: of two tenants of a kind, the mean of both."""
    key = "antt" if cell["position"] == RUN else "slowdown"
    return results.figure(cell, key)


def _extreme(known: list[tuple[dict[str, Any], Estimate]], name: str, says: str, judge: Judge) -> str:
    """The model with the largest average slowdown, if it is clear of the next one."""
    by_model: dict[str, list[Estimate]] = {}
    for cell, figure in known:
        by_model.setdefault(str(cell[name]), []).append(figure)
    averages = sorted(((geometric_mean(f), model) for model, f in by_model.items()), key=lambda p: -p[0].value)
    if len(averages) < 2 or len({len(figures) for figures in by_model.values()}) > 1:
        return ""
    (first, model), (second, runner_up) = averages[:2]
    if not judge.differs(first / second):
        return ""
    ends = [text(figure.interval) for figure in (first, second)]
    return f"; on average over all pairs {says.format(model)}, {ends[0]} (next: {runner_up}, {ends[1]})"


def do_kinds_mix(results: Results, judge: Judge) -> Iterable[Answer]:
    """STP of pairs of an encoder and a decoder against pairs of two of a kind, with and without their size."""
    question = "Do encoders mix better with decoders than with each other?"
    answered = False
    for sharing in results.sharings:
        pairs: list[tuple[str, tuple[float, float], Estimate]] = []
        for point, _, figure in comparable(results, sharing, "stp"):
            if point["num_tenants"] == 2 and set(point["roles"]) <= {"encoder", "decoder"}:
                kind = "mixed" if len(set(point["roles"])) == 2 else str(point["roles"][0])
                first, second = tables.busy_alone(results, int(point["point"]))
                pairs.append((kind, (first, second), figure))
        means = {
            kind: geometric_mean([f for own, _, f in pairs if own == kind]) for kind in {kind for kind, *_ in pairs}
        }
        if "mixed" not in means or len(means) < 2:
            continue
        answered = True
        mixed = means.pop("mixed")
        parts, ratios, figures, claimed = [], [], [], []
        for kind, alike in sorted(means.items()):
            against = mixed / alike
            sized = _of_one_size(pairs, kind)
            ratios.append(f"{text(against.interval)} times that of {_KINDS[kind]}")
            said = f"{_KINDS[kind]} reach {text(alike.interval)}"
            if sized is None:
                said += ", the size of the models not taken into account"
            else:
                claimed.append(judge.differs(sized))
                word = "a difference of kind" if claimed[-1] else "no clear difference of kind"
                said += f", between pairs of one size the ratio is {text(sized.interval)}: {word}"
            parts.append(said)
            figures.append((sized or against).interval)
        reached = f"an STP of {text(mixed.interval)}, {' and '.join(ratios)}"
        claim = f"Under {sharing} {_KINDS['mixed']} reach {reached}; {'; '.join(parts)}"
        yield Answer(question, f"{claim}.", any(claimed), figures[0])
    if not answered:
        yield missing(question, "pairs of two encoders or decoders and pairs of one each", "+experiment=pairs")


def _of_one_size(pairs: Sequence[tuple[str, tuple[float, float], Estimate]], kind: str) -> Estimate | None:
    """STP of mixed pairs against pairs of ``kind``, the busy shares of their models held fixed; None for too few pairs.

    Least squares of log STP on log max(1, b + c), log(1 + b c) and the kind, where b and c are the shares of its own
    latency in which each model keeps the device busy alone (what two customers of one server slow each other by). The
    interval is that of the coefficient, t of the residual degrees of freedom: mixes are a sample here.
    """
    used = [pair for pair in pairs if pair[0] in ("mixed", kind)]
    freedom = len(used) - 4
    if freedom < _FEWEST_RESIDUALS or not np.isfinite([busy for _, busy, _ in used]).all():
        return None
    b, c = np.array([busy for _, busy, _ in used]).T
    columns = [np.ones(len(b)), np.log(np.maximum(1, b + c)), np.log(1 + b * c), [own == "mixed" for own, *_ in used]]
    design = np.array(columns, dtype=np.float64).T
    logs = np.log([figure.value for *_, figure in used])
    solved, *_ = np.linalg.lstsq(design, logs, rcond=None)
    residual = float(((logs - design @ solved) ** 2).sum()) / freedom
    error = float(np.sqrt(residual * np.linalg.pinv(design.T @ design)[3, 3]))
    draws = np.random.default_rng(0).standard_t(freedom, len(used[0][2].errors))
    return Estimate(float(np.exp(solved[3])), error * draws)


def does_number_matter(results: Results, judge: Judge) -> Iterable[Answer]:
    """STP of many tenants of a model against two of it."""
    question = "Does the number of processes matter?"
    answered = False
    for (label, sharing), rows in tables.scaling(results).groupby(["label", "sharing"], observed=True):
        several = rows_of(rows[rows["num_tenants"] > 1])
        if len(several) < 2:
            continue
        few, many = several[0], several[-1]
        a, b, latency = results.figure(few, "stp"), results.figure(many, "stp"), results.figure(many, "antt")
        if a is None or b is None or latency is None:
            continue
        answered = True
        ratio = b / a
        change, claimed = ratio.interval, judge.differs(ratio)
        word = "gets more done" if change.value > 1 else "gets less done"
        word = word if claimed else "does not clearly get more or less done"
        claim = (
            f"{label} under {sharing} {word} with {many['num_tenants']} tenants (STP {text(b.interval)}) than with "
            f"{few['num_tenants']} ({text(a.interval)}): ratio {text(change)}, "
            f"at a slowdown of {text(latency.interval)}"
        )
        yield Answer(question, f"{claim}.", claimed, change)
    if not answered:
        yield missing(question, "two and more tenants of one model", "+experiment=scaling")

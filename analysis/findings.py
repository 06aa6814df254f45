"""What the data say, in sentences: an answer to each question of the study, with its interval, or that there is none.

Lives here: :func:`findings`. May touch: nothing outside its arguments. A difference is claimed only where it stands
among all that the page asks (:class:`Judge`). Averages over mixes are geometric means in which each mix counts once, of
these mixes and do not cover others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.bootstrap import LEVEL, Interval
from mtexp.metrics.clock import CLOCK_LIMIT
from mtexp.metrics.repeats import Estimate, discoveries_limit, geometric_mean

from . import tables
from .answers import MPS, TURNS, Answer, Judge, comparable, matched, missing, over
from .costs import does_sharing_save_energy, how_does_load_cost
from .estimates import RUN, TIMER
from .fairness import Progress, true_fairness
from .frames import rows_of
from .intervals import text
from .pooling import Results, in_order, sharing_name

_AGREE = (0.95, 1.05)
"""Two clocks agree when the whole interval of their ratio is within."""
_MOST_NAMED = 3
_FEWEST_RESIDUALS = 6
"""Fewest degrees of freedom with which the effect of size can be separated from that of the kind of model."""
_KINDS = {"encoder": "two encoders", "decoder": "two decoders", "mixed": "an encoder and a decoder"}


@lru_cache(maxsize=2)  # a page asks for it several times, and it takes seconds
def claim_limit(results: Results) -> tuple[float, int]:
    """The largest p-value that the page of these results may claim, and how many questions it asks."""
    judge = Judge(1 - LEVEL)
    for question in QUESTIONS:
        list(question(results, judge))
    return discoveries_limit(judge.asked), len(judge.asked)


def findings(results: Results) -> list[Answer]:
    """Answer every question of the study that the data have something for; the others say what is missing."""
    judge = Judge(claim_limit(results)[0])
    return [answer for question in QUESTIONS for answer in question(results, judge)]


def paragraph(answers: Sequence[Answer]) -> str:
    """What is claimed, the first clause to each question, as one paragraph; where nothing is, what was measured."""
    claimed: dict[str, str] = {}
    for answer in answers:
        if answer.claimed:
            claimed.setdefault(answer.question, answer.headline)
    measured = [answer.headline for answer in answers if answer.measured]
    return " ".join(claimed.values()) or " ".join(measured[:_MOST_NAMED]) or "Nothing was measured together."


# --- questions --------------------------------------------------------------------------------------------------------


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
        f"By the ends of their intervals no other combination has both more STP and a smaller worst slowdown than "
        f"{_named(frontier, 'worst_slowdown')}.",
        False,
    )
    above = found[found["above_ideal"]]
    if len(above):
        spread = above["spread_alone_pct"].max()
        reason = f": runs alone of their models lie up to {spread:.0f} % apart" if spread > 0 else ""
        named = _named(rows_of(above), "stp")
        yield Answer(question, f"More STP than tenants, which sharing cannot give, have {named}{reason}.", False)


def _many(found: pd.DataFrame, states: dict[str, list[dict[str, Any]]]) -> str:
    """How many combinations pay, and which most and least."""
    claim = (
        f"Of {len(found)} combinations of a mix and a sharing mode {len(states['yes'])} surely get more done than "
        f"taking turns (STP above 1), {len(states['no'])} surely less, {len(states['open'])} are open"
    )
    claim += f"; most, by the lower end of its interval: {_named(rows_of(found)[:1], 'stp')}"
    return claim + (f"; less: {_named(states['no'], 'stp')}" if states["no"] else "")


def _one(results: Results, row: dict[str, Any]) -> str:
    """What the only combination comes to: STP, and the slowdown of each tenant."""
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


def is_mps_efficient(results: Results, judge: Judge) -> Iterable[Answer]:
    """STP of each other sharing mode against time slicing, mix by mix; and against plain MPS on the same mixes."""
    question = "Is MPS efficient?"
    answered = False
    for sharing in (s for s in results.sharings if s != TURNS):
        pairs = matched(results, sharing, TURNS, "stp")
        if not pairs:
            continue
        answered = True
        each = sorted(((a / b, mix) for mix, a, b in pairs), key=lambda pair: pair[0].value)
        average = geometric_mean([figure for figure, _ in each])
        overall, claimed = average.interval, judge.differs(average)
        (least, least_mix), (most, most_mix) = [(figure.interval, mix) for figure, mix in (each[0], each[-1])]
        if claimed:
            word = "more" if overall.value > 1 else "less"
            claim = f"{sharing} gets {word} done than time slicing: {text(overall)} times the STP {over(pairs)}"
        else:
            claim = f"{sharing} and time slicing do not clearly differ in STP: ratio {text(overall)} {over(pairs)}"
        if len(each) > 1:
            claim += f"; most in {most_mix} ({text(most)}), least in {least_mix} ({text(least)})"
        beside = matched(results, sharing, MPS, "stp") if sharing != MPS else []
        if beside:
            ratio = geometric_mean([a / b for _, a, b in beside]).interval
            claim += f"; against plain MPS on the same mixes {text(ratio)} {over(beside)}"
        if left_out := _missing_invalid(results, sharing):
            claim += f"; without {left_out} measured only in runs that are INVALID, so not a fair sample of mixes"
        if sharing != "streams" and _in_turns(results, sharing):
            claim += "; measured in turns, so what the mode costs a tenant without neighbours (mode_cost) is not in it"
        yield Answer(question, f"{claim}.", claimed, overall)
    if not answered:
        yield missing(question, "the same mix under time slicing and under MPS", "mps_settings=disabled,default")


def _in_turns(results: Results, sharing: str) -> bool:
    """Whether a point of this sharing mode has crossover runs, which compare with alone in the same mode."""
    records = {name for names in results.points.loc[results.points["sharing"] == sharing, "records"] for name in names}
    runs = results.data.runs.reindex(columns=["record_id", "design"])
    return bool(((runs["design"] == "crossover") & runs["record_id"].isin(records)).any())


def _missing_invalid(results: Results, sharing: str) -> str:
    """How many mixes that were measured under time slicing have only INVALID runs under ``sharing``; empty for none."""
    invalid = results.data.invalid
    if invalid.empty:
        return ""
    names = [sharing_name(run) for run in rows_of(invalid)]
    there = {str(point["mix"]) for point in rows_of(results.points[results.points["sharing"] == sharing])}
    turns = set(results.points.loc[results.points["sharing"] == TURNS, "mix"].astype(str))
    bad = {str(mix) for mix, name in zip(invalid["mix"], names, strict=True) if name == sharing}
    count = len((bad & turns) - there)
    return f"{count} {'mix' if count == 1 else 'mixes'}" if count else ""


def is_sharing_fair(results: Results, judge: Judge) -> Iterable[Answer]:
    """Fairness (min / max progress, the noise taken off) under each sharing mode, and against time slicing."""
    answered = False
    for sharing in results.sharings:
        question = "Is time slicing fair?" if sharing == TURNS else "Is MPS fair?"
        own = _progress(results, sharing)
        if not own:
            continue
        answered = True
        average = true_fairness(list(own.values()))
        said = (
            f"Under {sharing} the tenant that gets least makes {text(average.interval)} of the progress of the one that"
        )
        claim = f"{said} gets most {over(list(own))}"
        turns = _progress(results, TURNS) if sharing != TURNS else {}
        both = [labels for labels in own if labels in turns]
        if not both:
            yield Answer(question, f"{claim}.", judge.differs(average), average.interval)
            continue
        before = true_fairness([turns[labels] for labels in both])
        ratio = true_fairness([own[labels] for labels in both]) / before
        against, claimed = ratio.interval, judge.differs(ratio)
        word = "fairer than" if against.value > 1 else "less fair than"
        word = word if claimed else "not clearly fairer or less fair than"
        yield Answer(
            question,
            f"{claim}: {word} time slicing with {text(before.interval)} on the same mixes, by {text(against)} "
            f"{over(both)}.",
            claimed,
            against,
        )
    if not answered:
        yield missing("Is MPS fair?", "a mix of two tenants or more with baselines", "mix=pair baseline=auto")


def _progress(results: Results, sharing: str) -> dict[tuple[str, ...], Progress]:
    """Progress of the tenants of each mix, by their labels."""
    found = {}
    for point, _, _ in comparable(results, sharing, "fairness"):
        if (progress := results.progress.get(int(point["point"]))) is not None:
            found[tuple(sorted(point["labels"]))] = progress
    return found


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
        worst = most.interval
        claim = (
            f"Under {sharing} the worst off, as measured, is {cell['victim']} beside {cell['neighbour']}, "
            f"slowed {text(worst)} times{largest}"
        )
        for name, says in (("victim", "{} pays most"), ("neighbour", "{} costs its neighbours most")):
            claim += _extreme(known, name, says, judge)
        yield Answer(question, f"{claim}.", judge.differs(most), worst)


def _slowdown(results: Results, cell: dict[str, Any]) -> Estimate | None:
    """Of a row of :func:`analysis.tables.pairs`: two of a kind have the mean of both."""
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
        parts, figures, claimed = [], [], []
        for kind, alike in sorted(means.items()):
            against = mixed / alike
            sized = _of_one_size(pairs, kind)
            said = f"against {_KINDS[kind]} with {text(alike.interval)} the ratio is {text(against.interval)}"
            if sized is None:
                said += ", the size of the models not taken into account"
            else:
                claimed.append(judge.differs(sized))
                word = "a difference of kind" if claimed[-1] else "no clear difference of kind"
                said += f", and {text(sized.interval)} between pairs of one size: {word}"
            parts.append(said)
            figures.append((sized or against).interval)
        claim = f"Under {sharing} {_KINDS['mixed']} reach an STP of {text(mixed.interval)}; {'; '.join(parts)}"
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
    throws = np.random.default_rng(0).standard_t(freedom, len(used[0][2].errors))
    return Estimate(float(np.exp(solved[3])), error * throws)


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


def is_event_timer_right(results: Results, judge: Judge) -> Iterable[Answer]:
    """The slowdown by the host clock against that by the CUDA-event timer."""
    question = "Is the CUDA-event timer right?"
    found = tables.event_timer(results)
    if found.empty:
        yield missing(question, "a mix on a GPU with baselines: a CPU has no event timer", "runtime=gpu mix=pair")
        return
    found = found[found["point"].isin(results.points.loc[results.points["closed"], "point"])]
    for sharing in in_order(found["sharing"].unique()):
        mixes = [_timers(results, own) for _, own in found[found["sharing"] == sharing].groupby("point")]
        known = [mix for mix in mixes if mix is not None]
        if not known:
            continue
        host, timer = (geometric_mean([getattr(mix, side) for mix in known]) for side in ("host", "timer"))
        ratio = host / timer
        against = ratio.interval
        agree = _AGREE[0] < against.low and against.high < _AGREE[1]
        claimed = judge.differs(ratio) and not agree
        if not claimed:
            word = "agree" if agree else "do not clearly differ"
            claim = f"Under {sharing} the event timer and the host clock {word}: ratio {text(against)} {over(known)}"
        else:
            way = "misses part of the slowdown" if against.value > 1 else "shows more slowdown than clients see"
            hidden = sum(mix.hidden_pct for mix in known) / len(known)
            claim = (
                f"Under {sharing} the event timer {way}: it says {text(timer.interval)}, the host clock "
                f"{text(host.interval)} (ratio {text(against)}, {len(known)} mixes, each counts once); it does not see "
                f"{hidden:.0f} % of a request's latency"
            )
            two = [mix for mix in known if mix.tenants == 2]
            if 0 < len(two) < len(known):
                pairs = geometric_mean([mix.host / mix.timer for mix in two]).interval
                claim += f"; in pairs alone the ratio is {text(pairs)}"
        yield Answer(question, f"{claim}.", claimed, against)


@dataclass(frozen=True, slots=True)
class _Timers:
    """The two clocks in one mix."""

    host: Estimate
    """Geometric mean over its tenants of what the host clock says of their slowdown."""
    timer: Estimate
    """The same of the event timer."""
    hidden_pct: float
    tenants: int


def _timers(results: Results, rows: pd.DataFrame) -> _Timers | None:
    """Both clocks over the tenants of a point; None where no tenant has both."""
    both = [(results.figure(row, "slowdown"), results.figure(row, TIMER)) for row in rows_of(rows)]
    known = [(host, timer) for host, timer in both if host is not None and timer is not None]
    if not known:
        return None
    host, timer = (geometric_mean(list(side)) for side in zip(*known, strict=True))
    return _Timers(host, timer, float(rows["hidden_pct"].mean()), len(rows))


def how_well_does_it_repeat(results: Results, judge: Judge) -> Iterable[Answer]:
    """How far runs of the same thing lie apart, and how many points were measured too seldom to know it."""
    question = "How well does a run repeat?"
    alone = tables.baselines(results).dropna(subset="spread_pct").sort_values("spread_pct")
    spreads = results.tenants["spread_pct"].dropna() if "spread_pct" in results.tenants else pd.Series(dtype=float)
    parts = []
    if len(alone):
        least, most = rows_of(alone)[0], rows_of(alone)[-1]
        said = f"{_alone_name(most)} alone differs by {most['spread_pct']:.1f} % between {most['runs']} runs"
        parts.append(said + (f" ({_alone_name(least)} by {least['spread_pct']:.1f} %)" if len(alone) > 1 else ""))
    if len(spreads):
        parts.append(
            f"repetitions of a tenant's mean latency lie {spreads.median():.1f} % apart in the median and "
            f"{spreads.max():.1f} % at most"
        )
    once = int((results.points["repetitions"] < 2).sum())
    note = (
        f"; {once} of {len(results.points)} points were measured once: the intervals of all rest on the spread between "
    )
    note += "runs of the same model, sharing mode and load of the device"
    if parts:
        yield Answer(question, f"For scale: {' and '.join(parts)}{note if once else ''}.", False)
    else:
        yield missing(question, "something that was measured twice", "repetitions=3")


def does_power_limit(results: Results, judge: Judge) -> Iterable[Answer]:
    """In how many runs the power cap lowered the clocks; nothing where it did not, or was not measured."""
    capped, low = tables.power_limited(results)
    if not capped:
        return
    claim = f"The power cap lowered the clocks in {capped} of {len(results.data.runs)} runs (power-limited)"
    claim += f", in {low} of them to under {100 * CLOCK_LIMIT:g} % of the median SM clock" if low else ""
    note = "part of a slowdown there is the cap, not the neighbour; the tables say for which share of the window"
    yield Answer("Did the power cap matter?", f"{claim}; {note}.", True)


def _alone_name(row: dict[str, Any]) -> str:
    unusual = [str(row[name]) for name in ("workload", "execution") if row[name] not in ("forward", "eager")]
    return " ".join([str(row["model"]), *unusual])


QUESTIONS: tuple[Callable[[Results, Judge], Iterable[Answer]], ...] = (
    which_pay,
    is_mps_efficient,
    is_sharing_fair,
    who_pays,
    do_kinds_mix,
    does_number_matter,
    does_sharing_save_energy,
    how_does_load_cost,
    is_event_timer_right,
    how_well_does_it_repeat,
    does_power_limit,
)

"""What the data say, in sentences: an answer to each question of the study, with its interval, or that there is none.

Lives here: :func:`findings`. May touch: nothing outside its arguments. A difference is claimed only where the 95 %
interval leaves 1 out. Averages over mixes are geometric means of these mixes and say nothing about others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mtexp.commands import command_line
from mtexp.metrics.bootstrap import Interval
from mtexp.metrics.clock import CLOCK_LIMIT
from mtexp.metrics.repeats import FEWEST_RUNS, Estimate, geometric_mean

from . import tables
from .estimates import RUN, TIMER
from .frames import rows_of
from .intervals import differs, text
from .pooling import Results, in_order

TURNS = "time slicing"
_AGREE = (0.95, 1.05)
"""Two clocks agree when the whole interval of their ratio is within."""
_MOST_NAMED = 3
_KINDS = {"encoder": "two encoders", "decoder": "two decoders", "mixed": "an encoder and a decoder"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One question and what the data say to it."""

    question: str
    text: str
    claimed: bool
    """False where the data do not settle it, or were not measured."""
    interval: Interval | None = None
    """Of the figure that the text rests on."""

    @property
    def headline(self) -> str:
        """The first clause of the text."""
        return f"{self.text.rstrip('.').partition(';')[0]}."


def findings(results: Results) -> list[Answer]:
    """Answer every question of the study that the data have something for; the others say what is missing."""
    return [answer for question in QUESTIONS for answer in question(results)]


def paragraph(answers: Sequence[Answer]) -> str:
    """What is claimed, the first clause to each question, as one paragraph."""
    claimed: dict[str, str] = {}
    for answer in answers:
        if answer.claimed:
            claimed.setdefault(answer.question, answer.headline)
    return " ".join(claimed.values()) or "The data settle none of the questions."


# --- questions --------------------------------------------------------------------------------------------------------


def which_pay(results: Results) -> Iterable[Answer]:
    """Mixes that surely get more done than taking turns, those that lose, and those that no other surely beats.

    The lower end of STP ranks them, so that a baseline that did not repeat puts none first.
    """
    question = "Which combinations pay?"
    found = tables.combinations(results)
    if found.empty:
        yield _missing(question, "a mix of two tenants or more with baselines", "mix=pair")
        return
    states = {state: rows_of(found[found["pays"] == state]) for state in ("yes", "no", "open")}
    claim = (
        f"Of {len(found)} combinations of a mix and a sharing mode {len(states['yes'])} surely get more done than "
        f"taking turns (STP above 1), {len(states['no'])} surely less, {len(states['open'])} are open"
    )
    claim += f"; most, by the lower end of its interval: {_named(rows_of(found)[:1], 'stp')}"
    claim += f"; less: {_named(states['no'], 'stp')}" if states["no"] else ""
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


def _named(rows: Sequence[dict[str, Any]], key: str) -> str:
    """Mixes with a figure and its interval, the first few of them."""
    words = {"stp": "STP", "worst_slowdown": "worst slowdown"}
    said = []
    for row in rows[:_MOST_NAMED]:
        figure = Interval(*(row[name] for name in tables.with_intervals((key,))))
        said.append(f"{row['mix']} under {row['sharing']} ({words[key]} {text(figure)})")
    return ", ".join(said) + (f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else "")


def is_mps_efficient(results: Results) -> Iterable[Answer]:
    """STP of each other sharing mode against time slicing, mix by mix."""
    question = "Is MPS efficient?"
    answered = False
    for sharing in (s for s in results.sharings if s != TURNS):
        pairs = _matched(results, sharing, "stp")
        if not pairs:
            continue
        answered = True
        each = sorted(((a / b, mix) for mix, a, b in pairs), key=lambda pair: pair[0].value)
        overall = geometric_mean([figure for figure, _ in each]).interval
        (least, least_mix), (most, most_mix) = [(figure.interval, mix) for figure, mix in (each[0], each[-1])]
        if differs(overall):
            word = "more" if overall.value > 1 else "less"
            claim = f"{sharing} gets {word} done than time slicing: {text(overall)} times the STP {_over(pairs)}"
        else:
            claim = f"{sharing} and time slicing do not clearly differ in STP: ratio {text(overall)} {_over(pairs)}"
        if len(each) > 1:
            claim += f"; most in {most_mix} ({text(most)}), least in {least_mix} ({text(least)})"
        yield Answer(question, f"{claim}.", differs(overall), overall)
    if not answered:
        yield _missing(question, "the same mix under time slicing and under MPS", "mps_settings=disabled,default")


def is_sharing_fair(results: Results) -> Iterable[Answer]:
    """Fairness (min / max progress) under each sharing mode, and against time slicing."""
    answered = False
    for sharing in results.sharings:
        question = "Is time slicing fair?" if sharing == TURNS else "Is MPS fair?"
        own = [figure for _, _, figure in _figures(results, sharing, "fairness")]
        if not own:
            continue
        answered = True
        average = geometric_mean(own).interval
        claim = (
            f"Under {sharing} the tenant that gets least makes {text(average)} of the progress of the one that gets "
            f"most {_over(own)}"
        )
        pairs = _matched(results, sharing, "fairness") if sharing != TURNS else []
        if not pairs:
            yield Answer(question, f"{claim}.", average.high < 1, average)
            continue
        against = geometric_mean([a / b for _, a, b in pairs]).interval
        word = "fairer than" if against.value > 1 else "less fair than"
        word = word if differs(against) else "not clearly fairer or less fair than"
        yield Answer(
            question,
            f"{claim}: {word} time slicing, by {text(against)} {_over(pairs)}.",
            differs(against),
            against,
        )
    if not answered:
        yield _missing("Is MPS fair?", "a mix of two tenants or more with baselines", "mix=pair baseline=auto")


def who_pays(results: Results) -> Iterable[Answer]:
    """Worst pair, the model that pays most, the neighbour that costs most; by sharing mode."""
    question = "Who pays in a pair?"
    found = tables.matrix_pairs(results)
    if found.empty:
        yield _missing(question, "pairs of models with baselines", "+experiment=pairs")
    for sharing in in_order(found["sharing"].unique()):
        cells = [(cell, _slowdown(results, cell)) for cell in rows_of(found[found["sharing"] == sharing])]
        known = [(cell, figure) for cell, figure in cells if figure is not None]
        if not known:
            continue
        cell, most = max(known, key=lambda pair: pair[1].value)
        worst = most.interval
        claim = (
            f"Under {sharing} the worst off, as measured, is {cell['victim']} beside {cell['neighbour']}, "
            f"slowed {text(worst)} times"
        )
        for name, says in (("victim", "{} pays most"), ("neighbour", "{} costs its neighbours most")):
            claim += _extreme(known, name, says)
        yield Answer(question, f"{claim}.", worst.low > 1, worst)


def _slowdown(results: Results, cell: dict[str, Any]) -> Estimate | None:
    """Of a row of :func:`analysis.tables.pairs`: two of a kind have the mean of both."""
    key = "antt" if cell["position"] == RUN else "slowdown"
    return results.figure(cell, key)


def _extreme(known: list[tuple[dict[str, Any], Estimate]], name: str, says: str) -> str:
    """The model with the largest average slowdown, if it is clear of the next one."""
    by_model: dict[str, list[Estimate]] = {}
    for cell, figure in known:
        by_model.setdefault(str(cell[name]), []).append(figure)
    averages = sorted(((geometric_mean(f), model) for model, f in by_model.items()), key=lambda p: -p[0].value)
    if len(averages) < 2 or len({len(figures) for figures in by_model.values()}) > 1:
        return ""
    (first, model), (second, runner_up) = averages[:2]
    if not differs((first / second).interval):
        return ""
    ends = [text(figure.interval) for figure in (first, second)]
    return f"; on average over all pairs {says.format(model)}, {ends[0]} (next: {runner_up}, {ends[1]})"


def do_kinds_mix(results: Results) -> Iterable[Answer]:
    """STP of pairs of an encoder and a decoder against pairs of two of a kind."""
    question = "Do encoders mix better with decoders than with each other?"
    answered = False
    for sharing in results.sharings:
        by_kind: dict[str, list[Estimate]] = {}
        for point, _, figure in _figures(results, sharing, "stp"):
            if point["num_tenants"] == 2 and set(point["roles"]) <= {"encoder", "decoder"}:
                kind = "mixed" if len(set(point["roles"])) == 2 else point["roles"][0]
                by_kind.setdefault(kind, []).append(figure)
        if "mixed" not in by_kind or len(by_kind) < 2:
            continue
        answered = True
        mixed = geometric_mean(by_kind.pop("mixed"))
        parts, figures = [], []
        for kind, own in sorted(by_kind.items()):
            alike = geometric_mean(own)
            against = (mixed / alike).interval
            figures.append(against)
            word = "more than" if against.value > 1 else "less than"
            word = word if differs(against) else "not clearly different from"
            parts.append(f"{word} {_KINDS[kind]} with {text(alike.interval)} (ratio {text(against)})")
        claim = f"Under {sharing} {_KINDS['mixed']} reach an STP of {text(mixed.interval)}: {'; '.join(parts)}"
        yield Answer(question, f"{claim}.", any(map(differs, figures)), figures[0])
    if not answered:
        yield _missing(question, "pairs of two encoders or decoders and pairs of one each", "+experiment=pairs")


def does_number_matter(results: Results) -> Iterable[Answer]:
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
        change = (b / a).interval
        word = "gets more done" if change.value > 1 else "gets less done"
        word = word if differs(change) else "does not clearly get more or less done"
        claim = (
            f"{label} under {sharing} {word} with {many['num_tenants']} tenants (STP {text(b.interval)}) than with "
            f"{few['num_tenants']} ({text(a.interval)}): ratio {text(change)}, "
            f"at a slowdown of {text(latency.interval)}"
        )
        yield Answer(question, f"{claim}.", differs(change), change)
    if not answered:
        yield _missing(question, "two and more tenants of one model", "+experiment=scaling")


def is_event_timer_right(results: Results) -> Iterable[Answer]:
    """The slowdown by the host clock against that by the CUDA-event timer."""
    question = "Is the CUDA-event timer right?"
    found = tables.event_timer(results)
    if found.empty:
        yield _missing(question, "a mix on a GPU with baselines: a CPU has no event timer", "runtime=gpu mix=pair")
        return
    found = found[found["point"].isin(results.points.loc[results.points["closed"], "point"])]
    for sharing in in_order(found["sharing"].unique()):
        rows = rows_of(found[found["sharing"] == sharing])
        both = [(results.figure(row, "slowdown"), results.figure(row, TIMER)) for row in rows]
        known = [(host, timer) for host, timer in both if host is not None and timer is not None]
        if not known:
            continue
        host, timer = (geometric_mean(list(side)) for side in zip(*known, strict=True))
        against = (host / timer).interval
        hidden = sum(row["hidden_pct"] for row in rows) / len(rows)
        if not differs(against):
            word = "agree" if _AGREE[0] < against.low and against.high < _AGREE[1] else "do not clearly differ"
            claim = f"Under {sharing} the event timer and the host clock {word}: ratio {text(against)}"
        else:
            way = "misses part of the slowdown" if against.value > 1 else "shows more slowdown than clients see"
            claim = (
                f"Under {sharing} the event timer {way}: it says {text(timer.interval)}, the host clock "
                f"{text(host.interval)} "
                f"(ratio {text(against)}, {len(known)} tenants); it does not see {hidden:.0f} % of a request's latency"
            )
        yield Answer(question, f"{claim}.", differs(against), against)


def how_well_does_it_repeat(results: Results) -> Iterable[Answer]:
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
    few = int((results.points["repetitions"] < FEWEST_RUNS).sum())
    note = f"; {few} of {len(results.points)} points were measured fewer than {FEWEST_RUNS} times: their intervals "
    note += "take the spread between runs from what was repeated"
    if parts:
        yield Answer(question, f"For scale: {' and '.join(parts)}{note if few else ''}.", False)
    else:
        yield _missing(question, "something that was measured twice", "repetitions=3")


def does_power_limit(results: Results) -> Iterable[Answer]:
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


QUESTIONS: tuple[Callable[[Results], Iterable[Answer]], ...] = (
    which_pay,
    is_mps_efficient,
    is_sharing_fair,
    who_pays,
    do_kinds_mix,
    does_number_matter,
    is_event_timer_right,
    how_well_does_it_repeat,
    does_power_limit,
)


# --- what they share --------------------------------------------------------------------------------------------------


def _figures(results: Results, sharing: str, key: str) -> list[tuple[dict[str, Any], str, Estimate]]:
    """Points of two tenants or more in closed loop, without stressors, that have ``key`` with its interval."""
    points = results.points[(results.points["sharing"] == sharing) & (results.points["num_tenants"] > 1)]
    found = []
    for point in rows_of(points[points["closed"]]):
        figure = results.figure(point, key)
        if figure is not None and "stressor" not in point["roles"]:
            found.append((point, str(point["mix"]), figure))
    return found


def _matched(results: Results, sharing: str, key: str) -> list[tuple[str, Estimate, Estimate]]:
    """Mixes measured both ways: name, figure under ``sharing``, figure under time slicing."""
    turns = {tuple(sorted(point["labels"])): figure for point, _, figure in _figures(results, TURNS, key)}
    found = ((tuple(sorted(point["labels"])), mix, figure) for point, mix, figure in _figures(results, sharing, key))
    return [(mix, figure, turns[labels]) for labels, mix, figure in found if labels in turns]


def _over(pairs: Sequence[Any]) -> str:
    return f"(geometric mean of {len(pairs)} mixes)" if len(pairs) > 1 else "(one mix)"


def _missing(question: str, what: str, how: str) -> Answer:
    return Answer(question, f"Not measured: this needs {what}, e.g. {command_line('run')} -m {how}.", False)

"""What the data say, in sentences: an answer to each question of the study, with its interval, or that there is none.

Lives here: :func:`findings`. May touch: nothing outside its arguments. A difference is claimed only where the 95 %
interval leaves 1 out, and where it is larger than what runs differ by among themselves: the interval of a point that
was measured once does not know that. Averages over mixes are geometric means of these mixes and say nothing about
others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import tables
from analysis.frames import rows_of
from analysis.intervals import differs, geometric_mean, ratio, text
from analysis.pooling import Results, in_order, interval_of
from mtexp.metrics.bootstrap import Interval

TURNS = "time slicing"
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
    """What is claimed, a clause each, as one paragraph."""
    claimed = [answer.headline for answer in answers if answer.claimed]
    return " ".join(claimed) if claimed else "The data settle none of the questions."


# --- questions --------------------------------------------------------------------------------------------------------


def is_mps_efficient(results: Results) -> Iterable[Answer]:
    """STP of each other sharing mode against time slicing, mix by mix."""
    question = "Is MPS efficient?"
    answered = False
    for sharing in (s for s in results.sharings if s != TURNS):
        pairs = _matched(results, sharing, "stp")
        if not pairs:
            continue
        answered = True
        each = sorted(((ratio(a, b), mix) for mix, a, b in pairs), key=lambda pair: pair[0].value)
        overall = geometric_mean([figure for figure, _ in each])
        (least, least_mix), (most, most_mix) = each[0], each[-1]
        if clear(results, overall):
            word = "more" if overall.value > 1 else "less"
            claim = f"{sharing} gets {word} done than time slicing: {text(overall)} times the STP {_over(pairs)}"
        else:
            claim = f"{sharing} and time slicing do not differ in STP: ratio {text(overall)} {_over(pairs)}"
        if len(each) > 1:
            claim += f"; most in {most_mix} ({text(most)}), least in {least_mix} ({text(least)})"
        yield Answer(question, f"{claim}.", clear(results, overall), overall)
    if not answered:
        yield _missing(question, "the same mix under time slicing and under MPS", "mps_settings=disabled,default")


def is_mps_fair(results: Results) -> Iterable[Answer]:
    """Fairness (min / max progress) under each sharing mode, and against time slicing."""
    question = "Is MPS fair?"
    answered = False
    for sharing in results.sharings:
        own = [figure for _, _, figure in _figures(results, sharing, "fairness")]
        if not own:
            continue
        answered = True
        average = geometric_mean(own)
        claim = (
            f"Under {sharing} the tenant that gets least makes {text(average)} of the progress of the one that gets "
            f"most {_over(own)}"
        )
        pairs = _matched(results, sharing, "fairness") if sharing != TURNS else []
        if not pairs:
            yield Answer(question, f"{claim}.", average.high < 1, average)
            continue
        against = geometric_mean([ratio(a, b) for _, a, b in pairs])
        word = "fairer than" if against.value > 1 else "less fair than"
        word = word if clear(results, against) else "neither fairer nor less fair than"
        yield Answer(
            question,
            f"{claim}: {word} time slicing, by {text(against)} {_over(pairs)}.",
            clear(results, against),
            against,
        )
    if not answered:
        yield _missing(question, "a mix of two tenants or more with baselines", "mix=pair baseline=auto")


def who_pays(results: Results) -> Iterable[Answer]:
    """Worst pair, the model that pays most, the neighbour that costs most; by sharing mode."""
    question = "Who pays in a pair?"
    found = tables.matrix_pairs(results)
    if found.empty:
        yield _missing(question, "pairs of models with baselines", "+experiment=pairs")
    for sharing in in_order(found["sharing"].unique()):
        cells = [(cell, interval_of(cell, "slowdown")) for cell in rows_of(found[found["sharing"] == sharing])]
        known = [(cell, figure) for cell, figure in cells if figure is not None]
        if not known:
            continue
        cell, worst = max(known, key=lambda pair: pair[1].value)
        claim = (
            f"Under {sharing} the worst off is {cell['victim']} beside {cell['neighbour']}, slowed {text(worst)} times"
        )
        for name, says in (("victim", "{} pays most"), ("neighbour", "{} costs its neighbours most")):
            claim += _extreme(results, known, name, says)
        yield Answer(question, f"{claim}.", worst.low > 1, worst)


def _extreme(results: Results, known: list[tuple[dict[str, Any], Interval]], name: str, says: str) -> str:
    """The model with the largest average slowdown, if it is clear of the next one."""
    by_model: dict[str, list[Interval]] = {}
    for cell, figure in known:
        by_model.setdefault(str(cell[name]), []).append(figure)
    averages = sorted(((geometric_mean(f), model) for model, f in by_model.items()), key=lambda p: -p[0].value)
    if len(averages) < 2 or len({len(figures) for figures in by_model.values()}) > 1:
        return ""
    (first, model), (second, runner_up) = averages[:2]
    if not clear(results, ratio(first, second)):
        return ""
    return f"; on average over all pairs {says.format(model)}, {text(first)} (next: {runner_up}, {text(second)})"


def do_kinds_mix(results: Results) -> Iterable[Answer]:
    """STP of pairs of an encoder and a decoder against pairs of two of a kind."""
    question = "Do encoders mix better with decoders than with each other?"
    answered = False
    for sharing in results.sharings:
        by_kind: dict[str, list[Interval]] = {}
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
            against = ratio(mixed, alike)
            figures.append(against)
            word = "more than" if against.value > 1 else "less than"
            word = word if clear(results, against) else "not clearly different from"
            parts.append(f"{word} {_KINDS[kind]} with {text(alike)} (ratio {text(against)})")
        claim = f"Under {sharing} {_KINDS['mixed']} reach an STP of {text(mixed)}: {'; '.join(parts)}"
        yield Answer(question, f"{claim}.", any(clear(results, figure) for figure in figures), figures[0])
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
        a, b = interval_of(few, "stp"), interval_of(many, "stp")
        if a is None or b is None:
            continue
        answered = True
        change = ratio(b, a)
        word = "gets more done" if change.value > 1 else "gets less done"
        word = word if clear(results, change) else "gets no more and no less done"
        claim = (
            f"{label} under {sharing} {word} with {many['num_tenants']} tenants (STP {text(b)}) than with "
            f"{few['num_tenants']} ({text(a)}): ratio {text(change)}"
        )
        latency = interval_of(many, "antt")
        claim += f", at a slowdown of {text(latency)}" if latency is not None else ""
        yield Answer(question, f"{claim}.", clear(results, change), change)
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
        both = [(interval_of(row, "slowdown"), _timer(row)) for row in rows]
        known = [(host, timer) for host, timer in both if host is not None]
        if not known:
            continue
        host, timer = geometric_mean([h for h, _ in known]), geometric_mean([t for _, t in known])
        against = geometric_mean([ratio(h, t) for h, t in known])
        hidden = sum(row["hidden_pct"] for row in rows) / len(rows)
        if not clear(results, against):
            claim = f"Under {sharing} the event timer and the host clock agree: ratio {text(against)}"
        else:
            way = "misses part of the slowdown" if against.value > 1 else "shows more slowdown than clients see"
            claim = (
                f"Under {sharing} the event timer {way}: it says {text(timer)}, the host clock {text(host)} "
                f"(ratio {text(against)}, {len(known)} tenants); it does not see {hidden:.0f} % of a request's latency"
            )
        yield Answer(question, f"{claim}.", clear(results, against), against)


def how_well_does_it_repeat(results: Results) -> Iterable[Answer]:
    """How far a model alone, measured once more, lies from its baseline: what no difference may be smaller than."""
    question = "How well does a run repeat?"
    single = results.points[(results.points["num_tenants"] == 1) & results.points["closed"]]
    rows = results.tenants[results.tenants["point"].isin(single["point"])]
    again = [(row["label"], figure) for row in rows_of(rows) if (figure := interval_of(row, "slowdown"))]
    spreads = results.tenants["spread_pct"].dropna() if "spread_pct" in results.tenants else pd.Series(dtype=float)
    parts = []
    if again:
        label, worst = max(again, key=lambda pair: abs(pair[1].value - 1))
        parts.append(f"a model alone, measured again, came within {abs(worst.value - 1):.1%} of its baseline ({label})")
    if len(spreads):
        parts.append(
            f"repetitions of a tenant's mean latency lie {spreads.median():.1f} % apart in the median and "
            f"{spreads.max():.1f} % at most"
        )
    if parts:
        once = int((results.points["repetitions"] == 1).sum())
        note = f"; {once} of {len(results.points)} points were measured once, and their intervals do not include this"
        yield Answer(question, f"For scale: {' and '.join(parts)}{note if once else ''}.", False)


QUESTIONS: tuple[Callable[[Results], Iterable[Answer]], ...] = (
    is_mps_efficient,
    is_mps_fair,
    who_pays,
    do_kinds_mix,
    does_number_matter,
    is_event_timer_right,
    how_well_does_it_repeat,
)


# --- what they share --------------------------------------------------------------------------------------------------


def repeat_pct(results: Results) -> float:
    """By how much repetitions of a tenant's mean latency differ, in the median; 0 where nothing was repeated."""
    if "spread_pct" not in results.tenants:
        return 0.0
    spreads = results.tenants["spread_pct"].dropna()
    return float(spreads.median()) if len(spreads) else 0.0


def clear(results: Results, figure: Interval) -> bool:
    """Whether a ratio may be claimed to differ from 1."""
    once = bool((results.points["repetitions"] == 1).any())
    return differs(figure) and 100 * abs(figure.value - 1) > (repeat_pct(results) if once else 0.0)


def _figures(results: Results, sharing: str, key: str) -> list[tuple[dict[str, Any], str, Interval]]:
    """Points of two tenants or more in closed loop, without stressors, that have ``key`` with its interval."""
    points = results.points[(results.points["sharing"] == sharing) & (results.points["num_tenants"] > 1)]
    found = []
    for point in rows_of(points[points["closed"]]):
        figure = interval_of(point, key)
        if figure is not None and figure.low > 0 and "stressor" not in point["roles"]:
            found.append((point, str(point["mix"]), figure))
    return found


def _matched(results: Results, sharing: str, key: str) -> list[tuple[str, Interval, Interval]]:
    """Mixes measured both ways: name, figure under ``sharing``, figure under time slicing."""
    turns = {tuple(sorted(point["labels"])): figure for point, _, figure in _figures(results, TURNS, key)}
    found = ((tuple(sorted(point["labels"])), mix, figure) for point, mix, figure in _figures(results, sharing, key))
    return [(mix, figure, turns[labels]) for labels, mix, figure in found if labels in turns]


def _over(pairs: Sequence[Any]) -> str:
    return f"(geometric mean of {len(pairs)} mixes)" if len(pairs) > 1 else "(one mix)"


def _timer(row: dict[str, Any]) -> Interval:
    return Interval(row["timer_slowdown"], row["timer_slowdown_ci_low"], row["timer_slowdown_ci_high"])


def _missing(question: str, what: str, how: str) -> Answer:
    return Answer(question, f"Not measured: this needs {what}, e.g. python run.py -m {how}.", False)

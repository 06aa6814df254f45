"""Sharing modes against each other: what they get done, and how evenly.

Lives here: two questions of :mod:`analysis.findings`. May touch: nothing outside its arguments.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mtexp.metrics.bootstrap import Interval
from mtexp.metrics.repeats import geometric_mean
from mtexp.records import keys

from .answers import MPS, TURNS, Answer, Judge, comparable, matched, missing, over
from .fairness import Progress, true_fairness
from .frames import rows_of
from .intervals import text
from .pooling import Results, sharing_name


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
            claim += with_its_price(results, sharing)
        yield Answer(question, f"{claim}.", claimed, overall)
    if not answered:
        yield missing(question, "the same mix under time slicing and under MPS", "mps_settings=disabled,default")


def with_its_price(results: Results, sharing: str) -> str:
    """What runs say that were measured side by side with time slicing: their STP with that price; else nothing."""
    names = ["stp_whole_ratio", *keys.interval("stp_whole_ratio")]
    found = [
        [float(run.get(name, np.nan)) for name in names]
        for run in rows_of(results.data.runs)
        if sharing_name(run) == sharing
    ]
    found = [ratio for ratio in found if np.isfinite(ratio).all()]
    if not found:
        return ""
    if len(found) == 1:
        return f" (side by side, with it: {text(Interval(*found[0]))} times the STP)"
    values = [ratio[0] for ratio in found]
    mean = float(np.exp(np.log(values).mean()))
    spread = f"{min(values):.3f} to {max(values):.3f} in {len(found)} runs"
    return f" (side by side, with it: {mean:.3f} times the STP, {spread})"


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

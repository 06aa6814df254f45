"""Sharing modes against each other: what they get done, and how evenly.

Lives here: two questions of :mod:`analysis.findings`. May touch: nothing outside its arguments.
"""

from __future__ import annotations

from collections.abc import Iterable

from mtexp.metrics.repeats import Estimate, geometric_mean

from .answers import MPS, TURNS, Answer, Judge, comparable, gains, matched, missing, over
from .fairness import Progress, true_fairness
from .frames import rows_of
from .intervals import text
from .pooling import Results, sharing_name


def is_mps_efficient(results: Results, judge: Judge) -> Iterable[Answer]:
    """STP of each other sharing mode against time slicing, mix by mix; and against plain MPS on the same mixes."""
    question = "Is MPS efficient?"
    answered = False
    for sharing in (s for s in results.sharings if s != TURNS):
        pairs, priced = gains(results, sharing)
        if not pairs:
            continue
        answered = True
        each = sorted(((ratio, mix) for mix, ratio in pairs), key=lambda pair: pair[0].value)
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
        claim += _price(results, sharing, priced)
        beside = matched(results, sharing, MPS) if sharing != MPS else []
        if beside:
            ratio = geometric_mean([a / b for _, a, b in beside]).interval
            claim += f"; against plain MPS on the same mixes {text(ratio)} {over(beside)}"
        if left_out := _missing_invalid(results, sharing):
            claim += f"; without {left_out} measured only in runs that are INVALID, so not a fair sample of mixes"
        yield Answer(question, f"{claim}.", claimed, overall)
    if not answered:
        yield missing(question, "the same mix under time slicing and under MPS", "mps_settings=disabled,default")


def _price(results: Results, sharing: str, priced: bool) -> str:
    """What a sharing mode costs a tenant without neighbours, where it was measured; that it is missing, where it is."""
    if not priced:
        return "; measured in turns, so what the mode costs a tenant without neighbours (mode_cost) is not included"
    points = set(results.points.loc[results.points["sharing"] == sharing, "point"])
    own = rows_of(results.tenants[results.tenants["point"].isin(points)])
    costs = [cost for tenant in own if (cost := results.figure(tenant, "mode_cost")) is not None]
    if not costs:
        return ""
    price = geometric_mean(costs).interval
    return f"; alone under {sharing} a request takes {text(price)} times as long as without, and this cost is included"


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
        compared = fairness_against_turns(results, sharing)
        if compared is None:
            yield Answer(question, f"{claim}.", judge.differs(average), average.interval)
            continue
        after, before, both = compared
        ratio = after / before
        against, claimed = ratio.interval, judge.differs(ratio)
        word = "fairer than" if against.value > 1 else "less fair than"
        word = word if claimed else "not clearly fairer or less fair than"
        yield Answer(
            question,
            f"{claim}: {word} time slicing with {text(before.interval)} on the same mixes, by {text(against)} "
            f"{over(range(both))}.",
            claimed,
            against,
        )
    if not answered:
        yield missing("Is MPS fair?", "a mix of two tenants or more with baselines", "mix=pair baseline=auto")


def fairness_against_turns(results: Results, sharing: str) -> tuple[Estimate, Estimate, int] | None:
    """Fairness under a sharing mode and under time slicing over the same mixes, and how many; None for none."""
    own, turns = _progress(results, sharing), _progress(results, TURNS) if sharing != TURNS else {}
    both = [labels for labels in own if labels in turns]
    if not both:
        return None
    after, before = (true_fairness([found[labels] for labels in both]) for found in (own, turns))
    return after, before, len(both)


def _progress(results: Results, sharing: str) -> dict[tuple[str, ...], Progress]:
    """Progress of the tenants of each mix, by their labels."""
    found = {}
    for point, _, _ in comparable(results, sharing, "fairness"):
        if (progress := results.progress.get(int(point["point"]))) is not None:
            found[tuple(sorted(point["labels"]))] = progress
    return found

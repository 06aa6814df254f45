"""What the data say, in sentences: an answer to each question of the study, with its interval, or that there is none.

Lives here: :func:`findings`. May touch: nothing outside its arguments. A difference is claimed only where it stands
among all that the page asks (:class:`analysis.answers.Judge`). Averages over mixes are geometric means in which each
mix counts once; they are of these mixes and do not cover others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from mtexp.metrics.bootstrap import LEVEL
from mtexp.metrics.repeats import discoveries_limit

from .answers import Answer, Judge
from .caveats import does_power_limit, how_well_does_it_repeat, is_event_timer_right
from .churn_runs import of_frame, sentence
from .costs import does_sharing_save_energy, how_does_load_cost
from .mixes import do_kinds_mix, does_number_matter, which_pay, who_pays
from .modes import is_mps_efficient, is_sharing_fair
from .pooling import Results

_MOST_NAMED = 3


def what_events_do(results: Results, judge: Judge) -> Iterable[Answer]:
    """The worst event of a neighbour, by sharing mode; nothing where there is no churn run."""
    text, firm = sentence(of_frame(results.data.churn))
    if text:
        yield Answer("What does a neighbour's life do to a steady tenant?", text, firm)


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
    what_events_do,
)


@lru_cache(maxsize=2)  # a page asks for it several times, and it takes seconds
def claim_limit(results: Results) -> tuple[float, int]:
    """The largest p-value that the page of these results may claim, and how many questions it asks."""
    judge = Judge(1 - LEVEL)
    for question in QUESTIONS:
        list(question(results, judge))
    return discoveries_limit(judge.asked), len(judge.asked)


@lru_cache(maxsize=2)
def findings(results: Results) -> tuple[Answer, ...]:
    """Answer every question of the study that the data have something for; the others say what is missing."""
    judge = Judge(claim_limit(results)[0])
    return tuple(answer for question in QUESTIONS for answer in question(results, judge))


def paragraph(answers: Sequence[Answer]) -> str:
    """What is claimed, the first clause to each question, as one paragraph; where nothing is, what was measured."""
    claimed: dict[str, str] = {}
    for answer in answers:
        if answer.claimed:
            claimed.setdefault(answer.question, answer.headline)
    measured = [answer.headline for answer in answers if answer.measured]
    return " ".join(claimed.values()) or " ".join(measured[:_MOST_NAMED]) or "Nothing was measured together."

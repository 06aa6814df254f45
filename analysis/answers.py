"""What every answer of an analysis has: a question, a text, whether it is claimed; and the figures answers compare.

Lives here: :class:`Answer`, :class:`Judge`, :func:`comparable`, :func:`matched`, :func:`gains`. May touch: nothing
outside its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mtexp.commands import command_line
from mtexp.metrics.bootstrap import Interval
from mtexp.metrics.repeats import Estimate

from .frames import rows_of
from .pooling import Results

TURNS, MPS, STREAMS = "time slicing", "MPS", "streams"


@dataclass(frozen=True, slots=True)
class Answer:
    """One question and what the data say to it."""

    question: str
    text: str
    claimed: bool
    """False where the data do not settle it, or were not measured."""
    interval: Interval | None = None
    """Interval of the figure that the text rests on."""
    measured: bool = True
    """False where the runs have nothing for the question; the text says how to measure it."""

    @property
    def headline(self) -> str:
        """The first clause of the text: the sentence that answers the question."""
        return f"{self.text.rstrip('.').partition(';')[0]}."

    @property
    def rest(self) -> str:
        """What the other clauses of the text add; empty for nothing."""
        rest = self.text.partition("; ")[2]
        return rest[:1].upper() + rest[1:]


@dataclass
class Judge:
    """Says whether a figure surely differs from 1, and keeps what it was asked.

    A page asks a hundred such questions; at 5 % each, five would be answered wrongly. So a difference is claimed where
    its p-value is at most ``limit``, that of Benjamini and Hochberg over all questions of the page: of all claims on
    it, 5 % are expected to be false at most.
    """

    limit: float
    asked: list[float] = field(default_factory=list)

    def differs(self, figure: Estimate) -> bool:
        """Whether the figure surely is not 1."""
        p_value = figure.p_value()
        self.asked.append(p_value)
        return p_value <= self.limit


def comparable(results: Results, sharing: str, key: str) -> list[tuple[dict[str, Any], str, Estimate]]:
    """Points of two tenants or more in closed loop, without stressors, that have ``key`` with its interval."""
    points = results.points[(results.points["sharing"] == sharing) & (results.points["num_tenants"] > 1)]
    found = []
    for point in rows_of(points[points["closed"]]):
        figure = results.figure(point, key)
        if figure is not None and "stressor" not in point["roles"]:
            found.append((point, str(point["mix"]), figure))
    return found


def matched(results: Results, sharing: str, other: str) -> list[tuple[str, Estimate, Estimate]]:
    """Mixes measured both ways: name, STP under ``sharing``, STP under ``other``."""
    others = {tuple(sorted(point["labels"])): figure for point, _, figure in comparable(results, other, "stp")}
    found = (
        (tuple(sorted(point["labels"])), mix, figure) for point, mix, figure in comparable(results, sharing, "stp")
    )
    return [(mix, figure, others[labels]) for labels, mix, figure in found if labels in others]


def gains(results: Results, sharing: str) -> tuple[list[tuple[str, Estimate]], bool]:
    """STP under a sharing mode / under time slicing, mix by mix; and whether what the mode costs is in all of them.

    Runs of both modes side by side measured it themselves, against alone on the whole device. Where there are such,
    only they count: in other runs in turns, alone is alone under the mode.
    """
    points = results.points[(results.points["sharing"] == sharing) & (results.points["num_tenants"] > 1)]
    direct = [(str(p["mix"]), results.figure(p, "stp_whole_ratio")) for p in rows_of(points)]
    if sharing.startswith("CPU"):
        return [], True  # the modes are nominal there
    if known := [(mix, ratio) for mix, ratio in direct if ratio is not None]:
        return known, True
    return [(mix, a / b) for mix, a, b in matched(results, sharing, TURNS)], (
        sharing == STREAMS or not _in_turns(results, points)
    )


def _in_turns(results: Results, points: pd.DataFrame) -> bool:
    """Whether some of the points have crossover runs, which compare with alone in the same mode."""
    records = {name for names in points["records"] for name in names}
    runs = results.data.runs.reindex(columns=["record_id", "design"])
    return bool(((runs["design"] == "crossover") & runs["record_id"].isin(records)).any())


def over(pairs: Sequence[Any]) -> str:
    """How many mixes an average is of, in brackets."""
    return f"(geometric mean of {len(pairs)} mixes)" if len(pairs) > 1 else "(one mix)"


def missing(question: str, what: str, how: str) -> Answer:
    """The answer to a question for which nothing was measured: what it needs, and arguments that measure it."""
    said = f"Not measured: this needs {what}, e.g. {command_line('run')} -m {how}."
    return Answer(question, said, False, measured=False)

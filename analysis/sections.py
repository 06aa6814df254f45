"""The sections of a report: questions, each with one sentence and one figure, then the appendix with tables and method.

Lives here: :func:`questions`, :func:`who_slows_whom`, :func:`appendix`. May touch: nothing outside its arguments. What
was not measured is no section: it is one list at the end of the appendix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from mtexp.records import keys
from mtexp.text_tables import counted

from . import markdown, tables
from .answers import Answer
from .capacity import capacities
from .findings import claim_limit
from .page import Table, figure_html, headings, table_view
from .plots import FIGURES
from .pooling import Results
from .sentences import SENTENCES
from .summary import HeatMap

_FACTS = {
    "device": "device",
    "driver": "driver",
    "cuda": "CUDA",
    "torch": "torch",
    "transformers": "transformers",
    "cpu": "CPU",
    "python": "Python",
    "version": "mtexp",
    "git_commit": "commit",
    "precision": "precision",
    "workload": "workload",
    "batch_size": "batch size",
    "seq_len": "sequence length",
    "execution": "execution",
    "overlap": "overlap",
    "design": "design",
    "sweep": "sweeps",
}
_MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class Shown:
    """A figure with its caption."""

    html: Markup
    caption: str


@dataclass(slots=True)
class Section:
    """One section of the page."""

    title: str
    answer: str = ""
    claimed: bool = True
    more: Sequence[str] = ()
    figures: Sequence[Shown] = ()
    maps: Sequence[HeatMap] = ()
    """The first two are shown, others are folded away."""
    text: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()

    @property
    def anchor(self) -> str:
        """What a link to the section names."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-")


QUESTIONS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Which combinations pay?", ("Which combinations pay?",), "combinations"),
    ("Is MPS efficient?", ("Is MPS efficient?",), "stp-by-mix"),
    ("Who pays, tenant by tenant?", (), "slowdown-by-tenant"),
    ("Is sharing fair?", ("Is MPS fair?", "Is time slicing fair?"), "fairness"),
    ("Does the number of processes matter?", ("Does the number of processes matter?",), "scaling"),
    ("How much of the device does a tenant need?", (), "shares"),
    ("How many SMs does a model need?", (), "sm-curve"),
    ("What is each sharing mode worth at equal SMs?", (), "one-axis"),
    ("What does a neighbour's life do to a steady tenant?", ("What does a neighbour's life do to a steady tenant?",),
     "churn"),
    ("Do encoders mix better with decoders than with each other?",
     ("Do encoders mix better with decoders than with each other?",), "kinds"),
    ("What do batch size and sequence length change?", (), "settings"),
    ("Does it matter what a model does?", (), "workloads"),
    ("How does latency grow with load?", ("How does latency grow with load?",), "latency-load"),
    ("Which load keeps every service level?", (), "capacity"),
    ("Which requests keep their service level?", (), "slo-attainment"),
    ("How long do tokens take?", (), "tokens"),
    ("What does a model depend on?", (), "sensitivity"),
    ("Does sharing save energy?", ("Does sharing save energy?",), "energy"),
    ("How well does a run repeat?", ("How well does a run repeat?",), "repeats"),
)  # fmt: skip
"""Title of a section, the questions of :mod:`analysis.findings` that it answers, and its figure."""
PAIRS = "Who pays in a pair?"
METHOD = (
    "event-timer",
    "rounds",
    "latency-ecdf",
    "latency-over-time",
    "latency-by-clock",
    "latency-by-neighbours",
    "telemetry",
)
"""Figures of the appendix."""


def questions(results: Results, answers: Sequence[Answer], figures: Mapping[str, go.Figure]) -> list[Section]:
    """One section a question that the data have something for: one sentence, one figure; more is folded away."""
    found = []
    for title, asked, name in QUESTIONS:
        own = [a for question in asked for a in answers if a.question == question and a.measured]
        section = _answered(title, own)
        if name in figures:
            section.figures = [_shown(name, figures, results)]
            if not section.answer and name in SENTENCES:
                section.answer = SENTENCES[name](results)
        if section.answer:
            found.append(section)
    return found


def who_slows_whom(results: Results, answers: Sequence[Answer], maps: Sequence[HeatMap]) -> Section:
    """The maps of pairs with their sentence; those behind the first two are folded away."""
    section = _answered("Who slows whom", [a for a in answers if a.question == PAIRS and a.measured])
    section.maps = maps
    if tables.compared_within_mode(results):
        section.text = "The comparison is with alone under the same sharing mode: what the mode costs is not in it."
    return section


def _answered(title: str, own: Sequence[Answer]) -> Section:
    """A section whose sentence is the first answer that is claimed, else the first."""
    first = next((a for a in own if a.claimed), own[0] if own else None)
    if first is None:
        return Section(title)
    more = [first.rest, *(a.text for a in own if a is not first)]
    return Section(title, first.headline, first.claimed, [text for text in more if text])


def _shown(name: str, figures: Mapping[str, go.Figure], results: Results) -> Shown:
    caption = next(figure.caption_of(results) for figure in FIGURES if figure.name == name)
    return Shown(figure_html(figures[name], name), caption)


def appendix(results: Results, answers: Sequence[Answer], figures: Mapping[str, go.Figure]) -> list[Section]:
    """Tables and method."""
    tenants = tables.tenants(results).drop(columns=["point", "position", "saturated"], errors="ignore")
    every_mix = _every_mix(results)
    return [
        Section(
            "What was run, on what",
            facts=facts(results.data.runs),
            text=markdown.legend_of_mixes(results, headings(every_mix)),
            tables=[table_view(every_mix)],
        ),
        *_ranked(results),
        *_capacity(results),
        *_impossible(results),
        *_verdicts(results),
        Section("Tenants", tables=[table_view(tenants, folded="every tenant")]),
        *_baselines(results),
        *_method(results, answers, figures),
        *_not_measured(answers),
    ]


def _baselines(results: Results) -> list[Section]:
    found = tables.baselines(results)
    said = "Each model alone on the whole device, in all its runs: what every slowdown compares with."
    return [] if found.empty else [Section("Baselines", text=said, tables=[table_view(found)])]


def _every_mix(results: Results) -> pd.DataFrame:
    frame = tables.overview(results).drop(columns=["verdict"])
    first = ["mix", "sharing", *tables.with_intervals(("stp", "antt", "fairness"))]
    return frame[[*first, *(name for name in frame if name not in first)]]


def _ranked(results: Results) -> list[Section]:
    found = tables.combinations(results, claim_limit(results)[0])
    if found.empty:
        return []
    found = found.assign(frontier=found["frontier"].map({True: "yes", False: ""}))
    found = found.drop(columns=["point", "p_value", "above_ideal"])
    said = markdown.legend_of_combinations(results, headings(found))
    return [Section("Combinations, by the lower end of STP", text=said, tables=[table_view(found)])]


def _capacity(results: Results) -> list[Section]:
    found = capacities(results.data)
    if found.empty:
        return []
    said = "At the highest load or rate that kept every level; missed: the lowest that did not."
    return [Section("Capacity, tenant by tenant", text=said, tables=[table_view(found.drop(columns="record_id"))])]


def _impossible(results: Results) -> list[Section]:
    if results.impossible.empty:
        return []
    return [
        Section("Impossible points", text=markdown.IMPOSSIBLE, tables=[table_view(tables.impossible(results))]),
    ]


def _verdicts(results: Results) -> list[Section]:
    found = tables.verdicts(results)
    counts = found["verdict"].value_counts()
    said = ", ".join(f"{counted(count, 'run')} {verdict}" for verdict, count in counts.items()) + "."
    bad = found[found["verdict"] != "VALID"]
    shown = [table_view(bad)] if len(bad) else []
    return [Section("Verdicts", text=said, tables=[*shown, table_view(found, folded="every run")])]


def _method(results: Results, answers: Sequence[Answer], figures: Mapping[str, go.Figure]) -> list[Section]:
    found = [Section("How to read intervals and claims", text=markdown.read(results))]
    timer = [a for a in answers if a.question == "Is the CUDA-event timer right?" and a.measured]
    if timer:
        table = tables.event_timer(results).drop(columns=["point", "model", "position"])
        section = _answered(timer[0].question, timer)
        section.figures = [_shown("event-timer", figures, results)] if "event-timer" in figures else []
        section.tables = [table_view(table, folded="event timer, tenant by tenant")]
        found.append(section)
    drawn = [figure for figure in FIGURES if figure.name in METHOD[1:] and figure.name in figures]
    inside = [
        Section(figure.title, SENTENCES[figure.name](results), figures=[_shown(figure.name, figures, results)])
        for figure in drawn
    ]
    return [*found, *inside]


def _not_measured(answers: Sequence[Answer]) -> list[Section]:
    missing = [f"{a.question} {a.text}" for a in answers if not a.measured]
    return [Section("Not measured here", more=missing)] if missing else []


def facts(runs: pd.DataFrame) -> dict[str, str]:
    """What was the same in all runs, and what was not: a name and its values."""
    found = {}
    for name, label in _FACTS.items():
        values = distinct(runs, name)
        if len(values):
            named = ", ".join(values[:_MOST_NAMED])
            found[label] = named + (f" and {len(values) - _MOST_NAMED} more" if len(values) > _MOST_NAMED else "")
    return found


def distinct(runs: pd.DataFrame, name: str) -> list[str]:
    """The values of a column; where tenants of a run differ a parameter has several, with commas."""
    if name not in runs:
        return []
    texts = runs[name].dropna().astype(str)
    texts = texts.str.split(",").explode() if name in keys.PARAMS else texts
    return [str(text) for text in texts.unique()]

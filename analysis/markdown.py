"""Writes the findings and their tables as a Markdown page, for repositories that do not show HTML.

Lives here: :func:`page`. May touch: nothing. The page depends only on its input, so it can be regenerated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mtexp.records import keys

from . import tables
from .findings import claim_limit, findings
from .frames import rows_of
from .page import number
from .plots import FIGURES
from .pooling import Results


def page(results: Results, *, title: str, figures: Sequence[str] = (), made_by: str = "", images: str = "plots") -> str:
    """Return the page.

    Args:
        results: What was measured.
        title: Heading.
        figures: Names of figures (:data:`analysis.plots.FIGURES`) whose SVG lies in ``images``.
        made_by: Command that regenerates the page.
        images: Folder of the figures, relative to the page.
    """
    answers, data = findings(results), results.data
    parts = [f"# {title}", _measured(results)]
    if made_by:
        parts.append(f"This page is generated: `{made_by}` regenerates it from the records in this folder.")
    parts += [read(results)] if results.repeated else [read(results), ONCE]
    for question in dict.fromkeys(answer.question for answer in answers):
        own = (answer for answer in answers if answer.question == question)
        parts += [f"## {question}", *(a.text if a.claimed else f"*{a.text}*" for a in own)]
    matrices = [(sharing, tables.matrix_pairs(results)) for sharing in results.sharings]
    parts += [block for sharing, found in matrices for block in _matrix(sharing, found)]
    combinations = tables.combinations(results, claim_limit(results)[0])
    if len(combinations):
        said = legend_of_combinations(results, _there(combinations, _COMBINATIONS))
        parts += ["## Which combinations pay, by the lower end of STP", said, _table(combinations, _COMBINATIONS)]
    every_mix = tables.overview(results)
    said = legend_of_mixes(results, _there(every_mix, _OVERVIEW))
    parts += ["## Every mix", said, _table(every_mix, _OVERVIEW)]
    if len(results.impossible):
        parts += ["## Impossible", IMPOSSIBLE, _table(tables.impossible(results), _OVERVIEW | {"reason": "why"})]
    if len(alone := tables.baselines(results)):
        parts += ["## Alone", _table(alone, _BASELINES)]
    shown = [figure for figure in FIGURES if figure.name in figures]
    if shown:
        parts.append("## Figures")
    parts += [
        f"![{figure.title}]({images}/{figure.name}.svg)\n\n*{figure.title}.* {figure.caption_of(results)}"
        for figure in shown
    ]
    if len(data.invalid):
        count = len(data.invalid)
        parts.append(f"{count} INVALID {'run is' if count == 1 else 'runs are'} left out.")
        verdicts = tables.verdicts(results)
        wrong = verdicts[verdicts["verdict_reasons"].astype(str).str.contains("wrong-output")]
        if len(wrong):
            wrong = wrong.assign(verdict_reasons=wrong["verdict_reasons"].str.split(" | ", regex=False).str[0])
            parts += ["## Left out because results are known to be wrong", _table(wrong, _VERDICTS)]
    return "\n\n".join(parts) + "\n"


def read(results: Results) -> str:
    """How the figures of a page are to be read."""
    limit, asked = claim_limit(results)
    claims = (
        f"This page asks {asked} questions. It claims a difference only where at most 5 % of all its claims are "
        f"expected to be false (Benjamini and Hochberg: p at most {limit:.2g}). "
    )
    claims = claims if asked else ""  # of open loop only: there is no STP to compare
    return (
        "Brackets hold 95 % intervals: where the figure would lie if the runs were made again. How much runs differ is "
        "taken from the point's own runs and from runs like it (same model, sharing mode and load of the device); "
        f"baselines of all GPUs of the kind count together. {claims}Averages are geometric means of the mixes "
        "measured here, each mix counts once. Measuring makes equal tenants look unequal; fairness is corrected for "
        "it. The error of energy is how far the counter and the sampled power lie apart."
    )


IMPOSSIBLE = (
    "More STP than tenants, or a tenant that is faster beside others than alone, for certain: sharing cannot give "
    "that, so the baselines are not of the same state. These points are in no ranking, average or figure. Measure "
    "them again."
)
_MEANS = {
    "stp": "the work done together, in units of what each tenant does alone; 1 = taking turns",
    "antt": "the mean slowdown of the tenants",
    "fairness": "progress of the tenant that gets least / of the one that gets most; 1 = even",
    "pays": "STP is surely above 1 (yes), below (no), or neither (open), as a claim among all of this page",
    "frontier": "no other combination has both a higher lower end of STP and a lower upper end of the worst slowdown",
    "spread_pct": "how far repeated runs lie apart in mean latency, of the tenant in which they differ most",
    "spread_alone_pct": "how far runs alone of one of the tenants lie apart in mean latency; where that is much, "
    "STP can exceed the number of tenants",
    "overlap_pct": "share of the window in which all tenants had a request in flight",
    "power_capped_pct": "share of the window in which the power cap lowered the clocks",
}
"""What columns mean that a heading alone does not say."""


def legend_of_mixes(results: Results, shown: Mapping[str, str]) -> str:
    """What the table of every mix shows; ``shown`` are the headings of its columns, by their key."""
    parts = [_meanings(shown)]
    if tables.compared_within_mode(results) and "stp" in shown:
        parts.append(
            "STP, ANTT and fairness here compare with alone under the same sharing mode; the table of combinations "
            "compares with alone on the whole device without one, so that what the mode itself costs is in it."
        )
    if not results.points["closed"].astype(bool).all():
        parts.append("Points with requests in open loop have no STP: what they get done is what was asked of them.")
    return " ".join(filter(None, parts))


def legend_of_combinations(results: Results, shown: Mapping[str, str]) -> str:
    """What the table of combinations shows; ``shown`` are the headings of its columns, by their key."""
    parts = [_meanings(shown)]
    if tables.compared_within_mode(results):
        parts.append("STP, ANTT and slowdowns compare with alone on the whole device without a sharing mode.")
    return " ".join(filter(None, parts))


def _meanings(shown: Mapping[str, str]) -> str:
    """``Capped %: share of ...``, for the columns that are shown and under the name that they have there."""
    return " ".join(
        f"{shown[name][:1].upper()}{shown[name][1:]}: {said}." for name, said in _MEANS.items() if name in shown
    )


ONCE = (
    "Nothing was measured twice: intervals hold the noise inside a run, not how runs differ. "
    "Measure what matters with repetitions=3."
)
_OVERVIEW = {
    "mix": "mix",
    "sharing": "sharing",
    "num_tenants": "tenants",
    "repetitions": "runs",
    "spread_pct": "spread %",
    "stp": "STP",
    "antt": "ANTT",
    "fairness": "fairness",
    "throughput_rps": "requests/s",
    "energy_j_per_request": "J/request",
    "power_capped_pct": "capped %",
}
_COMBINATIONS = {
    "mix": "mix",
    "sharing": "sharing",
    "num_tenants": "tenants",
    "stp": "STP",
    "antt": "ANTT",
    "worst": "worst off",
    "worst_slowdown": "slowed",
    "pays": "pays",
    "spread_alone_pct": "spread alone %",
    "power_capped_pct": "capped %",
}
_VERDICTS = {"mix": "mix", "sharing": "sharing", "num_tenants": "tenants", "verdict_reasons": "why"}
_BASELINES = {
    "model": "model",
    "workload": "workload",
    "execution": "execution",
    "sharing": "sharing",
    "runs": "runs",
    "latency_mean_ms": "mean ms",
    "spread_pct": "spread %",
    "latency_p50_ms": "p50 ms",
    "latency_p99_ms": "p99 ms",
    "throughput_rps": "requests/s",
    "launch_bound_pct": "launch-bound %",
}


def _measured(results: Results) -> str:
    runs = results.data.runs
    facts = []
    for name, label in (("device", ""), ("driver", "driver "), ("cuda", "CUDA "), ("torch", "torch ")):
        values = [str(value) for value in runs[name].dropna().unique()] if name in runs else []
        facts += [f"{label}{', '.join(values)}"] if values else []
    devices = runs["gpu_uuid"].nunique() if "gpu_uuid" in runs else 0
    if devices > 1:
        facts[0] += f" ({devices} of them)"
    return f"{len(runs)} runs of {len(results.points)} points on {', '.join(facts)}."


def _matrix(sharing: str, found: pd.DataFrame) -> list[str]:
    found = found[found["sharing"] == sharing]
    cells = {(c["victim"], c["neighbour"]): c for c in rows_of(found)}
    if not cells:
        return []
    victims, neighbours = tables.in_kind_order(found)
    lines = [f"| slowed \\ beside | {' | '.join(neighbours)} |", "|---|" + "---:|" * len(neighbours)]
    for victim in victims:
        row = [_figure(cells[victim, n], "slowdown") if (victim, n) in cells else "" for n in neighbours]
        lines.append(f"| {victim} | {' | '.join(row)} |")
    return [f"## Who slows whom under {sharing}", "\n".join(lines)]


def _there(frame: pd.DataFrame, columns: Mapping[str, str]) -> dict[str, str]:
    """Those of the columns that have a value."""
    return {name: label for name, label in columns.items() if name in frame and frame[name].notna().any()}


def _table(frame: pd.DataFrame, columns: Mapping[str, str]) -> str:
    there = _there(frame, columns)
    lines = [f"| {' | '.join(there.values())} |", "|---" * len(there) + "|"]
    lines += [f"| {' | '.join(_figure(row, name) for name in there)} |" for row in rows_of(frame)]
    return "\n".join(lines)


def _figure(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, float):
        return "" if pd.isna(value) else str(value)
    if pd.isna(value):
        return ""
    low, high = keys.interval(name)
    if pd.isna(row.get(low)):
        return number(value)
    return f"{number(value)} [{number(row[low])}, {number(row[high])}]"

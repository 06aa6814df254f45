"""What to know of the measurement: the event timer, how far runs repeat, the power cap, graphs of two kinds.

Lives here: three questions of :mod:`analysis.findings`, and a caveat of a report. May touch: nothing outside its
arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mtexp.metrics.clock import CLOCK_LIMIT
from mtexp.metrics.repeats import Estimate, geometric_mean
from mtexp.text_tables import counted

from . import tables
from .answers import Answer, Judge, missing, over
from .estimates import TIMER
from .frames import rows_of
from .intervals import text
from .pooling import Results, in_order

_AGREE = (0.95, 1.05)
"""Two clocks agree when the whole interval of their ratio is within."""
_NO_MASKS = pd.Timestamp("2026-11-30T09:48:46Z")
"""Since this commit, CUDA graphs and compiled models have no attention mask that eager mode lacks.

A record does not say whether they had one, but what began earlier was not measured by this code.
"""


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
    """The same figure by the event timer."""
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


def graphs_with_masks(results: Results) -> str:
    """Says that graphs with and without an attention mask were put together; empty where none were."""
    tenants = pd.concat([results.data.tenants, results.alone.runs], ignore_index=True)
    tenants = tenants.reindex(columns=["record_id", "execution", "role", "start_time"])
    graphs = tenants[tenants["execution"].isin(["cuda_graph", "compile"]) & (tenants["role"] != "stressor")]
    if graphs.empty:
        return ""
    began = pd.to_datetime(graphs["start_time"], utc=True)
    older = dict(zip(graphs["record_id"].astype(str), began < _NO_MASKS, strict=True))
    pooled = [*results.points["records"], *([own for own, _ in group] for group in results.alone.groups.values())]
    mixed = sum(len({older[str(record)] for record in records if str(record) in older}) > 1 for records in pooled)
    if not mixed:
        return ""
    return (
        f"Runs from before and after {_NO_MASKS:%d %B %Y} are put together in {counted(mixed, 'point')} of CUDA graphs "
        "or compiled models: the earlier ones may have an attention mask, with which a request takes up to 2.5 times "
        "as long."
    )


def _alone_name(row: dict[str, Any]) -> str:
    unusual = [str(row[name]) for name in ("workload", "execution") if row[name] not in ("forward", "eager")]
    return " ".join([str(row["model"]), *unusual])

"""The first screen of a report: one sentence of advice, four tiles, who slows whom, and how far to trust it.

Lives here: :func:`summary`, from :class:`analysis.pooling.Results` to plain texts and cells. May touch: nothing outside
its arguments. Every figure comes from :mod:`analysis.tables` and :mod:`analysis.findings`; nothing is computed anew but
averages, which are geometric means over mixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from mtexp.commands import command_line
from mtexp.metrics.bootstrap import Interval
from mtexp.metrics.repeats import Estimate, geometric_mean
from mtexp.text_tables import counted, rounded

from . import tables
from .answers import MPS, TURNS, Judge, gains
from .caveats import graphs_with_masks
from .findings import claim_limit
from .frames import rows_of
from .intervals import text
from .modes import fairness_against_turns
from .page import number
from .plots import theme
from .pooling import Results, in_order
from .sentences import of_capacity

_LOUD_PCT, _QUIET_PCT = 10.0, 5.0
"""Runs of the same thing that lie further apart (median) make trust low; nearer, high."""
_MANY_INVALID = 0.1


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the first screen."""

    title: str
    value: str
    interval: str = ""
    note: str = ""
    tone: str = ""
    """``good``, ``bad`` or nothing."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a heat map."""

    text: str
    hover: str
    colour: str
    ink: str


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Slowdown of each model (row) beside each other (column) under one sharing mode."""

    sharing: str
    neighbours: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a reader sees first."""

    advice: str
    caveats: tuple[str, ...]
    tiles: tuple[Tile, ...]
    maps: tuple[HeatMap, ...]
    """One a sharing mode, those with most pairs first."""


@lru_cache(maxsize=2)  # a report asks for it several times, and it takes seconds
def summary(results: Results) -> Summary:
    """Return the first screen of the report of ``results``."""
    judge = Judge(claim_limit(results)[0])
    found = tables.combinations(results, judge.limit)
    cpu = bool((results.data.runs["runtime"] == "cpu").any())
    advice = _advice(results, judge, found)
    alone = _alone(results) if found.empty else []
    pairs = alone or _best_and_worst(results, found[found["num_tenants"] == 2])
    return Summary(
        advice=f"On this CPU (sharing modes are nominal): {advice}" if cpu else advice,
        caveats=tuple(caveats(results)),
        tiles=(_gain(results, judge, found), *pairs, _trust(results)),
        maps=tuple(heat_maps(results)),
    )


# --- advice -----------------------------------------------------------------------------------------------------------


def _advice(results: Results, judge: Judge, found: pd.DataFrame) -> str:
    known = [gain for sharing in results.sharings if (gain := mode_gain(results, sharing)) is not None]
    if known:
        return _mode_advice(results, known, judge, found)
    if len(found):
        return _mix_advice(rows_of(found)[0])
    if searched := of_capacity(results):
        return searched
    load = tables.load_curve(results)
    if len(load):
        return _load_advice(load)
    alone = tables.baselines(results)
    if len(alone):
        row = rows_of(alone)[0]
        took = f"{row['model']} alone takes {rounded(row['latency_mean_ms'], 3)} ms a request"
        return f"{took}; nothing was measured together."
    return "Nothing was measured together, so there is nothing to advise."


@dataclass(frozen=True, slots=True)
class Gain:
    """STP of a sharing mode against time slicing on the same mixes."""

    sharing: str
    ratio: Estimate
    mixes: int
    priced: bool
    """What the mode itself costs is in it."""


def mode_gain(results: Results, sharing: str) -> Gain | None:
    """STP against time slicing, geometric mean over the mixes measured both ways; None where there are none."""
    pairs, priced = gains(results, sharing) if sharing != TURNS else ([], True)
    if not pairs:
        return None
    return Gain(sharing, geometric_mean([ratio for _, ratio in pairs]), len(pairs), priced)


def _mode_advice(results: Results, gains_of: Sequence[Gain], judge: Judge, found: pd.DataFrame) -> str:
    """Advice between sharing modes: that with most mixes decides, so that no mode wins by a lucky few."""
    gain = max(gains_of, key=lambda own: (own.mixes, own.sharing == MPS))
    mixes = f"over {gain.mixes} mixes" if gain.mixes > 1 else "one mix"
    priced = "" if gain.priced else ", without what the mode itself costs"
    times = f"{text(gain.ratio.interval)} times as much done as time slicing ({mixes}{priced})"
    price = _price(results, gain.sharing, found)
    if not judge.differs(gain.ratio):
        return (
            f"{gain.sharing} or time slicing: neither clearly gets more done here; {gain.sharing} gets {times}, so "
            f"choose by who may be slowed.{price}"
        )
    if gain.ratio.value > 1:
        return f"Share with {gain.sharing}: it gets {times}.{price}"
    return f"Do not share with {gain.sharing}: it gets only {times}."


def _price(results: Results, sharing: str, found: pd.DataFrame) -> str:
    """What tenants pay for a sharing mode: its fairness, and the tenant that is slowed most; empty where not known."""
    parts = []
    if (compared := fairness_against_turns(results, sharing)) is not None:
        after, before, _ = compared
        ends = f"{text(after.interval)}, that of time slicing {text(before.interval)}"
        parts.append(f"its fairness is {ends} (1 = all slowed alike)")
    own = rows_of(found[found["sharing"] == sharing].sort_values("worst_slowdown"))
    if own:
        row = own[-1]
        slowed = text(Interval(*(row[name] for name in tables.with_intervals(("worst_slowdown",)))))
        alone = f"alone without {sharing}" if tables.compared_within_mode(results, sharing) else "alone"
        parts.append(f"slowed most is {row['worst']} in {row['mix']}, {slowed} times against {alone}")
    return f" The price: {'; '.join(parts)}." if parts else ""


def _mix_advice(best: dict[str, Any]) -> str:
    """Advice on the best combination, where there is only one sharing mode."""
    stp = text(Interval(*(best[name] for name in tables.with_intervals(("stp",)))))
    slowed = text(Interval(*(best[name] for name in tables.with_intervals(("worst_slowdown",)))))
    name, tenants = f"{best['mix']} under {best['sharing']}", best["num_tenants"]
    outcome = (
        f"STP {stp} of {tenants}, where 1 is taking turns; {best['worst']}, slowed most, takes {slowed} times as long"
    )
    if best["pays"] == "yes":
        return f"Run {name} together: {outcome}."
    if best["pays"] == "no":
        return f"Run the models of {name} one after the other: {outcome}."
    return f"{name} neither clearly gains nor loses by sharing: {outcome}."


def _load_advice(load: pd.DataFrame) -> str:
    late, kept = load[load["saturated"] == 1], load[load["saturated"] != 1]
    if kept.empty:
        row = rows_of(late)[0]
        return f"{row['model']} cannot keep up with {rounded(row['offered_rps'], 3)} requests/s under {row['sharing']}."
    row = rows_of(kept.sort_values("offered_rps"))[-1]
    name = next((n for n in ("p99", "p95", "p90", "p50") if pd.notna(row.get(f"latency_{n}_ms"))), "")
    at = f"its {name} is {number(row[f'latency_{name}_ms'])} ms" if name else "with too few requests for a percentile"
    beside = "alone" if row["neighbours"] == "alone" else f"beside {row['neighbours']}"
    alike = ["model", "neighbours", "sharing"]
    more = late[(late[alike] == pd.Series(row)[alike]).all(axis=1)]["offered_rps"].min()
    most = f"and not with {rounded(more, 3)}" if more > row["offered_rps"] else "the most that was asked of it"
    level = f", its level {row['slo_ms']:g} ms" if name and pd.notna(row.get("slo_ms")) else ""
    return (
        f"{row['model']} {beside} under {row['sharing']} keeps up with {rounded(row['offered_rps'], 3)} requests/s, "
        f"{most}: {at}{level}."
    )


# --- caveats ----------------------------------------------------------------------------------------------------------


def caveats(results: Results) -> list[str]:
    """What a reader must know before believing a figure."""
    data, found = results.data, []
    if (data.runs["runtime"] == "cpu").any():
        found.append(
            "Made on a CPU with shrunken models: this shows that everything works, not what a GPU does. "
            "The sharing modes are nominal there."
        )
    once, points = int((results.points["repetitions"] < 2).sum()), len(results.points)
    if not results.repeated:
        found.append(
            "Nothing was measured twice: intervals hold the noise inside a run, not how runs differ. "
            "Measure what matters with repetitions=3."
        )
    elif once:
        found.append(
            f"{once} of {points} points were run once: how much such runs differ is estimated from similar runs."
        )
    kept = int((data.runs["verdict"] != "VALID").sum())
    total = len(data.runs) + len(data.invalid) - kept
    if kept:
        found.append(f"In these figures because they were asked for: {counted(kept, 'INVALID run')}.")
    if left_out := len(data.invalid) - kept:
        share = 100 * left_out / total
        runs = counted(left_out, "INVALID run")
        found.append(
            f"Left out of every figure: {runs} of {total} ({share:.0f} %); reasons and remedies are under Verdicts."
        )
    if len(results.impossible):
        which = counted(len(results.impossible), "point")
        found.append(f"Left out of every figure because sharing cannot give it: {which}; see Impossible points.")
    if mixed := graphs_with_masks(results):
        found.append(mixed)
    capped, low = tables.power_limited(results)
    if capped:
        found.append(
            f"The power cap lowered the clocks in {capped} of {len(data.runs)} runs (in {low} below 95 % of the median "
            "clock): part of a slowdown there is the cap."
        )
    alone = tables.without_baseline(results)
    if len(alone):
        names = [str(mix) for mix in alone["mix"].unique()]
        named = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        found.append(
            f"Without a baseline of every tenant, so without slowdown, STP or fairness: {counted(len(alone), 'point')} "
            f"({named}). Measure again with baseline=auto."
        )
    return found


# --- tiles ------------------------------------------------------------------------------------------------------------


def _gain(results: Results, judge: Judge, found: pd.DataFrame) -> Tile:
    gain = mode_gain(results, MPS)
    if gain is not None:
        interval = gain.ratio.interval
        sure = judge.differs(gain.ratio)
        tone = ("good" if gain.ratio.value > 1 else "bad") if sure else ""
        note = f"times the STP of time slicing, over {counted(gain.mixes, 'mix')}"
        note += "" if gain.priced else "; without what the mode itself costs"
        return Tile("What MPS gains", f"×{interval.value:.2f}", _ends(interval), note, tone)
    if found.empty:
        how = f"{command_line('run')} -m mix=pair mps_settings=disabled,default"
        return Tile("What MPS gains", "not measured", "", f"needs one mix under both, e.g. {how}")
    best = rows_of(found)[0]
    stp = Interval(*(best[name] for name in tables.with_intervals(("stp",))))
    note = f"STP of {best['num_tenants']} by {best['mix']} under {best['sharing']}; 1 = taking turns. "
    note += "MPS and time slicing were not compared"
    return Tile(
        "What sharing gains", f"{stp.value:.2f}", _ends(stp), note, {"yes": "good", "no": "bad"}.get(best["pays"], "")
    )


def _best_and_worst(results: Results, pairs: pd.DataFrame) -> tuple[Tile, Tile]:
    """The best and the worst pair; of a single combination, what each of its tenants pays."""
    if pairs.empty:
        how = f"{command_line('run')} -m +experiment=pairs"
        needed = Tile("Best pair by STP", "not measured", "", f"needs pairs, e.g. {how}")
        return needed, Tile("Worst pair by STP", "not measured")
    real = pairs[~pairs["above_ideal"]]
    pairs = real if len(real) else pairs
    if len(pairs) == 1:
        both = rows_of(results.tenants[results.tenants["point"] == pairs["point"].iloc[0]])
        first, second = (_slowed(results, tenant) for tenant in both)
        return first, second
    best = rows_of(pairs)[0]
    worst = rows_of(pairs.sort_values("stp_ci_high"))[0]
    if worst["point"] == best["point"]:
        alike = f"the intervals of {len(pairs)} pairs do not tell them apart"
        return _pair_tile("Best pair by STP", best), Tile("Worst pair by STP", "not clear", "", alike)
    return _pair_tile("Best pair by STP", best), _pair_tile("Worst pair by STP", worst)


def _alone(results: Results) -> list[Tile]:
    """The first two models alone, where nothing was measured together."""
    rows = rows_of(tables.baselines(results).drop_duplicates("model"))[:2]
    names = tables.with_intervals(("latency_mean_ms",))
    tiles = []
    for row in rows:
        ends = Interval(*(row[name] for name in names))
        note = f"a request, on average; {rounded(row['throughput_rps'], 3)} requests/s"
        tiles.append(Tile(f"{row['model']} alone", f"{rounded(ends.value, 3)} ms", _ends(ends), note))
    return tiles


def _pair_tile(title: str, row: dict[str, Any]) -> Tile:
    stp = Interval(*(row[name] for name in tables.with_intervals(("stp",))))
    slowed = Interval(*(row[name] for name in tables.with_intervals(("worst_slowdown",))))
    note = f"STP {text(stp)} of 2 under {row['sharing']}; {row['worst']} is slowed most: {text(slowed)} times"
    return Tile(title, str(row["mix"]).replace("+", " + "), "", note, {"yes": "good", "no": "bad"}.get(row["pays"], ""))


def _slowed(results: Results, tenant: dict[str, Any]) -> Tile:
    figure = results.figure(tenant, "slowdown")
    title = f"{tenant['label']} pays"
    if figure is None:
        return Tile(title, "not known", "", "has no baseline")
    return Tile(title, f"×{figure.value:.2f}", _ends(figure.interval), "of its mean latency alone")


def _ends(interval: Interval) -> str:
    return text(interval).partition(" ")[2] if np.isfinite(interval.high) else ""


def _trust(results: Results) -> Tile:
    """How far to trust the page: how far runs of the same thing lie apart, how many were repeated, how many failed."""
    data = results.data
    spreads = results.tenants["spread_pct"].dropna() if "spread_pct" in results.tenants else pd.Series(dtype=float)
    once = int((results.points["repetitions"] < 2).sum())
    kept = int((data.runs["verdict"] != "VALID").sum())
    total = len(data.runs) + len(data.invalid) - kept
    invalid = len(data.invalid) / max(total, 1)
    repeated = f"{once} of {len(results.points)} points measured once"
    if spreads.empty:
        median = np.inf
        note = f"{repeated}: how far runs differ is not known"
    else:
        median = float(spreads.median())
        note = f"repetitions differ by {median:.0f} % (median), {spreads.max():.0f} % at most; {repeated}"
    if invalid > 0:
        note += f"; {100 * invalid:.0f} % of runs INVALID"
    if (data.runs["runtime"] == "cpu").any() or median > _LOUD_PCT or invalid > _MANY_INVALID:
        return Tile("How far to trust it", "Little", "", note, "bad")
    if median < _QUIET_PCT and not once:
        return Tile("How far to trust it", "Well", "", note, "good")
    return Tile("How far to trust it", "Fairly", "", note)


# --- who slows whom ---------------------------------------------------------------------------------------------------


def heat_maps(results: Results) -> list[HeatMap]:
    """One map a sharing mode that has pairs, those with most pairs first and time slicing before MPS."""
    found = tables.matrix_pairs(results)
    if found.empty:
        return []
    counts = found["sharing"].value_counts()
    sharings = sorted(in_order(counts.index.to_numpy()), key=lambda sharing: -int(counts[sharing]))
    scale = theme.slowdown_colours(found["slowdown"].min(), found["slowdown"].max())
    return [_map(found[found["sharing"] == sharing], sharing, scale) for sharing in sharings]


def _map(found: pd.DataFrame, sharing: str, scale: dict[str, Any]) -> HeatMap:
    victims, neighbours = tables.in_kind_order(found)
    cells = {(row["victim"], row["neighbour"]): row for row in rows_of(found)}
    rows = tuple((v, tuple(_cell(cells.get((v, n)), v, n, scale) for n in neighbours)) for v in victims)
    return HeatMap(sharing, tuple(neighbours), rows)


def _cell(row: dict[str, Any] | None, victim: str, neighbour: str, scale: dict[str, Any]) -> Cell:
    if row is None:
        return Cell("", f"{victim} beside {neighbour}: not measured", "#F5F7FA", theme.INK)
    level = float(np.log2(row["slowdown"]))
    colour = theme.colour_at(scale, level)
    dark = abs(level) > 0.75 * max(-scale["cmin"], scale["cmax"])
    hover = f"{victim} beside {neighbour}: {theme.interval_text(row, 'slowdown', 2)} times as long as alone"
    return Cell(f"{row['slowdown']:.2f}", hover, colour, "#FFFFFF" if dark else theme.INK)

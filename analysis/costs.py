"""What sharing costs or saves beside time: energy against taking turns, latency against the load.

Lives here: two questions of :mod:`analysis.findings`, and :func:`energy_against_turns`. May touch: nothing outside its
arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.bootstrap import Interval
from mtexp.metrics.latency import percentile_name
from mtexp.metrics.repeats import Estimate, geometric_mean
from mtexp.text_tables import rounded

from . import tables
from .answers import TURNS, Answer, Judge, comparable, missing, over
from .frames import rows_of
from .intervals import text
from .pooling import Results

ENERGY = "energy_ratio"
_TAILS = (99.0, 95.0, 90.0)


def energy_ratios(results: Results) -> list[tuple[dict[str, Any], Estimate]]:
    """Points with two tenants or more, and the energy of their requests against that of taking turns.

    Taking turns: the same requests in the same proportion, each served by its tenant alone on the device (a run of one
    tenant under time slicing). Points without such runs of all their tenants are left out.
    """
    alone = _alone_j(results)
    found = []
    for sharing in results.sharings:
        for point, _, energy in comparable(results, sharing, "energy_j_per_request"):
            own = results.tenants[results.tenants["point"] == point["point"]]
            rates = own["throughput_rps"].to_numpy(np.float64)
            labels = own["label"].astype(str).tolist()
            if not set(labels) <= set(alone) or not np.isfinite(rates).all():
                continue
            shares = rates / rates.sum()
            parts = [(share, alone[label]) for share, label in zip(shares, labels, strict=True)]
            value = sum(share * one.value for share, one in parts)
            drawn = np.sum([share * one.value * np.exp(one.errors) for share, one in parts], axis=0)
            found.append((point, energy / Estimate.of(value, drawn)))
    return found


def _alone_j(results: Results) -> dict[str, Estimate]:
    """Energy of a request of each tenant that was run alone under time slicing, J, by label."""
    points = results.points
    single = points[(points["num_tenants"] == 1) & points["closed"] & (points["sharing"] == TURNS)]
    found = {str(row["labels"][0]): results.figure(row, "energy_j_per_request") for row in rows_of(single)}
    return {label: one for label, one in found.items() if one is not None}


def energy_against_turns(results: Results) -> pd.DataFrame:
    """One row per point of :func:`energy_ratios`: ``energy_ratio`` with its interval; below 1 sharing saves energy."""
    rows = []
    for point, ratio in energy_ratios(results):
        interval = ratio.interval
        known = (interval.low, interval.high) if np.isfinite(interval.high) else (np.nan, np.nan)
        ends = dict(zip(tables.with_intervals((ENERGY,)), (interval.value, *known), strict=True))
        rows.append({name: point[name] for name in ("point", "mix", "sharing", "num_tenants")} | ends)
    columns = ["point", "mix", "sharing", "num_tenants", *tables.with_intervals((ENERGY,))]
    return pd.DataFrame(rows, columns=columns)


def does_sharing_save_energy(results: Results, judge: Judge) -> Iterable[Answer]:
    """Energy of a request against the same requests served in turns, by sharing mode."""
    question = "Does sharing save energy?"
    found = energy_ratios(results)
    for sharing in results.sharings:
        own = [ratio for point, ratio in found if point["sharing"] == sharing]
        if not own:
            continue
        average = geometric_mean(own)
        claimed = judge.differs(average)
        word = ("less" if average.value < 1 else "more") if claimed else "not clearly less or more"
        yield Answer(
            question,
            f"Under {sharing} a request takes {word} energy than in turns: "
            f"{_with_interval(average)} times {over(own)}.",
            claimed,
            average.interval,
        )
    if not found:
        yield missing(question, "mixes on a GPU, and each of their models alone as a mix", "mix=bert_base,pair")


def _with_interval(figure: Estimate) -> str:
    """The figure with its interval; alone where its error is not known (no sampled power beside the counter)."""
    return text(figure.interval) if np.isfinite(figure.interval.high) else f"{figure.value:.2f} (error not known)"


def how_does_load_cost(results: Results, judge: Judge) -> Iterable[Answer]:
    """Latency of each tenant in open loop at the lowest and at the highest load that it kept up with."""
    question = "How does latency grow with load?"
    frame = tables.load_curve(results)
    if frame.empty:
        yield missing(question, "requests in open loop", "mix=pair arrival=poisson arrival.load=0.3,0.6")
        return
    for (model, neighbours), both in frame.groupby(["model", "neighbours"], observed=True):
        beside, name = neighbours if neighbours == "alone" else f"beside {neighbours}", tail_of(both)
        for sharing, own in both.groupby("sharing", observed=True):
            course = _course(own.sort_values("offered_rps"), name)
            yield Answer(question, f"{model} {beside} under {sharing}: {course}.", False)


def tail_of(rows: pd.DataFrame) -> str:
    """The highest percentile that all rows support of those that keep up with their load: ``p99`` ... ``p50``."""
    kept = rows[rows["saturated"] != 1]
    names = [percentile_name(percent) for percent in _TAILS]
    return next((name for name in names if len(kept) and kept[f"latency_{name}_ms"].notna().all()), "p50")


def _course(own: pd.DataFrame, name: str) -> str:
    """What a tenant's latency does from the lowest to the highest load, in words."""
    late = own[own["saturated"] == 1]
    kept = own[own["saturated"] != 1]
    known = rows_of(kept.dropna(subset=f"latency_{name}_ms"))
    said = " to ".join(_at(row, name) for row in (known[:1] + known[1:][-1:]))
    if len(late):
        lost = f"it cannot keep up with {rounded(late['offered_rps'].min(), 3)} requests/s"
        said = f"{said}, and {lost}" if said else lost
    return said or "too few requests for a percentile"


def _at(row: Mapping[str, Any], name: str) -> str:
    level = row.get("slo_ms")
    against = f" (level {level:g} ms)" if level is not None and pd.notna(level) and level > 0 else ""
    mean = Interval(*(row.get(key, np.nan) for key in tables.with_intervals(("latency_mean_ms",))))
    means = f"mean {text(mean)} ms, " if np.isfinite([mean.value, mean.low, mean.high]).all() else ""
    return f"{means}{name} {row[f'latency_{name}_ms']:.1f} ms at {rounded(row['offered_rps'], 3)} requests/s{against}"

"""Points of a study: the runs that measured the same thing, and the means over them.

Lives here: :class:`Repetitions`, :func:`points_of`. May touch: nothing outside its arguments. Whole columns are worked
on at once: a study has thousands of figures, and taking each from a frame of its own takes seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mtexp.records import keys

from .baseline_runs import BaselineRuns
from .frames import rows_of

_LATENCIES = ("latency_", "slowdown", "tail_inflation", "wait_", "ttft_", "tpot_", "spread_")
_KEPT = (
    *("workload", "batch_size", "seq_len", "new_tokens", "precision", "execution", "attn_implementation", "arrival"),
    "active_thread_pct",
)
"""Parameters of a tenant that its point has too."""


Repetition = tuple[int, list[int]]
"""A run and its tenants: the places of their rows."""


@dataclass(frozen=True, eq=False)
class Repetitions:
    """Runs by what was measured."""

    runs: pd.DataFrame
    """One row per run, with ``sharing_name``."""
    tenants: pd.DataFrame
    """One row per tenant of them, with ``label`` and ``setting``."""
    members: Mapping[tuple[Any, ...], Sequence[Repetition]]
    """The runs of each point, in the order measured."""


def points_of(repeated: Repetitions, alone: BaselineRuns) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points and their tenants with means over repetitions, and what each tenant is compared with."""
    members = list(repeated.members.values())
    if not members:
        return pd.DataFrame(), pd.DataFrame()
    runs, tenants = repeated.runs, _pooled_tenants(repeated, members, alone)
    first = runs.iloc[[own[0][0] for own in members]]
    by_point = [own for _, own in tenants.groupby("point")]
    labels = [own["label"].tolist() for own in by_point]
    models = [own["model"].tolist() for own in by_point]
    valid = (runs["verdict"] == "VALID").fillna(False).to_numpy(bool)
    points = pd.DataFrame(
        {
            "point": range(len(members)),
            "mix": [_mix_name(str(mix), *own) for mix, *own in zip(first["mix"], labels, models, strict=True)],
            "sharing": first["sharing_name"].tolist(),
            "num_tenants": [len(own) for own in labels],
            "models": list(map(tuple, models)),
            "labels": list(map(tuple, labels)),
            "roles": [tuple(own["role"]) if "role" in repeated.tenants else ("",) * len(own) for own in by_point],
            "records": [own["records"].iloc[0] for own in by_point],
            "repetitions": [len(own) for own in members],
            "closed": first["arrival"].astype(str).to_numpy() == "closed" if "arrival" in first else True,
            "verdict": ["VALID" if valid[[run for run, _ in own]].all() else "INVALID" for own in members],
        }
    )
    means = _means(runs, [[run for run, _ in own] for own in members])
    if "spread_pct" in tenants:
        means["spread_pct"] = [own["spread_pct"].max() for own in by_point]
    return pd.concat([points, means], axis=1), tenants


def _pooled_tenants(
    repeated: Repetitions, members: Sequence[Sequence[Repetition]], alone: BaselineRuns
) -> pd.DataFrame:
    """The tenants of all points, each with its means; of one that could not keep up in some run there is no latency."""
    frame = repeated.tenants
    groups = [rows for own in members for rows in zip(*(places for _, places in own), strict=True)]
    means = _means(frame, groups)
    if "saturated" in means:
        behind = means["saturated"].fillna(0) != 0
        for name in (name for name in means if str(name).startswith(_LATENCIES)):
            means[name] = means[name].mask(behind)
        means["saturated"] = means["saturated"].mask(behind, 1.0)
    first = frame.reindex(columns=["tenant", "model", "label", "role", *_KEPT]).iloc[[rows[0] for rows in groups]]
    places = [(number, place) for number, own in enumerate(members) for place in range(len(own[0][1]))]
    found = pd.concat(
        [
            pd.DataFrame(places, columns=["point", "position"]),
            first.reset_index(drop=True),
            means.dropna(axis=1, how="all"),
        ],
        axis=1,
    )
    records, ids = (frame[name].astype(str).tolist() for name in ("record_id", "tenant"))
    fewest = frame["iterations_in_window"].to_numpy(np.float64)
    names = frame.reindex(columns=["record_id", "baseline_hash", "arrival"]).fillna({"arrival": "closed"})
    compared = [alone.compared(row) for row in rows_of(names)]
    more = {
        "records": [tuple(records[row] for row in rows) for rows in groups],
        "ids": [tuple(ids[row] for row in rows) for rows in groups],
        "iterations_fewest": [np.fmin.reduce(fewest[list(rows)]) for rows in groups],
        "compared": [tuple(compared[row] for row in rows) for rows in groups],
    }
    return found.assign(**more)


def _mix_name(mix: str, labels: Sequence[str], models: Sequence[str]) -> str:
    """The mix's name; where its tenants do something unusual, what they are instead."""
    if labels == models:
        return mix
    counts = Counter(labels)
    return " + ".join(label if count == 1 else f"{label} x{count}" for label, count in counts.items())


def _means(frame: pd.DataFrame, groups: Sequence[Sequence[int]]) -> pd.DataFrame:
    """Mean of every metric over the rows of each group, and how far they lie apart; without metrics that none has."""
    names = [str(name) for name in frame if name in keys.METRICS and pd.api.types.is_numeric_dtype(frame[name])]
    values = frame[names].astype(np.float64).to_numpy()[np.concatenate(groups)]
    sizes = np.array([len(rows) for rows in groups])
    starts = np.cumsum(sizes) - sizes
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means = np.add.reduceat(np.where(there, values, 0.0), starts) / np.add.reduceat(there, starts, dtype=np.float64)
    found = pd.DataFrame(np.where(np.isfinite(means), means, np.nan), columns=names)
    if "latency_mean_ms" in names:
        latencies = values[:, names.index("latency_mean_ms")]
        apart = np.maximum.reduceat(latencies, starts) - np.minimum.reduceat(latencies, starts)
        found["spread_pct"] = (100 * apart / found["latency_mean_ms"]).where(sizes > 1)
    return found.dropna(axis=1, how="all")

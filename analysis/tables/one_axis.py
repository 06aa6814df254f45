"""The same mixes under every sharing mode, at equal SMs: a row for each tenant and mode."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from ..frames import rows_of
from ..pooling import Results, in_order
from .columns import on_whole_device, with_intervals

FEWEST_MODES = 3
P99 = with_intervals(("slowdown_p99",))


def one_axis(results: Results) -> pd.DataFrame:
    """Mixes measured under three sharing modes or more: ``mix``, ``sharing``, ``model``, mean and p99 slowdown.

    A mode that divides the SMs is included where its tenants have equal shares: other shares are another question.
    Tenants of one model are one row, with the means of their figures and of the ends of their intervals: as wide as if
    they erred together. Modes that were measured side by side have no p99, because theirs compares with alone in the
    same mode.
    """
    points = results.points[results.points["closed"].astype(bool) & (results.points["num_tenants"] > 1)]
    rows: list[dict[str, Any]] = []
    names = with_intervals(("slowdown", "slowdown_p99"))
    shares = results.data.tenants.reindex(columns=["record_id", "partition_sms", "active_thread_pct"])
    by_record = {str(record): own for record, own in shares.groupby("record_id", observed=True)}
    tenants = _on_one_axis(results.tenants).reindex(columns=["point", "model", *names])
    by_point = dict(list(tenants.groupby("point")))
    for point in rows_of(points):
        own, parted = by_point[point["point"]], by_record[str(point["records"][0])]
        if not _equal(parted):
            continue
        counts = Counter(sorted(map(str, point["models"])))
        mix = "+".join(model if count == 1 else f"{model}*{count}" for model, count in counts.items())
        for model, tenants in own.groupby(own["model"].astype(str)):
            values = {name: tenants[name].astype(np.float64).mean(skipna=False) for name in names}
            sms = parted["partition_sms"].iloc[-1]
            where = {"point": point["point"], "mix": mix, "sharing": point["sharing"]}
            rows.append({**where, "model": model, "sms": sms, **values})
    frame = pd.DataFrame(rows, columns=["point", "mix", "sharing", "model", "sms", *names])
    frame = frame.dropna(subset="slowdown").drop_duplicates(["mix", "sharing", "model"])
    if frame.empty:
        return frame
    modes = frame.groupby("mix")["sharing"].transform("nunique")
    with_p99 = frame["slowdown_p99"].notna().groupby([frame["mix"], frame["model"]]).transform("sum")
    frame.loc[with_p99 < FEWEST_MODES, list(P99)] = math.nan
    order = {name: place for place, name in enumerate(in_order(frame["sharing"].unique()))}
    frame = frame.assign(order=frame["sharing"].map(order))[modes >= FEWEST_MODES]
    return frame.sort_values(["mix", "model", "order"], kind="stable").drop(columns="order").reset_index(drop=True)


def _on_one_axis(tenants: pd.DataFrame) -> pd.DataFrame:
    """Tenants with slowdowns against the whole device, without the figures that compare with a share of it."""
    tenants = on_whole_device(tenants, ("slowdown",))
    if "latency_ratio" in tenants:
        beside = tenants["latency_ratio"].notna()
        tenants = tenants.assign(**{name: tenants[name].mask(beside) for name in P99 if name in tenants})
    return tenants


def _equal(tenants: pd.DataFrame) -> bool:
    """Whether all tenants of a run have the same share of the SMs, or none has one."""
    shares = tenants[["partition_sms", "active_thread_pct"]].astype("Float64").fillna(0)
    return all(shares[name].nunique() == 1 for name in shares)

"""Each model alone: how often it was measured, what it takes, how far its runs lie apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.latency import insufficient

from ..baseline_runs import Measured
from ..frames import rows_of
from ..pooling import Results, sharing_name
from .columns import only, with_intervals


def baselines(results: Results) -> pd.DataFrame:
    """Each model alone: how often measured, latency and throughput, how far runs lie apart, how launch-bound it is.

    One row for what was measured in the same way, on any GPU of one kind; runs of one tenant under plain time slicing
    are among its runs. ``sharing`` is there for partitioned baselines: the MPS limits that they were measured under.
    """
    rows = []
    for name, own in results.alone.runs.groupby("group", observed=True, sort=False):
        measured = results.alone.groups[str(name)]
        row: dict[str, Any] = dict(rows_of(own)[0]) | {"runs": len(measured)}
        row |= {key: own[key].mean() for key in _ALONE if key in own}
        plain = row["sharing"] == "processes" and row["mps_settings"] == "disabled"
        row["sharing"] = None if plain else sharing_name(row)
        fewest = int(own["iterations_in_window"].fillna(0).min())
        row |= {f"latency_{percentile}_ms": np.nan for percentile in insufficient(fewest)}
        if (figure := results.latency_alone_ms.get(str(name))) is not None:
            at = figure.interval
            row |= dict(zip(with_intervals(("latency_mean_ms",)), (at.value, at.low, at.high), strict=True))
        row["spread_pct"] = _spread_alone_pct(results, str(name), own)
        rows.append(row)
    columns = [
        *("model", "runs", *with_intervals(("latency_mean_ms",)), "spread_pct", "latency_p50_ms", "latency_p99_ms"),
        *("throughput_rps", "workload", "precision", "execution", "batch_size", "seq_len", "sharing", "iterations"),
        *("role", "gpu_time_mean_ms", "launch_bound_pct", "memory_peak_mib"),
    ]
    return only(pd.DataFrame(rows), columns).sort_values("model", kind="stable", ignore_index=True)


_ALONE = (
    *("latency_mean_ms", "latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "throughput_rps"),
    *("gpu_time_mean_ms", "launch_bound_pct", "memory_peak_mib"),
)


def _spread_alone_pct(results: Results, group: str, own: pd.DataFrame) -> float:
    """How far the runs of a model alone lie apart in mean latency; NaN for one run."""
    latency_ms, figure = own["latency_mean_ms"], results.latency_alone_ms.get(group)
    mean_ms = latency_ms.mean() if figure is None else figure.value
    return 100 * float(np.ptp(latency_ms)) / mean_ms if len(own) > 1 else np.nan


def spreads_alone_pct(results: Results) -> pd.Series[float]:
    """By point: how far runs alone lie apart in mean latency, of the tenant in which they differ most."""
    of_run: dict[Measured, float] = {}
    for name, own in results.alone.runs.groupby("group", observed=True):
        of_run |= dict.fromkeys(results.alone.groups[str(name)], _spread_alone_pct(results, str(name), own))
    compared = results.tenants[["point", "compared"]].explode("compared").explode("compared").dropna()
    return compared["compared"].map(of_run).groupby(compared["point"]).max()


def alone_rps(results: Results, point: int) -> float | None:
    """Requests a second, alone, of the first tenant of a point; None where it was not measured alone."""
    groups = results.tenants.loc[results.tenants["point"] == point, "compared"].iloc[0]
    found = _alone_rows(results, {measured for group in groups for measured in group})
    return float(found["throughput_rps"].mean()) if len(found) else None


def _alone_rows(results: Results, measured: set[Measured]) -> pd.DataFrame:
    """The rows of these runs of models alone."""
    runs = results.alone.runs
    pairs = zip(runs["record_id"].astype(str), runs["tenant"].astype(str), strict=True)
    return runs[np.array([pair in measured for pair in pairs], dtype=bool)]


def busy_alone(results: Results, point: int) -> list[float]:
    """For each tenant of a point, the share of its latency alone in which the device is busy; NaN where unknown."""
    runs = results.alone.runs.reindex(columns=["record_id", "tenant", "launch_bound_pct"])
    launching = {(str(record), str(tenant)): pct for record, tenant, pct in runs.itertuples(index=False)}
    found = []
    for compared in results.tenants.loc[results.tenants["point"] == point, "compared"]:
        own = {measured for group in compared for measured in group}
        found.append(1 - float(pd.Series([launching[m] for m in sorted(own)], dtype=np.float64).mean()) / 100)
    return found

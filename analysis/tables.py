"""Tidy tables of what was measured: one function a table, from :class:`analysis.pooling.Results` to a DataFrame.

Lives here: the tables that figures, findings and the report show. May touch: nothing outside its arguments. Columns are
the keys of :mod:`mtexp.tracking.keys`, intervals ``<key>_ci_low`` and ``<key>_ci_high``; a table with nothing to show
is empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import rows_of
from analysis.pooling import Results, baseline_series, shared_series, sharing_name
from mtexp.metrics.bootstrap import interference_intervals
from mtexp.metrics.latency import insufficient, percentile_name, supported
from mtexp.tracking import keys

TIMER_DRAWS = 1_000
_RUN_KEYS = ("stp", "antt", "jain_fairness", "fairness")


def with_intervals(names: tuple[str, ...]) -> list[str]:
    """Each name, then the ends of its interval."""
    return [column for name in names for column in (name, *keys.interval(name))]


def overview(results: Results) -> pd.DataFrame:
    """One row per point: what it was, how often measured, STP, ANTT, fairness, throughput, energy."""
    columns = [
        *("mix", "sharing", "num_tenants", "repetitions", "verdict", *with_intervals(_RUN_KEYS)),
        *("throughput_rps", "energy_j_per_request", "overlap_pct", "window_s", "kernel_overlap_pct"),
    ]
    return _columns(results.points, columns)


def verdicts(results: Results) -> pd.DataFrame:
    """One row per run: verdict and why; the runs that were left out are among them."""
    runs = pd.concat([results.data.runs, results.data.invalid], ignore_index=True).drop_duplicates("record_id")
    runs["sharing"] = [sharing_name(run) for run in rows_of(runs)]
    columns = ["mix", "sharing", "num_tenants", "repetition", "verdict", "verdict_reasons", "record_id"]
    return _columns(runs, columns).sort_values(["verdict", "mix"], kind="stable", ignore_index=True)


def tenants(results: Results) -> pd.DataFrame:
    """One row per tenant of a point: latency, throughput, slowdown, tail; percentiles only where supported.

    A percentile that rests on too few iterations is NaN.
    """
    points = results.points[["point", "mix", "sharing", "num_tenants", "repetitions"]]
    frame = points.merge(results.tenants, on="point")
    for row, iterations in enumerate(frame["iterations_fewest"]):
        for name in insufficient(int(iterations)):
            key = f"latency_{name}_ms"
            if key in frame:
                frame.loc[row, key] = np.nan
    columns = [
        *("point", "mix", "sharing", "num_tenants", "repetitions", "position", "tenant", "model", "label", "role"),
        *with_intervals(("slowdown", "slowdown_p50", "slowdown_p90", "slowdown_p95", "slowdown_p99")),
        *with_intervals(("tail_inflation", "normalized_progress")),
        *with_intervals(("latency_mean_ms", "wait_mean_ms")),
        *("latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "gpu_time_mean_ms", "gpu_busy_pct"),
        *("throughput_rps", "iterations_fewest", "spread_pct", "slowdown_clock", "slowdown_rest", "launch_bound_pct"),
        *("slowdown_partitioned", "slo_ms", "slo_attainment_pct", "goodput_rps", "offered_rps", "saturated"),
        *("ttft_p50_ms", "tpot_p50_ms", "drift_pct", "memory_peak_mib"),
    ]
    return _columns(frame, columns)


def pairs(results: Results) -> pd.DataFrame:
    """Who slows whom: ``sharing``, ``victim``, ``neighbour`` and the victim's ``slowdown`` with its interval.

    Two tenants of one kind are one row; its value is the mean of their slowdowns (ANTT), with that one's interval.
    """
    rows: list[dict[str, Any]] = []
    for point in rows_of(results.points[results.points["num_tenants"] == 2]):
        both = rows_of(results.tenants[results.tenants["point"] == point["point"]])
        common = {"point": point["point"], "sharing": point["sharing"], "mix": point["mix"]}
        common["closed"] = point["closed"]
        if both[0]["label"] == both[1]["label"]:
            ends = [point.get(name, np.nan) for name in ("antt", *keys.interval("antt"))]
            rows.append(common | _pair(both[0], both[1]) | dict(zip(with_intervals(("slowdown",)), ends, strict=True)))
            continue
        for victim, neighbour in (both, both[::-1]):
            values = {name: victim.get(name, np.nan) for name in with_intervals(("slowdown",))}
            rows.append(common | _pair(victim, neighbour) | values)
    columns = [*("point", "mix", "sharing", "closed", "victim", "neighbour", "model", "neighbour_model", "role")]
    frame = pd.DataFrame(rows, columns=[*columns, "neighbour_role", *with_intervals(("slowdown",))])
    return frame.dropna(subset="slowdown").reset_index(drop=True)


def _pair(victim: dict[str, Any], neighbour: dict[str, Any]) -> dict[str, Any]:
    return {
        "victim": victim["label"],
        "neighbour": neighbour["label"],
        "model": victim["model"],
        "neighbour_model": neighbour["model"],
        "role": victim["role"],
        "neighbour_role": neighbour["role"],
    }


def matrix(results: Results, sharing: str) -> pd.DataFrame:
    """The N by N interference matrix: slowdown of the row's model beside the column's; NaN = not measured."""
    found = matrix_pairs(results)
    found = found[found["sharing"] == sharing]
    return found.pivot_table(index="victim", columns="neighbour", values="slowdown", aggfunc="mean", observed=True)


def matrix_pairs(results: Results) -> pd.DataFrame:
    """Rows of :func:`pairs` of models in closed loop that both do what most tenants here do (same workload ...)."""
    found = pairs(results)
    usual = (found["victim"] == found["model"]) & (found["neighbour"] == found["neighbour_model"])
    return found[usual & found["closed"] & ~_stressed(found)].reset_index(drop=True)


def sensitivity(results: Results) -> pd.DataFrame:
    """Rows of :func:`pairs` whose neighbour is a stressor and whose victim is not."""
    found = pairs(results)
    return found[(found["neighbour_role"] == "stressor") & (found["role"] != "stressor")].reset_index(drop=True)


def _stressed(found: pd.DataFrame) -> pd.Series[bool]:
    return (found["role"] == "stressor") | (found["neighbour_role"] == "stressor")


def scaling(results: Results) -> pd.DataFrame:
    """STP, ANTT and throughput of n tenants of one kind: ``label``, ``sharing``, ``num_tenants``.

    The baseline is the point at one tenant where no run of one tenant was made: its STP and ANTT are 1 by definition.
    """
    points = results.points
    alike = points[[len(set(labels)) == 1 for labels in points["labels"]]].copy()
    alike["label"] = [labels[0] for labels in alike["labels"]]
    alike["model"] = [models[0] for models in alike["models"]]
    several = alike[alike["num_tenants"] > 1]
    rows = rows_of(alike[alike["label"].isin(several["label"])])
    there = {(row["label"], row["sharing"]) for row in rows if row["num_tenants"] == 1}
    for (label, sharing), found in several.groupby(["label", "sharing"], observed=True):
        if (label, sharing) not in there and (alone := _alone_rps(results, int(found["point"].iloc[0]))) is not None:
            one = dict.fromkeys(("stp", "antt"), 1.0) | {"label": label, "sharing": sharing, "num_tenants": 1}
            rows.append(one | {"model": found["model"].iloc[0], "throughput_rps": alone})
    columns = ["label", "model", "sharing", "num_tenants", *with_intervals(("stp", "antt")), "throughput_rps"]
    frame = _columns(pd.DataFrame(rows, columns=None if rows else columns), columns)
    return frame.sort_values(["label", "sharing", "num_tenants"], ignore_index=True)


def _alone_rps(results: Results, point: int) -> float | None:
    wanted = results.tenants.loc[results.tenants["point"] == point, "baseline_record_ids"].iloc[0]
    baselines = results.data.baselines
    found = baselines.loc[baselines["record_id"].isin(wanted), "throughput_rps"]
    return float(found.mean()) if len(found) else None


def event_timer(results: Results) -> pd.DataFrame:
    """The CUDA-event span against the host clock, tenant by tenant of points with two tenants or more.

    ``slowdown`` is what the host clock says, ``timer_slowdown`` what the study's event timer would have said, each with
    its interval; ``hidden_pct`` is the share of latency that the timer does not see (wait / latency).
    """
    rows = []
    crowded = results.points[results.points["num_tenants"] > 1].set_index("point")
    for tenant in rows_of(results.tenants[results.tenants["point"].isin(crowded.index)]):
        if not np.isfinite(tenant.get("gpu_time_mean_ms", np.nan)) or not np.isfinite(tenant.get("slowdown", np.nan)):
            continue
        shared = [series for series in shared_series(results.data, tenant, "gpu_time_ms") if series is not None]
        alone = baseline_series(results.data, tenant["baseline_record_ids"], "gpu_time_ms")
        if not shared or not alone:
            continue
        timer = interference_intervals([[s] for s in shared], [alone], draws=TIMER_DRAWS).tenants[0]["slowdown"]
        point = crowded.loc[tenant["point"]]
        wait = tenant["latency_mean_ms"] - tenant["gpu_time_mean_ms"]
        rows.append(
            {name: point[name] for name in ("mix", "sharing", "num_tenants")}
            | {name: tenant.get(name, np.nan) for name in ("point", "label", "model", *with_intervals(("slowdown",)))}
            | dict(zip(with_intervals(("timer_slowdown",)), (timer.value, timer.low, timer.high), strict=True))
            | {name: tenant[name] for name in ("latency_mean_ms", "gpu_time_mean_ms")}
            | {"wait_mean_ms": wait, "hidden_pct": 100 * wait / tenant["latency_mean_ms"]}
        )
    return pd.DataFrame(rows)


def fairness(results: Results) -> pd.DataFrame:
    """Jain's index and min/max of normalized progress, by mix and sharing, for two tenants or more."""
    found = results.points[results.points["num_tenants"] > 1]
    columns = ["point", "mix", "sharing", "num_tenants", *with_intervals(("jain_fairness", "fairness"))]
    return _columns(found, columns).dropna(subset="fairness").reset_index(drop=True)


def energy(results: Results) -> pd.DataFrame:
    """Energy per request and mean power, by mix and sharing."""
    names = ("energy_j_per_request", "gpu_power_w_mean", "throughput_rps")
    found = _columns(results.points, ["point", "mix", "sharing", "num_tenants", *names])
    return found.dropna(subset="energy_j_per_request").reset_index(drop=True)


def load_curve(results: Results) -> pd.DataFrame:
    """Open-loop tenants: offered rate, latency (mean with interval, supported percentiles), neighbours, saturation."""
    frame = tenants(results)
    frame = frame[frame["offered_rps"].notna()].copy()
    labels = results.points.set_index("point")["models"]
    frame["neighbours"] = [
        " + ".join(m for i, m in enumerate(labels[p]) if i != position) or "alone"
        for p, position in zip(frame["point"], frame["position"], strict=True)
    ]
    order = ["model", "sharing", "neighbours", "offered_rps"]
    return frame.sort_values(order, ignore_index=True)


def highest_percentile(iterations: int) -> str:
    """The highest latency percentile that so many iterations support: ``p99`` ...; empty if none is."""
    found = supported(iterations)
    return percentile_name(found[-1]) if found else ""


def baselines(results: Results) -> pd.DataFrame:
    """One row per baseline: model, workload, latency and throughput alone, how launch-bound it is."""
    columns = [
        *("model", "role", "workload", "precision", "execution", "batch_size", "seq_len"),
        *(*with_intervals(("latency_mean_ms",)), "latency_p50_ms", "latency_p99_ms", "throughput_rps"),
        *("gpu_time_mean_ms", "launch_bound_pct", "memory_peak_mib", "iterations_in_window", "insufficient"),
    ]
    frame = _columns(results.data.baselines, columns)
    for row, iterations in enumerate(frame["iterations_in_window"].fillna(0)):
        for name in insufficient(int(iterations)):
            if f"latency_{name}_ms" in frame:
                frame.loc[row, f"latency_{name}_ms"] = np.nan
    return frame.drop(columns="insufficient").sort_values("model", ignore_index=True)


def without_baseline(results: Results) -> pd.DataFrame:
    """Points in which a tenant was not compared with anything: no slowdown, STP or fairness."""
    found = results.tenants[[not ids for ids in results.tenants["baseline_record_ids"]]]
    return results.points[results.points["point"].isin(found["point"])][["mix", "sharing", "repetitions"]]


def _columns(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Those of ``names``, in that order; a figure that nothing has is a column of NaN."""
    return frame.reindex(columns=names).reset_index(drop=True)

"""Tables with a row a tenant: latency and slowdown, who slows whom, shares, load, swept settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.latency import PERCENTILES, min_iterations, percentile_name
from mtexp.records import keys

from ..estimates import RUN, TIMER
from ..frames import rows_of
from ..pooling import Results
from .columns import closed_points, only, with_intervals


def tenants(results: Results) -> pd.DataFrame:
    """One row per tenant of a point: latency, throughput, slowdown, tail; percentiles only where supported.

    A percentile that rests on too few iterations is NaN.
    """
    points = results.points[["point", "mix", "sharing", "num_tenants", "repetitions"]]
    frame = points.merge(results.tenants, on="point")
    for percentile in PERCENTILES:
        key = f"latency_{percentile_name(percentile)}_ms"
        if key in frame:
            frame[key] = frame[key].where(frame["iterations_fewest"] >= min_iterations(percentile))
    columns = [
        *("point", "mix", "sharing", "num_tenants", "repetitions", "position", "tenant", "model", "label", "role"),
        *with_intervals(("slowdown", "slowdown_p50", "slowdown_p90", "slowdown_p95", "slowdown_p99")),
        *with_intervals(("tail_inflation", "normalized_progress")),
        *with_intervals(("latency_mean_ms",)),
        *("latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms"),
        *("gpu_time_mean_ms", "wait_mean_ms"),
        *("throughput_rps", "iterations_fewest", "spread_pct", "slowdown_clock", "slowdown_rest", "launch_bound_pct"),
        *(
            "service_slowdown",
            *("latency_slowdown", "latency_slowdown_p50", "latency_slowdown_p90"),
            *("latency_slowdown_p95", "latency_slowdown_p99"),
            *("alone_latency_mean_ms", "alone_latency_p50_ms", "alone_latency_p90_ms"),
            *("alone_latency_p95_ms", "alone_latency_p99_ms"),
            "slowdown_partitioned",
            "slo_ms",
            "slo_attainment_pct",
            "goodput_rps",
            "offered_rps",
            "saturated",
        ),
        *("ttft_p50_ms", "tpot_p50_ms", "drift_pct", "memory_peak_mib"),
    ]
    return only(frame, columns)


def pairs(results: Results) -> pd.DataFrame:
    """Who slows whom: ``sharing``, ``victim``, ``neighbour`` and the victim's ``slowdown`` with its interval.

    Two tenants of one kind are one row; its value is the mean of their slowdowns (ANTT), with that one's interval.
    """
    rows: list[dict[str, Any]] = []
    names = ["point", "position", "label", "model", "role", *with_intervals(("slowdown",))]
    tenants: dict[int, list[dict[str, Any]]] = {}
    for row in rows_of(results.tenants.reindex(columns=names)):
        tenants.setdefault(int(row["point"]), []).append(row)
    for point in rows_of(results.points[results.points["num_tenants"] == 2]):
        both = tenants[int(point["point"])]
        common = {"point": point["point"], "position": RUN, "sharing": point["sharing"], "mix": point["mix"]}
        common["closed"] = point["closed"]
        if both[0]["label"] == both[1]["label"]:
            ends = [point.get(name, np.nan) for name in ("antt", *keys.interval("antt"))]
            rows.append(common | _pair(both[0], both[1]) | dict(zip(with_intervals(("slowdown",)), ends, strict=True)))
            continue
        for victim, neighbour in (both, both[::-1]):
            values = {name: victim.get(name, np.nan) for name in with_intervals(("slowdown",))}
            rows.append(common | {"position": victim["position"]} | _pair(victim, neighbour) | values)
    columns = [
        *("point", "position", "mix", "sharing", "closed", "victim", "neighbour", "model", "neighbour_model", "role")
    ]
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


def matrix_pairs(results: Results) -> pd.DataFrame:
    """Rows of :func:`pairs` of models in closed loop that both do what most tenants here do (same workload ...)."""
    found = pairs(results)
    usual = (found["victim"] == found["model"]) & (found["neighbour"] == found["neighbour_model"])
    return found[usual & found["closed"] & ~_stressed(found)].reset_index(drop=True)


_ROLES = {"encoder": 0, "decoder": 1}


def in_kind_order(found: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Victims and neighbours in rows of :func:`pairs`: encoders, decoders, others, by name in each."""

    def ordered(name: str, role: str) -> list[str]:
        kinds = found[[name, role]].drop_duplicates(name).to_numpy()
        return [str(label) for label, _ in sorted(kinds, key=lambda kind: (_ROLES.get(str(kind[1]), 2), str(kind[0])))]

    return ordered("victim", "role"), ordered("neighbour", "neighbour_role")


def sensitivity(results: Results) -> pd.DataFrame:
    """Rows of :func:`pairs` whose neighbour is a stressor and whose victim is not."""
    found = pairs(results)
    return found[(found["neighbour_role"] == "stressor") & (found["role"] != "stressor")].reset_index(drop=True)


def _stressed(found: pd.DataFrame) -> pd.Series[bool]:
    return (found["role"] == "stressor") | (found["neighbour_role"] == "stressor")


def event_timer(results: Results) -> pd.DataFrame:
    """The CUDA-event span against the host clock, tenant by tenant of points with two tenants or more.

    ``slowdown`` is what the host clock says, ``timer_slowdown`` what the study's event timer would have said, each with
    its interval; ``hidden_pct`` is the share of latency that the timer does not see, of geometric
    means over runs.
    """
    crowded = results.points[results.points["num_tenants"] > 1][["point", "mix", "sharing", "num_tenants"]]
    names = ["point", "position", "label", "model", *with_intervals(("slowdown", TIMER))]
    names += ["latency_mean_ms", "gpu_time_mean_ms"]
    found = crowded.merge(results.tenants.reindex(columns=names), on="point").dropna(subset=["slowdown", TIMER])
    found["wait_mean_ms"] = found["latency_mean_ms"] - found["gpu_time_mean_ms"]
    found["hidden_pct"] = 100 * found["wait_mean_ms"] / found["latency_mean_ms"]
    return found.reset_index(drop=True)


def shares(results: Results) -> pd.DataFrame:
    """Tenants of different models under an MPS percentage: slowdown against the device alone and against that share.

    ``place`` says which tenant beside which, with how much of the SMs, and by which setting if that is not a number.
    """
    columns = ["point", "position", "model", "label", "active_thread_pct", *with_intervals(("slowdown",))]
    frame = results.tenants.reindex(columns=[*columns, "slowdown_partitioned"]).dropna(subset="slowdown")
    frame = frame[(frame["active_thread_pct"] > 0) & (frame["active_thread_pct"] <= 100)]
    points = closed_points(results).set_index("point")
    frame = frame[frame["point"].isin(points.index)]
    labels, sharings = points["labels"], points["sharing"]
    frame = frame[np.array([len(set(labels[point])) > 1 for point in frame["point"]], dtype=bool)].copy()
    frame["place"] = [
        f"{row['label']} beside {' + '.join(o for i, o in enumerate(labels[row['point']]) if i != row['position'])}, "
        + (f"{row['active_thread_pct']:g} %" + (" (equal share)" if "equal" in sharings[row["point"]] else ""))
        for row in rows_of(frame)
    ]
    return frame.sort_values(["label", "active_thread_pct"], kind="stable", ignore_index=True)


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


_SWEPT = {"batch_size": "batch size", "seq_len": "sequence length", "new_tokens": "new tokens"}


def by_setting(results: Results) -> pd.DataFrame:
    """Tenants in closed loop whose batch size, sequence length or new tokens was swept, all else equal.

    ``label`` (model and neighbours), ``setting`` and its ``value``, ``sharing``, latency, throughput, slowdown; two
    values or more of each setting. Where several settings were swept, each is shown at the others' most frequent value.
    """
    frame = tenants(results).drop(columns="label")
    kept = results.tenants.reindex(columns=["point", "position", "workload", "precision", "execution", *_SWEPT])
    frame = frame.merge(kept, on=["point", "position"])
    frame = frame[frame["point"].isin(closed_points(results)["point"])]
    models = results.points.set_index("point")["models"]
    others = [
        [str(m) for i, m in enumerate(models[p]) if i != position]
        for p, position in zip(frame["point"], frame["position"], strict=True)
    ]
    frame["label"] = [
        f"{model} beside {' + '.join(own)}" if own else f"{model} alone"
        for model, own in zip(frame["model"], others, strict=True)
    ]
    parts = [_swept(frame, setting) for setting in _SWEPT]
    columns = [
        "label",
        "setting",
        "value",
        "sharing",
        *with_intervals(("latency_mean_ms", "throughput_rps", "slowdown")),
    ]
    found = pd.concat(parts, ignore_index=True) if parts else frame.iloc[:0]
    return only(found, columns)


def _swept(frame: pd.DataFrame, setting: str) -> pd.DataFrame:
    """Rows in which only ``setting`` differs, where it has two values or more under a sharing mode."""
    fixed = [name for name in (*_SWEPT, "workload", "execution", "precision") if name != setting]
    kept = []
    for _, own in frame.groupby(["label", "sharing"], observed=True):
        if own[setting].nunique() < 2:
            continue
        for name in fixed:
            most = own[name].mode()
            own = own[own[name] == most.iloc[0]] if len(most) else own
        own = own.drop_duplicates(setting).dropna(subset=setting)
        if len(own) > 1:
            kept.append(own.assign(setting=_SWEPT[setting], value=pd.to_numeric(own[setting]).astype(np.float64)))
    return pd.concat(kept) if kept else frame.iloc[:0].assign(setting="", value=0.0)

"""Tidy tables of what was measured: one function a table, from :class:`analysis.pooling.Results` to a DataFrame.

Lives here: the tables that figures, findings and the report show. May touch: nothing outside its arguments. Columns are
the keys of :mod:`mtexp.records.keys`, intervals ``<key>_ci_low`` and ``<key>_ci_high``; a table with nothing to show
is empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.bootstrap import LEVEL
from mtexp.metrics.clock import CLOCK_LIMIT
from mtexp.metrics.latency import insufficient
from mtexp.records import keys

from .baseline_runs import Measured
from .estimates import RUN, TIMER
from .frames import rows_of
from .pooling import Results, sharing_name

_RUN_KEYS = ("stp", "antt", "fairness")


def with_intervals(names: tuple[str, ...]) -> list[str]:
    """Each name, then the ends of its interval."""
    return [column for name in names for column in (name, *keys.interval(name))]


def overview(results: Results) -> pd.DataFrame:
    """One row per point: what it was, how often measured, STP, ANTT, fairness, throughput, energy.

    ``power_capped_pct`` is the share of the window in which the power cap lowered the clocks. Points with a tenant in
    open loop have no STP, ANTT or fairness: what they get done is what was asked of them.
    """
    columns = [
        *("mix", "sharing", "num_tenants", "repetitions", "spread_pct", "verdict", *with_intervals(_RUN_KEYS)),
        *with_intervals(("throughput_rps", "energy_j_per_request")),
        *("stp_partitioned", "antt_partitioned", "overlap_pct", "window_s", "power_capped_pct"),
    ]
    frame = _columns(results.points.assign(power_capped_pct=_power_capped_pct(results.points)), columns)
    compared = [*with_intervals(_RUN_KEYS), "stp_partitioned", "antt_partitioned"]
    frame.loc[~results.points["closed"].to_numpy(bool), compared] = np.nan
    return frame


def _power_capped_pct(frame: pd.DataFrame) -> pd.Series[float]:
    """Percent of the window, of runs or points; 0 where the cap did nothing, NaN where the driver does not count it."""
    known = frame.reindex(columns=["gpu_throttled_power_cap_s", "window_s"]).astype(np.float64)
    return (100 * known["gpu_throttled_power_cap_s"] / known["window_s"]).clip(upper=100)


def power_limited(results: Results) -> tuple[int, int]:
    """Runs whose clocks the power cap lowered, and those among them whose SM clock fell below 95 % of its median."""
    runs = results.data.runs
    capped = _power_capped_pct(runs) > 0
    clock = runs.reindex(columns=["gpu_sm_clock_mhz_min", "gpu_sm_clock_mhz_median"]).astype(np.float64)
    low = clock["gpu_sm_clock_mhz_min"] < CLOCK_LIMIT * clock["gpu_sm_clock_mhz_median"]
    return int(capped.sum()), int((capped & low).sum())


def verdicts(results: Results) -> pd.DataFrame:
    """One row per run: verdict and why; the runs that were left out are among them."""
    runs = pd.concat([results.data.runs, results.data.invalid], ignore_index=True).drop_duplicates("record_id")
    runs["sharing"] = [sharing_name(run) for run in rows_of(runs)]
    reasons = {r: p["reason"] for p in rows_of(results.impossible) for r in p["records"]}
    own = runs["record_id"].astype(str).map(reasons)
    if own.notna().any():
        runs["verdict_reasons"] = own.fillna(
            runs.reindex(columns=["verdict_reasons"])["verdict_reasons"].astype(object)
        )
        runs["verdict"] = runs["verdict"].where(own.isna(), "IMPOSSIBLE")
    columns = ["mix", "sharing", "num_tenants", "repetition", "verdict", "verdict_reasons", "record_id"]
    return _columns(runs, columns).sort_values(["verdict", "mix"], kind="stable", ignore_index=True)


def tenants(results: Results) -> pd.DataFrame:
    """One row per tenant of a point: latency, throughput, slowdown, tail; percentiles only where supported.

    A percentile that rests on too few iterations is NaN.
    """
    points = results.points[["point", "mix", "sharing", "num_tenants", "repetitions"]]
    frame = points.merge(results.tenants, on="point")
    for row, iterations in enumerate(frame["iterations_fewest"].fillna(0)):
        for name in insufficient(int(iterations)):
            key = f"latency_{name}_ms"
            if key in frame:
                frame.loc[row, key] = np.nan
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
            "slowdown_partitioned",
            "slo_ms",
            "slo_attainment_pct",
            "goodput_rps",
            "offered_rps",
            "saturated",
        ),
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


def _closed(results: Results) -> pd.DataFrame:
    """Points in closed loop, without stressors: elsewhere what gets done is what was asked for."""
    plain = np.array(["stressor" not in roles for roles in results.points["roles"]], dtype=bool)
    found: pd.DataFrame = results.points[plain & results.points["closed"]]
    return found


def scaling(results: Results) -> pd.DataFrame:
    """STP, ANTT and throughput of n tenants of one kind: ``label``, ``sharing``, ``num_tenants``.

    The baseline is the point at one tenant where no run of one tenant was made: its STP and ANTT are 1 by definition.
    """
    points = _closed(results)
    alike = points[points["labels"].map(lambda labels: len(set(labels)) == 1).astype(bool)].copy()
    alike["label"] = [labels[0] for labels in alike["labels"]]
    alike["model"] = [models[0] for models in alike["models"]]
    several = alike[alike["num_tenants"] > 1]
    rows = rows_of(alike[alike["label"].isin(several["label"])])
    there = {(row["label"], row["sharing"]) for row in rows if row["num_tenants"] == 1}
    for (label, sharing), found in several.groupby(["label", "sharing"], observed=True):
        if (label, sharing) not in there and (alone := _alone_rps(results, int(found["point"].iloc[0]))) is not None:
            one = dict.fromkeys(("stp", "antt"), 1.0) | {"label": label, "sharing": sharing, "num_tenants": 1}
            rows.append(one | {"model": found["model"].iloc[0], "throughput_rps": alone})
    columns = ["point", "label", "model", "sharing", "num_tenants", *with_intervals(("stp", "antt", "throughput_rps"))]
    frame = _columns(pd.DataFrame(rows, columns=None if rows else columns), columns)
    return frame.sort_values(["label", "sharing", "num_tenants"], ignore_index=True)


def _alone_rps(results: Results, point: int) -> float | None:
    groups = results.tenants.loc[results.tenants["point"] == point, "compared"].iloc[0]
    found = alone_rows(results, {measured for group in groups for measured in group})
    return float(found["throughput_rps"].mean()) if len(found) else None


def alone_rows(results: Results, measured: set[Measured]) -> pd.DataFrame:
    """Those of the runs of models alone."""
    runs = results.alone.runs
    pairs = zip(runs["record_id"].astype(str), runs["tenant"].astype(str), strict=True)
    return runs[np.array([pair in measured for pair in pairs], dtype=bool)]


def busy_alone(results: Results, point: int) -> list[float]:
    """Of each tenant of a point the share of its own latency alone in which the device is busy; NaN where unknown."""
    rows = rows_of(results.tenants[results.tenants["point"] == point])
    found = []
    for row in rows:
        own = alone_rows(results, {measured for group in row["compared"] for measured in group})
        found.append(1 - float(own.reindex(columns=["launch_bound_pct"])["launch_bound_pct"].mean()) / 100)
    return found


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


def combinations(results: Results, limit: float = 1 - LEVEL) -> pd.DataFrame:
    """Which mixes pay: mixes of two tenants or more in closed loop, without stressors; the lower end of STP ranks them.

    ``pays``: STP is surely above 1 (``yes``), below (``no``), or neither (``open``); sure is what has a ``p_value``
    of at most ``limit``, set by all claims of a page (:func:`analysis.findings.claim_limit`). ``worst`` is the tenant
    that is slowed most, ``worst_slowdown`` by how much. ``frontier``: no other combination has both a higher lower end
    of STP and a lower upper end of the worst slowdown. ``spread_alone_pct``: how far runs alone of one of its tenants
    lie apart; ``above_ideal``: its STP exceeds its number of tenants, which only baselines that did not repeat can do.
    """
    points = _closed(results)
    points = points[points["num_tenants"] > 1]
    points = points.assign(power_capped_pct=_power_capped_pct(points))
    columns = ["point", "mix", "sharing", "num_tenants", "repetitions", *with_intervals(("stp", "antt"))]
    found = points.reindex(columns=[*columns, "power_capped_pct"]).dropna(subset=with_intervals(("stp",)))
    slowed = results.tenants.reindex(columns=["point", "label", *with_intervals(("slowdown",))]).dropna()
    worst = slowed.sort_values("slowdown").drop_duplicates("point", keep="last")
    worst = worst.rename(columns={"label": "worst"} | {c: f"worst_{c}" for c in with_intervals(("slowdown",))})
    (low, _), (_, worst_high) = keys.interval("stp"), keys.interval("worst_slowdown")
    found = found.merge(worst, on="point")
    found["above_ideal"] = found["stp"] > found["num_tenants"]
    order = ["above_ideal", low]  # what sharing cannot give is never first
    found = found.sort_values(order, ascending=[True, False], kind="stable", ignore_index=True)
    figures = [results.figures[int(point), RUN, "stp"] for point in found["point"]]
    found["p_value"] = [figure.p_value() for figure in figures]
    sure = found["p_value"] <= limit
    found["pays"] = np.where(sure & (found["stp"] > 1), "yes", np.where(sure, "no", "open"))
    found["frontier"] = found[worst_high] < found[worst_high].cummin().shift(fill_value=np.inf)
    found["spread_alone_pct"] = found["point"].map(_spreads_alone_pct(results))
    return found


def _spreads_alone_pct(results: Results) -> pd.Series[float]:
    """By point: how far runs alone lie apart in mean latency, of the tenant in which they differ most."""
    of_run: dict[Measured, float] = {}
    for name, own in results.alone.runs.groupby("group", observed=True):
        of_run |= dict.fromkeys(results.alone.groups[str(name)], _spread_alone_pct(results, str(name), own))
    compared = results.tenants[["point", "compared"]].explode("compared").explode("compared").dropna()
    return compared["compared"].map(of_run).groupby(compared["point"]).max()


def shares(results: Results) -> pd.DataFrame:
    """Tenants of different models under an MPS percentage: slowdown against the device alone and against that share.

    ``place`` says which tenant beside which, with how much of the SMs, and by which setting if that is not a number.
    """
    columns = ["point", "position", "model", "label", "active_thread_pct", *with_intervals(("slowdown",))]
    frame = results.tenants.reindex(columns=[*columns, "slowdown_partitioned"]).dropna(subset="slowdown")
    frame = frame[(frame["active_thread_pct"] > 0) & (frame["active_thread_pct"] <= 100)]
    points = _closed(results).set_index("point")
    frame = frame[frame["point"].isin(points.index)]
    labels, sharings = points["labels"], points["sharing"]
    frame = frame[np.array([len(set(labels[point])) > 1 for point in frame["point"]], dtype=bool)].copy()
    frame["place"] = [
        f"{row['label']} beside {' + '.join(o for i, o in enumerate(labels[row['point']]) if i != row['position'])}, "
        + (f"{row['active_thread_pct']:g} %" + (" (equal share)" if "equal" in sharings[row["point"]] else ""))
        for row in rows_of(frame)
    ]
    return frame.sort_values(["label", "active_thread_pct"], kind="stable", ignore_index=True)


def impossible(results: Results) -> pd.DataFrame:
    """Points that are in no other table or figure because sharing cannot give what they say, and why."""
    columns = ["mix", "sharing", "num_tenants", "repetitions", *with_intervals(("stp",)), "reason"]
    return _columns(results.impossible, columns)


def fairness(results: Results) -> pd.DataFrame:
    """Fairness (min / max normalized progress, the noise taken off), by mix and sharing, for two tenants or more."""
    points = _closed(results)
    found = points[points["num_tenants"] > 1]
    columns = ["point", "mix", "sharing", "num_tenants", *with_intervals(("fairness",))]
    return _columns(found, columns).dropna(subset="fairness").reset_index(drop=True)


def energy(results: Results) -> pd.DataFrame:
    """Energy per request and mean power, by mix and sharing."""
    names = (*with_intervals(("energy_j_per_request",)), "gpu_power_w_mean", "throughput_rps")
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


_SWEPT = {"batch_size": "batch size", "seq_len": "sequence length", "new_tokens": "new tokens"}


def by_setting(results: Results) -> pd.DataFrame:
    """Tenants in closed loop whose batch size, sequence length or new tokens was swept, all else equal.

    ``label`` (model and neighbours), ``setting`` and its ``value``, ``sharing``, latency, throughput, slowdown; two
    values or more of each setting. Where several settings were swept, each is shown at the others' most frequent value.
    """
    frame = tenants(results).drop(columns="label")
    kept = results.tenants.reindex(columns=["point", "position", "workload", "precision", "execution", *_SWEPT])
    frame = frame.merge(kept, on=["point", "position"])
    frame = frame[frame["point"].isin(_closed(results)["point"])]
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
    return _columns(found, columns)


def _swept(frame: pd.DataFrame, setting: str) -> pd.DataFrame:
    """Rows in which only ``setting`` differs, where it has two values or more under a sharing mode."""
    fixed = [name for name in (*_SWEPT, "workload", "execution", "precision") if name != setting]
    kept = []
    for _, own in frame.groupby(["label", "sharing"], observed=True):
        for name in fixed:
            most = own[name].mode()
            own = own[own[name] == most.iloc[0]] if len(most) else own
        own = own.drop_duplicates(setting).dropna(subset=setting)
        if len(own) > 1:
            kept.append(own.assign(setting=_SWEPT[setting], value=pd.to_numeric(own[setting]).astype(np.float64)))
    return pd.concat(kept) if kept else frame.iloc[:0].assign(setting="", value=0.0)


def baselines(results: Results) -> pd.DataFrame:
    """Each model alone: how often measured, latency and throughput, how far runs lie apart, how launch-bound it is.

    One row for what was measured alike, on whichever GPU of a kind; runs of one tenant under plain time slicing are
    among its runs. ``sharing`` is there for partitioned baselines: the MPS limits that they were measured under.
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
        *("model", "role", "workload", "precision", "execution", "batch_size", "seq_len", "sharing", "runs"),
        *(*with_intervals(("latency_mean_ms",)), "spread_pct", "latency_p50_ms", "latency_p99_ms", "throughput_rps"),
        *("gpu_time_mean_ms", "launch_bound_pct", "memory_peak_mib"),
    ]
    return _columns(pd.DataFrame(rows), columns).sort_values("model", kind="stable", ignore_index=True)


def _spread_alone_pct(results: Results, group: str, own: pd.DataFrame) -> float:
    """How far the runs of a model alone lie apart in mean latency; NaN for one run."""
    latency_ms, figure = own["latency_mean_ms"], results.latency_alone_ms.get(group)
    mean_ms = latency_ms.mean() if figure is None else figure.value
    return 100 * float(np.ptp(latency_ms)) / mean_ms if len(own) > 1 else np.nan


_ALONE = (
    *("latency_mean_ms", "latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "throughput_rps"),
    *("gpu_time_mean_ms", "launch_bound_pct", "memory_peak_mib"),
)


def without_baseline(results: Results) -> pd.DataFrame:
    """Points in closed loop in which a tenant was not compared with anything: no slowdown, STP or fairness."""
    found = results.tenants[results.tenants.reindex(columns=["normalized_progress"])["normalized_progress"].isna()]
    mine = results.points["point"].isin(found["point"]) & results.points["closed"].astype(bool)
    return results.points[mine][["mix", "sharing", "repetitions"]]


def _columns(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Those of ``names``, in that order; a figure that nothing has is a column of NaN."""
    return frame.reindex(columns=names).reset_index(drop=True)

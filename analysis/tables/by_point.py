"""Tables with a row a point: overview, verdicts, scaling, combinations, fairness, energy."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mtexp.metrics.bootstrap import LEVEL
from mtexp.metrics.clock import CLOCK_LIMIT
from mtexp.records import keys

from ..frames import rows_of
from ..pooling import Results, sharing_name
from .columns import closed_points, figure_on_whole_device, on_whole_device, only, with_intervals
from .models_alone import alone_rps, spreads_alone_pct

_RUN_KEYS = ("stp", "antt", "fairness")


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
    frame = only(results.points.assign(power_capped_pct=_power_capped_pct(results.points)), columns)
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
    return only(runs, columns).sort_values(["verdict", "mix"], kind="stable", ignore_index=True)


def scaling(results: Results) -> pd.DataFrame:
    """STP, ANTT and throughput of n tenants of one kind: ``label``, ``sharing``, ``num_tenants``.

    The baseline is the point at one tenant where no run of one tenant was made. A tenant that nobody slows has an STP
    and ANTT of 1 by definition; one under a sharing mode has them only where it was compared with its baseline.
    """
    points = closed_points(results)
    alike = points[points["labels"].map(lambda labels: len(set(labels)) == 1).astype(bool)].copy()
    alike["label"] = [labels[0] for labels in alike["labels"]]
    alike["model"] = [models[0] for models in alike["models"]]
    unslowed = _unslowed(results, alike)
    for name in ("stp", "antt"):
        measured = alike.reindex(columns=[name])[name]
        alike[name] = measured.mask(unslowed & measured.isna(), 1.0)
    several = alike[alike["num_tenants"] > 1]
    rows = rows_of(alike[alike["label"].isin(several["label"])])
    there = {(row["label"], row["sharing"]) for row in rows if row["num_tenants"] == 1}
    for (label, sharing), found in several.groupby(["label", "sharing"], observed=True):
        if (label, sharing) not in there and (alone := alone_rps(results, int(found["point"].iloc[0]))) is not None:
            one = dict.fromkeys(("stp", "antt"), 1.0) | {"label": label, "sharing": sharing, "num_tenants": 1}
            rows.append(one | {"model": found["model"].iloc[0], "throughput_rps": alone})
    columns = ["point", "label", "model", "sharing", "num_tenants", *with_intervals(("stp", "antt", "throughput_rps"))]
    frame = only(pd.DataFrame(rows, columns=None if rows else columns), columns)
    return frame.sort_values(["label", "sharing", "num_tenants"], ignore_index=True)


def combinations(results: Results, limit: float = 1 - LEVEL) -> pd.DataFrame:
    """Which mixes pay: mixes of two tenants or more in closed loop, without stressors; the lower end of STP ranks them.

    STP, ANTT and slowdowns compare with alone on the whole device where the runs know it (:func:`on_whole_device`).
    ``pays``: STP is surely above 1 (``yes``), below (``no``), or neither (``open``); sure is what has a ``p_value``
    of at most ``limit``, set by all claims of a page (:func:`analysis.findings.claim_limit`). ``worst`` is the tenant
    that is slowed most, ``worst_slowdown`` by how much. ``frontier``: no other combination has both a higher lower end
    of STP and a lower upper end of the worst slowdown. ``spread_alone_pct``: how far runs alone of one of its tenants
    lie apart; ``above_ideal``: its STP exceeds its number of tenants, which only baselines that did not repeat can do.
    """
    points = closed_points(results)
    points = on_whole_device(points[points["num_tenants"] > 1], ("stp", "antt"))
    points = points.assign(power_capped_pct=_power_capped_pct(points))
    columns = ["point", "mix", "sharing", "num_tenants", "repetitions", *with_intervals(("stp", "antt"))]
    found = points.reindex(columns=[*columns, "power_capped_pct"]).dropna(subset=with_intervals(("stp",)))
    slowed = on_whole_device(results.tenants, ("slowdown",))
    slowed = slowed.reindex(columns=["point", "label", *with_intervals(("slowdown",))]).dropna()
    worst = slowed.sort_values("slowdown").drop_duplicates("point", keep="last")
    worst = worst.rename(columns={"label": "worst"} | {c: f"worst_{c}" for c in with_intervals(("slowdown",))})
    (low, _), (_, worst_high) = keys.interval("stp"), keys.interval("worst_slowdown")
    found = found.merge(worst, on="point")
    found["above_ideal"] = found["stp"] > found["num_tenants"]
    order = ["above_ideal", low]  # what sharing cannot give is never first
    found = found.sort_values(order, ascending=[True, False], kind="stable", ignore_index=True)
    figures = [figure_on_whole_device(results, row, "stp") for row in rows_of(found)]
    found["p_value"] = [1.0 if figure is None else figure.p_value() for figure in figures]
    sure = found["p_value"] <= limit
    found["pays"] = np.where(sure & (found["stp"] > 1), "yes", np.where(sure, "no", "open"))
    found["frontier"] = found[worst_high] < found[worst_high].cummin().shift(fill_value=np.inf)
    found["spread_alone_pct"] = found["point"].map(spreads_alone_pct(results))
    return found


def impossible(results: Results) -> pd.DataFrame:
    """Points that are in no other table or figure because sharing cannot give what they say, and why."""
    columns = ["mix", "sharing", "num_tenants", "repetitions", *with_intervals(("stp",)), "reason"]
    return only(results.impossible, columns)


def fairness(results: Results) -> pd.DataFrame:
    """Fairness (min / max normalized progress, the noise taken off), by mix and sharing, for two tenants or more."""
    points = closed_points(results)
    found = points[points["num_tenants"] > 1]
    columns = ["point", "mix", "sharing", "num_tenants", *with_intervals(("fairness",))]
    return only(found, columns).dropna(subset="fairness").reset_index(drop=True)


def without_baseline(results: Results) -> pd.DataFrame:
    """Points in closed loop in which a tenant lacks a baseline: no slowdown, STP or fairness.

    A tenant that nobody slows lacks none.
    """
    found = results.tenants[results.tenants.reindex(columns=["normalized_progress"])["normalized_progress"].isna()]
    mine = results.points["point"].isin(found["point"]) & results.points["closed"].astype(bool)
    return results.points[mine & ~_unslowed(results, results.points)][["mix", "sharing", "repetitions"]]


def _unslowed(results: Results, points: pd.DataFrame) -> pd.Series[bool]:
    """Which of ``points`` are of one tenant without a sharing mode."""
    runs = results.data.runs
    one = (runs["num_tenants"] == 1) & runs["sharing"].isin(["processes", "mig"]) & (runs["mps_settings"] == "disabled")
    ids = set(runs["record_id"][one.fillna(False).astype(bool)].astype(str))
    return pd.Series([str(records[0]) in ids for records in points["records"]], points.index, dtype=bool)

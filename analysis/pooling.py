"""Repetitions put together: one row per point measured, one per tenant of it, each figure with its interval.

Lives here: :class:`Results`, :func:`pool`, names of points. May touch: nothing outside its arguments. A *point* is what
was measured, whatever it was called and however often: the tenants (model, workload, precision ...) and how they
share. Of a point measured once the figures are those of its run; of several runs they come from
:func:`mtexp.metrics.bootstrap.interference_intervals` over the repetitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.data import Dataset
from analysis.frames import rows_of
from mtexp.metrics.bootstrap import Interval, interference_intervals, percentile_slowdown_intervals
from mtexp.metrics.latency import supported
from mtexp.metrics.window import Series
from mtexp.tracking import keys

DRAWS = 2_000
"""Of the mean figures of a point with repetitions."""
PERCENTILE_DRAWS = 200

_SETTING = ("precision", "workload", "execution", "batch_size", "seq_len", "arrival", "rate_rps", "slo_ms")
"""What makes two tenants of a model different, beside their share of the device."""
_WORK = ("workload", "batch_size", "seq_len")
"""What one request is."""
_MPS = {"default": "MPS", "equal_share": "MPS equal share", "half": "MPS 50 %", "quarter": "MPS 25 %"}
SHARING_ORDER = ("time slicing", "MPS", "MPS equal share", "MPS 50 %", "MPS 25 %", "streams", "MIG")


@dataclass(frozen=True, eq=False)
class Results:
    """What a dataset comes to."""

    data: Dataset
    points: pd.DataFrame
    """One row per point: ``point``, ``mix``, ``sharing``, ``num_tenants``, ``models``, ``records``, ``repetitions``,
    ``closed`` (no tenant in open loop), then run metrics with ``_ci_low`` and ``_ci_high`` where there are any."""
    tenants: pd.DataFrame
    """One row per tenant of a point: ``point``, ``position``, ``model``, ``label``, ``role``, ``workload``,
    ``batch_size``, ``seq_len``, then tenant metrics."""

    @property
    def sharings(self) -> list[str]:
        """How tenants shared, time slicing first."""
        return in_order(self.points["sharing"].unique())


def in_order(sharings: Sequence[str] | np.ndarray[Any, Any]) -> list[str]:
    """``sharings`` in the order in which tables and figures show them."""
    position = {name: index for index, name in enumerate(SHARING_ORDER)}
    return sorted(map(str, sharings), key=lambda name: (position.get(name, len(position)), name))


def sharing_name(run: Mapping[str, Any]) -> str:
    """How the tenants of a run shared the device, as tables and figures call it."""
    if run.get("runtime") == "cpu":
        return f"CPU ({run['mps_settings']})"
    if run["sharing"] != "processes":
        return {"mig": "MIG"}.get(str(run["sharing"]), str(run["sharing"]))
    settings = str(run["mps_settings"])
    if settings == "disabled":
        return "time slicing"
    return _MPS.get(settings) or f"MPS {settings.removesuffix('pct') + ' %' if settings.endswith('pct') else settings}"


def pool(data: Dataset, *, draws: int = DRAWS, seed: int = 0) -> Results:
    """Put the repetitions of each point together.

    Args:
        data: Runs.
        draws: Bootstrap draws for points with repetitions.
        seed: Of the draws.
    """
    tenants = _described(data.tenants)
    runs = data.runs.copy()
    runs["sharing_name"] = [sharing_name(run) for run in rows_of(runs)]
    by_record = {str(record): rows for record, rows in tenants.groupby("record_id", observed=True, sort=False)}
    members: dict[tuple[Any, ...], list[Any]] = {}
    for _, run in runs.sort_values("start_time").iterrows():
        own = by_record.get(str(run["record_id"]))
        if own is not None:
            members.setdefault(_identity(run, own), []).append((run, own))
    points, rows = [], []
    for number, found in enumerate(members.values()):
        point, own = _pooled(data, number, found, draws, seed)
        points.append(point)
        rows.append(own)
    return Results(data, pd.DataFrame(points), pd.concat(rows, ignore_index=True) if rows else tenants)


# --- names ------------------------------------------------------------------------------------------------------------


def _described(tenants: pd.DataFrame) -> pd.DataFrame:
    """Tenants with ``label`` (the model, and what sets it apart from most of the others) and ``setting``."""
    tenants = tenants.copy()
    columns = {name: _texts(tenants, name) for name in _SETTING}
    usual = {name: Counter(texts).most_common(1)[0][0] for name, texts in columns.items() if texts}
    usual["rate_rps"] = usual["slo_ms"] = ""
    labels, settings = [], []
    for row, model in enumerate(tenants["model"]):
        own = {name: texts[row] for name, texts in columns.items()}
        unusual = [_phrase(name, text) for name, text in own.items() if text != usual[name] and name != "slo_ms"]
        labels.append(" ".join([str(model), *(phrase for phrase in unusual if phrase)]))
        settings.append("|".join(own.values()))
    return tenants.assign(label=labels, setting=settings)


def _texts(tenants: pd.DataFrame, name: str) -> list[str]:
    if name not in tenants:
        return [""] * len(tenants)
    values = tenants[name]
    if pd.api.types.is_float_dtype(values):
        return ["" if pd.isna(value) else f"{value:.3g}" for value in values]
    return ["" if pd.isna(value) else str(value) for value in values]


def _phrase(name: str, text: str) -> str:
    named = {"batch_size": f"batch {text}", "seq_len": f"seq {text}", "rate_rps": f"{text}/s" if text else ""}
    return named.get(name, text)


def _identity(run: pd.Series[Any], tenants: pd.DataFrame) -> tuple[Any, ...]:
    percentages = _texts(tenants, "active_thread_pct")
    own = sorted(zip(tenants["model"].astype(str), tenants["setting"], percentages, strict=True))
    return run["sharing_name"], str(run.get("overlap")), tuple(own)


# --- pooling ----------------------------------------------------------------------------------------------------------


def _pooled(
    data: Dataset, number: int, found: Sequence[tuple[pd.Series[Any], pd.DataFrame]], draws: int, seed: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """One point and its tenants, of its runs with their tenants."""
    order = ["model", "setting", "active_thread_pct", "tenant"]
    each = [own.sort_values([c for c in order if c in own], kind="stable") for _, own in found]
    first, runs = found[0][0], pd.DataFrame([run for run, _ in found])
    settings = each[0]["label"].tolist()
    point: dict[str, Any] = {
        "point": number,
        "mix": _mix_name(str(first["mix"]), found[0][1]),
        "sharing": first["sharing_name"],
        "num_tenants": len(settings),
        "models": tuple(each[0]["model"].astype(str)),
        "labels": tuple(settings),
        "roles": tuple(each[0]["role"].astype(str)) if "role" in each[0] else ("",) * len(settings),
        "records": tuple(runs["record_id"].astype(str)),
        "repetitions": len(found),
        "closed": str(first.get("arrival", "closed")) == "closed",
        "verdict": "VALID" if (runs["verdict"] == "VALID").all() else "INVALID",
        **_means(runs),
    }
    rows = pd.concat(each, keys=range(len(each)), names=["run", None]).reset_index(level="run")
    rows["position"] = rows.groupby("run").cumcount()
    kept = rows[rows["run"] == 0].set_index("position").reindex(columns=["tenant", "model", "label", "role", *_WORK])
    means = pd.DataFrame([_means(own) for _, own in rows.groupby("position")])
    tenants = pd.concat([kept, means], axis=1).reset_index(names="position")
    tenants.insert(0, "point", number)
    tenants["records"] = [point["records"]] * len(tenants)
    tenants["ids"] = [tuple(own["tenant"].astype(str)) for _, own in rows.groupby("position")]
    tenants["iterations_fewest"] = rows.groupby("position")["iterations_in_window"].min().to_numpy()
    tenants["baseline_record_ids"] = [_baselines(own) for _, own in rows.groupby("position")]
    if len(found) > 1:
        _replace_intervals(data, point, tenants, draws, seed)
    return point, tenants


def _mix_name(mix: str, tenants: pd.DataFrame) -> str:
    """The mix's name; where its tenants do something unusual, what they are instead."""
    if (tenants["label"] == tenants["model"]).all():
        return mix
    counts = Counter(map(str, tenants["label"]))
    return " + ".join(label if count == 1 else f"{label} x{count}" for label, count in counts.items())


def _means(rows: pd.DataFrame) -> dict[str, float]:
    """Mean of every metric over repetitions; of one, its intervals too."""
    metrics = [name for name in rows if _stem(name) in keys.METRICS and pd.api.types.is_numeric_dtype(rows[name])]
    if len(rows) > 1:
        metrics = [name for name in metrics if name in keys.METRICS]
    means = rows[metrics].astype(np.float64).mean(axis=0)
    found = {str(name): float(value) for name, value in means.items() if np.isfinite(value)}
    if len(rows) > 1 and {"latency_mean_ms"} <= set(found):
        found["spread_pct"] = 100 * float(np.ptp(rows["latency_mean_ms"])) / found["latency_mean_ms"]
    return found


def _stem(name: object) -> str:
    return str(name).removesuffix("_ci_low").removesuffix("_ci_high")


def _baselines(rows: pd.DataFrame) -> tuple[str, ...]:
    if "baseline_record_id" not in rows:
        return ()
    return tuple(rows["baseline_record_id"].dropna().astype(str).unique())


def baseline_series(data: Dataset, record_ids: Sequence[str], column: str = "latency_ms") -> list[Series]:
    """What the baselines ``record_ids`` kept, those whose samples are there."""
    tenants = dict(zip(data.baselines["record_id"].astype(str), data.baselines["tenant"].astype(str), strict=True))
    found = [data.series(record, tenants[record], column) for record in record_ids if record in tenants]
    return [series for series in found if series is not None]


def shared_series(data: Dataset, tenant: Mapping[str, Any], column: str = "latency_ms") -> list[Series | None]:
    """What each repetition of a point kept of one of its tenants (a row of :attr:`Results.tenants`)."""
    pairs = zip(tenant["records"], tenant["ids"], strict=True)
    return [data.series(record, own, column) for record, own in pairs]


def _replace_intervals(data: Dataset, point: dict[str, Any], tenants: pd.DataFrame, draws: int, seed: int) -> None:
    """Put in what all repetitions together say, where the samples of all of them are there."""
    rows = rows_of(tenants)
    by_tenant = [shared_series(data, row) for row in rows]
    alone = [baseline_series(data, row["baseline_record_ids"]) for row in rows]
    if not all(alone) or any(series is None for reps in by_tenant for series in reps):
        return
    shared = [[series for series in reps if series is not None] for reps in zip(*by_tenant, strict=True)]
    joint = interference_intervals(shared, alone, draws=draws, seed=seed)
    point.update(_ends({key: value for key, value in joint.run.items() if key in point}))
    for position, intervals in enumerate(joint.tenants):
        own = {key: value for key, value in intervals.items() if _measured(tenants, position, key)}
        reps = [repetition[position] for repetition in shared]
        fewest = min(series.latency_ms.size for series in (*reps, *alone[position]))
        percentiles = supported(fewest)
        if percentiles and _measured(tenants, position, "slowdown"):
            own |= percentile_slowdown_intervals(
                reps, alone[position], percentiles, draws=min(draws, PERCENTILE_DRAWS), seed=seed
            )
        for key, value in _ends(own).items():
            tenants.loc[position, key] = value


def _measured(tenants: pd.DataFrame, position: int, key: str) -> bool:
    return key in tenants and bool(np.isfinite(tenants[key].iloc[position]))


def _ends(intervals: Mapping[str, Interval]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in intervals.items():
        low, high = keys.interval(key)
        found |= {key: value.value, low: value.low, high: value.high}
    return found


def interval_of(row: Mapping[str, Any], key: str) -> Interval | None:
    """A figure of a point or tenant with its interval; None where one of the three is not there."""
    low, high = keys.interval(key)
    values = [row.get(name, np.nan) for name in (key, low, high)]
    if any(value is None or not np.isfinite(value) for value in values):
        return None
    return Interval(*map(float, values))

"""How many SMs a model needs: latency alone against SMs, and the knee of each curve.

Lives here: :func:`sm_curves`, for the report, for ``mtexp tables sm-curve`` and for predictions. May touch: nothing
outside its arguments. A curve is a model alone in green contexts of several sizes, or under MPS percentages that are
right. Its *knee* is the fewest SMs from which on latency is within 5 % of that on the most SMs that were measured.

The interval of a latency is that of the logarithm: what batches of a run's requests differ by, or whole runs where
there are several, and never less than fresh runs of a CUDA graph differ on an H200 (0.3 %, docs/method.md). The knee is
found again in draws of all latencies; its interval holds 95 % of them, in measured sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.samples import Floats

from .dataset import Dataset
from .frames import rows_of
from .marks import sms_under_mps

WITHIN_PCT = 5.0
_DRAWS = 2000
_LEAST_SD = 0.003
_BATCHES = 20
_FEWEST_FOR_P99 = 100
_FEWEST_POINTS = 3
_Z = 1.96
_SAME = ("model", "execution", "workload", "batch_size", "seq_len", "new_tokens", "precision", "weights")
GREEN, MPS = "green contexts", "MPS"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A model alone on so many SMs."""

    sms: int
    latency_ms: float
    low_ms: float
    high_ms: float
    """95 % interval of ``latency_ms``."""
    throughput_rps: float
    runs: int
    tail: float = math.nan
    """p99 / mean latency; NaN where no run has enough requests."""


@dataclass(frozen=True, slots=True)
class SmCurve:
    """One model alone on different numbers of SMs."""

    model: str
    sharing: str
    """``green contexts`` or ``MPS`` (percentages)."""
    setting: Mapping[str, str]
    """Execution, workload, batch size ... of all its runs."""
    points: tuple[CurvePoint, ...]
    """By SMs."""
    knee_sms: int
    knee_low_sms: int
    knee_high_sms: int
    """95 % interval of ``knee_sms``."""

    @property
    def most_sms(self) -> int:
        """What the knee compares with."""
        return self.points[-1].sms

    def latency_ms(self, sms: float) -> float:
        """Latency on ``sms`` SMs: between two measured sizes by a power law, outside of them not known.

        Raises:
            ValueError: ``sms`` is outside of what was measured.
        """
        sizes = [point.sms for point in self.points]
        if not sizes[0] <= sms <= sizes[-1]:
            raise ValueError(f"{self.model} on {sms:g} SMs: measured from {sizes[0]} to {sizes[-1]}")
        return float(np.exp(np.interp(math.log(sms), np.log(sizes), np.log([p.latency_ms for p in self.points]))))

    def tail(self, sms: float) -> float:
        """p99 / mean latency of the measured size nearest to ``sms``; NaN where it is not known."""
        return min(self.points, key=lambda point: abs(math.log(point.sms / sms))).tail


def sm_curves(data: Dataset) -> list[SmCurve]:
    """Every curve of three sizes or more in ``data``, by model and setting."""
    lone = data.tenants[(data.tenants["num_tenants"] == 1).fillna(False).astype(bool)]
    rows = [row | {"sms": sms, "way": way} for row in rows_of(lone) for sms, way in [_sms(row)] if sms]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if str(row.get("arrival", "closed")) == "closed":
            groups.setdefault((row["way"], *(_as_text(row.get(name)) for name in _SAME)), []).append(row)
    curves = []
    for key, own in sorted(groups.items()):
        points = _points(data, own)
        if len(points) >= _FEWEST_POINTS:
            setting = {name: text for name, text in zip(_SAME[1:], key[2:], strict=True) if text}
            curves.append(SmCurve(key[1], key[0], setting, points, *knee(points)))
    return curves


def _as_text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)


def _sms(row: Mapping[str, Any]) -> tuple[int, str]:
    """SMs of a tenant that may not use all, and by what; 0 where there is no limit or the SMs are not known."""
    if row.get("sharing") == "green_contexts" and pd.notna(row.get("partition_sms")):
        return int(row["partition_sms"]), GREEN
    share = row.get("active_thread_pct")
    if row.get("sharing") == "processes" and pd.notna(share) and 0 < float(share) <= 100:
        return sms_under_mps(str(row.get("device", "")), float(share)), MPS
    return 0, ""


def _points(data: Dataset, rows: Sequence[Mapping[str, Any]]) -> tuple[CurvePoint, ...]:
    by_size: dict[int, list[tuple[float, float, float, float]]] = {}
    for row in rows:
        series = data.series(str(row["record_id"]), str(row["tenant"]))
        if series is not None:
            log_ms, sd = _log_mean(series.latency_ms)
            enough = len(series.latency_ms) >= _FEWEST_FOR_P99
            tail = float(np.percentile(series.latency_ms, 99)) / math.exp(log_ms) if enough else math.nan
            by_size.setdefault(int(row["sms"]), []).append((log_ms, sd, float(row["throughput_rps"]), tail))
    found = []
    for sms, runs in sorted(by_size.items()):
        logs = [run[0] for run in runs]
        between = float(np.std(logs, ddof=1)) / math.sqrt(len(runs)) if len(runs) > 1 else 0.0
        sd = max(between, math.hypot(*(run[1] for run in runs)) / len(runs), _LEAST_SD)
        mean = float(np.mean(logs))
        ends = (math.exp(mean - _Z * sd), math.exp(mean + _Z * sd))
        rps = float(np.mean([run[2] for run in runs]))
        tails = [run[3] for run in runs if run[3] == run[3]]
        tail = float(np.mean(tails)) if tails else math.nan
        found.append(CurvePoint(sms, math.exp(mean), *ends, rps, len(runs), tail))
    return tuple(found)


def _log_mean(latency_ms: Floats) -> tuple[float, float]:
    """The logarithm of a mean latency and its standard deviation, from means of batches of following requests."""
    batches = np.array_split(latency_ms, min(_BATCHES, len(latency_ms)))
    means = np.array([batch.mean() for batch in batches])
    mean = float(latency_ms.mean())
    return math.log(mean), float(means.std(ddof=1)) / math.sqrt(len(means)) / mean


def knee(points: Sequence[CurvePoint]) -> tuple[int, int, int]:
    """The knee of a curve and its 95 % interval, in SMs."""
    sizes = np.array([point.sms for point in points])
    logs = np.log([point.latency_ms for point in points])
    sds = np.log([point.high_ms / point.latency_ms for point in points]) / _Z
    draws = np.random.default_rng(0).normal(logs, sds, (_DRAWS, len(points)))
    found = [_knee(sizes, draw) for draw in draws]
    low, high = np.percentile(found, (2.5, 97.5), method="nearest")
    return _knee(sizes, logs), int(low), int(high)


def _knee(sizes: np.ndarray[Any, Any], logs: Floats) -> int:
    """The smallest size from which on all are within 5 % of the largest."""
    beyond = np.flatnonzero(logs > logs[-1] + math.log1p(WITHIN_PCT / 100))
    return int(sizes[beyond[-1] + 1]) if beyond.size else int(sizes[0])


def sm_curve_table(curves: Sequence[SmCurve]) -> pd.DataFrame:
    """One row a point, with the knee of its curve."""
    rows = [
        {
            "model": curve.model,
            "sharing": curve.sharing,
            **curve.setting,
            "sms": point.sms,
            "latency_mean_ms": point.latency_ms,
            "latency_mean_ms_ci_low": point.low_ms,
            "latency_mean_ms_ci_high": point.high_ms,
            "throughput_rps": point.throughput_rps,
            "of_most_sms": point.latency_ms / curve.points[-1].latency_ms,
            "knee_sms": curve.knee_sms,
            "knee_sms_ci_low": curve.knee_low_sms,
            "knee_sms_ci_high": curve.knee_high_sms,
            "runs": point.runs,
        }
        for curve in curves
        for point in curve.points
    ]
    return pd.DataFrame(rows)

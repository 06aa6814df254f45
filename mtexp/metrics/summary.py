"""The figures of a tenant and of a run, by MLflow key. Lives here: summarise_tenant, summarise_run. May touch: numpy.

The one place where samples become the numbers that the terminal, the record, MLflow and ``analysis`` show. A figure
that cannot be had (no gpu time, no baseline, no window, a latency of a saturated tenant) is absent, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtexp.metrics import interference
from mtexp.metrics.activity import active_together_pct, activity
from mtexp.metrics.bootstrap import (
    DRAWS,
    PERCENTILE_DRAWS,
    Interval,
    interference_intervals,
    mean_interval,
    percentile_slowdown_intervals,
)
from mtexp.metrics.drift import drift
from mtexp.metrics.latency import insufficient, latency_statistics, percentile_name, supported
from mtexp.metrics.samples import Floats, Samples
from mtexp.metrics.window import Series, Window, window_share_pct

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """What a tenant did alone."""

    series: Series
    """Iterations of its window."""
    sm_clock_mhz: float | None = None
    """Mean SM clock in its window."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """All that :func:`summarise_run` needs of one tenant."""

    samples: Samples
    alone: Baseline | None = None
    """On the whole device."""
    partitioned: Baseline | None = None
    """Alone under the run's MPS limits."""
    at_arrivals: Baseline | None = None
    """For a tenant in open loop: its run alone on the whole device at the same arrivals."""
    slo_ms: float = 0.0
    """Service level; 0 = none."""
    new_tokens: int = 0
    """Tokens generated per request; 0 = not a generating workload."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Figures of a run and of its tenants."""

    metrics: Metrics
    tenants: dict[str, Metrics]
    insufficient: dict[str, tuple[str, ...]]
    """By tenant: keys of percentiles that rest on too few iterations."""


def summarise_tenant(
    samples: Samples,
    window: Window | None,
    alone: Baseline | None = None,
    *,
    slo_ms: float = 0.0,
    new_tokens: int = 0,
    sm_clock_mhz: float | None = None,
) -> Metrics:
    """Figures of one tenant over the iterations that ``window`` keeps, by key.

    Args:
        samples: All its iterations.
        window: The run's; None leaves only counts.
        alone: Its baseline; None leaves slowdown and normalized progress out.
        slo_ms: Service level; 0 = none.
        new_tokens: Tokens generated per request, for the time per output token.
        sm_clock_mhz: Mean SM clock in the window, for the clock's part of the slowdown.
    """
    metrics: Metrics = {"iterations_measured": len(samples.measured), "iterations_in_window": 0}
    if window is None:
        return metrics
    metrics["overlap_pct"] = activity(samples, window).active_pct
    metrics["window_share_pct"] = window_share_pct(window, [samples])
    kept = window.keep(samples)
    if len(kept) == 0:
        return metrics
    metrics |= {"iterations_in_window": len(kept), "throughput_rps": window.throughput_rps(samples)}
    metrics |= _open_loop(kept)
    if slo_ms > 0:
        metrics["slo_ms"] = slo_ms
        metrics["slo_attainment_pct"] = interference.slo_attainment_pct(kept.latency_ms, slo_ms)
        metrics["goodput_rps"] = metrics["throughput_rps"] * metrics["slo_attainment_pct"] / 100
    if not metrics.get("saturated"):
        metrics |= _latencies(kept, new_tokens)
    if alone is not None:
        metrics |= _against(metrics, kept, alone, sm_clock_mhz)
    return metrics


def summarise_run(
    tenants: Mapping[str, Measured],
    window: Window | None,
    *,
    energy_j: float | None = None,
    sm_clock_mhz: float | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> RunSummary:
    """Figures of a run and its tenants with their 95 % intervals (``<key>_ci_low``, ``<key>_ci_high``).

    STP, ANTT, Jain and fairness are there when every tenant is in closed loop and has a baseline; those against
    partitioned baselines end in ``_partitioned``. Intervals need two kept iterations of everyone. A tenant in open loop
    has ``service_slowdown`` in the place of slowdown and normalized progress, and ``latency_slowdown`` where it was
    measured alone at the same arrivals.

    Args:
        tenants: By tenant id, in the order of the run.
        window: The run's (:func:`mtexp.metrics.window.common_window`).
        energy_j: Energy of the device over the window; None = not measured.
        sm_clock_mhz: Mean SM clock in the window; None = not measured.
        draws: Bootstrap draws.
        seed: Of the draws.
    """
    own = {
        name: summarise_tenant(
            t.samples, window, t.alone, slo_ms=t.slo_ms, new_tokens=t.new_tokens, sm_clock_mhz=sm_clock_mhz
        )
        for name, t in tenants.items()
    }
    for name, tenant in tenants.items():
        if tenant.partitioned is not None and "throughput_rps" in own[name] and "service_mean_ms" not in own[name]:
            own[name] |= _progress(own[name], tenant.partitioned, "_partitioned")
    run: Metrics = {"overlap_pct": 0.0}
    if window is not None:
        for name, tenant in tenants.items():
            own[name] |= _at_arrivals(own[name], Series.of(tenant.samples, window), tenant.at_arrivals)
        run["overlap_pct"] = active_together_pct([activity(t.samples, window) for t in tenants.values()])
        run["window_share_pct"] = window_share_pct(window, [t.samples for t in tenants.values()])
        run |= {"window_s": window.length_s} | totals(own, window, energy_j) | _start_skew(tenants)
        series = {name: Series.of(t.samples, window) for name, t in tenants.items()}
        run |= _interference(own, series, {name: t.alone for name, t in tenants.items()}, "", draws, seed)
        partitioned = {name: t.partitioned for name, t in tenants.items()}
        run |= _interference(own, series, partitioned, "_partitioned", draws, seed)
        for name, metrics in own.items():
            kept = window.keep(tenants[name].samples)
            metrics |= _own_intervals(metrics, kept) | _service_interval(
                metrics, kept, tenants[name].alone, draws, seed
            )
            metrics |= _percentile_intervals(
                metrics, series[name], tenants[name].alone, min(draws, PERCENTILE_DRAWS), seed
            )
    return RunSummary(run, own, {name: insufficient_keys(metrics) for name, metrics in own.items()})


def insufficient_keys(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Keys of a tenant's percentiles that its iterations in the window do not support: ``latency_p99_ms`` ..."""
    names = insufficient(int(metrics.get("iterations_in_window", 0)))
    return tuple(key for key in metrics if any(key.endswith(f"_{name}_ms") for name in names))


def _statistics(stem: str, values_ms: Floats) -> Metrics:
    there = values_ms[~np.isnan(values_ms)]
    if there.size == 0:
        return {}
    return {f"{stem}_{name}_ms": value for name, value in latency_statistics(there).items()}


def _latencies(kept: Samples, new_tokens: int) -> Metrics:
    metrics = _statistics("latency", kept.latency_ms)
    metrics |= _statistics("gpu_time", kept.gpu_time_ms) | _statistics("wait", kept.wait_ms)
    metrics |= _statistics("ttft", kept.ttft_ms) | _statistics("tpot", kept.tpot_ms(new_tokens))
    if kept.open_loop:
        metrics |= _statistics("queue", kept.queue_ms)
    if (moved := drift(kept.latency_ms, kept.start_ns)) is not None:
        metrics |= {"drift_pct": moved.slope_pct, "thirds_change_pct": moved.thirds_pct}
    return metrics


def _open_loop(kept: Samples) -> Metrics:
    if not kept.open_loop:
        return {}
    metrics: Metrics = {"saturated": float(interference.saturated(kept))} | _statistics("service", kept.service_ms)
    if len(kept) > 1 and kept.arrival_ns[-1] > kept.arrival_ns[0]:  # a burst has no rate
        metrics["offered_rps"] = interference.offered_rps(kept)
    return metrics


def _against(metrics: Metrics, kept: Samples, alone: Baseline, sm_clock_mhz: float | None) -> Metrics:
    """What the baseline makes of a tenant's figures.

    A baseline is in closed loop. What a tenant in open loop gets done is what was asked of it, and its latency has
    queueing in it; only its service time can be compared.
    """
    series = alone.series
    if kept.open_loop:
        return {"service_slowdown": metrics["service_mean_ms"] / float(series.latency_ms.mean())}
    found: Metrics = _progress(metrics, alone, "")
    fewest = min(len(kept), series.latency_ms.size)
    for p in supported(fewest):
        key = f"slowdown_{percentile_name(p)}"
        found[key] = interference.percentile_slowdown(kept.latency_ms, series.latency_ms, p)
    if "slowdown_p99" in found:
        found["tail_inflation"] = interference.tail_inflation(kept.latency_ms, series.latency_ms)
    if sm_clock_mhz is not None and alone.sm_clock_mhz is not None:
        parts = interference.clock_attribution(found["slowdown"], sm_clock_mhz, alone.sm_clock_mhz)
        found |= {"slowdown_clock": parts.clock, "slowdown_rest": parts.rest}
    return found


def _at_arrivals(metrics: Metrics, shared: Series, alone: Baseline | None) -> Metrics:
    """Latency in open loop against latency alone, of the requests that both served.

    No interval: what varies is which arrivals were drawn. Of simulated queues of 100 to 2000 requests, loaded by 0.3 to
    0.6 alone, one from blocks of requests holds the ratio of long runs in 31 to 92 %.
    """
    if alone is None:
        return {}
    together, apart = interference.at_same_arrivals(shared, alone.series)
    if not together.size:
        return {}
    names = [percentile_name(p) for p in supported(together.size)]
    found = {f"alone_{key}": value for key, value in _statistics("latency", apart).items()}
    found = {f"alone_latency_{name}_ms": found[f"alone_latency_{name}_ms"] for name in ("mean", *names)}
    found["iterations_alone"] = apart.size
    if metrics.get("saturated"):
        return found
    found["latency_slowdown"] = float(together.mean() / apart.mean())
    for p, name in zip(supported(together.size), names, strict=True):
        found[f"latency_slowdown_{name}"] = interference.percentile_slowdown(together, apart, p)
    return found


def _progress(metrics: Metrics, alone: Baseline, suffix: str) -> Metrics:
    series = alone.series
    progressed = interference.normalized_progress(metrics["throughput_rps"], series.throughput_rps)
    slowed = interference.slowdown(metrics["latency_mean_ms"], float(series.latency_ms.mean()))
    return {f"normalized_progress{suffix}": float(progressed), f"slowdown{suffix}": float(slowed)}


def totals(own: Mapping[str, Metrics], window: Window, energy_j: float | None) -> Metrics:
    """Sums over tenants: throughput, goodput, energy a request; empty where the window keeps nothing.

    Args:
        own: Figures of each tenant.
        window: The run's; its length is what the energy was measured over.
        energy_j: Energy of the device; None = not measured.
    """
    if not any(metrics["iterations_in_window"] for metrics in own.values()):
        return {}
    totals: Metrics = {"throughput_rps": sum(metrics.get("throughput_rps", 0.0) for metrics in own.values())}
    served = [metrics for metrics in own.values() if "slo_ms" in metrics]
    if served:
        totals["goodput_rps"] = sum(metrics["goodput_rps"] for metrics in served)
        served_rps = sum(metrics["throughput_rps"] for metrics in served)
        totals["slo_attainment_pct"] = 100 * totals["goodput_rps"] / served_rps
    if energy_j is not None and energy_j > 0:
        requests = totals["throughput_rps"] * window.length_s  # with fractions: those that an edge cuts count in part
        totals |= {"energy_j": energy_j, "energy_j_per_request": interference.energy_per_request(energy_j, requests)}
    return totals


def _start_skew(tenants: Mapping[str, Measured]) -> Metrics:
    """How far apart the tenants started; an open-loop tenant starts with its first request, which says nothing."""
    measured = [tenant.samples.measured for tenant in tenants.values()]
    if any(samples.open_loop for samples in measured):
        return {}
    starts_ns = [int(samples.start_ns.min()) for samples in measured]
    return {"start_skew_ms": (max(starts_ns) - min(starts_ns)) / 1e6}


def _interference(
    own: Mapping[str, Metrics],
    series: Mapping[str, Series],
    baselines: Mapping[str, Baseline | None],
    suffix: str,
    draws: int,
    seed: int,
) -> Metrics:
    """STP, ANTT, Jain and fairness against ``baselines`` with intervals; adds each tenant's to ``own``."""
    compared = [name for name, metrics in own.items() if f"normalized_progress{suffix}" in metrics]
    run: Metrics = {}
    if compared and len(compared) == len(own):
        progress = [own[name][f"normalized_progress{suffix}"] for name in compared]
        run["stp"] = interference.stp(progress)
        run["antt"] = interference.antt([own[name][f"slowdown{suffix}"] for name in compared])
        if not suffix:
            run |= {"jain_fairness": interference.jain_fairness(progress), "fairness": interference.fairness(progress)}
    alone = [found.series for name in compared if (found := baselines[name]) is not None]
    shared = [series[name] for name in compared]
    if compared and min(one.latency_ms.size for one in (*shared, *alone)) >= 2:
        joint = interference_intervals(shared, alone, draws=draws, seed=seed)
        for name, intervals in zip(compared, joint.tenants, strict=True):
            own[name] |= ends({f"{key}{suffix}": interval for key, interval in intervals.items()})
        run |= {key: joint.run[key].value for key in ("jain_fairness", "fairness") if key in run}  # without the noise
        run |= ends({key: interval for key, interval in joint.run.items() if key in run})
    return {_suffixed(key, suffix): value for key, value in run.items()}


def _service_interval(metrics: Metrics, kept: Samples, alone: Baseline | None, draws: int, seed: int) -> Metrics:
    if alone is None or "service_slowdown" not in metrics or min(len(kept), alone.series.latency_ms.size) < 2:
        return {}
    found = interference_intervals([Series.closed(kept.service_ms)], [alone.series], draws=draws, seed=seed)
    return ends({"service_slowdown": found.tenants[0]["slowdown"]})


def _suffixed(key: str, suffix: str) -> str:
    for end in ("_ci_low", "_ci_high"):
        if key.endswith(end):
            return key.removesuffix(end) + suffix + end
    return key + suffix


def _own_intervals(metrics: Metrics, kept: Samples) -> Metrics:
    """Intervals of the means of latency and wait."""
    if "latency_mean_ms" not in metrics or len(kept) < 2:
        return {}
    found = {"latency_mean_ms": mean_interval(kept.latency_ms)}
    if "wait_mean_ms" in metrics:
        waits = kept.wait_ms
        found["wait_mean_ms"] = mean_interval(waits[~np.isnan(waits)])
    return ends(found)


def _percentile_intervals(metrics: Metrics, series: Series, alone: Baseline | None, draws: int, seed: int) -> Metrics:
    if alone is None or "slowdown" not in metrics:
        return {}
    percentiles = supported(min(series.latency_ms.size, alone.series.latency_ms.size))
    if not percentiles:
        return {}
    return ends(percentile_slowdown_intervals(series, alone.series, percentiles, draws=draws, seed=seed))


def ends(intervals: Mapping[str, Interval]) -> Metrics:
    """The lower and upper end of each interval, by key; an interval without bounds has none."""
    intervals = {key: interval for key, interval in intervals.items() if math.isfinite(interval.high)}
    lows = {f"{key}_ci_low": interval.low for key, interval in intervals.items()}
    highs = {f"{key}_ci_high": interval.high for key, interval in intervals.items()}
    return dict(sorted((lows | highs).items()))

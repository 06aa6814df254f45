"""The figures of a crossover run and of its tenants, by MLflow key, and findings about them. May touch: numpy.

Latencies, percentiles and throughput are those of the blocks of all tenants, with the time between blocks cut out;
what they are compared with are the alone blocks of the same processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mtexp.metrics import interference
from mtexp.metrics.activity import active_together_pct, activity
from mtexp.metrics.crossover import Block, Rounds, compare, host_noise_pct, mean_interval, rounds_of, split
from mtexp.metrics.finding import Finding
from mtexp.metrics.latency import percentile_name, supported
from mtexp.metrics.samples import ALONE, EDGE, Floats, Samples
from mtexp.metrics.summary import Measured, Metrics, RunSummary, ends, insufficient_keys, summarise_tenant, totals
from mtexp.metrics.window import Window
from mtexp.text_tables import rounded

Integers = NDArray[np.int64]

HOST_NOISE_LIMIT_PCT = 10.0
"""Spread of the alone blocks (SD of log mean latency, in percent) above which a missed target is blamed on the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTelemetry:
    """What telemetry says of the blocks; None = not measured."""

    together_clock_mhz: float | None = None
    """Mean SM clock in the blocks of all tenants."""
    alone_clock_mhz: Mapping[str, float] | None = None
    """Mean SM clock in the alone blocks of each tenant."""
    together_energy_j: float | None = None
    alone_energy_j: float | None = None


def pauses_ns(start_ns: Integers, end_ns: Integers, block: Integers) -> Integers:
    """How long before each request, in all, no block was measured: what to take off its time stamps.

    Args:
        start_ns: Of consecutive requests of a tenant, shape (n,).
        end_ns: Shape (n,).
        block: Block of each, shape (n,); the time between two requests of different blocks is a pause.
    """
    pauses = np.zeros(start_ns.size, dtype=np.int64)
    first = np.flatnonzero(np.diff(block)) + 1
    pauses[first] = start_ns[first] - end_ns[first - 1]
    return np.cumsum(pauses)


def without_pauses(start_ns: Integers, end_ns: Integers, block: Integers) -> tuple[Integers, Integers]:
    """Starts and ends on a clock that stands still between blocks; as they were where there is only one, or none."""
    off = pauses_ns(start_ns, end_ns, block)
    return start_ns - off, end_ns - off


def joined(samples: Samples) -> Samples:
    """The requests that count in blocks of all, on a clock that stands still between blocks.

    The first one starts at 1 ns; in a block nothing changes.
    """
    kept = samples.measured
    if not len(kept):
        return kept
    shift = pauses_ns(kept.start_ns, kept.end_ns, kept.block) + kept.start_ns[0] - 1
    return replace(
        kept,
        arrival_ns=kept.arrival_ns - shift,
        start_ns=kept.start_ns - shift,
        end_ns=kept.end_ns - shift,
        first_token_ns=np.where(kept.first_token_ns == 0, 0, kept.first_token_ns - shift),
        enqueue_ns=np.where(kept.enqueue_ns == 0, 0, kept.enqueue_ns - shift),
    )


def joined_window(own: Samples) -> Window | None:
    """The window of all of ``own``, which :func:`joined` returned; None where nothing counts."""
    return Window(0, int(own.end_ns[-1])) if len(own) else None


def real_window(samples: Mapping[str, Samples]) -> Window | None:
    """From the first to the last request that counts in a block of all, the alone blocks between them included."""
    kept = [own.measured for own in samples.values()]
    if not kept or not all(len(own) for own in kept):
        return None
    return Window(min(int(own.start_ns[0]) for own in kept) - 1, max(int(own.end_ns[-1]) for own in kept))


def cycle_ms(samples: Samples) -> Floats:
    """Time from the start of each request to that of the next one that counts in its block; of the last, its latency.

    The mean over a block is (last end - first start) / number of the requests that count.
    """
    cycles = samples.latency_ms.copy()
    same = (samples.block[1:] == samples.block[:-1]) & (samples.phase[1:] == samples.phase[:-1])
    cycles[:-1][same] = np.diff(samples.start_ns)[same] / 1e6
    return cycles


def summarise_crossover(
    tenants: Mapping[str, Measured],
    blocks: Sequence[Block],
    telemetry: BlockTelemetry,
    *,
    unseen: Floats | None = None,
    seed: int = 0,
) -> RunSummary:
    """Figures of a run and its tenants with their 95 % intervals (``<key>_ci_low``, ``<key>_ci_high``).

    A baseline of a tenant (``Measured.alone``) is what the mode costs is measured against, and nothing else.

    Args:
        tenants: By tenant id, in the order of the run; samples as :func:`mtexp.metrics.crossover.mark` returns them.
        blocks: Of the run, in order.
        telemetry: Clocks and energies of the blocks.
        unseen: What states of a set of processes add to the log slowdown of each tenant, shape (states, tenants), as
            :func:`mtexp.metrics.fresh_processes.unseen` returns it; None = nothing.
        seed: Of draws.
    """
    samples = {name: tenant.samples for name, tenant in tenants.items()}
    latency = rounds_of(samples, blocks, lambda own: own.latency_ms)
    compared = compare(latency, rounds_of(samples, blocks, cycle_ms), unseen=unseen, seed=seed)
    sds = np.zeros(len(tenants)) if unseen is None else np.linalg.norm(unseen, axis=0)
    own = {}
    for column, (name, tenant) in enumerate(tenants.items()):
        shared = joined(tenant.samples)
        metrics = summarise_tenant(shared, joined_window(shared), slo_ms=tenant.slo_ms, new_tokens=tenant.new_tokens)
        metrics |= _tenant_figures(tenant, latency, column, float(sds[column]))
        for key, intervals in (
            ("slowdown", compared.slowdown),
            ("normalized_progress", compared.normalized_progress),
        ):
            if name in intervals:
                metrics |= {key: intervals[name].value} | ends({key: intervals[name]})
        own[name] = metrics | _clock(name, metrics, telemetry)
    run = _run_figures(samples, blocks, own, latency, telemetry)
    run |= {key: interval.value for key, interval in compared.run.items()} | ends(compared.run)
    if compared.run and np.isfinite(compared.half_width_pct):
        run["half_width_pct"] = compared.half_width_pct
    return RunSummary(run, own, {name: insufficient_keys(metrics) for name, metrics in own.items()})


def _tenant_figures(tenant: Measured, latency: Rounds, column: int, unseen_sd: float) -> Metrics:
    samples = tenant.samples
    alone, shared = samples.select(samples.phase == ALONE), samples.measured
    found: Metrics = {"rounds": float(latency.complete[column]), "iterations_alone": float(len(alone))}
    if np.isfinite(latency.together_ms[:, column]).sum() > 1:
        found |= ends({"latency_mean_ms": mean_interval(latency.together_ms[:, column], latency.group, unseen_sd)})
    if (noise_pct := host_noise_pct(latency.alone_ms[:, column])) is not None:
        found["host_noise_pct"] = noise_pct
    if not len(alone):
        return found
    found["alone_latency_mean_ms"] = float(alone.latency_ms.mean())
    if tenant.alone is not None:
        found["mode_cost"] = found["alone_latency_mean_ms"] / float(tenant.alone.series.latency_ms.mean())
    if not len(shared):
        return found
    percentiles = supported(min(len(alone), len(shared)))
    for p in percentiles:
        key = f"slowdown_{percentile_name(p)}"
        found[key] = interference.percentile_slowdown(shared.latency_ms, alone.latency_ms, p)
    if 99.0 in percentiles:
        found["tail_inflation"] = interference.tail_inflation(shared.latency_ms, alone.latency_ms)
    if (parts := split(alone, shared)) is not None:
        found |= {"enqueue_ms": float(np.nanmean(shared.enqueue_ms)), "slowdown_host": parts.host}
        found |= {"alone_enqueue_ms": float(np.nanmean(alone.enqueue_ms)), "slowdown_wait": parts.wait}
        found["host_share_pct"] = 100 * found["alone_enqueue_ms"] / found["alone_latency_mean_ms"]
        found["slowdown_kernels"] = parts.kernels
    return found


def _clock(name: str, metrics: Metrics, telemetry: BlockTelemetry) -> Metrics:
    alone_mhz = (telemetry.alone_clock_mhz or {}).get(name)
    if "slowdown" not in metrics or alone_mhz is None or telemetry.together_clock_mhz is None:
        return {}
    parts = interference.clock_attribution(metrics["slowdown"], telemetry.together_clock_mhz, alone_mhz)
    return {"slowdown_clock": parts.clock, "slowdown_rest": parts.rest}


def _run_figures(
    samples: Mapping[str, Samples],
    blocks: Sequence[Block],
    own: Mapping[str, Metrics],
    latency: Rounds,
    telemetry: BlockTelemetry,
) -> Metrics:
    run: Metrics = {"overlap_pct": 0.0, "rounds": float(latency.group.size)}
    shared = [joined(rows) for rows in samples.values()]
    windows = [joined_window(rows) for rows in shared]
    spans = together_spans(samples, blocks)
    if not len(spans) or any(window is None for window in windows):
        return run
    length_ns = int(np.diff(spans).sum())
    run["overlap_pct"] = active_together_pct(
        [activity(rows, window) for rows, window in zip(shared, windows, strict=True) if window is not None]
    )
    run |= {"window_s": length_ns / 1e9} | totals(own, Window(0, length_ns), telemetry.together_energy_j)
    if telemetry.alone_energy_j is not None:
        run["alone_energy_j"] = telemetry.alone_energy_j
    run["start_skew_ms"] = _start_skew_ms(samples, blocks)
    noise_pct = [metrics["host_noise_pct"] for metrics in own.values() if "host_noise_pct" in metrics]
    if noise_pct:
        run["host_noise_pct"] = max(noise_pct)
    return run


def together_spans(samples: Mapping[str, Samples], blocks: Sequence[Block]) -> NDArray[np.int64]:
    """First start to last end of the requests that count, of each block of all tenants; shape (blocks, 2)."""
    spans = []
    kept = {name: own.measured for name, own in samples.items()}
    for block in blocks:
        if len(block.active) < len(samples):
            continue
        rows = [own.select(own.block == block.block) for own in kept.values()]
        there = [own for own in rows if len(own)]
        if there:
            spans.append((min(int(own.start_ns[0]) for own in there), max(int(own.end_ns[-1]) for own in there)))
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def _start_skew_ms(samples: Mapping[str, Samples], blocks: Sequence[Block]) -> float:
    """How far apart the tenants of a block started, median over the blocks of all."""
    skews = []
    for block in blocks:
        places = [int(np.searchsorted(own.block, block.block)) for own in samples.values()]
        starts = [
            int(own.start_ns[i])
            for own, i in zip(samples.values(), places, strict=True)
            if i < len(own) and own.block[i] == block.block and own.phase[i] == EDGE
        ]
        if len(starts) == len(samples):
            skews.append((max(starts) - min(starts)) / 1e6)
    return float(np.median(skews)) if skews else 0.0


# --- findings ---------------------------------------------------------------------------------------------------------


def crossover_findings(
    summary: RunSummary, *, target_pct: float, max_time_s: float, pinned: bool, redrawn: bool
) -> Iterator[Finding]:
    """What a reader of the figures must know: what was not reached, why, and what the intervals do not cover.

    Args:
        summary: The figures.
        target_pct: Half width that was asked for.
        max_time_s: Time that it was given.
        pinned: Tenants had cores of their own.
        redrawn: Those were drawn anew between rounds.
    """
    run = summary.metrics
    for name, metrics in summary.tenants.items():
        if "slowdown" not in metrics:
            yield Finding(
                "warning",
                "no-comparison",
                f"{name} has no round with enough requests alone and together: nothing to compare",
                "Raise measure.max_time_s, or measure.block_ms if it is set.",
                name,
            )
    reached_pct = run.get("half_width_pct", 0.0)
    missed = reached_pct > target_pct
    if missed:
        yield Finding(
            "warning",
            "target-missed",
            f"after {run['rounds']:.0f} rounds they show slowdowns and STP to within {rounded(reached_pct, 2)} %; "
            f"measure.target_pct asked for {target_pct:g} % within {max_time_s:g} s",
            "Raise measure.max_time_s: four times the rounds halve an interval.",
        )
    noise_pct = run.get("host_noise_pct", 0.0)
    if missed and noise_pct > HOST_NOISE_LIMIT_PCT:
        loudest = max(summary.tenants, key=lambda name: summary.tenants[name].get("host_noise_pct", 0.0))
        share_pct = summary.tenants[loudest].get("host_share_pct")
        share = "" if share_pct is None else f", and enqueueing is {share_pct:.0f} % of its latency"
        yield Finding(
            "warning",
            "host-noise",
            f"the host is what makes the intervals wide: alone blocks of {loudest} differ by {noise_pct:.0f} % (SD)"
            + share,
            "Use execution=cuda_graph, which leaves the host little to do, or fewer tenants on this host.",
        )
    if pinned and not redrawn:
        yield Finding(
            "note",
            "same-cores",
            "tenants kept their CPU cores for all rounds: there are no others to draw from",
            "What a core adds to a slowdown is in no interval: repeat the run, or use a host with more cores.",
        )

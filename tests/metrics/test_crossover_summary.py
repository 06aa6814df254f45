"""Figures of a crossover run by key: from the blocks of all, against the alone blocks, and what is said of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtexp.metrics.crossover import Block, mark
from mtexp.metrics.crossover_summary import (
    BlockTelemetry,
    crossover_findings,
    cycle_ms,
    joined,
    real_window,
    summarise_crossover,
    without_pauses,
)
from mtexp.metrics.samples import Samples
from mtexp.metrics.summary import Baseline, Measured, RunSummary
from mtexp.metrics.window import Series

MS = 1_000_000


def run(
    alone_ms: dict[str, float], together_ms: dict[str, float], rounds: int = 12, noise: float = 0.0, gpu: bool = False
) -> tuple[dict[str, Samples], list[Block]]:
    """Rounds of 50 ms blocks: each tenant alone, then all, requests back to back 0.1 ms apart."""
    rng = np.random.default_rng(1)
    at, blocks = 0, []
    spans: dict[str, list[tuple[int, int]]] = {name: [] for name in alone_ms}
    for number in range(rounds):
        for active in (*((name,) for name in alone_ms), tuple(alone_ms)):
            end, last = at + 50 * MS, at
            for name in active:
                length = (alone_ms if len(active) == 1 else together_ms)[name] * MS
                start = at
                while start < end or (len(active) > 1 and start < end + 20 * MS):
                    stop = start + round(length * np.exp(noise * rng.standard_normal()))
                    spans[name].append((start, stop))
                    start = stop + MS // 10
                last = max(last, start)
            blocks.append(Block(block=len(blocks), round=number, group=number, active=active, start_ns=at, end_ns=end))
            at = last + 5 * MS
    samples = {}
    for name, own in spans.items():
        start, stop = np.array(own, dtype=np.int64).T
        count = len(own)
        samples[name] = Samples(
            phase=np.ones(count, dtype=np.uint8),
            arrival_ns=start,
            start_ns=start,
            end_ns=stop,
            first_token_ns=np.zeros(count, dtype=np.int64),
            gpu_time_ns=stop - start - MS // 2 if gpu else np.full(count, -1),
            enqueue_ns=start + MS,
        )
    return mark(samples, blocks), blocks


def summary(*arguments: object, telemetry: BlockTelemetry | None = None, **options: object) -> RunSummary:
    samples, blocks = run(*arguments, **options)  # type: ignore[arg-type]
    return summarise_crossover(
        {name: Measured(samples=own) for name, own in samples.items()}, blocks, telemetry or BlockTelemetry()
    )


def test_figures_are_of_the_blocks_of_all_against_the_alone_blocks() -> None:
    """Latency, throughput without the time between blocks, slowdown, progress, and what is made of them."""
    found = summary({"a": 2.0, "b": 4.0}, {"a": 3.0, "b": 8.0})
    a, b = found.tenants["a"], found.tenants["b"]
    assert (a["latency_mean_ms"], b["latency_mean_ms"]) == pytest.approx((3.0, 8.0))
    assert a["throughput_rps"] == pytest.approx(1000 / 3.1, rel=0.01)
    assert (a["slowdown"], b["slowdown"]) == pytest.approx((1.5, 2.0))
    assert a["normalized_progress"] == pytest.approx(2.1 / 3.1, rel=0.005)
    assert found.metrics["stp"] == pytest.approx(2.1 / 3.1 + 4.1 / 8.1, rel=0.005)
    assert found.metrics["antt"] == pytest.approx(1.75)
    assert found.metrics["overlap_pct"] == 100
    assert (a["alone_latency_mean_ms"], b["slowdown_p50"]) == pytest.approx((2.0, 2.0))
    assert found.metrics["rounds"] == a["rounds"] == 12
    assert a["slowdown_ci_low"] == pytest.approx(a["slowdown_ci_high"])


def test_time_stands_still_between_blocks() -> None:
    """Requests of one block follow the last of the block before; nothing in a block changes."""
    samples, _ = run({"a": 2.0, "b": 4.0}, {"a": 3.0, "b": 8.0})
    shared = joined(samples["a"])
    assert (np.diff(shared.start_ns) < 4 * MS).all()
    assert shared.latency_ms == pytest.approx(3.0)
    assert shared.start_ns[0] == 1
    window = real_window(samples)
    assert window is not None
    assert window.mask(samples["a"]).sum() == len(shared)


def test_a_run_without_blocks_has_no_pauses() -> None:
    """Older records: every request is of block -1, and time is what it was."""
    start, end = np.array([5, 20, 90]), np.array([10, 30, 95])
    for block in (np.full(3, -1), np.zeros(3, dtype=np.int64)):
        assert [own.tolist() for own in without_pauses(start, end, block)] == [[5, 20, 90], [10, 30, 95]]
    assert without_pauses(start, end, np.array([0, 0, 1]))[0].tolist() == [5, 20, 30]


def test_cycles_end_with_their_block() -> None:
    """A gap between two requests belongs to the first; one between two blocks to nobody."""
    samples, _ = run({"a": 2.0, "b": 4.0}, {"a": 3.0, "b": 8.0})
    assert set(np.round(cycle_ms(samples["a"]), 3)) == {2.0, 2.1, 3.0, 3.1}


def test_parts_of_a_slowdown_add_up() -> None:
    """Where enqueueing and the device's span were stamped; on the CPU they are absent."""
    a = summary({"a": 2.0, "b": 4.0}, {"a": 3.0, "b": 8.0}, gpu=True).tenants["a"]
    parts = a["slowdown_host"] + a["slowdown_wait"] + a["slowdown_kernels"]
    assert 1 + parts == pytest.approx(a["latency_mean_ms"] / a["alone_latency_mean_ms"])
    assert (a["enqueue_ms"], a["host_share_pct"]) == pytest.approx((1.0, 50.0))
    on_cpu = summary({"a": 2.0, "b": 4.0}, {"a": 3.0, "b": 8.0}).tenants["a"]
    assert not {"enqueue_ms", "slowdown_host", "host_share_pct"} & set(on_cpu)


def test_clock_and_energy_of_the_blocks() -> None:
    """Energy a request is of the blocks of all; the clock's part compares them with the alone blocks."""
    telemetry = BlockTelemetry(
        together_clock_mhz=1000.0, alone_clock_mhz={"a": 1200.0}, together_energy_j=60.0, alone_energy_j=10.0
    )
    found = summary({"a": 2.0, "b": 4.0}, {"a": 3.0, "b": 8.0}, telemetry=telemetry)
    assert found.tenants["a"]["slowdown_clock"] == pytest.approx(1.2)
    assert "slowdown_clock" not in found.tenants["b"]
    requests = found.metrics["throughput_rps"] * found.metrics["window_s"]
    assert found.metrics["energy_j_per_request"] == pytest.approx(60 / requests)
    assert found.metrics["alone_energy_j"] == 10.0


def test_what_a_mode_costs_is_against_the_baseline() -> None:
    """Alone under the mode / the baseline; the slowdown is not."""
    samples, blocks = run({"a": 2.0, "b": 4.0}, {"a": 3.0, "b": 8.0})
    tenants = {name: Measured(samples=own) for name, own in samples.items()}
    tenants["a"] = replace(tenants["a"], alone=Baseline(Series.closed(np.full(50, 1.6))))
    a = summarise_crossover(tenants, blocks, BlockTelemetry()).tenants["a"]
    assert (a["mode_cost"], a["slowdown"]) == pytest.approx((1.25, 1.5))


def findings(found: RunSummary, **options: object) -> dict[str, str]:
    rule = {"target_pct": 3.0, "max_time_s": 15.0, "pinned": True, "redrawn": True} | options
    return {f.code: f.message for f in crossover_findings(found, **rule)}  # type: ignore[arg-type]


def test_a_missed_target_says_what_was_reached_and_whose_fault_it_is() -> None:
    """The host's, where alone blocks differ; a narrow run says nothing."""
    quiet = summary({"a": 2.0, "b": 4.0}, {"a": 3.0, "b": 8.0})
    assert findings(quiet) == {}
    noisy = summary({"a": 2.0, "b": 4.0}, {"a": 3.0, "b": 8.0}, noise=0.9)
    found = findings(noisy)
    assert "after 12 rounds" in found["target-missed"]
    assert "alone blocks of" in found["host-noise"]


def test_cores_that_could_not_be_drawn_are_said() -> None:
    """What the core adds is in no interval then."""
    quiet = summary({"a": 2.0, "b": 4.0}, {"a": 3.0, "b": 8.0})
    assert set(findings(quiet, redrawn=False)) == {"same-cores"}
    assert findings(quiet, redrawn=False, pinned=False) == {}


def test_a_tenant_that_was_never_compared_is_said() -> None:
    """And the run has no STP."""
    samples, blocks = run({"a": 2.0, "b": 60.0}, {"a": 3.0, "b": 60.0})
    tenants = {name: Measured(samples=own) for name, own in samples.items()}
    found = summarise_crossover(tenants, blocks, BlockTelemetry())
    assert "stp" not in found.metrics
    assert "no-comparison" in findings(found)

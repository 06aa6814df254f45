"""When a tenant has measured enough: iterations, time, the width of an interval, the cap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mtexp.metrics.samples import Samples
from mtexp.running.stopping import CAPTURE_S, enough_of
from mtexp.spec import MeasureSpec, ProfilerSpec, RunSpec
from tests.strategies import ar1, closed_loop


@dataclass
class Tenants:
    """A group of one tenant that has measured these latencies."""

    latency_ms: np.ndarray
    looks: int = 0

    def sample(self, slot: int) -> Samples:
        self.looks += 1
        return closed_loop(self.latency_ms)


def rule(latency_ms: np.ndarray | None = None, **measure: float | str):
    tenants = Tenants(np.ones(5) if latency_ms is None else latency_ms)
    spec = RunSpec(mix="x", tenants=(), measure=MeasureSpec(**measure))
    return enough_of(spec, tenants, lambda text: None), tenants


def test_iterations_and_time_are_needed_together() -> None:
    """Neither alone is enough; the first iteration, which counts in no figure, is not one of the hundred."""
    enough, _ = rule(iterations=100, min_time_s=2.0)
    assert not enough(0, 100, 10.0)
    assert not enough(0, 1000, 1.9)
    assert enough(0, 101, 2.0)


@pytest.mark.parametrize(("kind", "profiler", "ends"), [("profile", "nsys", True), ("profile", "ncu", False)])
def test_a_trace_ends_in_time(kind: str, profiler: str, ends: bool) -> None:
    """Its events pile up; one request under ncu takes minutes, and a timed run the time it needs."""
    spec = RunSpec(mix="x", tenants=(), kind=kind, profiler=ProfilerSpec(kind=profiler))
    enough = enough_of(spec, Tenants(np.ones(5)), lambda text: None)
    assert not enough(0, 3, CAPTURE_S - 1)
    assert enough(0, 3, CAPTURE_S) is ends
    timed, _ = rule()
    assert not timed(0, 3, CAPTURE_S)


def test_until_ci_waits_for_a_narrow_interval() -> None:
    """Noisy latencies: not yet; many of them: enough."""
    rng = np.random.default_rng(0)
    noise = ar1(rng, 4000, spread=3.0)
    wide, _ = rule(noise[:50], iterations=20, until_ci_pct=2.0)
    assert not wide(0, 50, 1.0)
    narrow, _ = rule(noise, iterations=20, until_ci_pct=2.0)
    assert narrow(0, 4000, 1.0)


def test_until_ci_does_not_wait_for_a_slow_first_iteration() -> None:
    """It counts in no figure, and so not in the interval that ends the run."""
    enough, _ = rule(np.array([1000.0] + [10.0] * 50), iterations=20, until_ci_pct=2.0)
    assert enough(0, 51, 1.0)


@pytest.mark.parametrize("statistic", ["p50", "p90", "p99"])
def test_until_ci_of_a_percentile_needs_iterations_for_it(statistic: str) -> None:
    """However little the latencies spread, a percentile is not believed before it is supported."""
    options = {"iterations": 5, "until_ci_pct": 5.0, "until_ci_statistic": statistic}
    few, _ = rule(np.full(5, 10.0), **options)
    assert not few(0, 5, 1.0)
    many, _ = rule(np.random.default_rng(1).normal(10, 0.05, 2000), **options)
    assert many(0, 2000, 1.0)


def test_until_ci_has_a_cap() -> None:
    """``max_iterations`` ends it, narrow or not."""
    enough, _ = rule(np.array([1.0, 1000.0] * 20), iterations=20, until_ci_pct=0.1, max_iterations=500)
    assert not enough(0, 500, 1.0)
    assert enough(0, 501, 1.0)


def test_the_interval_is_looked_at_ten_times_a_second() -> None:
    """The parent does not compute without a pause beside the tenants."""
    enough, tenants = rule(np.array([1.0, 1000.0] * 20), iterations=20, until_ci_pct=0.1)
    for tick in range(100):
        enough(0, 40, 1.0 + tick / 100)
    assert 9 <= tenants.looks <= 11


def test_without_until_ci_nobody_reads_the_samples() -> None:
    """The plain rule costs two comparisons."""
    enough, tenants = rule(iterations=10)
    assert enough(0, 11, 0.1)
    assert tenants.looks == 0

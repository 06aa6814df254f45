"""What the live line says while tenants measure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtexp.metrics.crossover import Rounds
from mtexp.running import crossover, stopping
from mtexp.spec import MeasureSpec


def test_rounds_come_with_the_estimate_and_the_time_left() -> None:
    """Two tenants that are slowed by 2 each: STP 1; 11 of 15 s are left."""
    rng = np.random.default_rng(0)
    alone = rng.lognormal(0, 0.01, (12, 2))
    together = alone * 2 * rng.lognormal(0, 0.01, (12, 2))
    latency = Rounds(("a", "b"), alone, together, np.arange(12))
    rule = MeasureSpec(design="crossover", target_pct=3.0, max_time_s=15.0)
    text = crossover.so_far(12, [latency], rule, 11.0)
    for part in ("12 rounds", "STP 1.0", "of 3 %", "11 s left"):
        assert part in text
    assert crossover.so_far(1, [], rule, -1.0) == "measuring: 1 round"


@pytest.mark.parametrize(
    ("iterations", "elapsed_s", "rule", "left"),
    [
        (25, 5.0, MeasureSpec(iterations=100), "15 s left"),
        (100, 5.0, MeasureSpec(iterations=100, min_time_s=30.0), "25 s left"),
        (200, 5.0, MeasureSpec(iterations=100, until_ci_pct=2.0), "2 %"),
    ],
)
def test_iterations_come_with_the_time_left(iterations: int, elapsed_s: float, rule: MeasureSpec, left: str) -> None:
    """By the rate so far, by the least time, or until the interval is narrow enough."""
    text = stopping.so_far(iterations, elapsed_s, rule)
    assert f"{iterations} of 100 iterations" in text
    assert text.endswith(left) or left in text


def test_medians_come_with_their_interval_once_there_are_requests() -> None:
    """Of the requests that count, 2 to 201 ms; a tenant with too few of them is left out."""
    latency = {0: np.arange(201.0) + 1, 1: np.arange(5.0)}
    tenants: Any = SimpleNamespace(
        sample=lambda slot: SimpleNamespace(measured=SimpleNamespace(latency_ms=latency[slot]))
    )
    spec: Any = SimpleNamespace(tenants=[SimpleNamespace(id="x"), SimpleNamespace(id="y")])
    text = stopping.medians(spec, tenants)
    assert text.startswith("; p50 ms x 101.5 +- ")
    assert "y" not in text
    latency[0] = np.arange(2.0)
    assert stopping.medians(spec, tenants) == ""

"""Two sharing modes measured side by side: what the ratios are, and whether their intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from mtexp.metrics.crossover import Rounds
from mtexp.metrics.side_by_side import Side, mode_ratios
from mtexp.testing.two_states import Host


def side(alone_ms: ArrayLike, together_ms: ArrayLike) -> Side:
    """A side whose cycles are its latencies, shape (rounds, tenants)."""
    alone, together = np.asarray(alone_ms, dtype=np.float64), np.asarray(together_ms, dtype=np.float64)
    rounds = Rounds(("a", "b"), alone, together, np.arange(len(alone)))
    return Side(rounds, rounds)


def test_figures_without_noise() -> None:
    """Time slicing: 1 and 2 ms alone, 2 and 4 together. The mode: 1.1 and 2.2 alone, 1.5 and 3 together."""
    sliced = side([[1.0, 2.0]] * 4, [[2.0, 4.0]] * 4)
    found = mode_ratios(side([[1.1, 2.2]] * 4, [[1.5, 3.0]] * 4), sliced, whole=True)
    for figures in found.tenants.values():
        values = {key: interval.value for key, interval in figures.items()}
        assert values == pytest.approx(
            {
                "latency_ratio": 0.75,
                "throughput_ratio": 4 / 3,
                "mode_cost": 1.1,
                "slowdown_whole": 1.5,
                "normalized_progress_whole": 1 / 1.5,
            }
        )
    run = {key: interval.value for key, interval in found.run.items()}
    in_mode = 2 * 1.1 / 1.5
    assert run == pytest.approx(
        {"stp_ratio": in_mode, "stp_whole": 2 / 1.5, "antt_whole": 1.5, "stp_whole_ratio": 2 / 1.5}
    )


def test_without_time_slicing_nothing_is_said_of_the_whole_device() -> None:
    """Two MPS settings: ratios only."""
    found = mode_ratios(side([[1.0, 1.0]] * 3, [[2.0, 2.0]] * 3), side([[1.0, 1.0]] * 3, [[1.0, 1.0]] * 3), whole=False)
    assert set(found.run) == {"stp_ratio"}
    assert set(found.tenants["a"]) == {"latency_ratio", "throughput_ratio"}


def test_rounds_are_paired() -> None:
    """What moves both modes of a round is in no interval; a side that ended earlier is compared over its rounds."""
    drift = np.exp(np.random.default_rng(0).standard_normal((20, 2)))
    found = mode_ratios(side(drift, 3 * drift), side(drift[:12], 2 * drift[:12]), whole=True)
    assert found.run["stp_ratio"].half_width_pct == pytest.approx(0, abs=1e-9)
    assert found.tenants["a"]["latency_ratio"].low == pytest.approx(1.5)


def test_a_tenant_without_rounds_has_no_figures() -> None:
    """And the run no STP."""
    nothing = side([[1.0, np.nan]] * 3, [[1.0, np.nan]] * 3)
    found = mode_ratios(nothing, side([[1.0, 1.0]] * 3, [[1.0, 1.0]] * 3), whole=True)
    assert not found.run
    assert not found.tenants["b"]


def _claims(modes: list[tuple[float, float]], runs: int = 200) -> tuple[float, float]:
    """Shares of runs in which the ratio of STP is called different from 1, and in which its interval is right."""
    different = held = 0
    truth = (modes[1][0] * modes[1][1] / modes[0][0]) ** -1 * modes[0][1]
    for seed in range(runs):
        host = Host(np.random.default_rng([7, seed]), seconds=30.0, spell_s=(0.1, 10.0))
        first, second = (Side(rounds, rounds) for rounds in host.side_by_side(modes, 40))
        found = mode_ratios(second, first, whole=True).run["stp_whole_ratio"]
        different += not found.low <= 1 <= found.high
        held += found.low <= truth <= found.high
    return different / runs, held / runs


def test_one_mode_twice_is_seldom_called_different() -> None:
    """A/A on a host whose cores are fast or slow for spells of 0.1 to 10 s."""
    different, _ = _claims([(1.0, 1.4), (1.0, 1.4)])
    assert different <= 0.07  # 5 % and the noise of 200 runs


def test_intervals_hold_the_ratio_of_two_modes() -> None:
    """A mode that costs a lone tenant 10 %, and in which tenants slow each other less."""
    _, held = _claims([(1.0, 1.6), (1.1, 1.2)])
    assert held >= 0.92

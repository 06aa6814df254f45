"""Limits of the clock are judged by the clock that they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mtexp.metrics.clock import ClockPolls, clock_findings, lost

CAP, SW_THERMAL, IDLE = 0x4, 0x20, 0x1


def _found(
    mhz: Sequence[float], reasons: Sequence[int] | int = 0, baseline_mhz: float | None = 1980.0, highest: float = 1980.0
) -> dict[str, str]:
    """Level by code."""
    bits = np.broadcast_to(np.asarray(reasons, dtype=np.int64), len(mhz))
    polls = ClockPolls(np.asarray(mhz, dtype=np.float64), bits)
    clock = lost(polls, baseline_mhz, highest)
    return {f.code: f.level for f in clock_findings(clock, int(np.bitwise_or.reduce(bits)))}


def test_a_clock_that_is_low_throughout_is_found_against_the_baseline() -> None:
    """It has no drop of its own: only the baseline knows that it should have been 1980."""
    assert _found([1200] * 100) == {"clock-drop": "invalid"}


def test_one_poll_of_the_power_cap_excuses_nothing_else() -> None:
    """The cap is labelled, and the rest of the drop is judged as if it were not there."""
    reasons = [0] * 100
    reasons[50] = CAP
    assert _found([1200] * 100, reasons) == {"clock-drop": "invalid", "power-limited": "warning"}


def test_the_power_cap_is_labelled_with_its_share_and_does_not_make_a_run_invalid() -> None:
    """A lone 7B model moves the clock of a 700 W card by a quarter: the cause is known."""
    clock = lost(ClockPolls(np.array([1980.0] * 20 + [1485.0] * 80), np.array([0] * 20 + [CAP] * 80)), 1980.0)
    assert clock is not None
    assert (clock.capped_pct, clock.capped_lost_pct) == (pytest.approx(80), pytest.approx(20))
    (finding,) = clock_findings(clock, CAP)
    assert (finding.code, finding.level) == ("power-limited", "warning")
    assert "80 % of the window" in finding.message
    assert "20.0 % of the SM clock" in finding.message


@pytest.mark.parametrize(("mhz", "level"), [(1967.0, "warning"), (1890.0, "warning"), (1870.0, "invalid")])
def test_thermal_slowdown_is_judged_by_what_it_costs(mhz: float, level: str) -> None:
    """0.7 % is a warning, also where it is active for half the window; more than 5 % is INVALID."""
    assert _found([mhz] * 100, SW_THERMAL) == {"throttling": level}


def test_thermal_slowdown_under_the_power_cap_is_thermal_slowdown() -> None:
    """Both at once: the cap does not excuse the other."""
    assert _found([1700] * 100, CAP | SW_THERMAL) == {"throttling": "invalid", "power-limited": "warning"}


def test_losses_of_several_causes_add_up() -> None:
    """3 % by heat and 4 % by nothing named are 7 %: the larger part is the reason."""
    found = _found([1980 * 0.94] * 50 + [1980 * 0.92] * 50, [SW_THERMAL] * 50 + [0] * 50)
    assert found == {"throttling": "warning", "clock-drop": "invalid"}


def test_a_short_dip_is_said_and_leaves_the_run_valid() -> None:
    """345 MHz for a hundredth of the window is 0.8 % of the clock."""
    assert _found([345] + [1980] * 99) == {"clock-drop": "warning"}


def test_the_driver_may_name_the_cap_a_poll_late() -> None:
    """On an H200 the clock is down one poll before the reason is there; that is no other cause."""
    assert _found([1980] * 50 + [1665] * 50, [0] * 51 + [CAP] * 49) == {"power-limited": "warning"}


def test_an_idle_device_loses_nothing() -> None:
    """Between the requests of an open loop the clock may rest."""
    assert _found([1980] * 50 + [210] * 50, [0] * 50 + [IDLE] * 50) == {}


def test_without_a_baseline_the_run_is_compared_with_its_own_best() -> None:
    """A baseline has none itself: a drop in its course is found, a steady clock is not."""
    assert _found([1980] * 60 + [1500] * 40, baseline_mhz=None) == {"clock-drop": "invalid"}
    assert _found([1200] * 100, baseline_mhz=None) == {}


def test_a_baseline_that_is_throttled_throughout_never_was_at_its_best() -> None:
    """Then it is compared with the clock that the device is set to."""
    assert _found([1200] * 100, SW_THERMAL, baseline_mhz=None) == {"throttling": "invalid"}


@pytest.mark.parametrize("mhz", [1881.0, 1980.0, 2100.0])
def test_at_the_limit_nothing_is_invalid(mhz: float) -> None:
    """5 % less is allowed, more than the baseline is no loss."""
    assert "invalid" not in _found([mhz] * 100).values()


def test_without_a_poll_the_cost_is_unknown() -> None:
    """Throttling that only a counter saw makes the run INVALID, as nothing says that it cost little."""
    assert lost(ClockPolls(np.empty(0), np.empty(0, dtype=np.int64)), 1980.0) is None
    assert {f.code: f.level for f in clock_findings(None, 0x40 | CAP)} == {
        "throttling": "invalid",
        "power-limited": "warning",
    }
    assert not list(clock_findings(None, 0))

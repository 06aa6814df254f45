"""The search for a capacity: what is tried next, what a run says, what is known at the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtexp.metrics.capacity import ABOVE, BELOW, FOUND, OPEN, PROBES, STOPPED, Probe, Rule, conclude, judge, next_value

BOUNDS = st.tuples(st.floats(0.01, 5), st.floats(1.05, 1000)).map(lambda b: (b[0], b[0] * b[1]))
RULES = st.builds(
    lambda bounds, tolerance_pct: Rule(low=bounds[0], high=bounds[1], tolerance_pct=tolerance_pct, max_probes=60),
    BOUNDS,
    st.floats(0.5, 50),
)


def search(rule: Rule, capacity: float, begun: tuple[Probe, ...] = ()) -> list[Probe]:
    """Search where every value up to ``capacity`` keeps the level."""
    probes = list(begun)
    while (value := next_value(rule, probes)) is not None:
        probes.append(Probe(value, value <= capacity))
        assert len(probes) <= rule.max_probes
    return probes


@given(rule=RULES, share=st.floats(0, 1, exclude_max=True))
def test_the_capacity_lies_between_kept_and_missed(rule: Rule, share: float) -> None:
    """Wherever it is inside the bounds: kept <= capacity < missed, no further apart than the tolerance."""
    capacity = min(rule.low + share * (rule.high - rule.low), rule.high * (1 - 1e-9))
    found = conclude(rule, search(rule, capacity))
    assert found.outcome == FOUND
    assert found.kept is not None
    assert found.missed is not None
    assert rule.low <= found.kept <= capacity < found.missed <= rule.high
    assert found.missed <= found.kept * (1 + rule.tolerance_pct / 100)


@given(rule=RULES, share=st.floats(0, 2))
def test_nothing_is_measured_twice_or_outside_the_bounds(rule: Rule, share: float) -> None:
    """Every probe is a new value from low to high."""
    values = [probe.value for probe in search(rule, rule.high * share)]
    assert len(set(values)) == len(values)
    assert all(rule.low <= value <= rule.high for value in values)


@given(rule=RULES, share=st.floats(0, 2), stop=st.integers(0, 30))
def test_a_search_that_was_interrupted_ends_like_one_that_was_not(rule: Rule, share: float, stop: int) -> None:
    """What is tried next depends on what was measured, and on nothing else."""
    whole = search(rule, rule.high * share)
    assert search(rule, rule.high * share, tuple(whole[:stop])) == whole


@given(rule=RULES)
def test_a_capacity_outside_the_bounds_is_told_as_such(rule: Rule) -> None:
    """The upper bound that keeps ends the search at once; the lower that misses is reached and named."""
    probes = search(rule, rule.high)
    assert (probes, conclude(rule, probes).outcome) == ([Probe(rule.high, True)], ABOVE)
    missed = conclude(rule, search(rule, rule.low * (1 - 1e-9)))
    assert (missed.outcome, missed.kept, missed.missed) == (BELOW, None, rule.low)


@given(rule=RULES, share=st.floats(0, 1), at=st.integers(0, 5))
def test_a_probe_that_says_nothing_ends_the_search(rule: Rule, share: float, at: int) -> None:
    """It is neither kept nor missed: what was known before it still is, and no more."""
    before = search(rule, rule.high * share)[:at]
    probes = [*before, Probe(rule.high / 3, None, "FAILED")]
    found = conclude(rule, probes)
    assert next_value(rule, probes) is None
    assert found.outcome == STOPPED
    assert (found.kept, found.missed) == (conclude(rule, before).kept, conclude(rule, before).missed)


def test_the_number_of_runs_is_capped() -> None:
    """With max_probes used up the search ends with what is known."""
    rule = Rule(low=0.01, high=100, tolerance_pct=0.5, max_probes=4)
    probes: list[Probe] = []
    while (value := next_value(rule, probes)) is not None:
        probes.append(Probe(value, value <= 3))
    found = conclude(rule, probes)
    assert len(probes) == 4
    assert found.outcome == PROBES
    assert found.kept is not None
    assert found.missed is not None
    assert found.kept <= 3 < found.missed


def test_loads_are_numbers_one_can_read() -> None:
    """Three digits: 0.224, not 0.22360679774997896. Nothing measured yet is open."""
    rule = Rule(low=0.05, high=1, tolerance_pct=5)
    values = [probe.value for probe in search(rule, 0.4)]
    assert values[:3] == [1, 0.224, 0.473]
    assert all(value == float(f"{value:.3g}") for value in values)
    assert conclude(rule, []).outcome == OPEN


TENANT = {"slo_ms": 20.0, "slo_attainment_pct": 99.5, "iterations_in_window": 700, "throughput_rps": 100.0}


def _judged(*tenants: dict[str, float], levels: tuple[str, ...] = ()) -> tuple[bool | None, str]:
    return judge({f"t{i}": tenant for i, tenant in enumerate(tenants)}, 99.0, levels)


def test_a_level_is_kept_by_all_or_not_at_all() -> None:
    """Every tenant with a level must attain it; one without a level has no say."""
    assert _judged(TENANT, TENANT)[0] is True
    kept, why = _judged(TENANT, TENANT | {"slo_attainment_pct": 98.9})
    assert kept is False
    assert "t1 98.90 %" in why
    assert _judged(TENANT, {"iterations_in_window": 3, "throughput_rps": 1})[0] is True


def test_a_saturated_tenant_misses() -> None:
    """Also one without a level, and however well the others do: its queue grows for as long as one measures."""
    kept, why = _judged(TENANT, {"saturated": 1.0})
    assert kept is False
    assert "t1 saturated" in why


@pytest.mark.parametrize(
    ("change", "remedy"),
    [({"iterations_in_window": 661}, "raise measure.iterations"), ({"throughput_rps": 2000.0}, "measure.min_time_s")],
)
def test_too_little_is_no_evidence(change: dict[str, float], remedy: str) -> None:
    """99 % of too few requests, or of too short a window, is not kept; a miss stays a miss."""
    kept, why = _judged(TENANT | change)
    assert kept is None
    assert remedy in why
    assert _judged(TENANT | change | {"slo_attainment_pct": 10.0})[0] is False


def test_a_window_of_whole_requests_is_as_long_as_was_asked_for() -> None:
    """It ends with the last whole request: 0.39 s of the 0.4 s that were set and measured are enough."""
    assert _judged(TENANT | {"throughput_rps": 700 / 0.39})[0] is True


def test_a_level_that_could_not_be_had_says_nothing() -> None:
    """A multiple of a baseline that is not there: the tenant has no attainment, and nothing is claimed."""
    kept, why = _judged(TENANT, {"iterations_in_window": 700.0}, levels=("t0", "t1"))
    assert kept is None
    assert "t1 has no service level" in why

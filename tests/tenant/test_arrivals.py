"""When requests come: reproducible, at the rate asked for, in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtexp.spec import ArrivalSpec
from mtexp.tenant.arrivals import arrival_instants_ns

rates = st.floats(0.1, 10_000)
seeds = st.integers(0, 2**32)


@given(rates, seeds, st.integers(0, 500))
def test_equal_seeds_give_equal_arrivals_in_order(rate: float, seed: int, count: int) -> None:
    """From the start on, never back in time; the start moves all of them alike."""
    arrival = ArrivalSpec(kind="poisson", rate_rps=rate, seed=seed)
    instants = arrival_instants_ns(arrival, 10**12, count)
    assert instants == arrival_instants_ns(arrival, 10**12, count)
    assert len(instants) == count
    assert instants == sorted(instants)
    assert all(instant >= 10**12 for instant in instants)
    assert [i - 10**12 for i in instants] == arrival_instants_ns(arrival, 0, count)


def test_another_seed_gives_other_arrivals() -> None:
    """Two tenants' requests do not come at once."""
    one, other = (arrival_instants_ns(ArrivalSpec(kind="poisson", rate_rps=10, seed=s), 0, 50) for s in (1, 2))
    assert not set(one) & set(other)


@given(rates, seeds)
def test_poisson_has_the_rate_and_the_spread_of_one(rate: float, seed: int) -> None:
    """Mean gap 1 / rate, standard deviation as large as the mean."""
    gaps = np.diff(arrival_instants_ns(ArrivalSpec(kind="poisson", rate_rps=rate, seed=seed), 0, 20_000)) / 1e9
    assert gaps.mean() == pytest.approx(1 / rate, rel=0.05)
    assert gaps.std() == pytest.approx(1 / rate, rel=0.1)


def test_constant_comes_at_equal_gaps_from_the_start() -> None:
    """The first one at the start."""
    assert arrival_instants_ns(ArrivalSpec(kind="constant", rate_rps=4), 100, 3) == [100, 250_000_100, 500_000_100]


def test_a_trace_gives_its_own_arrivals() -> None:
    """As many as it has, at most those there is room for."""
    arrival = ArrivalSpec(kind="trace", trace=(0.0, 0.5, 0.5, 2.0))
    assert arrival_instants_ns(arrival, 10, 100) == [10, 500_000_010, 500_000_010, 2_000_000_010]
    assert len(arrival_instants_ns(arrival, 10, 2)) == 2


@pytest.mark.parametrize(("kind", "rate"), [("poisson", 0.0), ("constant", -1.0), ("closed", 1.0)])
def test_what_is_no_arrival_process_is_an_error(kind: str, rate: float) -> None:
    """No rate, or a closed loop."""
    with pytest.raises(ValueError, match="arrival"):
        arrival_instants_ns(ArrivalSpec(kind=kind, rate_rps=rate), 0, 5)

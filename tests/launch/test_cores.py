"""Who gets which CPU core."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mtexp.launch import plan_cores

groups = st.lists(st.integers(1, 4), min_size=1, max_size=6)
cores = st.lists(st.integers(0, 200), unique=True, max_size=40).map(sorted)


@given(groups, cores)
def test_cores_are_disjoint_or_nobodys(tenants: list[int], available: list[int]) -> None:
    """One core a tenant, one for the sampler, the rest for the parent; with too few, nobody is pinned."""
    plan = plan_cores(tenants, available)
    assert len(plan.processes) == len(tenants)
    if not plan.pinned:
        assert len(available) < sum(tenants) + 2
        assert not any(plan.processes)
        assert plan.sampler == plan.parent == ()
        return
    assert [len(own) for own in plan.processes] == tenants
    given_out = [core for own in (*plan.processes, plan.sampler, plan.parent) for core in own]
    assert sorted(given_out) == available
    assert len(plan.sampler) == 1


@given(groups, cores)
def test_nobody_is_pinned_who_does_not_want_to(tenants: list[int], available: list[int]) -> None:
    """``measure.pin_cores=false``."""
    assert not plan_cores(tenants, available, pin=False).pinned


def test_a_tenant_has_the_same_number_of_cores_alone_and_shared() -> None:
    """More cores for a lone tenant would look like interference."""
    alone, shared = plan_cores([1], range(16)), plan_cores([1, 1, 1, 1], range(16))
    assert {len(own) for own in (*alone.processes, *shared.processes)} == {1}

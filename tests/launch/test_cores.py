"""Who gets which CPU core."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtexp.errors import HostError
from mtexp.launch import CorePlan, leased_cores, plan_cores

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


@pytest.fixture(params=["0,4 1,5 2,6 3,7", "0-1 2-3 4-5 6-7"], ids=["as servers number", "as clouds number"])
def physical(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """A host of four physical cores of two threads each; the physical core of each thread."""
    monkeypatch.setenv("MTEXP_LEASE_DIR", str(tmp_path / "lease"))
    monkeypatch.setattr("mtexp.launch.cores.os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr("mtexp.launch.cores._CPUS", tmp_path)
    found = {}
    for siblings in request.param.split():
        for core in map(int, siblings.replace("-", ",").split(",")):
            topology = tmp_path / f"cpu{core}" / "topology"
            topology.mkdir(parents=True)
            (topology / "thread_siblings_list").write_text(siblings + "\n")
            found[core] = siblings
    return found


def test_tenants_have_physical_cores_of_their_own(physical: dict[int, str]) -> None:
    """No two of three tenants and the sampler are on one; six tenants have to share, and the plan says how many do."""
    with leased_cores([1, 1, 1]) as plan:
        assert len({physical[core] for core in _own(plan)}) == 4
        assert plan.on_shared_cores == 0
    with leased_cores([1] * 6) as crowded:
        assert (crowded.pinned, crowded.on_shared_cores) == (True, 4)


def test_spare_cores_are_physical_cores_that_nobody_else_has(physical: dict[int, str]) -> None:
    """Four physical cores: a tenant, the sampler, two spare ones; held like the others, and the parent keeps off."""
    with leased_cores([1], spare=True) as plan:
        assert len(plan.spare) == 2
        assert len({physical[core] for core in (*plan.pool, *plan.sampler)}) == 4
        assert not set(plan.spare) & set(plan.parent)
        with leased_cores([1], spare=True) as second:
            assert not set(plan.pool) & {*second.pool, *second.parent, *second.sampler}
            assert second.pool == ()
    with leased_cores([1] * 3, spare=True) as full:
        assert full.pool == ()


def test_two_runs_have_physical_cores_of_their_own(physical: dict[int, str]) -> None:
    """As long as there are any; a third run is told that it has to share."""
    with leased_cores([1]) as first, leased_cores([1]) as second:
        assert len({physical[core] for plan in (first, second) for core in _own(plan)}) == 4
        assert second.on_shared_cores == 0
        with leased_cores([1]) as third:
            assert (third.pinned, third.on_shared_cores) == (True, 1)


@pytest.fixture
def sixteen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of 16 cores, and the directory of its leases."""
    monkeypatch.setenv("MTEXP_LEASE_DIR", str(tmp_path / "lease"))
    monkeypatch.setattr("mtexp.launch.cores.os.sched_getaffinity", lambda pid: set(range(16)))
    return tmp_path / "lease"


def _own(plan: CorePlan) -> set[int]:
    return {core for cores in (*plan.processes, plan.sampler) for core in cores}


def test_two_runs_on_one_host_have_cores_of_their_own(sixteen: Path) -> None:
    """Two GPUs, two runs: neither pins to, nor keeps its parent on, a core that the other has leased; once one has
    ended, its cores are free again."""
    with leased_cores([1, 1]) as first:
        with leased_cores([2]) as second:
            assert (first.pinned, second.pinned) == (True, True)
            assert (len(_own(first)), len(_own(second))) == (3, 3)
            assert not _own(first) & (_own(second) | set(second.parent))
        with leased_cores([2]) as third:
            assert _own(third) == _own(second)
    with leased_cores([1, 1]) as again:
        assert again == first


def test_a_run_that_finds_too_few_cores_free_says_whose_fault_it_is(sixteen: Path) -> None:
    """Nobody is pinned to half of what it needs, and nothing is taken from whoever comes next."""
    with leased_cores([1] * 9) as first:
        with leased_cores([1] * 5) as second:
            assert (second.pinned, second.held_by_others) == (False, 10)
            with leased_cores([1] * 4) as third:
                assert third.pinned
        assert first.held_by_others == 0
    with leased_cores([1] * 15) as alone:
        assert (alone.pinned, alone.held_by_others, alone.missing) == (False, 0, 1)
    with leased_cores([1], pin=False) as unpinned:
        assert (unpinned.pinned, unpinned.held_by_others, unpinned.missing) == (False, 0, 0)


def test_leases_of_cores_are_open_to_every_user(sixteen: Path) -> None:
    """Another user's run is next; a directory that cannot be used is named."""
    with leased_cores([1]):
        modes = {path.name: path.stat().st_mode & 0o777 for path in sixteen.iterdir()}
    assert set(modes.values()) == {0o666}
    assert {"cores.lock", "core-15.lock", "core-14.lock"} <= set(modes)
    for path in sixteen.iterdir():
        path.unlink()
    os.rmdir(sixteen)
    sixteen.write_text("")
    with pytest.raises(HostError, match="MTEXP_LEASE_DIR"), leased_cores([1]):
        pass

"""Tenant groups with real children, when all goes well: phases, protocols, samples, facts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtexp.launch import ForkserverStarter, InterpreterStarter
from mtexp.metrics.window import common_window
from mtexp.spec import ArrivalSpec, DeadlineSpec
from tests.launch.launch_helpers import DEADLINES, MEASURE, Exits, SlowExport, group_of, lead, stressor

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]


@pytest.mark.parametrize("starter", [ForkserverStarter(), InterpreterStarter()], ids=["forkserver", "interpreter"])
def test_both_starters_lead_tenants_through_all_phases(
    tmp_path: Path, starter: ForkserverStarter | InterpreterStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same child code: facts before and after, warm-ups and iterations, orderly ends, a log each."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # a tenant has one thread whatever is asked for
    exits = Exits(starter)
    core = min(os.sched_getaffinity(0))
    with group_of(tmp_path, [stressor("a"), stressor("b")], starter=exits, cores=(core,)) as (group, jobs):
        group.start(jobs)
        pids = group.pids
        group.build()
        group.begin_warm_up()
        before = group.warm_up()
        group.measure(lambda slot, count, elapsed_s: count >= 20)
        group.begin_finish()
        after = group.finish()
        samples = group.samples()
    for facts in (before, after):
        assert [facts[t]["pid"] for t in "ab"] == pids
        assert all(facts[t]["device_name"] == "cpu" and facts[t]["num_threads"] == 1 for t in "ab")
        assert all(facts[t]["cores"] == [core] for t in "ab")
    for measured in samples.values():
        assert np.count_nonzero(measured.phase == 0) == MEASURE.warmup
        assert len(measured.measured) >= 20
        assert (measured.end_ns > measured.start_ns).all()
        assert (measured.start_ns[1:] >= measured.end_ns[:-1]).all()
    assert common_window(list(samples.values())) is not None
    assert exits.codes == {"a": 0, "b": 0}
    assert all((tmp_path / "logs" / f"{t}.log").is_file() for t in "ab")


def test_sustained_goes_on_until_everyone_has_enough(tmp_path: Path) -> None:
    """The fast tenant runs beside the slow one to the last iteration that counts."""
    with group_of(tmp_path, [stressor("fast", 50), stressor("slow", 1000)]) as (group, jobs):
        lead(group, jobs)
        fast, slow = (group.samples()[t].measured for t in ("fast", "slow"))
    assert len(slow) >= 20
    assert len(fast) > len(slow)
    assert fast.end_ns[-1] >= slow.end_ns[19]


def test_fixed_measures_so_many_and_waits(tmp_path: Path) -> None:
    """N iterations each, however fast; then idle until the others have theirs."""
    fixed = replace(MEASURE, overlap="fixed")
    with group_of(tmp_path, [stressor("fast", 5), stressor("slow", 500)], measure=fixed) as (group, jobs):
        lead(group, jobs, iterations=10**9)
        assert {t: len(s.measured) for t, s in group.samples().items()} == {"fast": 20, "slow": 20}


def test_tenants_of_one_process_run_at_once(tmp_path: Path) -> None:
    """``sharing=streams``: a thread each, one pid, samples of their own."""
    with group_of(tmp_path, [stressor("a"), stressor("b")], together=True) as (group, jobs):
        facts = lead(group, jobs)
        a, b = (group.samples()[t].measured for t in "ab")
    assert facts["a"]["pid"] == facts["b"]["pid"]
    assert facts["a"]["thread_id"] != facts["b"]["thread_id"]
    assert min(len(a), len(b)) >= 20
    assert common_window([a, b]) is not None


def test_a_trace_may_take_longer_to_write_than_an_iteration_may_take(tmp_path: Path) -> None:
    """Nothing stalls while it is written: ``deadlines.stall_s`` is for iterations."""
    deadlines = replace(DEADLINES, stall_s=1.0)
    with group_of(tmp_path, [stressor("a")], starter=SlowExport(), deadlines=deadlines) as (group, jobs):
        lead(group, [replace(job, torch_trace=str(tmp_path)) for job in jobs])
        assert len(group.samples()["a"].measured) >= 20
    assert (tmp_path / "a.trace.json").is_file()


def test_an_idle_tenant_is_not_stuck(tmp_path: Path) -> None:
    """Arrivals may be further apart than the stall deadline."""
    rare = stressor("a", arrival=ArrivalSpec(kind="constant", rate_rps=0.01))
    with group_of(tmp_path, [rare], deadlines=replace(DEADLINES, stall_s=1.0)) as (group, jobs):
        group.start(jobs)
        group.build()
        group.begin_warm_up()
        group.warm_up()
        group.measure(lambda slot, count, elapsed_s: elapsed_s > 2.5)
        group.begin_finish()
        group.finish()
        assert len(group.samples()["a"].measured) == 1


def test_no_room_for_samples_ends_the_measuring(tmp_path: Path) -> None:
    """And the group says whose buffer is full."""
    with group_of(tmp_path, [stressor("a", 5)], capacity=50) as (group, jobs):
        lead(group, jobs, iterations=10**9)
        assert group.full() == ["a"]
        assert len(group.samples()["a"]) == 50


def test_a_group_that_is_not_started_leaves_nothing(tmp_path: Path) -> None:
    """Construct, enter, leave."""
    with group_of(tmp_path, [stressor("a")]) as (group, _):
        assert group.pids == []
        assert len(group.samples()["a"]) == 0


def test_several_groups_share_one_forkserver(tmp_path: Path) -> None:
    """One after another, with deadlines of their own."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with group_of(tmp_path / name, [stressor("a")], deadlines=DeadlineSpec()) as (group, jobs):
            assert lead(group, jobs)["a"]["parameters"] == 0

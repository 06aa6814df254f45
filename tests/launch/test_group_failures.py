"""Tenants that fail for real: who, in which phase, why, and no process left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from mtexp.errors import TenantFailed
from mtexp.launch import ForkserverStarter, TenantGroup
from mtexp.launch.endings import why
from mtexp.launch.starters import Child
from mtexp.spec import DeadlineSpec
from mtexp.tenant.job import ProcessJob
from mtexp.testing.faults import BUILD, START, Fault, FaultyStarter
from tests.launch.launch_helpers import DEADLINES, MEASURE, Exits, group_of, lead, lead_to_gate, stressor

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

MEASURING = 10
"""A request after the three warm-ups."""


def fail(folder: Path, fault: Fault, deadlines: DeadlineSpec = DEADLINES) -> tuple[TenantFailed, Exits, int]:
    """Run ``a`` beside ``b``, which has the fault; return the failure, the exits and what ``a`` had measured."""
    exits = Exits(FaultyStarter({"b": fault}))
    with (
        pytest.raises(TenantFailed) as caught,
        group_of(folder, [stressor("a"), stressor("b")], starter=exits, deadlines=deadlines) as (group, jobs),
    ):
        lead(group, jobs, iterations=10**9)
    return caught.value, exits, len(group.samples()["a"])


@pytest.mark.parametrize(
    ("kind", "at", "phase", "cause", "exit_code"),
    [
        ("raise", BUILD, "build", "RuntimeError: a fault was asked for", 1),
        ("raise", 1, "warm-up", "RuntimeError: a fault was asked for", 1),
        ("raise", MEASURING, "measure", "RuntimeError: a fault was asked for", 1),
        ("memory", BUILD, "build", "can't allocate memory: you tried to allocate 1073741824 bytes", 1),
        ("memory", MEASURING, "measure", "can't allocate memory", 1),
        ("segfault", 1, "warm-up", "ended by SIGSEGV", -signal.SIGSEGV),
        ("kill", START, "start", "ended by SIGKILL", -signal.SIGKILL),
        ("kill", BUILD, "build", "ended by SIGKILL", -signal.SIGKILL),
        ("kill", MEASURING, "measure", "ended by SIGKILL", -signal.SIGKILL),
        ("terminate", MEASURING, "measure", "ended by SIGTERM", 128 + signal.SIGTERM),
    ],
)
def test_a_tenant_that_ends_is_named_with_its_reason(
    tmp_path: Path, kind: str, at: int, phase: str, cause: str, exit_code: int
) -> None:
    """Tenant, phase, cause, exit code, log; its neighbour is asked to leave and does, its samples are there."""
    error, exits, measured = fail(tmp_path, Fault(kind=kind, at=at))
    assert (error.tenant, error.phase, error.exit_code) == ("b", phase, exit_code)
    assert cause in error.cause
    assert error.log == tmp_path / "logs" / "b.log"
    for part in ("tenant b failed in " + phase, f"exit code {exit_code}", "b.log"):
        assert part in str(error)
    if at != START:
        assert exits.codes == {"a": 0, "b": exit_code}
    assert (measured > 0) == (phase in ("warm-up", "measure"))


def test_the_last_lines_of_the_log_are_shown(tmp_path: Path) -> None:
    """The traceback of an exception, the Python stack of a crash."""
    error, _, _ = fail(tmp_path, Fault(kind="raise", at=BUILD))
    assert error.log_tail.endswith("RuntimeError: a fault was asked for")
    (tmp_path / "crash").mkdir()
    error, _, _ = fail(tmp_path / "crash", Fault(kind="segfault", at=MEASURING))
    assert "in _segfault" in str(error)
    assert max(len(line) for line in error.log_tail.splitlines()) <= 200


@pytest.mark.parametrize("kind", ["stop", "hang"])
def test_a_tenant_that_stands_still_meets_the_stall_deadline(tmp_path: Path, kind: str) -> None:
    """SIGSTOP, or deaf to everything but SIGKILL: named with the seconds and the key, then killed."""
    error, exits, measured = fail(tmp_path, Fault(kind=kind, at=MEASURING), replace(DEADLINES, stall_s=2.0, stop_s=0.4))
    assert (error.tenant, error.phase, error.exit_code) == ("b", "measure", None)
    assert error.cause == "no iteration for 2 s (deadlines.stall_s) after 7"
    assert exits.codes["b"] == -signal.SIGKILL
    assert measured > 0


@pytest.mark.parametrize(("at", "phase", "key"), [(START, "start", "start_s"), (BUILD, "build", "build_s")])
def test_a_tenant_that_never_answers_meets_the_deadline_of_its_phase(
    tmp_path: Path, at: int, phase: str, key: str
) -> None:
    """The message names the deadline to raise."""
    deadlines = replace(DEADLINES, stop_s=0.4, **{key: 1.5})
    error, exits, _ = fail(tmp_path, Fault(kind="hang", at=at), deadlines)
    assert (error.tenant, error.phase) == ("b", phase)
    assert error.cause == f"no answer within 1.5 s (deadlines.{key})"
    assert exits.codes["b"] == -signal.SIGKILL


def test_measuring_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    """Tenants that iterate happily, but never have enough."""
    with (
        pytest.raises(TenantFailed, match=r"no answer within 0\.5 s \(deadlines\.measure_s\)"),
        group_of(tmp_path, [stressor("a", 2000)], deadlines=replace(DEADLINES, measure_s=0.5)) as (group, jobs),
    ):
        lead(group, jobs, iterations=10**9)


def test_one_of_several_tenants_of_a_process_is_named(tmp_path: Path) -> None:
    """``sharing=streams``: the thread that failed, not the process."""
    starter = FaultyStarter({"b": Fault(kind="raise", at=MEASURING)})
    with (
        pytest.raises(TenantFailed) as caught,
        group_of(tmp_path, [stressor("a"), stressor("b")], starter=starter, together=True) as (group, jobs),
    ):
        lead(group, jobs, iterations=10**9)
    assert (caught.value.tenant, caught.value.phase) == ("b", "measure")


def test_a_process_that_ends_takes_all_its_tenants(tmp_path: Path) -> None:
    """Killed from outside, every tenant in it has failed."""
    starter = FaultyStarter({"b": Fault(kind="kill", at=MEASURING)})
    with (
        pytest.raises(TenantFailed) as caught,
        group_of(tmp_path, [stressor("a"), stressor("b")], starter=starter, together=True) as (group, jobs),
    ):
        lead(group, jobs, iterations=10**9)
    assert caught.value.tenant == "a,b"


def test_a_process_that_cannot_be_started_is_a_failed_tenant(tmp_path: Path) -> None:
    """No more processes allowed: the message says so, those that run are stopped."""

    class Exhausted(ForkserverStarter):
        def start(self, job: ProcessJob) -> Child:
            if job.name == "b":
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return super().start(job)

    exits = Exits(Exhausted())
    with (
        pytest.raises(TenantFailed, match=r"tenant b failed in start: its process cannot be started: .*unavailable"),
        group_of(tmp_path, [stressor("a"), stressor("b")], starter=exits) as (group, jobs),
    ):
        group.start(jobs)
    assert "a" in exits.codes


def test_an_interrupt_stops_in_order_and_a_second_one_at_once(tmp_path: Path) -> None:
    """Ctrl-C while a tenant is deaf: the first waits for it, the second kills; a slow release is not waited for."""
    released: list[int] = []

    def release(pid: int) -> None:
        released.append(pid)
        threading.Event().wait(60)

    exits = Exits(FaultyStarter({"b": Fault(kind="hang", at=MEASURING)}))

    def run(group: TenantGroup, jobs: list[ProcessJob]) -> None:
        def interrupt_when_deaf(slot: int, count: int, elapsed_s: float) -> bool:
            if len(group.samples()["b"].measured) == 7 and elapsed_s > 0.3:
                threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
                raise KeyboardInterrupt
            return False

        group.start(jobs)
        group.build()
        group.begin_warm_up()
        group.warm_up()
        group.measure(interrupt_when_deaf)

    begin = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        group_of(
            tmp_path,
            [stressor("a"), stressor("b")],
            starter=exits,
            deadlines=replace(DEADLINES, stop_s=60),
            release=release,
        ) as (group, jobs),
    ):
        run(group, jobs)
    assert time.monotonic() - begin < 30
    assert isinstance(caught.value.__context__, KeyboardInterrupt)
    assert exits.codes == {"a": 0, "b": -signal.SIGKILL}
    assert len(released) == 1


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (0, "the process ended"),
        (3, "the process ended"),
        (-7, "SIGBUS: a bus error, is the disk full"),
        (-35, "signal 35"),
    ],
)
def test_exit_codes_are_put_into_words(exit_code: int, words: str) -> None:
    """Signals by name, those without a name by number."""
    assert words in why(exit_code)


def test_a_tenant_that_is_told_to_end_at_the_gate_is_named(tmp_path: Path) -> None:
    """SIGTERM between two blocks: nobody serves the next one, so that nothing but the end of that process tells."""
    tenants, measure = [stressor("a"), stressor("b")], replace(MEASURE, design="crossover")
    with group_of(tmp_path, tenants, measure=measure) as (group, jobs):
        lead_to_gate(group, jobs)
        group.block((0, 1), 20_000_000, {})
        os.kill(group.pids[1], signal.SIGTERM)
        wait([os.pidfd_open(group.pids[1])], 30)
        with pytest.raises(TenantFailed) as caught:
            group.block((0,), 20_000_000, {})
    assert (caught.value.tenant, caught.value.phase, caught.value.exit_code) == ("b", "measure", 128 + signal.SIGTERM)

"""Whose the processes on a device are, also where NVML speaks in other pids than this process."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtexp.telemetry import nvml
from mtexp.telemetry.occupants import Occupants, identify
from mtexp.testing.nvml import FakeGpu, FakeNvml

GPU = "GPU-aaaa1111-0000-0000-0000-000000000000"
GIB = 2**30
TENANTS = (10, 11)
IN_HOST = {10: 70_010, 11: 70_011, 12: 70_012}


@pytest.fixture
def occupants(tmp_path: Path) -> Callable[..., Occupants]:
    """Lists a fake GPU before the tenants are there and while they are, and identifies what is found."""

    def found(before: dict[str, Any], during: dict[str, Any], **options: Any) -> Occupants:
        first, then = (nvml.processes(GPU, FakeNvml(FakeGpu(GPU, **state))) for state in (before, during))
        return identify(first, then, TENANTS, **({"proc": tmp_path} | options))

    return found


def _pids(processes: tuple[nvml.GpuProcess, ...]) -> list[int]:
    return [process.pid for process in processes]


OURS = [(10, GIB), (11, GIB)]


def test_every_pid_that_is_not_ours_is_a_foreign_process(occupants: Callable[..., Occupants]) -> None:
    """Where NVML knows the tenants by their pids: compute, MPS and graphics, there before or not."""
    state = {"compute": [*OURS, (20, GIB)], "mps": [(12, 2**20), (21, None)], "graphics": [(22, 2**20)]}
    found = occupants({"graphics": [(22, 2**20)]}, state, others=(12,))
    assert _pids(found.foreign) == [20, 21, 22]
    assert [p.memory_mib for p in found.foreign] == [1024.0, None, 1.0]
    assert (found.not_attributable, found.same_pids, found.unlisted) == ((), True, False)


def test_a_client_of_another_gpus_daemon_is_not_on_this_one(occupants: Callable[..., Occupants]) -> None:
    """Seen on a host with two GPUs: listed with 0 MiB while it starts."""
    found = occupants({}, {"compute": OURS, "mps": [(30, 0), (31, None)]})
    assert _pids(found.foreign) == [31]


def test_tenants_in_a_pid_namespace_are_never_foreign(occupants: Callable[..., Occupants]) -> None:
    """NVML has their numbers on the host: what came with the run may be the run's."""
    found = occupants({}, {"compute": OURS, "host_pids": IN_HOST})
    assert found.foreign == ()
    assert _pids(found.not_attributable) == [70_010, 70_011]
    assert not found.same_pids


def test_what_was_there_before_a_namespaced_run_is_a_foreign_process_without_a_name(
    occupants: Callable[..., Occupants],
) -> None:
    """Also a number that means a process of this namespace, whose name it must not be given."""
    me = os.getpid()
    found = occupants({"compute": [(me, GIB)]}, {"compute": [*OURS, (me, GIB)], "host_pids": IN_HOST})
    assert [(p.pid, p.name) for p in found.foreign] == [(me, "")]
    assert len(found.not_attributable) == 2


def test_a_foreign_process_that_comes_with_a_namespaced_run_cannot_be_told_from_it(
    occupants: Callable[..., Occupants],
) -> None:
    """Three came with two tenants: not attributable."""
    found = occupants({}, {"compute": [*OURS, (12, GIB)], "host_pids": IN_HOST})
    assert (found.foreign, len(found.not_attributable)) == ((), 3)


def test_a_proc_of_the_host_gives_the_numbers_back(occupants: Callable[..., Occupants], tmp_path: Path) -> None:
    """NSpid in the status files of an outer namespace matches tenants, and foreign processes are found again."""
    for host, inner, namespace in ((70_010, 10, "ours"), (70_011, 11, "ours"), (70_099, 10, "theirs")):
        folder = tmp_path / str(host) / "ns"
        folder.mkdir(parents=True)
        (folder / "pid").symlink_to(f"pid:[{namespace}]")
        (tmp_path / str(host) / "status").write_text(f"Name:\tpython\nNSpid:\t{host}\t{inner}\n")
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "pid").symlink_to("pid:[ours]")

    found = occupants({}, {"compute": [*OURS, (12, GIB), (70_099, GIB)], "host_pids": IN_HOST})

    assert found.same_pids
    assert _pids(found.foreign) == [70_012, 70_099]


def test_memory_that_is_withheld_is_absent_and_hides_nobody(occupants: Callable[..., Occupants]) -> None:
    """0 bytes for all, tenants among them: not 0 MiB, and a foreign process is still one."""
    found = occupants({}, {"compute": [*OURS, (20, GIB)], "withholds_memory": True})
    assert [(p.pid, p.memory_mib) for p in found.foreign] == [(20, None)]


def test_a_process_without_a_number_is_not_attributable(occupants: Callable[..., Occupants]) -> None:
    """NVML may give 0 for what this namespace cannot see."""
    found = occupants({}, {"compute": [*OURS, (0, GIB)]})
    assert (found.foreign, len(found.not_attributable)) == ((), 1)


def test_where_nothing_is_listed_foreign_processes_would_not_be_either(occupants: Callable[..., Occupants]) -> None:
    """Windows' subsystem, some containers: said, and nothing concluded."""
    found = occupants({}, {})
    assert found == dataclasses.replace(Occupants(unlisted=True), own=found.own)


def test_an_administrators_mps_server_is_older_than_the_run(occupants: Callable[..., Occupants]) -> None:
    """In a namespace it has a number that nobody here knows, and serves the run all the same."""
    server = {"mps": [(12, GIB)], "host_pids": IN_HOST}
    during = {"mps": [*OURS, (12, GIB)], "host_pids": IN_HOST}
    assert occupants(server, during, external_mps=True).foreign == ()
    assert _pids(occupants(server, during).foreign) == [70_012]

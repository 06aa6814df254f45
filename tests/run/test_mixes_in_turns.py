"""side_by_side=mixes on the CPU: one set of processes serves every mix of a sweep, block by block in turns."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mtexp.metrics.samples import MEASURE, WARMUP
from mtexp.records.files import BLOCKS
from mtexp.records.record import RunRecord
from mtexp.records.record import load as load_record
from mtexp.records.salvage import KILLED, salvage
from mtexp.records.samples_file import read_samples
from mtexp.telemetry import load
from mtexp.terminal import cli
from mtexp.testing.faults import Fault
from tests.run.run_helpers import ENDLESS, SMALL, Workplace

pytestmark = pytest.mark.process

MIXES = ("-m", "mix=bert_base*2,bert_base+distilgpt2", "mps_settings=disabled,default", "side_by_side=mixes")
SHORT = ("measure.design=crossover", "measure.max_time_s=0.5", "measure.iterations=10", "tracking=none")
TENANTS = {"bert_base": "bert_base_0", "distilgpt2": "distilgpt2"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with Workplace.at(tmp_path_factory.mktemp("mixes")) as place:
        yield place


@pytest.fixture(scope="module")
def records(place: Workplace) -> dict[str, RunRecord]:
    """Two mixes by two modes, by number of the point."""
    ran = place.run(*MIXES, *SHORT, "sweep=four")
    assert ran.code == 0, ran.err
    return place.records("multirun/four")


def test_a_tenant_of_two_mixes_is_one_process(records: dict[str, RunRecord]) -> None:
    """Of one sharing mode; the other one has processes of its own."""
    pids = {number: [tenant.facts_after["pid"] for tenant in record.tenants] for number, record in records.items()}
    assert pids["0"][0] == pids["2"][0]
    assert len({pid for own in pids.values() for pid in own}) == 6
    assert len({record.session for record in records.values()}) == 1


def test_no_two_blocks_at_once_and_every_request_in_a_block_of_its_mix(
    records: dict[str, RunRecord], place: Workplace
) -> None:
    """Each run has its own blocks, and the requests of these only."""
    blocks = sorted((block.start_ns, block.end_ns) for record in records.values() for block in record.blocks)
    for (_, before_ns), (after_ns, _) in pairwise(blocks):
        assert before_ns < after_ns
    opened_ns = np.array([start_ns for start_ns, _ in blocks])
    for number, record in records.items():
        own_ns = {block.start_ns for block in record.blocks}
        samples = read_samples(place.folder / f"multirun/four/{number}/iterations.parquet")
        assert list(samples) == [tenant.id for tenant in record.tenants]
        for own in samples.values():
            measured = own.start_ns[own.block >= 0]
            opened = opened_ns[np.searchsorted(opened_ns, measured, side="right") - 1]
            assert measured.size
            assert set(opened.tolist()) <= own_ns


def test_every_run_has_its_figures_and_its_mode_is_compared(records: dict[str, RunRecord]) -> None:
    """With the same mix by time slicing."""
    for number, other in (("1", "0"), ("3", "2")):
        assert records[number].status == records[other].status == "FINISHED"
        assert records[number].session_reference == records[other].record_id
        assert records[number].metrics["stp_ratio"] > 0
        assert not records[other].session_reference
        for tenant in records[number].tenants:
            assert tenant.metrics["slowdown_ci_low"] < tenant.metrics["slowdown_ci_high"]
            assert tenant.facts_before
        assert records[number].sharing["tenants"].keys() == {tenant.id for tenant in records[number].tenants}


def test_telemetry_is_of_its_own_blocks(records: dict[str, RunRecord], place: Workplace) -> None:
    """And of its own tenants, under their names."""
    for number, record in records.items():
        samples = load(place.folder / f"multirun/four/{number}/telemetry.parquet")
        assert {name.partition("/")[2] for name in samples.columns} - {""} == {tenant.id for tenant in record.tenants}
        assert samples.times_ns.size
    assert not list(place.folder.glob("multirun/four/*/telemetry-*"))


def _sweep(folder: Path) -> None:
    """A sweep of mixes without end, in a process of its own."""
    os.chdir(folder)
    os.environ["MTEXP_LEASE_DIR"] = str(folder / "lease")
    with (folder / "out").open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    cli.main([*SMALL, *MIXES, *SHORT, *ENDLESS, "mps_settings=disabled", "measure.max_time_s=600", "sweep=s"])


def test_of_a_sweep_that_is_killed_every_mix_is_salvaged(tmp_path: Path) -> None:
    """SIGKILL: each run becomes a FAILED record with the requests of its own blocks, and no buffer is left."""
    process = multiprocessing.get_context("forkserver").Process(target=_sweep, args=(tmp_path,))
    process.start()
    folders = [tmp_path / "multirun/s" / number for number in "01"]
    deadline = time.monotonic() + 120
    while not all((folder / BLOCKS).is_file() and (folder / BLOCKS).stat().st_size for folder in folders):  # a round
        assert time.monotonic() < deadline, (tmp_path / "out").read_text()
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert all(found.made for found in salvage(tmp_path))
    for folder in folders:
        record = load_record(folder)
        assert (record.status, record.failure) == ("FAILED", KILLED)
        samples = read_samples(folder / "iterations.parquet")
        assert list(samples) == [tenant.id for tenant in record.tenants]
        ends_ns = np.array([block.end_ns for block in record.blocks])
        for own in samples.values():
            measured = own.select(own.phase != WARMUP)
            assert (measured.phase == MEASURE).any()
            assert (measured.start_ns < ends_ns[measured.block]).all()
    assert not list(tmp_path.rglob("*.bin"))


def test_a_tenant_that_fails_ends_the_runs_of_its_mode(place: Workplace, tmp_path: Path) -> None:
    """Those of other mixes say why; the other mode goes on."""
    fault = Fault(kind="kill", at=200, once=str(tmp_path / "once"))  # after some rounds of both mixes
    assert place.run(*MIXES, *SHORT, "sweep=fails", "measure.iterations=300", faults={"distilgpt2": fault}).code == 1
    found = place.records("multirun/fails")
    failed = [record for record in found.values() if record.status == "FAILED"]
    assert len(failed) == 2
    assert sorted(tenant.status for record in failed for tenant in record.tenants).count("FAILED") == 1
    assert any("another mix" in record.failure for record in failed)

"""Sharing modes side by side on the CPU: one set of processes each, block by block in turns, each a run of its own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import tables_command
from mtexp.records.record import RunRecord
from mtexp.records.samples_file import read_samples
from mtexp.telemetry import load
from mtexp.testing.faults import BUILD, Fault
from tests.run.run_helpers import ENDLESS, Ran, Workplace, kind
from tests.run.test_failed_runs import when_measured

pytestmark = pytest.mark.process

SESSION = ("-m", "mix=pair", "measure.design=crossover", "measure.max_time_s=0.5", "measure.iterations=20")
TWO = (*SESSION, "mps_settings=disabled,default")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, made_store: bytes) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("beside")
    (folder / "mlflow.db").write_bytes(made_store)
    with Workplace.at(folder) as place:
        yield place


@pytest.fixture(scope="module")
def ran(place: Workplace) -> Ran:
    """Two modes, some rounds."""
    ran = place.run(*TWO, "sweep=two")
    assert ran.code == 0, ran.err
    return ran


@pytest.fixture
def records(ran: Ran, place: Workplace) -> tuple[RunRecord, RunRecord]:
    """That of time slicing, and that of the other mode."""
    found = place.records("multirun/two")
    return found["0"], found["1"]


def test_modes_take_turns_block_by_block(records: tuple[RunRecord, RunRecord]) -> None:
    """Every round has all blocks of both, in an order of its own, and no two at once."""
    blocks = sorted(
        ((block.start_ns, mode, block) for mode, record in enumerate(records) for block in record.blocks),
        key=lambda found: found[0],
    )
    orders: dict[int, list[tuple[int, tuple[str, ...]]]] = {}
    for _, mode, block in blocks:
        orders.setdefault(block.round, []).append((mode, block.active))
    assert len(orders) >= 4
    every = {(mode, active) for mode in (0, 1) for active in (("a",), ("b",), ("a", "b"))}
    assert {frozenset(order) for order in orders.values()} == {frozenset(every)}
    assert len({tuple(order) for order in orders.values()}) > 1
    for (_, _, before), (after_ns, _, _) in pairwise(blocks):
        assert before.end_ns < after_ns


def test_nobody_issues_a_request_in_a_block_of_the_other_mode(
    records: tuple[RunRecord, RunRecord], place: Workplace
) -> None:
    """Idle sets sleep."""
    for own, other in ((0, 1), (1, 0)):
        ends = np.concatenate([[block.start_ns, block.end_ns] for block in records[other].blocks])
        for samples in read_samples(place.folder / f"multirun/two/{own}/iterations.parquet").values():
            measured = samples.start_ns[samples.block >= 0]
            assert not (np.searchsorted(ends, measured) % 2).any()


def test_each_is_a_run_of_its_own_tied_by_a_tag(records: tuple[RunRecord, RunRecord], place: Workplace) -> None:
    """With the figures that it has by itself, and those against time slicing in the other one."""
    sliced, other = records
    assert sliced.verdict == other.verdict == "VALID"
    assert sliced.session == other.session != ""
    assert (sliced.session_reference, other.session_reference) == ("", sliced.record_id)
    runs = place.mlflow_runs(kind("mix") + f" AND tags.`mtexp.session` = '{sliced.session}'")
    assert {run.data.params["mps_settings"] for run in runs} == {"disabled", "default"}
    (run,) = [run for run in runs if run.data.params["mps_settings"] == "default"]
    assert run.data.tags["mtexp.session_reference"] == sliced.record_id
    for name in ("stp", "stp_ratio", "stp_whole", "antt_whole", "stp_whole_ratio"):
        metrics = run.data.metrics
        assert metrics[f"{name}_ci_low"] < metrics[name] < metrics[f"{name}_ci_high"]
    for child in place.children(run).values():
        for name in ("slowdown", "mode_cost", "slowdown_whole", "latency_ratio", "throughput_ratio"):
            assert child.data.metrics[f"{name}_ci_low"] <= child.data.metrics[name]
    assert "stp_ratio" not in sliced.metrics


def test_the_ratio_is_of_blocks_of_the_same_rounds(records: tuple[RunRecord, RunRecord], place: Workplace) -> None:
    """The mean over rounds of the log ratio within each."""
    means = []
    for number in (0, 1):
        own = read_samples(place.folder / f"multirun/two/{number}/iterations.parquet")["a"].measured
        counts = {r: own.latency_ms[own.round == r] for r in np.unique(own.round)}
        means.append({r: found.mean() for r, found in counts.items() if found.size > 1})
    both = sorted(means[0].keys() & means[1].keys())
    expected = np.exp(np.mean([np.log(means[1][r] / means[0][r]) for r in both]))
    tenant = next(tenant for tenant in records[1].tenants if tenant.id == "a")
    assert tenant.metrics["latency_ratio"] == pytest.approx(expected)


def test_telemetry_is_of_its_own_tenants(records: tuple[RunRecord, RunRecord], place: Workplace) -> None:
    """Each file has the host, and the memory of the processes of that run."""
    for number in range(len(records)):
        columns = load(place.folder / f"multirun/two/{number}/telemetry.parquet").columns
        assert {name.partition("/")[2] for name in columns} == {"", "a", "b"}
    assert not list(place.folder.glob("multirun/two/*/telemetry-*"))


@pytest.mark.usefixtures("ran")
def test_a_table_has_what_the_run_found(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    """``mtexp tables side-by-side``: a row a tenant of the mode that is compared."""
    assert tables_command.main(["side-by-side", "--records", str(place.folder / "multirun/two"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["tenant"] for row in rows] == ["a", "b"]
    record = place.records("multirun/two")["1"]
    assert rows[0]["mode_cost"] == pytest.approx(record.tenants[0].metrics["mode_cost"])
    assert rows[0]["stp_whole_ratio"] == pytest.approx(record.metrics["stp_whole_ratio"])


def test_the_terminal_compares_them(ran: Ran) -> None:
    """STP, latency and the cost of the mode, with what they are against."""
    assert "mps_settings=default beside time slicing" in ran.out
    assert "mode_cost" in ran.out


def test_one_that_fails_is_failed_and_the_other_goes_on(place: Workplace, tmp_path: Path) -> None:
    """A tenant of one set is killed in a block; resumed, only that point runs."""
    fault = Fault(kind="kill", at=200, once=str(tmp_path / "once"))
    longer = ("measure.iterations=300", "sweep=fails")
    assert place.run(*TWO, *longer, faults={"b": fault}).code == 1
    found = place.records("multirun/fails")
    assert sorted(record.status for record in found.values()) == ["FAILED", "FINISHED"]
    (failed,) = [record for record in found.values() if record.status == "FAILED"]
    assert failed.blocks
    place.run(*TWO, *longer, "resume=true")
    assert sorted(place.jobs("multirun/fails")) == ["FINISHED", "SKIPPED"]
    again = place.records("multirun/fails").keys() - found.keys()
    (record,) = [place.records("multirun/fails")[where] for where in again]
    assert "one-after-another" in {finding.code for finding in record.findings}


def test_one_that_cannot_start_is_measured_by_itself(place: Workplace, tmp_path: Path) -> None:
    """As where the device has no room for both: the record says so."""
    fault = Fault(kind="raise", at=BUILD, once=str(tmp_path / "once"))
    ran = place.run(*TWO, "sweep=apart", faults={"b": fault})
    assert ran.code == 0, ran.err
    found = place.records("multirun/apart")
    assert {where: record.status for where, record in found.items()} == {"0": "FINISHED", "1": "FINISHED"}
    assert "one-after-another" in {finding.code for record in found.values() for finding in record.findings}


def test_an_interrupt_keeps_what_was_measured_of_each(place: Workplace) -> None:
    """Ctrl-C in a block."""
    folder = place.folder / "multirun/stopped/0"
    interrupt = when_measured(folder, 400, lambda: os.kill(os.getpid(), signal.SIGINT))
    ran = place.run(*TWO, *ENDLESS, "sweep=stopped", on_phase=interrupt)
    assert ran.code == 130
    found = place.records("multirun/stopped")
    assert len(found) == 2
    for record in found.values():
        assert record.status == "FAILED"
        assert record.blocks


def test_the_python_api_measures_them_together(place: Workplace) -> None:
    """And a mode written twice is an A/A check."""
    import mtexp

    small: dict[str, Any] = {
        "workload.batch_size": 1,
        "workload.seq_len": 8,
        "measure.iterations": 20,
        "measure.max_time_s": 0.5,
    }
    modes: dict[str, Any] = {"mps_settings": ["disabled", "disabled"], "side_by_side": "require"}
    first, second = mtexp.sweep(mix="pair", runtime="cpu", tracking="none", sweep="aa", **modes, **small)
    assert first.record.session == second.record.session != ""
    assert second.metrics["stp_ratio_ci_low"] < second.metrics["stp_ratio_ci_high"]
    assert "stp_ratio" not in first.metrics
    assert place.records("multirun/aa")

"""Crossover end to end on the CPU: alone and together in turns, in the same processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import fetch
from mtexp.records.samples_file import read_iterations, read_samples
from mtexp.testing.faults import Fault
from tests.run.run_helpers import ENDLESS, Ran, Workplace, kind
from tests.run.test_failed_runs import when_measured

pytestmark = pytest.mark.process

CROSSOVER = ("measure.design=crossover", "measure.max_time_s=0.5", "measure.iterations=20")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, made_store: bytes) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("crossover")
    (folder / "mlflow.db").write_bytes(made_store)
    with Workplace.at(folder) as place:
        yield place


@pytest.fixture(scope="module")
def ran(place: Workplace) -> Ran:
    """A pair, some rounds."""
    ran = place.run("mix=pair", *CROSSOVER, "sweep=one")
    assert ran.code == 0, ran.err
    return ran


@pytest.mark.usefixtures("ran")
class TestRun:
    """What a run leaves."""

    def test_no_baseline_is_measured(self, place: Workplace) -> None:
        """The alone blocks are what the mix is compared with; figures and intervals are there all the same."""
        (record,) = place.records("outputs/one").values()
        assert record.verdict == "VALID"
        for tenant in record.tenants:
            assert tenant.baseline is None
            keys = {"slowdown", "normalized_progress", "alone_latency_mean_ms", "host_noise_pct", "rounds"}
            assert keys <= set(tenant.metrics)
            assert tenant.metrics["slowdown_ci_low"] < tenant.metrics["slowdown"] < tenant.metrics["slowdown_ci_high"]
        assert {"stp", "stp_ci_low", "antt", "fairness", "half_width_pct", "host_noise_pct"} <= set(record.metrics)
        assert record.metrics["overlap_pct"] > 95

    def test_every_round_has_all_blocks_in_an_order_of_its_own(self, place: Workplace) -> None:
        """One alone block a tenant, one of both; drawn from the seed; none begins before the last one is over."""
        (record,) = place.records("outputs/one").values()
        rounds: dict[int, list[tuple[str, ...]]] = {}
        for block in record.blocks:
            rounds.setdefault(block.round, []).append(block.active)
        assert len(rounds) >= 4
        assert {frozenset(active) for active in rounds.values()} == {frozenset([("a",), ("b",), ("a", "b")])}
        assert len({tuple(active) for active in rounds.values()}) > 1
        samples = read_samples(place.folder / "outputs/one/iterations.parquet")
        for tenant in samples.values():
            in_blocks = tenant.select(tenant.block >= 0)
            starts = [record.blocks[number].start_ns for number in in_blocks.block]
            assert (in_blocks.start_ns >= starts).all()
        for before, after in zip(record.blocks[:-1], record.blocks[1:], strict=True):
            ends = [int(own.end_ns[own.block == before.block].max(initial=0)) for own in samples.values()]
            assert after.start_ns > max(ends)

    def test_only_blocks_of_all_enter_the_statistics(self, place: Workplace) -> None:
        """Alone requests are flagged; each tenant has as many together as were asked for."""
        frame = read_iterations(place.folder / "outputs/one/iterations.parquet")
        counts = frame.groupby(["tenant", "phase"], observed=True).size()
        assert (counts[:, "measure"] >= 20).all()
        assert (counts[:, "alone"] > 0).all()
        assert (counts[:, "edge"] > 0).all()
        assert set(frame.loc[frame["in_window"], "phase"]) == {"measure"}
        assert (frame.loc[frame["phase"] == "warmup", "block"] == -1).all()

    def test_mlflow_has_parameters_intervals_and_histories_of_what_counts(self, place: Workplace) -> None:
        """``design``, ``rounds``, ``block_ms``; latency by iteration is of the blocks of all."""
        (run,) = place.mlflow_runs(kind("mix") + " AND tags.`mtexp.sweep` = 'one'")
        assert run.data.params["design"] == "crossover"
        assert int(run.data.params["rounds"]) >= 4
        assert float(run.data.params["block_ms"]) >= 50
        assert run.data.tags["mtexp.against"] == "alone_in_mode"
        frame = read_iterations(place.folder / "outputs/one/iterations.parquet")
        for tenant, child in place.children(run).items():
            shared = frame[(frame["tenant"] == tenant) & (frame["phase"] == "measure")]
            assert child.data.metrics["iterations_in_window"] == len(shared)
            assert child.data.metrics["latency_mean_ms"] == pytest.approx(shared["latency_ms"].mean())

    def test_blocks_are_fetched_as_a_table(self, place: Workplace) -> None:
        """One row a block, as the record has them."""
        frame = fetch.blocks("tags.mtexp.sweep = 'one'")
        (record,) = place.records("outputs/one").values()
        assert frame["start_ns"].tolist() == [block.start_ns for block in record.blocks]
        assert set(frame["active"]) == {"a", "b", "a+b"}
        assert set(frame["record_id"]) == {record.record_id}

    def test_the_terminal_says_what_was_reached(self, ran: Ran) -> None:
        """Each slowdown with its half width, and the number of rounds."""
        assert "slowdown of a " in ran.out
        assert " rounds" in ran.out


def test_streams_take_turns_in_one_process(place: Workplace) -> None:
    """One process, a thread each, at the gate; what they wait for Python's lock is said."""
    ran = place.run("mix=pair", "sharing=streams", *CROSSOVER, "sweep=streams")
    assert ran.code == 0, ran.err
    (record,) = place.records("outputs/streams").values()
    assert "thread_id-shared" not in {finding.code for finding in record.findings}
    facts = [tenant.facts_after for tenant in record.tenants]
    assert len({known["pid"] for known in facts}) == 1
    assert len({known["thread_id"] for known in facts}) == 2
    for tenant in record.tenants:
        assert "slowdown" in tenant.metrics
        assert 0 <= tenant.metrics["lock_wait_pct"] <= 100
    assert "interpreter lock" in ran.out


@pytest.mark.usefixtures("ran")
def test_the_seed_decides_the_order(place: Workplace) -> None:
    """The same one again."""
    assert place.run("mix=pair", *CROSSOVER, "sweep=again").code == 0
    orders = []
    for sweep in ("one", "again"):
        (record,) = place.records(f"outputs/{sweep}").values()
        orders.append([block.active for block in record.blocks][:9])
    assert orders[0] == orders[1]


def test_many_tenants_have_alone_blocks_in_turns(place: Workplace) -> None:
    """Eight a round, and each tenant its share."""
    ran = place.run("mix=bert_base*9", *CROSSOVER, "measure.iterations=4", "sweep=many")
    assert ran.code == 0, ran.err
    (record,) = place.records("outputs/many").values()
    alone = [[b.active[0] for b in record.blocks if b.round == r and len(b.active) == 1] for r in (0, 1)]
    assert [len(names) for names in alone] == [8, 8]
    assert len({*alone[0], *alone[1]}) == 9
    assert all(tenant.metrics["rounds"] >= 4 for tenant in record.tenants)


def test_a_baseline_that_is_asked_for_gives_the_cost_of_the_mode(place: Workplace) -> None:
    """``baseline=require``: slowdowns stay those of the blocks, the baseline says what the mode costs."""
    alone = ("mix=bert_base", "measure.iterations=20", "sweep=alone")
    for again in ((), *[("resume=true", "rerun_invalid=true")] * 3):  # a busy host stops one of a few milliseconds
        assert place.run(*alone, *again).code == 0
        if "VALID" in {record.verdict for record in place.records("outputs/alone").values()}:
            break
    ran = place.run("mix=bert_base*2", *CROSSOVER, "measure.iterations=20", "baseline=require", "sweep=required")
    assert ran.code == 0, ran.err
    record = place.records("outputs/required")["."]
    for tenant in record.tenants:
        assert tenant.baseline is not None
        cost = tenant.metrics["alone_latency_mean_ms"] / tenant.baseline.latency_mean_ms
        assert tenant.metrics["mode_cost"] == pytest.approx(cost)


def test_a_block_too_short_is_refused_with_a_length_that_is_enough(place: Workplace) -> None:
    """Before a round is measured where the warm-up shows it."""
    ran = place.run("mix=pair", *CROSSOVER, "measure.block_ms=0.5", "sweep=short")
    assert ran.code == 1
    (record,) = place.records("outputs/short").values()
    assert record.failure.startswith("measure.block_ms=0.5: allowed: at least 3 requests")


@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_a_tenant_that_fails_ends_the_run(place: Workplace, fault: str) -> None:
    """In a block; what had been measured is in the record."""
    ran = place.run(
        "mix=pair",
        *CROSSOVER,
        *ENDLESS,
        "deadlines.stall_s=2",
        "deadlines.stop_s=3",
        f"sweep=fails-{fault}",
        faults={"b": Fault(kind=fault, at=200)},
    )
    assert ran.code == 1
    (record,) = place.records(f"outputs/fails-{fault}").values()
    assert record.status == "FAILED"
    assert {tenant.id: tenant.status for tenant in record.tenants} == {"a": "FINISHED", "b": "FAILED"}
    assert record.blocks
    assert not list((place.folder / f"outputs/fails-{fault}").glob("blocks.jsonl"))


def test_a_full_buffer_ends_the_rounds(place: Workplace) -> None:
    """And says so."""
    rule = ("measure.max_iterations=150", "measure.target_pct=0.01", "measure.max_time_s=60")
    ran = place.run("mix=pair", *CROSSOVER, *rule, "sweep=full")
    assert ran.code == 0, ran.err
    (record,) = place.records("outputs/full").values()
    assert "samples-full" in {finding.code for finding in record.findings}


def test_an_interrupt_keeps_what_was_measured(place: Workplace) -> None:
    """Ctrl-C in a block."""
    folder = place.folder / "outputs/stopped"
    interrupt = when_measured(folder, 600, lambda: os.kill(os.getpid(), signal.SIGINT))
    ran = place.run("mix=pair", *CROSSOVER, *ENDLESS, "sweep=stopped", on_phase=interrupt)
    assert ran.code == 130
    (record,) = place.records("outputs/stopped").values()
    assert record.status == "FAILED"
    assert record.blocks
    assert all("slowdown" in tenant.metrics for tenant in record.tenants)


def test_a_run_that_was_killed_keeps_its_blocks(tmp_path: Path) -> None:
    """As lines of a file beside the buffers; the last one may be cut short."""
    from mtexp.errors import RecordError
    from mtexp.metrics.crossover import Block
    from mtexp.records.files import BLOCKS
    from mtexp.records.live_files import append, read_blocks

    blocks = tuple(
        Block(block=i, round=0, group=0, active=("a",), start_ns=i, end_ns=i + 1, cores=(3,)) for i in range(3)
    )
    append(tmp_path / BLOCKS, blocks[:2])
    append(tmp_path / BLOCKS, blocks[2:])
    with (tmp_path / BLOCKS).open("a") as file:
        file.write('{"block": 3, "ro')
    assert read_blocks(tmp_path / BLOCKS) == blocks
    (tmp_path / BLOCKS).write_text(json.dumps({"block": "x"}) + "\n")
    with pytest.raises(RecordError, match="block"):
        read_blocks(tmp_path / BLOCKS)

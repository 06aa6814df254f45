"""Whole runs of tenants that have more than one length, or less than a set of weights each."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mtexp.records.samples_file import read_iterations
from mtexp.running.shared_weights import shared_findings
from tests.run.run_helpers import Workplace

pytestmark = pytest.mark.process


def test_requests_of_a_trace_are_recorded_with_their_tokens(workplace: Workplace) -> None:
    """Asked, padded and generated, in the order of the arrivals; warm-ups of every shape before; outputs compared."""
    rows = [(i / 50, (5, 30, 16)[i % 3], (3, 1, 2)[i % 3]) for i in range(20)]
    text = "arrival_s,input_tokens,output_tokens\n" + "\n".join(f"{t},{given},{made}" for t, given, made in rows)
    (workplace.folder / "t.csv").write_text(text)
    trace = ("arrival=trace", "arrival.trace=t.csv", "measure.iterations=20", "baseline=skip", "tracking=none")
    workplace.run("mix=pair", "mix.tenants.b.workload=generate", *trace)
    ((place, record),) = workplace.records("outputs").items()
    assert record.status == "FINISHED", record.failure
    assert [record.tenants[i].facts_after["outputs_check"]["wrong"] for i in (0, 1)] == [0, 0]
    frame = read_iterations(workplace.folder / "outputs" / place / "iterations.parquet")
    measured = frame[frame["phase"] == "measure"]
    names = ["input_tokens", "padded_tokens", "output_tokens"]
    found = {tenant: own[names].to_numpy().tolist() for tenant, own in measured.groupby("tenant", observed=True)}
    padded = [32 if given > 16 else 16 for _, given, _ in rows]
    assert found["b"] == [[given, pad, made] for (_, given, made), pad in zip(rows, padded, strict=True)]
    assert found["a"] == [[given, pad, 0] for (_, given, _), pad in zip(rows, padded, strict=True)]


def test_more_shapes_than_room_for_requests_have_their_warm_up(workplace: Workplace) -> None:
    """One request of each, whatever ``measure.warmup`` and ``measure.max_iterations`` say."""
    lengths = [2**i for i in range(2, 7)] * 2
    text = "arrival_s,input_tokens\n" + "\n".join(f"{i / 50},{given}" for i, given in enumerate(lengths))
    (workplace.folder / "t.csv").write_text(text)
    trace = ("arrival=trace", "arrival.trace=t.csv", "arrival.buckets=[4,8,16,32,64]", "baseline=skip", "tracking=none")
    few = ("measure.warmup=1", "measure.iterations=2", "measure.max_iterations=2", "measure.min_time_s=0")
    workplace.run("mix=bert_base", *trace, *few)
    (record,) = workplace.records("outputs").values()
    assert record.status == "FINISHED", record.failure


def test_replicas_have_their_weights_in_memory_once(workplace: Workplace) -> None:
    """The first keeps them, the record says so, and all compute the same."""
    workplace.run("mix=bert_base*3", "share_weights=true", "baseline=skip", "tracking=none")
    (record,) = workplace.records("outputs").values()
    facts = [tenant.facts_after for tenant in record.tenants]
    assert [own["weights"] for own in facts] == ["kept", "borrowed", "borrowed"]
    assert len({own["weights_checksum"] for own in facts}) == 1
    assert {finding.code for finding in record.findings} >= {"weights-shared"}
    assert record.status == "FINISHED", record.failure
    assert not [finding for finding in record.findings if finding.code in ("weights-not-shared", "wrong-output")]


def test_a_session_names_the_replicas_that_share_their_weights(workplace: Workplace) -> None:
    """Side by side with replicas that have their own: those are the reference, whichever is measured first."""
    few = ("measure.design=crossover", "measure.max_time_s=0.5", "measure.iterations=10", "baseline=skip")
    ran = workplace.run("-m", "mix=bert_base*2", "share_weights=true,false", *few, "tracking=none", "sweep=both")
    assert ran.code == 0, ran.err
    assert "bert_base*2, mps_settings=disabled share_weights=true\n" in ran.out
    assert "time slicing with shared weights beside time slicing, " in ran.out
    by_sharing = {
        record.run_spec.sharing.share_weights: record for record in workplace.records("multirun/both").values()
    }
    assert by_sharing[True].session_reference == by_sharing[False].record_id


def test_the_note_of_shared_weights_has_no_power_of_ten() -> None:
    """Weights of gigabytes are 2357 MiB, not 2.36e+03."""
    own = {"weights_checksum": "x", "shared_weights_mib": 2357.1, "memory_peak_mib": 598.2}
    facts = {"a": own | {"weights": "kept"}, "b": own | {"weights": "borrowed"}}
    spec = SimpleNamespace(sharing=SimpleNamespace(share_weights=True), tenants=("a", "b"), runtime="gpu")
    (finding,) = shared_findings(spec, SimpleNamespace(facts_after=facts))
    assert finding.message.startswith("weights of 2357 MiB are in memory once for 2 tenants")

"""The passes as the runner makes them, on the CPU: a stand-in profiler around a real session."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mtexp.host import Device
from mtexp.launch import ForkserverStarter
from mtexp.records import record as records
from mtexp.records.files import ITERATIONS, find_records
from mtexp.running import profile
from mtexp.running.bare_record import RecordContext
from mtexp.running.measured import Setup
from mtexp.running.profile_session import Session
from mtexp.spec import (
    ArrivalSpec,
    DeadlineSpec,
    MeasureSpec,
    ProfilerSpec,
    RunSpec,
    SharingSpec,
    TelemetrySpec,
    TenantSpec,
    spec_hash,
    to_json,
)
from mtexp.testing.records import example
from mtexp.tracking.mlflow_writer import artifacts
from tests.profiling.profilers import install_ncu, install_nsys
from tests.tenant.tenant_specs import stressor, tenant

pytestmark = pytest.mark.process

DEVICE = Device("cpu", 0, "cpu", "NVIDIA H200", 1024, None)
PAIR = (replace(tenant("bert_base"), id="b"), replace(tenant("distilgpt2"), id="d"))
QUICK = (replace(stressor("launch"), id="b"), replace(stressor("launch"), id="d"))
"""Without a model, of which a fresh interpreter would import much: enough where the profiler is a stand-in anyway."""
LONG = ProfilerSpec(kind="nsys", iterations=2000)
"""Enough that tenants of :data:`QUICK` overlap, also where a busy host starts one later than the other."""


def spec_of(kind: str = "ncu", **more) -> RunSpec:
    """Two models that take milliseconds."""
    given = {
        "mix": "pair",
        "tenants": PAIR,
        "measure": MeasureSpec(iterations=5, warmup=1),
        "telemetry": TelemetrySpec(enabled=False),
        "profiler": ProfilerSpec(kind=kind, iterations=100),
        "deadlines": DeadlineSpec(),
    }
    return RunSpec(**{**given, **more})


def timed_run(spec: RunSpec) -> records.RunRecord:
    """What the run of ``spec`` may have come to."""
    timed, _ = example([t.model.name for t in spec.tenants])
    metrics = {"launch_bound_pct": 72.0, "latency_mean_ms": 1.0}
    tenants = [replace(found, id=t.id, metrics=metrics) for found, t in zip(timed.tenants, spec.tenants, strict=True)]
    return replace(timed, spec=to_json(spec), spec_hash=spec_hash(spec), tenants=tuple(tenants))


def pass_of(spec: RunSpec, folder: Path) -> tuple[records.RunRecord, Path]:
    """The pass on a CPU, which a command line is refused; the only record that it leaves, and where."""
    out = profile.profile(timed_run(spec), folder, RecordContext(), Setup(DEVICE, ForkserverStarter()))
    assert out == folder / f"profile-{spec.profiler.kind}"
    assert list(find_records(folder)) == [out]
    return records.load(out), out


SIZED = tuple(replace(tenant("bert_base", batch_size=size), id=name) for name, size in (("small", 1), ("large", 16)))
AGAIN = replace(SIZED[1], id="large_2", seed=1, slo_ms=3.0, arrival=ArrivalSpec(kind="poisson", rate_rps=5.0))
"""It runs what ``large`` runs."""


def named(of: TenantSpec, name: str, **more) -> TenantSpec:
    """The tenant with a model of another name, and these fields of that changed."""
    return replace(of, id=name, model=replace(of.model, name=name, **more))


@pytest.fixture(scope="module")
def ncu_pass(tmp_path_factory) -> tuple[RunSpec, records.RunRecord, Path]:
    """A pass over six models: the first and the last fail under ncu, one has no size of its head, which ncu needs."""
    shape = {key: value for key, value in PAIR[0].model.shape.items() if key != "vocab_size"}
    odd = named(PAIR[0], "odd", role="decoder", shape=shape)
    spec = spec_of(tenants=(named(PAIR[0], "first"), *SIZED, odd, AGAIN, PAIR[1], named(PAIR[1], "last")))
    folder = tmp_path_factory.mktemp("ncu")
    with pytest.MonkeyPatch.context() as patch:
        install_ncu(folder, patch, broken={"first": "it ran out of memory", "last": "it ran out of memory"})
        return spec, *pass_of(spec, folder)


def test_ncu_gives_a_row_a_model(ncu_pass):
    """One record, linked to the timed run, with the rows, their plot and a sentence; and nothing called a latency."""
    spec, record, out = ncu_pass
    assert (record.kind, record.profile_of) == ("profile", timed_run(spec).record_id)
    assert (record.spec_hash, record.run_spec.launcher) == (spec_hash(record.run_spec), "interpreter")
    for found in record.tenants:
        assert found.metrics["compute_bound_time_pct"] == pytest.approx(200 / 3)
        assert found.metrics["launch_bound_pct"] == 72.0
        assert not any("latency_mean" in key or "slowdown" in key for key in found.metrics)
    sentences = [f.message for f in record.findings if f.code == "roofline"]
    assert [text.partition(":")[0] for text in sentences] == ["bert_base-small", "bert_base-large", "distilgpt2"]
    rows = pq.read_table(out / "roofline.parquet").to_pylist()
    layers = [tenant("bert_base").model.shape["num_hidden_layers"]] * 2 + [tenant("distilgpt2").model.shape["n_layer"]]
    assert [row["layers"] for row in rows] == layers
    assert [row["flops"] for row in rows] == [1e6 * count for count in layers]
    sent = {path.name for path, _ in artifacts(out)}
    assert {"bert_base-small.ncu-rep", "distilgpt2.ncu-rep", "roofline.parquet", "roofline-kernels.csv"} <= sent
    assert {"small.log", "d.log"} <= sent


def test_a_model_in_two_sizes_is_two_rows(ncu_pass):
    """Batches of 1 and of 16 lie elsewhere under the roof; tenants that run the same are one row."""
    _, record, out = ncu_pass
    assert [t.id for t in record.tenants] == ["small", "large", "d"]
    rows = pq.read_table(out / "roofline.parquet").to_pylist()
    assert [(row["name"], row["tenant"], row["batch_size"]) for row in rows] == [
        ("bert_base-small", "small", 1),
        ("bert_base-large", "large", 16),
        ("distilgpt2", "d", 2),
    ]
    assert [row["sentence"].partition(":")[0] for row in rows] == [row["name"] for row in rows]
    assert {"bert_base-small.ncu-rep", "bert_base-large.ncu-rep"} <= {path.name for path in out.iterdir()}
    kernels = pq.read_table(out / "roofline-kernels.parquet").to_pylist()
    assert [row["tenant"] for row in kernels] == ["small"] * 2 + ["large"] * 2 + ["d"] * 2


@pytest.mark.parametrize("model", ["first", "last"])
def test_a_model_that_ncu_cannot_profile_does_not_cost_the_others(ncu_pass, model):
    """Whether it is the first or the last; its reason is a warning of the pass."""
    _, record, _ = ncu_pass
    assert (record.status, record.verdict) == ("FINISHED", "VALID")
    assert [t.model for t in record.tenants] == ["bert_base", "bert_base", "distilgpt2"]
    (failed,) = (f for f in record.findings if (f.code, f.tenant) == ("ncu-failed", model))
    assert failed.message.startswith(f"{model} was not profiled")
    assert "the profiled program failed" in failed.message


def test_a_model_of_unknown_shape_does_not_cost_the_others(ncu_pass):
    """It runs, and has no place under the roof."""
    _, record, out = ncu_pass
    assert (out / "odd.ncu-rep").exists()
    assert "odd" not in {t.id for t in record.tenants}
    assert any(f.code == "ncu-failed" and "models.odd.shape" in f.message for f in record.findings)


def test_a_pass_has_an_id_of_its_own(tmp_path):
    """MLflow tells records by it: of two with one id, the second would count as sent."""
    spec = spec_of("torch", tenants=PAIR[:1])
    first, _ = pass_of(spec, tmp_path)
    second, _ = pass_of(spec, tmp_path)
    assert len({first.record_id, second.record_id, timed_run(spec).record_id}) == 3


def test_what_no_model_can_be_profiled_without_ends_the_pass_at_once(tmp_path, monkeypatch, caplog):
    """Permission is one: the next model would take minutes to fail in the same way."""
    install_ncu(tmp_path, monkeypatch, broken={"": "==ERROR== ERR_NVGPUCTRPERM"})
    record, out = pass_of(spec_of(), tmp_path)
    assert (record.status, record.verdict) == ("FAILED", "INVALID")
    assert "performance counters (ERR_NVGPUCTRPERM)" in record.failure
    assert not (out / "distilgpt2.log").exists()
    assert "No profile; the timed results stand." in caplog.text


def test_where_no_model_could_be_profiled_each_reason_is_said(tmp_path, monkeypatch):
    """Without a row there is no profile."""
    install_ncu(tmp_path, monkeypatch, broken={"": "a bad day"})
    record, _ = pass_of(spec_of(), tmp_path)
    assert record.status == "FAILED"
    assert "bert_base was not profiled" in record.failure
    assert "distilgpt2 was not profiled" in record.failure


def test_the_nsys_pass_leaves_what_was_seen_and_no_latency(tmp_path, monkeypatch):
    """Overlap and busy time by tenant, the report by its name; what tracing cost is all that is kept of its times."""
    install_nsys(tmp_path, monkeypatch, ["b", "d"])
    record, out = pass_of(spec_of("nsys", tenants=QUICK, profiler=LONG), tmp_path)
    assert (record.status, record.run_spec.launcher, record.window) == ("FINISHED", "interpreter", None)
    assert record.metrics == {"kernel_overlap_pct": pytest.approx(100 / 3), "gpu_idle_pct": pytest.approx(200 / 3)}
    for found in record.tenants:
        assert set(found.metrics) == {"busy_ms", "kernels", "busy_pct", "kernel_overlap_pct", "traced_slowdown"}
        assert found.metrics["busy_pct"] == pytest.approx(1000 / 45)
        assert found.metrics["traced_slowdown"] > 0
    assert pq.read_table(out / ITERATIONS).num_rows == 0
    sent = {path.name for path, _ in artifacts(out)}
    assert {"profile.nsys-rep", "overlap.json", "kernels.parquet", "kernels.csv", "lanes.html", "nsys.log"} <= sent
    assert "session.json" not in sent
    assert "overlap-not-concurrency" in {f.code for f in record.findings}
    assert not {"few-iterations", "insufficient", "drift"} & {f.code for f in record.findings}


def test_tenants_of_one_process_are_not_told_apart(tmp_path, monkeypatch):
    """What nsys sees of streams is of all tenants: none of them gets it, and the record says why."""
    install_nsys(tmp_path, monkeypatch, ["b+d"])
    record, _ = pass_of(spec_of("nsys", tenants=QUICK, profiler=LONG, sharing=SharingSpec(mode="streams")), tmp_path)
    assert set(record.metrics) == {"gpu_idle_pct"}
    assert [set(t.metrics) for t in record.tenants] == [{"traced_slowdown"}] * 2
    assert "tenants-share-process" in {f.code for f in record.findings}


@pytest.mark.parametrize(("broken", "reason"), [("profile", "nsys has a bad day"), ("none", "no GPU")])
def test_an_nsys_pass_without_a_profile_is_failed(tmp_path, monkeypatch, broken, reason):
    """Also when the tenants ran: their record says nothing of what their kernels did."""
    install_nsys(tmp_path, monkeypatch, broken=broken)
    spec = spec_of("nsys", tenants=QUICK[:1])
    record, _ = pass_of(spec, tmp_path)
    assert (record.kind, record.status, record.verdict) == ("profile", "FAILED", "INVALID")
    assert reason in record.failure
    assert record.profile_of == timed_run(spec).record_id
    assert [f.code for f in record.findings] == ["no-profile"]
    assert not any(t.metrics for t in record.tenants)


def test_a_short_capture_says_how_to_ask_for_a_longer_one(tmp_path, monkeypatch):
    """The key of a pass is its own; ``measure.iterations`` would lengthen the timed run."""
    monkeypatch.setattr("mtexp.metrics.verdict.OVERLAP_LIMIT_PCT", 101.0)
    spec = spec_of("torch", profiler=ProfilerSpec(kind="torch", iterations=3))
    record, _ = pass_of(spec, tmp_path)
    (found,) = (f for f in record.findings if f.code == "window-share")
    assert (found.level, record.verdict) == ("invalid", "INVALID")
    assert found.remedy == "Raise profiler.iterations: start and end then weigh less."


def test_a_capture_ends_in_time(tmp_path, monkeypatch):
    """However many iterations were asked for; and the record says that it has fewer."""
    monkeypatch.setattr("mtexp.running.stopping.CAPTURE_S", 0.05)
    record, _ = pass_of(spec_of("torch", profiler=ProfilerSpec(kind="torch", iterations=100_000)), tmp_path)
    assert record.status == "FINISHED"
    assert [(f.level, f.tenant) for f in record.findings if f.code == "short-capture"] == [
        ("warning", "b"),
        ("warning", "d"),
    ]


def test_a_pass_that_cannot_be_written_is_said(tmp_path, caplog):
    """A file where its folder should be: no record, no traceback."""
    (tmp_path / "profile-torch").write_text("mine")
    spec = spec_of("torch")
    made = profile.profile(timed_run(spec), tmp_path, RecordContext(), Setup(DEVICE, ForkserverStarter()))
    assert made is None
    (said,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert "the timed results stand" in said.message
    assert f"{tmp_path / 'profile-torch'}: File exists." in said.message
    assert (tmp_path / "profile-torch").read_text() == "mine"


def test_a_session_ends_with_the_run_that_it_belongs_to(tmp_path):
    """Also when that was killed: a profiler stands between the two, and would trace on for minutes."""
    with subprocess.Popen(["sleep", "60"]) as owner:
        spec = spec_of(measure=MeasureSpec(iterations=10**6, warmup=1), kind="profile")
        session = replace(Session.of(spec, DEVICE, tmp_path, RecordContext()), owner=owner.pid)
        path = tmp_path / "session.json"
        path.write_text(json.dumps(asdict(session)))
        argv = [sys.executable, "-m", "mtexp.running.profile_session", str(path)]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as running:
            while not list(tmp_path.glob("*.bin")) and running.poll() is None:
                time.sleep(0.02)
            owner.send_signal(signal.SIGKILL)
            said = running.communicate(timeout=60)[1]
    assert running.returncode == 1
    assert "interrupted" in said

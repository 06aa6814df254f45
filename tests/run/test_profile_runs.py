"""Profiling passes from the command line to MLflow, on the CPU: what a pass leaves there, and what it never does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from analysis import fetch
from mtexp.config import convert
from mtexp.profiling import torch_trace
from mtexp.records.record import RunRecord
from mtexp.spec import ProfilerSpec, TrackingSpec
from mtexp.testing.faults import Fault
from mtexp.tracking import upload
from mtexp.tracking.store import open_store
from tests.profiling.profilers import install_nsys
from tests.run.run_helpers import Ran, Workplace, kind

pytestmark = pytest.mark.process

NO_PROFILE = "No profile; the timed results stand."
STRETCHED = ("latency_", "throughput_", "tokens_", "gpu_time_", "slowdown", "normalized_progress", "service_", "queue_")
"""Metrics that a profiler would have changed."""


def profiled(place: Workplace, *arguments: str, **more: Any) -> Ran:
    """A run whose timed half has ended well, whatever became of its profile."""
    ran = place.run(*arguments, "sweep=p", **more)
    assert ran.code == 0, ran.err
    assert "Traceback" not in ran.out + ran.err
    assert "p50 ms" in ran.out
    return ran


def of_the_pass(place: Workplace, profiler: str) -> tuple[RunRecord, Any]:
    """The pass's only record, and its run in MLflow: parent, children, and nothing that a profiler stretched."""
    found = place.records(f"outputs/p/profile-{profiler}")
    assert list(found) == ["."]
    record = found["."]
    timed = place.records("outputs/p")["."]
    assert (record.kind, record.profile_of) == ("profile", timed.record_id)
    (run,) = place.mlflow_runs("tags.`mtexp.profile_of` != ''")
    assert run.data.tags["mtexp.record_id"] == record.record_id
    children = place.children(run)
    assert set(children) == {tenant.id for tenant in record.tenants}
    for one in (run, *children.values()):
        assert not [name for name in one.data.metrics if name.startswith(STRETCHED)]
        with open_store(TrackingSpec(), write=False) as store:
            assert not store.client.get_metric_history(one.info.run_id, "latency_ms")
    return record, run


def uploaded_again(place: Workplace, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says that sends what MLflow has not got: it has all, and gets nothing new."""
    before = {run.info.run_id for run in place.mlflow_runs()}
    assert upload.main([str(place.folder / "outputs")]) == 0
    assert {run.info.run_id for run in place.mlflow_runs()} == before
    return capsys.readouterr().out


def test_torch_on_the_cpu_leaves_one_trace_of_all_tenants(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Operators of each tenant on one clock; no overlap table, which is said; a query for tenants finds none of it."""
    profiled(workplace, "mix=pair", "profiler=torch", "profiler.iterations=20")
    record, run = of_the_pass(workplace, "torch")
    assert (record.status, record.run_spec.launcher, record.metrics) == ("FINISHED", "forkserver", {})
    assert [set(tenant.metrics) for tenant in record.tenants] == [{"traced_slowdown"}] * 2
    assert any("On the CPU there are no GPU kernels" in text for text in workplace.phases)
    folder = workplace.folder / "outputs/p/profile-torch"
    assert not (folder / "overlap.json").exists()
    spans = operators(folder / "trace.json")
    assert set(spans) == {"tenant a", "tenant b"}
    assert max(first for first, _ in spans.values()) < min(last for _, last in spans.values())
    with open_store(TrackingSpec(), write=False) as store:
        assert "trace.json" in {file.path for file in store.client.list_artifacts(run.info.run_id)}
    parents = {child.data.tags["mlflow.parentRunId"] for child in workplace.mlflow_runs(kind("tenant"))}
    assert run.info.run_id not in parents
    everyone = fetch.tenants()
    assert sorted(everyone.loc[everyone["run_kind"] == "profile", "tenant"]) == ["a", "b"]
    assert len(fetch.runs("tags.mtexp.kind = 'profile'")) == 1
    # four records, or more where a busy host made a baseline be measured again
    assert re.search(r"\b(\d+) of \1 records are in MLflow", uploaded_again(workplace, capsys))


def operators(path: Path) -> dict[str, tuple[float, float]]:
    """First start and last end (us) of the operators of each process of a Chrome trace, by its name."""
    events = json.loads(path.read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    spans: dict[str, tuple[float, float]] = {}
    for event in events:
        if event.get("cat") == "cpu_op":
            first, last = spans.get(names[event["pid"]], (event["ts"], 0.0))
            spans[names[event["pid"]]] = min(first, event["ts"]), max(last, event["ts"] + event["dur"])
    return spans


def test_a_load_is_profiled_at_the_rate_that_it_came_to(workplace: Workplace) -> None:
    """The pass has no baselines to make a rate of; and open-loop requests are traced like any others."""
    point = ("mix=solo", "arrival=poisson", "arrival.load=0.2")
    profiled(workplace, *point, "profiler=torch", "profiler.iterations=5")
    record, _ = of_the_pass(workplace, "torch")
    (tenant,), (timed,) = record.run_spec.tenants, workplace.records("outputs/p")["."].run_spec.tenants
    assert tenant.arrival.rate_rps == timed.arrival.rate_rps > 0
    assert record.status == "FINISHED"


def test_nsys_leaves_overlap_and_no_latency(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line through a session of fresh interpreters to MLflow, with a stand-in for nsys."""
    on_the_cpu(monkeypatch)
    install_nsys(workplace.folder, monkeypatch, ["a", "b"])
    stressors = [f"models@mix.tenants.{tenant}=stress_{kind}" for tenant, kind in (("a", "launch"), ("b", "launch"))]
    profiled(workplace, "mix=pair", *stressors, "profiler=nsys")  # a fresh interpreter imports less than for a model
    record, run = of_the_pass(workplace, "nsys")
    assert (record.status, record.run_spec.launcher) == ("FINISHED", "interpreter")
    assert run.data.metrics == record.metrics == {"kernel_overlap_pct": 100 / 3, "gpu_idle_pct": 200 / 3}
    assert "kernel_overlap_pct 33.3, gpu_idle_pct 66.7" in workplace.phases
    assert "kernel overlap % 33.3" in run.data.tags["mlflow.note.content"]
    for child in workplace.children(run).values():
        assert child.data.metrics["busy_pct"] == pytest.approx(1000 / 45)
        assert child.data.metrics["traced_slowdown"] > 0
    with open_store(TrackingSpec(), write=False) as store:
        there = {file.path for file in store.client.list_artifacts(run.info.run_id)}
    assert {"profile.nsys-rep", "overlap.json", "kernels.parquet", "lanes.html", "record.json"} <= there
    assert re.search(r"\b(\d+) of \1 records are in MLflow", uploaded_again(workplace, capsys))


def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nsys and ncu be asked for where there is no GPU."""

    def profiler(config: convert.Config, *_: object) -> ProfilerSpec:
        return ProfilerSpec(kind=config.profiler.kind.name, iterations=2000)

    monkeypatch.setattr(convert, "_profiler", profiler)


def test_a_pass_that_fails_is_failed_in_mlflow_too(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the run nor a later upload takes it for a profile; the reason is there, with what to do."""
    on_the_cpu(monkeypatch)
    install_nsys(workplace.folder, monkeypatch, ["a"], broken="export")
    ran = profiled(workplace, "mix=stress_launch", "profiler=nsys")
    assert NO_PROFILE in ran.out + ran.err
    record, run = of_the_pass(workplace, "nsys")
    assert (record.status, record.verdict, run.info.status) == ("FAILED", "INVALID", "FAILED")
    assert "could not be exported" in run.data.tags["mtexp.failure"]
    assert [finding.code for finding in record.findings] == ["no-profile"]
    assert not any(tenant.metrics for tenant in record.tenants)
    assert re.search(r"\b(\d+) of \1 records are in MLflow", uploaded_again(workplace, capsys))


@pytest.mark.parametrize("what", ["tenant", "trace"])
def test_a_torch_pass_that_fails_leaves_no_valid_profile(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A tenant that fails while it is traced; traces that cannot be read."""
    pending = workplace.folder / "fault-happened"
    pending.touch()

    def let_fail(phase: str) -> None:
        if phase.startswith("profiling"):
            pending.unlink()

    faults = {"a": Fault(kind="raise", at=4, once=str(pending))} if what == "tenant" else {}
    if what == "trace":
        monkeypatch.setattr(torch_trace, "MAX_TRACE_BYTES", 10)
    profiled(workplace, "mix=solo", "profiler=torch", faults=faults, on_phase=let_fail)
    record, run = of_the_pass(workplace, "torch")
    assert (record.status, record.verdict, run.info.status) == ("FAILED", "INVALID", "FAILED")
    assert {"tenant": "a fault was asked for", "trace": "larger than"}[what] in record.failure


def test_a_pass_that_cannot_be_written_costs_the_run_nothing(workplace: Workplace) -> None:
    """A file lies where its folder should be: results, exit code and record of the timed run are as ever."""
    place = workplace.folder / "outputs/p/profile-torch"

    def occupy(phase: str) -> None:
        if phase == "warming up":
            place.write_text("mine")

    ran = profiled(workplace, "mix=solo", "profiler=torch", on_phase=occupy)
    assert NO_PROFILE in ran.out + ran.err
    assert "File exists" in ran.out + ran.err
    assert workplace.records("outputs/p")["."].status == "FINISHED"
    assert not workplace.mlflow_runs(kind("profile"))

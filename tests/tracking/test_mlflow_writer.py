from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from mtexp.errors import TrackingError
from mtexp.metrics.verdict import Finding
from mtexp.records import keys
from mtexp.records.record import BaselineRef, save
from mtexp.records.samples_file import read_iterations
from mtexp.spec import TrackingSpec
from mtexp.testing.records import example, stored
from mtexp.tracking import mlflow_writer
from mtexp.tracking.content import MAX_NAME, description, evenly, parent_content, tenant_content
from mtexp.tracking.mlflow_writer import batches, log_record


def runs_of(tracking: TrackingSpec, query: str = "", view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    client = MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    return list(client.search_runs([experiment.experiment_id], query, view)) if experiment else []


def parents(tracking: TrackingSpec) -> list[Run]:
    return [run for run in runs_of(tracking) if "mlflow.parentRunId" not in run.data.tags]


@pytest.mark.parametrize(
    ("swept", "name"),
    [
        ({"a.batch_size": "4", "repetition": "0"}, "a.batch_size=4 · repetition 0 · mixed · disabled · fp16"),
        ({"mix": "mixed", "repetition": "0"}, "mixed · repetition 0 · disabled · fp16"),
        ({"mix": "mixed", "mps_settings": "disabled"}, "disabled · mixed · fp16"),
        ({"sharing": "processes"}, "disabled · mixed · fp16"),
        ({}, "mixed · disabled · fp16"),
    ],
)
def test_names_begin_with_what_was_swept(swept: dict[str, str], name: str) -> None:
    """The list of runs cuts names at their end; the tag has all of it."""
    content = parent_content(replace(example()[0], swept=swept), "", thinned={}, max_history=10)
    assert content.name == name
    assert content.tags.get(keys.SWEPT, "") == " · ".join(f"{key}={value}" for key, value in swept.items())


def test_a_name_fits_the_strictest_store() -> None:
    """PostgreSQL refuses a run's name of more than 250 characters: the record would never reach it."""
    record, _ = example()
    limits: dict[str, Any] = {"thinned": {}, "max_history": 10}
    parent = parent_content(replace(record, swept={"mix.name": "n" * 300}), "", **limits)
    tenant = tenant_content(record, replace(record.tenants[0], model="m" * 300), "", **limits)
    assert MAX_NAME == len(parent.name) == len(tenant.name) == 250


def test_a_record_becomes_a_parent_and_a_nested_run_per_tenant(tmp_path: Path, tracking: TrackingSpec) -> None:
    """Names, tags, parameters, status and times are those of the design."""
    record = stored(tmp_path / "run")
    run_id = log_record(tmp_path / "run", tracking)
    by_name = {run.info.run_name: run for run in runs_of(tracking)}
    assert set(by_name) == {"mixed · disabled · fp16", "t0 bert_base", "t1 gpt2"}
    parent, child = by_name["mixed · disabled · fp16"], by_name["t1 gpt2"]
    assert parent.info.run_id == run_id == child.data.tags["mlflow.parentRunId"]
    assert parent.info.status == child.info.status == "FINISHED"
    assert (parent.info.start_time, parent.info.end_time) == (1763800000000, 1763800005000)
    tags = parent.data.tags
    assert tags[keys.KIND] == "mix"
    assert child.data.tags[keys.KIND] == "tenant"
    assert tags[keys.VERDICT] == child.data.tags[keys.VERDICT] == "VALID"
    assert tags[keys.SPEC_HASH] == record.spec_hash
    assert (tags[keys.DEVICE], tags["mtexp.driver"], tags[keys.SHRUNK]) == ("NVIDIA H200", "580.95.05", "false")
    assert tags["mlflow.note.content"].startswith("VALID · STP 1.2 [1.1, 1.3]")
    assert "within this run" in tags["mlflow.note.content"]
    assert tags[keys.INTERVAL_SCOPE] == keys.WITHIN_RUN
    assert child.data.params["tenant"] == "t1"
    assert child.data.tags["mlflow.note.content"].startswith("VALID · slowdown 1.6")
    assert child.data.params["model"] == "gpt2"
    assert parent.data.params["mix"] == "mixed"
    assert parent.data.params["num_tenants"] == "2"
    assert parent.data.metrics["stp_ci_low"] == 1.1
    assert child.data.metrics["slowdown"] == 1.6


def test_every_name_in_mlflow_is_in_the_registry(tmp_path: Path, tracking: TrackingSpec) -> None:
    """No tag, parameter or metric outside the one table."""
    stored(tmp_path / "run")
    log_record(tmp_path / "run", tracking)
    for run in runs_of(tracking):
        assert keys.unknown(run.data.metrics) == []
        assert set(run.data.params) <= set(keys.PARAMS)
        assert {tag for tag in run.data.tags if not tag.startswith("mlflow.")} <= set(keys.TAGS)


def test_histories_are_those_of_the_parquet_files(tmp_path: Path, tracking: TrackingSpec) -> None:
    """Step is the iteration, the time is the wall clock of its end; telemetry is on the parent, without gaps filled."""
    stored(tmp_path / "run")
    run_id = log_record(tmp_path / "run", tracking)
    client = MlflowClient(tracking.uri)
    child = next(run for run in runs_of(tracking) if run.info.run_name == "t0 bert_base")
    rows = read_iterations(tmp_path / "run" / "iterations.parquet")
    rows = rows[(rows["tenant"] == "t0") & (rows["iteration"] >= 0)]
    for key in ("latency_ms", "gpu_time_ms"):
        points = client.get_metric_history(child.info.run_id, key)
        assert [p.step for p in points] == rows["iteration"].tolist()
        assert [p.value for p in points] == rows[key].tolist()
    assert points[0].timestamp == (rows["end_ns"].iloc[0] - 10**12 + 1_763_800_000 * 10**9) // 10**6
    power = client.get_metric_history(run_id, "gpu_power_w")
    assert [p.step for p in power] == [0, 1, 2, *range(4, 11)]
    system = client.get_metric_history(run_id, "system/gpu_power_w")
    assert [(p.step, p.value) for p in system] == [(p.step, p.value) for p in power], "shown under System metrics"
    assert len(client.get_metric_history(child.info.run_id, "tenant_gpu_memory_mib")) == 11


def test_artifacts_are_the_files_of_the_record_and_nothing_else(tmp_path: Path, tracking: TrackingSpec) -> None:
    """Samples, telemetry, configuration, logs; no links, no markers, no baselines of a subfolder."""
    stored(tmp_path / "run")
    stored(tmp_path / "run" / "baseline_bert", seed=1)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "run" / "logs" / "link.log").symlink_to(tmp_path / "secret")
    (tmp_path / "run" / "upload.pending").write_text("later")
    run_id = log_record(tmp_path / "run", tracking)
    client = MlflowClient(tracking.uri)
    names = {artifact.path for artifact in client.list_artifacts(run_id)}
    expected = {"iterations.parquet", "telemetry.parquet", "record.json", "environment.json", "config.yaml", "logs"}
    assert names == expected
    assert {artifact.path for artifact in client.list_artifacts(run_id, "logs")} == {"logs/t0.log", "logs/t1.log"}


def test_sending_twice_is_sending_once(tmp_path: Path, tracking: TrackingSpec) -> None:
    """A complete record is left as it is."""
    stored(tmp_path / "run")
    assert log_record(tmp_path / "run", tracking) == log_record(tmp_path / "run", tracking)
    assert len(runs_of(tracking, view=ViewType.ALL)) == 3


@pytest.mark.parametrize("call", ["log_batch", "set_terminated", "log_artifact", "set_tag"])
def test_killed_half_way_and_sent_again_is_sending_once(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Wherever the first attempt stopped, the second leaves one complete run, and the half one counts for no query."""
    stored(tmp_path / "run")

    def killed(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, killed)
        with pytest.raises(KeyboardInterrupt):
            log_record(tmp_path / "run", tracking)
    assert not [run for run in parents(tracking) if run.data.tags.get(keys.UPLOAD) == keys.UPLOAD_COMPLETE]
    assert "RUNNING" not in {run.info.status for run in runs_of(tracking)}, "nobody would ever end it"
    run_id = log_record(tmp_path / "run", tracking)
    assert [run.info.run_id for run in parents(tracking)] == [run_id]
    assert {run.info.status for run in runs_of(tracking)} == {"FINISHED"}
    assert len(runs_of(tracking)) == 3


def test_long_histories_are_thinned_evenly_and_it_is_said(tmp_path: Path, tracking: TrackingSpec) -> None:
    """MLflow gets the cap, first and last among them; the tag says how many there were."""
    stored(tmp_path / "run", iterations=50)
    log_record(tmp_path / "run", replace(tracking, max_history=10))
    child = next(run for run in runs_of(tracking) if run.info.run_name == "t0 bert_base")
    steps = [p.step for p in MlflowClient(tracking.uri).get_metric_history(child.info.run_id, "latency_ms")]
    assert len(steps) == 10
    assert (steps[0], steps[-1]) == (0, 49)
    assert "latency_ms: 10 of 50 points" in child.data.tags[keys.HISTORY_THINNED]


def test_a_failed_run_is_failed_in_mlflow_with_its_reason(tmp_path: Path, tracking: TrackingSpec) -> None:
    """Status FAILED and the reason as a tag, on the run and on the tenant that caused it."""
    record, samples = example(status="FAILED", verdict="INVALID", failure="tenant t1 failed in build: out of memory")
    broken = replace(record.tenants[1], status="FAILED", phase="build", error="out of memory", metrics={})
    finding = Finding(level="invalid", code="tenant_failed", message="t1 failed", remedy="use less memory")
    save(replace(record, tenants=(record.tenants[0], broken), findings=(finding,)), tmp_path, samples)
    log_record(tmp_path, tracking)
    parent, child = parents(tracking)[0], next(r for r in runs_of(tracking) if r.info.run_name == "t1 gpt2")
    assert parent.info.status == child.info.status == "FAILED"
    assert parent.data.tags[keys.FAILURE] == "tenant t1 failed in build: out of memory"
    assert child.data.tags[keys.FAILURE] == "build: out of memory"
    assert "t1 failed" in parent.data.tags[keys.VERDICT_REASONS]


def test_every_reason_is_a_tag_with_its_remedy() -> None:
    """Gravest first, each tenant named once; 48 tenants with the same remark leave room for the next."""
    moved = "the latency of t{} moved by +3.0 % within the window"
    drift = [Finding("warning", "drift", moved.format(i), "Warm up longer.", f"t{i}") for i in range(48)]
    findings = (
        Finding("invalid", "foreign-process", "other processes used the device", "Stop them."),
        *drift,
        Finding("warning", "no-recheck", "the baseline of t1 was not VALID", "Run again.", "t1"),
        Finding("note", "insufficient", "p99 needs 662", "Set more."),
    )
    record, _ = example(verdict="INVALID", findings=findings)
    said = parent_content(record, "", thinned={}, max_history=0).tags[keys.VERDICT_REASONS].split(" | ")
    assert said[0] == "invalid: other processes used the device. Stop them."
    assert said[1] == "warning: the latency of t0 moved by +3.0 % within the window. Warm up longer."
    assert said[-2].startswith("warning: 45 more")
    assert said[-1] == "warning: the baseline of t1 was not VALID. Run again."


def test_a_tenant_links_to_the_baseline_it_was_compared_with(tmp_path: Path, tracking: TrackingSpec) -> None:
    """The child names the baseline's run, record and hash."""
    record, samples = example()
    ref = BaselineRef(record_id="ab" * 16, baseline_hash="h1", run_id="r1", throughput_rps=1.0, latency_mean_ms=1.0)
    save(replace(record, tenants=(replace(record.tenants[0], baseline=ref),)), tmp_path, samples)
    log_record(tmp_path, tracking)
    tags = next(run for run in runs_of(tracking) if "tenant" in run.data.params).data.tags
    assert (tags[keys.BASELINE_RUN_ID], tags[keys.BASELINE_RECORD_ID], tags[keys.BASELINE_HASH]) == (
        "r1",
        "ab" * 16,
        "h1",
    )


def test_an_unregistered_metric_is_refused(tmp_path: Path, tracking: TrackingSpec) -> None:
    """A typo in a metric does not become a new column in MLflow."""
    record, samples = example(metrics={"sttp": 1.0})
    save(record, tmp_path, samples)
    with pytest.raises(TrackingError, match=r"metric sttp is not in mtexp\.records\.keys"):
        log_record(tmp_path, tracking)


def test_an_error_of_mlflow_is_a_tracking_error(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What MLflow raises is said in one line with the store it came from."""
    stored(tmp_path / "run")

    def refuse(*arguments: Any, **named: Any) -> None:
        raise MlflowException("disk I/O\nerror")

    monkeypatch.setattr(MlflowClient, "create_run", refuse)
    with pytest.raises(TrackingError, match=r"MLflow at sqlite:///.*: disk I/O error"):
        log_record(tmp_path / "run", tracking)


def test_batches_lose_nothing_keep_order_and_respect_the_limits() -> None:
    """1000 metrics, 100 parameters, 1000 of both together."""
    for metrics, params in ((0, 0), (1, 0), (0, 1), (999, 2), (1000, 100), (2500, 250)):
        calls = list(batches(range(metrics), range(params)))
        assert [x for call in calls for x in call[0]] == list(range(metrics))
        assert [x for call in calls for x in call[1]] == list(range(params))
        assert all(len(m) + len(p) <= mlflow_writer.BATCH_ENTITIES and len(p) <= 100 for m, p in calls)
        assert len(calls) == max(-(-(metrics + params) // 1000), -(-params // 100))


def test_thinning_keeps_the_ends_and_the_order() -> None:
    """Even positions, no more than asked for, all of them where they fit."""
    assert evenly(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert evenly(101, 11).tolist() == list(range(0, 101, 10))
    assert evenly(0, 10).tolist() == []


def test_a_tenant_of_a_sweep_says_which_point_it_is_of() -> None:
    """Two points of a sweep have the same tenants; the list shows their names and the beginnings of descriptions."""
    record = replace(example()[0], swept={"batch_size": "4"})
    fast = replace(record.tenants[0], metrics={**record.tenants[0].metrics, "throughput_rps": 1154.2})
    content = tenant_content(record, fast, "parent", thinned={}, max_history=10)
    assert content.name == "t0 bert_base · batch_size=4"
    assert content.tags["mlflow.note.content"].startswith("VALID · ")
    assert content.tags["mlflow.note.content"].endswith("rps 1154")


def test_the_description_is_a_table_a_person_can_read() -> None:
    """Verdict, headline and a row a tenant; a percentile with too few iterations carries a question mark."""
    record, _ = example()
    record = replace(record, tenants=(replace(record.tenants[0], insufficient=("latency_p99_ms",)),))
    lines = description(record).splitlines()
    assert lines[0] == "VALID · STP 1.2 [1.1, 1.3] · ANTT 1.6"
    assert lines[4].startswith("| tenant | model | mean ms | p50 ms | p90 ms | p99 ms |")
    assert lines[6].startswith("| t0 | bert_base |")
    assert lines[6].count("?") == 1
    assert "launch-bound" not in lines[4]
    bound = replace(record.tenants[0], metrics={**record.tenants[0].metrics, "launch_bound_pct": 62.51})
    lines = description(replace(record, tenants=(bound,))).splitlines()
    assert lines[4].endswith("| launch-bound % |")
    assert lines[6].endswith("| 62.51 |")


def test_the_list_of_runs_shows_the_latency_of_a_mix_of_one_tenant() -> None:
    """The list shows the first line. STP and overlap compare with neighbours, so a lone tenant has none."""
    record, _ = example(["bert_base"], mix="bert_base")
    figures = {"latency_p50_ms": 4.27, "latency_p99_ms": 9.0, "throughput_rps": 210.0}
    own = replace(record.tenants[0], metrics=figures, insufficient=("latency_p99_ms",))
    first = description(replace(record, tenants=(own,))).splitlines()[0]
    assert first == "VALID · p50 ms 4.27 · rps 210"

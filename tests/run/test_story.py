"""The main job end to end: a sweep on the CPU, its records, what MLflow holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mtexp.records.samples_file import read_iterations, read_telemetry
from mtexp.spec import TrackingSpec
from mtexp.tracking.store import open_store
from tests.launch.conftest import forked
from tests.run.run_helpers import Ran, Workplace, kind

pytestmark = pytest.mark.process

PARAMS = {
    "mix": "pair",
    "precision": "fp16",
    "mps_settings": "disabled",
    "sharing": "processes",
    "workload": "forward",
    "arrival": "closed",
    "execution": "eager",
    "batch_size": "1",
    "seq_len": "8",
    "iterations": "70",
    "warmup": "2",
    "num_tenants": "2",
}
TAGS = ("sweep", "verdict", "spec_hash", "device", "shrunk", "torch", "transformers", "host", "record_id")
CHILD_METRICS = {
    "latency_mean_ms",
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "throughput_rps",
    "slowdown",
    "normalized_progress",
    "memory_peak_mib",
}
INTERVALS = ("stp", "antt", "jain_fairness", "fairness")
RUN_METRICS = {"throughput_rps", "overlap_pct", "window_share_pct", "window_s", *INTERVALS} | {
    f"{key}_ci_{end}" for key in INTERVALS for end in ("low", "high")
}
ARTIFACTS = {"iterations.parquet", "telemetry.parquet", "config.yaml", "environment.json", "record.json", "logs"}


LONG = "baseline.min_time_s=1"
"""A baseline measures at least as long as its mix, and is found again by that."""
FIRST = "tags.`mtexp.sweep` = 'first'"


def mix(place: Workplace, name: str) -> Any:
    """The run of that mix in the first sweep."""
    (run,) = place.mlflow_runs(f"{kind('mix')} AND {FIRST} AND params.mix = '{name}'")
    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with Workplace.at(tmp_path_factory.mktemp("story")) as place:
        yield place


@pytest.fixture(scope="module")
def sweep(place: Workplace) -> Ran:
    """Two points, three tenants, two models, in an empty folder."""
    ran = place.run("-m", "mix=solo,pair", "measure.min_time_s=1", LONG, "sweep=first")
    assert ran.code == 0, ran.err
    return ran


@pytest.mark.usefixtures("sweep")
class TestMlflow:
    """What MLflow holds."""

    def test_a_parent_for_every_run_and_a_child_for_every_tenant(self, place: Workplace) -> None:
        """Two mixes and two baselines, each model once alone; children know their parent."""
        mixes, baselines = (place.mlflow_runs(f"{kind(k)} AND {FIRST}") for k in ("mix", "baseline"))
        assert sorted(run.data.params["mix"] for run in mixes) == ["pair", "solo"]
        assert sorted(run.data.params["mix"] for run in baselines) == ["bert_base", "llama_3_2_1b"]
        assert {len(place.children(run)) for run in baselines} == {1}
        assert len(place.mlflow_runs(f"{kind('tenant')} AND {FIRST}")) == 3 + 2
        assert {run.info.status for run in place.mlflow_runs(FIRST)} == {"FINISHED"}

    def test_parameters_and_tags(self, place: Workplace) -> None:
        """On the parent and on its children."""
        pair = mix(place, "pair")
        children = place.children(pair)
        assert {name: (c.data.params["tenant"], c.data.params["model"]) for name, c in children.items()} == {
            "a": ("a", "bert_base"),
            "b": ("b", "llama_3_2_1b"),
        }
        for run in (pair, *children.values()):
            assert PARAMS.items() <= run.data.params.items()
            assert {f"mtexp.{tag}" for tag in TAGS} <= set(run.data.tags)
            assert run.data.tags["mtexp.sweep"] == "first"
            assert (run.data.tags["mtexp.device"], run.data.tags["mtexp.shrunk"]) == ("cpu", "true")

    def test_summaries(self, place: Workplace) -> None:
        """STP and its kin with intervals on the parent, latencies and slowdown on the children; nothing of a GPU."""
        pair = mix(place, "pair")
        assert set(pair.data.metrics) >= RUN_METRICS
        for child in place.children(pair).values():
            assert set(child.data.metrics) >= CHILD_METRICS
            assert child.data.metrics["iterations_in_window"] <= child.data.metrics["iterations_measured"]
        everything = {key for run in (pair, *place.children(pair).values()) for key in run.data.metrics}
        assert not {key for key in everything if key.startswith(("gpu_", "energy_"))}

    def test_histories(self, place: Workplace) -> None:
        """Latency by iteration on a child, as the Parquet file has it; telemetry by sample on the parent."""
        pair = mix(place, "pair")
        child = place.children(pair)["b"]
        folder = Path(pair.data.tags["mtexp.record_path"])
        with open_store(TrackingSpec(), write=False) as store:
            latency = store.client.get_metric_history(child.info.run_id, "latency_ms")
            memory = store.client.get_metric_history(pair.info.run_id, "memory_used_mib")
        frame = read_iterations(folder / "iterations.parquet")
        rows = frame[(frame["tenant"] == "b") & (frame["phase"] == "measure")]
        points = sorted((point.step, point.value) for point in latency)
        assert [step for step, _ in points] == rows["iteration"].tolist()
        assert [value for _, value in points] == pytest.approx(rows["latency_ms"].tolist())
        assert len(memory) == read_telemetry(folder / "telemetry.parquet")["memory_used_mib"].notna().sum()

    def test_artifacts(self, place: Workplace) -> None:
        """The files of the record, on the parent."""
        pair = mix(place, "pair")
        with open_store(TrackingSpec(), write=False) as store:
            assert {f.path for f in store.client.list_artifacts(pair.info.run_id)} >= ARTIFACTS
            logs = {f.path for f in store.client.list_artifacts(pair.info.run_id, "logs")}
        assert logs >= {"logs/a.log", "logs/b.log"}

    def test_slowdowns_are_those_of_the_baselines(self, place: Workplace) -> None:
        """Mean latency shared over alone; the child names the run it was compared with."""
        pair = mix(place, "pair")
        for child in place.children(pair).values():
            (alone,) = place.mlflow_runs(f"attributes.run_id = '{child.data.tags['mtexp.baseline_run_id']}'")
            (tenant,) = place.children(alone).values()
            assert tenant.data.params["model"] == child.data.params["model"]
            slowdown = child.data.metrics["latency_mean_ms"] / tenant.data.metrics["latency_mean_ms"]
            assert child.data.metrics["slowdown"] == pytest.approx(slowdown)


@pytest.mark.usefixtures("sweep")
class TestRecord:
    """What lies on disk."""

    def test_one_folder_a_point_and_one_a_baseline(self, place: Workplace) -> None:
        """Records are what MLflow got; nothing is pending, no buffer is left."""
        records = place.records("multirun/first")
        assert len(records) >= 4
        assert {name.split("/")[0] for name in records} == {"0", "1"}
        runs = [run for k in ("mix", "baseline") for run in place.mlflow_runs(f"{kind(k)} AND {FIRST}")]
        ids = {run.data.tags["mtexp.record_id"] for run in runs}
        assert {record.record_id for record in records.values()} == ids
        assert not list(place.folder.rglob("upload.pending"))
        assert not list(place.folder.rglob("*.bin"))

    def test_the_proof_and_the_facts_are_there(self, place: Workplace) -> None:
        """Distinct processes, before and after; libraries in the environment."""
        record = place.records("multirun/first")["1"]
        assert record.sharing["proven"]
        pids = [[getattr(t, moment)["pid"] for t in record.tenants] for moment in ("facts_before", "facts_after")]
        assert pids[0] == pids[1]
        assert len(set(pids[0])) == 2
        assert {"torch_version", "transformers_version", "host", "cpu_model"} <= set(record.environment)
        assert record.verdict == "VALID"
        assert record.clock[0] < record.clock[-1]

    def test_outputs_are_checked_and_results_named_by_their_weights(self, place: Workplace) -> None:
        """The same model has the same weights in every run, and a baseline says which it had."""
        records = place.records("multirun/first")
        for tenant in records["1"].tenants:
            known = tenant.facts_after
            assert known["layers_check"]["kinds"] >= 5
            assert known["outputs_check"]["kept"] >= 2
            assert tenant.baseline is not None
            assert tenant.baseline.computed_with == f"0:{known['weights_checksum']}:{known['inputs_checksum']}"
        checksums = [records[number].tenants[0].facts_after["weights_checksum"] for number in "01"]
        assert checksums[0] == checksums[1]
        codes = {finding.code for finding in records["1"].findings}
        assert not codes & {"wrong-output", "other-weights", "output-unchecked"}

    def test_samples_hold_warm_up_window_and_tail(self, place: Workplace) -> None:
        """Two warm-ups each, at least 70 measured, those in the window marked."""
        frame = read_iterations(place.folder / "multirun/first/1/iterations.parquet")
        counts = frame.groupby(["tenant", "phase"], observed=True).size()
        assert (counts[:, "warmup"] == 2).all()
        assert (counts[:, "measure"] >= 70).all()
        assert not frame.loc[frame["phase"] == "warmup", "in_window"].any()
        assert frame["in_window"].any()
        assert pd.isna(frame["gpu_time_ms"]).all()


def test_the_terminal_shows_tables_and_the_way_on(sweep: Ran) -> None:
    """A table a run, the summary with a row a run, how to look at it."""
    assert "models are shrunk" in sweep.out
    assert sweep.out.count("slowdown") >= 2
    summary = sweep.out[sweep.out.rindex("mps_settings") :].splitlines()
    assert [line.split()[0] for line in summary[1:3]] == ["solo", "pair"]
    assert all(line.endswith("VALID") for line in summary[1:3])
    assert "python -m mtexp.tracking.ui --uri sqlite:///" in sweep.out
    assert sweep.err == ""


@pytest.mark.usefixtures("sweep")
def test_baselines_are_measured_once(place: Workplace) -> None:
    """Another runner, as another process: they are found in MLflow, and the slowdown refers to them."""
    before = {run.info.run_id for run in place.mlflow_runs(kind("baseline"))}
    ran = place.run("mix=pair", LONG, "sweep=second")
    assert ran.code == 0, ran.err
    assert not [text for text in place.phases if text.startswith("baseline")]
    assert {run.info.run_id for run in place.mlflow_runs(kind("baseline"))} == before
    record = place.records("outputs/second")["."]
    assert {t.baseline.run_id for t in record.tenants if t.baseline} <= before
    assert {"slowdown", "normalized_progress"} <= set(record.tenants[1].metrics)


@pytest.mark.usefixtures("sweep")
def test_a_load_is_a_share_of_the_stored_baseline(place: Workplace) -> None:
    """The rate comes from the baseline; resumed, the point is known by its load."""
    point = ("mix=solo", "arrival=poisson", "arrival.load=0.2", LONG, "sweep=open")
    assert place.run(*point).code == 0
    record = place.records("outputs/open")["."]
    (tenant,) = record.run_spec.tenants
    assert tenant.arrival.rate_rps == pytest.approx(0.2 * record.tenants[0].baseline.throughput_rps)
    saturated = any(finding.code == "saturated" for finding in record.findings)  # on a busy host
    assert saturated or "queue_mean_ms" in record.tenants[0].metrics
    assert place.run(*point, "resume=true").code == 0
    assert place.phases == ["solo: done before, skipped (resume=true)"]


@pytest.mark.usefixtures("sweep")
def test_baseline_require_takes_what_is_there_and_refuses_the_rest(place: Workplace) -> None:
    """Without a stored baseline: one message with the remedy, exit code 1, nothing measured."""
    assert place.run("mix=solo", "baseline=require", LONG, "sweep=required").code == 0
    ran = place.run("mix=solo", "baseline=require", LONG, "workload.seq_len=9", "sweep=refused")
    assert ran.code == 1
    assert "baseline.mode=require" in ran.err
    assert "baseline=auto" in ran.err
    assert "Traceback" not in ran.err
    assert not place.records("outputs/refused")
    assert json.loads((place.folder / "outputs/refused/job.json").read_text())["status"] == "FAILED"


def test_no_process_outlives_its_run(sweep: Ran) -> None:
    """The forkserver has no child when nothing runs."""
    assert not forked()

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtexp.metrics.window import Window
from mtexp.records.record import RunRecord, save
from mtexp.spec import ArrivalSpec, MpsLimits, TenantSpec, TrackingSpec, WorkloadSpec
from mtexp.testing.records import ENVIRONMENT, example
from mtexp.tracking.ledger import baseline_hash, find_baseline, finished
from mtexp.tracking.mlflow_writer import log_record


def _baseline(folder: Path, tracking: TrackingSpec, *, age_h: float = 0.0, seed: int = 0, **changes: Any) -> RunRecord:
    started = datetime.fromtimestamp(time.time() - age_h * 3600, UTC).isoformat()
    changes = {"baseline_hash": "b1", "started_at": started, "ended_at": started, **changes}
    record, samples = example(["bert_base"], kind="baseline", seed=seed, **changes)
    save(record, folder, samples)
    log_record(folder, tracking)
    return record


def test_a_baseline_is_found_by_its_hash_with_its_samples(tmp_path: Path, tracking: TrackingSpec) -> None:
    """Reference and the iterations of its window come back."""
    record = _baseline(tmp_path / "b", tracking)
    found = find_baseline("b1", tracking, max_age_h=1)
    assert found is not None
    assert found.ref.record_id == record.record_id
    assert found.ref.path == str(tmp_path / "b")
    assert found.ref.run_id
    assert found.started_at == record.started_at
    assert found.ref.throughput_rps == record.tenants[0].metrics["throughput_rps"]
    assert record.window is not None
    kept = Window(record.window["t0_ns"], record.window["t1_ns"]).keep(example(["bert_base"], kind="baseline")[1]["t0"])
    np.testing.assert_array_equal(found.series.latency_ms, kept.latency_ms)


def test_a_baseline_of_another_host_comes_from_the_artifacts(tmp_path: Path, tracking: TrackingSpec) -> None:
    """Its folder is not here, or holds another record by now: MLflow has it all."""
    record = _baseline(tmp_path / "b", tracking)
    shutil.rmtree(tmp_path / "b")
    found = find_baseline("b1", tracking, max_age_h=1)
    assert found is not None
    assert found.ref.record_id == record.record_id
    other, samples = example(["bert_base"], kind="baseline", seed=9, baseline_hash="b1")
    save(other, tmp_path / "b", samples)
    again = find_baseline("b1", tracking, max_age_h=1)
    assert again is not None
    assert again.ref.record_id == record.record_id


def test_the_newest_valid_one_that_is_young_enough_counts(tmp_path: Path, tracking: TrackingSpec) -> None:
    """Old ones, INVALID ones and those of another hash do not."""
    _baseline(tmp_path / "old", tracking, age_h=30)
    assert find_baseline("b1", tracking, max_age_h=24) is None
    middle = _baseline(tmp_path / "middle", tracking, age_h=10, seed=1)
    _baseline(tmp_path / "older", tracking, age_h=20, seed=2)
    _baseline(tmp_path / "invalid", tracking, seed=3, verdict="INVALID")
    _baseline(tmp_path / "other", tracking, seed=4, baseline_hash="b2")
    found = find_baseline("b1", tracking, max_age_h=24)
    assert found is not None
    assert found.ref.record_id == middle.record_id


def test_no_store_means_no_baseline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing tracked yet is silent; a store that does not answer is said."""
    assert find_baseline("b1", TrackingSpec(uri=f"sqlite:///{tmp_path / 'none.db'}"), max_age_h=1) is None
    assert not caplog.records
    assert find_baseline("b1", TrackingSpec(uri="http://127.0.0.1:9"), max_age_h=1) is None
    assert "measured again" in caplog.text


_RUN = example(["bert_base"], kind="baseline")[0].run_spec
_TENANT = _RUN.tenants[0]


@pytest.mark.parametrize(
    "other",
    [
        replace(_TENANT, id="other"),
        replace(_TENANT, seed=7),
        replace(_TENANT, slo_ms=5.0),
        replace(_TENANT, model=replace(_TENANT.model, name="bert_base_too")),
        replace(_TENANT, arrival=ArrivalSpec(seed=3)),
    ],
)
def test_what_changes_no_baseline_changes_no_hash(other: TenantSpec) -> None:
    """Ids, seeds, names and service levels do not make a baseline another."""
    assert baseline_hash(other, _RUN, ENVIRONMENT) == baseline_hash(_TENANT, _RUN, ENVIRONMENT)


@pytest.mark.parametrize(
    "other",
    [
        replace(_TENANT, precision="fp32"),
        replace(_TENANT, execution="compile"),
        replace(_TENANT, workload=WorkloadSpec(batch_size=16)),
        replace(_TENANT, model=replace(_TENANT.model, shape={"hidden_size": 1})),
        replace(_TENANT, model=replace(_TENANT.model, attn_implementation="eager")),
        replace(_TENANT, model=replace(_TENANT.model, role="embedding")),
        replace(_TENANT, mps=MpsLimits(active_thread_pct=50.0)),
    ],
)
def test_what_changes_a_baseline_changes_its_hash(other: TenantSpec) -> None:
    """Shape, attention, role, workload, precision, execution and limits each make another baseline."""
    assert baseline_hash(other, _RUN, ENVIRONMENT) != baseline_hash(_TENANT, _RUN, ENVIRONMENT)


@pytest.mark.parametrize(
    "key",
    [
        "gpu_uuid",
        "gpu_name",
        "driver_version",
        "cuda_version",
        "torch_version",
        "torch_cuda_version",
        "transformers_version",
    ],
)
def test_a_baseline_is_never_reused_across_devices_and_libraries(key: str) -> None:
    """Another GPU, driver, torch or transformers is another baseline."""
    assert baseline_hash(_TENANT, _RUN, {**ENVIRONMENT, key: "x"}) != baseline_hash(_TENANT, _RUN, ENVIRONMENT)


def test_resume_runs_what_is_missing_or_failed(tmp_path: Path, tracking: TrackingSpec) -> None:
    """FINISHED points count, INVALID ones unless they are to be redone, baselines and FAILED ones never; each comes
    with its verdict and figures."""
    changes = {"v": {}, "i": {"verdict": "INVALID"}, "f": {"status": "FAILED"}, "b": {"kind": "baseline"}}
    for seed, (name, change) in enumerate(changes.items()):
        record, samples = example(seed=seed, spec_hash=name, **change)
        save(record, tmp_path / name, samples)
        log_record(tmp_path / name, tracking)
    assert finished(tracking, ENVIRONMENT).keys() == {"v", "i"}
    assert finished(tracking, ENVIRONMENT, redo_invalid=True).keys() == {"v"}
    by_mlflow = finished(tracking, ENVIRONMENT)["i"]
    on_disk = finished(TrackingSpec(enabled=False), ENVIRONMENT, folder=tmp_path)["i"]
    assert (by_mlflow.verdict, by_mlflow.metrics) == ("INVALID", {"stp": 1.2, "antt": 1.6})
    assert on_disk == by_mlflow
    assert finished(tracking, {**ENVIRONMENT, "driver_version": "999"}).keys() == set()


def test_resume_counts_what_another_gpu_of_the_kind_has_done(tmp_path: Path, tracking: TrackingSpec) -> None:
    """A sweep may have been spread over several GPUs: without a name, any of that model and driver counts; with one,
    only that GPU does; another model or driver, or a CPU, never."""
    changes = {"gpu_uuid": "GPU-2", "gpu_name": "NVIDIA A100", "driver_version": "999"}
    for seed, (key, value) in enumerate(changes.items()):
        for place in ("sent", "kept"):
            record, samples = example(seed=seed, environment={**ENVIRONMENT, key: value}, spec_hash=f"{place} {key}")
            save(record, tmp_path / place / key, samples)
        log_record(tmp_path / "sent" / key, tracking)
    any_gpu = {key: value for key, value in ENVIRONMENT.items() if key != "gpu_uuid"}
    assert finished(tracking, any_gpu, folder=tmp_path / "kept").keys() == {"sent gpu_uuid", "kept gpu_uuid"}
    assert finished(tracking, ENVIRONMENT, folder=tmp_path / "kept").keys() == set()


def test_resume_counts_records_where_mlflow_does_not_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The folder of the sweep says what is done, and that only it was asked is said."""
    record, samples = example(spec_hash="here")
    save(record, tmp_path, samples)
    assert finished(TrackingSpec(uri="http://127.0.0.1:9"), ENVIRONMENT, folder=tmp_path).keys() == {"here"}
    assert f"Only the records in {tmp_path} count" in caplog.text


def test_resume_counts_records_that_did_not_reach_mlflow(tmp_path: Path) -> None:
    """Without a store, the folder of the sweep says what is done."""
    record, samples = example(gpu=False, spec_hash="here")
    save(record, tmp_path / "0", samples)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "record.json").write_text("{")
    nowhere = TrackingSpec(uri=f"sqlite:///{tmp_path / 'none.db'}")
    assert finished(nowhere, record.environment, folder=tmp_path).keys() == {"here"}
    assert finished(nowhere, {**record.environment, "host": "another"}, folder=tmp_path).keys() == set()


def test_a_baseline_measured_beside_foreign_processes_is_another_one():
    """A run that refuses busy foreign processes is not compared with what another rule let pass."""
    refusing, warning = (
        baseline_hash(_TENANT, replace(_RUN, measure=replace(_RUN.measure, foreign=rule)), ENVIRONMENT)
        for rule in ("refuse", "warn")
    )
    assert baseline_hash(_TENANT, _RUN, ENVIRONMENT) == refusing != warning

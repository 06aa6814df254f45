"""What an analysis rests on: where it is read from changes nothing, and what must not be mixed is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from analysis_study import Study

from analysis import report, tables
from analysis.advise import advise
from analysis.data import load
from analysis.dataset import DataError, Dataset
from analysis.export_files import ITERATIONS, MANIFEST, RUNS, TENANTS, write_export
from analysis.fetch import QueryError
from analysis.pooling import Results, pool
from mtexp.errors import RecordError
from mtexp.records.files import find_records
from mtexp.records.record import save
from mtexp.spec import TrackingSpec
from mtexp.tracking.mlflow_writer import log_record


def figures(results: Results) -> pd.DataFrame:
    """Numbers of the points, by what they are of."""
    frame = results.points.set_index(results.points["mix"] + " " + results.points["sharing"])
    return frame.select_dtypes("number").drop(columns="point").sort_index()


def test_an_export_gives_the_same_figures(study: Dataset, results: Results, tmp_path: Path) -> None:
    """Every figure made from an export is that made from the records, but for rounding to the microsecond."""
    write_export(study, tmp_path / "export")
    again = figures(pool(load(records=tmp_path / "export"), draws=200))
    before = figures(results).dropna(axis="columns", how="all")
    pd.testing.assert_frame_equal(again[before.columns], before, rtol=1e-3)


def test_an_export_is_small(study: Dataset, tmp_path: Path) -> None:
    """An iteration takes a few bytes."""
    sizes = write_export(study, tmp_path)
    assert sizes[ITERATIONS] < 6 * len(study.iterations)


def test_an_export_keeps_telemetry_beside_its_requests(study: Dataset, tmp_path: Path) -> None:
    """Both count from the run's first start, so that what the clock did while a request ran is still known."""
    write_export(study, tmp_path)
    again = load(records=tmp_path)
    record = study.runs["record_id"].iloc[0]
    for before, after in ((study.telemetry, again.telemetry), (study.iterations, again.iterations)):
        column = "monotonic_ns" if "monotonic_ns" in before else "start_ns"
        origin_ns = study.iterations.loc[study.iterations["record_id"] == record, "start_ns"].min()
        own, kept = (frame.loc[frame["record_id"] == record, column].to_numpy() for frame in (before, after))
        assert np.allclose(own - origin_ns, kept, atol=1000)


def test_an_export_of_an_export_is_the_same(study: Dataset, tmp_path: Path) -> None:
    """Nothing is lost by exporting again."""
    write_export(study, tmp_path / "one")
    write_export(load(records=tmp_path / "one", include_invalid=True), tmp_path / "two")
    one, two = (pq.read_table(tmp_path / name / ITERATIONS) for name in ("one", "two"))
    assert one.equals(two)


def test_exports_below_a_folder_are_read_together(tmp_path: Path) -> None:
    """Several exports are one dataset; a baseline that both have counts once."""
    for name, models in (("a", ["bert_base", "distilgpt2"]), ("b", ["bert_base", "bert_base"])):
        Study(tmp_path / "records" / name, iterations=20).run(models)
        write_export(load(records=tmp_path / "records" / name), tmp_path / "exports" / name)
    both = load(records=tmp_path / "exports")
    assert len(both.runs) == 2
    assert both.baselines["record_id"].is_unique
    assert set(both.iterations["record_id"]) >= set(both.runs["record_id"])


@pytest.mark.parametrize("damage", ["rows", "version", "json", "parquet", "column"])
def test_a_damaged_export_is_refused(study: Dataset, tmp_path: Path, damage: str) -> None:
    """What does not match the manifest is named, never drawn."""
    write_export(study, tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    if damage == "rows":
        manifest["rows"][ITERATIONS] += 1
    if damage == "version":
        manifest["format_version"] = 99
    (tmp_path / MANIFEST).write_text("{" if damage == "json" else json.dumps(manifest))
    if damage == "parquet":
        (tmp_path / RUNS).write_bytes(b"PAR1")
    if damage == "column":
        table = pq.read_table(tmp_path / RUNS).drop_columns(["verdict"])
        pq.write_table(table, tmp_path / RUNS)
    with pytest.raises(RecordError, match=r"export|iterations|runs"):
        load(records=tmp_path)


def test_a_missing_file_of_an_export_is_called_missing(study: Dataset, tmp_path: Path) -> None:
    """It is not one that cannot be read."""
    write_export(study, tmp_path)
    (tmp_path / TENANTS).unlink()
    with pytest.raises(RecordError, match=r"tenants\.parquet: missing, and export\.json counts its rows"):
        load(records=tmp_path)


def test_mlflow_gives_the_same_figures(tmp_path: Path, made_store: bytes) -> None:
    """A dataset from MLflow equals that of the records, baselines of an earlier sweep included."""
    study = Study(tmp_path / "records", iterations=30, sweep="first")
    study.run(["bert_base", "distilgpt2"])
    study.sweep = "second"
    study.run(["bert_base", "distilgpt2"], "default", repetitions=2)
    (tmp_path / "mlflow.db").write_bytes(made_store)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for path in find_records(tmp_path / "records"):
        log_record(path, TrackingSpec(uri=uri))
    stored, latest = load(uri=uri), load(uri=uri, sweep="latest")
    assert len(stored.runs) == 3
    assert latest.runs["sweep"].unique().tolist() == ["second"]
    assert sorted(latest.baselines["model"]) == ["bert_base", "distilgpt2"]
    assert latest.series(latest.baselines["record_id"].iloc[0], "alone") is not None
    on_disk, in_store = (figures(pool(d, draws=50)) for d in (load(records=tmp_path / "records"), stored))
    pd.testing.assert_frame_equal(in_store[on_disk.columns], on_disk, check_dtype=False, rtol=1e-9)
    assert len(stored.telemetry)


def test_a_sweep_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, made_store: bytes) -> None:
    """Newest first, and nothing of how MLflow is asked; a quote never reaches it."""
    study = Study(tmp_path / "records", iterations=20, sweep="first")
    study.run(["bert_base"])
    study.sweep = "second"
    study.run(["distilgpt2"])
    (tmp_path / "mlflow.db").write_bytes(made_store)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for path in find_records(tmp_path / "records"):
        log_record(path, TrackingSpec(uri=uri))
    with pytest.raises(DataError, match=r"^--sweep nosuch: experiment mtexp has no such sweep; newest: second, first$"):
        load(uri=uri, sweep="nosuch")
    with pytest.raises(DataError, match=r"^--sweep a'b: no sweep has a quote"):
        load(uri=uri, sweep="a'b")
    with pytest.raises(QueryError, match=r"no run of 4 .* matches \"params\.mix = 'none'"):
        load("params.mix = 'none'", uri=uri, sweep="first")


def test_runs_of_different_drivers_are_refused(tmp_path: Path) -> None:
    """Figures of two drivers never enter one aggregate; the message names both and a query for one."""
    Study(tmp_path / "old", iterations=20).run(["bert_base", "distilgpt2"])
    Study(tmp_path / "new", iterations=20, seed=1, driver_version="999.1").run(["bert_base", "distilgpt2"])
    with pytest.raises(DataError, match=r"driver 580.*driver 999") as refused:
        load(records=tmp_path)
    assert "tags.mtexp.driver = '" in str(refused.value)


def test_a_sweep_of_an_export_or_a_store_names_no_folder_elsewhere(study: Dataset) -> None:
    """A report is written to a folder of that name, unless it would lead out of ``reports``."""
    assert report._name(study) == "study"
    for name in ("../../x", "/tmp/x", ".."):
        assert report._name(replace(study, runs=study.runs.assign(sweep=name))) == "all"


def test_baselines_of_another_gpu_are_left_out(tmp_path: Path) -> None:
    """Also where the mixes that they are of are INVALID, so that nothing else of that GPU is there."""
    Study(tmp_path / "a", iterations=40).run(["bert_base", "distilgpt2"])
    alone = pool(load(records=tmp_path), draws=50)
    other = Study(tmp_path / "b", iterations=40, seed=1, gpu_name="NVIDIA A100")
    other.run(["bert_base", "distilgpt2"], verdict="INVALID")
    data = load(records=tmp_path)
    assert set(data.baselines["device"]) == {"NVIDIA H200"}
    assert tables.baselines(pool(data, draws=50)).equals(tables.baselines(alone))


def test_an_export_and_records_in_one_folder_are_not_mixed(study: Dataset, tmp_path: Path) -> None:
    """Neither is left out in silence: the message names a record that lies beside the export."""
    Study(tmp_path / "runs", iterations=20).run(["bert_base", "distilgpt2"])
    write_export(study, tmp_path / "export")
    with pytest.raises(DataError, match=r"holds an export and records of runs \(.*runs/000\)"):
        load(records=tmp_path)


def test_runs_without_samples_or_telemetry_still_have_their_figures(tmp_path: Path) -> None:
    """What was computed when they ran is shown, without intervals; they can be exported too."""
    Study(tmp_path / "runs", iterations=20).run(["bert_base", "distilgpt2"])
    for name in ("iterations.parquet", "telemetry.parquet"):
        for path in tmp_path.rglob(name):
            path.unlink()
    data = load(records=tmp_path)
    overview = tables.overview(pool(data, draws=50))
    assert overview["stp"].notna().all()
    assert overview["stp_ci_low"].isna().all()
    write_export(data, tmp_path / "export")


def test_a_run_that_failed_before_it_measured_can_be_looked_at(tmp_path: Path) -> None:
    """--include-invalid of a run without a window: rows without figures, no traceback."""
    study = Study(tmp_path, iterations=20)
    study.run(["bert_base", "distilgpt2"])
    (record,) = study.run(["bert_base", "bert_base"], verdict="INVALID", status="FAILED", started_at="yesterday")
    bare = tuple(replace(tenant, metrics={}, insufficient=()) for tenant in record.tenants)
    folder = max(path.parent for path in tmp_path.rglob("record.json"))
    save(replace(record, tenants=bare, metrics={}, window=None), folder, {})
    found = pool(load(records=tmp_path, include_invalid=True), draws=50)
    assert len(tables.tenants(found)) == 4
    levels = {"bert_base": 50.0}
    assert "nan" not in str(advise(found, ["bert_base"], levels))


def test_invalid_runs_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    """An INVALID run enters nothing, is not forgotten, and enters when asked for."""
    study = Study(tmp_path, iterations=20)
    study.run(["bert_base", "distilgpt2"])
    study.run(["bert_base", "bert_base"], verdict="INVALID")
    data = load(records=tmp_path)
    assert (len(data.runs), len(data.invalid)) == (1, 1)
    assert set(data.tenants["record_id"]) == set(data.runs["record_id"])
    assert len(load(records=tmp_path, include_invalid=True).runs) == 2


def test_only_invalid_runs_say_why(tmp_path: Path) -> None:
    """With nothing else there, the message has the way out."""
    Study(tmp_path, iterations=20).run(["bert_base", "distilgpt2"], verdict="INVALID")
    with pytest.raises(DataError, match="--include-invalid"):
        load(records=tmp_path)


def test_folders_without_anything_are_refused(tmp_path: Path) -> None:
    """An empty folder, no folder, and a folder with a query are each refused with what to do."""
    for arguments, match in (
        ({"records": tmp_path}, "no record.json"),
        ({"records": tmp_path / "none"}, "no such folder"),
        ({"records": tmp_path, "query": "x"}, "is read whole"),
    ):
        with pytest.raises(DataError, match=match):
            load(**arguments)  # type: ignore[arg-type]


def test_baselines_alone_are_no_study(tmp_path: Path) -> None:
    """Without a run of a mix there is nothing to compare, and that is said."""
    Study(tmp_path, iterations=20).run(["bert_base"])
    for path in find_records(tmp_path):
        if json.loads((path / "record.json").read_text())["kind"] == "mix":
            (path / "record.json").unlink()
    with pytest.raises(DataError, match="1 baselines, but no run of a mix"):
        load(records=tmp_path)


def test_a_series_is_what_the_window_kept(study: Dataset) -> None:
    """Samples outside the window enter no interval."""
    tenant = study.tenants.iloc[0]
    series = study.series(tenant["record_id"], tenant["tenant"])
    rows = study.samples(tenant["record_id"], tenant["tenant"], window=False)
    assert series is not None
    assert series.latency_ms.size == rows["in_window"].sum() == tenant["iterations_in_window"]
    assert np.isclose(series.latency_ms.mean(), tenant["latency_mean_ms"])

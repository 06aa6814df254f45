from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import fetch
from mtexp.errors import TrackingError
from mtexp.records import keys
from mtexp.records.record import save
from mtexp.spec import TrackingSpec
from mtexp.testing.records import example, stored
from mtexp.tracking.mlflow_writer import log_record
from mtexp.tracking.query import search
from mtexp.tracking.store import open_store


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, made_store: bytes) -> str:
    """A store with two mixes, a baseline and an upload that was cut off."""
    folder = tmp_path_factory.mktemp("fetch")
    (folder / "mlflow.db").write_bytes(made_store)
    tracking = TrackingSpec(uri=f"sqlite:///{folder / 'mlflow.db'}")
    stored(folder / "a", mix="mixed", seed=1)
    stored(folder / "b", mix="dec_only", seed=2, models=["gpt2", "llama", "gpt2"], metrics={"stp": 2.5, "antt": 2.0})
    record, samples = example(["gpt2"], mix="gpt2", kind="baseline", seed=3, iterations=5)
    save(replace(record, spec={**record.spec, "repetition": 1}), folder / "c", samples)
    for name in "abc":
        log_record(folder / name, tracking)
    with open_store(tracking, write=True) as store:
        store.client.create_run(store.experiment_id, tags={keys.RECORD_ID: "cut off", keys.KIND: "mix"})
    return tracking.uri


def test_one_row_a_run_with_plain_typed_columns(uri: str) -> None:
    """Tags, parameters and metrics are columns of the registry's types; what a run does not have is missing."""
    frame = fetch.runs(uri=uri)
    assert sorted(frame["mix"]) == ["dec_only", "gpt2", "mixed"]
    assert list(frame.columns[:3]) == ["run_id", "run_name", "status"]
    types = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert (types["batch_size"], types["repetition"], types["shrunk"]) == ("Int64", "Int64", "boolean")
    assert types["stp"] == "float64"
    assert isinstance(frame["start_time"].dtype, pd.DatetimeTZDtype)
    assert types["verdict"] == types["record_id"] == "string"
    row = frame[frame["mix"] == "dec_only"].iloc[0]
    assert (row["num_tenants"], row["stp"], row["kind"], row["device"]) == (3, 2.5, "mix", "NVIDIA H200")
    assert not row["shrunk"]
    assert pd.isna(row["stp_ci_low"])


def test_an_upload_that_was_cut_off_is_not_there(uri: str) -> None:
    """Half runs count for no query."""
    assert "cut off" not in fetch.runs(uri=uri)["record_id"].tolist()


@pytest.mark.parametrize(
    ("query", "mixes"),
    [
        ("params.mix = 'mixed'", ["mixed"]),
        ("metrics.stp > 2", ["dec_only"]),
        ("tags.mtexp.kind = 'mix' AND tags.mtexp.verdict = 'VALID'", ["dec_only", "mixed"]),
        ("tags.`mtexp.repetition` = '1'", ["gpt2"]),
    ],
)
def test_a_query_is_mlflows_filter(uri: str, query: str, mixes: list[str]) -> None:
    """With all columns and with few, the same runs."""
    assert sorted(fetch.runs(query, uri=uri)["mix"]) == mixes
    assert sorted(fetch.runs(query, uri=uri, columns=["mix"])["mix"]) == mixes


def test_a_store_that_was_moved_still_has_its_samples(tmp_path: Path, made_store: bytes) -> None:
    """MLflow keeps the absolute place of artifacts; without them there, the message says where they should be."""
    before, after = tmp_path / "before", tmp_path / "after"
    stored(before / "a", seed=1)
    (before / "mlflow.db").write_bytes(made_store)
    log_record(before / "a", TrackingSpec(uri=f"sqlite:///{before / 'mlflow.db'}"))
    before.rename(after)
    uri = f"sqlite:///{after / 'mlflow.db'}"
    assert len(fetch.iterations(uri=uri))
    (after / "mlartifacts").rename(after / "elsewhere")
    with pytest.raises(fetch.QueryError, match="before/mlartifacts"):
        fetch.iterations(uri=uri)


def test_columns_asked_for_come_in_that_order(uri: str) -> None:
    """Equal to those of the whole table; one that none of the runs has is missing everywhere."""
    whole = fetch.runs(uri=uri)
    names = ["stp", "mix", "kind", "start_time", "stp_ci_low", "energy_j"]
    some = fetch.runs(uri=uri, columns=names)
    assert list(some.columns) == ["run_id", *names]
    pd.testing.assert_frame_equal(some[names[:5]], whole[names[:5]])
    assert some["energy_j"].isna().all()


def test_a_misspelt_column_is_an_error(uri: str) -> None:
    """It names the nearest."""
    with pytest.raises(fetch.QueryError, match=r"columns=stpp: no such column \(nearest: stp"):
        fetch.runs(uri=uri, columns=["stpp"])
    with pytest.raises(fetch.QueryError, match=r"no such column of iterations\.parquet \(nearest: latency_ms"):
        fetch.iterations(uri=uri, columns=["latency"])


def test_tenants_belong_to_the_runs_that_match(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The query speaks of parents, however many they are."""
    every = fetch.tenants(uri=uri)
    assert len(every) == 6
    assert every["slowdown"].notna().sum() == 5
    for few in (100, 0):
        monkeypatch.setattr(fetch, "FEW_PARENTS", few)
        frame = fetch.tenants("params.mix = 'dec_only'", uri=uri)
        assert sorted(frame["tenant"]) == ["t0", "t1", "t2"]
        assert (
            frame["parent_run_id"].unique().tolist()
            == fetch.runs("params.mix = 'dec_only'", uri=uri)["run_id"].tolist()
        )
        some = fetch.tenants("metrics.stp > 2", uri=uri, columns=["model", "latency_p50_ms"])
        assert list(some.columns) == ["run_id", "parent_run_id", "model", "latency_p50_ms"]
        assert sorted(some["model"]) == ["gpt2", "gpt2", "llama"]


def test_iterations_come_from_parquet_with_their_run(uri: str) -> None:
    """Every row of every run, categories for names."""
    frame = fetch.iterations(uri=uri)
    assert len(frame) == 2 * 22 + 3 * 22 + 7
    assert list(frame.columns[:5]) == ["run_id", "record_id", "tenant", "model", "iteration"]
    assert isinstance(frame["tenant"].dtype, pd.CategoricalDtype)
    assert isinstance(frame["run_id"].dtype, pd.CategoricalDtype)
    one = fetch.iterations("params.mix = 'mixed'", uri=uri, columns=["latency_ms", "in_window"])
    assert list(one.columns) == ["run_id", "record_id", "latency_ms", "in_window"]
    assert len(one) == 44


def test_telemetry_of_runs_with_different_columns_is_one_table(uri: str) -> None:
    """A column that a run did not sample is NaN in its rows; a run without telemetry has none."""
    frame = fetch.telemetry(uri=uri)
    assert len(frame) == 22
    assert frame["tenant_gpu_memory_mib/t2"].notna().sum() == 11
    with pytest.raises(fetch.QueryError, match=r"none of the 1 runs that match .* has a telemetry\.parquet"):
        fetch.telemetry("params.mix = 'gpt2'", uri=uri)


@pytest.mark.parametrize("query", ["params.mix", "mix = 'mixed'", "params.mix = mixed", "nonsense"])
def test_a_query_with_an_error_says_what_is_allowed(uri: str, query: str) -> None:
    """MLflow's complaint and an example, no traceback."""
    for columns in (None, ["mix"]):
        with pytest.raises(fetch.QueryError, match=r"Allowed: an MLflow filter, e\.g\. params\.mix = 'mixed'"):
            fetch.runs(query, uri=uri, columns=columns)


def test_a_query_that_nothing_answers_says_what_there_is(uri: str) -> None:
    """How many runs, which kinds and mixes."""
    with pytest.raises(fetch.QueryError, match=r"no run of 3 in sqlite.* mixes dec_only, gpt2, mixed\. Loosen"):
        fetch.runs("params.mix = 'none'", uri=uri)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("metrics.stpp > 1", "metrics.stpp is no key of a run (nearest: metrics.stp)"),
        ("metrics.stpp_ci_low > 1", "metrics.stpp_ci_low is no key of a run (nearest: metrics.stp)"),
        ("tags.kind = 'mix'", "tags.kind is no key of a run (nearest: tags.mtexp.kind)"),
        ("metrics.mix = 1", "metrics.mix is no key of a run (nearest: params.mix)"),
        ("metrics.slowdown > 9", "metrics.slowdown belongs to tenants"),
        ("params.mix = 'mixed' AND params.precise = 'fp16'", "params.precise is no key of a run (nearest: params.prec"),
    ],
)
def test_a_key_that_no_run_has_is_named(uri: str, query: str, said: str) -> None:
    """With the nearest that there is, instead of what else is in the store."""
    with pytest.raises(fetch.QueryError) as refused:
        fetch.runs(query, uri=uri)
    assert said in str(refused.value)
    assert "Loosen" not in str(refused.value)


def test_a_key_of_ones_own_is_no_mistake(uri: str) -> None:
    """Runs may have tags and metrics that mtexp did not give them; intervals and telemetry are keys too."""
    with open_store(TrackingSpec(uri=uri), write=True) as store:
        run = next(search(store, "params.mix = 'mixed' AND tags.mtexp.kind = 'mix'"))
        store.client.set_tag(run.info.run_id, "paper", "figure 3")
    assert fetch.runs("tags.paper = 'figure 3'", uri=uri)["mix"].tolist() == ["mixed"]
    for query in ("metrics.stp_ci_low > 99", "metrics.gpu_power_w > 1e9", "tags.mlflow.user = 'nobody'"):
        with pytest.raises(fetch.QueryError, match="Loosen the query"):
            fetch.runs(query, uri=uri)


def test_no_store_says_what_to_do(tmp_path: Path, uri: str) -> None:
    """And makes none; the same for an experiment nobody has tracked to."""
    with pytest.raises(TrackingError, match=r"no MLflow store at .* Run something first"):
        fetch.runs(uri=f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(TrackingError, match="no experiment elsewhere in"):
        fetch.runs(uri=uri, experiment="elsewhere")


def test_what_is_not_asked_for_is_not_loaded(uri: str) -> None:
    """MLflow's own store makes objects of the wanted names only, and of what the query compares; afterwards of all."""
    with open_store(TrackingSpec(uri=uri), write=False) as store:
        run = next(search(store, "params.mix = 'mixed' AND metrics.antt > 0", ["stp"]))
        assert run.data.to_dictionary() == {
            "metrics": {"stp": 1.2, "antt": 1.6},
            "params": {"mix": "mixed"},
            "tags": {},
        }
        assert len(next(search(store, "params.mix = 'mixed' AND metrics.antt > 0")).data.tags) > 10


def test_more_runs_than_a_page_are_all_there(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paging loses and doubles nothing."""
    monkeypatch.setattr("mtexp.tracking.query.PAGE", 2)
    assert fetch.runs(uri=uri)["run_id"].nunique() == 3


def test_the_command_prints_a_table(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Or one line of what is wrong, with an exit code."""
    assert fetch.main(["params.mix = 'dec_only'", "--uri", uri]) == 0
    output = capsys.readouterr().out
    assert "dec_only · disabled · fp16" in output
    assert "runs: 1" in output
    assert fetch.main(["nonsense", "--uri", uri]) == 2
    assert capsys.readouterr().err.startswith("query 'nonsense': ")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_the_terminal(
    uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """A run is one line; what it is called, its verdict and STP stay."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert fetch.main(["--uri", uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 3 + 1
    assert max(map(len, lines)) <= width
    assert {"run_name", "verdict", "stp"} <= {*lines[0].split()}


def test_swept_keys_are_columns_of_the_table(
    tmp_path: Path, made_store: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that some runs lack is empty there; a narrow terminal shows names that have them instead."""
    record, samples = example(seed=4)
    (tmp_path / "mlflow.db").write_bytes(made_store)
    tracking = TrackingSpec(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    for number, own in enumerate(({"a.batch_size": "4", "load": "0.3"}, {"load": "0.6"})):
        one = replace(record, record_id=f"{number:032x}", swept=own)
        save(one, tmp_path / f"{number}", samples)
        log_record(tmp_path / f"{number}", tracking)
    assert fetch.main(["--uri", tracking.uri, "--csv"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    names = heading.split(",")
    cells = [dict(zip(names, row.split(","), strict=True)) for row in rows]
    assert sorted((c["load"], c["a.batch_size"]) for c in cells) == [("0.3", "4"), ("0.6", "")]
    assert "swept" not in names
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert fetch.main(["--uri", tracking.uri]) == 0
    table = capsys.readouterr().out
    assert "a.batch_size=4 · load=0.3" in table
    assert "load=0.6" in table
    assert max(map(len, table.splitlines())) <= 60


def test_older_runs_in_open_loop_show_no_interference(tmp_path: Path, made_store: bytes) -> None:
    """Their STP was load, their slowdown a queue; asked for by name or not, it is not there."""
    (tmp_path / "mlflow.db").write_bytes(made_store)
    tracking = TrackingSpec(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    with open_store(tracking, write=True) as store:
        tags = {keys.RECORD_ID: "old", keys.KIND: "mix", keys.UPLOAD: keys.UPLOAD_COMPLETE, keys.RUN_KIND: "mix"}
        run_id = store.client.create_run(store.experiment_id, tags=tags).info.run_id
        store.client.log_param(run_id, "arrival", "closed,poisson")
        for name, value in {"stp": 0.3, "fairness": 0.4, "throughput_rps": 7.0, "gpu_busy_pct": 50.0}.items():
            store.client.log_metric(run_id, name, value)
    frame = fetch.runs(uri=tracking.uri)
    assert frame["throughput_rps"].tolist() == [7.0]
    assert not {"stp", "fairness", "gpu_busy_pct"} & set(frame.columns)
    named = fetch.runs(uri=tracking.uri, columns=["stp", "throughput_rps"])
    assert named["stp"].isna().all()
    assert named["throughput_rps"].tolist() == [7.0]

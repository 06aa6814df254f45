"""The Python API in this process: values, refusals, failures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mtexp
from mtexp import api
from mtexp.config.composer import Composer
from mtexp.config.problems import Refused
from mtexp.errors import RunFailed
from mtexp.running.runner import Runner
from mtexp.testing.faults import BUILD, Fault, FaultyStarter
from tests.run.conftest import nothing_left, workplace
from tests.run.run_helpers import Workplace

__all__ = ["nothing_left", "workplace"]

SMALL = {
    "runtime": "cpu",
    "workload": {"batch_size": 1, "seq_len": 8},
    "measure": {"iterations": 20, "warmup": 2},
    "telemetry.period_s": 0.02,
    "baseline": "skip",
}

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="ascii"), min_size=1),
    lambda children: st.lists(children, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@given(VALUES)
def test_values_reach_hydra_as_they_are(composer, value):
    assert composer.parse(f"key={api.text(value)}").value() == value


@pytest.fixture
def runner(monkeypatch) -> Runner:
    made = Runner(FaultyStarter({"distilgpt2": Fault(kind="raise", at=BUILD)}))
    monkeypatch.setattr("mtexp.running.runner.shared_runner", lambda: made)
    return made


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_run_that_failed_and_has_frames_of_all(workplace: Workplace, runner):
    lines: list[str] = []
    results = mtexp.sweep(mix=["distilgpt2", "bert_base"], progress=lines.append, tracking="none", **SMALL)
    assert [result.status for result in results] == ["FAILED", "FINISHED"]
    assert results.runs["mix"].tolist() == ["distilgpt2", "bert_base"]
    assert results.tenants["run"].tolist() == [0, 1]
    assert results[1].tenants["latency_mean_ms"].item() > 0
    assert results[1].iterations.query("in_window").shape[0] >= 20
    assert (results[1].folder / "config.yaml").read_text().count("bert_base") >= 1
    assert "measuring" in lines
    assert not (workplace.folder / "mlartifacts").exists()


@pytest.mark.slow
def test_a_run_that_failed_is_an_exception_with_what_there_is(workplace: Workplace, runner):
    with pytest.raises(RunFailed, match="distilgpt2") as failed:
        mtexp.run("distilgpt2", tracking="none", **SMALL)
    assert failed.value.result.record.failure in str(failed.value)
    assert (failed.value.result.folder / "record.json").is_file()


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"mix": "bert_bas"}, "mix"),
        ({"measure.iteratons": 5}, "measure.iteratons"),
        ({"measure": {"iterations": "many"}}, "measure.iterations"),
        ({"mix": "pair", "repetitions": 2}, "run"),
        ({"seed": object()}, "value"),
        ({"resume": True}, "resume"),
        ({"hydra/launcher": "joblib"}, "hydra"),
        ({"tracking": "none", "baseline": "require"}, "baseline"),
        ({"config_dir": "nowhere"}, "--config-dir"),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_key(tmp_path, monkeypatch, overrides, key):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused) as refused:
        mtexp.run(**{"runtime": "cpu", **overrides})
    assert [problem.key for problem in refused.value.problems] == [key]
    assert not list(tmp_path.iterdir())


def test_a_search_for_a_capacity_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="search"):
        mtexp.sweep(experiment="capacity", mix="bert_base", runtime="cpu", **{"mix.tenants.bert_base.slo_ms": 20})


def test_there_is_nothing_else_in_the_package():
    with pytest.raises(AttributeError):
        mtexp.nothing  # noqa: B018

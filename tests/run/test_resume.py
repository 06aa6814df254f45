"""A sweep that is begun again: what it has left stays as it was, only what is missing runs."""

from __future__ import annotations

import json
import os
import signal

import pytest

from mtexp.terminal import cli
from mtexp.testing.faults import Fault
from mtexp.tracking import upload
from tests.run.run_helpers import Workplace, kind

pytestmark = pytest.mark.process

ALONE = "baseline=skip"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _answers_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is there when it is asked before the first run, and not later."""
    monkeypatch.setattr("mtexp.terminal.cli.ask_store", lambda tracking: None)


def _files(place: Workplace) -> dict[str, bytes]:
    """What runs have left, less Hydra's own and what says how the last command ended."""
    others = (cli.JOB, "mtexp.log", "multirun.yaml", "points.json")
    files = (path for path in place.folder.glob("multirun/**/*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if path.name not in others and ".hydra" not in path.parts}


def test_no_record_is_written_over_whatever_the_order(workplace: Workplace) -> None:
    """MLflow is away, two points are on disk only; then the sweep has another order and another point: every file stays
    as it was, the new record lies beside the old one, what is there is not run again, and all of it can be sent."""
    assert workplace.run("-m", "mix=bert_base,distilgpt2", ALONE, "sweep=s", f"tracking.uri={NOWHERE}").code == 1
    before = _files(workplace)
    workplace.run("-m", "mix=bert_large,bert_base", ALONE, "sweep=s", "resume=true")
    assert "bert_base: done before, skipped (resume=true)" in workplace.phases
    assert _files(workplace).items() >= before.items()
    records = workplace.records("multirun/s")
    assert {place: record.spec["mix"] for place, record in records.items()} == {
        "0": "bert_base",
        "0/run-2": "bert_large",
        "1": "distilgpt2",
    }
    before = _files(workplace)
    workplace.run("-m", "mix=distilgpt2,bert_large,bert_base", ALONE, "sweep=s", "resume=true")
    assert "measuring" not in workplace.phases
    assert _files(workplace) == before
    assert upload.main(["multirun/s"]) == 0
    assert sorted(run.data.params["mix"] for run in workplace.mlflow_runs(kind("mix"))) == [
        "bert_base",
        "bert_large",
        "distilgpt2",
    ]


def test_a_failed_record_that_is_not_sent_stays(workplace: Workplace) -> None:
    """Run again, the point has two records, each with its own files; both reach MLflow."""
    point = ("-m", "mix=pair", ALONE, "sweep=s")
    workplace.run(*point, f"tracking.uri={NOWHERE}", faults={"b": Fault(kind="kill", at=20)})
    before = _files(workplace)
    assert workplace.run(*point, "resume=true").code == 1  # the first one is not in MLflow
    assert _files(workplace).items() >= before.items()
    assert [r.status for r in workplace.records("multirun/s").values()] == ["FAILED", "FINISHED"]
    assert upload.main(["multirun/s"]) == 0
    assert sorted(run.info.status for run in workplace.mlflow_runs(kind("mix"))) == ["FAILED", "FINISHED"]


def test_without_mlflow_the_records_say_what_is_done(workplace: Workplace) -> None:
    """The store does not answer: one warning, the point on disk is not run again, the other one is."""
    away = f"tracking.uri={NOWHERE}"
    assert workplace.run("-m", "mix=bert_base", ALONE, "sweep=s", away).code == 1
    ran = workplace.run("-m", "mix=bert_base,distilgpt2", ALONE, "sweep=s", "resume=true", away)
    assert "bert_base: done before, skipped (resume=true)" in workplace.phases
    assert workplace.jobs("multirun/s") == ["SKIPPED", "FINISHED"]
    assert "VALID before" in ran.out
    assert ran.err.count("count as done") == 1
    assert "runs failed" not in ran.out


def test_the_summary_is_of_this_command_only(workplace: Workplace) -> None:
    """What became of the points of an earlier, longer sweep does not say what became of these."""
    for number in range(3):
        folder = workplace.folder / "multirun/s" / str(number)
        folder.mkdir(parents=True)
        (folder / cli.JOB).write_text(json.dumps({"num": number, "status": "FINISHED", "unsent": 0, "row": {}}))

    def interrupt(text: str) -> None:
        if text == "building models":
            os.kill(os.getpid(), signal.SIGINT)

    ran = workplace.run("-m", "mix=solo,pair", ALONE, "sweep=s", "resume=true", on_phase=interrupt)
    assert ran.code == 130
    assert "1 of 2 runs failed, 1 did not run" in ran.out

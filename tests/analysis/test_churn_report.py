"""Churn runs in the analysis: repetitions are put together, and the report shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import churn, report
from analysis.answers import Judge
from analysis.churn_runs import sentence
from analysis.data import load
from analysis.dataset import DataError
from analysis.findings import QUESTIONS, what_events_do
from analysis.pooling import Results
from mtexp.metrics.churn import Event, Served, figures_of, latencies_of
from mtexp.metrics.churn_rows import metrics_of
from mtexp.records.record import save
from mtexp.testing.records import example, stored


def _stored(folder: Path, number: int, *, kills: int) -> None:
    """One churn run: some quiet events, and kills that stall for 10 ms and more, one of them deadly."""
    record, samples = example(kind="churn", seed=number)
    rows = samples["t0"].measured
    first, last = int(rows.start_ns[0]), int(rows.end_ns[-1])

    def event(kind: str, place: int, stall_ms: float, *died: str) -> Event:
        return Event(
            kind=kind, cycle=place, start_ns=first, done_ns=first, end_ns=last, died=died, stall_ms=stall_ms, back_s=0.1
        )

    events = [event("quiet", n, 2.0) for n in range(kills)]
    events += [event("kill", n, 10.0 + n, "t1", *(["t0"] if n == 0 else [])) for n in range(kills)]
    served = Served.of(rows.arrival_ns, rows.start_ns, rows.end_ns)
    metrics = metrics_of(figures_of(events, latencies_of(events, served), "t0"))
    record = replace(record, events=tuple(events), metrics=metrics, window=None)
    save(record, folder / str(number), {"t0": samples["t0"]}, config="")


def test_runs_of_the_same_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs of 16 events have 32: intervals that neither has, and deaths in two of 32."""
    for number in (1, 2):
        _stored(tmp_path, number, kills=16)
    (run,) = churn.found_below(tmp_path)
    assert (len(run.records), run.metrics["churn_kill_events"]) == (2, 32)
    assert run.metrics["churn_kill_stall_p50_ms"] == pytest.approx(17.5)
    assert run.metrics["churn_kill_stall_p50_ms_ci_low"] < 17.5 < run.metrics["churn_kill_stall_p50_ms_ci_high"]
    assert run.metrics["churn_kill_steady_died_pct"] == pytest.approx(6.25)
    assert run.metrics["churn_kill_steady_died_pct_ci_high"] < 21
    text, firm = sentence([run])
    assert firm
    assert "is killed: 17.5 ms [" in text
    assert "dies in 6 %" in text
    assert churn.main([str(tmp_path)]) == 0
    assert "median ms" in capsys.readouterr().out


def test_the_report_shows_churn_runs_by_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No mix was measured: a page with the figure, and its sentence on the terminal."""
    _stored(tmp_path / "runs", 1, kills=3)
    assert report.main(["--records", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "stalls longest when its neighbour is killed: 11 ms, mean of 3 events (2 ms when nothing happens)" in out
    assert 'id="figure-churn"' in (tmp_path / "out" / "report.html").read_text()
    assert {path.name for path in (tmp_path / "out" / "plots").iterdir()} == {"churn.png", "churn.svg"}


def test_churn_runs_come_beside_mixes(tmp_path: Path) -> None:
    """They are in the dataset, and of no aggregate; without a mix only the report takes them."""
    _stored(tmp_path / "runs", 1, kills=3)
    with pytest.raises(DataError, match="no run of a mix"):
        load(records=tmp_path / "runs")
    stored(tmp_path / "runs" / "mix")
    data = load(records=tmp_path / "runs")
    assert (list(data.runs["kind"]), list(data.churn["kind"])) == (["mix"], ["churn"])
    (answer,) = what_events_do(Results(data, pd.DataFrame(), pd.DataFrame()), Judge(0.05))
    assert (answer.claimed, what_events_do in QUESTIONS) == (False, True)

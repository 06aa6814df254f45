"""The record of a churn run: on disk before its figures, and what it says of windows without requests."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import churn as churn_command
from analysis import report
from mtexp.metrics.churn import Event, Served, figures_of, seen
from mtexp.metrics.finding import Finding
from mtexp.metrics.guarded import FAILED
from mtexp.records import live_files, salvage
from mtexp.records.files import BEGUN, EVENTS, ITERATIONS
from mtexp.records.record import NO_FIGURES, RunRecord, load
from mtexp.records.samples_file import read_samples
from mtexp.running import churn_record
from mtexp.running.bare_record import RecordContext
from mtexp.running.churn_record import Churned, keep_churn
from mtexp.running.evaluation import begin
from mtexp.spec import ArrivalSpec, ChurnSpec, RunSpec
from tests.run.evaluated import RUN, measurement
from tests.run.run_helpers import SMALL, Workplace
from tests.strategies import MS, open_loop

START_NS = 10**15


def _spec(window_s: float = 0.4, rate_rps: float = 100.0, events: Sequence[str] = ("memory",)) -> RunSpec:
    steady, other = RUN.tenants
    steady = replace(steady, arrival=ArrivalSpec(kind="constant", rate_rps=rate_rps))
    churn = ChurnSpec(events=tuple(events), repeats=30, window_s=window_s)
    return replace(RUN, kind="churn", tenants=(steady, other), churn=churn)


def _churned(arrivals_ms: Sequence[float], events: list[Event], *, waiting_ms: Sequence[float] = ()) -> Churned:
    """A steady tenant that took 2 ms for each request; further ones came and were not served."""
    samples = open_loop(np.asarray(arrivals_ms, dtype=float), 2.0, start_ns=START_NS)
    measured = measurement(samples={"a": samples}, clock=[(START_NS, START_NS), (START_NS + 10**11, START_NS + 10**11)])
    waiting = START_NS + np.rint(np.asarray(waiting_ms, dtype=float) * MS).astype(np.int64)
    served = replace(Served.of(samples.arrival_ns, samples.start_ns, samples.end_ns), waiting_ns=waiting)
    return Churned(measured=measured, events=events, served=served)


def _events(kind: str, count: int, every_ms: float, window_ms: float, took_ms: float = 0.0) -> list[Event]:
    found = []
    for place in range(count):
        start_ns = START_NS + round(place * every_ms * MS)
        done_ns, end_ns = start_ns + round(took_ms * MS), start_ns + round(window_ms * MS)
        found.append(Event(kind=kind, cycle=place, start_ns=start_ns, done_ns=done_ns, end_ns=end_ns))
    return found


def _kept(folder: Path, churned: Churned, spec: RunSpec) -> RunRecord:
    return keep_churn(spec, churned, folder / "run", begin(spec, folder / "run", RecordContext()), "mix: x\n")


def _of(found: RunRecord, code: str) -> list[Finding]:
    return [finding for finding in found.findings if finding.code == code]


def _served_well(kind: str = "memory") -> Churned:
    """A request each 10 ms, all served, and 30 events."""
    return _churned(np.arange(0, 12_000, 10.0).tolist(), _events(kind, 30, 400, 400, took_ms=10))


def _broken(*args: Any, **options: Any) -> Any:
    raise ZeroDivisionError("nobody foresaw this")


def test_a_steady_tenant_that_falls_behind_is_said_to_be(tmp_path: Path) -> None:
    """Events of 1.7 s follow each other: what came in 28 of 30 windows still waits. No p99, and what to do."""
    events = _events("memory", 30, 1700, 1700, took_ms=1700)
    waiting = np.arange(3400, 51_000, 10.0).tolist()
    found = _kept(tmp_path, _churned(np.arange(0, 3400, 10.0).tolist(), events, waiting_ms=waiting), _spec())
    (said,) = _of(found, "no-requests")
    assert said.level == "warning"
    assert "4760 of the 5100 requests that came in windows of memory still waited" in said.message
    assert "all that came in 28 of 30 windows" in said.message
    assert "churn.window_s=6:" in said.remedy
    assert (found.status, found.verdict) == ("FINISHED", "VALID")
    assert "churn_memory_p99_ms" not in found.metrics
    assert found.metrics["churn_memory_stall_ms_ci_low"] > 1000  # they wait to the end of each window
    patient = _kept(tmp_path / "b", _churned([0.0], events, waiting_ms=waiting), _spec(window_s=6))
    assert "lower arrival.load" in _of(patient, "no-requests")[0].remedy


def test_windows_in_which_no_request_comes_are_said_to_be_too_short(tmp_path: Path) -> None:
    """A request each 2 s, windows of 0.4 s: most have none. Those that have enough are not mentioned."""
    events = _events("memory", 31, 400, 400) + _events("quiet", 31, 2000, 2000)
    requests = np.arange(0, 62_000, 2000.0).tolist()
    spec = _spec(rate_rps=0.5, events=("quiet", "memory"))
    (said,) = _of(_kept(tmp_path, _churned(requests, events), spec), "no-requests")
    assert said.level == "note"
    assert said.message.startswith("no request came in 24 of 31 windows of memory: their stall counts as 0")
    assert "p99 has no interval" in said.message
    assert "every 2 s" in said.remedy
    assert "churn.window_s=10" in said.remedy
    assert not _of(_kept(tmp_path / "well", _served_well(), _spec()), "no-requests")


def test_a_steady_tenant_that_served_nothing_has_no_events(tmp_path: Path) -> None:
    """Nothing is known of them: a stall of 0 would say that they did nothing."""
    churned = Churned(measured=measurement(samples={}), events=_events("memory", 30, 400, 400))
    found = _kept(tmp_path, churned, _spec())
    assert found.events == ()
    assert "served no request" in _of(found, "no-requests")[0].message
    assert not _of(found, "no-events")


def test_what_was_measured_is_on_disk_before_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while figures are computed: a record without any, all samples; salvage makes the record with events."""
    churned, folder = _served_well(), tmp_path / "run"
    spec = _spec()

    def killed(*args: Any) -> Any:
        raise KeyboardInterrupt

    assert churned.served is not None
    begin(spec, folder, RecordContext())
    live_files.append(folder / EVENTS, [seen(event, churned.served) for event in churned.events])
    with monkeypatch.context() as patch:
        patch.setattr(churn_record, "_with_figures", killed)
        with pytest.raises(KeyboardInterrupt):
            _kept(tmp_path, churned, spec)
    there = load(folder)
    assert (there.verdict, _of(there, NO_FIGURES) != []) == ("INVALID", True)
    assert len(read_samples(folder / ITERATIONS)["a"]) == 1200
    monkeypatch.setattr(salvage, "_life", lambda run: "dead")
    (found,) = salvage.salvage(tmp_path)
    assert found.ok
    made = load(folder)
    assert (len(made.events), made.metrics["churn_memory_events"]) == (30, 30)
    assert len(read_samples(folder / ITERATIONS)["a"]) == 1200
    assert not (folder / BEGUN).exists()


def test_a_p99_that_fails_leaves_the_other_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finding says what failed and why; stalls and deaths are there with their intervals."""
    real = figures_of

    def broken(events: Any, latencies_ms: Any, *args: Any, **options: Any) -> Any:
        return _broken() if any(len(ms) for ms in latencies_ms) else real(events, latencies_ms, *args, **options)

    monkeypatch.setattr("mtexp.metrics.guarded.figures_of", broken)
    found = _kept(tmp_path, _served_well(), _spec())
    (said,) = _of(found, FAILED)
    assert said.message.startswith("p99 of memory could not be computed: ZeroDivisionError: nobody foresaw this")
    assert found.metrics["churn_memory_stall_ms_ci_low"] > 0
    assert "churn_memory_p99_ms" not in found.metrics
    assert (found.verdict, len(found.events)) == ("VALID", 30)


def test_a_record_whose_figures_failed_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every figure of a kind fails: the record is there, the report is made, the comparison says what is missing."""
    with monkeypatch.context() as patch:
        patch.setattr("mtexp.metrics.guarded.figures_of", _broken)
        found = _kept(tmp_path, _served_well(), _spec())
        assert len(_of(found, FAILED)) == 2
        assert (found.status, len(found.events), list(found.metrics)) == ("FINISHED", 30, ["wall_s"])
        assert churn_command.main([str(tmp_path)]) == 0
    assert "the figures of memory could not be computed" in capsys.readouterr().out
    assert report.main(["--records", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert churn_command.main([str(tmp_path)]) == 0  # the formula was mended
    assert re.search(r"memory +30 +2 \[", capsys.readouterr().out)


def test_events_of_which_nothing_can_be_said_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they did to the steady tenant fails for one kind: one finding for all 30, the other kind stands."""
    real = seen

    def broken(event: Event, served: Served) -> Event:
        return _broken() if event.kind == "quiet" else real(event, served)

    monkeypatch.setattr(churn_record, "seen", broken)
    churned = _served_well()
    churned.events += _served_well("quiet").events
    found = _kept(tmp_path, churned, _spec(events=("quiet", "memory")))
    (said,) = _of(found, FAILED)
    assert said.message.startswith("what an event of quiet did could not be computed")
    assert {event.kind for event in found.events} == {"memory"}
    assert found.metrics["churn_memory_p99_ms"] == pytest.approx(2, rel=0.01)


@pytest.mark.process
def test_a_run_whose_figures_fail_goes_on(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line to MLflow: every event happens, and the record says what could not be computed."""
    monkeypatch.setattr("mtexp.running.churn.seen", _broken)
    monkeypatch.setattr("mtexp.metrics.guarded.figures_of", _broken)
    small = [text for text in SMALL if not text.startswith(("sweep_order", "measure.design"))]
    ran = workplace.run(
        "+experiment=churn", "mps_settings=disabled", "hydra.mode=RUN", "arrival.load=0", "arrival.rate=40",
        "churn.repeats=1", "churn.window_s=0.3", "sweep=c", "churn.events=[quiet,load]", small=small,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "Traceback" not in ran.out + ran.err
    record = workplace.records("outputs/c")["."]
    assert [event.kind for event in record.events] == ["quiet", "load"]
    assert all(event.requests for event in record.events)
    assert _of(record, FAILED)
    lines = (workplace.folder / "outputs/c" / EVENTS).read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["quiet", "load"]
    (run,) = workplace.mlflow_runs("tags.`mtexp.kind` = 'churn'")
    assert run.data.tags["mtexp.upload"] == "complete"

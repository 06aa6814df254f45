"""What was measured is on disk before a figure is computed, and a figure that fails costs itself only."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtexp.metrics.guarded import FAILED
from mtexp.metrics.samples import Samples
from mtexp.records import salvage
from mtexp.records.files import BEGUN, ITERATIONS
from mtexp.records.record import NO_FIGURES, load
from mtexp.records.samples_file import read_samples
from mtexp.running import evaluation
from mtexp.running.bare_record import RecordContext
from mtexp.running.baselines import alone_of
from mtexp.running.evaluation import Comparison, begin, keep
from mtexp.running.measured import TELEMETRY
from mtexp.spec import ArrivalSpec
from mtexp.tenant.buffers import COLUMNS, SampleBuffer
from tests.run.evaluated import BOTH, RUN, measurement, record
from tests.run.run_helpers import Workplace
from tests.strategies import open_loop


def _broken(*args: Any, **options: Any) -> Any:
    raise ZeroDivisionError("nobody foresaw this")


def _failed(found: Any) -> list[str]:
    return [f"{f.level} {f.tenant} {f.message}" for f in found.findings if f.code == FAILED]


def test_a_burst_has_no_offered_rate_and_a_record() -> None:
    """Every request of a trace arrives at one instant: a note, and all the other figures."""
    measured = measurement(samples={name: open_loop([0.0] * 20, service_ms=5) for name in "ab"})
    found = record(measured)
    assert _failed(found) == []
    assert sorted(f.tenant for f in found.findings if f.code == "no-offered-rate") == ["a", "b"]
    for tenant in found.tenants:
        assert "offered_rps" not in tenant.metrics
        assert tenant.metrics["throughput_rps"] > 0
        assert tenant.metrics["service_mean_ms"] == pytest.approx(5.0)


def test_a_figure_of_the_run_that_fails_leaves_those_of_the_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding names what failed, why and where; the tenants keep their latencies and slowdowns."""
    monkeypatch.setattr("mtexp.metrics.guarded.summarise_run", _broken)
    found = record(measurement())
    (said,) = _failed(found)
    assert "STP" in said
    assert "ZeroDivisionError: nobody foresaw this (test_robust_records.py:" in said
    assert "stp" not in found.metrics
    assert [t.metrics["slowdown"] for t in found.tenants] == pytest.approx([2.0, 2.0], rel=0.01)


def test_a_figure_of_a_tenant_that_fails_leaves_those_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding is about that tenant."""
    real = evaluation.served

    def broken(tenant: Any, *args: Any) -> Any:
        return _broken() if tenant.id == "a" else real(tenant, *args)

    monkeypatch.setattr(evaluation, "served", broken)
    found = record(measurement())
    assert [said.split()[:2] for said in _failed(found)] == [["warning", "a"]]
    assert "tokens_per_s" not in found.tenants[0].metrics
    assert found.tenants[0].metrics["latency_mean_ms"] == pytest.approx(20.0)
    assert found.tenants[1].metrics["tokens_per_s"] > 0


def test_a_verdict_that_fails_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody judged the run: it enters no aggregate, and keeps its figures."""
    monkeypatch.setattr(evaluation, "judge", _broken)
    found = record(measurement())
    assert found.verdict == "INVALID"
    assert _failed(found)[0].startswith("invalid")
    assert found.metrics["stp"] > 0


def test_telemetry_that_cannot_be_read_costs_its_summary(tmp_path: Path) -> None:
    """A file that is cut off."""
    (tmp_path / TELEMETRY).write_bytes(b"PAR1")
    found = record(measurement(), folder=tmp_path)
    assert "telemetry" in _failed(found)[0]
    assert found.metrics["stp"] > 0


def _buffers(folder: Path, samples: dict[str, Samples]) -> None:
    for slot, rows in enumerate(samples.values()):
        buffer = SampleBuffer(folder / f"samples-{slot}.bin", 200, create=True)
        for name in COLUMNS:
            np.frombuffer(buffer.columns[name], dtype=np.int64)[: len(rows)] = np.maximum(getattr(rows, name), 0)
        buffer.header[0], buffer.header[1] = len(rows), int((rows.phase == 0).sum())


def test_the_samples_are_on_disk_before_a_figure_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while figures are computed: an INVALID record without any, all samples, and the way to salvage it."""
    folder, measured = tmp_path / "run", measurement()
    origin = begin(RUN, folder, RecordContext())
    _buffers(folder, measured.samples)

    def killed(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            keep(RUN, measured, folder, BOTH, origin, "mix: x\n")
    there = load(folder)
    assert (there.verdict, [f.code for f in there.findings]) == ("INVALID", [NO_FIGURES])
    assert {t: len(rows.measured) for t, rows in read_samples(folder / ITERATIONS).items()} == {"a": 98, "b": 98}

    monkeypatch.setattr(salvage, "_life", lambda run: "dead")
    (found,) = salvage.salvage(tmp_path)
    assert (found.ok, found.directory) == (True, folder)
    made = load(folder)
    assert made.record_id == origin.record_id
    assert made.tenants[0].metrics["latency_mean_ms"] == pytest.approx(20.0)
    assert NO_FIGURES not in {f.code for f in made.findings}
    assert not list(folder.glob("*.bin"))


def test_a_record_with_figures_takes_the_place_of_the_one_without(tmp_path: Path) -> None:
    """One record, with its figures and its own id; note and buffers are gone."""
    measured = measurement()
    origin = begin(RUN, tmp_path / "run", RecordContext())
    _buffers(tmp_path / "run", measured.samples)
    made = keep(RUN, measured, tmp_path / "run", BOTH, origin, "")
    assert load(tmp_path / "run") == made
    assert (made.verdict, made.record_id) == ("VALID", origin.record_id)
    assert not [*(tmp_path / "run").glob("*.bin"), *(tmp_path / "run").glob(BEGUN)]


def test_the_note_of_a_run_that_begins_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the metrics runs before anything is measured."""
    monkeypatch.setattr(evaluation, "evaluate", _broken)
    monkeypatch.setattr(evaluation, "summarise_guarded", _broken)
    begin(RUN, tmp_path / "run", RecordContext())
    monkeypatch.setattr(salvage, "_life", lambda run: "dead")
    (found,) = salvage.salvage(tmp_path)
    assert found.ok
    assert load(tmp_path / "run").failure == salvage.KILLED


def test_a_baseline_without_figures_is_not_compared_with() -> None:
    """VALID or not: what has no throughput is no baseline."""
    alone = replace(RUN, tenants=RUN.tenants[:1], kind="baseline")
    measured = measurement()
    del measured.samples["b"]
    found = record(measured, Comparison(), alone)
    bare = replace(found, tenants=(replace(found.tenants[0], metrics={}),), verdict="VALID")
    assert alone_of(bare, measured.samples, Path(), Future()) is None


@pytest.mark.process
def test_a_burst_trace_ends_as_a_record_in_the_store(workplace: Workplace) -> None:
    """From the command line to MLflow."""
    (workplace.folder / "burst.csv").write_text("arrival_s\n" + "0\n" * 70)
    ran = workplace.run("mix=solo", "baseline=skip", "sweep=s", "arrival=trace", "arrival.trace=burst.csv")
    assert ran.code == 0, ran.err
    assert "Traceback" not in ran.out + ran.err
    made = workplace.records("outputs/s")["."]
    assert "no-offered-rate" in {f.code for f in made.findings}
    assert made.run_spec.tenants[0].arrival.kind == ArrivalSpec(kind="trace").kind
    (run,) = workplace.mlflow_runs("tags.`mtexp.kind` = 'mix'")
    assert run.data.tags["mtexp.upload"] == "complete"


@pytest.mark.process
def test_warm_up_has_room_of_its_own(workplace: Workplace) -> None:
    """As many measured iterations as were asked for, whatever comes before them."""
    ran = workplace.run(
        "mix=solo", "baseline=skip", "sweep=s", "measure.iterations=20", "measure.max_iterations=20",
        "measure.warmup=30",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    (tenant,) = workplace.records("outputs/s")["."].tenants
    assert tenant.metrics["iterations_in_window"] == 20
    phases = read_samples(workplace.folder / "outputs/s" / ITERATIONS)[tenant.id].phase.tolist()
    assert phases == [0] * 30 + [1] * 21  # the first one counts in no figure

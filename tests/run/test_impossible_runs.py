"""A run faster than its tenants alone: its baselines are measured again at once, and it is INVALID if that stays so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtexp.metrics.crossover_summary import BlockTelemetry
from mtexp.records.record import RunRecord
from mtexp.running.bare_record import RecordContext
from mtexp.running.evaluation import Comparison, evaluate
from mtexp.running.impossible import impossible_in_blocks
from mtexp.running.measured import Measurement
from mtexp.running.runner import Job, Runner
from mtexp.spec import BaselineSpec, ModelSpec, RunSpec, TenantSpec, TrackingSpec
from tests.metrics.test_crossover_summary import run as rounds
from tests.metrics.test_crossover_summary import summary
from tests.strategies import closed_loop

MODELS = {name: ModelSpec(name=name, role="encoder", architecture="bert", parameters=i) for i, name in enumerate("ab")}
MODELS["b"] = replace(MODELS["b"], architecture="gpt2")
RUN = RunSpec(
    mix="x",
    runtime="cpu",
    tenants=tuple(TenantSpec(id=f"t_{name}", model=model) for name, model in MODELS.items()),
    tracking=TrackingSpec(enabled=False),
)


class Host:
    """A host with given latencies: one for each baseline in turn, and one for every tenant of the mix."""

    def __init__(self, mix_ms: float = 10.0, **alone_ms: list[float]) -> None:
        self.mix_ms, self.alone_ms = mix_ms, alone_ms
        self.measured: list[str] = []

    def measure(self, spec: RunSpec, *_: Any, **__: Any) -> Measurement:
        self.measured.append(spec.mix)
        rng = np.random.default_rng(len(self.measured))
        mean_ms = self.alone_ms[spec.mix].pop(0) if spec.kind == "baseline" else self.mix_ms
        ids = [tenant.id for tenant in spec.tenants]
        samples = {i: closed_loop(mean_ms * (1 + 0.01 * rng.standard_normal(120)), warmup=2) for i in ids}
        return Measurement(samples=samples, facts_before={i: {} for i in ids}, facts_after={i: {} for i in ids})


def run(host: Host, folder: Path, monkeypatch: pytest.MonkeyPatch, spec: RunSpec = RUN) -> tuple[RunRecord, list[str]]:
    said: list[str] = []
    monkeypatch.setattr("mtexp.running.runner.measure", host.measure)
    monkeypatch.setattr("mtexp.running.baselines.find_baseline", lambda *_, **__: None)
    return Runner().run(Job(spec=spec, folder=folder / "run", progress=said.append)), said


def codes(record: RunRecord) -> list[tuple[str, str]]:
    return [(f.code, f.tenant) for f in record.findings if f.code in ("impossible", "baseline-again")]


def test_a_baseline_from_a_busy_moment_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, only the one in doubt; the run is compared with the second, is VALID, and says so."""
    host = Host(a=[20.0, 9.5], b=[8.0])
    record, said = run(host, tmp_path, monkeypatch)
    assert host.measured == ["a", "b", "x", "a"]
    assert (record.verdict, codes(record)) == ("VALID", [("baseline-again", "t_a")])
    assert record.tenants[0].metrics["slowdown"] == pytest.approx(10 / 9.5, rel=0.01)
    assert record.tenants[0].baseline is not None
    assert record.tenants[0].baseline.latency_mean_ms == pytest.approx(9.5, rel=0.01)
    assert any("measured again" in text for text in said)


def test_what_stays_impossible_is_invalid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two baselines that agree and a run twice as fast: measured again once, no more."""
    host = Host(a=[20.0, 20.2], b=[20.0, 19.9])
    record, _ = run(host, tmp_path, monkeypatch)
    assert sorted(host.measured) == ["a", "a", "b", "b", "x"]
    assert record.verdict == "INVALID"
    assert set(codes(record)) == {("impossible", "t_a"), ("impossible", "t_b"), ("impossible", "")}


def test_baselines_that_lie_far_apart_leave_nothing_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose runs differ by a factor of 1.5 cannot show that a slowdown of 0.75 is none: a warning."""
    host = Host(a=[20.0, 13.3], b=[8.0])
    record, _ = run(host, tmp_path, monkeypatch)
    assert (record.verdict, codes(record)) == ("VALID", [("baseline-again", "t_a")])


def test_a_later_run_is_compared_with_the_new_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not measured a third time."""
    host = Host(a=[20.0, 9.5], b=[8.0])
    monkeypatch.setattr("mtexp.running.runner.measure", host.measure)
    monkeypatch.setattr("mtexp.running.baselines.find_baseline", lambda *_, **__: None)
    runner = Runner()
    for number in range(2):
        record = runner.run(Job(spec=RUN, folder=tmp_path / str(number)))
    assert host.measured == ["a", "b", "x", "a", "x"]
    assert codes(record) == []


def test_nothing_is_measured_where_all_can_be_or_nobody_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary slowdown; and a run without baselines, whatever its latency."""
    host = Host(a=[9.0], b=[8.0])
    record, _ = run(host, tmp_path / "plain", monkeypatch)
    assert (host.measured, record.verdict, codes(record)) == (["a", "b", "x"], "VALID", [])
    host = Host()
    run(host, tmp_path / "skip", monkeypatch, replace(RUN, baseline=BaselineSpec(mode="skip")))
    assert host.measured == ["x"]


@pytest.mark.parametrize(("together_ms", "verdict"), [(6.0, "INVALID"), (9.8, "VALID"), (15.0, "VALID")])
def test_a_crossover_run_is_held_to_the_same_limits(tmp_path: Path, together_ms: float, verdict: str) -> None:
    """Faster together than alone is INVALID beyond 5 %; nothing is measured again, for there is no baseline."""
    samples, blocks = rounds({"t_a": 10.0, "t_b": 10.0}, {"t_a": together_ms, "t_b": 15.0}, noise=0.01)
    spec = replace(RUN, measure=replace(RUN.measure, design="crossover", iterations=20, target_pct=50.0))
    measured = Measurement(samples=samples, blocks=blocks)
    record = evaluate(spec, measured, tmp_path, Comparison(), RecordContext(environment={}))
    assert [tenant for _, tenant in codes(record)] == (["t_a", ""] if verdict == "INVALID" else [])
    assert record.verdict == verdict, record.findings


def test_a_higher_clock_in_the_blocks_of_all_explains_a_faster_tenant() -> None:
    """Only its part of the gain: 0.8 of the latency at 1.25 times the clock, not at 1.1 times."""
    found = summary({"a": 10.0, "b": 10.0}, {"a": 8.0, "b": 15.0}, noise=0.01)
    for together_mhz, tenants in ((None, ["a"]), (1250.0, []), (1100.0, ["a"])):
        clocks = BlockTelemetry(together_clock_mhz=together_mhz, alone_clock_mhz={"a": 1000.0, "b": 1000.0})
        assert [f.tenant for f in impossible_in_blocks(found, clocks)] == tenants

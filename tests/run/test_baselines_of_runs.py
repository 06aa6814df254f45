"""What the baseline of a tenant is, when it is measured again, and rates that are shares of it."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtexp.errors import ConfigError
from mtexp.metrics.summary import Baseline
from mtexp.metrics.window import Series
from mtexp.running.bare_record import RecordContext
from mtexp.running.baselines import BaselineRun, Baselines, alone_of, baseline_spec, linked, with_rates
from mtexp.running.evaluation import Comparison, evaluate
from mtexp.running.measured import Measurement
from mtexp.spec import ArrivalSpec, BaselineSpec, MpsLimits, RunSpec, SearchSpec, SharingSpec, spec_hash
from mtexp.tracking.ledger import baseline_hash
from mtexp.tracking.upload import Upload
from tests.run.evaluated import ALONE, BOTH, RUN, codes
from tests.strategies import closed_loop, open_loop


def test_a_load_becomes_a_rate_and_keeps_its_name() -> None:
    """Share times baseline throughput; the hash is that of the load, so that resume finds the point again."""
    loaded = replace(RUN.tenants[0], arrival=ArrivalSpec(kind="poisson", load=0.5))
    run = replace(RUN, tenants=(loaded, RUN.tenants[1]))
    rated = with_rates(run, {"a": ALONE})
    assert [t.arrival.rate_rps for t in rated.tenants] == [50.0, 0.0]
    assert spec_hash(rated) == spec_hash(run)
    other = replace(run, tenants=(replace(loaded, arrival=ArrivalSpec(kind="poisson", load=0.6)), RUN.tenants[1]))
    assert spec_hash(other) != spec_hash(run)
    with pytest.raises(ConfigError, match=r"arrival\.load=0\.5: a has no VALID baseline"):
        with_rates(run, {})


def test_rates_that_differ_are_points_that_differ() -> None:
    """A rate that was asked for is part of the name."""
    one, two = (
        replace(RUN, tenants=(replace(RUN.tenants[0], arrival=ArrivalSpec(kind="poisson", rate_rps=r)),))
        for r in (1, 2)
    )
    assert spec_hash(one) != spec_hash(two)


def test_a_baseline_is_alone_in_closed_loop_without_limits() -> None:
    """Whatever the run does to the tenant; the partitioned one keeps the limits."""
    limited = replace(
        RUN.tenants[1], arrival=ArrivalSpec(kind="poisson", rate_rps=5), mps=MpsLimits(active_thread_pct=25), slo_ms=9
    )
    whole = baseline_spec(limited, RUN)
    assert (whole.kind, whole.mix, whole.baseline.mode) == ("baseline", "bert_base", "skip")
    (alone,) = whole.tenants
    assert (alone.arrival.kind, alone.mps, alone.slo_ms) == ("closed", MpsLimits(), 0.0)
    assert whole.measure.min_time_s == RUN.baseline.min_time_s
    assert baseline_spec(limited, RUN, partitioned=True).tenants[0].mps.active_thread_pct == 25


OPEN = replace(RUN.tenants[0], arrival=ArrivalSpec(kind="poisson", load=0.4, rate_rps=5, seed=3))
OPEN_RUN = replace(RUN, tenants=(OPEN, RUN.tenants[1]))


def _name_at(arrival: ArrivalSpec) -> str:
    spec = baseline_spec(replace(OPEN, arrival=arrival), OPEN_RUN, at_arrivals=True)
    return baseline_hash(spec.tenants[0], spec, {})


def test_a_baseline_at_the_same_arrivals_is_named_by_them() -> None:
    """Kind, rate and seed, so that every request comes at the instant at which it came in the mix; and not the load."""
    arrival = OPEN.arrival
    (alone,) = baseline_spec(OPEN, OPEN_RUN, at_arrivals=True).tenants
    assert (alone.arrival.kind, alone.arrival.rate_rps, alone.arrival.seed) == ("poisson", 5, 3)
    assert _name_at(arrival) == _name_at(replace(arrival, load=0.5))
    others = [replace(arrival, seed=4), replace(arrival, rate_rps=6), replace(arrival, kind="constant"), ArrivalSpec()]
    assert len({_name_at(one) for one in [arrival, *others]}) == 5
    constant = replace(arrival, kind="constant")
    assert _name_at(constant) == _name_at(replace(constant, seed=4))


@pytest.mark.parametrize(
    ("run", "measured"),
    [
        (OPEN_RUN, ["poisson"]),
        (RUN, []),
        (replace(OPEN_RUN, tenants=(OPEN,)), []),
        (replace(OPEN_RUN, tenants=(OPEN,), sharing=SharingSpec(mps="half", mps_mode="managed")), ["poisson"]),
        (replace(OPEN_RUN, search=SearchSpec(name="s")), []),
        (replace(OPEN_RUN, baseline=BaselineSpec(mode="require")), []),
        (replace(OPEN_RUN, baseline=BaselineSpec(mode="skip")), []),
    ],
    ids=["beside another", "closed loop", "alone already", "alone under MPS", "a probe", "require", "skip"],
)
def test_who_is_measured_alone_at_its_own_arrivals(
    run: RunSpec, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant in open loop that shares with somebody, where baselines are measured at all; nothing is refused."""
    monkeypatch.setattr("mtexp.running.baselines.find_baseline", lambda *args, **options: None)
    tried: list[str] = []

    def measure(spec: RunSpec, name: str) -> BaselineRun:
        tried.append(spec.tenants[0].arrival.kind)
        return ALONE

    found = Baselines().of(run, {}, measure, at_arrivals=True)
    assert tried == measured
    assert list(found) == ["a"] * len(measured)


def test_an_open_loop_tenant_without_a_baseline_at_its_arrivals_says_so() -> None:
    """Its latency is compared with nothing, rather than with a baseline in closed loop."""
    samples = {"a": open_loop(np.arange(100) * 30.0, 20), "b": closed_loop(np.full(140, 20.0))}
    measured = Measurement(samples=samples, facts_before={"a": {}, "b": {}}, facts_after={"a": {}, "b": {}})
    at_arrivals = replace(ALONE, baseline=Baseline(Series.whole(open_loop(np.arange(100) * 30.0, 10))))
    with_it = Comparison(alone=BOTH.alone, at_arrivals={"a": at_arrivals})
    without, beside = (evaluate(OPEN_RUN, measured, Path("nowhere"), c, RecordContext()) for c in (BOTH, with_it))
    assert "latency_slowdown" not in without.tenants[0].metrics
    assert beside.tenants[0].metrics["latency_slowdown"] == pytest.approx(2, rel=0.01)
    assert ["no-arrivals-baseline" in codes(found) for found in (without, beside)] == [True, False]
    assert [found.tenants[0].arrivals_baseline for found in (without, beside)] == [None, at_arrivals.ref]


def test_an_invalid_baseline_is_no_baseline() -> None:
    """Kept, and not compared with."""
    spec = baseline_spec(RUN.tenants[0], RUN)
    measured = Measurement(samples={"bert_base": closed_loop(np.full(100, 20.0))}, facts_after={"bert_base": {}})
    good = evaluate(spec, measured, Path("nowhere"), Comparison(), RecordContext(baseline_hash="h"))
    sent: Future[Upload] = Future()
    alone = alone_of(good, measured.samples, Path("x"), sent)
    assert alone is not None
    sent.set_result(Upload(Path("x"), "run"))
    ref = linked({"a": alone})["a"].ref
    assert (ref.baseline_hash, ref.run_id, ref.latency_mean_ms) == ("h", "run", pytest.approx(20.0))
    assert alone_of(replace(good, verdict="INVALID"), measured.samples, Path("x"), sent) is None
    assert alone_of(replace(good, window=None), measured.samples, Path("x"), sent) is None


def test_a_baseline_is_tried_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tenants of one model: one measurement, whether it comes out VALID or not; a later run tries again."""
    monkeypatch.setattr("mtexp.running.baselines.find_baseline", lambda *args, **options: None)
    tried: list[str] = []
    results: list[BaselineRun | None] = [None, ALONE]

    def measure(spec: RunSpec, name: str) -> BaselineRun | None:
        tried.append(name)
        return results[len(tried) - 1]

    baselines = Baselines()
    assert baselines.of(RUN, {}, measure) == {}
    assert baselines.of(RUN, {}, measure) == {"a": ALONE, "b": ALONE}
    assert baselines.of(RUN, {}, measure) == {"a": ALONE, "b": ALONE}
    assert len(tried) == 2


def test_a_baseline_of_this_process_grows_old_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """``baseline.max_age_h=0`` measures before every point, once for all tenants of a model; a week does not."""
    monkeypatch.setattr("mtexp.running.baselines.find_baseline", lambda *args, **options: None)
    tried: list[str] = []

    def measure(spec: RunSpec, name: str) -> BaselineRun:
        tried.append(name)
        return replace(ALONE, started_ms=time.time_ns() // 1_000_000 - 1000)

    for max_age_h, measured in ((0.0, 3), (168.0, 1)):
        baselines, run = Baselines(), replace(RUN, baseline=BaselineSpec(max_age_h=max_age_h))
        tried.clear()
        for _ in range(3):
            assert set(baselines.of(run, {}, measure)) == {"a", "b"}
        assert len(tried) == measured


def test_each_pass_of_a_sweep_has_baselines_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spread over the sweep as the repetitions are; where one fails in a later pass, the older one stays."""
    monkeypatch.setattr("mtexp.running.baselines.find_baseline", lambda *args, **options: None)
    first, second = replace(ALONE), replace(ALONE)
    results: list[BaselineRun | None] = [first, second, None]
    baselines = Baselines()

    def of(repetition: int, mode: str = "auto") -> BaselineRun:
        run = replace(RUN, repetition=repetition, baseline=BaselineSpec(mode=mode))
        found = baselines.of(run, {}, lambda spec, name: results.pop(0))
        assert found["a"] is found["b"]
        return found["a"]

    assert of(0) is of(0) is first
    assert of(1, mode="require") is first
    assert of(1) is of(1) is second
    assert of(2) is of(2) is second
    assert not results


@pytest.mark.parametrize(("cores", "pinned"), [(4, True), (3, False)])
def test_a_baseline_is_pinned_as_its_mix_is(monkeypatch: pytest.MonkeyPatch, cores: int, pinned: bool) -> None:
    """Two tenants, sampler and parent need four cores; with three nobody is pinned, and the baseline's hash knows."""
    monkeypatch.setattr("mtexp.launch.cores.os.sched_getaffinity", lambda pid: set(range(cores)))
    alone = baseline_spec(RUN.tenants[0], RUN)
    assert alone.measure.pin_cores is pinned
    solo = baseline_spec(RUN.tenants[0], replace(RUN, tenants=RUN.tenants[:1]))
    names = {baseline_hash(spec.tenants[0], spec, {}) for spec in (alone, solo)}
    assert len(names) == (1 if pinned else 2)


def test_checking_does_not_change_what_a_run_or_a_baseline_is() -> None:
    """Results of before and without it are found again."""
    other = replace(RUN, measure=replace(RUN.measure, check_outputs=False))
    assert spec_hash(RUN) == spec_hash(other)
    assert baseline_hash(RUN.tenants[0], RUN, {}) == baseline_hash(RUN.tenants[0], other, {})

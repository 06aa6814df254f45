"""From a measurement to a record: findings of baselines and compilation, failures, rates, hashes."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtexp.errors import ConfigError, HostError, MtexpError, TenantFailed, interrupted_twice
from mtexp.metrics.summary import Baseline
from mtexp.metrics.window import Series
from mtexp.records import keys
from mtexp.records.record import BaselineRef, RunRecord, load, save
from mtexp.run.bare_record import Origin
from mtexp.run.baselines import Alone, Baselines, alone_of, baseline_spec, linked, with_rates
from mtexp.run.evaluation import Comparison, evaluate
from mtexp.run.measurement import TELEMETRY, Measurement
from mtexp.spec import ArrivalSpec, BaselineSpec, ModelSpec, MpsLimits, RunSpec, TenantSpec, spec_hash
from mtexp.telemetry import GpuProcess, Occupants
from mtexp.telemetry.probes import FAST
from mtexp.telemetry.table import Table
from mtexp.tracking.ledger import baseline_hash
from mtexp.tracking.upload import Upload
from tests.strategies import MS, closed_loop

MODEL = ModelSpec(name="bert_base", role="encoder", architecture="bert")
RUN = RunSpec(mix="x", tenants=(TenantSpec(id="a", model=MODEL), TenantSpec(id="b", model=MODEL)))
ALONE = Alone(
    BaselineRef(record_id="0" * 32, baseline_hash="h", throughput_rps=100.0, latency_mean_ms=10.0),
    Baseline(Series.closed(np.full(50, 10.0))),
)
BOTH = Comparison(alone={"a": ALONE, "b": ALONE})


def measurement(**changes: Any) -> Measurement:
    """Two tenants that measured 100 iterations of 20 ms together."""
    samples = {name: closed_loop(np.full(100, 20.0), warmup=2) for name in "ab"}
    measured = Measurement(samples=samples, facts_before={"a": {}, "b": {}}, facts_after={"a": {}, "b": {}})
    for name, value in changes.items():
        setattr(measured, name, value)
    return measured


def record(
    measured: Measurement, compared: Comparison = BOTH, spec: RunSpec = RUN, folder: Path = Path("nowhere")
) -> RunRecord:
    return evaluate(spec, measured, folder, compared, Origin())


def write_telemetry(
    folder: Path, measured: Measurement, *, columns: tuple[str, ...] = ("gpu_power_w",), **notes: Any
) -> None:
    """Every 50 ms from before the first iteration to after the last, 500 of each column."""
    table = Table({FAST: columns})
    times = np.concatenate([[s.start_ns.min(), s.end_ns.max()] for s in measured.samples.values()])
    for time_ns in range(int(times.min()) - 50 * MS, int(times.max()) + 100 * MS, 50 * MS):
        table.append(time_ns, {FAST: [500.0] * len(columns)})
    table.write(folder / TELEMETRY, notes)


def codes(found: RunRecord) -> set[str]:
    return {finding.code for finding in found.findings} - {"insufficient"}


def test_a_plain_run_has_nothing_to_say() -> None:
    """VALID, slowdown against the baselines, no finding but what 98 iterations do not support."""
    found = record(measurement())
    assert (found.status, found.verdict, codes(found)) == ("FINISHED", "VALID", set())
    assert found.tenants[0].metrics["slowdown"] == pytest.approx(2.0)
    assert found.metrics["stp"] == pytest.approx(1.0, rel=0.05)


def test_a_missing_baseline_is_a_warning_unless_nobody_wanted_one() -> None:
    """VALID all the same: its own figures stand; ``baseline=skip`` says nothing."""
    found = record(measurement(), Comparison(alone={"a": ALONE}))
    assert (found.verdict, codes(found)) == ("VALID", {"no-baseline"})
    assert [f.tenant for f in found.findings if f.code == "no-baseline"] == ["b"]
    assert "stp" not in found.metrics
    skipping = replace(RUN, baseline=BaselineSpec(mode="skip"))
    assert not codes(record(measurement(), Comparison(), skipping))


@pytest.mark.parametrize(("pct", "verdict"), [(4.9, "VALID"), (-4.9, "VALID"), (5.1, "INVALID"), (-5.1, "INVALID")])
def test_baseline_drift_is_judged_and_kept(pct: float, verdict: str) -> None:
    """More than 5 % either way is INVALID; the figure is a metric of the tenant."""
    spec = replace(RUN, baseline=BaselineSpec(recheck=True))
    found = record(measurement(), replace(BOTH, drift_pct={"a": pct, "b": 0.0}), spec)
    assert found.verdict == verdict
    assert found.tenants[0].metrics["baseline_drift_pct"] == pct


def test_a_drift_names_the_age_of_what_it_is_against() -> None:
    """A baseline may be an hour or a week old, and a drift from it says something else than one over the mix."""
    spec, measured = replace(RUN, baseline=BaselineSpec(recheck=True)), measurement()
    alone = replace(ALONE, started_ms=measured.clock[0][1] // 1_000_000 - 26 * 3_600_000)
    found = record(measured, Comparison(alone={"a": alone, "b": ALONE}, drift_pct={"a": 6.0, "b": 7.0}), spec)
    old, unknown = (finding.message for finding in found.findings if finding.code == "baseline-drift")
    assert "of a moved by +6.0 % from 26 h before the mix to after it" in old
    assert "of b moved by +7.0 % from before the mix to after it" in unknown


def test_a_recheck_that_failed_is_a_warning() -> None:
    """Asked for and not had is not the same as no drift."""
    spec = replace(RUN, baseline=BaselineSpec(recheck=True))
    found = record(measurement(), replace(BOTH, drift_pct={"a": 0.5}), spec)
    assert codes(found) == {"no-recheck"}
    assert "baseline_drift_pct" not in found.tenants[1].metrics


def test_recompilation_in_the_window_is_a_warning() -> None:
    """Graphs compiled between the two proofs are named with their number."""
    before, after = ({"a": {"compiled_graphs": n}, "b": {"compiled_graphs": 4}} for n in (4, 6))
    found = record(measurement(facts_before=before, facts_after=after))
    (finding,) = [f for f in found.findings if f.code == "recompiled"]
    assert (finding.tenant, finding.level) == ("a", "warning")
    assert "compiled 2 more graphs of a" in finding.message


def test_a_record_says_where_its_telemetry_comes_from(tmp_path: Path) -> None:
    """The achieved period is a metric; energy source, kind of power and what did not answer stand beside it."""
    measured = measurement()
    write_telemetry(tmp_path, measured, absent={"field 3": "Not Supported"}, power_source="instant (field 186)")

    save(record(measured, folder=tmp_path), tmp_path, measured.samples)

    found = load(tmp_path)
    assert found.telemetry["telemetry_period_ms"] == pytest.approx(50)
    assert found.telemetry["telemetry_period_max_ms"] == pytest.approx(50)
    assert keys.unknown(found.telemetry) == []
    assert found.metrics["energy_j"] == pytest.approx(500 * found.metrics["window_s"])
    assert found.telemetry_notes == {
        "energy_source": "power",
        "power_source": "instant (field 186)",
        "absent": {"field 3": "Not Supported"},
    }


def test_a_driver_that_does_not_tell_of_context_switches_is_a_note(tmp_path: Path) -> None:
    """For tenants that share, once, with the reason; nothing to say of a tenant alone, or where the driver tells."""
    measured = measurement()
    absent = {"gpm context switches": "the driver counts nothing"}
    write_telemetry(tmp_path, measured, absent=absent)
    (finding,) = [f for f in record(measured, folder=tmp_path).findings if f.code == "no-context-switches"]
    assert (finding.level, "the driver counts nothing" in finding.message) == ("note", True)

    alone = replace(RUN, tenants=RUN.tenants[:1])
    assert "no-context-switches" not in codes(record(measured, BOTH, alone, tmp_path))
    write_telemetry(tmp_path, measured, columns=("gpu_power_w", "gpu_ctxsw_requests"), absent=absent)
    assert "no-context-switches" not in codes(record(measured, folder=tmp_path))


def test_a_failed_tenant_leaves_the_figures_of_all() -> None:
    """FAILED and INVALID with phase and reason; what had been measured is summarised."""
    failure = TenantFailed("b", "measure", "it was killed", exit_code=-9)
    found = record(measurement(failure=failure))
    assert (found.status, found.verdict) == ("FAILED", "INVALID")
    assert [(t.id, t.status, t.phase) for t in found.tenants] == [("a", "FINISHED", ""), ("b", "FAILED", "measure")]
    assert all(t.metrics["iterations_measured"] == 98 for t in found.tenants)
    assert codes(found) == {"tenant-failed"}


def test_a_process_of_several_tenants_fails_all_of_them() -> None:
    """``sharing=streams``."""
    found = record(measurement(failure=TenantFailed("a,b", "measure", "killed")))
    assert [t.status for t in found.tenants] == ["FAILED", "FAILED"]


@pytest.mark.parametrize(
    ("failure", "stop", "code"),
    [
        (HostError("no MPS binary"), None, "host"),
        (MtexpError("interrupted: Ctrl-C"), KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_run_that_ended_before_anything_was_measured_has_a_record(
    failure: MtexpError, stop: KeyboardInterrupt | None, code: str
) -> None:
    """The sharing mode did not come up, or nobody waited for it: no sample, no window, one reason."""
    found = record(Measurement(failure=failure, stop=stop))
    assert (found.status, found.failure, found.window) == ("FAILED", str(failure), None)
    assert code in codes(found)
    assert found.started_at <= found.ended_at


def test_a_load_becomes_a_rate_and_keeps_its_name() -> None:
    """Share times baseline throughput; the hash is that of the load, so that resume finds the point again."""
    loaded = replace(RUN.tenants[0], arrival=ArrivalSpec(kind="poisson", load=0.5))
    run = replace(RUN, tenants=(loaded, RUN.tenants[1]))
    rated = with_rates(run, {"a": ALONE})
    assert [t.arrival.rate_rps for t in rated.tenants] == [50.0, 0.0]
    assert spec_hash(rated) == spec_hash(run)
    other = replace(run, tenants=(replace(loaded, arrival=ArrivalSpec(kind="poisson", load=0.6)), RUN.tenants[1]))
    assert spec_hash(other) != spec_hash(run)
    with pytest.raises(ConfigError, match=r"arrival\.load=0\.5: allowed: a tenant with a VALID baseline"):
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


def test_an_invalid_baseline_is_no_baseline() -> None:
    """Kept, and not compared with."""
    spec = baseline_spec(RUN.tenants[0], RUN)
    measured = Measurement(samples={"bert_base": closed_loop(np.full(100, 20.0))}, facts_after={"bert_base": {}})
    good = evaluate(spec, measured, Path("nowhere"), Comparison(), Origin(baseline_hash="h"))
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
    monkeypatch.setattr("mtexp.run.baselines.find_baseline", lambda *args, **options: None)
    tried: list[str] = []
    results: list[Alone | None] = [None, ALONE]

    def measure(spec: RunSpec, name: str) -> Alone | None:
        tried.append(name)
        return results[len(tried) - 1]

    baselines = Baselines()
    assert baselines.of(RUN, {}, measure) == {}
    assert baselines.of(RUN, {}, measure) == {"a": ALONE, "b": ALONE}
    assert baselines.of(RUN, {}, measure) == {"a": ALONE, "b": ALONE}
    assert len(tried) == 2


def test_a_baseline_of_this_process_grows_old_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """``baseline.max_age_h=0`` measures before every point, once for all tenants of a model; a week does not."""
    monkeypatch.setattr("mtexp.run.baselines.find_baseline", lambda *args, **options: None)
    tried: list[str] = []

    def measure(spec: RunSpec, name: str) -> Alone:
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
    monkeypatch.setattr("mtexp.run.baselines.find_baseline", lambda *args, **options: None)
    first, second = replace(ALONE), replace(ALONE)
    results: list[Alone | None] = [first, second, None]
    baselines = Baselines()

    def of(repetition: int, mode: str = "auto") -> Alone:
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


def test_a_second_interrupt_is_told_from_the_first() -> None:
    """It comes while the first is being handled, whatever else went wrong on the way."""
    first, second = KeyboardInterrupt(), KeyboardInterrupt()
    between = OSError()
    second.__context__, between.__context__ = between, first
    assert Measurement(stop=second).hurried
    second.__context__ = OSError()
    assert not Measurement(stop=second).hurried
    assert not Measurement().hurried
    assert not interrupted_twice(between)


def test_the_window_of_the_record_is_that_of_the_samples() -> None:
    """Latest first start to earliest last end."""
    measured = measurement()
    measured.samples["b"] = closed_loop(np.full(100, 20.0), start_ns=10**15 + 100 * MS, warmup=2)
    found = record(measured)
    assert found.window is not None
    assert found.window["t0_ns"] == 10**15 + 140 * MS
    assert found.window["t1_ns"] == 10**15 + 2000 * MS


def _util(folder: Path, measured: Measurement, *pcts: tuple[int, float]) -> None:
    """Telemetry with one poll of the utilisation of processes within the window."""
    at_ns = int(measured.samples["a"].start_ns.min()) + 1000 * MS
    write_telemetry(folder, measured, process_util=[[at_ns, [list(pct) for pct in pcts]]])


@pytest.mark.parametrize(
    ("pct", "code", "verdict"), [(60.0, "foreign-process", "INVALID"), (0.0, "foreign-idle", "VALID")]
)
def test_a_stranger_is_judged_by_its_utilisation(tmp_path: Path, pct: float, code: str, verdict: str) -> None:
    """As telemetry has it of the window; the record says who it was and by which rule."""
    stranger = GpuProcess(7, "compute", "python of mallory", 512.0)
    occupants = Occupants(strangers=(stranger,), own=frozenset({1, 2}), same_pids=True)
    measured = measurement(occupants=occupants)
    _util(tmp_path, measured, (1, 90.0), (7, pct))

    found = record(measured, spec=replace(RUN, runtime="gpu"), folder=tmp_path)

    assert (found.verdict, codes(found)) == (verdict, {code})
    assert found.telemetry_notes["foreign"] == {
        "rule": "refuse",
        "processes": [
            {
                "pid": 7,
                "type": "C",
                "name": "python of mallory",
                "memory_mib": 512.0,
                "util_pct": pct,
                "busy": pct > 5,
            }
        ],
        "not_attributable": 0,
    }


def test_a_stranger_that_came_and_went_within_the_window_is_found(tmp_path: Path) -> None:
    """No list has it, its utilisation does; where pids are the host's, it may be a tenant and is not foreign."""
    for same_pids, expected in ((True, {"foreign-process"}), (False, set())):
        measured = measurement(occupants=Occupants(own=frozenset({1, 2}), same_pids=same_pids))
        _util(tmp_path, measured, (1, 50.0), (77, 40.0))
        assert codes(record(measured, spec=replace(RUN, runtime="gpu"), folder=tmp_path)) == expected


def test_the_rule_about_strangers_is_the_runs(tmp_path: Path) -> None:
    """``measure.foreign=warn``."""
    spec = replace(RUN, measure=replace(RUN.measure, foreign="warn"))
    found = record(measurement(occupants=Occupants(strangers=(GpuProcess(7, "compute", "", None),))), spec=spec)
    assert (found.verdict, codes(found)) == ("VALID", {"foreign-process"})


@pytest.mark.parametrize(("mode", "known"), [("processes", True), ("streams", False)])
def test_the_memory_of_a_process_is_that_of_no_tenant_of_several(mode: str, known: bool) -> None:
    """``sharing=streams``: one process holds them all, and what each has is not known."""
    facts = {"a": {"memory_peak_mib": 300.0}, "b": {"memory_peak_mib": 300.0}}
    spec = replace(RUN, sharing=replace(RUN.sharing, mode=mode))
    found = record(measurement(facts_after=facts), spec=spec)
    assert ["memory_peak_mib" in tenant.metrics for tenant in found.tenants] == [known] * 2


def test_the_clock_is_judged_against_the_baselines(tmp_path: Path) -> None:
    """The run's telemetry and the clock that its baselines carry reach the rule; what was lost is a figure."""
    measured = measurement()
    table = Table({FAST: ("gpu_sm_clock_mhz", "gpu_throttle_reasons")})
    start_ns = int(measured.samples["a"].start_ns.min())
    for time_ns in range(start_ns - 50 * MS, start_ns + 3000 * MS, 50 * MS):
        table.append(time_ns, {FAST: [1200.0, 0.0]})
    table.write(tmp_path / TELEMETRY, {})
    fast = replace(ALONE, baseline=replace(ALONE.baseline, sm_clock_mhz=1980.0))

    found = record(measured, Comparison(alone={"a": fast, "b": ALONE}), folder=tmp_path)
    assert (found.verdict, codes(found)) == ("INVALID", {"clock-drop"})
    assert found.metrics["clock_lost_pct"] == pytest.approx(100 * (1 - 1200 / 1980))
    assert record(measured, BOTH, folder=tmp_path).verdict == "VALID"


def test_a_tenant_that_stops_for_part_of_the_window_is_found() -> None:
    """INVALID, and ``overlap_pct`` is the share of the window in which both were at work."""
    latencies = np.full(60, 20.0)
    latencies[30] = 1200.0
    measured = measurement(samples={"a": closed_loop(np.full(120, 20.0)), "b": closed_loop(latencies)})

    found = record(measured)

    assert found.verdict == "INVALID"
    assert "overlap" in codes(found)
    assert found.metrics["overlap_pct"] == pytest.approx(50, abs=1.5)
    assert [t.metrics["overlap_pct"] for t in found.tenants] == [100, pytest.approx(50, abs=1.5)]
    assert found.metrics["window_share_pct"] > 99


CHECKED = {"kinds": 9, "compared": 20, "wrong_kinds": 0, "unchecked": 0, "examples": []}
DEVIATION = {"error": 0.4, "nonfinite": 0, "off": 4000}
WRONG = {**CHECKED, "wrong_kinds": 2, "examples": [{"product": "linear 8x16, 4x16", "precision": "fp16", **DEVIATION}]}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"layers_check": WRONG}, "2 of the 9 kinds"),
        ({"layers_check": CHECKED, "outputs_check": {"kept": 6, "wrong": 1, "worst": DEVIATION}}, "1 of the 6 outputs"),
        (
            {"outputs_check": {"kept": 6, "wrong": 0, "against_layers": DEVIATION, "against_layers_wrong": True}},
            "execution=eager",
        ),
    ],
)
def test_a_wrong_output_is_invalid_and_names_tenant_and_error(facts: dict[str, Any], said: str) -> None:
    """Whichever of the three checks found it."""
    found = record(measurement(facts_after={"a": facts, "b": {"layers_check": CHECKED}}))
    assert (found.verdict, codes(found)) == ("INVALID", {"wrong-output"})
    (finding,) = (f for f in found.findings if f.code == "wrong-output")
    assert finding.tenant == "a"
    assert said in finding.message
    assert "0.4" in finding.message


def test_at_a_percentage_the_remedy_names_those_that_are_right() -> None:
    """With the SM count, from the table of what was measured on such a GPU and stack."""
    spec = replace(RUN, tenants=tuple(replace(t, mps=MpsLimits(active_thread_pct=20.0)) for t in RUN.tenants))
    gpu = {"device_name": "NVIDIA H100 80GB HBM3", "torch_version": "2.11.0+cu130", "torch_cuda_version": "13.0"}
    facts = {**gpu, "sm_count": 26, "layers_check": WRONG}
    found = record(measurement(facts_after={"a": facts}), spec=spec)
    (finding,) = (f for f in found.findings if f.code == "wrong-output")
    assert "on 26 SMs" in finding.message
    assert "23" in finding.remedy
    assert "mtexp.sharing.numerics" in finding.remedy


@pytest.mark.parametrize(("own", "level"), [("w1", None), ("w2", "warning")])
def test_other_weights_than_the_baselines_are_a_warning(own: str, level: str | None) -> None:
    """Of the same seed; another seed is meant to give others."""
    alone = replace(ALONE, ref=replace(ALONE.ref, computed_with="0:w1:i1"))
    facts = {"a": {"weights_checksum": own, "inputs_checksum": "i1"}}
    found = record(measurement(facts_after=facts), Comparison(alone={"a": alone, "b": ALONE}))
    assert [f.level for f in found.findings if f.code == "other-weights"] == ([level] if level else [])
    spec = replace(RUN, tenants=tuple(replace(t, seed=1) for t in RUN.tenants))
    found = record(measurement(facts_after=facts), Comparison(alone={"a": alone, "b": ALONE}), spec)
    assert "other-weights" not in codes(found)


def test_checking_does_not_change_what_a_run_or_a_baseline_is() -> None:
    """Results of before and without it are found again."""
    other = replace(RUN, measure=replace(RUN.measure, check_outputs=False))
    assert spec_hash(RUN) == spec_hash(other)
    assert baseline_hash(RUN.tenants[0], RUN, {}) == baseline_hash(RUN.tenants[0], other, {})

"""From a measurement to a record: findings, failures, telemetry, clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtexp.errors import HostError, MtexpError, TenantFailed, interrupted_twice
from mtexp.records import keys
from mtexp.records.record import load, save
from mtexp.running.evaluation import Comparison
from mtexp.running.measured import TELEMETRY, Measurement
from mtexp.spec import BaselineSpec, to_json
from mtexp.telemetry.probes import FAST
from mtexp.telemetry.table import Table
from mtexp.terminal import console
from tests.run.evaluated import ALONE, BOTH, RUN, codes, measurement, record, write_telemetry
from tests.strategies import MS, closed_loop


def test_a_plain_run_has_nothing_to_say() -> None:
    """VALID, slowdown against the baselines, no finding but what 98 iterations do not support."""
    found = record(measurement())
    assert (found.status, found.verdict, codes(found)) == ("FINISHED", "VALID", set())
    assert found.tenants[0].metrics["slowdown"] == pytest.approx(2.0)
    assert found.metrics["stp"] == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(("mode", "compared"), [("disabled", False), ("managed", True)])
def test_a_tenant_alone_is_slowed_by_a_mode_only(capsys: pytest.CaptureFixture[str], mode: str, compared: bool) -> None:
    """Without neighbours and without a mode it is measured as its baseline was: the ratio would be noise."""
    sharing = replace(RUN.sharing, mps="default" if mode == "managed" else "disabled", mps_mode=mode)
    found = record(measurement(), spec=replace(RUN, tenants=RUN.tenants[:1], sharing=sharing))
    (tenant,) = found.tenants
    assert ("slowdown" in tenant.metrics, "stp" in found.metrics, "antt" in found.metrics) == (compared,) * 3
    assert tenant.metrics["latency_mean_ms"] == pytest.approx(20.0)
    assert tenant.baseline is not None
    console.results(to_json(found))
    assert ("alone ms" in capsys.readouterr().out) == compared


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


def test_a_graph_that_is_not_the_eager_request_is_a_warning() -> None:
    """What its capture found is named; two differences at most."""
    found = record(
        measurement(facts_before={"a": {"graph_differs": ["1 x p more", "1 x q less", "2 x r more"]}, "b": {}})
    )
    (finding,) = [f for f in found.findings if f.code == "graph-differs"]
    assert (finding.tenant, finding.level) == ("a", "warning")
    assert finding.message.endswith("1 x p more; 1 x q less; and 1 more")


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


def test_a_second_interrupt_is_told_from_the_first() -> None:
    """It comes while the first is being handled, whatever else went wrong on the way."""
    first, second = KeyboardInterrupt(), KeyboardInterrupt()
    between = OSError()
    second.__context__, between.__context__ = between, first
    assert Measurement(stop=second).stop_now
    second.__context__ = OSError()
    assert not Measurement(stop=second).stop_now
    assert not Measurement().stop_now
    assert not interrupted_twice(between)


def test_the_window_of_the_record_is_that_of_the_samples() -> None:
    """Latest first start to earliest last end."""
    measured = measurement()
    measured.samples["b"] = closed_loop(np.full(100, 20.0), start_ns=10**15 + 100 * MS, warmup=2)
    found = record(measured)
    assert found.window is not None
    assert found.window["t0_ns"] == 10**15 + 140 * MS
    assert found.window["t1_ns"] == 10**15 + 2000 * MS


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

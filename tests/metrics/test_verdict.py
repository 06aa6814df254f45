"""The verdict: each rule, its threshold, its level and its remedy."""

import re
from dataclasses import replace
from typing import Any

import pytest

from mtexp.metrics.drift import Drift
from mtexp.metrics.foreign import Foreign, ForeignProcess
from mtexp.metrics.verdict import Evidence, Finding, TenantEvidence, judge

A = TenantEvidence(id="a", measured=1000, kept=998, window_share_pct=99.5)
B = TenantEvidence(id="b", measured=700, kept=700, window_share_pct=99.9)
GOOD = Evidence(tenants=(A, B), window_share_pct=99.5)


def _with(**change: Any) -> Evidence:
    return replace(GOOD, **change)


def _tenant(**change: Any) -> Evidence:
    return _with(tenants=(A, replace(B, **change)))


def test_a_clean_run_is_valid_without_a_word() -> None:
    """Nothing found, nothing said; also on a host that can see neither clocks nor throttling."""
    assert judge(GOOD) == ("VALID", ())


INVALID = [
    (_tenant(failure="killed by signal 9"), "tenant-failed", "killed by signal 9"),
    (_with(window_share_pct=94.9), "window-share", r"94\.9 % of the time that a measured; expected at least 95 %"),
    (_with(window_share_pct=0.0), "no-window", "do not overlap"),
    (_with(window_share_pct=0.0, tenants=(A, replace(B, measured=0, kept=0))), "no-window", "b measured no iteration"),
    (_with(foreign=Foreign(processes=(ForeignProcess(pid=4711, type="C", util_pct=50.0),))), "foreign-process", "4711"),
    (_with(throttle_bits=0x8), "throttling", "hardware slowdown"),
    (_with(throttle_bits=0x20), "throttling", "software thermal"),
    (_with(throttle_bits=0x40), "throttling", "hardware thermal"),
    (_with(throttle_bits=0x80 | 0x1), "throttling", "power brake"),
    (_with(xid_errors=(79, 31, 79)), "xid", "31, 79;"),
    (_tenant(baseline_drift_pct=-5.1), "baseline-drift", r"-5\.1 %"),
    (_tenant(baseline_drift_pct=5.1), "baseline-drift", r"\+5\.1 % from before the mix to after it"),
    (_tenant(baseline_drift_pct=6, baseline_age_s=41.3), "baseline-drift", r"\+6\.0 % from 41 s before the mix"),
    (_tenant(baseline_drift_pct=6, baseline_age_s=8000), "baseline-drift", r"\+6\.0 % from 2 h before the mix"),
    (_tenant(baseline_drift_pct=6, baseline_age_s=6e5), "baseline-drift", r"\+6\.0 % from 7 days before the mix"),
    (_tenant(baseline_drift_pct=-25, baseline_noise_pct=30), "baseline-drift", r"expected at most 30 %"),
    (_tenant(baseline_drift_pct=40, baseline_noise_pct=30), "baseline-drift", r"\+40\.0 %"),
    (_tenant(kept=0), "few-iterations", "b has 0 iterations"),
    (
        _with(findings=(Finding("invalid", "not-shared", "not under MPS", "Shorten the pipe directory."),)),
        "not-shared",
        "MPS",
    ),
]


@pytest.mark.parametrize(
    ("evidence", "code", "message"), INVALID, ids=[f"{i}-{row[1]}" for i, row in enumerate(INVALID)]
)
def test_what_makes_a_run_invalid(evidence: Evidence, code: str, message: str) -> None:
    """One reason, with what was found and a remedy."""
    verdict, findings = judge(evidence)
    assert verdict == "INVALID"
    grave = [finding for finding in findings if finding.level == "invalid"]
    assert [finding.code for finding in grave] == [code]
    assert grave[0].remedy
    assert re.search(message, grave[0].message)


WARNING = [
    (_with(overlap="fixed", window_share_pct=40.0), "window-share", "40.0 %"),
    (_with(throttle_bits=0x4), "power-limited", "power cap"),
    (_tenant(drift=Drift(3.0, 2.0, True)), "drift", "+3.0 %"),
    (_tenant(saturated=True), "saturated", "b arrived faster"),
    (_tenant(samples_full=True), "samples-full", "stopped after 700"),
    (_with(percentiles=(99.9,)), "percentile-iterations", "needs 6636"),
    (_tenant(kept=10), "few-iterations", "needs 11"),
]


@pytest.mark.parametrize(("evidence", "code", "message"), WARNING, ids=[row[1] for row in WARNING])
def test_what_a_reader_is_warned_of(evidence: Evidence, code: str, message: str) -> None:
    """The run stays VALID, with a labelled warning and a remedy."""
    verdict, findings = judge(evidence)
    assert verdict == "VALID"
    warnings = [finding for finding in findings if finding.level == "warning"]
    assert {finding.code for finding in warnings} == {code}
    assert message in warnings[-1].message
    assert all(finding.remedy for finding in warnings)


def test_the_remedy_names_the_key_that_asks_for_more() -> None:
    """A profiling pass has its own: the timed run's would change nothing of it."""
    for low in (_with(window_share_pct=94.0), _with(window_share_pct=0.0), _tenant(kept=10)):
        for key in ("measure.iterations", "profiler.iterations"):
            _, findings = judge(replace(low, iterations_key=key))
            assert key in findings[0].remedy


@pytest.mark.parametrize(
    "evidence",
    [
        _with(window_share_pct=95.0),
        _tenant(baseline_drift_pct=5.0),
        _tenant(baseline_drift_pct=-5.0),
        _tenant(drift=Drift(1.9, -1.9, True)),
        _tenant(drift=Drift(9.0, 9.0, False)),
        _with(throttle_bits=0x1 | 0x2 | 0x100),
        _with(percentiles=(99.0,)),
    ],
)
def test_at_the_threshold_nothing_is_found(evidence: Evidence) -> None:
    """Limits are inclusive, and one missing fact silences its rule."""
    assert judge(evidence) == ("VALID", ())


def test_unsupported_percentiles_come_to_one_note() -> None:
    """The default of 100 iterations is no fault: one note says what p95 and p99 would need."""
    hundred = _with(tenants=(replace(A, measured=101, kept=100), replace(B, measured=100, kept=99)))
    verdict, findings = judge(hundred)
    assert verdict == "VALID"
    assert [finding.level for finding in findings] == ["note"]
    assert "with 99 iterations" in findings[0].message
    assert "p95 needs 130, p99 needs 662" in findings[0].message


def test_a_demanded_percentile_asks_for_what_the_window_loses_too() -> None:
    """662 asked, 660 kept: the next run asks for 664. It is not noted a second time."""
    verdict, findings = judge(_with(percentiles=(99.0,), tenants=(A, replace(B, measured=662, kept=660))))
    assert verdict == "VALID"
    assert [(finding.level, finding.tenant) for finding in findings] == [("warning", "b")]
    assert "measure.iterations=664" in findings[0].remedy


def test_a_failed_tenant_is_the_reason_not_its_consequences() -> None:
    """No second finding that nothing overlapped."""
    failed = _with(window_share_pct=0.0, tenants=(A, TenantEvidence(id="b", failure="out of memory")))
    verdict, findings = judge(failed)
    assert verdict == "INVALID"
    assert [finding.code for finding in findings if finding.level == "invalid"] == ["tenant-failed"]


def test_the_gravest_comes_first() -> None:
    """Whatever the order in which rules look."""
    note, warning = Finding("note", "n", "n"), Finding("warning", "w", "w")
    verdict, findings = judge(_with(findings=(note, warning), throttle_bits=0x40 | 0x4))
    assert verdict == "INVALID"
    assert [finding.level for finding in findings] == ["invalid", "warning", "warning", "note"]


def test_a_change_of_the_baseline_that_noise_explains_is_a_note() -> None:
    """In either direction as a ratio: 30 % more and 23 % less are as far apart."""
    for pct in (29.0, -22.0):
        verdict, findings = judge(_tenant(baseline_drift_pct=pct, baseline_noise_pct=30.0))
        assert verdict == "VALID"
        assert [(f.level, f.code) for f in findings] == [("note", "baseline-noise")]

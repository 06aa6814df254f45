"""What the terminal shows of a record and of a sweep."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from rich.console import Console

from mtexp.metrics.verdict import Finding
from mtexp.spec import to_json
from mtexp.terminal import console
from mtexp.testing.records import example


def _record(**changes: Any) -> dict[str, Any]:
    record, _ = example(**changes)
    return to_json(record)


def test_a_run_is_a_row_a_tenant_a_line_of_metrics_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """Latencies, throughput, slowdown; STP, ANTT and fairness with intervals; the verdict with reasons and remedies."""
    metrics = {"stp": 1.2345, "stp_ci_low": 1.2, "stp_ci_high": 1.3, "antt": 1.75, "fairness": 0.5, "overlap_pct": 99.5}
    findings = (Finding("invalid", "foreign-process", "pid 7 is on the GPU", "Stop it."),)
    console.results(_record(verdict="INVALID", metrics=metrics, findings=findings))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "tenant"
    assert [line.split()[:2] for line in lines[1:3]] == [["t0", "bert_base"], ["t1", "gpt2"]]
    assert lines[3] == "STP 1.23 [1.20, 1.30]  ANTT 1.75  fairness 0.50  overlap 99.5 %"
    assert "within this run" in lines[4]
    assert lines[5:] == ["INVALID", "  invalid: pid 7 is on the GPU. Stop it."]


def test_what_was_not_measured_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    """No numbers are made up: missing metrics and percentiles with too few iterations are absent."""
    record = _record(models=("bert_base",))
    record["tenants"][0]["insufficient"] = ["latency_p99_ms"]
    record["tenants"][0]["metrics"].pop("slowdown")
    record["metrics"] = {}
    console.results(record)
    heading, row, verdict = capsys.readouterr().out.splitlines()[:3]
    assert row.split()[4] == "-"
    assert row.split()[-1] == "-"
    assert heading.split("  ")[-1] == "slowdown"
    assert verdict in ("VALID", "INVALID")


def test_how_launch_bound_a_tenant_is_stands_in_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    """A column where a tenant has the figure, a dash for the others; on a CPU nobody has it and there is no column."""
    record = _record()
    console.results(record)
    assert "launch-bound" not in capsys.readouterr().out
    record["tenants"][0]["metrics"]["launch_bound_pct"] = 62.51
    console.results(record)
    heading, first, second = capsys.readouterr().out.splitlines()[:3]
    assert heading.endswith("slowdown  launch-bound %")
    assert (first.split()[-1], second.split()[-1]) == ("62.5", "-")


def test_a_reason_names_its_tenant_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Every message names it; nothing is put before it."""
    findings = (Finding("warning", "drift", "the latency of t1 moved by +3.0 %", "Warm up longer.", tenant="t1"),)
    console.results(_record(findings=findings))
    assert capsys.readouterr().out.splitlines()[-1] == "  warning: the latency of t1 moved by +3.0 %. Warm up longer."


def test_a_failed_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """The failure is printed in place of a verdict, and the failed tenant's row says so."""
    record = _record(status="FAILED", failure="tenant t0 failed in build: out of memory")
    record["tenants"][0]["status"] = "FAILED"
    console.results(record)
    out = capsys.readouterr().out
    assert "FAILED: tenant t0 failed in build: out of memory" in out
    assert out.splitlines()[1].endswith("FAILED")


def test_a_failure_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed run's other findings follow from the failure; warnings, such as a foreign process, stay."""
    findings = (
        Finding("invalid", "tenant-failed", "tenant t0 failed: out of memory", "See its log.", tenant="t0"),
        Finding("invalid", "no-window", "there is no time in which every tenant measured", "Ask for more."),
        Finding("warning", "foreign-process", "pid 7 is on the GPU", "Stop it."),
    )
    console.results(_record(status="FAILED", failure="tenant t0 failed in build: out of memory", findings=findings))
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("FAILED: tenant t0 failed in build: out of memory") + 1 :] == [
        "  warning: pid 7 is on the GPU. Stop it."
    ]


def test_48_tenants_with_one_remark_each_do_not_fill_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """The first three of a kind are printed in full, the rest are counted."""
    drift = tuple(Finding("warning", "drift", f"t{i} moved", "Warm up.", tenant=f"t{i}") for i in range(48))
    console.results(_record(findings=(*drift, Finding("note", "insufficient", "p99 needs 662", "Set more."))))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("  warning", "  note"))]
    assert lines[2] == "  warning: t2 moved. Warm up."
    assert lines[3:] == [
        "  warning: 45 more tenants like these (drift); the record has them all.",
        "  note: p99 needs 662. Set more.",
    ]


def test_a_row_of_the_summary_names_what_was_swept() -> None:
    """Mix, precision, sharing, tenants, the three metrics, and the verdict or what became of the run."""
    record = _record(metrics={"stp": 2.0, "antt": 10.0, "fairness": float("nan")}, verdict="VALID")
    row = console.sweep_row(record)
    columns = ["mix", "precision", "mps_settings", "tenants", "repetition", "STP", "ANTT", "fairness", "verdict"]
    assert list(row) == columns
    assert row == {**row, "mix": "mixed", "precision": "fp16", "tenants": "2", "STP": "2.00", "ANTT": "10.0"}
    assert (row["fairness"], row["verdict"]) == ("-", "VALID")
    record["spec"]["sharing"]["mode"] = "streams"
    assert console.sweep_row({**record, "status": "SKIPPED"}) == {
        **row,
        "mps_settings": "streams",
        "verdict": "SKIPPED",
    }


def test_repetitions_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """A column that says which it was, where a sweep has several."""
    record = _record()
    rows = [console.sweep_row(record)]
    record["spec"]["repetition"] = 1
    rows.append(console.sweep_row(record))
    console.summary(rows[:1])
    assert "repetition" not in capsys.readouterr().out
    console.summary(rows)
    heading, *lines = capsys.readouterr().out.splitlines()
    start = heading.index("repetition")
    assert [line[start : start + len("repetition")].strip() for line in lines] == ["0", "1"]


def test_plain_tables_are_aligned() -> None:
    """Names to the left, numbers to the right, no trailing space."""
    rows = [{"mix": "pair", "STP": "1.5", "verdict": "VALID"}, {"mix": "bert_base*16", "STP": "10.25", "verdict": "-"}]
    assert console.plain_table(rows).splitlines() == [
        "mix             STP  verdict",
        "pair            1.5  VALID",
        "bert_base*16  10.25  -",
    ]


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe gets lines only."""
    with console.sweep_bar(10):
        console.advance()
        console.phase("measuring")
    assert capsys.readouterr().out == "  measuring\n"


def test_a_terminal_gets_a_bar_and_drawn_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long sweep shows how far it is; tables are drawn; the bar is gone afterwards."""
    screen = io.StringIO()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal = Console(file=screen, force_terminal=True, width=120, highlight=False)
    monkeypatch.setattr(console, "_console", lambda: terminal)
    with console.sweep_bar(3):
        console.advance()
        console.results(_record())
    console.summary([console.sweep_row(_record(verdict="VALID"))])
    console.summary([])
    text = screen.getvalue()
    assert "1/3" in text
    assert "bert_base" in text
    assert "─" in text
    with console.sweep_bar(2):
        console.advance()

"""What the terminal shows of a record and of a sweep."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from mtexp.metrics.crossover import Block
from mtexp.metrics.verdict import Finding
from mtexp.spec import to_json
from mtexp.terminal import console
from mtexp.terminal.live import LiveLine
from mtexp.testing.records import example
from mtexp.tracking.content import description


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
    assert lines[3].startswith("STP 1.23 [1.20, 1.30] of 2 (1 = in turns, 2 = undisturbed)")
    assert [part.split()[:2] for part in lines[4].split("  ")] == [
        ["ANTT", "1.75"],
        ["fairness", "0.50"],
        ["overlap", "99.5"],
    ]
    assert "within this run" in lines[5]
    assert lines[6:] == ["INVALID", "  invalid foreign-process: pid 7 is on the GPU", "    Stop it."]


def test_what_was_not_measured_is_a_dash_or_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    """A percentile with too few iterations is a dash; a column without any value is left out."""
    record = _record()
    record["tenants"][0]["insufficient"] = ["latency_p99_ms"]
    for tenant in record["tenants"]:
        tenant["metrics"].pop("slowdown")
    record["metrics"] = {}
    console.results(record)
    heading, first, second, verdict = capsys.readouterr().out.splitlines()[:4]
    assert "slowdown" not in heading
    where = heading.index("p99 ms")
    assert first[where : where + 6].strip() == "-"
    assert float(second[where : where + 6]) > 0
    assert verdict in ("VALID", "INVALID")


def test_latency_alone_stands_beside_the_latency_that_the_slowdown_is_of(capsys: pytest.CaptureFixture[str]) -> None:
    """Mean together, mean alone, slowdown: a reader can check one by the others."""
    record = _record()
    for tenant in record["tenants"]:
        tenant["metrics"] |= {"latency_mean_ms": 6.0, "alone_latency_mean_ms": 4.0, "slowdown": 1.5}
    console.results(record)
    heading, first = capsys.readouterr().out.splitlines()[:2]
    assert heading.split("  ")[0] == "tenant"
    columns = [text.strip() for text in heading.split("  ") if text.strip()]
    assert columns[2:5] == ["mean ms", "alone ms", "slowdown"]
    assert first.split()[2:5] == ["6.000", "4.000", "1.50"]


@pytest.mark.parametrize(("cores", "scope"), [((), "within this run"), ((2, 3), "over rounds on CPU cores drawn anew")])
def test_an_interval_says_what_it_covers(
    cores: tuple[int, ...], scope: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of a run in rounds whose tenants stayed where they were: fresh runs differ by more. As MLflow says it."""
    blocks = (Block(block=0, round=0, group=0, active=("t0", "t1"), start_ns=1, end_ns=2, cores=cores),)
    record, _ = example(metrics={"stp": 1.2, "stp_ci_low": 1.1, "stp_ci_high": 1.3}, blocks=blocks)
    console.results(to_json(record))
    assert scope in capsys.readouterr().out
    assert scope in description(record)


def test_latency_with_queueing_does_not_stand_beside_a_baseline_without(capsys: pytest.CaptureFixture[str]) -> None:
    """In open loop ``alone ms`` is the latency at the same arrivals, or nothing."""
    record = _record()
    for tenant, alone in zip(record["tenants"], ({}, {"alone_latency_mean_ms": 7.0}), strict=False):
        tenant["metrics"] |= {"latency_mean_ms": 9.0, "service_mean_ms": 5.0, **alone}
        tenant["baseline"] = {"latency_mean_ms": 4.0}
    console.results(record)
    heading, first, second = capsys.readouterr().out.splitlines()[:3]
    where = heading.index("alone ms")
    assert first[where : where + 8].strip() == "-"
    assert second[where : where + 8].strip() == "7.000"


def test_how_launch_bound_a_tenant_is_stands_in_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    """A column where a tenant has the figure, a dash for the others; on a CPU nobody has it and there is no column."""
    record = _record()
    console.results(record)
    assert "launch-bound" not in capsys.readouterr().out
    record["tenants"][0]["metrics"]["launch_bound_pct"] = 62.51
    console.results(record)
    heading, first, second = capsys.readouterr().out.splitlines()[:3]
    assert heading.endswith("  launch-bound %")
    assert (first.split()[-1], second.split()[-1]) == ("62.5", "-")


def test_a_reason_names_its_tenant_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Every message names it; nothing is put before it."""
    findings = (Finding("warning", "drift", "the latency of t1 moved by +3.0 %", "Warm up longer.", tenant="t1"),)
    console.results(_record(findings=findings))
    assert capsys.readouterr().out.splitlines()[-1] == "  warning drift: the latency of t1 moved by +3.0 %"
    console.results(_record(findings=findings), verbose=True)
    assert capsys.readouterr().out.splitlines()[-1] == "  warning: the latency of t1 moved by +3.0 %. Warm up longer."


def test_a_failed_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """The failure is printed in place of a verdict, and the failed tenant's row says so."""
    record = _record(status="FAILED", failure="tenant t0 failed in build: out of memory")
    record["tenants"][0]["status"] = "FAILED"
    console.results(record)
    out = capsys.readouterr().out
    assert "FAILED: tenant t0 failed in build: out of memory" in out
    assert "FAILED" in out.splitlines()[1].split()


def test_the_end_of_a_log_is_printed_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The failure and where its log is take a line; the traceback is in the log."""
    failure = "tenant t0 failed in build: KeyError: 'x' (exit code 1); log: /a/t0.log\n  | Traceback\n  | KeyError: 'x'"
    record = _record(status="FAILED", failure=failure)
    console.results(record)
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"FAILED: {failure.splitlines()[0]}"
    console.results(record, verbose=True)
    assert "  | Traceback" in capsys.readouterr().out


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
        "  warning foreign-process: pid 7 is on the GPU"
    ]


def test_48_tenants_with_one_remark_each_do_not_fill_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """The first three of a kind are printed in full, the rest are counted."""
    drift = tuple(Finding("warning", "drift", f"t{i} moved", "Warm up.", tenant=f"t{i}") for i in range(48))
    console.results(_record(findings=(*drift, Finding("note", "insufficient", "p99 needs 662", "Set more."))))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("  warning", "  note"))]
    assert lines[2] == "  warning drift: t2 moved"
    assert lines[3:] == [
        "  warning drift: 45 more like these; the record has them all",
        "  note insufficient: p99 needs 662",
    ]


def test_a_row_of_the_summary_names_what_was_swept() -> None:
    """Mix, precision, sharing, tenants, the three metrics, and the verdict or what became of the run."""
    record = _record(metrics={"stp": 2.0, "antt": 10.0, "fairness": float("nan")}, verdict="VALID")
    row = console.sweep_row(record)
    alone = ["p50 ms", "p90 ms", "p99 ms", "req/s"]
    columns = [
        "mix",
        "precision",
        "mps_settings",
        "tenants",
        "repetition",
        *alone,
        "STP",
        "ANTT",
        "fairness",
        "verdict",
    ]
    assert list(row) == columns
    assert {row[name] for name in alone} == {"-"}
    assert row == {**row, "mix": "mixed", "precision": "fp16", "tenants": "2", "STP": "2.00", "ANTT": "10.0"}
    assert (row["fairness"], row["verdict"]) == ("-", "VALID")
    record["spec"]["sharing"]["mode"] = "streams"
    assert console.sweep_row(record) == {**row, "mps_settings": "streams"}


def test_a_mix_of_one_tenant_is_summed_up_by_its_latency(capsys: pytest.CaptureFixture[str]) -> None:
    """Latency and requests/s, no column of STP without a value, no percentile from too few requests; also skipped."""
    record, _ = example(["bert_base"], mix="bert_base")
    (tenant,) = record.tenants
    metrics = {"latency_p50_ms": 4.27, "latency_p90_ms": 5.0, "latency_p99_ms": 9.0, "throughput_rps": 210.0}
    own = replace(tenant, metrics=metrics, insufficient=("latency_p99_ms",))
    data = to_json(replace(record, tenants=(own,), metrics={"throughput_rps": 210.0}))
    rows = [console.sweep_row(data), console.sweep_row({**data, "status": "SKIPPED"})]
    console.summary(rows)
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == [
        "mix",
        "precision",
        "mps_settings",
        "tenants",
        "p50",
        "ms",
        "p90",
        "ms",
        "req/s",
        "verdict",
    ]
    assert [line.split()[4:7] for line in lines] == [["4.270", "5.000", "210.0"]] * 2


def test_a_service_slowdown_has_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    """In open loop there is no STP; what the neighbours cost is said with how sure it is."""
    record, _ = example(["bert_base"], mix="bert_base")
    metrics = {"service_slowdown": 0.89, "service_slowdown_ci_low": 0.8, "service_slowdown_ci_high": 0.98}
    console.results(to_json(replace(record, tenants=(replace(record.tenants[0], metrics=metrics),))))
    out = capsys.readouterr().out
    assert "service slowdown of t0 0.89 [0.80, 0.98], without the wait in its own queue\n" in out
    assert "[ ] hold 95 % within this run" in out


def test_a_point_that_was_measured_before_keeps_its_figures() -> None:
    """A resumed sweep shows them, and the verdict that they got; a point without a record has what became of it."""
    record = _record(metrics={"stp": 2.0}, verdict="INVALID")
    row = console.sweep_row({**record, "status": "SKIPPED"})
    assert (row["STP"], row["verdict"]) == ("2.00", "INVALID before")
    row = console.sweep_row({"spec": record["spec"], "status": "FAILED"})
    assert (row["STP"], row["verdict"]) == ("-", "FAILED")


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


def test_without_a_terminal_there_is_no_live_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe gets lines only: where the sweep is, and each phase."""
    with console.live_line(10):
        console.begin_point(3, 10, "batch_size=4")
        console.phase("measuring")
        console.status("measuring: 45 of 100 iterations")
        console.end_point()
    assert capsys.readouterr().out == "[3/10] batch_size=4\n  measuring\n"


def _terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 60 columns gets from here on."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(
        console, "_console", lambda: Console(file=stream, force_terminal=True, width=60, highlight=False)
    )
    return stream


def test_a_terminal_gets_a_line_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run of how many, what it does now, never wider than the terminal; passing phases are not lines of their own."""
    screen = _terminal(monkeypatch)
    with console.live_line(56):
        console.begin_point(1, 56, "batch_size=4")
        console.phase("measuring")
        console.status("measuring: 45 of 100 iterations, about 12 s left, and more text than a line of sixty holds")
        console.say("printed above it")
        console.end_point()
        console.say("another")
    drawn = [part.split("\x1b[K")[-1] for part in screen.getvalue().split("\r")]
    assert any(line.startswith("[1/56]  measuring: 45 of 100 iterations") for line in drawn)
    assert any(line.startswith("[2/56]") for line in drawn)
    assert all(len(line) < 60 for line in drawn if line.startswith("["))
    assert drawn[-1] == ""
    assert "\n  measuring" not in screen.getvalue()


def test_a_narrow_terminal_loses_columns_and_no_word_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 60 columns a row is one line; tenant and slowdown stay."""
    screen = _terminal(monkeypatch)
    record = _record()
    record["tenants"][0]["id"] = "deberta_v3_base_0"
    console.results(record)
    table = [line for line in screen.getvalue().splitlines() if "deberta" in line or "slowdown" in line]
    assert "slowdown" in table[0]
    assert "deberta_v3_base_0" in table[1]
    assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 60 for line in screen.getvalue().splitlines()[:6])


def test_time_left_in_the_sweep_comes_from_the_runs_that_ended() -> None:
    """Two runs took 10 s each; 3 s into the third of five, 27 s are left."""
    line = LiveLine(5)
    line.done, line.begun_s, line.run_s = 2, 100.0, 120.0
    assert line.text(123.0, 80) == "[3/5]  starting  0:03  sweep 0:23, 0:27 left"
    assert line.text(123.0, 40) == "[3/5]  star  0:03  sweep 0:23, 0:27 left"
    assert LiveLine(1).text(line.begun_s, 80).startswith("starting")

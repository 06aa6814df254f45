"""Tables for other programs: what is printed can be read back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from analysis import tables_command
from analysis.formats import formatted, shown


def test_csv_and_json_can_be_read_back_and_latex_compiles_in_form() -> None:
    """Full precision; LaTeX's own characters are escaped, numbers have no power of ten there, times no microseconds."""
    frame = pd.DataFrame({"mix_name": ["a_b & 50 %", "c"], "stp": [1 / 3, float("nan")]})
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(formatted(frame, "csv"))), frame)
    assert json.loads(formatted(frame, "json"))[1] == {"mix_name": "c", "stp": None}
    latex = formatted(frame, "latex")
    assert r"mix\_name & stp" in latex
    assert r"a\_b \& 50 \% & 0.333 \\" in latex
    began = pd.Timestamp("2026-11-29T13:19:13.123456Z")
    latex = formatted(pd.DataFrame({"start_time": [began], "throughput_rps": [12345.6]}), "latex")
    assert r"2026-11-29 13:19:13 & 12346 \\" in latex


def test_a_table_of_a_study_is_printed(study_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row a point, with STP and its interval."""
    assert tables_command.main(["overview", "--records", str(study_folder), "--csv"]) == 0
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert {"mix", "sharing", "stp", "stp_ci_low"} <= set(frame)


def test_a_terminal_gets_the_columns_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first columns without bounds of intervals, the widest text cut; a pipe gets everything as CSV."""
    row = {"mix": "bert_base+mistral_7b", "stp": 1.23456, "stp_ci_low": 1.2} | {f"n{i}": i for i in range(8)}
    frame = pd.DataFrame([row])
    assert shown(frame, None) == formatted(frame, "csv")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    heading, first = shown(frame, None).splitlines()
    assert heading.split() == ["mix", "stp", "n0", "n1", "n2", "n3", "n4"]
    assert first.split()[:2] == ["bert_base+mistral_7b", "1.235"]
    monkeypatch.setenv("COLUMNS", "36")
    assert shown(frame, None).splitlines()[1].startswith("bert_ba")
    assert len(shown(frame, None).splitlines()[1]) <= 36


def test_a_refusal_breaks_between_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal; what is longer than its width is not cut in the middle of a word."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert tables_command.main(["overview", "--records", "there is no folder of this name anywhere on this host"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 40


def test_a_table_without_rows_is_said(study_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No run of the study has an SM curve: one sentence, whatever the format, and nothing to parse."""
    for form in ([], ["--json"]):
        assert tables_command.main(["sm-curve", "--records", str(study_folder), *form]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "sm-curve: no run in " in err


def test_a_narrow_terminal_shows_of_how_many_tenants_scaling_is(
    study_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In other tables the mix says it; here two figures would not be told apart."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert tables_command.main(["scaling", "--records", str(study_folder)]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert {"model", "sharing", "num_tenants", "stp"} <= set(heading.split())
    assert all(len(row) <= 60 for row in rows)


def test_a_narrow_terminal_shows_what_a_table_is_for(
    study_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who slows whom by how much at 80 columns; roles and names that stand elsewhere go first."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    whole = []
    for width in (80, 100, 130):
        monkeypatch.setenv("COLUMNS", str(width))
        assert tables_command.main(["pairs", "--records", str(study_folder)]) == 0
        heading = capsys.readouterr().out.split("\n")[0].split()
        assert {"sharing", "victim", "neighbour", "slowdown"} <= set(heading)
        assert ("slowdown_ci_low" in heading) == ("slowdown_ci_high" in heading)  # never half an interval
        whole.append("slowdown_ci_low" in heading)
    assert set(whole) == {True, False}

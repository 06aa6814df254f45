"""SM curves and their knees, the best split of a mix, and the same mixes under every sharing mode."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from analysis_study import ALONE_MS, Study, figure_of

from analysis import sms, split, tables, tables_command
from analysis.data import load
from analysis.dataset import DataError
from analysis.pooling import pool
from analysis.sm_curve import GREEN, CurvePoint, SmCurve, knee, sm_curves

TIMES = {8: 16.0, 32: 4.0, 64: 2.04, 96: 2.0, 128: 2.0}
"""Work that 64 SMs do almost as fast as 128."""


def _points(times: dict[int, float], width: float = 0.005, tail: float = math.nan) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(sms, ms, ms * (1 - width), ms * (1 + width), 1e3 / ms, 1, tail) for sms, ms in times.items()
    )


def _curve(model: str, times: dict[int, float], tail: float = math.nan) -> SmCurve:
    return SmCurve(model, GREEN, {"execution": "cuda_graph"}, _points(times, tail=tail), 0, 0, 0)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies alone that a test may change."""
    for name, ms in ALONE_MS.items():
        monkeypatch.setitem(ALONE_MS, name, ms)


def _green(folder: Path, record: str, sizes: list[int], execution: str = "cuda_graph") -> None:
    """Make the run of a record one in green contexts."""
    path = _executed(folder, record, execution)
    data = json.loads(path.read_text())
    data["spec"]["sharing"] |= {"mode": "green_contexts", "mps": "disabled", "mps_mode": "disabled"}
    for tenant, size in zip(data["spec"]["tenants"], sizes, strict=True):
        tenant["sm_count"] = size
    path.write_text(json.dumps(data))


def _executed(folder: Path, record: str, execution: str) -> Path:
    """Make the tenants of a record execute so."""
    (path,) = [path for path in folder.rglob("record.json") if json.loads(path.read_text())["record_id"] == record]
    data = json.loads(path.read_text())
    for tenant in data["spec"]["tenants"]:
        tenant["execution"] = execution
    path.write_text(json.dumps(data))
    return path


def _measured_curve(folder: Path, model: str, times: dict[int, float], execution: str = "cuda_graph") -> None:
    study = Study(folder / model, iterations=150, spread=0.0, seed=len(model))
    for size, ms in times.items():
        ALONE_MS[model] = ms
        (record,) = study.run([model], baseline=False)
        _green(folder / model, record.record_id, [size], execution)


def test_the_knee_is_the_fewest_sms_within_five_percent() -> None:
    """64 SMs are 2 % slower than 128: the knee, and surely so; with wide intervals it may also be 96."""
    assert knee(_points(TIMES)) == (64, 64, 64)
    value, low, high = knee(_points(TIMES, width=0.03))
    assert (value, low) == (64, 64)
    assert high > 64
    assert knee(_points({8: 2.0, 16: 2.0, 32: 2.0}))[0] == 8
    assert knee(_points({8: 2.0, 16: 3.0, 32: 2.0}))[0] == 32  # from which on all are


def test_a_curve_is_read_from_runs_and_shown(tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of one model alone in partitions of five sizes: a figure with its knee, and a table for other programs."""
    _measured_curve(tmp_path, "bert_base", TIMES)
    data = load(records=tmp_path)
    (curve,) = sm_curves(data)
    assert [point.sms for point in curve.points] == list(TIMES)
    assert [point.latency_ms for point in curve.points] == pytest.approx(list(TIMES.values()), rel=0.02)
    assert (curve.model, curve.sharing, curve.knee_sms) == ("bert_base", GREEN, 64)
    assert curve.latency_ms(32) == pytest.approx(curve.points[1].latency_ms)
    assert 2.0 < curve.latency_ms(48) < 4.0
    with pytest.raises(ValueError, match="measured from 8 to 128"):
        curve.latency_ms(4)
    assert figure_of(pool(data, draws=100), "sm-curve") is not None
    assert tables_command.main(["sm-curve", "--records", str(tmp_path), "--json"]) == 0
    assert [row["sms"] for row in json.loads(capsys.readouterr().out)] == list(TIMES)


def test_the_best_split_has_the_highest_stp_that_keeps_every_level() -> None:
    """b gains nothing beyond 32 SMs and a always gains: a gets all but 32; a level of b asks for more."""
    curves = {
        "a": _curve("a", {16: 8.0, 32: 4.0, 64: 2.0, 128: 1.0}),
        "b": _curve("b", {16: 2.0, 32: 1.0, 64: 1.0, 128: 1.0}),
    }
    counts = {"a": 1, "b": 1}
    best, *_ = split.best_splits(curves, counts, {}, 132)
    assert best.sms == {"a": 96, "b": 32}
    assert best.stp == pytest.approx(96 / 128 + 1.0)
    asked, *_ = split.best_splits(curves, counts, {"a": 1.2}, 132)  # 107 SMs or more: 112 and 16
    assert (asked.sms, asked.kept) == ({"a": 112, "b": 16}, True)
    none, *_ = split.best_splits(curves, counts, {"a": 1.05, "b": 1.0}, 132)
    assert not none.kept
    slowed, *_ = split.best_splits(curves, counts, {"a": 1.2}, 132, beside={"a": 1.1})
    assert not slowed.kept


def test_a_level_may_be_of_the_p99() -> None:
    """The tail alone carries over: 1.5 times the mean."""
    curves = {m: _curve(m, {16: 8.0, 64: 2.0, 128: 1.0}, tail=1.5) for m in "ab"}
    even = {"a": 64, "b": 64}
    found = {tuple(s.sms.items()): s for s in split.best_splits(curves, {"a": 1, "b": 1}, {"a": 2.9}, 132, p99=True)}
    assert found[tuple(even.items())].latency_ms["a"] == pytest.approx(3.0)
    assert not found[tuple(even.items())].kept


def test_partitions_are_what_a_driver_can_divide() -> None:
    """Steps of 16 reach 128 of 132 SMs, steps of 8 only 120; nobody could have more."""
    found = list(split.partitions([1, 1], 132))
    assert (64, 64) in found
    assert (56, 64) not in found  # (64, 64) gives more
    assert (64, 72) not in found
    assert (48, 64) not in found
    assert all(sum(sizes) <= (128 if all(s % 16 == 0 for s in sizes) else 120) for sizes in found)
    assert (32, 32) in list(split.partitions([2, 2], 132))
    assert (40, 40) in list(split.partitions([1, 2], 132))  # 120 in all; (48, 40) would be 128


def test_the_command_says_what_was_measured_and_what_to_measure(
    tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Curves of two models and one split of them: predictions carry what neighbours cost in it."""
    for model in ("bert_base", "distilgpt2"):
        _measured_curve(tmp_path, model, TIMES)
    ALONE_MS["bert_base"] = ALONE_MS["distilgpt2"] = 2.04
    study = Study(tmp_path / "mix", iterations=150, spread=0.0)
    (record,) = study.run(["bert_base", "distilgpt2"], "default")  # 30 % for the neighbour
    _green(tmp_path / "mix", record.record_id, [64, 64])
    (sliced,) = study.run(["bert_base", "distilgpt2"])
    _executed(tmp_path / "mix", sliced.record_id, "cuda_graph")
    of_132 = ["--sms", "132", "--records", str(tmp_path)]
    code = split.main(["bert_base+distilgpt2", "--level", "bert_base=3", *of_132])
    out = capsys.readouterr().out
    assert code == 0
    assert "bert_base 1.30, distilgpt2 1.30" in out
    assert "alone on the whole device" in out
    assert "time slicing" in out
    assert "mix.tenants.bert_base.sm_count=64" in out
    assert split.main(["bert_base+distilgpt2", "--level", "bert_base=0.1", *of_132]) == 1
    capsys.readouterr()
    split.main(["bert_base+distilgpt2", *of_132, "--json"])
    even = [row for row in json.loads(capsys.readouterr().out) if row["bert_base SMs"] == row["distilgpt2 SMs"] == 64]
    # predicted as measured: against the baselines of 2.04 ms, not against the 2.0 ms on 128 SMs
    assert [row["stp"] for row in even] == pytest.approx([2 / 1.3] * len(even), rel=0.005)
    assert {row["how"] for row in even} == {"measured", "predicted"}
    assert split.main(["bert_base+mistral_7b", "--records", str(tmp_path)]) == 2
    refused, command = capsys.readouterr().err.splitlines()  # the command is a line of its own, to copy
    assert "no SM curve (cuda_graph) of mistral_7b" in refused
    assert command.endswith("execution=cuda_graph mix=mistral_7b")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    split.main(["bert_base+distilgpt2", "--level", "bert_base=3", *of_132])
    table = capsys.readouterr().out.partition("Latency beside")[0]
    assert max(map(len, table.splitlines())) <= 60
    assert {"SMs", "stp"} <= {*table.splitlines()[0].split()}


def test_a_split_that_was_measured_without_baselines(
    tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """``baseline=skip``: no run has a slowdown; progress is then against the most SMs of the curves, 2.0 ms."""
    for model in ("bert_base", "distilgpt2"):
        _measured_curve(tmp_path, model, TIMES)
    ALONE_MS["bert_base"] = ALONE_MS["distilgpt2"] = 2.04
    study = Study(tmp_path / "mix", iterations=150, spread=0.0)
    (record,) = study.run(["bert_base", "distilgpt2"], "default", baseline=False)
    _green(tmp_path / "mix", record.record_id, [64, 64])
    assert split.main(["bert_base+distilgpt2", "--sms", "132", "--records", str(tmp_path), "--json"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out) if row["how"] == "predicted"]
    (even,) = [row for row in rows if row["bert_base SMs"] == row["distilgpt2 SMs"] == 64]
    assert even["stp"] == pytest.approx(2 * 2.0 / (2.04 * 1.3), rel=0.005)


@pytest.mark.parametrize(
    ("run", "stp"),
    [
        ({"design": "sustained", "sharing": "green_contexts", "stp": 1.1}, 1.1),
        ({"design": "crossover", "sharing": "green_contexts", "stp": 1.8}, math.nan),
        ({"design": "crossover", "sharing": "green_contexts", "stp": 1.8, "stp_whole": 1.05}, 1.05),
        ({"design": "crossover", "sharing": "streams", "stp": 1.07, "stp_whole": math.nan}, 1.07),
        ({"design": "crossover", "sharing": "processes", "mps_settings": "disabled", "stp": 0.92}, 0.92),
        ({"design": "crossover", "sharing": "processes", "mps_settings": "49pct", "stp": 1.8}, math.nan),
        ({"design": "crossover", "sharing": "mig", "stp": 1.9}, math.nan),
    ],
)
def test_stp_of_every_row_is_against_the_whole_device(tmp_path: Path, run: dict[str, object], stp: float) -> None:
    """In a run in rounds a tenant has its partition in its blocks alone too: 1.8 would stand above splits of 1.1."""
    study = Study(tmp_path / "mix", iterations=150, spread=0.0)
    study.run(["bert_base", "distilgpt2"])
    data = load(records=tmp_path)
    runs = data.runs.drop(columns=["stp", "stp_whole", *run], errors="ignore").assign(**run)
    (found,) = split.measured(replace(data, runs=runs), {"bert_base": 1, "distilgpt2": 1}, "eager")["stp"]
    assert found == pytest.approx(stp, nan_ok=True)


def test_splits_are_executed_as_their_curves(
    tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With eager curves, splits are measured and shown in eager mode; a split of CUDA graphs leaves those runs out."""
    for model in ("bert_base", "distilgpt2"):
        _measured_curve(tmp_path, model, TIMES, "eager")
    ALONE_MS["bert_base"] = ALONE_MS["distilgpt2"] = 2.04
    study = Study(tmp_path / "mix", iterations=150, spread=0.0)
    for execution, mps in (("cuda_graph", "default"), ("eager", "disabled")):  # 1.3 and 2 times the latency
        (record,) = study.run(["bert_base", "distilgpt2"], mps)
        _green(tmp_path / "mix", record.record_id, [64, 64], execution)
    mixed = split.measured(load(records=tmp_path), {"bert_base": 1, "distilgpt2": 1}, "eager")
    assert mixed["bert_base ms"].tolist() == pytest.approx([4.08], rel=0.05)
    arguments = ["bert_base+distilgpt2", "--execution", "eager", "--sms", "132", "--records", str(tmp_path)]
    assert split.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("execution=eager") == 3 + 3
    assert "cuda_graph" not in out
    ran: list[list[str]] = []

    def run(argv: list[str]) -> int:
        ran.append(argv)
        return 0

    monkeypatch.setattr("mtexp.terminal.early.main", run)
    assert split.main([*arguments, "--measure", "1", "--repetitions", "1"]) == 0
    assert ran
    assert all("execution=eager" in argv for argv in ran)


@pytest.mark.parametrize(("execution", "warned"), [("eager", True), ("cuda_graph", False)])
def test_eager_curves_are_warned_about(
    tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str], execution: str, warned: bool
) -> None:
    """Tenants of one process wait for one interpreter, which runs alone do not show."""
    for model in ("bert_base", "distilgpt2"):
        _measured_curve(tmp_path, model, TIMES, execution)
    source = ["--execution", execution, "--sms", "132", "--records", str(tmp_path)]
    assert split.main(["bert_base+distilgpt2", *source]) == 0
    assert ("sharing=processes" in capsys.readouterr().err) == warned


@pytest.fixture
def two_curves(tmp_path: Path, alone: None) -> list[str]:
    """Arguments of a split of two models whose curves are known."""
    for model in ("bert_base", "distilgpt2"):
        _measured_curve(tmp_path, model, TIMES)
    return ["bert_base+distilgpt2", "--sms", "132", "--records", str(tmp_path)]


def _measuring(monkeypatch: pytest.MonkeyPatch, folder: Path, last: Callable[[], int]) -> list[list[str]]:
    """Let ``run`` leave a record and end well, the third time as ``last`` does; returns its command lines."""
    ran: list[list[str]] = []

    def run(argv: list[str]) -> int:
        ran.append(argv)
        if len(ran) >= 3:
            return last()
        (record,) = Study(folder / str(len(ran)), iterations=150).run(["bert_base", "distilgpt2"])
        _executed(folder / str(len(ran)), record.record_id, "cuda_graph")
        sys.stdout.write("said by a run\n")
        return 0

    monkeypatch.setattr("mtexp.terminal.early.main", run)
    return ran


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("between", [False, True])
def test_after_a_signal_no_further_split_is_measured(
    two_curves: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    between: bool,
) -> None:
    """It ends a run, which then has an exit code, or comes when none runs. What was measured is shown, and how much."""

    def last() -> int:
        if between:
            os.kill(os.getpid(), number)
        return 128 + number

    ran = _measuring(monkeypatch, tmp_path, last)
    before = signal.getsignal(number)
    assert split.main([*two_curves, "--measure", "1", "--repetitions", "2"]) == 128 + number
    assert len(ran) == 3
    assert signal.getsignal(number) is before
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert {"SIGTERM", "Ctrl-C"} & {*line.replace(":", "").split()} == {"SIGTERM" if number == 15 else "Ctrl-C"}
    assert "2 of 8 runs" in line
    _, table = said.out.split("said by a run\n", 2)[1:]
    assert [row.split(",")[:2] for row in table.splitlines()[1:]] == [["measured", "time slicing"]]


def test_a_signal_in_the_first_run_leaves_no_table(
    two_curves: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtexp.terminal.early.main", lambda argv: 143)
    assert split.main([*two_curves, "--measure", "1", "--json"]) == 143
    said = capsys.readouterr()
    assert "0 of 12 runs" in said.err
    assert not said.out


def test_measuring_says_how_long_and_leaves_the_table_to_other_programs(
    two_curves: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``--json`` standard output is the table alone. Fewer iterations take less time, within what a p99 needs."""
    ran = _measuring(monkeypatch, tmp_path, lambda: 0)
    assert split.main([*two_curves, "--measure", "1", "--repetitions", "1", "--iterations", "30000", "--json"]) == 0
    said = capsys.readouterr()
    assert [row["how"] for row in json.loads(said.out)] == ["measured"]
    # 64 SMs each: 2.04 ms, the others in turns: 4 ms; 10 s each besides
    assert "4 runs, about 8 min" in said.err
    assert said.err.count("said by a run") == 2
    assert all("measure.iterations=30000" in argv for argv in ran)
    assert split.main([*two_curves, "--p99", "--iterations", "100"]) == 2
    assert "--iterations 100: allowed: 662" in capsys.readouterr().err


def test_what_cannot_be_run_is_refused_before_runs_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (("--repetitions", "0"), ("--measure", "-1")):
        assert split.main(["bert_base+distilgpt2", option, value, "--records", "nowhere"]) == 2
        assert f"{option} {value}: allowed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        split.main(["bert_base+distilgpt2", "--execution", "graphs", "--records", "nowhere"])
    assert "cuda_graph" in capsys.readouterr().err


def test_sms_are_whole_numbers_beside_runs_without_a_partition() -> None:
    """A mode that does not part the SMs has none; the others still have 64, not 64.0."""
    runs = [{"sharing": sharing, "a SMs": sms, "a ms": 2.0, "stp": 1.0} for sharing, sms in (("GC", 64), ("TS", None))]
    frame = split.table([], split.repeated(pd.DataFrame(runs)), {})
    assert frame[["sharing", "a SMs", "runs"]].to_csv(index=False).splitlines()[1:] == ["GC,64,1", "TS,,1"]


def test_splits_are_measured_in_turns() -> None:
    """Every run once a repetition, in several orders; runs of the same are one row with the interval of their STP."""
    runs = [["a"], ["b"], ["c"], ["d"]]
    order = split.in_turns(runs, 3)
    assert sorted(order) == sorted([name, f"repetition={number}"] for (name,) in runs for number in range(3))
    assert len({tuple(name for name, _ in order[first : first + 4]) for first in (0, 4, 8)}) > 1
    rows = [{"sharing": GREEN, "a SMs": 64, "a ms": 2.0, "stp": stp} for stp in (1.0, 1.1, 1.2)]
    rows.append({"sharing": "streams", "a SMs": pd.NA, "a ms": 3.0, "stp": 1.0})
    green, streams = split.repeated(pd.DataFrame(rows)).to_dict("records")
    assert (green["runs"], green["stp"]) == (3, pytest.approx(1.1))
    assert green["stp_ci_low"] < 1.0 < 1.2 < green["stp_ci_high"]  # Student's t of two degrees
    assert streams["runs"] == 1
    assert math.isnan(streams["stp_ci_low"])


def test_the_number_of_sms_is_that_of_the_runs(tmp_path: Path) -> None:
    """What their records say; where none does it has to be named."""
    study = Study(tmp_path, iterations=40)
    study.run(["bert_base", "distilgpt2"])
    with pytest.raises(DataError, match="--sms"):
        split.sms_of(load(records=tmp_path))
    for path in tmp_path.rglob("record.json"):
        data = json.loads(path.read_text())
        data["environment"]["gpu_sm_count"] = 114
        path.write_text(json.dumps(data))
    assert split.sms_of(load(records=tmp_path)) == 114


def test_one_axis_has_the_modes_that_share_equally(tmp_path: Path) -> None:
    """Time slicing, MPS, equal green contexts and unequal ones: the last is no part of it."""
    study = Study(tmp_path, iterations=700)
    models = ["bert_base", "distilgpt2"]
    for mps in ("disabled", "default"):
        study.run(models, mps)
    for sizes in ([64, 64], [96, 32]):
        (record,) = study.run(models, "default")
        _green(tmp_path, record.record_id, sizes)
    results = pool(load(records=tmp_path), draws=200)
    frame = tables.one_axis(results)
    assert frame.groupby("model")["sharing"].apply(list).to_dict() == {
        model: ["time slicing", "MPS", "green contexts"] for model in models
    }
    assert frame["slowdown_p99"].notna().all()
    assert figure_of(results, "one-axis") is not None


def test_tenants_of_one_model_are_one_row_whose_interval_holds_its_figure(tmp_path: Path) -> None:
    """One axis: the mean of both, and an interval about that mean, not about the first."""
    study = Study(tmp_path, iterations=60)
    for mps in ("disabled", "default"):
        study.run(["bert_base", "bert_base"], mps)
    (record,) = study.run(["bert_base", "bert_base"], "default")
    _green(tmp_path, record.record_id, [64, 64])
    results = pool(load(records=tmp_path), draws=100)
    names, second = ["slowdown", "slowdown_ci_low", "slowdown_ci_high"], results.tenants["position"] == 1
    results.tenants.loc[~second, names] = 2.0, 1.9, 2.1
    results.tenants.loc[second, names] = 3.0, 2.8, 3.3
    row = tables.one_axis(results).iloc[0]
    assert row[names].tolist() == pytest.approx([2.5, 2.35, 2.7])


def test_runs_under_other_time_slices_are_apart(tmp_path: Path) -> None:
    """A short slice and the default one are two modes; where all have one there is one name."""
    study = Study(tmp_path, iterations=60)
    models = ["bert_base", "distilgpt2"]
    study.run(models, sharing={"observed_before": {"time_slice": "default"}})
    assert set(pool(load(records=tmp_path), draws=100).points["sharing"]) == {"time slicing"}
    study.run(models, sharing={"observed_before": {"time_slice": "short"}})
    names = set(pool(load(records=tmp_path), draws=100).points["sharing"])
    assert names == {"time slicing, default slice", "time slicing, short slice"}


def test_the_sms_of_each_tenant_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run that probed: a line a tenant and a figure; without a probe, one message."""
    study = Study(tmp_path, iterations=40)
    study.run(["bert_base", "distilgpt2"])
    assert sms.main([str(tmp_path)]) == 2
    assert "measure.probe_sms=true" in capsys.readouterr().err
    (path,) = [p for p in tmp_path.rglob("record.json") if len(json.loads(p.read_text())["tenants"]) == 2]
    data = json.loads(path.read_text())
    for tenant, ids in zip(data["tenants"], ([*range(64)], [*range(64, 127), 130]), strict=True):
        tenant["facts_before"]["sm_ids"] = ids
    path.write_text(json.dumps(data))
    assert sms.main([str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    assert "64 SMs: 64-126, 130" in capsys.readouterr().out
    assert (tmp_path / "page" / "sms.html").is_file()

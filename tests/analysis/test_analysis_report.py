"""Figures, report and advice: what a user opens, and what a user is told."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
from analysis_study import Study
from mlflow import MlflowClient

from analysis import advise, export, plots, report
from analysis.data import Dataset, load
from analysis.pooling import Results, pool
from mtexp.colours import model_colour
from mtexp.spec import TrackingSpec
from mtexp.tracking.mlflow_writer import log_record
from mtexp.tracking.record import find_records


@pytest.fixture(scope="module")
def drawn(results: Results) -> dict[str, go.Figure]:
    return plots.draw(results)


def test_a_whole_study_has_every_figure(drawn: dict[str, go.Figure]) -> None:
    """Nothing that the data support is missing; capacity and neighbours in open loop are studies of their own."""
    assert set(drawn) == {figure.name for figure in plots.FIGURES} - {"capacity", "latency-by-neighbours"}


def test_a_lone_run_has_few_figures(tmp_path: Path) -> None:
    """A figure without data is absent, not empty."""
    Study(tmp_path, iterations=20).run(["bert_base"])
    assert plots.draw(pool(load(records=tmp_path), draws=50)) == {}


def test_axes_are_labelled(drawn: dict[str, go.Figure]) -> None:
    """Every figure says on some axis what it shows, in words, with the unit where it is a time or a rate."""
    for name, figure in drawn.items():
        titles = [axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes())]
        assert any(titles), name
        bare = [t for t in titles if t and re.search(r"\b(latency|time|power|energy|clock)\b", t) and "(" not in t]
        assert not bare, (name, bare)
        assert not [title for title in titles if title and re.search(r"_(ms|rps|pct)\b", title)], name


def test_a_model_has_one_colour_everywhere(drawn: dict[str, go.Figure]) -> None:
    """The line of a model in one figure has the colour of its bars in another."""
    colour = model_colour("llama_3_2_1b")
    for name in ("slowdown-by-tenant", "event-timer", "latency-over-time", "latency-ecdf", "workloads"):
        assert colour in drawn[name].to_json(), name


def test_models_mtexp_ships_have_different_colours() -> None:
    """No two of them look alike."""
    shipped = [path.stem for path in Path("conf/models").glob("*.yaml") if not path.stem.startswith("stress_")]
    assert len({model_colour(name) for name in shipped}) == len(shipped)


def test_thinning_keeps_peaks(drawn: dict[str, go.Figure], results: Results) -> None:
    """The highest latency of a tenant is drawn."""
    traces = [t for t in drawn["latency-over-time"].data if t.name and t.name.startswith("bert_base")]
    mixed = results.points[results.points["mix"] == "mixed"].iloc[0]
    samples = results.data.samples(mixed["records"][0], "a", window=False)
    assert max(traces[0].y) == pytest.approx(samples["latency_ms"].max())


def test_neighbours_are_drawn_where_they_come_and_go(tmp_path: Path) -> None:
    """A box a tenant and number of neighbours in open loop; neighbours that are always there are no figure."""
    study = Study(tmp_path)
    study.run(["bert_base", "llama_3_2_1b"])
    assert "latency-by-neighbours" not in plots.draw(pool(load(records=tmp_path), draws=50))
    study.run(["bert_base", "llama_3_2_1b"], load=0.3)
    figure = plots.draw(pool(load(records=tmp_path), draws=50))["latency-by-neighbours"]
    assert {tuple(trace.x) for trace in figure.data} == {(0, 1)}
    assert {trace.name.split()[0] for trace in figure.data} == {"bert_base", "llama_3_2_1b"}


def test_the_report_works_offline(results: Results, tmp_path: Path) -> None:
    """One file, plotly's script in it once, nothing fetched from anywhere."""
    (path,) = report.write(results, tmp_path, images=False)
    page = path.read_text()
    assert page.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']https?:", page)
    for section in ("Findings", "Who slows whom", "Verdicts", "Baselines"):
        assert f">{section}</h2>" in page
    assert page == report.write(results, tmp_path / "again", images=False)[0].read_text(), "equal data, equal page"


def test_the_report_says_what_it_left_out(tmp_path: Path) -> None:
    """INVALID runs with their reasons, and runs without baselines."""
    study = Study(tmp_path, iterations=20)
    study.run(["bert_base", "distilgpt2"])
    study.run(["bert_base", "bert_base"], baseline=False)
    study.run(["distilgpt2", "distilgpt2"], verdict="INVALID")
    page = report.build(pool(load(records=tmp_path), draws=50), {})
    assert "Left out of every figure: 1 INVALID run; reasons and remedies are under Verdicts" in page
    assert "Without a baseline of every tenant" in page
    assert "1 point (bert_base+bert_base)" in page


def test_the_facts_name_each_value_once(tmp_path: Path) -> None:
    """A run whose tenants differ has two workloads, and they are those of the others."""
    study = Study(tmp_path, iterations=20)
    study.run(["bert_base", "distilgpt2"])
    study.run(["bert_base", "distilgpt2"], workload="decode")
    page = report.build(pool(load(records=tmp_path), draws=50), {})
    assert "<dt>workload</dt><dd>forward, decode</dd>" in page
    requests = load(records=tmp_path).tenants["iterations_in_window"].sum()
    assert f"2 runs of 2 points, measured 2025-11-22; {requests:.0f} requests; from" in page


def test_the_title_counts_gpus(tmp_path: Path) -> None:
    """Runs of several GPUs of one kind are not told as those of one."""
    for number in (1, 2):
        Study(tmp_path / str(number), iterations=20, seed=number, gpu_uuid=f"GPU-{number}").run(["bert_base"])
    one, both = (report.build(pool(load(records=tmp_path / part), draws=50), {}) for part in ("1", ""))
    assert "<h1>What models do to each other on one NVIDIA H200</h1>" in one
    assert "<h1>What models do to each other on NVIDIA H200 (2 GPUs, each run on one)</h1>" in both


def test_names_are_escaped(tmp_path: Path) -> None:
    """A mix cannot put markup into the page."""
    Study(tmp_path, iterations=20).run(["bert_base", "distilgpt2"], mix="<script>alert(1)</script>")
    assert "<script>alert" not in report.build(pool(load(records=tmp_path), draws=50), {})


def test_the_commands_make_a_study_again_from_its_export(study_folder: Path, tmp_path: Path) -> None:
    """Records to export to report and findings page, as ``make results`` does."""
    assert export.main(["--records", str(study_folder), str(tmp_path / "records")]) == 0
    out, findings = tmp_path / "out", tmp_path / "out" / "findings.md"
    arguments = ["--records", str(tmp_path / "records"), "--out", str(out), "--markdown", str(findings), "--no-images"]
    assert report.main(arguments) == 0
    assert (out / "report.html").is_file()
    assert "## Who slows whom under MPS" in findings.read_text()


def test_figures_of_another_study_are_not_passed_off(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A page of Markdown shows what was drawn with it; what is left of other data stays out, and goes once this is
    drawn."""
    folder, page = tmp_path / "plots", tmp_path / "findings.md"
    folder.mkdir()
    others = [folder / name for name in ("capacity.svg", "fairness.svg", "mine.svg")]
    for path in others:
        path.write_text("<svg>of another study</svg>")
    report.write_markdown(results, page, report.write(results, tmp_path, images=False), title="", made_by="")
    assert ".svg" not in page.read_text()
    assert "shows no figures" in caplog.text
    assert all(path.is_file() for path in others)
    monkeypatch.setattr("plotly.io.write_images", lambda drawn, paths, **size: [p.write_text("<svg/>") for p in paths])
    files = report.write(results, tmp_path)
    report.write_markdown(results, page, files, title="", made_by="")
    shown = set(re.findall(r"\(plots/(.*?)\.svg\)", page.read_text()))
    assert shown == {path.stem for path in files if path.suffix == ".svg"} == set(plots.draw(results))
    assert [path.is_file() for path in others] == [False, True, True]
    assert others[1].read_text() == "<svg/>"


def test_mlflow_gets_the_files_of_the_report_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--out .`` in a folder with a store, a secret and another report sends none of them."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    Study(tmp_path / "records", iterations=20).run(["bert_base", "distilgpt2"])
    for path in find_records(tmp_path / "records"):
        log_record(path, TrackingSpec(uri=uri))
    for name in (".env", "plots/old.svg", "reports/other/report.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("not to be sent")
    monkeypatch.setattr("plotly.io.write_images", lambda drawn, paths, **size: [p.write_text("<svg/>") for p in paths])
    assert report.main(["--uri", uri, "--out", ".", "--markdown", "findings.md"]) == 0
    (run,) = re.findall(r"In MLflow: run (\w+)", capsys.readouterr().out)
    client = MlflowClient(uri)
    assert {artifact.path for artifact in client.list_artifacts(run)} == {"report.html", "findings.md", "plots"}
    sent = {artifact.path for artifact in client.list_artifacts(run, "plots")}
    names = plots.draw(pool(load(uri=uri), draws=50))
    assert sent == {f"plots/{name}.{kind}" for name in names for kind in ("png", "svg")}


def test_images_of_equal_data_are_equal(tmp_path: Path) -> None:
    """What plotly names at random in an SVG is numbered, wherever it is used; numbers that look alike stay."""
    drawn = (
        '<svg><defs id="defs-{0}"><clipPath id="clip{0}xy"/><pattern id="p{0}-{1}-0"/></defs>'
        '<g class="trace scatter trace{1}" clip-path="url(#clip{0}xy)" fill="url(#p{0}-{1}-0)" d="M0.123456,1"/></svg>'
    )
    texts = []
    for names in (("a1b2c3", "123456"), ("00ff00", "abcdef")):
        path = tmp_path / "figure.svg"
        path.write_text(drawn.format(*names))
        report.settle(path)
        texts.append(path.read_text())
    assert texts[0] == texts[1]
    assert "M0.123456,1" in texts[0]
    assert texts[0].count("clip000000xy") == 2


def test_without_a_browser_the_report_is_there(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Images need Chrome; the message says so, and the HTML is complete."""
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (page,) = report.write(results, tmp_path)
    assert page.is_file()
    assert "--no-images" in caplog.text


def test_bad_questions_get_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No store, no folder: exit code 2, what was found and what to do, no traceback."""
    nowhere = f"sqlite:///{tmp_path / 'none.db'}"
    for command, arguments in (
        (report.main, ["--uri", nowhere]),
        (report.main, ["--records", str(tmp_path / "none")]),
        (export.main, ["--uri", nowhere, str(tmp_path)]),
        (advise.main, ["--models", "bert_base", "--slo-ms", "bert_base=1", "--uri", nowhere]),
    ):
        assert command(arguments) == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert len(message.strip().splitlines()) == 1


def test_advice_is_the_fastest_mix_that_keeps_every_level(results: Results) -> None:
    """With room, the mode that serves most; with tight levels, none; with its runs named."""
    models = ["bert_base", "llama_3_2_1b"]
    best = advise.advise(results, models, dict.fromkeys(models, 1000.0)).best
    assert best is not None
    assert best.sharing == "MPS"
    assert all(record in set(results.data.runs["record_id"]) for record in best.records)
    tight = advise.advise(results, models, dict.fromkeys(models, 1.0))
    assert tight.best is None
    assert "misses its level" in str(tight)


def test_advice_leaves_out_modes_that_miss_a_level(results: Results) -> None:
    """A level between what two modes reach decides for the one that keeps it, and says the other misses."""
    models = ["bert_base", "llama_3_2_1b"]
    mixed = advise.advise(results, models, {"bert_base": 100.0, "llama_3_2_1b": 100.0})
    found = {c.sharing: next(level for level in c.levels if level.label == "llama_3_2_1b").latency_ms
           for c in (mixed.best, *mixed.others) if c is not None}  # fmt: skip
    turns, mps = found["time slicing"], found["MPS"]
    assert turns is not None
    assert mps is not None
    assert mps.value < turns.value, "in this study MPS is the gentler one for the slow model"
    between = (mps.high + turns.low) / 2
    advice = advise.advise(results, models, {"bert_base": 100.0, "llama_3_2_1b": between})
    assert advice.best is not None
    assert advice.best.sharing == "MPS"
    assert [c.state for c in advice.others] == [advise.MISSES]


def advice_on(folder: Path, models: str, levels: float, **how: Any) -> advise.Advice:
    names = models.split("+")
    return advise.advise(pool(load(records=folder), draws=1), names, dict.fromkeys(names, levels), **how)


def test_a_mix_that_was_measured_less_is_not_preferred(tmp_path: Path) -> None:
    """All are judged by one percentile; one that a mix cannot support leaves it unjudged, and says what it needs."""
    study = Study(tmp_path, iterations=200)
    study.run(["bert_base", "distilgpt2"])
    study.iterations = 20
    study.run(["bert_base", "distilgpt2"], "default")
    advice = advice_on(tmp_path, "bert_base+distilgpt2", 1000)
    assert advice.best is not None
    assert (advice.best.sharing, advice.percentile) == ("time slicing", 95)
    (other,) = advice.others
    assert (other.sharing, other.state) == ("MPS", advise.UNKNOWN)
    assert other.throughput_rps > advice.best.throughput_rps
    assert "cannot be judged: p95 needs 130 requests, 20 were measured" in str(advice)
    assert "Judged by p95 of latency, the highest that all of them support: p99 needs 662 requests" in str(advice)
    asked = advice_on(tmp_path, "bert_base+distilgpt2", 1000, percentile=99)
    assert asked.best is None
    assert "Judged by p99 of latency." in str(asked)
    assert {other.state for other in asked.others} == {advise.UNKNOWN}


def test_few_requests_are_enough_to_miss_a_level(tmp_path: Path) -> None:
    """Twenty requests bound a p90 from below; without one above nothing is kept, and nothing is claimed."""
    Study(tmp_path, iterations=20).run(["bert_base", "distilgpt2"])
    for level, state in ((1.0, advise.MISSES), (1000.0, advise.UNKNOWN)):
        advice = advice_on(tmp_path, "bert_base+distilgpt2", level)
        assert advice.best is None
        assert [other.state for other in advice.others] == [state]
    assert re.search(r"p90 needs 64 requests, \d\d were measured", str(advice))


def test_only_requests_of_one_kind_are_compared(results: Results) -> None:
    """Open loop serves what was asked for: it is ranked only where closed loop was not measured. Precision and
    execution make another kind too."""
    models, levels = ["bert_base"], {"bert_base": 1000.0}
    advice = advise.advise(results, models, levels)
    assert len(advice.others) == 5, "one, two and four tenants in closed loop, under two modes, less the best"
    other = "bert_base forward (batch 8, sequence 128, fp16, eager, sdpa attention, poisson arrival)"
    assert f"requests of another kind: {other}" in str(advice)
    open_loop = results.points.loc[~results.points["closed"] & (results.points["num_tenants"] == 1), "point"]
    only = replace(results, points=results.points[results.points["point"].isin(open_loop)])
    assert advise.advise(only, models, levels).best is not None
    for column, value in (("precision", "bf16"), ("execution", "cuda_graph")):
        tenants = results.tenants.copy()
        four = results.points.loc[results.points["mix"] == "bert_base*4", "point"].iloc[0]
        tenants.loc[tenants["point"] == four, column] = value
        fewer = advise.advise(replace(results, tenants=tenants), models, levels)
        assert len(fewer.others) == len(advice.others) - 1
        assert value in fewer.unmeasured[-1]


def test_a_level_that_is_kept_but_not_surely_says_by_how_much(results: Results) -> None:
    """Within as measured, but not with its whole interval: the figure and its interval are there to see."""
    models = ["bert_base", "llama_3_2_1b"]
    wide = advise.advise(results, models, dict.fromkeys(models, 1000.0))
    assert wide.best is not None
    level = next(level for level in wide.best.levels if level.label == "llama_3_2_1b")
    assert level.latency_ms is not None
    at = level.latency_ms
    tight = {"bert_base": 1000.0, "llama_3_2_1b": (at.value + at.high) / 2}
    said = str(advise.advise(results, models, tight))
    assert f"not surely for llama_3_2_1b (p90 {at.value:.1f} ms [{at.low:.1f}, {at.high:.1f}] against" in said


def test_advice_of_invalid_runs_is_given_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The option that the refusal names is there, and the answer says what it rests on."""
    Study(tmp_path, iterations=100).run(["bert_base", "distilgpt2"], verdict="INVALID")
    arguments = ["--models", "bert_base,distilgpt2", "--slo-ms", "bert_base=99,distilgpt2=99"]
    arguments += ["--records", str(tmp_path)]
    assert advise.main(arguments) == 2
    assert "--include-invalid" in capsys.readouterr().err
    assert advise.main([*arguments, "--include-invalid"]) == 0
    assert "every level kept in the one run measured (INVALID run included)" in capsys.readouterr().out


def test_advice_says_what_was_not_measured(results: Results) -> None:
    """More tenants, other sharing modes: named, not guessed."""
    said = str(advise.advise(results, ["bert_base", "distilgpt2"], {"bert_base": 50, "distilgpt2": 50}))
    assert "with 1 more bert_base" in said
    assert "any mix under MPS equal share (mps_settings=equal_share), streams (sharing=streams)" in said


@pytest.mark.parametrize(
    ("sharing", "words"),
    [
        ("time slicing", "mps_settings=disabled"),
        ("MPS 25 %", "mps_settings=quarter"),
        ("MPS 30 %", "mps_settings=30pct"),
        ("MPS external", "mps_settings=external"),
        ("CPU (default)", "mps_settings=default"),
        ("streams", "sharing=streams"),
        ("MPS, fixed", "mps_settings=default measure.overlap=fixed"),
    ],
)
def test_the_command_that_advice_names_measures_that_mode(sharing: str, words: str) -> None:
    """Whatever a mode is called, the command does not measure another."""
    assert advise._how(sharing) == words


@pytest.mark.parametrize(
    ("models", "levels", "message"),
    [
        ("gpt5", "gpt5=1", "was not measured"),
        ("bert_base", "", "no level for bert_base"),
        ("bert_base", "bert_base=fast", "MODEL=MILLISECONDS"),
        ("bert_base", "bert_base=-1", "--slo-ms bert_base=-1: allowed: milliseconds above 0"),
        ("bert_base", "bert_base=inf", "--slo-ms bert_base=inf: allowed: milliseconds above 0"),
        ("bert_base", "bert_base=nan", "--slo-ms bert_base=nan: allowed: milliseconds above 0"),
        ("bert_base", "bert_base=9,nosuch=3", "--slo-ms nosuch=3: --models has no nosuch, only bert_base"),
        ("bert_base", "bert_base=9,bert_base=3", "bert_base has a level already, 9 ms"),
        (",", "a=1", "--models is empty"),
    ],
)
def test_advice_refuses_what_it_cannot_answer(
    study_folder: Path, capsys: pytest.CaptureFixture[str], models: str, levels: str, message: str
) -> None:
    """Unknown models and levels that are none: exit code 2 and what to give."""
    arguments = ["--models", models, "--slo-ms", levels, "--records", str(study_folder)]
    assert advise.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("percentile", "allowed"), [("p99", "a number"), ("100", "below 100"), ("nan", "below 100")])
def test_a_percentile_that_is_none_is_refused(
    study_folder: Path, capsys: pytest.CaptureFixture[str], percentile: str, allowed: str
) -> None:
    """It is named, with what is allowed."""
    arguments = ["--models", "bert_base", "--slo-ms", "bert_base=9", "--records", str(study_folder)]
    assert advise.main([*arguments, "--percentile", percentile]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"--percentile {percentile}: allowed: ")
    assert allowed in said


def test_a_dataset_is_made_of_frames(study: Dataset) -> None:
    """Notebooks get DataFrames."""
    for frame in (study.runs, study.tenants, study.baselines, study.iterations, study.telemetry):
        assert isinstance(frame, pd.DataFrame)
        assert len(frame)


def test_the_walkthrough_runs(
    study_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script in docs/ works as it stands."""
    monkeypatch.setattr("sys.argv", ["walkthrough.py", str(study_folder)])
    runpy.run_path("docs/walkthrough.py")
    assert "Is MPS efficient?" in capsys.readouterr().out

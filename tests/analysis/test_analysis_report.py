"""Figures, report and advice: what a user opens, and what a user is told."""

from __future__ import annotations

import html
import re
import runpy
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from analysis_study import Study, figure_of
from mlflow import MlflowClient

from analysis import advise, drawing, export, images, plots, report
from analysis.data import load
from analysis.dataset import Dataset
from analysis.plots import theme
from analysis.pooling import Results, pool
from mtexp.colours import model_colour
from mtexp.errors import TrackingError
from mtexp.records.files import find_records
from mtexp.spec import TrackingSpec
from mtexp.tracking.mlflow_writer import log_record


class Blank:
    """A figure that takes no time to be drawn."""

    def savefig(self, path: Path, **more: object) -> None:
        path.write_text("<svg/>")


def test_a_whole_study_has_every_figure(drawn: dict[str, go.Figure]) -> None:
    """Nothing that the data support is missing; the rest are other studies."""
    other_studies = {"capacity", "churn", "latency-by-neighbours", "settings", "rounds", "sm-curve"}
    assert set(drawn) == {figure.name for figure in plots.FIGURES} - other_studies


def test_a_lone_run_has_few_figures(tmp_path: Path) -> None:
    """A figure without data is absent, not empty."""
    Study(tmp_path, iterations=20).run(["bert_base"])
    assert plots.draw(pool(load(records=tmp_path), draws=50)) == {}


def test_axes_are_labelled(drawn: dict[str, go.Figure]) -> None:
    """Every figure says on some axis what it shows, in words, with the unit where it is a time or a rate."""
    for name, figure in drawn.items():
        titles = [axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes())]
        assert any(titles), name
        bare = [
            t
            for t in titles
            if t and re.search(r"\b(latency|time|power|energy|clock)\b", t) and not re.search(r"\(| / ", t)
        ]
        assert not bare, (name, bare)
        assert not [title for title in titles if title and re.search(r"_(ms|rps|pct)\b", title)], name


def test_a_model_has_one_colour_everywhere(drawn: dict[str, go.Figure]) -> None:
    """The line of a model in one figure has the colour of its points in another."""
    colour = model_colour("llama_3_2_1b")
    for name in ("event-timer", "latency-over-time", "latency-ecdf"):
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
    assert figure_of(pool(load(records=tmp_path), draws=50), "latency-by-neighbours") is None
    study.run(["bert_base", "llama_3_2_1b"], load=0.3)
    figure = figure_of(pool(load(records=tmp_path), draws=50), "latency-by-neighbours")
    assert figure is not None
    assert {tuple(trace.x) for trace in figure.data} == {(0, 1)}
    assert {trace.name.split()[0] for trace in figure.data} == {"bert_base", "llama_3_2_1b"}


def test_the_report_works_offline(results: Results, drawn: dict[str, go.Figure], tmp_path: Path) -> None:
    """One file, plotly's script in it once, nothing fetched from anywhere."""
    (path,) = report.write(results, tmp_path, images=())
    page = path.read_text()
    assert page.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']https?:", page)
    for section in ("Which combinations pay?", "Verdicts", "Baselines"):
        assert f">{section}</h2>" in page
    assert page == report.build(results, drawn), "equal data, equal page: these figures were drawn before"


def test_the_report_says_what_it_left_out(tmp_path: Path) -> None:
    """INVALID runs with their reasons, and runs without baselines."""
    study = Study(tmp_path, iterations=20)
    study.run(["bert_base", "distilgpt2"])
    study.run(["bert_base", "bert_base"], baseline=False)
    study.run(["distilgpt2", "distilgpt2"], verdict="INVALID")
    page = report.build(pool(load(records=tmp_path), draws=50), {})
    before = page.partition('<p class="advice">')[0]
    assert "Left out of every figure: 1 INVALID run of 3 (33 %)" in before, "above any claim"
    assert "Without a baseline of every tenant" in before
    assert "1 point (bert_base+bert_base)" in before


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


def test_the_commands_make_a_study_again_from_its_export(tmp_path: Path) -> None:
    """Records to export to report and findings page, as ``make results`` does."""
    study = Study(tmp_path / "runs", iterations=40)
    for mps in ("disabled", "default"):
        study.run(["bert_base", "llama_3_2_1b"], mps, workload="generate")
        study.run(["bert_base", "distilgpt2"], mps, repetitions=2)
    assert export.main(["--records", str(tmp_path / "runs"), str(tmp_path / "records")]) == 0
    out, findings = tmp_path / "out", tmp_path / "out" / "findings.md"
    arguments = ["--records", str(tmp_path / "records"), "--out", str(out), "--markdown", str(findings), "--no-images"]
    assert report.main(arguments) == 0
    assert (out / "report.html").is_file()
    assert "## Who slows whom under MPS" in findings.read_text()


def test_figures_of_another_study_are_not_passed_off(
    results: Results,
    drawn: dict[str, go.Figure],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A page of Markdown shows what was drawn with it; what is left of other data stays out, and goes once this is
    drawn."""
    folder, page = tmp_path / "plots", tmp_path / "findings.md"
    folder.mkdir()
    others = [folder / name for name in ("capacity.svg", "fairness.svg", "mine.svg")]
    for path in others:
        path.write_text("<svg>of another study</svg>")
    monkeypatch.setattr(report, "draw", lambda results: drawn)
    report.write_markdown(results, page, report.write(results, tmp_path, images=()), title="", made_by="")
    assert ".svg" not in page.read_text()
    assert "shows no figures" in caplog.text
    assert all(path.is_file() for path in others)
    monkeypatch.setattr("analysis.drawing.paint", lambda figure: Blank())
    files = report.write(results, tmp_path)
    report.write_markdown(results, page, files, title="", made_by="")
    shown = set(re.findall(r"\(plots/(.*?)\.svg\)", page.read_text()))
    assert shown == {path.stem for path in files if path.suffix == ".svg"} == set(drawn)
    assert [path.is_file() for path in others] == [False, True, True]
    assert "of another study" not in others[1].read_text()


def test_mlflow_gets_the_files_of_the_report_and_nothing_else(
    tmp_path: Path, made_store: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--out .`` in a folder with a store, a secret and another report sends none of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(made_store)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    Study(tmp_path / "records", iterations=20).run(["bert_base", "distilgpt2"])
    for path in find_records(tmp_path / "records"):
        log_record(path, TrackingSpec(uri=uri))
    for name in (".env", "plots/old.svg", "reports/other/report.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("not to be sent")
    monkeypatch.setattr("analysis.drawing.paint", lambda figure: Blank())
    assert report.main(["--uri", uri, "--out", ".", "--markdown", "findings.md"]) == 0
    (run,) = re.findall(r"In MLflow: run (\w+)", capsys.readouterr().out)
    client = MlflowClient(uri)
    assert {artifact.path for artifact in client.list_artifacts(run)} == {"report.html", "findings.md", "plots"}
    sent = {artifact.path for artifact in client.list_artifacts(run, "plots")}
    drawn = {path.name for path in (tmp_path / "plots").iterdir()} - {"old.svg"}
    assert sent == {f"plots/{name}" for name in drawn}
    assert {Path(name).suffix for name in drawn} == {".png", ".svg"}

    def not_taken(*arguments: object, **options: object) -> str:
        raise TrackingError("attempt to write a readonly database.")

    monkeypatch.setattr(report, "log_to_mlflow", not_taken)  # another user's store
    assert report.main(["--uri", uri, "--out", "mine", "--no-images"]) == 1
    assert "--no-mlflow" in capsys.readouterr().err
    assert (tmp_path / "mine/report.html").is_file()


def test_every_figure_is_a_file_without_a_browser(drawn: dict[str, go.Figure], tmp_path: Path) -> None:
    """SVG of each, with its axis titles and its legend, and PDF; equal data give equal files."""
    paths = images.write_images(drawn, tmp_path / "one", ["svg"])
    printed = {name: drawn[name] for name in ("scaling", "interference-matrix", "repeats")}
    paths += images.write_images(printed, tmp_path / "one", ["pdf"])
    assert {path.name for path in paths} == {*(f"{name}.svg" for name in drawn), *(f"{name}.pdf" for name in printed)}
    again = images.write_images({"scaling": drawn["scaling"]}, tmp_path / "two", ["svg", "pdf"])
    for path in again:
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()
    for name, figure in drawn.items():
        text = (tmp_path / "one" / f"{name}.svg").read_text()
        titles = [axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes()) if axis.title.text]
        named = [trace.name for trace in figure.data if trace.name and trace.showlegend and trace.type == "scatter"]
        for said in (*titles, *named):
            assert html.escape(said, quote=False) in text, (name, said)


def test_a_name_wider_than_the_page_is_broken() -> None:
    """That of a mix of a dozen models leaves room for the panel."""
    name = f"bert_base in {'+'.join(['deberta_v3_base'] * 12)}"
    figure = go.Figure(go.Scatter(x=[1.0], y=[name], mode="markers", marker={"symbol": "circle"}))
    (axes,) = drawing.paint(theme.figure(figure)).axes
    (label,) = axes.get_yticklabels()
    assert label.get_text().replace("\n", "") == name
    assert axes.get_position().width > 0.4


def test_a_kind_of_image_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and what is allowed, before anything is read."""
    with pytest.raises(SystemExit) as refused:
        report.main(["--images", "png,jpg"])
    assert refused.value.code == 2
    assert "jpg: allowed: png, svg, pdf" in capsys.readouterr().err


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

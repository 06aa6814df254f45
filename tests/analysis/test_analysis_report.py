"""Figures, report and advice: what a user opens, and what a user is told."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from analysis_study import Study

from analysis import advise, export, plots, report
from analysis.data import Dataset, load
from analysis.plots import theme
from analysis.pooling import Results, pool


@pytest.fixture(scope="module")
def drawn(results: Results) -> dict[str, go.Figure]:
    return plots.draw(results)


def test_a_whole_study_has_every_figure(drawn: dict[str, go.Figure]) -> None:
    """Nothing that the data support is missing; searches for a capacity are a study of their own."""
    assert set(drawn) == {figure.name for figure in plots.FIGURES} - {"capacity"}


def test_a_lone_run_has_few_figures(tmp_path: Path) -> None:
    """A figure without data is absent, not empty."""
    Study(tmp_path, iterations=20).run(["bert_base"])
    assert plots.draw(pool(load(records=tmp_path), draws=50)) == {}


def test_axes_are_labelled(drawn: dict[str, go.Figure]) -> None:
    """Every figure says on some x and some y axis what it shows, in words."""
    for name, figure in drawn.items():
        titles = [axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes())]
        assert any(titles), name
        assert not [title for title in titles if title and re.search(r"_(ms|rps|pct)\b", title)], name


def test_a_model_has_one_colour_everywhere(drawn: dict[str, go.Figure]) -> None:
    """The line of a model in one figure has the colour of its bars in another."""
    colour = theme.model_colour("llama_3_2_1b")
    for name in ("slowdown-by-tenant", "event-timer", "latency-over-time", "latency-ecdf", "workloads"):
        assert colour in drawn[name].to_json(), name


def test_models_mtexp_ships_have_different_colours() -> None:
    """No two of them look alike."""
    shipped = [path.stem for path in Path("conf/models").glob("*.yaml") if not path.stem.startswith("stress_")]
    assert len({theme.model_colour(name) for name in shipped}) == len(shipped)


def test_thinning_keeps_peaks(drawn: dict[str, go.Figure], results: Results) -> None:
    """The highest latency of a tenant is drawn."""
    traces = [t for t in drawn["latency-over-time"].data if t.name and t.name.startswith("bert_base")]
    mixed = results.points[results.points["mix"] == "mixed"].iloc[0]
    samples = results.data.samples(mixed["records"][0], "a", window=False)
    assert max(traces[0].y) == pytest.approx(samples["latency_ms"].max())


def test_the_report_works_offline(results: Results, tmp_path: Path) -> None:
    """One file, plotly's script in it once, nothing fetched from anywhere."""
    page = report.write(results, tmp_path, images=False).read_text()
    assert page.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']https?:", page)
    for section in ("Findings", "Who slows whom", "Verdicts", "Baselines"):
        assert f">{section}</h2>" in page
    assert page == report.write(results, tmp_path / "again", images=False).read_text(), "equal data, equal page"


def test_the_report_says_what_it_left_out(tmp_path: Path) -> None:
    """INVALID runs with their reasons, and runs without baselines."""
    study = Study(tmp_path, iterations=20)
    study.run(["bert_base", "distilgpt2"])
    study.run(["bert_base", "bert_base"], baseline=False)
    study.run(["distilgpt2", "distilgpt2"], verdict="INVALID")
    page = report.build(pool(load(records=tmp_path), draws=50), {})
    assert "1 INVALID runs are left out" in page
    assert "without a baseline" in page


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
    assert report.write(results, tmp_path).is_file()
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
    p95 = {c.sharing: next(level for level in c.levels if level.label == "llama_3_2_1b").latency_ms
           for c in (mixed.best, *mixed.others) if c is not None}  # fmt: skip
    turns, mps = p95["time slicing"], p95["MPS"]
    assert turns is not None
    assert mps is not None
    assert mps.value < turns.value, "in this study MPS is the gentler one for the slow model"
    between = (mps.high + turns.low) / 2
    advice = advise.advise(results, models, {"bert_base": 100.0, "llama_3_2_1b": between})
    assert advice.best is not None
    assert advice.best.sharing == "MPS"
    assert [c.state for c in advice.others] == [advise.MISSES]


def test_advice_says_what_was_not_measured(results: Results) -> None:
    """More tenants, other sharing modes: named, not guessed."""
    said = str(advise.advise(results, ["bert_base", "distilgpt2"], {"bert_base": 50, "distilgpt2": 50}))
    assert "with 1 more bert_base" in said
    assert "any mix under MPS equal share (mps_settings=equal_share), streams (sharing=streams)" in said


@pytest.mark.parametrize(
    ("models", "levels", "message"),
    [
        ("gpt5", "gpt5=1", "was not measured"),
        ("bert_base", "", "no level for bert_base"),
        ("bert_base", "bert_base=fast", "MODEL=MILLISECONDS"),
        ("bert_base", "bert_base=-1", "MODEL=MILLISECONDS"),
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

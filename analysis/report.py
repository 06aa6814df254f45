"""One self-contained HTML file from runs: ``python -m analysis.report --sweep latest``.

Lives here: :func:`build`, :func:`write` and the command. May touch: the output folder; MLflow, where the report becomes
a run of its own beside the runs it tells of. Opens offline; the same figures lie beside it as PNG and SVG.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from mtexp.commands import command_line
from mtexp.errors import RecordError
from mtexp.output import enter
from mtexp.records import keys
from mtexp.spec import SWEEP_NAME, TrackingSpec

from . import markdown, tables
from .capacity import capacities
from .dataset import Dataset
from .findings import Judge, claim_limit, does_power_limit, findings, paragraph
from .options import add_source, read, refusing
from .page import Page
from .plots import FIGURES, draw
from .pooling import Results, pool

log = logging.getLogger(__name__)

REPORT = "report.html"
IMAGES = ("png", "svg")
PLOTS = "plots"
WIDTH_PX = 1100
_RANDOM = re.compile(r'(?:(?<=<defs id="defs-)|(?<= trace)|(?<=-legend-)|(?<=<pattern id="p.{6}-))[0-9a-f]{6}\b')
"""Names of definitions, traces and patterns in an SVG that plotly wrote."""
_FACTS = {
    "device": "device",
    "gpu_uuid": "GPU",
    "driver": "driver",
    "cuda": "CUDA",
    "torch": "torch",
    "transformers": "transformers",
    "cpu": "CPU",
    "python": "Python",
    "version": "mtexp",
    "git_commit": "commit",
    "precision": "precision",
    "workload": "workload",
    "batch_size": "batch size",
    "seq_len": "sequence length",
    "execution": "execution",
    "overlap": "overlap",
    "design": "design",
    "sweep": "sweeps",
}
_MOST_NAMED = 6


def build(results: Results, figures: Mapping[str, go.Figure], *, title: str = "") -> str:
    """Return the report as HTML.

    Args:
        results: What was measured.
        figures: By name (:func:`analysis.plots.draw`).
        title: Of the page; default: the device.
    """
    data = results.data
    page = Page(title or _title(results), _lead(results))
    _say_findings(page, results)
    page.section("What was run, on what")
    for notice in _notices(results):
        page.notice(notice)
    page.facts(_facts(data.runs))
    page.text(markdown.LEGEND)
    page.table(tables.overview(results).dropna(axis="columns", how="all"))
    for figure in FIGURES:
        if figure.name in figures:
            page.section(figure.title)
            page.figure(figures[figure.name], figure.caption, figure.name)
    _tables(page, results)
    return page.html()


def _title(results: Results) -> str:
    device = ", ".join(_distinct(results.data.runs, "device"))
    gpus = len(_distinct(results.data.runs, "gpu_uuid"))
    where = "a CPU" if device == "cpu" else f"{device} ({gpus} GPUs, each run on one)" if gpus > 1 else f"one {device}"
    return f"What models do to each other on {where}"


def _lead(results: Results) -> str:
    data = results.data
    times = data.runs["start_time"].dropna()
    when = ""
    if len(times):
        first, last = f"{times.min():%Y-%m-%d}", f"{times.max():%Y-%m-%d}"
        when = f", measured {first}" + (f" to {last}" if last != first else "")
    requests = int(data.tenants["iterations_in_window"].sum())
    return (
        f"{_counted(len(data.runs), 'run')} of {_counted(len(results.points), 'point')}{when}; "
        f"{_counted(requests, 'request')}; from {data.source}."
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _say_findings(page: Page, results: Results) -> None:
    answers = findings(results)
    page.section("Findings")
    page.text(paragraph(answers))
    page.text(
        f"{markdown.read(results)} In figures the pointer shows what a point is, with interval.",
        css="lead",
    )
    for question in dict.fromkeys(answer.question for answer in answers):
        page.answer(question, [(a.text, a.claimed) for a in answers if a.question == question])


def _notices(results: Results) -> list[str]:
    data, found = results.data, []
    if (data.runs["runtime"] == "cpu").any():
        found.append(
            "These runs were made on a CPU with shrunken models: they show that everything works, not what a GPU does. "
            "The sharing modes are nominal there."
        )
    included = data.runs["verdict"] != "VALID"
    if included.any():
        found.append(f"In these figures because they were asked for: {_counted(int(included.sum()), 'INVALID run')}.")
    left_out = len(data.invalid) - int(included.sum())
    if left_out:
        runs = _counted(left_out, "INVALID run")
        found.append(f"Left out of every figure: {runs}; reasons and remedies are under Verdicts.")
    if len(results.impossible):
        points = _counted(len(results.impossible), "point")
        found.append(f"Left out of every figure because sharing cannot give it: {points}; see Impossible.")
    if not results.repeated:
        found.append(markdown.ONCE)
    found += [answer.text for answer in does_power_limit(results, Judge(0))]
    alone = tables.without_baseline(results)
    if len(alone):
        named = ", ".join(map(str, alone["mix"].unique()[:_MOST_NAMED]))
        found.append(
            f"Without a baseline of every tenant, so without slowdown, STP or fairness: "
            f"{_counted(len(alone), 'point')} ({named}). Measure again with baseline=auto."
        )
    return found


def _facts(runs: pd.DataFrame) -> dict[str, str]:
    facts = {}
    for name, label in _FACTS.items():
        values = _distinct(runs, name)
        if len(values):
            named = ", ".join(values[:_MOST_NAMED])
            facts[label] = named + (f" and {len(values) - _MOST_NAMED} more" if len(values) > _MOST_NAMED else "")
    return facts


def _distinct(runs: pd.DataFrame, name: str) -> list[str]:
    """The values of a column; where tenants of a run differ a parameter has several, with commas."""
    if name not in runs:
        return []
    texts = runs[name].dropna().astype(str)
    texts = texts.str.split(",").explode() if name in keys.PARAMS else texts
    return [str(text) for text in texts.unique()]


def _tables(page: Page, results: Results) -> None:
    combinations = tables.combinations(results, claim_limit(results)[0])
    if len(combinations):
        page.section("Combinations, by the lower end of STP")
        page.text(markdown.RANKED)
        page.table(combinations.drop(columns=["point", "p_value"]))
    found = capacities(results.data)
    if len(found):
        page.section("Capacity, tenant by tenant")
        page.text("At the highest load or rate that kept every level; missed: the lowest that did not.")
        page.table(found.dropna(axis="columns", how="all").drop(columns="record_id", errors="ignore"))
    if len(results.impossible):
        page.section("Impossible")
        page.text(markdown.IMPOSSIBLE)
        page.table(tables.impossible(results))
    page.section("Verdicts")
    verdicts = tables.verdicts(results)
    counts = verdicts["verdict"].value_counts()
    page.text(", ".join(f"{_counted(count, 'run')} {verdict}" for verdict, count in counts.items()) + ".")
    bad = verdicts[verdicts["verdict"] != "VALID"]
    if len(bad):
        page.table(bad)
    page.table(verdicts, folded="every run")
    page.section("Tenants")
    page.table(tables.tenants(results).drop(columns=["point", "position", "saturated"]), folded="every tenant")
    page.section("Baselines")
    page.text("Each model alone on the whole device, in all runs that measured it: what every slowdown compares with.")
    page.table(tables.baselines(results))
    timer = tables.event_timer(results)
    if len(timer):
        page.section("Event timer, tenant by tenant")
        page.table(timer.drop(columns=["point", "model"]), folded="every tenant")


# --- files and MLflow -------------------------------------------------------------------------------------------------


def write(results: Results, folder: Path, *, images: bool = True, title: str = "") -> list[Path]:
    """Write the report and, with ``images``, its figures to ``folder``; return the files, the HTML first.

    Raises:
        RecordError: The folder cannot be written.
    """
    figures = draw(results)
    path = folder / REPORT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(build(results, figures, title=title), encoding="utf-8")
    except OSError as error:
        raise RecordError(f"could not write {path}: {error.strerror or error}. Choose a place with --out") from error
    drawn = write_images(figures, folder / PLOTS) if images else []
    if drawn:
        every = {folder / PLOTS / f"{figure.name}.{kind}" for figure in FIGURES for kind in IMAGES}
        for of_other_data in every.difference(drawn):
            of_other_data.unlink(missing_ok=True)
    return [path, *drawn]


def write_markdown(results: Results, path: Path, images: Sequence[Path], *, title: str, made_by: str) -> None:
    """Write the findings to ``path``, with those ``images`` (:func:`write_images`) that are SVG.

    Raises:
        RecordError: The file cannot be written.
    """
    drawn = [image for image in images if image.suffix == ".svg"]
    if not drawn:
        log.warning("%s shows no figures: this call drew none, and those of another would not belong to it.", path)
    text = markdown.page(
        results,
        title=title or _title(results),
        figures=[image.stem for image in drawn],
        made_by=made_by,
        images=os.path.relpath(drawn[0].parent, path.parent) if drawn else PLOTS,
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(f"could not write {path}: {error.strerror or error}") from error


def write_images(figures: Mapping[str, go.Figure], folder: Path) -> list[Path]:
    """Write every figure as PNG and SVG; without a browser to draw them, say so and write none."""
    import plotly.io

    try:
        from choreographer.errors import BrowserFailedError, ChromeNotFoundError
        from kaleido.errors import KaleidoError
    except ImportError:
        log.warning("No images: they need kaleido (pip install 'mtexp[images]'). The HTML report is complete.")
        return []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"could not make {folder}: {error.strerror or error}") from error
    paths = [folder / f"{name}.{kind}" for name in figures for kind in IMAGES]
    try:
        drawn = [figure for figure in figures.values() for _ in IMAGES]
        heights = [figure.layout.height for figure in drawn]
        plotly.io.write_images(drawn, paths, width=WIDTH_PX, height=heights)
    except (ChromeNotFoundError, BrowserFailedError, KaleidoError, RuntimeError) as error:
        log.warning(
            "No images: %s. They need Chrome or Chromium: install one, or name it with BROWSER_PATH, or leave images "
            "out with --no-images. The HTML report is complete.",
            (str(error).strip() or type(error).__name__).splitlines()[0].rstrip("."),
        )
        return []
    for path in paths:
        if path.suffix == ".svg":
            settle(path)
    return paths


def settle(path: Path) -> None:
    """Number what an SVG calls by random names, so that equal data give equal files."""
    text = path.read_text(encoding="utf-8")
    names = dict.fromkeys(_RANDOM.findall(text))
    numbers = {name: f"{number:06x}" for number, name in enumerate(names)}
    if names:
        text = re.sub(rf"(?<=[A-Za-z-])(?:{'|'.join(names)})", lambda found: numbers[found[0]], text)
        path.write_text(text, encoding="utf-8")


def log_to_mlflow(results: Results, files: Sequence[Path], *, uri: str | None, experiment: str) -> str:
    """Log the report as a run of its own, named after its sweeps, with the findings as description; return its id.

    Args:
        results: What it tells of.
        files: Of the report (:func:`write`), and no others: its folder may be anybody's.
        uri: MLflow's; None as for :func:`analysis.data.load`.
        experiment: MLflow experiment.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    from mtexp.tracking.store import open_store

    sweeps = _distinct(results.data.runs, "sweep")
    tags = {"mlflow.note.content": paragraph(findings(results)), "mlflow.source.name": "analysis.report"}
    if len(sweeps) == 1:
        tags[keys.SWEEP] = sweeps[0]
    name = " ".join(["report", *(sweeps if len(sweeps) <= 1 else [f"of {len(sweeps)} sweeps"])])
    with open_store(TrackingSpec(uri=uri or "", experiment=experiment), write=True) as store, store.step():
        run = store.client.create_run(store.experiment_id, tags=tags, run_name=name)
        for path in files:
            store.client.log_artifact(run.info.run_id, str(path), PLOTS if path.suffix[1:] in IMAGES else None)
        store.client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report; the exit code is 2 when there is nothing it can be made of."""
    parser = argparse.ArgumentParser(prog=command_line("report"), description="One HTML report of runs.")
    add_source(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: reports/NAME)")
    parser.add_argument("--title", default="", help="of the page")
    parser.add_argument("--include-invalid", action="store_true", help="also INVALID runs; the report says so")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also the findings as a page of Markdown")
    parser.add_argument("--made-by", default="", help="command that page names as the one that makes it again")
    parser.add_argument("--no-images", action="store_true", help="no PNG and SVG files")
    parser.add_argument("--no-mlflow", action="store_true", help="do not log the report to MLflow")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    data = read(options, include_invalid=options.include_invalid)
    results = pool(data)
    folder = options.out or Path("reports") / _name(data)
    files = write(results, folder, images=not options.no_images, title=options.title)
    if options.markdown is not None:
        write_markdown(results, options.markdown, files[1:], title=options.title, made_by=options.made_by)
        files.append(options.markdown)
    answers = findings(results)
    sys.stdout.write(f"{paragraph(answers)}\n{files[0]}\n")
    if options.records is None and not options.no_mlflow:
        run_id = log_to_mlflow(results, files, uri=options.uri, experiment=options.experiment)
        sys.stdout.write(f"In MLflow: run {run_id}, artifact {REPORT}\n")
    return 0


def _name(data: Dataset) -> str:
    sweeps = _distinct(data.runs, "sweep")
    return sweeps[0] if len(sweeps) == 1 and SWEEP_NAME.fullmatch(sweeps[0]) else "all"


if __name__ == "__main__":
    sys.exit(enter(main))

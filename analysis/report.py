"""One self-contained HTML file from runs: ``python -m analysis.report --sweep latest``.

Lives here: :func:`build`, :func:`write` and the command. May touch: the output folder; MLflow, where the report becomes
a run of its own beside the runs it tells of. Opens offline; the same figures lie beside it as PNG and SVG, or PDF.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from mtexp.commands import command_line
from mtexp.errors import TrackingError
from mtexp.output import enter
from mtexp.records import keys
from mtexp.spec import SWEEP_NAME, TrackingSpec
from mtexp.text_tables import counted

from . import markdown
from .answers import Judge
from .dataset import DataError, Dataset
from .findings import findings, paragraph, what_events_do
from .images import IMAGES, USUAL, write_images
from .options import add_source, read, refusing, write_text
from .page import render
from .plots import FIGURES, draw
from .plots.churn import churn
from .pooling import Results, pool
from .sections import Section, appendix, distinct, facts, questions, who_slows_whom
from .summary import Summary, summary

log = logging.getLogger(__name__)

REPORT = "report.html"
CHURN = "churn"
PLOTS = "plots"


def build(results: Results, figures: Mapping[str, go.Figure], *, title: str = "") -> str:
    """Return the report as HTML.

    Args:
        results: What was measured.
        figures: By name (:func:`analysis.plots.draw`).
        title: Of the page; default: the device.
    """
    answers, first = findings(results), summary(results)
    return render(
        title=title or _title(results),
        lead=_lead(results),
        caveats=first.caveats,
        summary=first,
        pairs=who_slows_whom(results, answers, first.maps),
        questions=questions(results, answers, figures),
        appendix=appendix(results, answers, figures),
    )


def said(results: Results) -> str:
    """The advice, what must be known before believing it, and what is claimed, as one text."""
    first = summary(results)
    return "\n\n".join([first.advice, *first.caveats, paragraph(findings(results))])


def _title(results: Results) -> str:
    device = ", ".join(distinct(results.data.runs, "device"))
    gpus = len(distinct(results.data.runs, "gpu_uuid"))
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
        f"{counted(len(data.runs), 'run')} of {counted(len(results.points), 'point')}{when}; "
        f"{counted(requests, 'request')}; from {data.source}."
    )


# --- files and MLflow -------------------------------------------------------------------------------------------------


def write(results: Results, folder: Path, *, images: Sequence[str] = USUAL, title: str = "") -> list[Path]:
    """Write the report and its figures, in the kinds of ``images``, to ``folder``; return the files, the HTML first.

    Raises:
        RecordError: The folder cannot be written.
    """
    figures = draw(results)
    path = folder / REPORT
    write_text("--out", path, build(results, figures, title=title))
    drawn = write_images(figures, folder / PLOTS, images) if images else []
    if drawn:
        every = {folder / PLOTS / f"{figure.name}.{kind}" for figure in FIGURES for kind in IMAGES}
        for of_other_data in every.difference(drawn):
            of_other_data.unlink(missing_ok=True)
    return [path, *drawn]


def write_churn(data: Dataset, folder: Path, *, images: Sequence[str] = USUAL, title: str = "") -> tuple[Path, str]:
    """Write the report of churn runs alone: their sentence, figure and runs; returns the HTML and the sentence.

    Raises:
        RecordError: The folder cannot be written.
    """
    results = Results(data, pd.DataFrame(), pd.DataFrame())
    answers = list(what_events_do(results, Judge(0.0)))
    text = answers[0].text if answers else "No event was seen."
    figures = {CHURN: figure} if (figure := churn(results)) else {}
    page = render(
        title=title or "What a neighbour's life does to a steady tenant",
        lead=f"{counted(len(data.churn), 'churn run')} from {data.source}.",
        caveats=(),
        summary=Summary(text, (), (), ()),
        pairs=Section(""),
        questions=questions(results, answers, figures),
        appendix=[Section("What was run, on what", facts=facts(data.churn))],
    )
    path = folder / REPORT
    write_text("--out", path, page)
    if images:
        write_images(figures, folder / PLOTS, images)
    return path, text


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
    write_text("--markdown", path, text)


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

    sweeps = distinct(results.data.runs, "sweep")
    tags = {"mlflow.note.content": said(results), "mlflow.source.name": "analysis.report"}
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
    """Write a report; the exit code is 2 when there is nothing it can be made of, 1 when MLflow does not take it."""
    parser = argparse.ArgumentParser(prog=command_line("report"), description="One HTML report of runs.")
    add_source(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: reports/NAME)")
    parser.add_argument("--title", default="", help="of the page")
    parser.add_argument("--include-invalid", action="store_true", help="also INVALID runs; the report says so")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also the findings as a page of Markdown")
    parser.add_argument("--made-by", default="", help="command that page names as the one that makes it again")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--images", type=_kinds, default=USUAL, metavar="KINDS",
        help=f"figures as files, of {', '.join(IMAGES)} with commas (default: {','.join(USUAL)})",
    )  # fmt: skip
    kinds.add_argument("--no-images", dest="images", action="store_const", const=(), help="no such files")
    parser.add_argument("--no-mlflow", action="store_true", help="do not log the report to MLflow")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    data = read(options, include_invalid=options.include_invalid, churn_alone=True)
    folder = options.out or Path("reports") / _name(data)
    if data.runs.empty:
        if options.markdown is not None:
            raise DataError("--markdown needs runs of a mix, and these are churn runs. Leave it out")
        path, text = write_churn(data, folder, images=options.images, title=options.title)
        sys.stdout.write(f"{text}\n{path}\n")
        return 0
    results = pool(data)
    files = write(results, folder, images=options.images, title=options.title)
    if options.markdown is not None:
        write_markdown(results, options.markdown, files[1:], title=options.title, made_by=options.made_by)
        files.append(options.markdown)
    sys.stdout.write(f"{said(results)}\n{files[0]}\n")
    if options.records is None and not options.no_mlflow:
        try:
            run_id = log_to_mlflow(results, files, uri=options.uri, experiment=options.experiment)
        except TrackingError as error:  # another user's store
            sys.stderr.write(f"The report is written, but not logged to MLflow: {error} --no-mlflow leaves that out\n")
            return 1
        sys.stdout.write(f"In MLflow: run {run_id}, artifact {REPORT}\n")
    return 0


def _kinds(text: str) -> tuple[str, ...]:
    """The kinds of images in ``png,pdf``."""
    kinds = tuple(dict.fromkeys(text.split(",")))
    if wrong := [kind for kind in kinds if kind not in IMAGES]:
        allowed = f"allowed: {', '.join(IMAGES)}, or several with commas"
        raise argparse.ArgumentTypeError(f"{wrong[0] or 'empty'}: {allowed}")
    return kinds


def _name(data: Dataset) -> str:
    sweeps = distinct(data.churn if data.runs.empty else data.runs, "sweep")
    return sweeps[0] if len(sweeps) == 1 and SWEEP_NAME.fullmatch(sweeps[0]) else "all"


if __name__ == "__main__":
    sys.exit(enter(main))

"""Draws the plots of a record, which MLflow shows as artifacts: ``plots/latency.png``, of rounds ``plots/rounds.png``.

May touch: matplotlib (MLflow brings it), these files. Reports are made by ``analysis``; this is a first look.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mtexp.colours import FAINT, shades
from mtexp.errors import RecordError
from mtexp.metrics.fresh_processes import unseen_of
from mtexp.metrics.samples import Samples
from mtexp.records.files import ITERATIONS, write_aside
from mtexp.records.record import load
from mtexp.records.rounds_picture import write_rounds_plot

log = logging.getLogger(__name__)

PLOTS = "plots"
_MOST_POINTS = 3000
_MOST_NAMES = 12


def draw_run(directory: Path) -> None:
    """:func:`write_latency_plot` of a record; a full disk costs only the plot (with a warning)."""
    from mtexp.records.samples_file import read_samples  # pandas

    try:
        record = load(directory)
        models = {tenant.id: tenant.model for tenant in record.tenants}
        samples = read_samples(directory / ITERATIONS)
        write_latency_plot(directory, samples, models, record.window)
        if record.blocks and samples:
            unseen = unseen_of(record.run_spec, samples)
            write_rounds_plot(directory / PLOTS, samples, models, record.blocks, unseen)
    except (RecordError, OSError) as error:
        log.warning("No picture of the run. %s", error)
    except Exception as error:  # noqa: BLE001  the record is worth more than its picture
        log.warning("No picture of %s. %s: %s (please report it)", directory, type(error).__name__, error)


def write_latency_plot(
    directory: Path, samples: Mapping[str, Samples], models: Mapping[str, str], window: Mapping[str, int] | None
) -> Path:
    """Draw every tenant's latency over time, the window shaded, and its distribution inside the window.

    Args:
        directory: Directory of the record; the plot is saved in its ``plots`` folder.
        samples: By tenant id.
        models: By tenant id: a tenant has the colour of its model, or a shade of it where several have that model.
        window: ``t0_ns`` and ``t1_ns``; None shades nothing and draws all measured iterations.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4))
    figure.subplots_adjust(left=0.065, right=0.99, bottom=0.13, top=0.96, wspace=0.17)  # a layout engine draws it twice
    FigureCanvasAgg(figure)
    over_time, distribution = figure.subplots(1, 2, width_ratios=(2, 1))
    measured = {tenant: own.measured for tenant, own in samples.items() if len(own.measured)}
    origin_ns = min((int(own.start_ns[0]) for own in measured.values()), default=0)
    names = {tenant: tenant if model in tenant else f"{tenant} {model}" for tenant, model in models.items()}
    colours = shades([models[tenant] for tenant in measured])
    for colour, (tenant, own) in zip(colours, measured.items(), strict=True):
        shown = np.linspace(0, len(own) - 1, min(len(own), _MOST_POINTS)).astype(int)
        at_s = (own.start_ns[shown] - origin_ns) / 1e9
        over_time.plot(at_s, own.latency_ms[shown], ".", markersize=3, color=colour, label=names[tenant])
        inside = own.latency_ms
        if window is not None:
            inside = inside[(own.start_ns >= window["t0_ns"]) & (own.end_ns <= window["t1_ns"])]
        if len(inside):
            distribution.ecdf(inside, color=colour)
    if window is not None:
        ends = [(window[name] - origin_ns) / 1e9 for name in ("t0_ns", "t1_ns")]
        over_time.axvspan(*ends, color=FAINT, alpha=0.15, label="window")
    over_time.set(xlabel="time since the first start (s)", ylabel="latency (ms)", ylim=(0, None))
    distribution.set(xlabel="latency in the window (ms)", ylabel="share of iterations", ylim=(0, 1))
    if 0 < len(measured) <= _MOST_NAMES:
        over_time.legend(fontsize="small", loc="upper right")
    path = directory / PLOTS / "latency.png"
    path.parent.mkdir(exist_ok=True)
    with write_aside(path) as file:
        figure.savefig(file, format="png", dpi=100)
    return path

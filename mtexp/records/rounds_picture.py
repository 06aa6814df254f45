"""The picture of the rounds of a crossover run, ``plots/rounds.png``: slowdown by round, and the host beside it.

May touch: matplotlib (MLflow brings it), that one file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mtexp.colours import FAINT, shades
from mtexp.metrics.crossover import Block, compare, rounds_of
from mtexp.metrics.samples import Floats, Samples
from mtexp.records.files import write_aside

ROUNDS_PICTURE = "rounds.png"
_MOST_NAMES = 12


def write_rounds_plot(
    folder: Path,
    samples: Mapping[str, Samples],
    models: Mapping[str, str],
    blocks: Sequence[Block],
    unseen: Floats | None = None,
) -> Path | None:
    """Draw every tenant's slowdown by round with its figure and 95 % interval, and the alone blocks beside it.

    Alone blocks run the same work on the same device, so how they differ is the state of the host.

    Args:
        folder: Where the picture goes; made if absent.
        samples: By tenant id, marked with block, round and phase.
        models: By tenant id.
        blocks: Of the run.
        unseen: What states of a set of processes add to the log slowdown of each tenant, shape (states, tenants).

    Returns:
        The picture; None where no tenant has a round with both sides.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    latency = rounds_of(samples, blocks, lambda own: own.latency_ms)
    if not latency.complete.any():
        return None
    compared = compare(latency, unseen=unseen)
    figure = Figure(figsize=(11, 4))
    figure.subplots_adjust(left=0.065, right=0.99, bottom=0.13, top=0.92, wspace=0.17)
    FigureCanvasAgg(figure)
    slowdowns, host = figure.subplots(1, 2)
    rounds = np.arange(latency.group.size)
    colours = shades([models[name] for name in latency.tenants])
    for column, (name, colour) in enumerate(zip(latency.tenants, colours, strict=True)):
        label = name if models[name] in name else f"{name} {models[name]}"
        slowdowns.plot(rounds, np.exp(latency.log_ratios[:, column]), ".", color=colour, label=label)
        if name in compared.slowdown:
            interval = compared.slowdown[name]
            slowdowns.axhline(interval.value, color=colour, linewidth=1)
            if np.isfinite(interval.high):
                slowdowns.axhspan(interval.low, interval.high, color=colour, alpha=0.15, linewidth=0)
        alone_ms = latency.alone_ms[:, column]
        if np.isfinite(alone_ms).any():
            host.plot(rounds, alone_ms / np.nanmedian(alone_ms), ".-", color=colour, linewidth=0.7)
    slowdowns.axhline(1.0, color=FAINT, linewidth=0.8, linestyle=":")
    slowdowns.set(xlabel="round", ylabel="slowdown", title="together / alone")
    host.set(xlabel="round", ylabel="latency alone / its median", title="state of the host: alone blocks")
    for axes in (slowdowns, host):
        axes.xaxis.get_major_locator().set_params(integer=True)
    if len(latency.tenants) <= _MOST_NAMES:
        slowdowns.legend(fontsize="small", loc="upper right")
    path = folder / ROUNDS_PICTURE
    folder.mkdir(exist_ok=True)
    with write_aside(path) as file:
        figure.savefig(file, format="png", dpi=100)
    return path

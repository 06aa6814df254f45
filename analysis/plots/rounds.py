"""Runs measured in rounds: slowdown by round, and the state of the host beside it.

Lives here: :func:`rounds`. May touch: plotly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtexp.colours import shades
from mtexp.metrics.crossover import MIN_REQUESTS

from ..frames import rows_of
from ..pooling import Results
from . import theme
from .samples import showcase

_MOST_TENANTS = 8


def rounds(results: Results) -> go.Figure | None:
    """Slowdown of each tenant by round, and its alone blocks; a row of panels for each sharing mode of one mix."""
    runs = results.data.runs.reindex(columns=["record_id", "design"])
    in_turns = set(runs.loc[runs["design"] == "crossover", "record_id"].astype(str))
    panels = []
    for point in rows_of(showcase(results, in_turns)) if in_turns else ():
        record = next(run for run in point["records"] if run in in_turns)
        means = round_means(results.data.read_iterations([record]))
        if len(means):
            panels.append((f"{point['mix']}, {point['sharing']}", point, means))
    if not panels:
        return None
    titles = [text for title, *_ in panels for text in (title, "the same rounds: latency alone / its median")]
    fig = make_subplots(len(panels), 2, subplot_titles=titles, vertical_spacing=0.15)
    shown: set[str] = set()
    for row, (_, point, means) in enumerate(panels, 1):
        tenants = rows_of(results.tenants[results.tenants["point"] == point["point"]])[:_MOST_TENANTS]
        colours = shades([str(tenant["model"]) for tenant in tenants])
        for tenant, name, colour in zip(tenants, theme.tenant_names(tenants), colours, strict=True):
            own = means[means["tenant"] == tenant["ids"][0]]
            _tenant(fig, own, name, colour, row, shown)
        fig.update_yaxes(title_text="slowdown", row=row, col=1)
        fig.update_yaxes(title_text="latency alone / its median", row=row, col=2)
        fig.update_xaxes(title_text="round", row=row)
    return theme.figure(fig, height=320 * len(panels) + 80)


def round_means(samples: pd.DataFrame) -> pd.DataFrame:
    """Mean latencies by tenant and round: ``tenant``, ``round``, ``alone`` and ``measure`` (together), in ms.

    A round in which a side has too few requests that count is left out.

    Args:
        samples: Requests of one run, with ``tenant``, ``round``, ``phase`` and ``latency_ms``.
    """
    counts = samples[samples["phase"].isin(["alone", "measure"]) & (samples["round"] >= 0)]
    cells = counts.groupby(["tenant", "round", "phase"], observed=True)["latency_ms"].agg(["mean", "size"])
    wide = cells.loc[cells["size"] >= MIN_REQUESTS - 1, "mean"].unstack("phase")
    return wide.reindex(columns=["alone", "measure"]).dropna().reset_index()


def _tenant(fig: go.Figure, own: pd.DataFrame, name: str, colour: str, row: int, shown: set[str]) -> None:
    if own.empty:
        return
    ratio = own["measure"] / own["alone"]
    drawn: dict[str, Any] = {"x": own["round"], "legendgroup": name, "row": row}
    fig.add_scatter(
        y=ratio,
        name=name,
        mode="markers",
        marker={"size": 5, "color": colour},
        showlegend=theme.legend_once(shown, name),
        hovertemplate=f"{name}, round %{{x}}: %{{y:.3f}}<extra></extra>",
        col=1,
        **drawn,
    )
    mean = float(np.exp(np.log(ratio).mean()))
    fig.add_hline(mean, line={"color": colour, "width": 1}, row=row, col=1)
    fig.add_scatter(
        y=own["alone"] / own["alone"].median(),
        name=name,
        mode="lines+markers",
        marker={"size": 4, "color": colour},
        line={"width": 0.7, "color": colour},
        showlegend=False,
        hovertemplate=f"{name}, round %{{x}}: %{{y:.3f}} of its median alone<extra></extra>",
        col=2,
        **drawn,
    )

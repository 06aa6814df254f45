"""What to choose: combinations that pay, and how much of the device a tenant needs.

Lives here: figures of points. May touch: plotly. Each function takes :class:`analysis.pooling.Results` and returns a
figure, or None where the data have nothing for it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis import tables
from analysis.frames import rows_of
from analysis.plots import theme
from analysis.pooling import Results, in_order

_FEWEST_CELLS = 4
"""Combinations from which on there is something to choose from."""
_TICKS = [1, 1.2, 1.5, 2, 3, 4, 6, 8, 12, 16]


def combinations(results: Results) -> go.Figure | None:
    """STP against the slowdown of the tenant that is worst off: a point a mix, with the frontier of what is best."""
    frame = tables.combinations(results)
    if len(frame) < _FEWEST_CELLS:
        return None
    fig = go.Figure()
    best = frame[frame["frontier"]].sort_values("stp")
    fig.add_scatter(
        x=best["stp"], y=best["worst_slowdown"], mode="lines", name="no other is better both ways",
        line={"color": theme.FAINT, "dash": "dot", "width": 1.5, "shape": "vh"}, hoverinfo="skip",
    )  # fmt: skip
    for sharing in in_order(frame["sharing"].unique()):
        rows = frame[frame["sharing"] == sharing]
        _, symbol, _, _ = theme.sharing_style(sharing)
        fig.add_scatter(
            x=rows["stp"],
            y=rows["worst_slowdown"],
            mode="markers",
            name=sharing,
            marker={"symbol": symbol, "size": 10, "color": rows["num_tenants"], "coloraxis": "coloraxis",
                    "line": {"color": theme.INK, "width": 0.8}},
            hovertext=[
                f"{r['mix']}, {sharing}<br>STP {theme.interval_text(r, 'stp')}<br>"
                f"worst off {r['worst']}: {theme.interval_text(r, 'worst_slowdown')}"
                for r in rows_of(rows)
            ],
            hoverinfo="text",
        )  # fmt: skip
    theme.figure(fig, height=560)
    theme.reference_line(fig, 1.0, "taking turns")
    ends = np.log10([min(1.0, frame["worst_slowdown"].min()) * 0.95, frame["worst_slowdown"].max() * 1.1])
    _name_frontier(fig, best)
    ticks = sorted(frame["num_tenants"].unique())
    bar = {"title": {"text": "tenants"}, "thickness": 12, "tickvals": [float(np.log2(t)) for t in ticks],
           "ticktext": [str(t) for t in ticks]}  # fmt: skip
    for trace in fig.data[1:]:
        trace.marker.color = np.log2(np.asarray(trace.marker.color, dtype=np.float64))
    fig.update_layout(coloraxis={"colorscale": "Cividis", "colorbar": bar})
    fig.update_xaxes(title_text="STP (tenants alone), higher is better")
    fig.update_yaxes(title_text="slowdown of the tenant that is worst off, lower is better", type="log",
                     tickvals=_TICKS, range=list(ends))  # fmt: skip
    return fig


def _name_frontier(fig: go.Figure, best: pd.DataFrame) -> None:
    """Say which mixes are on the frontier, below their points, so far as there is room."""
    last = -np.inf
    for row in rows_of(best):
        if row["stp"] - last < 0.06 * float(best["stp"].max()):
            continue
        last = row["stp"]
        fig.add_annotation(
            x=row["stp"], y=float(np.log10(row["worst_slowdown"])), text=row["mix"].replace("+", "+<br>"),
            showarrow=False, xanchor="left", yanchor="top", xshift=6, yshift=-4, align="left", font={"size": 10},
        )  # fmt: skip


def shares(results: Results) -> go.Figure | None:
    """Slowdown under MPS percentages: against the whole device alone, and against the same share of it alone."""
    frame = tables.shares(results)
    if frame.empty:
        return None
    names = {"slowdown": "slowdown against the whole device alone"}
    if frame["slowdown_partitioned"].notna().any():
        names["slowdown_partitioned"] = "slowdown against the same share alone"
    fig = make_subplots(1, len(names), shared_yaxes=True, horizontal_spacing=0.04)
    shown: set[str] = set()
    for column, (name, title) in enumerate(names.items(), 1):
        for model, rows in frame.groupby("model", observed=True):
            fig.add_scatter(
                x=rows[name],
                y=rows["place"],
                error_x=theme.error_bars(rows, name),
                mode="markers",
                marker={"color": theme.model_colour(str(model)), "size": 10},
                name=str(model),
                legendgroup=str(model),
                showlegend=theme.legend_once(shown, str(model)),
                hovertext=[f"{r['place']}: {theme.interval_text(r, name)}" for r in rows_of(rows)],
                hoverinfo="text",
                row=1,
                col=column,
            )
        fig.update_xaxes(title_text=title, rangemode="tozero", row=1, col=column)
        theme.reference_line(fig, 1.0, "", row=1, col=column)
    places = list(dict.fromkeys(frame["place"]))
    theme.figure(fig, height=theme.rows_height(len(places)))
    fig.update_yaxes(categoryorder="array", categoryarray=places[::-1], range=[-0.7, len(places) - 0.3])
    fig.update_yaxes(automargin=True)
    return fig

"""How far to trust what was measured: the event timer, and how far runs of the same thing lie apart.

Lives here: figures of the measurement itself. May touch: plotly. Each function takes
:class:`analysis.pooling.Results` and returns a figure, or None where the data have nothing for it.
"""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtexp.colours import FAINT, model_colour

from .. import tables
from ..frames import rows_of
from ..pooling import Results, in_order
from . import theme
from .sharing import crowded

_FEWEST_REPEATED = 3


def repeats(results: Results) -> go.Figure | None:
    """How far the mean latencies of repeated runs of a tenant lie apart: a dot a tenant, a row a sharing mode."""
    frame = tables.tenants(results).dropna(subset="spread_pct")
    if len(frame) < _FEWEST_REPEATED:
        return None
    fig = go.Figure()
    sharings = in_order(frame["sharing"].unique())
    for sharing in sharings:
        own = frame[frame["sharing"] == sharing]
        colour, symbol, _ = theme.sharing_style(sharing)
        fig.add_box(
            x=own["spread_pct"], y=[sharing] * len(own), name=sharing, orientation="h", boxpoints="all", pointpos=0,
            jitter=0.5, fillcolor="rgba(0,0,0,0)", line={"color": colour, "width": 1.4}, showlegend=False,
            marker={"color": colour, "symbol": symbol, "size": 6, "opacity": 0.8}, hoverinfo="text",
            hovertext=[f"{r['label']} in {r['mix']}, {r['repetitions']} runs: {r['spread_pct']:.1f} %"
                       for r in rows_of(own)],
        )  # fmt: skip
    theme.figure(fig, height=110 + 56 * len(sharings), legend="none")
    fig.update_xaxes(title_text="largest - smallest mean latency (% of the mean)", rangemode="tozero")
    fig.update_yaxes(automargin=True, categoryorder="array", categoryarray=sharings[::-1])
    return fig


def event_timer(results: Results) -> go.Figure | None:
    """The slowdown that the CUDA-event timer sees against that of the host clock; on the line they agree."""
    frame = tables.event_timer(results)
    frame = frame[frame["point"].isin(crowded(results)["point"])] if len(frame) else frame
    if frame.empty:
        return None
    sharings = in_order(frame["sharing"].unique())
    rows_, columns = theme.grid(len(sharings))
    fig = make_subplots(rows_, columns, subplot_titles=sharings, shared_yaxes=True, horizontal_spacing=0.03,
                        vertical_spacing=0.34 / rows_)  # fmt: skip
    names = ("slowdown", "timer_slowdown")
    ends = theme.reach(frame, *names)
    shown: set[str] = set()
    for sharing, (row, column) in zip(sharings, theme.positions(len(sharings), columns), strict=True):
        fig.add_scatter(
            x=ends, y=ends, mode="lines", line={"color": FAINT, "dash": "dot", "width": 1},
            name="they agree", showlegend=theme.legend_once(shown, ""), hoverinfo="skip", row=row, col=column,
        )  # fmt: skip
        for model, rows in frame[frame["sharing"] == sharing].groupby("model", observed=True):
            across, up = (theme.error_bars(rows, name) | {"width": 0, "thickness": 0.6} for name in names)
            fig.add_scatter(
                x=rows["slowdown"],
                y=rows["timer_slowdown"],
                error_x=across,
                error_y=up,
                mode="markers",
                name=str(model),
                legendgroup=str(model),
                showlegend=theme.legend_once(shown, str(model)),
                marker={"color": model_colour(str(model)), "size": 8, "opacity": 0.85},
                hovertext=[f"{r['label']} in {r['mix']}: timer hides {r['hidden_pct']:.0f} % of the latency"
                           for r in rows_of(rows)],
                hoverinfo="text",
                row=row,
                col=column,
            )  # fmt: skip
    theme.figure(fig, height=320 * rows_ + 110)
    fig.update_layout(margin={"t": 100})
    fig.update_xaxes(title_text="slowdown (host clock)", **theme.log_axis(*ends, 5))
    fig.update_yaxes(**theme.log_axis(*ends))
    fig.update_yaxes(title_text="slowdown (event timer)", col=1)
    return fig

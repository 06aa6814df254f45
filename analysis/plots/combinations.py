"""What to choose: combinations that pay, and how much of the device a tenant needs.

Lives here: figures of points. May touch: plotly. Each function takes :class:`analysis.pooling.Results` and returns a
figure, or None where the data have nothing for it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtexp.colours import FAINT, model_colour

from .. import tables
from ..frames import rows_of
from ..pooling import Results, in_order
from . import theme

_FEWEST_CELLS = 4
"""Combinations from which on there is something to choose from."""
_FEWEST_SHARES = 2
"""Percentages from which on a figure says more than the table of tenants."""


def combinations(results: Results) -> go.Figure | None:
    """STP against the slowdown of the tenant that is worst off: a point a mix; bars and names for the frontier."""
    frame = tables.combinations(results)
    if len(frame) < _FEWEST_CELLS:
        return None
    fig = go.Figure()
    for sharing in in_order(frame["sharing"].unique()):
        rows = frame[frame["sharing"] == sharing]
        best = rows[rows["frontier"]]
        colour, symbol, _ = theme.sharing_style(sharing)
        fig.add_scatter(
            x=best["stp"], y=best["worst_slowdown"], mode="markers", marker={"opacity": 0}, showlegend=False,
            error_x=theme.error_bars(best, "stp"), error_y=theme.error_bars(best, "worst_slowdown"),
            error_x_color=FAINT, error_y_color=FAINT, hoverinfo="skip",
        )  # fmt: skip
        fig.add_scatter(
            x=rows["stp"],
            y=rows["worst_slowdown"],
            mode="markers",
            name=sharing,
            marker={"symbol": [f"{symbol}-open" if above else symbol for above in rows["above_ideal"]],
                    "size": 7 + 2 * np.log2(rows["num_tenants"]), "color": colour, "opacity": 0.85},
            hovertext=[
                f"{r['mix']}, {sharing}<br>STP {theme.interval_text(r, 'stp')}<br>"
                f"worst off {r['worst']}: {theme.interval_text(r, 'worst_slowdown')}"
                for r in rows_of(rows)
            ],
            hoverinfo="text",
        )  # fmt: skip
    best = frame[frame["frontier"]].sort_values("stp")
    theme.figure(fig, height=520 + 18 * len(best))
    theme.reference_line(fig, 1.0, "taking turns")
    low, high = theme.reach(frame[["worst_slowdown"]], "worst_slowdown")
    low = min(low, theme.reach(best, "worst_slowdown")[0])
    _name_frontier(fig, best)
    axis = theme.log_axis(*theme.reach(frame[["stp"]], "stp"))
    sizes = "; larger symbols have more tenants" if frame["num_tenants"].nunique() > 1 else ""
    fig.update_xaxes(title_text=f"STP (1 = taking turns), higher is better{sizes}", **axis)
    fig.update_yaxes(
        title_text="slowdown of the tenant that is worst off, lower is better", **theme.log_axis(low, high)
    )
    return fig


def _name_frontier(fig: go.Figure, best: pd.DataFrame) -> None:
    """Number the points on the frontier; what they are stands below the axis."""
    for number, row in enumerate(rows_of(best), 1):
        left, below = number % 2 == 1, number % 4 in (1, 2)  # neighbours on the frontier have different corners
        fig.add_annotation(
            x=float(np.log10(row["stp"])), y=float(np.log10(row["worst_slowdown"])), text=f"<b>{number}</b>",
            showarrow=False, xanchor="right" if left else "left", xshift=-7 if left else 7,
            yanchor="top" if below else "bottom", yshift=-3 if below else 3, font={"size": 13},
        )  # fmt: skip
    names = [f"<b>{number}</b> {row['mix']}, {row['sharing']}" for number, row in enumerate(rows_of(best), 1)]
    fig.add_annotation(
        text="<br>".join(names), x=0, y=0, xref="paper", yref="paper", xanchor="left", yanchor="top", yshift=-52,
        align="left", showarrow=False, font={"size": 12},
    )  # fmt: skip
    fig.update_layout(margin={"b": 70 + 18 * len(best)})


def shares(results: Results) -> go.Figure | None:
    """Slowdown under MPS percentages: against the whole device alone, and against the same share of it alone."""
    frame = tables.shares(results)
    if frame["active_thread_pct"].nunique() < _FEWEST_SHARES:
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
                marker={"color": model_colour(str(model)), "size": 10},
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

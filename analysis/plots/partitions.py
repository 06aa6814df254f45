"""SMs as an axis: latency of models alone against SMs, and the same mixes under every sharing mode.

Lives here: figures of partitions. May touch: plotly.
"""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtexp.colours import model_colour

from .. import tables
from ..frames import rows_of
from ..pooling import Results, in_order
from ..sm_curve import MPS, sm_curves
from . import theme


def sm_curve(results: Results) -> go.Figure | None:
    """Latency alone against SMs, a line a model and setting; a ring at its knee, a bar over the knee's interval."""
    curves = sm_curves(results.data)
    if not curves:
        return None
    fig = go.Figure()
    several = len({curve.setting.get("execution") for curve in curves}) > 1
    for curve in curves:
        colour, way = model_colour(curve.model), "" if curve.sharing != MPS else ", MPS percentage"
        name = f"{curve.model}{', ' + curve.setting.get('execution', '') if several else ''}{way}"
        eager = curve.setting.get("execution") == "eager"
        fig.add_scatter(
            x=[point.sms for point in curve.points],
            y=[point.latency_ms for point in curve.points],
            error_y=theme.error_bars_of([(p.latency_ms, p.low_ms, p.high_ms) for p in curve.points]),
            mode="lines+markers",
            name=name,
            legendgroup=name,
            line={"color": colour, "dash": "dot" if way else "dash" if eager else "solid"},
            hovertext=[f"{name}, {p.sms} SMs: {p.latency_ms:.3g} ms, {p.throughput_rps:.3g}/s" for p in curve.points],
            hoverinfo="text",
        )
        low, knee, high = curve.knee_low_sms, curve.knee_sms, curve.knee_high_sms
        fig.add_scatter(
            x=[knee],
            y=[curve.latency_ms(knee)],
            error_x=theme.error_bars_of([(knee, low, high)]),
            mode="markers",
            marker={"symbol": "circle-open", "size": 17, "color": colour, "line": {"width": 2}},
            legendgroup=name,
            showlegend=False,
            hovertext=[f"{name}: knee at {knee} SMs [{low}, {high}]"],
            hoverinfo="text",
        )
    theme.figure(fig, height=460)
    sizes = [point.sms for curve in curves for point in curve.points]
    times = [point.latency_ms for curve in curves for point in curve.points]
    fig.update_xaxes(title_text="SMs", **theme.log_axis(min(sizes), max(sizes)))
    fig.update_yaxes(title_text="latency alone, ms", **theme.log_axis(min(times), max(times)))
    return fig


def one_axis(results: Results) -> go.Figure | None:
    """Mean and p99 slowdown of each tenant of the same mixes, a dot a sharing mode."""
    frame = tables.one_axis(results)
    if frame.empty:
        return None
    frame = frame.assign(place=frame["model"] + " in " + frame["mix"])
    names = {"slowdown": "mean slowdown, lower is better", "slowdown_p99": "p99 slowdown, lower is better"}
    names = {name: title for name, title in names.items() if frame[name].notna().any()}
    fig = make_subplots(1, len(names), shared_yaxes=True, horizontal_spacing=0.04)
    shown: set[str] = set()
    for column, (name, title) in enumerate(names.items(), 1):
        for sharing in in_order(frame["sharing"].unique()):
            rows = frame[frame["sharing"] == sharing].dropna(subset=name)
            colour, symbol, _ = theme.sharing_style(sharing)
            fig.add_scatter(
                x=rows[name],
                y=rows["place"],
                error_x=theme.error_bars(rows, name) | {"color": colour},
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9},
                name=sharing,
                legendgroup=sharing,
                offsetgroup=sharing,
                orientation="h",
                showlegend=theme.legend_once(shown, sharing),
                hovertext=[f"{r['place']}, {sharing}: {theme.interval_text(r, name)}" for r in rows_of(rows)],
                hoverinfo="text",
                row=1,
                col=column,
            )
        fig.update_xaxes(title_text=title, **theme.log_axis(*theme.reach(frame, name)), row=1, col=column)
        theme.reference_line(fig, 1.0, "", row=1, col=column)
    places = list(dict.fromkeys(frame["place"]))
    theme.figure(fig, height=theme.rows_height(len(places), each=20 + 9 * frame["sharing"].nunique()))
    fig.update_layout(scattermode="group", scattergap=0.3)
    fig.update_yaxes(categoryorder="array", categoryarray=places[::-1], automargin=True)
    return fig

"""Who pays and what it is worth: matrix, slowdowns, STP, fairness, energy, the event timer.

Lives here: figures of points. May touch: plotly. Each function takes :class:`analysis.pooling.Results` and returns a
figure, or None where the data have nothing for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtexp.colours import FAINT, model_colour
from mtexp.records import keys

from .. import tables
from ..frames import rows_of
from ..pooling import Results, in_order
from . import theme

_MOST_MIXES = 6
_SPARSE = 3
"""A sharing mode with fewer than one in so many of the pairs that another has gets no panel beside it."""
_MOST_CELLS = 18
"""Cells side by side in which a figure can be read."""


def interference_matrix(results: Results) -> go.Figure | None:
    """Slowdown of each model (row) beside each other (column), a panel a sharing mode."""
    return _heat_maps(tables.matrix_pairs(results), "neighbour", "victim")


def sensitivity(results: Results) -> go.Figure | None:
    """Slowdown of each model (row) beside each stressor (column): which resource it depends on."""
    return _heat_maps(tables.sensitivity(results), "stressor", "model")


def _heat_maps(found: pd.DataFrame, across: str, down: str) -> go.Figure | None:
    if found.empty:
        return None
    cells_of = found["sharing"].value_counts()
    sharings = in_order(cells_of[cells_of >= cells_of.max() / _SPARSE].index.to_numpy())
    without = [
        f"{sharing} ({cells_of[sharing]})" for sharing in in_order(cells_of.index.to_numpy()) if sharing not in sharings
    ]
    found = found[found["sharing"].isin(sharings)]
    victims, neighbours = tables.in_kind_order(found)
    rows, columns = theme.grid(len(sharings), max(1, _MOST_CELLS // len(neighbours)))
    panel_px = max(44 * len(victims), 150) + 120
    fig = make_subplots(
        rows, columns, subplot_titles=sharings, shared_yaxes=True, horizontal_spacing=0.03,
        vertical_spacing=min(0.5, 120 / (rows * panel_px)),
    )  # fmt: skip
    for sharing, place in zip(sharings, theme.positions(len(sharings), columns), strict=True):
        _cells(fig, found[found["sharing"] == sharing], victims, neighbours, place)
    theme.figure(fig, height=rows * panel_px + 60)
    fig.update_layout(coloraxis=theme.slowdown_colours(found["slowdown"].min(), found["slowdown"].max()))
    fig.update_layout(margin={"t": 50, "b": 60 if not without else 160})
    if without:
        fig.add_annotation(
            text=f"Too few pairs for a panel: {', '.join(without)}.", x=0, y=0, yshift=-130, xref="paper", yref="paper",
            xanchor="left", yanchor="top", showarrow=False, font={"size": 12, "color": "#7B8794"},
        )  # fmt: skip
    fig.update_xaxes(showgrid=False, tickangle=35)
    fig.update_xaxes(title_text=across, row=rows)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_yaxes(title_text=f"{down} (pays)", col=1)
    return fig


def _cells(
    fig: go.Figure, found: pd.DataFrame, victims: list[str], neighbours: list[str], place: tuple[int, int]
) -> None:
    """One panel: a cell a pair; its interval under the pointer."""
    cells = {(r["victim"], r["neighbour"]): r for r in rows_of(found)}
    grid = [[cells.get((victim, neighbour)) for neighbour in neighbours] for victim in victims]

    def said(cell: dict[str, Any] | None) -> str:
        if cell is None:
            return "not measured"
        return f"{cell['victim']} beside {cell['neighbour']}: {theme.interval_text(cell, 'slowdown', 3)}"

    fig.add_heatmap(
        x=neighbours,
        y=victims,
        z=[[np.log2(cell["slowdown"]) if cell else None for cell in row] for row in grid],
        text=[[f"{cell['slowdown']:.2f}" if cell else "" for cell in row] for row in grid],
        hovertext=[[said(cell) for cell in row] for row in grid],
        texttemplate="%{text}",
        textfont={"size": 12},
        hoverinfo="text",
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
        row=place[0],
        col=place[1],
    )


def _crowded(results: Results) -> pd.DataFrame:
    """Points in closed loop with two models or more, stressors aside."""
    points = results.points
    plain = np.array(["stressor" not in roles for roles in points["roles"]], dtype=bool)
    return points[(points["num_tenants"] > 1) & points["closed"] & plain]


def _dots(frame: pd.DataFrame, panels: dict[str, dict[str, Any]], reference: float | None) -> go.Figure | None:
    """One row a mix, one symbol a sharing mode, one panel a figure (name -> its axis), with intervals."""
    names = list(panels)
    frame = frame.dropna(subset=names, how="all") if set(names) <= set(frame) else frame.iloc[:0]
    if frame.empty:
        return None
    order = frame.groupby("mix", observed=True)[["num_tenants", names[0]]].mean().sort_values(["num_tenants", names[0]])
    fig = make_subplots(1, len(names), shared_yaxes=True, horizontal_spacing=0.04)
    shown: set[str] = set()
    for column, (name, axis) in enumerate(panels.items(), 1):
        for sharing in in_order(frame["sharing"].unique()):
            rows = frame[frame["sharing"] == sharing].dropna(subset=name)
            shade, symbol, _, _ = theme.sharing_style(sharing)
            fig.add_scatter(
                x=rows[name],
                y=rows["mix"],
                mode="markers",
                name=sharing,
                legendgroup=sharing,
                showlegend=theme.legend_once(shown, sharing),
                marker={"color": shade, "symbol": symbol, "size": 10},
                error_x=theme.error_bars(rows, name),
                hovertext=[f"{r['mix']}, {sharing}: {theme.interval_text(r, name, 3)}" for r in rows_of(rows)],
                hoverinfo="text",
                row=1,
                col=column,
            )
        fig.update_xaxes(**axis, row=1, col=column)
        if axis.get("type") == "log":
            fig.update_xaxes(**theme.log_axis(*theme.reach(frame, name)), row=1, col=column)
        if reference is not None:
            theme.reference_line(fig, reference, "", row=1, col=column)
    theme.figure(fig, height=theme.rows_height(len(order)))
    fig.update_yaxes(categoryorder="array", categoryarray=list(order.index), range=[-0.7, len(order) - 0.3])
    fig.update_yaxes(automargin=True)
    return fig


def stp_by_mix(results: Results) -> go.Figure | None:
    """STP and ANTT of each mix by sharing mode."""
    panels = {
        "stp": {"title_text": "STP (tenants alone), higher is better", "rangemode": "tozero"},
        "antt": {"title_text": "ANTT (slowdown, logarithmic), lower is better", "type": "log"},
    }
    return _dots(_crowded(results), panels, 1.0)


def fairness(results: Results) -> go.Figure | None:
    """Fairness (min / max normalized progress, the noise taken off) of each mix by sharing mode."""
    axis = {"title_text": "fairness (min / max progress), 1 = even"}
    return _dots(_crowded(results), {"fairness": axis}, 1.0)


def energy(results: Results) -> go.Figure | None:
    """Energy per request of each mix by sharing mode."""
    axis = {"title_text": "energy per request (J, logarithmic), lower is better", "type": "log"}
    return _dots(_crowded(results), {"energy_j_per_request": axis}, None)


def slowdown_by_tenant(results: Results) -> go.Figure | None:
    """Slowdown of the mean, and of the tail below it, of every tenant of the largest mixes."""
    frame = tables.tenants(results)
    frame = frame[frame["point"].isin(_crowded(results)["point"])].dropna(subset="slowdown")
    frame = frame[_mixed(results, frame)]
    if frame.empty:
        return None
    if (frame["num_tenants"] > 2).any():
        frame = frame[frame["num_tenants"] > 2]
    largest = frame.groupby("mix", observed=True)["num_tenants"].max().sort_values(ascending=False, kind="stable")
    mixes = list(largest.index[:_MOST_MIXES])
    frame = frame[frame["mix"].isin(mixes)]
    tail = _tail(frame)
    names = ["slowdown", *([tail] if tail else [])]
    fig = make_subplots(
        len(names),
        len(mixes),
        subplot_titles=[mix.replace("+", "+<br>") for mix in mixes],
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=0.07,
        horizontal_spacing=0.02,
        column_widths=[2 + float(largest[mix]) for mix in mixes],
    )
    frame["name"] = frame.groupby("point")["label"].transform(_apart)
    shown: set[str] = set()
    for row, name in enumerate(names, 1):
        for column, mix in enumerate(mixes, 1):
            of_mix = frame[frame["mix"] == mix]
            for sharing in in_order(frame["sharing"].unique()):
                _bars(fig, of_mix[of_mix["sharing"] == sharing], name, sharing, (row, column), shown)
            categories = list(dict.fromkeys(of_mix["name"]))
            fig.update_xaxes(type="category", categoryarray=categories, row=row, col=column)
            fig.update_xaxes(range=[-0.5, len(categories) - 0.5], row=row, col=column)
            known = of_mix.groupby("name", sort=False)[name].count()
            for tenant in known.index[known == 0]:
                fig.add_annotation(
                    text="not bounded", x=tenant, y=0, textangle=-90, yanchor="bottom", yshift=3, showarrow=False,
                    row=row, col=column,
                )  # fmt: skip
            theme.reference_line(fig, 1.0, "", axis="y", row=row, col=column)
        text = "of the mean" if name == "slowdown" else f"of {name.removeprefix('slowdown_')}"
        fig.update_yaxes(title_text=f"slowdown {text}", row=row, col=1)
        fig.update_yaxes(range=[0, 1.05 * theme.reach(frame, name)[1]], row=row)
    theme.figure(fig, height=330 * len(names) + 90)
    fig.update_layout(margin={"t": 110}, barmode="group", legend={"y": 1.12 if len(names) > 1 else 1.2})
    fig.update_xaxes(tickangle=35)
    return fig


def _mixed(results: Results, frame: pd.DataFrame) -> pd.Series[bool]:
    """Tenants of points whose tenants are not all alike."""
    labels = results.points.set_index("point")["labels"]
    return frame["point"].map(lambda point: len(set(labels[point])) > 1).astype(bool)


def _tail(frame: pd.DataFrame) -> str:
    """The highest percentile whose slowdown has an interval for most tenants; empty if none is above the median."""
    for name in ("slowdown_p99", "slowdown_p95", "slowdown_p90"):
        _, high = keys.interval(name)
        if high in frame and frame[high].notna().mean() > 0.5:
            return name
    return ""


def _apart(labels: pd.Series[str]) -> pd.Series[str]:
    """Names of the tenants of a point: labels, counted where several are alike."""
    place, count = labels.groupby(labels).cumcount() + 1, labels.groupby(labels).transform("size")
    return labels.where(count == 1, labels + " #" + place.astype(str))


def _bars(fig: go.Figure, own: pd.DataFrame, name: str, sharing: str, place: tuple[int, int], shown: set[str]) -> None:
    """A bar a tenant in its model's colour, patterned by sharing mode; the legend shows the pattern once."""
    shade, _, pattern, _ = theme.sharing_style(sharing)
    style = {"shape": pattern, "fgcolor": "white", "size": 6, "solidity": 0.35}
    fig.add_bar(
        x=own["name"],
        y=own[name],
        offsetgroup=sharing,
        showlegend=False,
        marker={"color": [model_colour(str(m)) for m in own["model"]], "pattern": style},
        error_y=theme.error_bars(own, name),
        hovertext=[f"{r['label']}, {sharing}: {theme.interval_text(r, name)}" for r in rows_of(own)],
        hoverinfo="text",
        row=place[0],
        col=place[1],
    )
    if theme.legend_once(shown, sharing):
        fig.add_bar(x=[None], y=[None], name=sharing, marker={"color": shade, "pattern": style}, row=1, col=1)


def event_timer(results: Results) -> go.Figure | None:
    """The slowdown that the CUDA-event timer sees against that of the host clock; on the line they agree."""
    frame = tables.event_timer(results)
    frame = frame[frame["point"].isin(_crowded(results)["point"])] if len(frame) else frame
    if frame.empty:
        return None
    sharings = in_order(frame["sharing"].unique())
    rows_, columns = theme.grid(len(sharings))
    fig = make_subplots(rows_, columns, subplot_titles=sharings, shared_yaxes=True, horizontal_spacing=0.03,
                        vertical_spacing=0.25 / rows_)  # fmt: skip
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
    theme.figure(fig, height=340 * rows_ + 100)
    fig.update_xaxes(title_text="slowdown (host clock)", **theme.log_axis(*ends))
    fig.update_yaxes(**theme.log_axis(*ends))
    fig.update_yaxes(title_text="slowdown (event timer)", col=1)
    return fig

"""How many, how fast, doing what: scaling, load curves, tokens, service levels, decode against prefill.

Lives here: figures of factors other than the neighbour, among them every swept number (:func:`curves`). May touch:
plotly. Each function takes :class:`analysis.pooling.Results` and returns a figure, or None where the data have nothing
for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .. import tables
from ..capacity import capacities
from ..costs import tail_of
from ..frames import rows_of
from ..pooling import Results, in_order
from . import theme

_MOST_ROWS = 4
"""Most rows of panels in one figure."""


def scaling(results: Results) -> go.Figure | None:
    """STP, throughput and ANTT against the number of tenants of one model, a row a model, a colour a sharing mode."""
    frame = tables.scaling(results)
    if frame.empty:
        return None
    enough = min(3, int(frame["num_tenants"].max()))  # pairs alone are in the matrix
    frame = frame[frame["label"].isin(frame.loc[frame["num_tenants"] >= enough, "label"])]
    panels = [
        Panel("stp", "STP", "linear", 1.0),
        Panel("throughput_rps", "requests/s"),
        Panel("antt", "ANTT (slowdown)", "log", 1.0),
    ]
    return curves(frame, "num_tenants", "tenants", panels)


def settings(results: Results) -> go.Figure | None:
    """Latency, throughput and slowdown against batch size and sequence length, where they were swept."""
    frame = tables.by_setting(results)
    if frame.empty:
        return None
    panels = [
        Panel("latency_mean_ms", "mean latency (ms)", "log"),
        Panel("throughput_rps", "requests/s", "log"),
        Panel("slowdown", "slowdown", "linear", 1.0),
    ]
    panels = [panel for panel in panels if frame[panel.name].notna().any()]
    return curves(frame, "value", "", panels)


@dataclass(frozen=True, slots=True)
class Panel:
    """A column of :func:`curves`."""

    name: str
    title: str
    scale: str = "linear"
    reference: float | None = None


def curves(frame: pd.DataFrame, across: str, title: str, panels: Sequence[Panel]) -> go.Figure | None:
    """Lines of ``label`` by ``sharing`` against ``across``: a row a label (and ``setting``), a column a panel.

    Args:
        frame: ``label``, ``sharing``, ``across`` and the panels' figures with intervals; optionally ``setting``, the
            title of the horizontal axis of that row.
        across: Column of the horizontal axis, logarithmic.
        title: Of that axis, where there is no ``setting``.
        panels: What to draw.
    """
    frame = frame if "setting" in frame else frame.assign(setting=title)
    rows = list(frame[["label", "setting"]].drop_duplicates().itertuples(index=False, name=None))[:_MOST_ROWS]
    if not rows:
        return None
    titles = [label if column == 0 else "" for label, _ in rows for column in range(len(panels))]
    fig = make_subplots(
        len(rows), len(panels), subplot_titles=titles, horizontal_spacing=0.09, vertical_spacing=0.32 / len(rows)
    )
    shown: set[str] = set()
    for row, (label, setting) in enumerate(rows, 1):
        own = frame[(frame["label"] == label) & (frame["setting"] == setting)]
        ticks = sorted(own[across].unique())
        for column, panel in enumerate(panels, 1):
            for sharing in in_order(own["sharing"].unique()):
                _curve(
                    fig, own[own["sharing"] == sharing].dropna(subset=panel.name), across, panel, (row, column), shown
                )
            fig.update_yaxes(title_text=panel.title, title_standoff=4, row=row, col=column)
            if own[panel.name].notna().any():
                axis = (
                    theme.log_axis(*theme.reach(own, panel.name), 6)
                    if panel.scale == "log"
                    else {"rangemode": "tozero"}
                )
                fig.update_yaxes(**axis, row=row, col=column)
            if panel.reference is not None:
                theme.reference_line(fig, panel.reference, "", axis="y", row=row, col=column)
        texts = [f"{tick:g}" for tick in ticks]
        fig.update_xaxes(title_text=setting, type="log", tickvals=ticks, ticktext=texts, row=row)
    for note in fig.layout.annotations:
        if note.text:
            note.update(x=0, xanchor="left")
    theme.figure(fig, height=270 * len(rows) + 110)
    fig.update_layout(margin={"t": 72})
    return fig


def _curve(
    fig: go.Figure, line: pd.DataFrame, across: str, panel: Panel, place: tuple[int, int], shown: set[str]
) -> None:
    if line.empty:
        return
    sharing = str(line["sharing"].iloc[0])
    colour, symbol, dash = theme.sharing_style(sharing)
    line = line.sort_values(across)
    fig.add_scatter(
        x=line[across],
        y=line[panel.name],
        error_y=theme.error_bars(line, panel.name) | {"color": colour, "width": 0},
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2},
        marker={"symbol": symbol, "size": 8, "color": colour},
        name=sharing,
        legendgroup=sharing,
        showlegend=theme.legend_once(shown, sharing),
        hovertext=[f"{sharing}, {r[across]:g}: {theme.interval_text(r, panel.name)}" for r in rows_of(line)],
        hoverinfo="text",
        row=place[0],
        col=place[1],
    )


_ALONE = "alone at the same arrivals"


def has_alone(results: Results) -> bool:
    """Whether a tenant in open loop was also measured alone at the same arrivals."""
    return bool(tables.load_curve(results)["alone_latency_p50_ms"].notna().any())


def has_saturated(results: Results) -> bool:
    """Whether a tenant in open loop could not keep up."""
    return bool((tables.load_curve(results)["saturated"] == 1).any())


def latency_load(results: Results) -> go.Figure | None:
    """Median and tail of latency against the rate at which requests come; a panel a model, a colour a sharing mode.

    In black the same of the tenant alone at the same arrivals, where that was measured. The service level is a line; a
    rate that a tenant could not keep up with is a cross at the top.
    """
    frame = tables.load_curve(results)
    kept = frame[frame["latency_p50_ms"].notna()]
    if len(kept) < 2 or kept["offered_rps"].nunique() < 2:
        return None
    panels = list(kept[["model", "neighbours"]].drop_duplicates().itertuples(index=False, name=None))
    rows, columns = theme.grid(len(panels), 2)
    titles = [model if beside == "alone" else f"{model}<br>beside {beside}" for model, beside in panels]
    fig = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.4 / rows, horizontal_spacing=0.1)
    shown: set[str] = set()
    for (model, beside), place in zip(panels, theme.positions(len(panels), columns), strict=True):
        own = frame[(frame["model"] == model) & (frame["neighbours"] == beside)].sort_values("offered_rps")
        tail = tail_of(own)
        levels = own["slo_ms"][own["slo_ms"] > 0].unique()
        shown_too = [f"{before}latency_{name}_ms" for before in ("", "alone_") for name in ("p50", tail)]
        values = own.reindex(columns=shown_too).to_numpy(float)
        top = float(np.nanmax([np.nanmax(values), *levels]))
        for sharing in in_order(own["sharing"].unique()):
            for name in dict.fromkeys(("latency_p50_ms", f"latency_{tail}_ms")):
                _load_line(fig, own[own["sharing"] == sharing].dropna(subset=name), name, place, shown)
            late = own[(own["sharing"] == sharing) & (own["saturated"] == 1)]
            _say_late(fig, late, sharing, top, place, shown)
        for name in dict.fromkeys(("alone_latency_p50_ms", f"alone_latency_{tail}_ms")):
            _load_line(fig, own.assign(sharing=_ALONE).dropna(subset=name), name, place, shown)
        for level in levels:
            theme.reference_line(fig, float(level), f"level {level:g} ms", axis="y", row=place[0], col=place[1])
        low = float(np.nanmin(values))
        fig.update_yaxes(**theme.log_axis(low, top * 1.1), row=place[0], col=place[1])
    theme.figure(fig, height=340 * rows + 100)
    fig.update_layout(margin={"t": 100})
    fig.update_xaxes(title_text="offered load (requests/s)", rangemode="tozero")
    fig.update_yaxes(title_text="latency from arrival (ms)", col=1)
    return fig


def _load_line(fig: go.Figure, line: pd.DataFrame, name: str, place: tuple[int, int], shown: set[str]) -> None:
    """A percentile against the rate in the colour of the sharing mode: the median dotted and open, the tail solid."""
    if line.empty:
        return
    sharing, percentile = str(line["sharing"].iloc[0]), name.split("_")[-2]
    colour, symbol, _ = (theme.INK, "circle", "") if sharing == _ALONE else theme.sharing_style(sharing)
    median = percentile == "p50"
    legend = f"{sharing}, {percentile}"
    fig.add_scatter(
        x=line["offered_rps"],
        y=line[name],
        mode="lines+markers",
        line={"color": colour, "dash": "dot" if median else "solid", "width": 2},
        marker={"symbol": f"{symbol}-open" if median else symbol, "size": 8, "color": colour},
        name=legend,
        legendgroup=legend,
        showlegend=theme.legend_once(shown, legend),
        hovertemplate=f"{legend}: %{{y:.2f}} ms at %{{x:.0f}} requests/s<extra></extra>",
        row=place[0],
        col=place[1],
    )


def _say_late(
    fig: go.Figure, late: pd.DataFrame, sharing: str, top: float, place: tuple[int, int], shown: set[str]
) -> None:
    if late.empty:
        return
    legend = f"{sharing}, cannot keep up"
    fig.add_scatter(
        x=late["offered_rps"],
        y=[top] * len(late),
        mode="markers",
        marker={"symbol": "x", "size": 10, "color": theme.sharing_style(sharing)[0]},
        name=legend,
        legendgroup=legend,
        showlegend=theme.legend_once(shown, legend),
        row=place[0],
        col=place[1],
    )


def tokens(results: Results) -> go.Figure | None:
    """Median time to first token and per output token of generating tenants in closed loop, alone and beside others."""
    frame = tables.tenants(results).dropna(subset="ttft_p50_ms")
    frame = frame[frame["point"].isin(results.points.loc[results.points["closed"].astype(bool), "point"])]
    if frame.empty:
        return None
    frame = _with_neighbours(results, frame)
    alone = results.alone.runs.reindex(columns=["model", "workload", "ttft_p50_ms", "tpot_p50_ms"])
    alone = alone.dropna(subset="ttft_p50_ms").assign(
        sharing="alone", neighbour="alone", label=lambda own: own["model"]
    )
    frame = pd.concat([frame, alone], ignore_index=True)
    return _grouped(frame, ["ttft_p50_ms", "tpot_p50_ms"], ["TTFT, median (ms)", "TPOT, median (ms)"])


def slo_attainment(results: Results) -> go.Figure | None:
    """Share of requests within the service level of each tenant that has one."""
    frame = tables.tenants(results).dropna(subset="slo_attainment_pct")
    if frame.empty:
        return None
    fig = _grouped(_with_neighbours(results, frame), ["slo_attainment_pct"], ["requests within the service level (%)"])
    return fig.update_xaxes(range=[0, 103]) if fig is not None else None


def capacity(results: Results) -> go.Figure | None:
    """What each search for a capacity came to: from the highest value kept (dot) to the lowest missed (end).

    One search is a sentence, not a figure.
    """
    frame = capacities(results.data).drop_duplicates("search").dropna(subset="kept")
    if len(frame) < 2:
        return None
    fig = go.Figure()
    for (sharing, by), rows in frame.groupby(["sharing", "by"], observed=True):
        colour, symbol, _ = theme.sharing_style(str(sharing))
        unit = "load" if by == "load" else "requests/s"
        fig.add_scatter(
            x=rows["kept"],
            y=rows["mix"],
            error_x={"array": rows["missed"] - rows["kept"], "arrayminus": [0.0] * len(rows), "symmetric": False},
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 10},
            name=f"{sharing}, {unit}",
            hovertext=[
                f"{r['mix']}, {sharing}: {unit} {r['kept']:.3g} kept, {r['missed']:.3g} missed ({r['probes']} runs)"
                for r in rows_of(rows)
            ],
            hoverinfo="text",
        )
    theme.figure(fig, height=theme.rows_height(frame["mix"].nunique(), each=40))
    fig.update_xaxes(title_text="load of every tenant (share of its own baseline), or requests/s", rangemode="tozero")
    fig.update_yaxes(automargin=True)
    return fig


def beside_same(results: Results) -> pd.DataFrame:
    """Tenants of pairs whose model was measured doing different work beside the same ``neighbour``."""
    frame = tables.tenants(results)
    frame = frame[frame["point"].isin(results.points.loc[results.points["closed"], "point"])]
    frame = _with_neighbours(results, frame[frame["num_tenants"] == 2].dropna(subset="slowdown"))
    kinds = results.tenants.set_index(["point", "position"])["workload"]
    frame["workload"] = [kinds[place] for place in zip(frame["point"], frame["position"], strict=True)]
    several = frame.groupby(["model", "neighbour", "sharing"], observed=True)["workload"].transform("nunique") > 1
    return frame[several & (frame["label"] != frame["neighbour"]) & (frame["role"] != "stressor")]


def workloads(results: Results) -> go.Figure | None:
    """Slowdown of a model by what it does (decode, prefill, forward ...) beside the same neighbour."""
    frame = beside_same(results)
    if frame.empty:
        return None
    fig = _grouped(frame, ["slowdown"], ["slowdown of the mean"])
    if fig is not None:
        theme.reference_line(fig, 1.0, "alone")
    return fig


def _grouped(frame: pd.DataFrame, names: list[str], titles: list[str]) -> go.Figure | None:
    """Dots: a row a tenant with its neighbours, a colour a sharing mode, a panel a figure; None for one row."""
    frame = frame.sort_values(["model", "neighbour", "label"], ascending=False, kind="stable")
    frame["place"] = [_place(row) for row in rows_of(frame)]
    if len(frame) < 2:
        return None
    places = list(dict.fromkeys(frame["place"]))
    fig = make_subplots(1, len(names), shared_yaxes=True, horizontal_spacing=0.05)
    shown: set[str] = set()
    for column, name in enumerate(names, 1):
        for sharing in in_order(frame["sharing"].unique()):
            own = frame[frame["sharing"] == sharing].drop_duplicates("place").dropna(subset=name)
            colour, symbol, _ = theme.sharing_style(sharing)
            fig.add_scatter(
                y=own["place"],
                x=own[name],
                mode="markers",
                error_x=theme.error_bars(own, name) | {"color": colour, "width": 0},
                name=sharing,
                legendgroup=sharing,
                showlegend=theme.legend_once(shown, sharing),
                marker={"color": colour, "symbol": symbol, "size": 10},
                hovertext=[f"{r['place']}, {sharing}: {theme.interval_text(r, name)}" for r in rows_of(own)],
                hoverinfo="text",
                row=1,
                col=column,
            )
        fig.update_xaxes(title_text=titles[column - 1], rangemode="tozero", row=1, col=column)
    theme.figure(fig, height=theme.rows_height(len(places), each=28, least=200, frame=130))
    fig.update_yaxes(categoryorder="array", categoryarray=places, range=[-0.7, len(places) - 0.3], automargin=True)
    return fig


def _place(row: dict[str, object]) -> str:
    return f"{row['label']} alone" if row["neighbour"] == "alone" else f"{row['label']} beside {row['neighbour']}"


def _with_neighbours(results: Results, frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` (rows of :func:`analysis.tables.tenants`) with the labels of each tenant's neighbours."""
    labels = results.points.set_index("point")["labels"]
    found = [
        " + ".join(label for index, label in enumerate(labels[point]) if index != position) or "alone"
        for point, position in zip(frame["point"], frame["position"], strict=True)
    ]
    return frame.assign(neighbour=found)

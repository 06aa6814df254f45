"""How many, how fast, doing what: scaling, load curves, tokens, service levels, decode against prefill.

Lives here: figures of factors other than the neighbour. May touch: plotly. Each function takes
:class:`analysis.pooling.Results` and returns a figure, or None where the data have nothing for it.
"""

from __future__ import annotations

import itertools

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtexp.colours import model_colour, shades

from .. import tables
from ..capacity import capacities
from ..frames import rows_of
from ..pooling import Results, in_order
from . import theme

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def scaling(results: Results) -> go.Figure | None:
    """STP, throughput and ANTT against the number of tenants of one model, by sharing mode."""
    frame = tables.scaling(results)
    if frame.empty:
        return None
    enough = min(3, int(frame["num_tenants"].max()))  # pairs alone are in the matrix
    frame = frame[frame["label"].isin(frame.loc[frame["num_tenants"] >= enough, "label"])]
    names = ["stp", "throughput_rps", "antt"]
    titles = ["STP (tenants alone)", "throughput (requests/s)", "ANTT (slowdown, logarithmic)"]
    fig = make_subplots(1, 3, horizontal_spacing=0.08)
    models = dict(zip(frame["label"], frame["model"], strict=True))
    colours = dict(zip(models, shades(list(models.values())), strict=True))
    shown: set[str] = set()
    for column, name in enumerate(names, 1):
        for (label, sharing), rows in frame.groupby(["label", "sharing"], observed=True):
            rows = rows.dropna(subset=name)
            _, symbol, _, dash = theme.sharing_style(str(sharing))
            symbol += "" if label == models[label] else "-open"
            legend = f"{label}, {sharing}"
            fig.add_scatter(
                x=rows["num_tenants"],
                y=rows[name],
                error_y=theme.error_bars(rows, name),
                mode="lines+markers",
                line={"color": colours[label], "dash": dash, "width": 2},
                marker={"symbol": symbol, "size": 8},
                name=legend,
                legendgroup=legend,
                showlegend=theme.legend_once(shown, legend),
                hovertext=[f"{legend}, {r['num_tenants']} tenants: {theme.interval_text(r, name)}"
                           for r in rows_of(rows)],
                hoverinfo="text",
                row=1,
                col=column,
            )  # fmt: skip
        fig.update_yaxes(title_text=titles[column - 1], rangemode="tozero", row=1, col=column)
    ticks = sorted(frame["num_tenants"].unique())
    theme.reference_line(fig, 1.0, "", axis="y", row=1, col=1)
    theme.reference_line(fig, 1.0, "", axis="y", row=1, col=3)
    theme.figure(fig, height=440)
    fig.update_yaxes(**theme.log_axis(*theme.reach(frame, "antt")), row=1, col=3)
    fig.update_xaxes(title_text="tenants", type="log", tickvals=ticks, ticktext=[str(t) for t in ticks])
    return fig


def latency_load(results: Results) -> go.Figure | None:
    """Latency against the rate at which requests come, with and without each neighbour; a panel a model."""
    frame = tables.load_curve(results)
    frame = frame[frame["latency_p50_ms"].notna()]
    if frame.empty:
        return None
    tail = _common_tail(frame)
    models = sorted(frame["model"].unique())
    rows, columns = theme.grid(len(models))
    fig = make_subplots(rows, columns, subplot_titles=models, vertical_spacing=0.2)
    dashes = dict(zip(frame["neighbours"].unique(), itertools.cycle(_DASHES)))
    shown: set[str] = set()
    for model, (row, column) in zip(models, theme.positions(len(models), columns), strict=True):
        own = frame[frame["model"] == model]
        for (sharing, neighbours), line in own.groupby(["sharing", "neighbours"], observed=True):
            style = dashes[str(neighbours)], theme.sharing_style(str(sharing))[1]
            line = line.sort_values("offered_rps")
            _load_line(fig, line, "latency_p50_ms", model_colour(model), style, (row, column))
            _load_line(fig, line, f"latency_{tail}_ms", model_colour(model), style, (row, column))
            name = f"{neighbours}, {sharing}" if neighbours == "alone" else f"beside {neighbours}, {sharing}"
            if theme.legend_once(shown, name):
                key = {"line": {"color": theme.INK, "dash": style[0]}, "marker": {"symbol": style[1], "size": 7}}
                fig.add_scatter(x=[None], y=[None], mode="lines+markers", name=name, **key, row=1, col=1)
        ends = theme.reach(own, "latency_p50_ms", f"latency_{tail}_ms")
        fig.update_yaxes(**theme.log_axis(*ends), row=row, col=column)
    theme.figure(fig, height=340 * rows + 100)
    fig.update_xaxes(title_text="offered load (requests/s)", rangemode="tozero")
    fig.update_yaxes(title_text=f"latency from arrival (ms)<br>p50 filled, {tail} open", col=1)
    return fig


def _load_line(
    fig: go.Figure, line: pd.DataFrame, name: str, colour: str, style: tuple[str, str], place: tuple[int, int]
) -> None:
    """A percentile against the rate, in the colour of the model that is measured; the median is the heavier line."""
    dash, symbol = style
    median = name == "latency_p50_ms"
    fig.add_scatter(
        x=line["offered_rps"],
        y=line[name],
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2 if median else 1},
        marker={"symbol": symbol if median else f"{symbol}-open", "size": 8},
        showlegend=False,
        hovertemplate=f"{name.split('_')[1]}: %{{y:.2f}} ms at %{{x:.0f}} requests/s<extra></extra>",
        row=place[0],
        col=place[1],
    )


def _common_tail(frame: pd.DataFrame) -> str:
    """The highest percentile that most rows support."""
    for name in ("p99", "p95", "p90"):
        if frame[f"latency_{name}_ms"].notna().mean() > 0.5:
            return name
    return "p50"


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
    fig.update_xaxes(range=[0, 103])
    return fig


def capacity(results: Results) -> go.Figure | None:
    """What each search for a capacity came to: from the highest value kept (dot) to the lowest missed (end)."""
    frame = capacities(results.data).drop_duplicates("search").dropna(subset="kept")
    if frame.empty:
        return None
    fig = go.Figure()
    for (sharing, by), rows in frame.groupby(["sharing", "by"], observed=True):
        colour, symbol, _, _ = theme.sharing_style(str(sharing))
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


def workloads(results: Results) -> go.Figure | None:
    """Slowdown of a model by what it does (decode, prefill, forward ...) beside the same neighbour."""
    frame = tables.tenants(results)
    frame = frame[frame["point"].isin(results.points.loc[results.points["closed"], "point"])]
    frame = _with_neighbours(results, frame[frame["num_tenants"] == 2].dropna(subset="slowdown"))
    several = frame.groupby(["model", "neighbour", "sharing"], observed=True)["label"].transform("nunique") > 1
    frame = frame[several & (frame["label"] != frame["neighbour"]) & (frame["role"] != "stressor")]
    if frame.empty:
        return None
    fig = _grouped(frame, ["slowdown"], ["slowdown of the mean"])
    theme.reference_line(fig, 1.0, "")
    return fig


def _grouped(frame: pd.DataFrame, names: list[str], titles: list[str]) -> go.Figure:
    """Bars: a row a tenant with its neighbours, a bar a sharing mode, its colour the model's; a panel a figure."""
    fig = make_subplots(1, len(names), shared_yaxes=True, horizontal_spacing=0.05)
    shown: set[str] = set()
    sharings = in_order(frame["sharing"].unique())
    frame = frame.sort_values(["model", "neighbour", "label"], ascending=False, kind="stable")
    frame["place"] = [_place(row) for row in rows_of(frame)]
    for column, name in enumerate(names, 1):
        for sharing in sharings:
            own = frame[frame["sharing"] == sharing].drop_duplicates("place")
            shade, _, pattern, _ = theme.sharing_style(sharing)
            style = {"shape": pattern, "fgcolor": "white", "size": 6, "solidity": 0.35}
            fig.add_bar(
                y=own["place"],
                x=own[name],
                orientation="h",
                error_x=theme.error_bars(own, name),
                offsetgroup=sharing,
                showlegend=False,
                marker={"color": [model_colour(str(m)) for m in own["model"]], "pattern": style},
                hovertext=[f"{r['place']}, {sharing}: {theme.interval_text(r, name)}" for r in rows_of(own)],
                hoverinfo="text",
                row=1,
                col=column,
            )
            if theme.legend_once(shown, sharing):
                key = {"color": shade, "pattern": style}
                fig.add_bar(y=[None], x=[None], orientation="h", name=sharing, marker=key, row=1, col=1)
        fig.update_xaxes(title_text=titles[column - 1], rangemode="tozero", row=1, col=column)
    theme.figure(fig, height=theme.rows_height(frame["place"].nunique(), each=14 + 14 * len(sharings)))
    fig.update_layout(barmode="group")
    fig.update_yaxes(automargin=True)
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

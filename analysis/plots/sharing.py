"""Who pays and what it is worth: matrix, slowdowns, STP, fairness, energy, kinds of pairs.

Lives here: figures of points. May touch: plotly. Each function takes :class:`analysis.pooling.Results` and returns a
figure, or None where the data have nothing for it: one row is a sentence, not a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtexp.colours import FAINT
from mtexp.records import keys

from .. import tables
from ..costs import ENERGY, energy_against_turns
from ..frames import rows_of
from ..pooling import Results, in_order
from . import theme

_MOST_MIXES = 6
_MOST_ROWS = 60
_PAGE_PX = 860
"""Height into which the rows of a figure are fitted, so that it stays whole on paper."""
_FAINT_INK = "#52606D"


def stp_by_mix(results: Results) -> go.Figure | None:
    """STP of each pair, and of each larger mix by tenant, by sharing mode."""
    frame = crowded(results)
    frame = frame.dropna(subset="stp") if "stp" in frame else frame.iloc[:0]
    if frame["mix"].nunique() < 2 and frame["sharing"].nunique() < 2:
        return None
    parts = [
        ("pairs: STP of 2, higher is better", "stp", frame[frame["num_tenants"] == 2]),
        ("larger mixes: STP / tenants, higher is better", "stp_each", _each(frame[frame["num_tenants"] > 2])),
    ]
    parts = [part for part in parts if len(part[2])]
    orders = [_order(own, name) for _, name, own in parts]
    rows = sum(len(order) for order in orders)
    heights = [len(order) + 1.0 for order in orders]
    height = _height(rows, 90 + 75 * len(parts))
    fig = make_subplots(len(parts), 1, row_heights=heights, vertical_spacing=min(0.5, 84 / height))
    shown: set[str] = set()
    for row, ((title, name, own), order) in enumerate(zip(parts, orders, strict=True), 1):
        if name == "stp_each":
            turns = own.drop_duplicates("mix")
            fig.add_scatter(
                x=1 / turns["num_tenants"], y=turns["mix"], mode="markers", name="taking turns", hoverinfo="skip",
                marker={"symbol": "line-ns", "size": 13, "line": {"color": FAINT, "width": 2}}, row=row, col=1,
            )  # fmt: skip
        _mode_dots(fig, own, name, (row, 1), shown)
        fig.update_yaxes(categoryorder="array", categoryarray=order, range=[-0.7, len(order) - 0.3], row=row, col=1)
        lines = {1.0: "taking turns", 2.0: "no interference"} if name == "stp" else {1.0: "no interference"}
        for line, said in lines.items():
            theme.reference_line(fig, line, said, row=row, col=1)
        fig.update_xaxes(title_text=title, range=theme.span(own, name, *lines), row=row, col=1)
    theme.figure(fig, height=height)
    fig.update_layout(margin={"t": 78}, scattermode="group", scattergap=0.35)
    fig.update_yaxes(automargin=True)
    return fig


def _each(frame: pd.DataFrame) -> pd.DataFrame:
    """STP by tenant, so that mixes of different sizes have one axis."""
    names = tables.with_intervals(("stp",))
    each = frame.reindex(columns=names).div(frame["num_tenants"], axis=0)
    return frame.assign(**{name.replace("stp", "stp_each", 1): each[name] for name in names})


def _order(frame: pd.DataFrame, name: str) -> list[str]:
    """Mixes from bottom to top, by the mean over sharing modes."""
    return list(frame.groupby("mix", observed=True)[name].mean().sort_values().index)


def _height(rows: int, frame: int) -> int:
    """Height of a figure with so many rows: roomy for few, dense for many."""
    return frame + max(90, min(26 * rows, max(_PAGE_PX, 15 * rows)))


def _mode_dots(fig: go.Figure, frame: pd.DataFrame, name: str, place: tuple[int, int], shown: set[str]) -> None:
    """A dot a mix in each sharing mode's colour, with its interval; open where STP exceeds the tenants."""
    for sharing in in_order(frame["sharing"].unique()):
        rows = frame[frame["sharing"] == sharing].dropna(subset=name)
        colour, symbol, _ = theme.sharing_style(sharing)
        above = rows["above"] if "above" in rows else [False] * len(rows)
        fig.add_scatter(
            x=rows[name],
            y=rows["mix"],
            mode="markers",
            name=sharing,
            legendgroup=sharing,
            offsetgroup=sharing,
            orientation="h",
            showlegend=theme.legend_once(shown, sharing),
            marker={"color": colour, "symbol": [f"{symbol}-open" if own else symbol for own in above], "size": 8},
            error_x=theme.error_bars(rows, name) | {"color": colour, "width": 0, "thickness": 1.1},
            hovertext=[f"{r['mix']}, {sharing}: {theme.interval_text(r, name)}" for r in rows_of(rows)],
            hoverinfo="text",
            row=place[0],
            col=place[1],
        )


def _rows_of_mixes(
    frame: pd.DataFrame, name: str, axis: dict[str, Any], reference: str, *, lower: bool = False
) -> go.Figure | None:
    """One row a mix, the best on top (the lowest with ``lower``), a dot a sharing mode; None for fewer than two."""
    frame = frame.dropna(subset=name)
    if len(frame) < 2 or (frame["mix"].nunique() < 2 and frame["sharing"].nunique() < 2):
        return None
    order = _order(frame, name)[:: -1 if lower else 1]
    cut = f"; the best {_MOST_ROWS} of {len(order)} mixes" if len(order) > _MOST_ROWS else ""
    order = order[-_MOST_ROWS:]
    frame = frame[frame["mix"].isin(order)]
    fig = go.Figure(make_subplots(1, 1))
    _mode_dots(fig, frame, name, (1, 1), set())
    theme.figure(fig, height=_height(len(order), 130))
    fig.update_layout(margin={"t": 78}, scattermode="group", scattergap=0.35)
    theme.reference_line(fig, 1.0, reference, row=1, col=1)
    fig.update_xaxes(range=theme.span(frame, name, 1.0))
    fig.update_yaxes(categoryorder="array", categoryarray=order, range=[-0.7, len(order) - 0.3], automargin=True)
    fig.update_xaxes(**axis | {"title_text": f"{axis['title_text']}{cut}"})
    return fig


def fairness(results: Results) -> go.Figure | None:
    """Fairness (min / max normalized progress, the noise taken off) of each mix by sharing mode."""
    axis = {"title_text": "fairness (least / most progress), 1 = even"}
    found = crowded(results)
    return _rows_of_mixes(found, "fairness", axis, "even") if "fairness" in found else None


def energy(results: Results) -> go.Figure | None:
    """Energy of the requests of each mix against the same requests served in turns, by sharing mode."""
    found = energy_against_turns(results)
    axis = {"title_text": "energy shared / energy in turns, lower is better"}
    return _rows_of_mixes(found, ENERGY, axis, "in turns", lower=True)


_KIND_NAMES = {"encoder": "two encoders", "decoder": "two decoders", "mixed": "one of each"}


def kinds(results: Results) -> go.Figure | None:
    """STP of every pair by its kind (two encoders, two decoders, one of each), a colour a sharing mode."""
    points = crowded(results)
    points = points[points["num_tenants"] == 2].dropna(subset="stp") if "stp" in points else points.iloc[:0]
    plain = [set(roles) <= {"encoder", "decoder"} for roles in points["roles"]]
    points = points[np.array(plain, dtype=bool)]
    kind = [str(roles[0]) if len(set(roles)) == 1 else "mixed" for roles in points["roles"]]
    points = points.assign(kind=kind)
    several = points.groupby("sharing", observed=True)["kind"].transform("nunique") > 1
    points = points[several & points.groupby(["sharing"], observed=True)["kind"].transform("size").gt(5)]
    if points.empty:
        return None
    fig = go.Figure()
    for sharing in in_order(points["sharing"].unique()):
        own = points[points["sharing"] == sharing]
        colour, symbol, _ = theme.sharing_style(sharing)
        fig.add_box(
            x=own["stp"], y=[_KIND_NAMES[name] for name in own["kind"]], name=sharing, orientation="h",
            boxpoints="all", pointpos=0, jitter=0.5, fillcolor="rgba(0,0,0,0)",
            line={"color": colour, "width": 1.4}, marker={"color": colour, "symbol": symbol, "size": 6, "opacity": 0.8},
            hovertext=[f"{r['mix']}, {sharing}: STP {theme.interval_text(r, 'stp')}" for r in rows_of(own)],
            hoverinfo="text",
        )  # fmt: skip
    rows = points["kind"].nunique() * points["sharing"].nunique()
    theme.figure(fig, height=170 + 34 * rows)
    theme.reference_line(fig, 1.0, "taking turns")
    theme.reference_line(fig, 2.0, "no interference")
    fig.update_layout(boxmode="group")
    fig.update_xaxes(title_text="STP of 2, higher is better")
    fig.update_yaxes(automargin=True)
    return fig


# --- heat maps --------------------------------------------------------------------------------------------------------

_SPARSE = 3
"""A sharing mode with fewer than one in so many of the pairs that another has gets no panel beside it."""
_MOST_CELLS = 18
"""Cells side by side in which a figure can be read."""


def interference_matrix(results: Results) -> go.Figure | None:
    """Slowdown of each model (row) beside each other (column), a panel a sharing mode."""
    return _heat_maps(tables.matrix_pairs(results), "neighbour", "victim")


def sensitivity(results: Results) -> go.Figure | None:
    """Slowdown of each model (row) beside each stressor (column): which resource it depends on."""
    found = tables.sensitivity(results)
    return _heat_maps(found, "stressor", "model") if found["victim"].nunique() > 1 else None


def _heat_maps(found: pd.DataFrame, across: str, down: str) -> go.Figure | None:
    if found["victim"].nunique() < 2:
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
    names_px = 48 + 4.6 * max(map(len, neighbours))  # slanted, and the title below them
    below_px = names_px + (46 if without else 0)
    theme.figure(fig, height=int(rows * panel_px + below_px - 60))
    fig.update_layout(coloraxis=theme.slowdown_colours(found["slowdown"].min(), found["slowdown"].max()))
    fig.update_layout(margin={"t": 50, "b": below_px})
    if without:
        fig.add_annotation(
            text=f"Too few pairs for a panel: {', '.join(without)}.", x=0, y=0, yshift=-names_px - 14, xref="paper",
            yref="paper", xanchor="left", yanchor="top", showarrow=False, font={"size": 12, "color": _FAINT_INK},
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


# --- tenants ----------------------------------------------------------------------------------------------------------


def crowded(results: Results) -> pd.DataFrame:
    """Points in closed loop with two models or more, stressors aside; ``above``: more STP than tenants."""
    points = results.points
    plain = np.array(["stressor" not in roles for roles in points["roles"]], dtype=bool)
    found = tables.on_whole_device(points[(points["num_tenants"] > 1) & points["closed"] & plain], ("stp", "antt"))
    return found.assign(above=found["stp"] > found["num_tenants"]) if "stp" in found else found


def has_above_ideal(results: Results) -> bool:
    """Whether a point has more STP than tenants, an open symbol."""
    found = crowded(results)
    return bool(found["above"].any()) if "above" in found else False


def slowed(results: Results) -> pd.DataFrame:
    """Tenants with a slowdown, in closed loop beside others; stressors aside."""
    frame = tables.tenants(results)
    return frame[frame["point"].isin(crowded(results)["point"])].dropna(subset="slowdown")


def largest_mixes(results: Results) -> pd.DataFrame:
    """Tenants of the largest mixes of different models, pairs only where nothing is larger; the most slowed first."""
    frame = slowed(results)
    frame = frame[_mixed(results, frame)]
    if (frame["num_tenants"] > 2).any():
        frame = frame[frame["num_tenants"] > 2]
    largest = frame.groupby("mix", observed=True)[["num_tenants", "slowdown"]].max()
    largest = largest.sort_values(["num_tenants", "slowdown"], ascending=False, kind="stable")
    order = {mix: place for place, mix in enumerate(largest.index[:_MOST_MIXES])}
    frame = frame[frame["mix"].isin(order)]
    return frame.sort_values("mix", key=lambda mixes: mixes.map(order), kind="stable")


def slowdown_by_tenant(results: Results) -> go.Figure | None:
    """Slowdown of the mean, and of the tail beside it, of every tenant of the largest mixes; a panel a mix."""
    frame = largest_mixes(results)
    if frame.empty or frame["label"].nunique() < 2:
        return None
    mixes = list(dict.fromkeys(frame["mix"]))
    tail = _tail(frame)
    names = ["slowdown", *([tail] if tail else [])]
    frame["mix_name"], frame["mix"] = frame["mix"], frame.groupby("point")["label"].transform(_apart)
    counts = [frame.loc[frame["mix_name"] == mix, "mix"].nunique() for mix in mixes]
    fig = make_subplots(
        len(mixes), len(names), shared_xaxes=True, row_heights=[count + 0.6 for count in counts],
        vertical_spacing=min(0.9 / max(len(mixes) - 1, 1), 34 / _height(sum(counts), 40 * len(mixes))),
        horizontal_spacing=0.03, subplot_titles=[text for mix in mixes for text in (mix, *[""] * (len(names) - 1))],
    )  # fmt: skip
    shown: set[str] = set()
    for row, mix in enumerate(mixes, 1):
        own = frame[frame["mix_name"] == mix]
        order = list(dict.fromkeys(own["mix"]))[::-1]
        for column, name in enumerate(names, 1):
            _mode_dots(fig, own, name, (row, column), shown)
            theme.reference_line(fig, 1.0, "", row=row, col=column)
            _say_unbounded(fig, own, name, (row, column))
        fig.update_yaxes(type="category", categoryorder="array", categoryarray=order, row=row)
        fig.update_yaxes(range=[-0.6, len(order) - 0.4], row=row)
    for column in range(2, len(names) + 1):
        fig.update_yaxes(showticklabels=False, col=column)
    _left_titles(fig, mixes)
    theme.figure(fig, height=_height(sum(counts), 130 + 40 * len(mixes)))
    fig.update_layout(margin={"t": 72}, scattermode="group", scattergap=0.35)
    for column, name in enumerate(names, 1):
        word = "the mean" if name == "slowdown" else name.removeprefix("slowdown_")
        fig.update_xaxes(title_text=f"slowdown of {word}", row=len(mixes), col=column)
        fig.update_xaxes(range=theme.span(frame, name, 1.0), col=column)
    fig.update_yaxes(automargin=True, col=1)
    return fig


def has_tail(results: Results) -> bool:
    """Whether :func:`slowdown_by_tenant` shows a percentile beside the mean."""
    return bool(_tail(largest_mixes(results)))


def has_unbounded_tail(results: Results) -> bool:
    """Whether that percentile is not known of a tenant."""
    frame = largest_mixes(results)
    tail = _tail(frame)
    return bool(tail) and bool((frame.groupby(["mix", "label"], observed=True)[tail].count() == 0).any())


def _say_unbounded(fig: go.Figure, own: pd.DataFrame, name: str, place: tuple[int, int]) -> None:
    known = own.groupby("mix", sort=False)[name].count()
    for tenant in known.index[known == 0]:
        fig.add_annotation(
            text="not bounded", x=1, y=tenant, xanchor="left", xshift=4, showarrow=False, row=place[0], col=place[1],
        )  # fmt: skip


def _left_titles(fig: go.Figure, titles: Sequence[str]) -> None:
    """Titles of panels at their left edge, where long ones don't meet."""
    for note in fig.layout.annotations:
        if note.text in titles:
            note.update(x=0, xanchor="left", font={"size": 13, "color": theme.INK})


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

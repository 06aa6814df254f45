"""What happened inside a run: latency over time, by clock and by neighbour, distributions, telemetry.

Lives here: figures of the samples of one showcase mix, or of mixes in open loop. May touch: plotly. Each function takes
:class:`analysis.pooling.Results` and returns a figure, or None where the data have nothing for it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from mtexp.colours import FAINT, model_colour, shades
from mtexp.metrics.latency import min_iterations
from mtexp.records import keys

from ..dataset import Dataset
from ..frames import rows_of
from ..join import CLOCK, LOST, on_another_clock, with_telemetry
from ..pooling import Results, in_order
from . import theme

log = logging.getLogger(__name__)

_MOST_POINTS = 1_200
_MOST_TENANTS = 8
_MOST_PANELS = 4
_STEPS = 400
_FEWEST_CLOCK = 1.05
"""A clock that varies by a smaller factor explains nothing, so it is no figure."""
_TELEMETRY = (
    *("gpu_power_w", "gpu_sm_clock_mhz", "gpu_sm_active_pct", "gpu_util_pct", "gpu_dram_bw_pct", "gpu_temperature_c"),
    *("cpu_util_pct", "memory_used_mib"),
)


def showcase(results: Results, records: Collection[str] | None = None) -> pd.DataFrame:
    """The points of one mix that shows the most: several models, several sharing modes, the most tenants.

    Args:
        results: What was measured.
        records: Only points with one of these runs.
    """
    points = results.points
    if records is not None:
        points = points[[any(record in records for record in own) for own in points["records"]]]
    pairs = zip(points["labels"], points["roles"], strict=True)
    several = np.array([len(set(labels)) > 1 and "stressor" not in roles for labels, roles in pairs], dtype=bool)
    found = points[points["closed"] & several & (points["num_tenants"] <= _MOST_TENANTS)]
    if found.empty:
        found = points[points["num_tenants"] > 1]
    if found.empty:
        return found
    by_mix = found.groupby("mix", observed=True)
    modes = by_mix["sharing"].nunique().clip(upper=2)
    rank = pd.DataFrame({"modes": modes, "tenants": by_mix["num_tenants"].max()})
    best = rank.sort_values(["modes", "tenants"], ascending=False, kind="stable").index[0]
    chosen = found[found["mix"] == best].drop_duplicates("sharing")
    ordered: pd.DataFrame = chosen.set_index("sharing").loc[in_order(chosen["sharing"].unique())].reset_index()
    return ordered


def latency_over_time(results: Results) -> go.Figure | None:
    """Latency of every tenant of the showcase mix over time; shaded where its neighbours measure too."""
    points = showcase(results)
    if points.empty:
        return None
    titles = [f"{point['mix']}, {point['sharing']}" for point in rows_of(points)]
    fig = make_subplots(len(points), 1, subplot_titles=titles, shared_yaxes=True, vertical_spacing=0.13)
    shown: set[str] = set()
    for row, point in enumerate(rows_of(points), 1):
        record = point["records"][0]
        own = rows_of(results.tenants[results.tenants["point"] == point["point"]])
        samples = {t["ids"][0]: results.data.samples(record, t["ids"][0], window=False) for t in own}
        colours = shades([str(tenant["model"]) for tenant in own])
        for tenant, name, colour in zip(own, theme.tenant_names(own), colours, strict=True):
            tenant |= {"name": name, "colour": colour}
        origin_ns = min((int(s["start_ns"].min()) for s in samples.values() if len(s)), default=0)
        for tenant in own:
            mine = samples[tenant["ids"][0]]
            if len(mine):
                _latencies(fig, mine, tenant, origin_ns, row, shown)
        _shade(fig, samples, origin_ns, row)
        fig.update_yaxes(title_text="latency (ms)", rangemode="tozero", row=row)
        fig.update_xaxes(title_text="time since the first start (s)", row=row)
    if not shown:
        return None
    return theme.figure(fig, height=330 * len(points) + 80)


def latency_by_clock(results: Results) -> go.Figure | None:
    """Requests of the showcase mix over time, coloured by the SM clock; a panel a sharing mode."""
    found = results.data.telemetry
    if CLOCK not in found:
        return None
    records = _windows(results.data).index
    panels = []
    for point in rows_of(showcase(results, set(records))):
        record = next(r for r in point["records"] if r in records)
        samples = with_telemetry(_of_point(results, point, record), found[found["record_id"] == record])
        samples = samples.dropna(subset=CLOCK)
        if len(samples):
            panels.append((f"{point['mix']}, {point['sharing']}", samples))
    clocks = pd.concat([samples[CLOCK] for _, samples in panels]) if panels else pd.Series(dtype=float)
    if clocks.empty or clocks.max() < _FEWEST_CLOCK * clocks.min():
        return None
    fig = make_subplots(len(panels), 1, subplot_titles=[title for title, _ in panels], vertical_spacing=0.13)
    for row, (_, samples) in enumerate(panels, 1):
        kept = samples.iloc[np.unique(np.linspace(0, len(samples) - 1, _MOST_POINTS).round().astype(int))]
        fig.add_scatter(
            x=(kept["end_ns"] - samples["start_ns"].min()) / 1e9,
            y=kept["latency_ms"],
            mode="markers",
            marker={"size": 4, "color": kept[CLOCK], "coloraxis": "coloraxis"},
            hovertext=[f"{r['label']}: {r['latency_ms']:.2f} ms at {r[CLOCK]:.0f} MHz" for r in rows_of(kept)],
            hoverinfo="text",
            showlegend=False,
            row=row,
            col=1,
        )
    theme.figure(fig, height=300 * len(panels) + 80)
    fig.update_layout(
        coloraxis={"colorscale": "Cividis", "colorbar": {"title": {"text": "SM clock (MHz)"}, "thickness": 12}}
    )
    fig.update_yaxes(title_text="latency (ms)", type="log", tickvals=theme.LOG_TICKS)
    fig.update_xaxes(title_text="time since the first start (s)")
    return fig


def by_neighbours(results: Results) -> list[tuple[str, pd.DataFrame]]:
    """Name of each point in open loop and its requests: ``label``, ``neighbours`` (in flight at their start),
    ``service_ms``. Rare numbers of neighbours, and tenants with one number only, are left out.
    """
    points = results.points[~results.points["closed"].astype(bool) & (results.points["num_tenants"] > 1)]
    panels = []
    for point in rows_of(points):
        samples = with_telemetry(_of_point(results, point, point["records"][0]), results.data.telemetry.iloc[:0])
        samples["service_ms"] = (samples["end_ns"] - samples["start_ns"]) / 1e6
        enough = samples.groupby(["label", "neighbours"])["neighbours"].transform("size") >= min_iterations(50)
        kept = samples[enough]
        varied = kept.groupby("label")["neighbours"].transform("nunique") > 1
        if varied.any():
            panels.append((f"{point['mix']}, {point['sharing']}", kept[varied]))
    return panels[:_MOST_PANELS]


def latency_by_neighbours(results: Results) -> go.Figure | None:
    """Latency of each tenant by how many neighbours had a request in flight at its start; a panel a point.

    Of points in open loop: in closed loop every tenant has a request in flight always. Without the wait in the tenant's
    own queue, which says more of its own arrivals than of its neighbours.
    """
    panels = by_neighbours(results)
    if not panels:
        return None
    fig = make_subplots(len(panels), 1, subplot_titles=[title for title, _ in panels], vertical_spacing=0.13)
    shown: set[str] = set()
    for row, (_, samples) in enumerate(panels, 1):
        tenants = samples.drop_duplicates("label")
        colours = shades(tenants["model"].astype(str).tolist())
        for place, (label, colour) in enumerate(zip(tenants["label"], colours, strict=True)):
            by_count = samples[samples["label"] == label].groupby("neighbours")["service_ms"]
            low, q1, median, q3, high = (by_count.quantile(q) for q in (0.05, 0.25, 0.5, 0.75, 0.95))
            fig.add_box(
                x=median.index,
                **{"lowerfence": low, "q1": q1, "median": median, "q3": q3, "upperfence": high},
                name=label,
                legendgroup=label,
                offsetgroup=str(place),
                marker_color=colour,
                showlegend=theme.legend_once(shown, label),
                row=row,
                col=1,
            )
    theme.figure(fig, height=300 * len(panels) + 80)
    fig.update_layout(boxmode="group")
    fig.update_yaxes(title_text="latency less queue (ms)", rangemode="tozero")
    fig.update_xaxes(title_text="neighbours with a request in flight", dtick=1)
    return fig


def _of_point(results: Results, point: dict[str, Any], record: str) -> pd.DataFrame:
    """Requests in the window of all tenants of one run of a point, with the ``label`` of their tenant."""
    own, run = results.tenants[results.tenants["point"] == point["point"]], point["records"].index(record)
    parts = [results.data.samples(record, t["ids"][run]).assign(label=t["label"]) for t in rows_of(own)]
    return pd.concat(parts, ignore_index=True)


def _latencies(
    fig: go.Figure, mine: pd.DataFrame, tenant: dict[str, Any], origin_ns: int, row: int, shown: set[str]
) -> None:
    name = tenant["name"]
    latency_ms = mine["latency_ms"].to_numpy()
    kept = _envelope(latency_ms)
    fig.add_scatter(
        x=(mine["end_ns"].to_numpy()[kept] - origin_ns) / 1e9,
        y=latency_ms[kept],
        mode="lines+markers",
        line={"width": 0.8, "color": tenant["colour"]},
        marker={"size": 3, "color": tenant["colour"]},
        name=name,
        legendgroup=name,
        showlegend=theme.legend_once(shown, name),
        hovertemplate=f"{name}: %{{y:.2f}} ms at %{{x:.2f}} s<extra></extra>",
        row=row,
        col=1,
    )


def _shade(fig: go.Figure, samples: dict[str, pd.DataFrame], origin_ns: int, row: int) -> None:
    """Shade where each tenant measures: the darker, the more of them."""
    for own in samples.values():
        if len(own):
            span = [(own["start_ns"].min() - origin_ns) / 1e9, (own["end_ns"].max() - origin_ns) / 1e9]
            fig.add_vrect(
                *span, fillcolor=FAINT, opacity=0.3 / len(samples), line_width=0, layer="below", row=row, col=1
            )


def _envelope(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of the lowest and highest value of each stretch, so that thinning hides no peak."""
    if len(values) <= _MOST_POINTS:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), _MOST_POINTS // 2)
    found = [part[[int(values[part].argmin()), int(values[part].argmax())]] for part in stretches]
    return np.unique(np.concatenate(found))


def latency_ecdf(results: Results) -> go.Figure | None:
    """Distribution of latency of each model of the showcase mix: alone, and shared in each mode."""
    points = showcase(results)
    if points.empty or not points["closed"].all():  # a line alone in closed loop is no measure of one in open loop
        return None
    own = results.tenants[results.tenants["point"].isin(points["point"])]
    labels = list(dict.fromkeys(own["label"]))
    rows, columns = theme.grid(len(labels))
    fig = make_subplots(rows, columns, subplot_titles=labels, shared_yaxes=True, vertical_spacing=0.36 / rows)
    sharings = points.set_index("point")["sharing"]
    shown: set[str] = set()
    ends: dict[tuple[int, int], list[float]] = {}
    for label, (row, column) in zip(labels, theme.positions(len(labels), columns), strict=True):
        mine = rows_of(own[own["label"] == label].drop_duplicates("point"))
        alone = dict.fromkeys(measured for tenant in mine for group in tenant["compared"] for measured in group)
        lines = [("alone", results.data.latencies_ms(alone), "#7B8794", "dot")]
        for tenant in mine:
            sharing = str(sharings[tenant["point"]])
            together = results.data.latencies_ms(zip(tenant["records"], tenant["ids"], strict=True))
            lines.append((sharing, together, model_colour(str(tenant["model"])), theme.sharing_style(sharing)[2]))
        for name, parts, colour, dash in lines:
            if parts:
                values = np.concatenate(parts)
                ends.setdefault((row, column), []).extend((values.min(), values.max()))
                _step(fig, name, values, {"color": colour, "dash": dash, "width": 2}, (row, column))
                if theme.legend_once(shown, name):
                    key = {"color": "#7B8794" if name == "alone" else theme.INK, "dash": dash, "width": 2}
                    fig.add_scatter(x=[None], y=[None], mode="lines", line=key, name=name, row=1, col=1)
    if not shown:
        return None
    theme.figure(fig, height=300 * rows + 90)
    fig.update_xaxes(title_text="latency (ms)")
    for (row, column), found in ends.items():
        fig.update_xaxes(**theme.log_axis(min(found), max(found), 6), row=row, col=column)
    fig.update_yaxes(title_text="share of requests (%)", col=1, range=[0, 101])
    return fig


def _step(fig: go.Figure, name: str, values: NDArray[np.float64], line: dict[str, Any], place: tuple[int, int]) -> None:
    ordered = np.sort(values)
    ranks = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), _STEPS)).round().astype(int))
    fig.add_scatter(
        x=ordered[ranks],
        y=100 * (ranks + 1) / len(ordered),
        mode="lines",
        line=line | {"shape": "hv"},
        showlegend=False,
        hovertemplate=f"{name}: %{{y:.1f}} % within %{{x:.2f}} ms<extra></extra>",
        row=place[0],
        col=place[1],
    )


def telemetry(results: Results) -> go.Figure | None:
    """Power, clocks and activity over time of the mix that shows the most, a line a sharing mode, the window shaded.

    Only runs count whose telemetry has the clock of their requests: old exports lost it.
    """
    found = results.data.telemetry
    if found.empty:
        return None
    windows = _windows(results.data)
    points = showcase(results, set(windows.index))
    records = {next(r for r in p["records"] if r in windows.index): str(p["sharing"]) for p in rows_of(points)}
    found = found[found["record_id"].isin(records)]
    names = [name for name in _TELEMETRY if name in found and found[name].notna().any()]
    if not names:
        return None
    rows, columns = theme.grid(len(names), 2)
    fig = make_subplots(rows, columns, horizontal_spacing=0.1, vertical_spacing=0.4 / rows)
    lengths_s = {record: (windows["t1_ns"][record] - windows["t0_ns"][record]) / 1e9 for record in records}
    shown: set[str] = set()
    for name, (row, column) in zip(names, theme.positions(len(names), columns), strict=True):
        for record, sharing in records.items():
            there = found[(found["record_id"] == record) & found[name].notna()]
            shade, _, dash = theme.sharing_style(sharing)
            fig.add_scatter(
                x=(there["monotonic_ns"] - windows["t0_ns"][record]) / 1e9,
                y=there[name],
                mode="lines",
                line={"color": shade, "dash": dash, "width": 1.6},
                name=f"{points['mix'].iloc[0]}, {sharing}",
                legendgroup=sharing,
                showlegend=theme.legend_once(shown, sharing),
                row=row,
                col=column,
            )
            fig.add_vrect(
                0, lengths_s[record], fillcolor=FAINT, opacity=0.3 / len(records), line_width=0, layer="below",
                row=row, col=column,
            )  # fmt: skip
        key = keys.metric(name)
        from_zero = "normal" if name == "gpu_sm_clock_mhz" else "tozero"
        title = f"{key.text.removeprefix('GPM: ')} ({key.unit})"
        fig.update_yaxes(title_text=title, rangemode=from_zero, row=row, col=column)
    theme.figure(fig, height=230 * rows + 90)
    fig.update_xaxes(title_text="time since the window began (s)", title_font={"size": 11})
    fig.update_xaxes(range=[-0.1 * max(lengths_s.values()), 1.05 * max(lengths_s.values())])
    fig.update_yaxes(title_font={"size": 11})
    return fig


def _windows(data: Dataset) -> pd.DataFrame:
    """``t0_ns`` and ``t1_ns`` of the window of each run: the latest first start and the earliest last end.

    Only runs whose telemetry and requests have one clock: older exports did not keep it, and the figure notes that.
    """
    by_tenant = data.iterations.groupby(["record_id", "tenant"], observed=True)
    spans = by_tenant.agg(t0_ns=("start_ns", "min"), t1_ns=("end_ns", "max"))
    windows = spans.groupby(level="record_id").agg({"t0_ns": "max", "t1_ns": "min"})
    sampled = windows[windows.index.isin(data.telemetry["record_id"])]
    lost = on_another_clock(data.iterations, data.telemetry)
    if lost:
        log.warning("%d runs are in no picture of telemetry over time: %s", len(lost), LOST)
    return sampled[~sampled.index.isin(lost)]

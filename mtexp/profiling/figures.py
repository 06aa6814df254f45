"""Figures of a profile: kernels of each tenant in lanes, and the roofline plot. May touch: numpy, plotly."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtexp.colours import shades
from mtexp.profiling.cost_model import Peaks
from mtexp.profiling.kernels import Int64, Kernels
from mtexp.profiling.ncu_roofline import RooflineRow
from mtexp.profiling.overlap import Overlap, busy_until, clip, level_steps, merge, rows_by_tenant, several_busy

_LANES = ("#3E4C59", "#9AA5B1")
"""Alternating lane colours. The colours of :mod:`mtexp.colours` belong to models, which are not known here."""
_BOUND_SYMBOL = {"compute": "square", "memory": "circle", "launch": "triangle-up"}
_MAX_BARS = 6000
_LINE_CHARS = 130
_TICKS = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]


def busy_stretch(kernels: Kernels, overlap: Overlap, span_ms: float) -> tuple[int, int]:
    """The stretch (ns) of ``span_ms`` in the window in which most tenants are busy at once for longest."""
    t0, t1, span = overlap.window_start_ns, overlap.window_end_ns, int(span_ms * 1e6)
    if t1 - t0 <= span:
        return t0, t1 if t1 > t0 else t0 + span
    unions = [merge(kernels.start_ns[rows], kernels.end_ns[rows]) for rows in rows_by_tenant(kernels)]
    for at_least in (2, 1):
        union = several_busy(unions, t0, t1, at_least)
        if len(union[0]):
            begins = np.minimum(union[0], t1 - span)
            gain = busy_until(union, begins + span) - busy_until(union, begins)
            begin = int(begins[int(np.argmax(gain))])
            return begin, begin + span
    return t0, t0 + span


def lanes(kernels: Kernels, overlap: Overlap, *, span_ms: float = 40.0, note: str = "") -> go.Figure:
    """A lane per tenant with its kernels over a busy stretch of ``span_ms``; below, how many tenants run at once.

    The stretch is halved until it holds at most 6000 kernels, which a browser still moves smoothly.
    """
    begin, end = busy_stretch(kernels, overlap, span_ms)
    while _count(kernels, begin, end) > _MAX_BARS:
        end = begin + (end - begin) // 2
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.75, 0.25], vertical_spacing=0.06)
    groups = rows_by_tenant(kernels)
    for i, rows in enumerate(groups):
        tenant = kernels.tenants[i]
        label = f"{tenant.name or 'pid'} ({tenant.pid})"
        seen = rows[(kernels.start_ns[rows] < end) & (kernels.end_ns[rows] > begin)]
        figure.add_trace(_lane(kernels, seen, begin, label, _LANES[i % len(_LANES)]), row=1, col=1)
    unions = [merge(kernels.start_ns[rows], kernels.end_ns[rows]) for rows in groups]
    figure.add_trace(_levels(unions, begin, end), row=2, col=1)
    offset_ms = (begin - overlap.window_start_ns) / 1e6
    title = f"Kernels over {(end - begin) / 1e6:.1f} ms, from {offset_ms:.1f} ms into the window"
    figure.update_layout(
        title=f"{title}<br><sup>{note}</sup>" if note else title, template="plotly_white", barmode="overlay", bargap=0.3
    )
    figure.update_layout(height=320 + 60 * len(groups))
    figure.update_xaxes(title_text="time (ms)", range=[0, (end - begin) / 1e6], row=2, col=1)
    figure.update_yaxes(title_text="tenant", type="category", autorange="reversed", row=1, col=1)
    figure.update_yaxes(title_text="tenants<br>at once", rangemode="tozero", dtick=1, row=2, col=1)
    return figure


def _count(kernels: Kernels, begin: int, end: int) -> int:
    return int(((kernels.start_ns < end) & (kernels.end_ns > begin)).sum())


def _lane(kernels: Kernels, rows: Int64, begin: int, label: str, colour: str) -> go.Bar:
    duration_ns = kernels.end_ns[rows] - kernels.start_ns[rows]
    return go.Bar(
        orientation="h",
        y=[label] * len(rows) or [label],
        x=duration_ns / 1e6 if len(rows) else [0.0],
        base=(kernels.start_ns[rows] - begin) / 1e6 if len(rows) else [0.0],
        customdata=[kernels.names[int(n)][:80] for n in kernels.name[rows]],
        hovertemplate="%{customdata}<br>%{x:.4f} ms at %{base:.4f} ms<extra></extra>",
        marker={"color": colour, "line": {"width": 0}},
        name=label,
        showlegend=False,
    )


def _levels(unions: Sequence[tuple[Int64, Int64]], begin: int, end: int) -> go.Scatter:
    instants, level = level_steps([clip(u, begin, end) for u in unions], begin, end)
    x = np.concatenate(([begin], instants, [end]))
    y = np.concatenate(([0], level, [0]))
    return go.Scatter(
        x=(x - begin) / 1e6,
        y=y,
        mode="lines",
        line={"shape": "hv", "width": 0},
        fill="tozeroy",
        fillcolor="#666666",
        name="tenants at once",
        showlegend=False,
    )


def roofline(rows: Sequence[RooflineRow], peaks: Peaks, precision: str) -> go.Figure:
    """Achieved TFLOP/s over arithmetic intensity, one point per model, under the device's roof; a sentence each."""
    placed = [row for row in rows if row.intensity and row.flops_per_s]
    around = [peaks.ridge(precision), *(row.intensity or 0.0 for row in placed)]
    roof_x = np.geomspace(min(around) / 4, max(around) * 4, 200)
    roof_y = np.minimum(peaks.flops[precision], roof_x * peaks.bytes_per_s) / 1e12
    figure = go.Figure(
        go.Scatter(x=roof_x, y=roof_y, mode="lines", line={"color": "#333333"}, name=f"{peaks.name}, {precision}")
    )
    for row, colour in zip(placed, shades([row.model for row in placed]), strict=True):
        figure.add_trace(_point(row, colour))
    figure.add_vline(x=peaks.ridge(precision), line={"dash": "dot", "color": "#999999"})
    figure.update_xaxes(title_text="arithmetic intensity (FLOP/byte of DRAM traffic)", type="log", tickvals=_TICKS)
    figure.update_yaxes(title_text="achieved TFLOP/s", type="log", tickvals=_TICKS)
    figure.update_layout(title=f"Roofline, {peaks.name} (peaks: {peaks.source})", template="plotly_white")
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"})
    sentences = [part for row in rows for part in textwrap.wrap(row.sentence().replace(" %", "\xa0%"), _LINE_CHARS)]
    place: dict[str, Any] = {"x": 0, "y": 0, "xref": "paper", "yref": "paper", "yanchor": "top", "align": "left"}
    figure.add_annotation(text="<br>".join(sentences), showarrow=False, yshift=-50, **place)
    margin = {"t": 100 + 20 * len(placed), "b": 80 + 16 * len(sentences)}
    figure.update_layout(height=400 + margin["t"] + margin["b"], margin=margin)
    return figure


def _point(row: RooflineRow, colour: str) -> go.Scatter:
    values: dict[str, Any] = {"x": [row.intensity], "y": [(row.flops_per_s or 0.0) / 1e12]}
    kernels = row.kernels_bound if row.kernels_bound == "mixed" else f"{row.kernels_bound}-bound"
    return go.Scatter(
        **values,
        mode="markers+text",
        text=[row.name],
        textposition="middle left" if row.ridge and values["x"][0] < row.ridge else "middle right",
        marker={"size": 12, "color": colour, "symbol": _BOUND_SYMBOL.get(row.bound or "", "x")},
        name=f"{row.name}: {row.bound or 'unknown'}-bound; kernels: {kernels}",
    )


def write_html(figure: go.Figure, path: Any) -> None:
    """One file that needs no network."""
    figure.write_html(str(path), include_plotlyjs=True, full_html=True)

"""How figures look: one colour a model everywhere, one symbol a sharing mode, labelled axes.

Lives here: colours, symbols, :func:`figure`. May touch: plotly. Colours are Okabe and Ito's (Color Universal Design,
2008), which people with any colour vision tell apart; sharing modes differ by shape and shade, never by hue alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mtexp.tracking import keys

_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_YELLOW, _BLUE, _RED, _PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
_MODELS = {
    "bert_base": _BLUE,
    "bert_large": _SKY,
    "deberta_v3_base": _GREEN,
    "deberta_v3_large": _BLACK,
    "distilgpt2": _ORANGE,
    "llama_3_2_1b": _RED,
    "llama_3_2_3b": _YELLOW,
    "mistral_7b": _PURPLE,
}
_SPARE = (_SKY, _BLACK, _YELLOW, _GREEN, _PURPLE, _BLUE, _ORANGE, _RED)
_SHARINGS = {
    "time slicing": ("#9AA5B1", "circle", "", "solid"),
    "MPS": ("#1F2933", "diamond", "/", "dash"),
    "MPS equal share": ("#52606D", "square", "x", "dot"),
    "MPS 50 %": ("#7B8794", "triangle-up", "\\", "dashdot"),
    "MPS 25 %": ("#3E4C59", "triangle-down", "+", "longdash"),
    "streams": ("#616E7C", "cross", ".", "longdashdot"),
    "MIG": ("#323F4B", "star", "|", "dash"),
}
_OTHER = ("#52606D", "hexagon", "-", "longdash")
DIVERGING = [[0.0, _BLUE], [0.5, "#FFFFFF"], [1.0, _RED]]
"""Around a reference: blue below, orange-red above."""
INK, GRID, FAINT = "#1F2933", "#E4E7EB", "#9AA5B1"
FONT = "Inter, 'Segoe UI', Helvetica, Arial, sans-serif"


def model_colour(model: str) -> str:
    """The colour of a model, the same in every figure; of one that mtexp does not ship, by its name."""
    if model in _MODELS:
        return _MODELS[model]
    if model.startswith("stress_"):
        return FAINT
    return _SPARE[sum(map(ord, model)) % len(_SPARE)]


def sharing_style(sharing: str) -> tuple[str, str, str, str]:
    """Shade, marker, bar pattern and line dash of a sharing mode."""
    if sharing.startswith("CPU"):
        return _SHARINGS["time slicing" if sharing == "CPU (disabled)" else "MPS"]
    return _SHARINGS.get(sharing, _OTHER)


def figure(fig: go.Figure, *, height: int = 420, legend: str = "top") -> go.Figure:
    """Give ``fig`` the look that all have."""
    fig.update_layout(
        template="plotly_white",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 70, "r": 30, "t": 70 if legend == "top" else 40, "b": 60},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1 + 34 / (height - 130), "x": 0, "title": None}
        if legend == "top"
        else {"title": None},
        hoverlabel={"font": {"family": FONT}},
        bargap=0.25,
    )
    fig.update_xaxes(gridcolor=GRID, linecolor=FAINT, ticks="outside", tickcolor=FAINT, zeroline=False)
    fig.update_yaxes(gridcolor=GRID, linecolor=FAINT, zeroline=False)
    fig.update_annotations(font={"size": 13})
    return fig


def error_bars(frame: pd.DataFrame, name: str) -> dict[str, Any]:
    """Plotly's ``error_x`` or ``error_y`` for the interval of ``name``; what has none gets no bar."""
    low, high = keys.interval(name)
    if low not in frame:
        return {}
    return {
        "type": "data",
        "symmetric": False,
        "array": _reach(frame[high] - frame[name]),
        "arrayminus": _reach(frame[name] - frame[low]),
        "thickness": 1.2,
        "width": 3,
    }


def _reach(values: pd.Series[Any]) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values.to_numpy(np.float64).clip(min=0)]


def interval_text(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """``1.23 [1.20, 1.26]``, or the figure alone where it has no interval."""
    low, high = keys.interval(name)
    value = f"{row[name]:.{digits}f}"
    if low in row and np.isfinite(row[low]):
        value += f" [{row[low]:.{digits}f}, {row[high]:.{digits}f}]"
    return value


LOG_TICKS = [digit * 10.0**power for power in range(-2, 6) for digit in (1, 2, 5)]
"""Of logarithmic axes, whole numbers in full: plotly would write 2 where it means 20."""


def axis_title(name: str, text: str = "") -> str:
    """What an axis says: the metric in words, its unit, which way is better."""
    key = keys.metric(name)
    unit = f" ({key.unit})" if key.unit not in ("", "1") else ""
    better = {"lower": ", lower is better", "higher": ", higher is better"}.get(key.better, "")
    return f"{text or key.text}{unit}{better}"


def rows_height(count: int, *, each: int = 26, least: int = 300, frame: int = 150) -> int:
    """Height in pixels of a figure of ``count`` labelled rows."""
    return max(least, frame + each * count)


def tenant_names(tenants: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels of tenants, with the tenant's id where two are alike."""
    labels = [str(tenant["label"]) for tenant in tenants]
    ids = [str(tenant["tenant"]) for tenant in tenants]
    return [f"{label} {own}" if labels.count(label) > 1 else label for label, own in zip(labels, ids, strict=True)]


def reference_line(fig: go.Figure, value: float, text: str, *, axis: str = "x", **place: Any) -> None:
    """A thin line at ``value`` that says what it means."""
    add = fig.add_vline if axis == "x" else fig.add_hline
    options: dict[str, Any] = {"line": {"color": FAINT, "width": 1, "dash": "dot"}, **place}
    if text:
        options |= {"annotation_text": text, "annotation_font": {"size": 11, "color": "#7B8794"}}
        options["annotation_position"] = "top" if axis == "x" else "top right"
    add(value, **options)


def legend_once(shown: set[str], name: str) -> bool:
    """True the first time ``name`` is asked about."""
    first = name not in shown
    shown.add(name)
    return first


def grid(count: int, most: int = 3) -> tuple[int, int]:
    """Rows and columns for ``count`` panels."""
    columns = min(count, most)
    return -(-count // columns), columns


def positions(count: int, columns: int) -> Sequence[tuple[int, int]]:
    """Row and column of each panel, from 1."""
    return [(index // columns + 1, index % columns + 1) for index in range(count)]

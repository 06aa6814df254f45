"""How figures look: a colour and a symbol a sharing mode, labelled axes; a model's colour is
:func:`mtexp.colours.model_colour`.

Lives here: symbols, scales, :func:`figure`. May touch: plotly. A figure colours sharing modes or models, never both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mtexp.colours import BLUE, FAINT, RED
from mtexp.records import keys

_SHARINGS = {
    "time slicing": ("#7B8794", "circle", "solid"),
    "MPS": ("#332288", "diamond", "solid"),
    "MPS equal share": ("#117733", "square", "dot"),
    "MPS 49 %": ("#E08214", "x", "dash"),
    "MPS 50 %": ("#B8860B", "triangle-up", "dashdot"),
    "MPS 25 %": ("#CC6677", "triangle-down", "longdash"),
    "MPS 10 %": ("#882255", "triangle-left", "dot"),
    "MPS 75 %": ("#44AA99", "pentagon", "dashdot"),
    "MPS 100 %": ("#4AA3D0", "hourglass", "longdash"),
    "streams": ("#AA4499", "cross", "longdashdot"),
    "green contexts": ("#2F8F6B", "triangle-right", "dashdot"),
    "MIG": ("#E2725B", "star", "dash"),
}
"""Colour, marker and dash of each; hues after P. Tol, Colour Schemes (SRON technical note, 2021), "muted"."""
_OTHER = ("#52606D", "hexagon", "longdash")
_CUT = 0.1
"""Share of bars that may leave an axis at either end."""
INK, GRID = "#1F2933", "#E4E7EB"
FONT = "Inter, 'Segoe UI', Helvetica, Arial, sans-serif"


def sharing_style(sharing: str) -> tuple[str, str, str]:
    """Colour, marker and line dash of a sharing mode; of a variant (``MPS, crossover``) those of the mode."""
    if sharing.startswith("CPU"):
        return _SHARINGS["time slicing" if "disabled" in sharing else "MPS"]
    return _SHARINGS.get(sharing.partition(",")[0], _OTHER)


def figure(fig: go.Figure, *, height: int = 420, legend: str = "top") -> go.Figure:
    """Give ``fig`` the look that all have."""
    fig.update_layout(
        template="plotly_white",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 64, "r": 16, "t": 56 if legend == "top" else 24, "b": 56},
        legend={"orientation": "h", "yref": "container", "y": 1, "yanchor": "top", "x": 0, "title": None}
        if legend == "top"
        else {"title": None},
        hoverlabel={"font": {"family": FONT}},
        bargap=0.25,
    )
    fig.update_xaxes(gridcolor=GRID, linecolor=FAINT, ticks="outside", tickcolor=FAINT, zeroline=False)
    fig.update_yaxes(gridcolor=GRID, linecolor=FAINT, zeroline=False)
    fig.update_xaxes(title_font_size=13)
    fig.update_yaxes(title_font_size=13)
    fig.update_annotations(font={"size": 13})
    return fig


def reach(frame: pd.DataFrame, *names: str) -> tuple[float, float]:
    """Lowest and highest value of figures, with their intervals."""
    columns = [column for name in names for column in (name, *keys.interval(name))]
    values = frame.reindex(columns=columns).to_numpy(np.float64)
    return float(np.nanmin(values)), float(np.nanmax(values))


def span(frame: pd.DataFrame, name: str, *lines: float) -> list[float]:
    """Range of an axis that holds every value and ``lines``, and the bars but for the widest: those are cut off.

    One wide interval would push all values into a corner.
    """
    low, high = (frame[end].dropna() if end in frame else frame[name] for end in keys.interval(name))
    ends = (
        min(*lines, frame[name].min(), low.quantile(_CUT) if len(low) else np.inf),
        max(*lines, frame[name].max(), high.quantile(1 - _CUT) if len(high) else -np.inf),
    )
    room = 0.04 * (ends[1] - ends[0])
    return [float(ends[0] - room), float(ends[1] + room)]


def error_bars(frame: pd.DataFrame, name: str) -> dict[str, Any]:
    """Plotly's ``error_x`` or ``error_y`` for the interval of ``name``; what has none gets no bar."""
    low, high = keys.interval(name)
    if low not in frame:
        return {}
    return _bars(_reach(frame[high] - frame[name]), _reach(frame[name] - frame[low]))


def error_bars_of(ends: Sequence[tuple[float, float | None, float | None]]) -> dict[str, Any]:
    """Plotly's ``error_x`` or ``error_y`` of values with their (low, high); None where a value has no interval."""
    above = ["none" if high is None else high - value for value, _, high in ends]
    return _bars(above, ["none" if low is None else value - low for value, low, _ in ends])


def _bars(above: Sequence[float | str], below: Sequence[float | str]) -> dict[str, Any]:
    lengths = {"array": above, "arrayminus": below}
    return {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3, **lengths}


def _reach(values: pd.Series[Any]) -> list[float | str]:
    """Lengths of bars; a text where there is none, because plotly draws null as a bar of length 0."""
    return [float(v) if np.isfinite(v) else "none" for v in values.to_numpy(np.float64).clip(min=0)]


def interval_text(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """``1.23 [1.20, 1.26]``, or the figure alone where it has no interval."""
    low, high = keys.interval(name)
    value = f"{row[name]:.{digits}f}"
    if low in row and np.isfinite(row[low]):
        value += f" [{row[low]:.{digits}f}, {row[high]:.{digits}f}]"
    return value


LOG_TICKS = [digit * 10.0**power for power in range(-2, 6) for digit in (1, 2, 5)]
"""Ticks of logarithmic axes, in full: plotly would write 2 for 20."""
_DIGITS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Ticks of a logarithmic axis from ``low`` to ``high``, as many as there are up to ``most``, in full."""
    for digits in reversed(_DIGITS):
        ticks = [round(digit * 10.0**power, 6) for power in range(-5, 7) for digit in digits]
        shown = [tick for tick in ticks if low <= tick <= high]
        if len(shown) <= most:
            break
    return shown


def log_axis(low: float, high: float, most: int = 8) -> dict[str, Any]:
    """A logarithmic axis that holds values (above 0) from ``low`` to ``high``, with a margin."""
    ends = low / 1.08, high * 1.08
    return {"type": "log", "range": [float(np.log10(end)) for end in ends], "tickvals": log_ticks(*ends, most)}


def slowdown_colours(lowest: float, highest: float) -> dict[str, Any]:
    """A colour axis of log2 of a slowdown: white at 1, orange-red above, blue below, equally deep for equal factors."""
    ends = min(lowest, 0.8), max(highest, 1.5)
    low, high = np.log2(ends)
    reach = max(-low, high)
    colours = _tint(BLUE, -low / reach), "#FFFFFF", _tint(RED, high / reach)
    ticks = log_ticks(*ends)
    bar = {"title": {"text": "slowdown"}, "thickness": 12, "tickvals": np.log2(ticks)}
    bar["ticktext"] = [f"{tick:g}" for tick in ticks]
    scale = [[at, colour] for at, colour in zip((0, -low / (high - low), 1), colours, strict=True)]
    return {"colorscale": scale, "cmin": low, "cmax": high, "colorbar": bar}


def colour_at(scale: Mapping[str, Any], level: float) -> str:
    """The colour that :func:`slowdown_colours` has at ``level`` (log2 of a slowdown)."""
    (_, below), (_, white), (_, above) = scale["colorscale"]
    end, reach = (above, scale["cmax"]) if level > 0 else (below, scale["cmin"])
    share = min(1.0, level / reach)
    parts = ((int(white[i : i + 2], 16), int(end[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + share * (b - a)):02X}" for a, b in parts)


def _tint(colour: str, share: float) -> str:
    """White with a share of ``colour`` in it."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + share * (part - 255)):02X}" for part in parts)


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

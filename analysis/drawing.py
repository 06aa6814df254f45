"""Figures of a report as files, without a browser: what plotly shows, drawn by matplotlib.

Lives here: :func:`paint`, from a plotly figure to one of matplotlib. May touch: nothing outside its arguments. Only
what the figures of :mod:`analysis.plots` are made of is known: scatter, box and heat map, lines and shades across a
panel, notes. A kind of trace that :data:`KINDS` does not have is an error, not an empty panel.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator, NullLocator

from .plots.theme import GRID, INK
from .traces import DASHES, FAINT, FONT, KINDS, MARKERS, Panel, colour_scale

DPI = 100
WIDTH_PX = 1100
_CHAR_PX = 7.6
_LONGEST = 60
"""Characters of a name in one line."""


def paint(figure: go.Figure) -> Figure:
    """The figure by matplotlib, as wide as a page and as high as plotly's."""
    spec = figure.to_plotly_json()
    layout, traces = _plain(spec["layout"]), [_plain(trace) for trace in spec["data"]]
    height_px = float(layout.get("height", 420))
    fig = Figure(figsize=(WIDTH_PX / DPI, height_px / DPI), dpi=DPI)
    frame = _frame(layout, traces, height_px)
    panels = _panels(fig, layout, traces, frame)
    for trace in traces:
        panel = panels[_names(trace)]
        KINDS[trace["type"]](panel, trace, layout)
    for shape in layout.get("shapes", ()):
        _shape(panels, shape)
    for panel in panels.values():
        _axis(panel, "x")
        _axis(panel, "y")
    for note in layout.get("annotations", ()):
        _note(fig, panels, note, frame, height_px)
    _legend(fig, traces)
    if title := layout.get("title", {}).get("text"):
        fig.text(frame[0], frame[1] + frame[3] + 12 / height_px, _text(title), fontsize=FONT + 1.5)
    if "coloraxis" in layout:
        _colour_bar(fig, layout["coloraxis"], frame, traces)
    return fig


def _plain(value: Any) -> Any:
    """Lists and numbers in the place of arrays, which plotly encodes."""
    if isinstance(value, Mapping) and "bdata" in value:
        own = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
        return own.reshape([int(size) for size in str(value.get("shape", own.size)).split(",")]).tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    return value.item() if isinstance(value, np.generic) else value


def _names(trace: Mapping[str, Any]) -> tuple[str, str]:
    return trace.get("xaxis", "x"), trace.get("yaxis", "y")


def _settings(layout: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = layout.get(f"{name[0]}axis{name[1:]}", {})
    return found


def _frame(layout: Mapping[str, Any], traces: Sequence[Mapping[str, Any]], height_px: float) -> tuple[float, ...]:
    """Left, bottom, width and height of the panels in the figure; names of categories need room at the left."""
    margin = layout.get("margin", {})
    names = [line for t in traces for y in t.get("y") or () if isinstance(y, str) for line in _broken(y).split("\n")]
    titled = any(
        spec.get("title", {}).get("text") for name, spec in layout.items() if name.startswith("yaxis") and names
    )
    left = max(margin.get("l", 64), 18 + 22 * titled + _CHAR_PX * max(map(len, names), default=0))
    right = 110 if "coloraxis" in layout else margin.get("r", 16) + 8
    top, bottom = margin.get("t", 56), margin.get("b", 56)
    return left / WIDTH_PX, bottom / height_px, 1 - (left + right) / WIDTH_PX, 1 - (top + bottom) / height_px


def _panels(
    fig: Figure, layout: Mapping[str, Any], traces: Sequence[Mapping[str, Any]], frame: tuple[float, ...]
) -> dict[tuple[str, str], Panel]:
    left, bottom, width, height = frame
    panels: dict[tuple[str, str], Panel] = {}
    for names in dict.fromkeys(map(_names, traces)):
        x, y = _settings(layout, names[0]), _settings(layout, names[1])
        (x0, x1), (y0, y1) = x.get("domain", (0, 1)), y.get("domain", (0, 1))
        ax = fig.add_axes((left + width * x0, bottom + height * y0, width * (x1 - x0), height * (y1 - y0)))
        panel = panels[names] = Panel(ax, x, y)
        own = [trace for trace in traces if _names(trace) == names]
        for axis, spec in (("x", x), ("y", y)):
            values = [v for trace in own for v in trace.get(axis) or () if isinstance(v, str)]
            if values:
                order = dict.fromkeys([*spec.get("categoryarray", ()), *values])
                panel.categories[axis] = {name: place for place, name in enumerate(order)}
        grouped = {"box": layout.get("boxmode"), "scatter": layout.get("scattermode")}
        side = [t.get("offsetgroup") or t.get("name", "") for t in own if grouped.get(t["type"]) == "group"]
        panel.groups = list(dict.fromkeys(side))
    return panels


# --- what stands around them ------------------------------------------------------------------------------------------


def _axis(panel: Panel, axis: str) -> None:
    """Scale, ticks, ends, title and look of an axis, ``x`` or ``y``."""
    ax, spec = panel.ax, panel.x if axis == "x" else panel.y
    own = ax.xaxis if axis == "x" else ax.yaxis
    limits = ax.set_xlim if axis == "x" else ax.set_ylim
    if spec.get("type") == "log":
        (ax.set_xscale if axis == "x" else ax.set_yscale)("log")
        own.set_minor_locator(NullLocator())
    if "range" in spec:
        limits(*(10.0 ** np.array(spec["range"]) if spec.get("type") == "log" else spec["range"]))
    elif spec.get("rangemode") == "tozero":
        limits(0, None)
    if spec.get("autorange") == "reversed":
        own.set_inverted(True)
    _ticks(own, spec, panel.categories.get(axis))
    own.set_label_text(_text(spec.get("title", {}).get("text") or ""), fontsize=FONT)
    ax.tick_params(axis, colors=INK, labelsize=FONT - 0.5, length=3, color=FAINT)
    if spec.get("showticklabels") is False or ("matches" in spec and axis == "y"):
        own.set_tick_params(labelleft=False, labelbottom=False)
    if spec.get("showgrid") is not False:
        own.grid(True, color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)


def _ticks(own: Any, spec: Mapping[str, Any], names: Mapping[str, int] | None) -> None:
    if names:
        own.set_ticks(list(names.values()), [_broken(name) for name in names])
        for label in own.get_ticklabels() if spec.get("tickangle") else ():
            label.set(rotation=-spec["tickangle"], ha="left", rotation_mode="anchor")
    elif "tickvals" in spec:
        low, high = sorted(own.get_view_interval())
        texts = spec.get("ticktext") or [f"{value:g}" for value in spec["tickvals"]]
        shown = [tick for tick in zip(spec["tickvals"], texts, strict=True) if low <= tick[0] <= high]
        own.set_ticks([value for value, _ in shown], [said for _, said in shown])
    elif "dtick" in spec:
        own.set_major_locator(MultipleLocator(spec["dtick"]))


def _broken(name: str) -> str:
    """A name in lines, broken behind a space or a plus: that of a dozen models is longer than a page is wide."""
    lines = [""]
    for part in re.split(r"(?<=[ +])", name):
        if lines[-1] and len(lines[-1]) + len(part) > _LONGEST:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _panel_of(panels: Mapping[tuple[str, str], Panel], spec: Mapping[str, Any]) -> Panel | None:
    names = tuple(str(spec.get(f"{axis}ref", axis)).removesuffix(" domain") for axis in ("x", "y"))
    return panels.get((names[0], names[1]))


def _shape(panels: Mapping[tuple[str, str], Panel], shape: Mapping[str, Any]) -> None:
    panel = _panel_of(panels, shape)
    if panel is None:
        return
    line = shape.get("line", {})
    look = {"color": line.get("color", FAINT), "linestyle": DASHES.get(line.get("dash", ""), "-"), "linewidth": 0.8}
    if shape["type"] == "rect":
        panel.ax.axvspan(
            shape["x0"], shape["x1"], color=shape["fillcolor"], alpha=shape["opacity"], linewidth=0, zorder=0
        )
    elif str(shape.get("yref", "")).endswith("domain"):
        panel.ax.axvline(shape["x0"], zorder=1, **look)
    else:
        panel.ax.axhline(shape["y0"], zorder=1, **look)


def _text(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html.replace("<br>", "\n"))


def _note(
    fig: Figure,
    panels: Mapping[tuple[str, str], Panel],
    note: Mapping[str, Any],
    frame: tuple[float, ...],
    high: float,
) -> None:
    if not note.get("text"):
        return
    left, bottom, width, height = frame
    font = note.get("font", {})
    look: dict[str, Any] = {
        "fontsize": 0.73 * font.get("size", 13), "color": font.get("color", INK),
        "ha": note.get("xanchor", "left" if "align" in note else "center").replace("auto", "center"),
        "va": {"middle": "center", "auto": "center"}.get(note.get("yanchor", "middle"), note.get("yanchor", "bottom")),
    }  # fmt: skip
    shift = note.get("xshift", 0) / WIDTH_PX, note.get("yshift", 0) / high
    panel = _panel_of(panels, note)
    if panel is None or note.get("xref") == "paper":
        fig.text(
            left + width * note["x"] + shift[0], bottom + height * note["y"] + shift[1], _text(note["text"]), **look
        )
        return
    at = []
    for axis, spec in (("x", panel.x), ("y", panel.y)):
        value, domain = note[axis], str(note.get(f"{axis}ref", "")).endswith("domain")
        if domain:
            at.append((value, True))
            continue
        value = panel.places(axis, [value])[0]
        at.append((10.0**value if spec.get("type") == "log" else value, False))
    flat = panel.ax.transAxes
    data = panel.ax.transData
    points = [(flat if domain else data).transform((at[0][0], at[1][0]))[i] for i, (_, domain) in enumerate(at)]
    x, y = fig.transFigure.inverted().transform(points)
    fig.text(x + shift[0], y + shift[1], _text(note["text"]), **look)


def _legend(fig: Figure, traces: Sequence[Mapping[str, Any]]) -> None:
    shown: dict[str, Line2D] = {}
    for trace in traces:
        if trace["type"] == "heatmap" or trace.get("showlegend") is False or not trace.get("name"):
            continue
        marker, line, mode = trace.get("marker", {}), trace.get("line", {}), trace.get("mode", "markers")
        colour = marker.get("color") or line.get("color") or INK
        symbol = marker.get("symbol", "circle")
        symbol = symbol[0] if isinstance(symbol, list) else symbol
        lined = "lines" in mode
        shown.setdefault(
            trace["name"],
            Line2D(
                [], [], color=colour, linestyle=DASHES.get(line.get("dash", ""), "-") if lined else "none",
                marker=MARKERS[symbol.removesuffix("-open")] if "markers" in mode else "none", markersize=5,
                markerfacecolor="none" if symbol.endswith("-open") else colour,
            ),
        )  # fmt: skip
    if shown:
        columns = WIDTH_PX / (_CHAR_PX * max(map(len, shown)) + 45)
        fig.legend(
            shown.values(), shown.keys(), loc="upper left", ncols=max(1, min(7, len(shown), int(columns))),
            frameon=False, fontsize=FONT - 0.5, borderaxespad=0.2, columnspacing=1.4, handletextpad=0.5,
        )  # fmt: skip


def _colour_bar(
    fig: Figure, spec: Mapping[str, Any], frame: tuple[float, ...], traces: Sequence[Mapping[str, Any]]
) -> None:
    left, bottom, width, height = frame
    ax = fig.add_axes((left + width + 0.02, bottom, 0.012, height))
    scale, limits = colour_scale(spec, traces)
    bar, own = fig.colorbar(ScalarMappable(limits, scale), cax=ax), spec.get("colorbar", {})
    if "tickvals" in own:
        bar.set_ticks(own["tickvals"], labels=own["ticktext"])
    ax.set_title(_text(own.get("title", {}).get("text") or ""), fontsize=FONT - 0.5)
    ax.tick_params(labelsize=FONT - 1)

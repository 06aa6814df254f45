"""What stands in a panel of a figure, drawn by matplotlib: dots, lines, bars, boxes, cells.

Lives here: :class:`Panel` and :data:`KINDS`, one function a kind of trace of plotly. May touch: the panel it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

from .plots.theme import INK

FONT = 9.5
FAINT = "#9AA5B1"
_MANY = 100
"""Dots of a trace above which SVG and PDF have a picture of them, not each: files of megabytes are slow to open."""
MARKERS = {
    "circle": "o", "diamond": "D", "square": "s", "triangle-up": "^", "triangle-down": "v", "triangle-left": "<",
    "triangle-right": ">", "cross": "P", "star": "*", "pentagon": "p", "hourglass": "X", "hexagon": "h", "x": "X",
    "line-ns": "|",
}  # fmt: skip
DASHES: Mapping[str, Any] = {
    "dot": ":",
    "dash": "--",
    "dashdot": "-.",
    "longdash": (0, (8, 3)),
    "longdashdot": (0, (8, 3, 2, 3)),
}


@dataclass
class Panel:
    """Axes with the places of their categories."""

    ax: Any
    """Axes of matplotlib."""
    x: Mapping[str, Any]
    y: Mapping[str, Any]
    categories: dict[str, dict[str, int]] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    """Traces that share a category side by side, in their order."""

    def places(self, axis: str, values: Sequence[Any]) -> Any:
        """Numbers of values on an axis (``x``, ``y``); a category's is its place."""
        known = self.categories.get(axis)
        if known is None:
            return np.array([np.nan if value is None else float(value) for value in values])
        return np.array([float(known[str(value)]) for value in values])

    def shift(self, group: str, gap: float) -> float:
        """How far a trace lies from the middle of its category."""
        return (1 - gap) * ((self.groups.index(group) + 0.5) / len(self.groups) - 0.5) if group in self.groups else 0.0


def _scatter(panel: Panel, trace: Mapping[str, Any], layout: Mapping[str, Any]) -> None:
    x, y = panel.places("x", trace.get("x") or ()), panel.places("y", trace.get("y") or ())
    if "y" in panel.categories:
        y = y + panel.shift(trace.get("offsetgroup", ""), layout.get("scattergap", 0.3))
    marker, line, mode = trace.get("marker", {}), trace.get("line", {}), trace.get("mode", "lines")
    colour = marker.get("color", line.get("color", INK))
    if "lines" in mode and len(x):
        step = {"drawstyle": "steps-post"} if line.get("shape") == "hv" else {}
        panel.ax.plot(
            x, y, color=line.get("color", colour), linestyle=DASHES.get(line.get("dash", ""), "-"),
            linewidth=0.75 * line.get("width", 2), zorder=3, **step,
        )  # fmt: skip
    for axis in ("x", "y"):
        bars = trace.get(f"error_{axis}", {})
        if "array" in bars and len(x):
            lengths = [
                np.array([np.nan if isinstance(v, str) or v is None else float(v) for v in bars[name]])
                for name in ("arrayminus", "array")
            ]
            shown = np.isfinite(lengths).all(axis=0)
            own = colour if isinstance(colour, str) and marker.get("opacity") != 0 else FAINT
            panel.ax.errorbar(
                x[shown], y[shown], **{f"{axis}err": [length[shown] for length in lengths]}, fmt="none",
                ecolor=bars.get("color", own), elinewidth=0.9, zorder=2,
            )  # fmt: skip
    if "markers" in mode and marker.get("opacity") != 0:
        _dots(panel, trace, x, y, layout)
    if "text" in mode:
        left = "left" in trace.get("textposition", "")
        for at, place, said in zip(x, y, trace["text"], strict=True):
            panel.ax.annotate(
                said, (at, place), (-7 if left else 7, 0), textcoords="offset points", va="center",
                ha="right" if left else "left", fontsize=FONT - 1, color=INK,
            )  # fmt: skip


def _dots(panel: Panel, trace: Mapping[str, Any], x: Any, y: Any, layout: Mapping[str, Any]) -> None:
    marker = trace["marker"]
    symbols = marker.get("symbol", "circle")
    symbols = symbols if isinstance(symbols, list) else [symbols] * len(x)
    sizes = np.broadcast_to(np.asarray(marker.get("size", 6), dtype=float), (len(x),))
    colours = marker.get("color", INK)
    if not isinstance(colours, str) and "coloraxis" in layout:
        scale, limits = colour_scale(layout["coloraxis"], [trace])
        colours = scale(limits(np.asarray(colours, dtype=float)))
    for symbol in dict.fromkeys(symbols):
        at = np.array([own == symbol for own in symbols])
        one = colours if isinstance(colours, str) else np.asarray(colours)[at]
        face = {"facecolors": "none", "edgecolors": one} if symbol.endswith("-open") else {"c": one}
        panel.ax.scatter(
            x[at], y[at], s=(0.72 * sizes[at]) ** 2, marker=MARKERS[symbol.removesuffix("-open")],
            alpha=marker.get("opacity", 1), linewidths=1, zorder=4, rasterized=len(x) > _MANY, **face,
        )  # fmt: skip


def _box(panel: Panel, trace: Mapping[str, Any], layout: Mapping[str, Any]) -> None:
    flat = trace.get("orientation") == "h"
    marker, group = trace.get("marker", {}), trace.get("offsetgroup") or trace.get("name", "")
    colour = trace.get("line", {}).get("color", marker.get("color", INK))
    places = panel.places("y" if flat else "x", trace["y"] if flat else trace["x"])
    width, shift = 0.6 / max(1, len(panel.groups)), 0.8 * panel.shift(group, 0)
    if "q1" in trace:
        names = {"whislo": "lowerfence", "q1": "q1", "med": "median", "q3": "q3", "whishi": "upperfence"}
        stats = [{own: trace[name][i] for own, name in names.items()} | {"fliers": []} for i in range(len(places))]
        drawn = panel.ax.bxp(stats, positions=places + shift, widths=width, manage_ticks=False, showfliers=False)
        parts = [part for own in drawn.values() for part in own]
    else:
        values, parts = np.array(trace["x"], dtype=float), []
        for place in dict.fromkeys(places):
            own = values[places == place]
            drawn = panel.ax.boxplot(
                own, positions=[place + shift], widths=width, orientation="horizontal", manage_ticks=False,
                showfliers=False,
            )  # fmt: skip
            parts += [part for found in drawn.values() for part in found]
            symbol = MARKERS[marker.get("symbol", "circle")]
            panel.ax.scatter(own, np.full(len(own), place + shift), s=14, marker=symbol, c=colour, alpha=0.8, zorder=4)
    for part in parts:
        part.set(color=colour, linewidth=1)


def _heat_map(panel: Panel, trace: Mapping[str, Any], layout: Mapping[str, Any]) -> None:
    scale, limits = colour_scale(layout["coloraxis"], [trace])
    across, down = panel.places("x", trace["x"]), panel.places("y", trace["y"])
    for row, place in enumerate(down):
        for column, at in enumerate(across):
            value, said = trace["z"][row][column], trace["text"][row][column]
            if value is not None and np.isfinite(value):
                panel.ax.add_patch(_cell(at, place, scale(limits(value))))
                panel.ax.text(at, place, said, ha="center", va="center", fontsize=FONT - 1)
    panel.ax.set(xlim=(-0.5, len(across) - 0.5), ylim=(-0.5, len(down) - 0.5))


def _cell(x: float, y: float, colour: Any) -> Any:
    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, edgecolor="none")


KINDS: Mapping[str, Callable[[Panel, Mapping[str, Any], Mapping[str, Any]], None]] = {
    "scatter": _scatter,
    "box": _box,
    "heatmap": _heat_map,
}


def colour_scale(spec: Mapping[str, Any], traces: Sequence[Mapping[str, Any]]) -> tuple[Any, Normalize]:
    """The colours of a colour axis, and what spans them."""
    colours = spec.get("colorscale", "cividis")
    if isinstance(colours, str):
        scale = colormaps["cividis"]
    else:
        scale = LinearSegmentedColormap.from_list("own", [(min(1, max(0, at)), colour) for at, colour in colours])
    values = [v for t in traces for v in np.ravel(t.get("marker", {}).get("color", [])) if isinstance(v, float)]
    low, high = spec.get("cmin", min(values, default=0)), spec.get("cmax", max(values, default=1))
    return scale, Normalize(low, high)

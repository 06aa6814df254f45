"""Figures of a report as files: PNG and SVG.

Lives here: :func:`write_images`, :func:`settle`. May touch: one folder; a browser, which draws them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go

from mtexp.errors import RecordError

log = logging.getLogger(__name__)

IMAGES = ("png", "svg")
WIDTH_PX = 1100
_RANDOM = re.compile(r'(?:(?<=<defs id="defs-)|(?<= trace)|(?<=-legend-)|(?<=<pattern id="p.{6}-))[0-9a-f]{6}\b')
"""Names of definitions, traces and patterns in an SVG that plotly wrote."""


def write_images(figures: Mapping[str, go.Figure], folder: Path) -> list[Path]:
    """Write every figure as PNG and SVG; without a browser to draw them, say so and write none."""
    import plotly.io

    try:
        from choreographer.errors import BrowserFailedError, ChromeNotFoundError
        from kaleido.errors import KaleidoError
    except ImportError:
        log.warning("No images: they need kaleido (pip install 'mtexp[images]'). The HTML report is complete.")
        return []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"could not make {folder}: {error.strerror or error}") from error
    paths = [folder / f"{name}.{kind}" for name in figures for kind in IMAGES]
    try:
        drawn = [figure for figure in figures.values() for _ in IMAGES]
        heights = [figure.layout.height for figure in drawn]
        plotly.io.write_images(drawn, paths, width=WIDTH_PX, height=heights)
    except (
        ChromeNotFoundError,
        BrowserFailedError,
        KaleidoError,
        RuntimeError,
        OSError,
    ) as error:  # HOME of another user
        log.warning(
            "No images: %s. They need Chrome or Chromium: install one, or name it with BROWSER_PATH, or leave images "
            "out with --no-images. The HTML report is complete.",
            (str(error).strip() or type(error).__name__).splitlines()[0].rstrip("."),
        )
        return []
    for path in paths:
        if path.suffix == ".svg":
            settle(path)
    return paths


def settle(path: Path) -> None:
    """Number what an SVG calls by random names, so that equal data give equal files."""
    text = path.read_text(encoding="utf-8")
    names = dict.fromkeys(_RANDOM.findall(text))
    numbers = {name: f"{number:06x}" for number, name in enumerate(names)}
    if names:
        text = re.sub(rf"(?<=[A-Za-z-])(?:{'|'.join(names)})", lambda found: numbers[found[0]], text)
        path.write_text(text, encoding="utf-8")

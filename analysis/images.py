"""Figures of a report as files: PNG, SVG, PDF.

Lives here: :func:`write_images`. May touch: one folder. Equal data give equal files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from mtexp.errors import RecordError

IMAGES = ("png", "svg", "pdf")
USUAL = ("png", "svg")
_LOOK: Any = {"svg.hashsalt": "mtexp", "svg.fonttype": "none", "font.family": "DejaVu Sans"}
_PRINT_DPI = 200
"""Resolution of bitmaps in an SVG or PDF."""
_METADATA = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def write_images(figures: Mapping[str, go.Figure], folder: Path, kinds: Sequence[str] = USUAL) -> list[Path]:
    """Write every figure in those kinds (:data:`IMAGES`); return the files.

    Raises:
        RecordError: The folder cannot be written.
    """
    import matplotlib as mpl

    from .drawing import paint

    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(_LOOK):
            for name, figure in figures.items():
                drawn = paint(figure)
                for kind in kinds:
                    paths.append(folder / f"{name}.{kind}")
                    drawn.savefig(paths[-1], metadata=_METADATA[kind], dpi="figure" if kind == "png" else _PRINT_DPI)
    except OSError as error:
        raise RecordError(f"could not write figures to {folder}: {error.strerror or error}") from error
    return paths

"""What a neighbour's life does to a steady tenant. Lives here: the figure of churn runs. May touch: plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtexp.metrics.churn import KINDS

from ..churn_runs import Pooled, of_frame
from ..pooling import Results
from .theme import error_bars_of, figure, legend_once, sharing_style

_PANELS = (
    ("stall_p50_ms", "longest stall, median, ms"),
    ("p99_ms", "p99, ms"),
    ("back_s", "until it serves again, s"),
    ("steady_died_pct", "steady tenant died, %"),
)


def churn(results: Results) -> go.Figure | None:
    """The churn runs of a dataset."""
    found = of_frame(results.data.churn)
    return drawn(found) if found else None


def drawn(runs: Sequence[Pooled]) -> go.Figure:
    """Stall, p99, time until the steady tenant serves again and its deaths, by event, a colour a mode."""
    titles = [title for _, title in _PANELS]
    fig = make_subplots(rows=1, cols=len(_PANELS), subplot_titles=titles, shared_yaxes=True)
    shown: set[str] = set()
    several = len({run.mix for run in runs}) > 1
    for run in runs:
        colour, symbol, _ = sharing_style(run.mode)
        name = f"{run.mode}, {run.mix}" if several else run.mode
        for place, (stem, _) in enumerate(_PANELS, 1):
            points = [(kind, key) for kind in KINDS if (key := f"churn_{kind}_{stem}") in run.metrics]
            fig.add_scatter(
                x=[run.metrics[key] for _, key in points],
                y=[kind for kind, _ in points],
                error_x=error_bars_of([_ends(run.metrics, key) for _, key in points]),
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9},
                name=name,
                legendgroup=name,
                showlegend=legend_once(shown, name),
                row=1,
                col=place,
            )
    fig = figure(fig, height=120 + 34 * len(KINDS))
    fig.update_xaxes(type="log")
    fig.update_xaxes(type="linear", range=[-5, 105], col=len(_PANELS))
    fig.update_yaxes(categoryorder="array", categoryarray=list(reversed(KINDS)))
    return fig


def _ends(metrics: Mapping[str, float], key: str) -> tuple[float, float | None, float | None]:
    return metrics[key], metrics.get(f"{key}_ci_low"), metrics.get(f"{key}_ci_high")

"""Which SMs each tenant ran on: ``python -m analysis.sms FOLDER [--out DIR]``, from the ``%smid`` probe of each run.

Lives here: :func:`seen`, :func:`drawn` and the command. May touch: records on disk, the folder it is given. Runs in
green contexts always probe, others with ``measure.probe_sms=true``. Under a CUDA MPS percentage SMs are numbered from
0 in every client: equal numbers of two tenants are not the same SMs there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from mtexp.colours import model_colour
from mtexp.commands import command_line
from mtexp.output import enter
from mtexp.records.files import find_records
from mtexp.records.record import RunRecord, load

from .churn_runs import mode_of
from .dataset import DataError
from .options import refusing
from .plots.theme import figure, legend_once, rows_height


@dataclass(frozen=True, slots=True)
class Seen:
    """The SMs of one tenant of a run."""

    mix: str
    mode: str
    tenant: str
    model: str
    ids: tuple[int, ...]


def seen(records: Sequence[RunRecord]) -> list[Seen]:
    """Every tenant whose SMs were probed before the window, one run a mix and mode: the last."""
    found: dict[tuple[str, str, str], Seen] = {}
    for record in sorted(records, key=lambda record: record.started_at):
        for tenant in record.tenants:
            ids = tenant.facts_before.get("partition_sm_ids") or tenant.facts_before.get("sm_ids")
            if ids:
                mix, mode = record.run_spec.mix, mode_of(record)
                found[mix, mode, tenant.id] = Seen(mix, mode, tenant.id, tenant.model, tuple(sorted(ids)))
    return sorted(found.values(), key=lambda own: (own.mix, own.mode, own.tenant))


def spans(ids: Sequence[int]) -> str:
    """``0-63, 72`` for the numbers in ``ids``, sorted."""
    parts: list[list[int]] = []
    for number in ids:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts)


def drawn(found: Sequence[Seen]) -> go.Figure:
    """A row a tenant under each mode, a mark at every SM that it ran on."""
    fig = go.Figure()
    shown: set[str] = set()
    rows = [
        f"{own.mode}: {own.tenant}" + (f" in {own.mix}" if len({s.mix for s in found}) > 1 else "") for own in found
    ]
    for row, own in zip(rows, found, strict=True):
        fig.add_scatter(
            x=list(own.ids),
            y=[row] * len(own.ids),
            mode="markers",
            marker={"symbol": "square", "size": 5, "color": model_colour(own.model)},
            name=own.model,
            legendgroup=own.model,
            showlegend=legend_once(shown, own.model),
            hovertext=f"{row}: {len(own.ids)} SMs, {spans(own.ids)}",
            hoverinfo="text",
        )
    figure(fig, height=rows_height(len(found)))
    fig.update_xaxes(title_text="number of the SM (%smid)")
    fig.update_yaxes(categoryorder="array", categoryarray=rows[::-1], automargin=True)
    return fig


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the SMs of each tenant below a folder."""
    parser = argparse.ArgumentParser(prog=command_line("sms"), description=__doc__)
    parser.add_argument("folder", type=Path, help="records, at or below it")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write sms.html there")
    options = parser.parse_args(arguments)
    if not os.path.isdir(options.folder):
        raise DataError(f"{options.folder}: no such folder; it holds records")
    found = seen([load(path) for path in find_records(options.folder)])
    if not found:
        raise DataError(f"{options.folder}: no run has probed its SMs. Run on a GPU with measure.probe_sms=true")
    for own in found:
        sys.stdout.write(f"{own.mix}  {own.mode}  {own.tenant}  {len(own.ids)} SMs: {spans(own.ids)}\n")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        drawn(found).write_html(options.out / "sms.html", include_plotlyjs=True)
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))

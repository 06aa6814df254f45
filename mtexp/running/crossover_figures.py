"""From the blocks of a crossover run to its figures and findings. May touch: metrics, the telemetry file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtexp.metrics.crossover_summary import (
    BlockTelemetry,
    crossover_findings,
    joined,
    joined_window,
    summarise_crossover,
    together_spans,
)
from mtexp.metrics.finding import Finding
from mtexp.metrics.fresh_processes import SD, TURN_MS, concerned, short_graphs, unseen_of
from mtexp.metrics.samples import Samples
from mtexp.metrics.side_by_side import Side, mode_ratios
from mtexp.metrics.summary import Measured, RunSummary
from mtexp.metrics.window import Window
from mtexp.running.measured import TELEMETRY, Measurement
from mtexp.spec import RunSpec
from mtexp.telemetry import load, over_spans


@dataclass(frozen=True, slots=True)
class Reference:
    """The run of a session that the others are compared with."""

    spec: RunSpec
    measured: Measurement
    record_id: str = ""

    @property
    def whole(self) -> bool:
        """Alone blocks had the whole device and no mode: time slicing."""
        return no_mode(self.spec)


def no_mode(spec: RunSpec) -> bool:
    """Time slicing, weights of its own: a tenant that is alone has the whole device, as without any sharing mode."""
    sharing = spec.sharing
    return sharing.mode == "processes" and sharing.mps_mode == "disabled" and not sharing.share_weights


def block_figures(
    spec: RunSpec,
    measured: Measurement,
    tenants: Mapping[str, Measured],
    folder: Path,
    reference: Reference | None = None,
) -> RunSummary:
    """The figures of a run, with its telemetry in ``folder``; those against ``reference`` too."""
    unseen = unseen_of(spec, measured.samples)
    telemetry = block_telemetry(measured, folder)
    summary = summarise_crossover(tenants, measured.blocks, telemetry, unseen=unseen, seed=spec.seed)
    if reference is None:
        return summary
    there = reference.measured
    other = Side.of(there.samples, there.blocks, unseen_of(reference.spec, there.samples))
    found = mode_ratios(Side.of(measured.samples, measured.blocks, unseen), other, whole=reference.whole)
    own = {name: metrics | found.tenant_metrics(name) for name, metrics in summary.tenants.items()}
    return replace(summary, metrics=summary.metrics | found.run_metrics, tenants=own)


def block_views(measured: Measurement) -> dict[str, tuple[Samples, Window | None]]:
    """What each tenant did in the blocks of all, on a clock that stands still between them, and how long that was."""
    shared = {name: joined(own) for name, own in measured.samples.items()}
    return {name: (own, joined_window(own)) for name, own in shared.items()}


def block_findings(spec: RunSpec, measured: Measurement, summary: RunSummary) -> Iterator[Finding]:
    """Findings about the figures of a run that did not fail."""
    if measured.failure is not None:
        return
    yield from crossover_findings(
        summary,
        target_pct=spec.measure.target_pct,
        max_time_s=spec.measure.max_time_s,
        pinned=measured.cores is not None and measured.cores.pinned,
        redrawn=any(block.cores for block in measured.blocks),
    )
    alone_ms = {
        name: own["alone_latency_mean_ms"] for name, own in summary.tenants.items() if "alone_latency_mean_ms" in own
    }
    if own := concerned(spec, alone_ms):
        short = set(short_graphs(spec, alone_ms))
        models = dict.fromkeys(tenant.model.name for tenant in spec.tenants if tenant.id in short)
        whose = "all tenants" if len(own) == len(spec.tenants) else ", ".join(own)
        yield Finding(
            "note",
            "fresh-processes",
            f"a CUDA graph of {', '.join(models)} takes less than {TURN_MS:g} ms alone: on H200s such slowdowns differ "
            f"by {100 * SD:g} % (SD) between fresh processes; the intervals of {whose} include that",
            "More rounds do not narrow them, repetitions=3 does. STP and its ratios hardly differ.",
        )
    if spec.sharing.mps_mode != "disabled":
        yield Finding(
            "note",
            "alone-in-mode",
            "alone means alone under CUDA MPS: slowdowns and STP do not show what MPS costs a lone tenant",
            "slowdown_whole and stp_whole do, with the price itself as mode_cost."
            if "stp_whole" in summary.metrics
            else "Sweep over mps_settings=disabled too: measured side by side, slowdown_whole, stp_whole and mode_cost "
            "show it.",
        )


def block_telemetry(measured: Measurement, folder: Path) -> BlockTelemetry:
    """Clocks and energies of the blocks, from the telemetry in ``folder``; empty where there is none."""
    path = folder / TELEMETRY
    if not path.is_file():
        return BlockTelemetry()
    samples = load(path)
    together_mhz, together_j = over_spans(samples, together_spans(measured.samples, measured.blocks))
    alone = {name: _alone_spans(measured, name) for name in measured.samples}
    by_tenant = {name: over_spans(samples, spans) for name, spans in alone.items()}
    energies = [energy_j for _, energy_j in by_tenant.values()]
    return BlockTelemetry(
        together_clock_mhz=together_mhz,
        alone_clock_mhz={name: mhz for name, (mhz, _) in by_tenant.items() if mhz is not None},
        together_energy_j=together_j,
        alone_energy_j=sum(e for e in energies if e is not None) if all(e is not None for e in energies) else None,
    )


def own_spans(measured: Measurement) -> NDArray[np.int64] | None:
    """Start and end of the blocks of a run that was measured beside others; None = it was measured by itself."""
    if measured.runs == 1:
        return None
    return np.array([(block.start_ns, block.end_ns) for block in measured.blocks], dtype=np.int64).reshape(-1, 2)


def _alone_spans(measured: Measurement, name: str) -> NDArray[np.int64]:
    spans = [(block.start_ns, block.end_ns) for block in measured.blocks if block.active == (name,)]
    return np.array(spans, dtype=np.int64).reshape(-1, 2)

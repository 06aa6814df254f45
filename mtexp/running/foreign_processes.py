"""Foreign processes on the device of a run: who they are, joined with how busy each was. Pure."""

from __future__ import annotations

from typing import Any

from mtexp.metrics.foreign import Foreign, ForeignProcess
from mtexp.running.measured import Measurement
from mtexp.spec import RunSpec
from mtexp.telemetry import TelemetrySummary

_PROCESS_TYPES = {"compute": "C", "graphics": "G", "mps": "M"}
"""As nvidia-smi has them."""


def foreign_of(spec: RunSpec, measured: Measurement, telemetry: TelemetrySummary) -> Foreign:
    """Who else was on the device and how busy; one that came and went within the window shows only by that."""
    there, util_pct = measured.occupants, telemetry.process_util_pct
    found = [
        ForeignProcess(
            pid=process.pid,
            type=_PROCESS_TYPES.get(process.kind, "?"),
            name=process.name,
            memory_mib=process.memory_mib,
            util_pct=None if util_pct is None else util_pct.get(process.pid, 0.0),
        )
        for process in there.foreign
    ]
    if there.same_pids and util_pct is not None:
        listed = there.own | {0, *(process.pid for process in there.foreign)}
        unseen = (ForeignProcess(pid=pid, type="?", util_pct=pct) for pid, pct in util_pct.items() if pid not in listed)
        found += [process for process in unseen if process.busy]
    return Foreign(
        rule=spec.measure.foreign,
        processes=tuple(found),
        not_attributable=len(there.not_attributable),
        own=1 if spec.sharing.one_process else len(measured.facts_before),
        unlisted=there.unlisted,
    )


def foreign_notes(spec: RunSpec, measured: Measurement, telemetry: TelemetrySummary) -> dict[str, Any]:
    """Foreign processes, for the record's notes on telemetry; nothing on the CPU."""
    return {"foreign": foreign_of(spec, measured, telemetry).to_json()} if spec.runtime == "gpu" else {}

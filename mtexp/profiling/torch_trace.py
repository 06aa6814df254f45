"""Traces of torch.profiler, one per tenant, on one clock: for hosts without Nsight. May touch: numpy, json.

A Chrome trace of Kineto counts microseconds from its own top-level ``baseTimeNanoseconds``; that base plus the stamp is
Unix time, taken by each process from a time-stamp counter that all processes of a host share, through a fit of its own.
Two processes therefore agree to about a microsecond: good for iterations of milliseconds, not for the overlap of single
kernels of a few microseconds (:data:`PRECISION_NOTE`). Traces are data from outside: JSON only, bounded, checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtexp.errors import RecordError
from mtexp.profiling.kernels import Int64, Kernels, TracedTenant, printable

PRECISION_NOTE = (
    "From torch.profiler traces: each process's clock is its own fit, good to about a microsecond, so overlaps of "
    "single kernels of a few microseconds are not to be relied on."
)
CPU_NOTE = (
    "On the CPU there are no GPU kernels: trace.json (Perfetto, chrome://tracing) has the operators of each tenant on "
    "one clock, and there is no overlap table."
)
MAX_TRACE_BYTES = 512 * 2**20
_MAX_TIME_US = 2**50
_GPU_CATEGORIES = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
_LAUNCH_CATEGORIES = frozenset({"cuda_runtime", "cuda_driver"})
_KEPT_PHASES = frozenset({"X", "s", "f", "i"})


@dataclass(frozen=True, slots=True)
class Trace:
    """One tenant's trace."""

    tenant: str
    pid: int
    base_ns: int
    """Unix time that its stamps count from."""
    events: tuple[dict[str, Any], ...]


def read_trace(path: Path, tenant: str) -> Trace:
    """Read one Chrome trace of torch.profiler.

    Raises:
        RecordError: Not such a trace, or larger than 512 MiB.
    """
    try:
        if path.stat().st_size > MAX_TRACE_BYTES:
            raise RecordError(f"{path} is larger than {MAX_TRACE_BYTES // 2**20} MiB; trace fewer iterations.")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON: {error}.") from error
    events = data.get("traceEvents") if isinstance(data, dict) else None
    base = data.get("baseTimeNanoseconds") if isinstance(data, dict) else None
    if not isinstance(events, list):
        raise RecordError(f"{path} is not a Chrome trace: it has no list traceEvents.")
    if not isinstance(base, int) or not 0 <= base < 2**61:
        raise RecordError(
            f"{path}: baseTimeNanoseconds={base!r:.40}; it puts traces on one clock. Make it with torch 2.4 or later."
        )
    kept = tuple(e for e in events if isinstance(e, dict) and _is_usable(e))
    return Trace(tenant, _host_pid(kept), base, kept)


def _is_usable(event: Mapping[str, Any]) -> bool:
    phase, category = event.get("ph"), event.get("cat", "")
    known = isinstance(phase, str) and phase in _KEPT_PHASES and isinstance(category, str)
    return known and _stamp(event) is not None


def _stamp(event: Mapping[str, Any]) -> float | None:
    """``ts`` in microseconds if it is a usable number."""
    value = event.get("ts")
    return float(value) if isinstance(value, int | float) and abs(value) < _MAX_TIME_US else None


def _duration_ns(event: Mapping[str, Any]) -> int:
    """``dur`` in ns; -1 if it is not a usable number."""
    value = event.get("dur")
    return round(value * 1e3) if isinstance(value, int | float) and 0 <= value < _MAX_TIME_US else -1


def _host_pid(events: tuple[dict[str, Any], ...]) -> int:
    """Process id of the host-side events; 0 if there are none (device events carry the device's number)."""
    pids = (e.get("pid") for e in events if e.get("cat") in _LAUNCH_CATEGORIES | {"cpu_op"})
    return next((p for p in pids if isinstance(p, int)), 0)


def trace_kernels(traces: list[Trace]) -> Kernels:
    """Kernels of all traces on one clock (ns since the earliest base).

    Raises:
        RecordError: A trace has no kernels: CUDA was not traced, or the profile ran on a CPU.
    """
    origin = min(t.base_ns for t in traces)
    rows: list[tuple[int, int, int, int]] = []
    names: dict[str, int] = {}
    skipped = 0
    for index, trace in enumerate(traces):
        shift, before = trace.base_ns - origin, len(rows)
        for event in trace.events:
            if event.get("cat") != "kernel" or event.get("ph") != "X":
                continue
            duration = _duration_ns(event)
            if duration < 0:
                skipped += 1
                continue
            start = shift + round((_stamp(event) or 0.0) * 1e3)
            name = printable(str(event.get("name", ""))[:400])
            rows.append((start, start + duration, index, names.setdefault(name, len(names))))
        if len(rows) == before:
            raise RecordError(f"the trace of tenant {trace.tenant} has no GPU kernels; trace CUDA activity on a GPU.")
    table: Int64 = np.array(sorted(rows), dtype=np.int64)
    start_ns, end_ns, tenant, name_index = (table[:, i].copy() for i in range(4))
    tenants = tuple(TracedTenant(t.pid, t.tenant) for t in traces)
    return Kernels(start_ns, end_ns, tenant, name_index, tenants, tuple(names), skipped)


def require_operators(traces: list[Trace]) -> None:
    """Refuse a trace without CPU operators.

    Raises:
        RecordError: There is one.
    """
    for trace in traces:
        if not any(event.get("cat") == "cpu_op" for event in trace.events):
            raise RecordError(f"the trace of tenant {trace.tenant} has no operators; trace CPU activity.")


def merge_traces(traces: list[Trace]) -> dict[str, Any]:
    """One Chrome trace (Perfetto reads it) with a process per tenant; its clock counts from the earliest base."""
    origin = min(t.base_ns for t in traces)
    merged: list[dict[str, Any]] = []
    for index, trace in enumerate(traces, start=1):
        merged.append({"ph": "M", "name": "process_name", "pid": index, "args": {"name": f"tenant {trace.tenant}"}})
        merged.append({"ph": "M", "name": "process_sort_index", "pid": index, "args": {"sort_index": index}})
        shift_us = (trace.base_ns - origin) / 1e3
        lanes: dict[tuple[bool, str], int] = {}
        for event in trace.events:
            on_gpu = event.get("cat") in _GPU_CATEGORIES
            lane = lanes.setdefault((on_gpu, str(event.get("tid"))), len(lanes) + 1)
            moved = {**event, "pid": index, "tid": lane, "ts": (_stamp(event) or 0.0) + shift_us}
            if "id" in event:
                moved["id"] = f"{index}:{event['id']}"  # flow ids are unique in a process only
            merged.append(moved)
        for (on_gpu, tid), lane in lanes.items():
            name = f"GPU stream {tid}" if on_gpu else f"thread {tid}"
            merged.append({"ph": "M", "name": "thread_name", "pid": index, "tid": lane, "args": {"name": name[:80]}})
    return {"traceEvents": merged, "baseTimeNanoseconds": origin, "displayTimeUnit": "ms", "mtexp": PRECISION_NOTE}


def early_kernels(trace: Trace) -> tuple[int, float]:
    """Kernels that seem to start before their own launch, and by how much at most (us).

    None should; those that do show how far this trace's GPU clock is off its host clock.
    """
    launches: dict[Any, float] = {}
    for event in trace.events:
        if event.get("cat") in _LAUNCH_CATEGORIES and (number := _correlation(event)) is not None:
            launches[number] = _stamp(event) or 0.0
    early = [
        launches[number] - (_stamp(event) or 0.0)
        for event in trace.events
        if event.get("cat") == "kernel" and (number := _correlation(event)) in launches
    ]
    early = [lead for lead in early if lead > 0]
    return len(early), max(early, default=0.0)


def _correlation(event: Mapping[str, Any]) -> int | None:
    args = event.get("args")
    number = args.get("correlation") if isinstance(args, dict) else None
    return number if isinstance(number, int) else None

"""Which tenants ran kernels at the same time, from the kernels of a capture.

Lives here: the sweep line, its result and its command.

    python -m mtexp.profiling.overlap CAPTURE.sqlite [--json]

May touch: numpy. The definitions:

- A tenant is **busy** while at least one of its kernels runs: the union of their intervals, not the sum.
- The **window** runs from the latest first kernel to the earliest last kernel: in it, every tenant has kernels.
- T_k is the time of the window in which exactly k tenants are busy.
  ``kernel_overlap_pct`` = 100 * sum_{k>=2} T_k / sum_{k>=1} T_k; ``gpu_idle_pct`` = 100 * T_0 / window.
  Of one tenant: the share of its busy time in the window during which another is busy as well.
- Pairwise overlap O_ij = |U_i n U_j| / min(|U_i|, |U_j|) of the busy times inside the window.

Under time slicing these spans are not concurrency, see :data:`TIME_SLICING_NOTE`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtexp.errors import MtexpError
from mtexp.output import enter
from mtexp.profiling.kernels import Int64, Kernels, read_nsys_sqlite

TIME_SLICING_NOTE = (
    "Under time slicing a kernel that waits for its slice still spans from its start to its end, so overlapping spans "
    "are not concurrency; they are only where tenants share the device at once (CUDA MPS, streams)."
)
SHARED_PROCESS_NOTE = (
    "A process of this capture serves several tenants, each on its own stream. They are one tenant here: the figures "
    "are about processes and say nothing about these tenants' overlap with each other."
)
NO_RANGES_NOTE = (
    "Not every tenant has an NVTX range phase=measure: the window is that of the kernels, set-up and warm-up included."
)
NO_WINDOW_NOTE = "The tenants never had kernels in a common window: their overlap is unknown."

Union = tuple[Int64, Int64]
"""Disjoint intervals in order: starts and ends (ns), equal length, no interval empty."""

_MAX_PAIRED_TENANTS = 64


@dataclass(frozen=True, slots=True)
class TenantBusy:
    """What one tenant ran; ``busy_ms``, ``kernels`` and ``graphs`` over the whole capture."""

    pid: int
    name: str
    kernels: int
    graphs: int
    busy_ms: float
    busy_in_window_ms: float
    busy_pct: float | None
    """Share of the window in which it is busy, percent; None without a window."""
    kernel_overlap_pct: float | None
    """Share of its busy time in the window during which another tenant is busy, percent; None if it is never busy."""
    top_kernels: tuple[dict[str, Any], ...]
    """By total time: name, count, total_ms, mean_us."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """The overlap of a capture. Times in ms; percentages are None where there is no window, or nothing runs in it."""

    window_ms: float
    window_start_ns: int
    window_end_ns: int
    window_kind: str
    """``kernels`` (first to last kernel) or ``measure`` (NVTX ranges of the measuring phase)."""
    concurrent_ms: dict[str, float]
    """T_k by k = "0" ... number of tenants."""
    kernel_overlap_pct: float | None
    gpu_idle_pct: float | None
    tenants: tuple[TenantBusy, ...]
    pairs: tuple[dict[str, Any], ...]
    gaps: tuple[dict[str, float], ...]
    """Longest stretches of the window without any kernel: start_ms from the window's start, duration_ms."""
    skipped: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data: what ``--json`` prints; values that do not exist are left out."""
        tenants = [_present({name: getattr(t, name) for name in TenantBusy.__slots__}) for t in self.tenants]
        return _present({name: getattr(self, name) for name in Overlap.__slots__} | {"tenants": tenants})

    def metrics(self) -> dict[str, float]:
        """The run's metrics: ``kernel_overlap_pct`` and ``gpu_idle_pct``, each only where it exists."""
        return _present({"kernel_overlap_pct": self.kernel_overlap_pct, "gpu_idle_pct": self.gpu_idle_pct})


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def measure_overlap(kernels: Kernels, *, window: str = "kernels", top: int = 10) -> Overlap:
    """Sweep ``kernels``.

    Args:
        kernels: At least one kernel.
        window: ``kernels``; or ``measure``: the time in which every tenant is inside its ``phase=measure`` NVTX range,
            which leaves out set-up and warm-up. Where a tenant has no such range, ``kernels`` is taken, with a note.
        top: Most kernels, and most gaps, listed.
    """
    groups = rows_by_tenant(kernels)
    unions = [merge(kernels.start_ns[rows], kernels.end_ns[rows]) for rows in groups]
    t0, t1, kind = common_window(kernels, groups, window)
    length = max(t1 - t0, 0)
    concurrent = _concurrency(unions, t0, t1)
    active = int(concurrent[1:].sum())
    return Overlap(
        window_ms=length / 1e6,
        window_start_ns=t0,
        window_end_ns=max(t0, t1),
        window_kind=kind,
        concurrent_ms={str(k): ns / 1e6 for k, ns in enumerate(concurrent.tolist())},
        kernel_overlap_pct=_pct(int(concurrent[2:].sum()), active) if len(unions) > 1 else None,
        gpu_idle_pct=_pct(int(concurrent[0]), length),
        tenants=_tenants(kernels, groups, unions, (t0, t1), top),
        pairs=_pairs(kernels, unions, (t0, t1)) if length else (),
        gaps=_gaps(unions, t0, t1, top) if length else (),
        skipped=kernels.skipped,
        notes=(*_notes(kernels, length), *([NO_RANGES_NOTE] if kind != window else [])),
    )


def _notes(kernels: Kernels, length: int) -> tuple[str, ...]:
    notes = [TIME_SLICING_NOTE, *kernels.notes]
    if not length:
        notes.append(NO_WINDOW_NOTE)
    if any("+" in tenant.name for tenant in kernels.tenants):
        notes.append(SHARED_PROCESS_NOTE)
    if kernels.skipped:
        notes.append(f"{kernels.skipped} kernel rows without a process or with impossible times were left out.")
    return tuple(notes)


def rows_by_tenant(kernels: Kernels) -> list[Int64]:
    """Rows of each tenant in the order of ``kernels.tenants``, each sorted by start."""
    order = np.argsort(kernels.tenant, kind="stable")
    return np.split(order, np.searchsorted(kernels.tenant[order], np.arange(1, len(kernels.tenants))))


def merge(start: Int64, end: Int64) -> Union:
    """Union of intervals sorted by start; touching ones become one, empty ones vanish."""
    keep = end > start
    start, end = start[keep], end[keep]
    if not len(start):
        return start, end
    reach = np.maximum.accumulate(end)
    first = np.concatenate(([True], start[1:] > reach[:-1]))
    last = np.concatenate((first[1:], [True]))
    return start[first], reach[last]


def busy_until(union: Union, instants: Int64) -> Int64:
    """Busy time (ns) before each of ``instants`` (ns); same shape."""
    start, end = union
    total = np.concatenate(([0], np.cumsum(end - start)))
    begun = np.searchsorted(start, instants, side="right")
    open_end = np.concatenate((instants[:0], end))[np.maximum(begun - 1, 0)] if len(end) else instants
    overhang = np.where(begun > 0, np.maximum(open_end - instants, 0), 0)
    result: Int64 = total[begun] - overhang
    return result


def common_window(kernels: Kernels, groups: Sequence[Int64], kind: str = "kernels") -> tuple[int, int, str]:
    """Start and end (ns) of the time in which every tenant has kernels, and the kind; end < start if there is none."""
    ranges = [tenant.measured_ns for tenant in kernels.tenants if tenant.measured_ns is not None]
    if kind == "measure" and len(ranges) == len(kernels.tenants):
        return max(start for start, _ in ranges), min(end for _, end in ranges), "measure"
    first = max(int(kernels.start_ns[rows[0]]) for rows in groups)
    last = min(int(kernels.end_ns[rows].max()) for rows in groups)
    return first, last, "kernels"


def level_steps(unions: Sequence[Union], t0: int, t1: int) -> tuple[Int64, Int64]:
    """Instants (ns) in [t0, t1] at which the number of busy tenants changes, and the number from each on."""
    clipped = [clip(u, t0, t1) for u in unions]
    instants = np.concatenate([part for u in clipped for part in u])
    change = np.concatenate([np.repeat(np.array([1, -1]), len(start)) for start, _ in clipped])
    order = np.argsort(instants, kind="stable")
    return instants[order], np.cumsum(change[order])


def clip(union: Union, t0: int, t1: int) -> Union:
    """The part of ``union`` inside [t0, t1]."""
    start, end = np.clip(union[0], t0, t1), np.clip(union[1], t0, t1)
    keep = end > start
    return start[keep], end[keep]


def _concurrency(unions: Sequence[Union], t0: int, t1: int) -> Int64:
    """T_k in ns, k = 0 ... number of tenants."""
    time_at = np.zeros(len(unions) + 1, np.int64)
    if t1 <= t0:
        return time_at
    instants, level = level_steps(unions, t0, t1)
    np.add.at(time_at, level[:-1], np.diff(instants))
    time_at[0] = t1 - t0 - int(time_at[1:].sum())
    return time_at


def _pct(part: int, whole: int) -> float | None:
    return 100.0 * part / whole if whole > 0 else None


def _tenants(
    kernels: Kernels, groups: Sequence[Int64], unions: Sequence[Union], window: tuple[int, int], top: int
) -> tuple[TenantBusy, ...]:
    length, graph, several = max(window[1] - window[0], 0), kernels.is_graph, several_busy(unions, *window)
    result = []
    for tenant, rows, (start, end) in zip(kernels.tenants, groups, unions, strict=True):
        graphs = int(graph[rows].sum())
        inside = clip((start, end), *window) if length else (start[:0], end[:0])
        busy_ns = int((inside[1] - inside[0]).sum())
        result.append(
            TenantBusy(
                pid=tenant.pid,
                name=tenant.name,
                kernels=len(rows) - graphs,
                graphs=graphs,
                busy_ms=int((end - start).sum()) / 1e6,
                busy_in_window_ms=busy_ns / 1e6,
                busy_pct=_pct(busy_ns, length),
                kernel_overlap_pct=_pct(_common(several, inside), busy_ns) if len(unions) > 1 else None,
                top_kernels=tuple(top_kernels(kernels, rows, top)),
            )
        )
    return tuple(result)


def several_busy(unions: Sequence[Union], t0: int, t1: int, at_least: int = 2) -> Union:
    """When at least so many tenants are busy at once, inside [t0, t1]."""
    instants, level = level_steps(unions, t0, t1)
    enough = level[:-1] >= at_least
    return merge(instants[:-1][enough], instants[1:][enough])


def _common(first: Union, second: Union) -> int:
    """Length (ns) of the intersection."""
    start, end = second
    return int((busy_until(first, end) - busy_until(first, start)).sum())


def top_kernels(kernels: Kernels, rows: Int64, top: int) -> list[dict[str, Any]]:
    """Kernels of ``rows`` (indices) by total time, most first: name, count, total_ms, mean_us."""
    duration = kernels.end_ns[rows] - kernels.start_ns[rows]
    ids, index = np.unique(kernels.name[rows], return_inverse=True)
    total = np.zeros(len(ids), np.int64)
    np.add.at(total, index, duration)
    count = np.bincount(index, minlength=len(ids))
    return [
        {
            "name": kernels.names[int(ids[i])],
            "count": int(count[i]),
            "total_ms": int(total[i]) / 1e6,
            "mean_us": int(total[i]) / int(count[i]) / 1e3,
        }
        for i in np.argsort(-total, kind="stable")[:top]
    ]


def _pairs(kernels: Kernels, unions: Sequence[Union], window: tuple[int, int]) -> tuple[dict[str, Any], ...]:
    if len(unions) > _MAX_PAIRED_TENANTS:
        return ()
    clipped = [clip(u, *window) for u in unions]
    busy = [int((end - start).sum()) for start, end in clipped]
    result = []
    for i, first in enumerate(clipped):
        for j in range(i + 1, len(clipped)):
            both = _common(first, clipped[j])
            pair = {
                "pids": [kernels.tenants[i].pid, kernels.tenants[j].pid],
                "overlap_ms": both / 1e6,
                "overlap_pct": _pct(both, min(busy[i], busy[j])),
            }
            result.append(_present(pair))
    return tuple(result)


def _gaps(unions: Sequence[Union], t0: int, t1: int, top: int) -> tuple[dict[str, float], ...]:
    instants, level = level_steps(unions, t0, t1)
    idle = np.concatenate(([t0], instants[level == 0]))
    resumed = np.concatenate((instants[np.concatenate(([0], level))[:-1] == 0], [t1]))
    length = resumed - idle
    longest = np.argsort(-length, kind="stable")[:top]
    return tuple(
        {"start_ms": int(idle[i] - t0) / 1e6, "duration_ms": int(length[i]) / 1e6} for i in longest if length[i] > 0
    )


def describe(overlap: Overlap) -> str:
    """``overlap`` as text for a terminal."""
    lines = [f"window {overlap.window_ms:.2f} ms ({overlap.window_kind})"]
    for k, ms in overlap.concurrent_ms.items():
        share = f" {100 * ms / overlap.window_ms:5.1f} %" if overlap.window_ms else ""
        lines.append(f"  {k} tenants running: {ms:10.2f} ms{share}")
    lines += [f"{key} {value:.2f}" for key, value in overlap.metrics().items()]
    for tenant in overlap.tenants:
        graphs = f" + {tenant.graphs} graphs" if tenant.graphs else ""
        lines.append(f"pid {tenant.pid} {tenant.name}: {tenant.kernels} kernels{graphs}, busy {tenant.busy_ms:.2f} ms")
        lines += [f"  {k['total_ms']:10.2f} ms {k['count']:7d} x  {k['name'][:80]}" for k in tenant.top_kernels[:5]]
    lines += [f"both {p['pids'][0]} and {p['pids'][1]}: {p['overlap_ms']:.2f} ms" for p in overlap.pairs]
    lines += [f"gap {g['duration_ms']:.2f} ms at {g['start_ms']:.2f} ms" for g in overlap.gaps[:5]]
    return "\n".join([*lines, *(f"note: {note}" for note in overlap.notes)]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mtexp.profiling.overlap", description="Kernel overlap from an nsys SQLite export."
    )
    parser.add_argument("capture", help="made with: nsys export -t sqlite REPORT.nsys-rep")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--window", choices=("kernels", "measure"), default="kernels")
    parser.add_argument("--top", type=int, default=10, help="most kernels and gaps listed")
    args = parser.parse_args(argv)
    try:
        result = measure_overlap(read_nsys_sqlite(args.capture), window=args.window, top=max(args.top, 0))
    except MtexpError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except MemoryError:
        sys.stderr.write(f"error: {args.capture} needs more memory than there is; export a shorter time range.\n")
        return 1
    sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n" if args.json else describe(result))
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))

"""Results of a profiling pass: metrics, findings and files. Lives here: ProfileResult and the collectors.

May touch: files of the run directory; pyarrow and plotly, imported where they are used.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtexp.metrics.finding import Finding
from mtexp.profiling import nsys, torch_trace
from mtexp.profiling.cost_model import Peaks
from mtexp.profiling.kernels import Kernels, read_nsys_sqlite
from mtexp.profiling.ncu_roofline import RooflineRow
from mtexp.profiling.overlap import (
    NO_WINDOW_NOTE,
    SHARED_PROCESS_NOTE,
    TIME_SLICING_NOTE,
    measure_overlap,
    rows_by_tenant,
    top_kernels,
)

KERNELS_PER_TENANT = 200
"""Rows of the kernel table for one tenant."""


@dataclass(frozen=True, slots=True)
class ProfileResult:
    """A profiling pass."""

    metrics: Mapping[str, float]
    """Metrics of the run."""
    tenants: Mapping[str, Mapping[str, float]]
    """Metrics by tenant id (``pid <n>`` if the capture does not distinguish tenants)."""
    artifacts: tuple[Path, ...]
    findings: tuple[Finding, ...]


def collect(
    tool: Path,
    report: Path,
    folder: Path,
    *,
    time_slicing: bool,
    tenants: Mapping[int, str] | None = None,
) -> ProfileResult:
    """Export an nsys report and analyse it; artifacts lie in ``folder`` (the report stays where it is).

    Args:
        tool: The nsys that made the report.
        report: Of :func:`mtexp.profiling.nsys.capture`.
        folder: An existing folder.
        time_slicing: Tenants shared by driver time slicing; adds the finding that overlap is not concurrency.
        tenants: Ids by pid, for captures without NVTX ranges.

    Raises:
        ProfilerError: The export failed.
        RecordError: There are no kernels in it.
    """
    sqlite = nsys.export(tool, report, folder / "capture.sqlite", log=folder / "nsys-export.log")
    kernels = _named(read_nsys_sqlite(sqlite), tenants or {})
    sqlite.unlink()  # ten times the report, and made again from it at any time
    result = analyse(kernels, folder, time_slicing=time_slicing)
    return dataclasses.replace(result, artifacts=(report, *result.artifacts))


def _named(kernels: Kernels, ids: Mapping[int, str]) -> Kernels:
    tenants = tuple(dataclasses.replace(t, name=ids.get(t.pid, t.name)) for t in kernels.tenants)
    return dataclasses.replace(kernels, tenants=tenants)


def collect_torch(
    traces: Mapping[str, Path], folder: Path, *, time_slicing: bool, on_gpu: bool = True
) -> ProfileResult:
    """Merge torch.profiler traces (path by tenant id) and, of those of a GPU, analyse the kernels.

    Raises:
        RecordError: A file is not such a trace, or has no kernels (on the CPU: no operators).
    """
    read = [torch_trace.read_trace(path, tenant) for tenant, path in traces.items()]
    if not on_gpu:
        torch_trace.require_operators(read)
    merged = folder / "trace.json"
    merged.write_text(json.dumps(torch_trace.merge_traces(read)))
    if not on_gpu:
        return ProfileResult({}, {}, (merged,), (Finding("note", "cpu-trace", torch_trace.CPU_NOTE),))
    findings = [Finding("note", "trace-precision", torch_trace.PRECISION_NOTE)]
    for trace in read:
        count, worst_us = torch_trace.early_kernels(trace)
        if count:
            message = (
                f"{count} kernels of {trace.tenant} seem to start up to {worst_us:.1f} us before their launch: its "
                "clock is that far off."
            )
            findings.append(Finding("warning", "trace-clock", message, tenant=trace.tenant))
    result = analyse(torch_trace.trace_kernels(read), folder, time_slicing=time_slicing)
    return dataclasses.replace(result, artifacts=(merged, *result.artifacts), findings=(*result.findings, *findings))


def analyse(kernels: Kernels, folder: Path, *, time_slicing: bool) -> ProfileResult:
    """Overlap, kernel table and lane picture of ``kernels``, written to ``folder``."""
    from mtexp.profiling.figures import lanes, write_html

    overlap = measure_overlap(kernels, window="measure")
    path = folder / "overlap.json"
    path.write_text(json.dumps(overlap.to_json(), indent=2) + "\n")
    picture = folder / "lanes.html"
    write_html(lanes(kernels, overlap, note=TIME_SLICING_NOTE if time_slicing else ""), picture)
    findings = []
    if time_slicing:
        findings.append(Finding("note", "overlap-not-concurrency", TIME_SLICING_NOTE))
    if SHARED_PROCESS_NOTE in overlap.notes:
        findings.append(Finding("note", "tenants-share-process", SHARED_PROCESS_NOTE))
    if not overlap.window_ms:
        findings.append(
            Finding(
                "warning",
                "profile-no-window",
                NO_WINDOW_NOTE,
                "Raise profiler.iterations until the tenants overlap.",
            )
        )
    names = [t.name for t in overlap.tenants]
    per_tenant = {
        t.name if t.name and names.count(t.name) == 1 else f"pid {t.pid}": {
            "busy_ms": t.busy_ms,
            "kernels": float(t.kernels + t.graphs),
            **{
                k: v
                for k, v in (("busy_pct", t.busy_pct), ("kernel_overlap_pct", t.kernel_overlap_pct))
                if v is not None
            },
        }
        for t in overlap.tenants
    }
    artifacts = (path, *_write_table(kernel_table(kernels), folder, "kernels"), picture)
    return ProfileResult(overlap.metrics(), per_tenant, artifacts, tuple(findings))


def kernel_table(kernels: Kernels) -> list[dict[str, Any]]:
    """Rows tenant, pid, kernel, count, total_ms, mean_us, time_pct (of the tenant's kernel time); most time first."""
    table = []
    for tenant, rows in zip(kernels.tenants, rows_by_tenant(kernels), strict=True):
        total_ms = int((kernels.end_ns[rows] - kernels.start_ns[rows]).sum()) / 1e6
        for kernel in top_kernels(kernels, rows, KERNELS_PER_TENANT):
            share = 100 * kernel["total_ms"] / total_ms if total_ms else 0.0
            table.append(
                {
                    "tenant": tenant.name,
                    "pid": tenant.pid,
                    "kernel": kernel["name"],
                    "count": kernel["count"],
                    "total_ms": kernel["total_ms"],
                    "mean_us": kernel["mean_us"],
                    "time_pct": share,
                }
            )
    return table


def write_rooflines(
    rows: Sequence[RooflineRow], peaks: Peaks | None, folder: Path, kernels: Sequence[dict[str, Any]] = ()
) -> ProfileResult:
    """Write the roofline table, that of its kernels, and the plot where the device's peaks are known.

    Args:
        rows: A model each.
        peaks: Of the device, if known.
        folder: An existing folder.
        kernels: Rows of :func:`mtexp.profiling.ncu_roofline.kernel_rows`, all models together.
    """
    from mtexp.profiling.figures import roofline, write_html

    table = [{**dataclasses.asdict(row), "sentence": row.sentence()} for row in rows]
    artifacts = list(_write_table(table, folder, "roofline"))
    if kernels:
        artifacts += _write_table(list(kernels), folder, "roofline-kernels")
    findings = [Finding("note", "roofline", row.sentence(), tenant=row.tenant) for row in rows]
    if peaks is None:
        message = "The device is not in the table of peaks: no roofline plot, no bound."
        findings.append(Finding("note", "no-peaks", message, "Add it to mtexp.profiling.cost_model.DEVICES."))
    else:
        for precision in sorted({row.precision for row in rows} & set(peaks.flops)):
            picture = folder / f"roofline-{precision}.html"
            write_html(roofline([row for row in rows if row.precision == precision], peaks, precision), picture)
            artifacts.append(picture)
    for row in rows:
        if not row.complete:
            message = f"{row.name}: only the first {row.kernels} kernels of what was to be profiled were"
            findings.append(Finding("note", "ncu-incomplete", message, "Raise profiler.kernels.", row.tenant))
    return ProfileResult({}, {row.tenant: row.metrics() for row in rows}, tuple(artifacts), tuple(findings))


def _write_table(rows: list[dict[str, Any]], folder: Path, name: str) -> tuple[Path, Path]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    table = pa.Table.from_pylist(rows)
    parquet_path, csv_path = folder / f"{name}.parquet", folder / f"{name}.csv"
    parquet.write_table(table, parquet_path)
    csv.write_csv(table, csv_path)
    return parquet_path, csv_path

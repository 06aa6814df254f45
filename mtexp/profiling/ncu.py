"""The Nsight Compute pass: one model alone, the counters of its kernels, its place under the roofline.

May touch: subprocess through ``mtexp.profiling.process``. The traced program is a tenant in a fresh interpreter that
puts one request into the NVTX push-pop range :data:`NVTX_RANGE`; only kernels inside it are profiled. Each kernel is
replayed with cold caches, so its DRAM traffic is an upper bound of what it moves between its neighbours, and no time
from this pass is a latency.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtexp.errors import ProfilerError, RecordError
from mtexp.profiling.process import explain, run_bounded
from mtexp.profiling.roofline import Cost, Peaks, bound_by

NVTX_RANGE = "mtexp_ncu"
METRICS = (
    "gpu__time_duration.sum",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "lts__t_sectors.avg.pct_of_peak_sustained_elapsed",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "launch__waves_per_multiprocessor",
    "sm__inst_executed_pipe_tensor.sum",
)
FLOP_FACTORS: Mapping[str, int] = {
    "sm__sass_thread_inst_executed_op_fadd_pred_on.sum": 1,
    "sm__sass_thread_inst_executed_op_fmul_pred_on.sum": 1,
    "sm__sass_thread_inst_executed_op_ffma_pred_on.sum": 2,
    "sm__sass_thread_inst_executed_op_hadd_pred_on.sum": 2,
    "sm__sass_thread_inst_executed_op_hmul_pred_on.sum": 2,
    "sm__sass_thread_inst_executed_op_hfma_pred_on.sum": 4,
}
"""FLOPs of one thread instruction outside the tensor cores; half precision works on pairs."""
HOPPER_TENSOR = tuple(
    f"sm__ops_path_tensor_op_{name}_sparsity_off.sum"
    for name in (
        "hgmma_src_bf16_dst_fp32",
        "hgmma_src_fp16",
        "hgmma_src_tf32_dst_fp32",
        "hmma_src_bf16_dst_fp32",
        "hmma_src_fp16_dst_fp16",
        "hmma_src_fp16_dst_fp32",
        "hmma_src_tf32_dst_fp32",
    )
)
"""Tensor-core operations by instruction on GH100; wgmma counts under ``hgmma`` only. Each unit is one FLOP."""
BOUND_PCT = 60.0
"""A kernel whose compute or memory throughput reaches this share of the peak is bound by it (Orion, EuroSys 2024)."""

_TENSOR_OP = re.compile(
    r"sm__ops_path_tensor_op_(?:hg?mma)_src_(?:bf16|fp16|tf32)(?:_dst_fp(?:16|32))?_sparsity_o(?:n|ff)"
)
_TENSOR_PATH = re.compile(r"sm__ops_path_tensor_src_(?:bf16|fp16|tf32)(?:_dst_fp(?:16|32))?(?:_sparsity_o(?:n|ff))?")
_MAX_CSV_BYTES = 256 * 2**20
_QUERY_S = 120.0
_IMPORT_S = 300.0


@dataclass(frozen=True, slots=True)
class CountedKernel:
    """One profiled kernel: its counters in base units (ns, bytes, percent, instructions)."""

    name: str
    counters: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineRow:
    """One model under the roofline. What could not be measured is None."""

    tenant: str
    model: str
    precision: str
    kernels: int
    complete: bool
    """All kernels of one request were profiled, not the first ``profiler.kernels`` of it."""
    time_ms: float
    """Sum of the kernels' durations, each alone on the device."""
    flops: float | None
    flops_source: str
    """``counters``; ``formula`` where the device has no counter for its tensor cores; empty if unknown."""
    bytes: float | None
    """DRAM traffic."""
    flops_per_s: float | None
    bytes_per_s: float | None
    intensity: float | None
    """FLOPs a byte."""
    compute_peak_pct: float | None
    memory_peak_pct: float | None
    compute_bound_time_pct: float
    """Share of the time in kernels with at least 60 % of the SM throughput, and more of it than of DRAM's."""
    memory_bound_time_pct: float
    formula_flops: float | None
    formula_bytes: float | None
    launch_bound_pct: float | None
    bound: str | None
    """``compute``, ``memory`` or ``launch``."""

    def metrics(self) -> dict[str, float]:
        """The row as run metrics; absent where unknown."""
        values = {
            "roofline_tflop_per_s": self.flops_per_s and self.flops_per_s / 1e12,
            "roofline_gb_per_s": self.bytes_per_s and self.bytes_per_s / 1e9,
            "intensity_flop_per_byte": self.intensity,
            "compute_peak_pct": self.compute_peak_pct,
            "memory_peak_pct": self.memory_peak_pct,
            "compute_bound_time_pct": self.compute_bound_time_pct,
            "memory_bound_time_pct": self.memory_bound_time_pct,
        }
        return {key: value for key, value in values.items() if value is not None}


def find_ncu(environ: Mapping[str, str] = os.environ, installed_under: Sequence[Path] = (Path("/opt/nvidia"),)) -> Path:
    """The ncu from ``$NCU``, the PATH or an installation.

    Raises:
        ProfilerError: There is none.
    """
    if given := environ.get("NCU"):
        return Path(given)
    found = [Path(p)] if (p := shutil.which("ncu", path=environ.get("PATH"))) else []
    found += [p for root in installed_under for p in sorted(root.glob("nsight-compute*/*/ncu"), reverse=True)]
    if not found:
        raise ProfilerError(
            "profiler=ncu needs Nsight Compute; there is no ncu on the PATH or under /opt/nvidia. Install "
            "nsight-compute, set NCU to an ncu, or use profiler=nsys or profiler=torch."
        )
    return found[0]


def query_metrics(tool: Path, *, log: Path) -> frozenset[str]:
    """Base names of the counters that this device has; empty if ncu does not say."""
    code, _ = run_bounded([str(tool), "--query-metrics"], timeout_s=_QUERY_S, log=log)
    text = log.read_text(errors="replace")
    return frozenset(re.findall(r'^"?([a-z0-9]+__[a-z0-9_]+)', text, re.MULTILINE)) if code == 0 else frozenset()


def choose_metrics(available: Collection[str]) -> tuple[str, ...]:
    """Counters to ask for, of those ``available``; Hopper's where that is not known (empty).

    ncu refuses a whole run for one unknown name, and names differ between chips. Of the tensor-core counters only
    leaves are taken: by instruction where there are such, else by data type, never a sum together with its parts.
    """
    if not available:
        return (*METRICS, *FLOP_FACTORS, *HOPPER_TENSOR)
    leaves = {n for n in available if _TENSOR_OP.fullmatch(n)} or {n for n in available if _TENSOR_PATH.fullmatch(n)}
    tensor = sorted(f"{n}.sum" for n in leaves if not any(_is_part(other, n) for other in leaves))
    wanted = (*METRICS, *FLOP_FACTORS)
    return (*(m for m in wanted if m.startswith("launch__") or m.split(".")[0] in available), *tensor)


def _is_part(name: str, whole: str) -> bool:
    """Whether ``whole`` without its suffixes is a prefix of ``name``: ``src_fp16`` contains ``src_fp16_dst_fp32``."""
    if name == whole:
        return False
    stem, _, sparsity = whole.partition("_sparsity")
    if not name.startswith(stem + "_"):
        return False
    return not sparsity or name.endswith(sparsity)


def profile_command(tool: Path, inner: Sequence[str], out: Path, *, kernels: int, metrics: Sequence[str]) -> list[str]:
    """The argv that profiles at most ``kernels`` kernels of ``inner`` inside :data:`NVTX_RANGE` into ``out``."""
    return [
        str(tool),
        "--target-processes=all",
        "--nvtx",
        f"--nvtx-include={NVTX_RANGE}/",
        f"--launch-count={kernels}",
        "--clock-control=none",
        f"--metrics={','.join(metrics)}",
        "--force-overwrite",
        f"--export={str(out).replace('%', '%%')}",
        *inner,
    ]


def import_command(tool: Path, report: Path) -> list[str]:
    """The argv that prints the counters of ``report`` as CSV in base units."""
    return [str(tool), f"--import={report}", "--page=raw", "--csv", "--print-units=base"]


def report_path(out: Path) -> Path:
    """The report that ``--export=out`` leaves."""
    return out.with_name(out.name + ".ncu-rep")


def profile(
    tool: Path,
    command: Sequence[str],
    out: Path,
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
) -> tuple[Path, list[CountedKernel]]:
    """Run ``command`` (of :func:`profile_command`, same ``out``); its report and the kernels in it.

    Logs lie beside ``out``.

    Raises:
        ProfilerError: No permission, another profiler, no kernel in the range, or the deadline passed.
        RecordError: The report cannot be read.
    """
    log = out.with_name(out.name + ".log")
    code, output = run_bounded(command, timeout_s=timeout_s, log=log, env=env)
    report = report_path(out)
    why = explain(output)
    if code or why or not report.is_file():
        why = why or ("no kernel ran in its NVTX range" if not code else "the profiled program failed")
        tail = "\n".join(f"  | {line}" for line in output.strip().splitlines()[-10:])
        raise ProfilerError(f"{tool} gave no usable report (exit code {code}): {why}; log: {log}\n{tail}")
    table = out.with_name(out.name + ".csv")
    code, output = run_bounded(import_command(tool, report), timeout_s=_IMPORT_S, log=table)
    if code:
        raise ProfilerError(f"{tool} could not import {report} (exit code {code}): {output.strip()[-300:]}")
    return report, read_raw_csv(table)


def read_raw_csv(path: Path) -> list[CountedKernel]:
    """Kernels of ``ncu --page raw --csv``: a line of names, a line of units, a line a kernel.

    Raises:
        RecordError: No such table, no kernel in it, or it is larger than 256 MiB.
    """
    if path.stat().st_size > _MAX_CSV_BYTES:
        raise RecordError(f"{path} is larger than {_MAX_CSV_BYTES // 2**20} MiB; profile fewer kernels.")
    lines = path.read_text(errors="replace").split("\n")
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if begin is None:
        raise RecordError(f"{path} holds no table of kernels; make it with: ncu --import REPORT --page raw --csv")
    try:
        reader = csv.DictReader(line for line in lines[begin:] if not line.startswith("=="))
        kernels = [_kernel(row) for row in reader if row.get("ID")]
    except csv.Error as error:
        raise RecordError(f"{path} is not a table of kernels: {error}.") from error
    if not kernels:
        raise RecordError(f"{path} has no kernels.")
    return kernels


def _kernel(row: Mapping[str | None, str | list[str] | None]) -> CountedKernel:
    counters = {}
    for name, text in row.items():
        if name and "__" in name and isinstance(text, str):
            number = text.replace(",", "")
            if re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", number):
                counters[name] = float(number)
    return CountedKernel(str(row.get("Kernel Name") or ""), counters)


def _total(kernels: Iterable[CountedKernel], name: str) -> float:
    return sum(k.counters.get(name, 0.0) for k in kernels)


def counted_flops(kernels: Sequence[CountedKernel]) -> float | None:
    """FLOPs of ``kernels`` by their counters; None where there is no counter of the tensor cores."""
    names = {n for k in kernels for n in k.counters}
    tensor = [n for n in names if n.startswith("sm__ops_path_tensor_") and n.endswith(".sum")]
    if not tensor:
        return None
    scalar = sum(factor * _total(kernels, name) for name, factor in FLOP_FACTORS.items())
    return scalar + sum(_total(kernels, name) for name in tensor)


def roofline_row(
    kernels: Sequence[CountedKernel],
    *,
    tenant: str,
    model: str,
    precision: str,
    kernel_limit: int,
    peaks: Peaks | None = None,
    cost: Cost | None = None,
    launch_bound_pct: float | None = None,
) -> RooflineRow:
    """One model's row from its profiled kernels.

    Args:
        kernels: Of :func:`profile`, at least one.
        tenant: Its id.
        model: Its model's name.
        precision: ``fp16`` ...
        kernel_limit: The ``kernels`` of :func:`profile_command`; as many were seen means that some may be missing.
        peaks: Of the device, if known.
        cost: Of one request by formula, if the model has one.
        launch_bound_pct: Of its baseline, if measured.
    """
    complete = len(kernels) < kernel_limit
    time_s = _total(kernels, "gpu__time_duration.sum") / 1e9
    moved = _total(kernels, "dram__bytes_read.sum") + _total(kernels, "dram__bytes_write.sum")
    flops, source = counted_flops(kernels), "counters"
    if flops is None:
        flops, source = (cost.flops, "formula") if cost and complete else (None, "")
    flops_per_s = flops / time_s if flops and time_s else None
    bytes_per_s = moved / time_s if moved and time_s else None
    intensity = flops / moved if flops and moved else None
    peak = peaks.flops.get(precision) if peaks else None
    compute, memory = _bound_times(kernels)
    return RooflineRow(
        tenant=tenant,
        model=model,
        precision=precision,
        kernels=len(kernels),
        complete=complete,
        time_ms=time_s * 1e3,
        flops=flops,
        flops_source=source,
        bytes=moved or None,
        flops_per_s=flops_per_s,
        bytes_per_s=bytes_per_s,
        intensity=intensity,
        compute_peak_pct=100 * flops_per_s / peak if flops_per_s and peak else None,
        memory_peak_pct=100 * bytes_per_s / peaks.bytes_per_s if bytes_per_s and peaks else None,
        compute_bound_time_pct=compute,
        memory_bound_time_pct=memory,
        formula_flops=cost.flops if cost else None,
        formula_bytes=cost.bytes if cost else None,
        launch_bound_pct=launch_bound_pct,
        bound=bound_by(intensity, peaks.ridge(precision), launch_bound_pct) if intensity and peak and peaks else None,
    )


def _bound_times(kernels: Sequence[CountedKernel]) -> tuple[float, float]:
    """Shares (percent) of the time in kernels bound by compute and by memory."""
    total = _total(kernels, "gpu__time_duration.sum")
    compute = memory = 0.0
    for kernel in kernels:
        time = kernel.counters.get("gpu__time_duration.sum", 0.0)
        sm = kernel.counters.get("sm__throughput.avg.pct_of_peak_sustained_elapsed", 0.0)
        dram = kernel.counters.get("dram__throughput.avg.pct_of_peak_sustained_elapsed", 0.0)
        if max(sm, dram) >= BOUND_PCT:
            compute, memory = (compute + time, memory) if sm >= dram else (compute, memory + time)
    return (100 * compute / total, 100 * memory / total) if total else (0.0, 0.0)

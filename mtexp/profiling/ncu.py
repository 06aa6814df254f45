"""The Nsight Compute pass: one model alone, the counters of its kernels.

Lives here: how ncu is called and its tables are read; :mod:`mtexp.profiling.ncu_roofline` interprets them. May touch:
subprocess through ``mtexp.profiling.process``. The traced program is a tenant in a fresh interpreter that puts the
middle layer and the head of one request, or the whole of it, into push-pop ranges (:data:`RANGES`); only kernels in
them are profiled. Each kernel is replayed with cold caches, so its DRAM traffic is an upper bound of what it moves
between its neighbours, and no time from this pass is a latency.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtexp.errors import ProfilerError, ProfilerUnusable, RecordError
from mtexp.profiling.process import explain, run_bounded

RANGES = {"mtexp_ncu_layer": "layer", "mtexp_ncu_head": "head", "mtexp_ncu_request": "request"}
"""NVTX ranges of :mod:`mtexp.tenant.tracing`, and the part of a request that each holds."""
TIME, READ, WRITTEN = "gpu__time_duration.sum", "dram__bytes_read.sum", "dram__bytes_write.sum"
SM = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
DRAM = "dram__throughput.avg.pct_of_peak_sustained_elapsed"
METRICS = (TIME, READ, WRITTEN, SM, DRAM)
"""Only a few counters, because ncu replays every kernel once for each small group of counters."""
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
_TENSOR_OP = re.compile(
    r"sm__ops_path_tensor_op_(?:hg?mma)_src_(?:bf16|fp16|tf32)(?:_dst_fp(?:16|32))?_sparsity_o(?:n|ff)"
)
_TENSOR_PATH = re.compile(r"sm__ops_path_tensor_src_(?:bf16|fp16|tf32)(?:_dst_fp(?:16|32))?(?:_sparsity_o(?:n|ff))?")
_TENSOR_SOURCE = {"fp16": "fp16", "bf16": "bf16", "tf32": "tf32", "fp32": "tf32", "int8": "bf16", "fp8": "fp8"}
_MAX_CSV_BYTES = 256 * 2**20
_QUERY_S = 120.0
_IMPORT_S = 300.0


@dataclass(frozen=True, slots=True)
class CountedKernel:
    """One profiled kernel: its counters in base units (ns, bytes, percent, instructions)."""

    name: str
    counters: Mapping[str, float]
    part: str = ""
    """``layer`` (the middle one), ``head`` or ``request``; empty if its NVTX range is unknown."""


def find_ncu(environ: Mapping[str, str] = os.environ, installed_under: Sequence[Path] = (Path("/opt/nvidia"),)) -> Path:
    """The ncu from ``$NCU``, the PATH or an installation.

    Raises:
        ProfilerError: There is none, or ``$NCU`` cannot be started.
    """
    if given := environ.get("NCU"):
        if not shutil.which(given):
            raise ProfilerError(f"NCU={given} is not a program. Set NCU to an ncu, or unset it to search for one.")
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
    """Base names of the counters that this device has; empty if ncu does not report them."""
    code, _ = run_bounded([str(tool), "--query-metrics"], timeout_s=_QUERY_S, log=log)
    text = log.read_text(errors="replace")
    return frozenset(re.findall(r'^"?([a-z0-9]+__[a-z0-9_]+)', text, re.MULTILINE)) if code == 0 else frozenset()


def choose_metrics(available: Collection[str], precision: str) -> tuple[str, ...]:
    """Counters to ask for, of those ``available``; Hopper's where that is not known (empty).

    ncu refuses a whole run for one unknown name, and names differ between chips. Of the tensor-core counters only those
    of ``precision`` are taken, and only leaves: by instruction where there are such, else by data type, never a sum
    together with its parts.
    """
    source = f"_src_{_TENSOR_SOURCE[precision]}_"
    if not available:
        return (*METRICS, *FLOP_FACTORS, *(m for m in HOPPER_TENSOR if source in m))
    leaves = {n for n in available if _TENSOR_OP.fullmatch(n)} or {n for n in available if _TENSOR_PATH.fullmatch(n)}
    leaves = {n for n in leaves if source in n + "_"}
    tensor = sorted(f"{n}.sum" for n in leaves if not any(_is_part(other, n) for other in leaves))
    return (*(m for m in (*METRICS, *FLOP_FACTORS) if m.split(".")[0] in available), *tensor)


def _is_part(name: str, whole: str) -> bool:
    """Whether ``whole`` without its suffixes is a prefix of ``name``: ``src_fp16`` contains ``src_fp16_dst_fp32``."""
    if name == whole:
        return False
    stem, _, sparsity = whole.partition("_sparsity")
    if not name.startswith(stem + "_"):
        return False
    return not sparsity or name.endswith(sparsity)


def profile_command(tool: Path, inner: Sequence[str], out: Path, *, kernels: int, metrics: Sequence[str]) -> list[str]:
    """The argv that profiles at most ``kernels`` kernels of ``inner`` inside :data:`RANGES` into ``out``."""
    return [
        str(tool),
        "--target-processes=all",
        "--nvtx",
        *(f"--nvtx-include={name}/" for name in RANGES),
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
) -> tuple[Path, list[CountedKernel]]:
    """Run ``command`` (of :func:`profile_command`, same ``out``); its report and the kernels in it.

    Logs lie beside ``out``.

    Raises:
        ProfilerUnusable: No permission, no library, or another active profiler; not the program's fault.
        ProfilerError: The program failed, no kernel ran in the ranges, or the deadline passed.
        RecordError: The report cannot be read.
    """
    log = out.with_name(out.name + ".log")
    code, output = run_bounded(command, timeout_s=timeout_s, log=log)
    report = report_path(out)
    known = explain(output)
    if code or known or not report.is_file():
        why = known or ("no kernel ran in its NVTX range" if not code else "the profiled program failed")
        tail = "\n".join(f"  | {line}" for line in output.strip().splitlines()[-10:])
        failed = ProfilerUnusable if known else ProfilerError
        raise failed(f"{tool} gave no usable report (exit code {code}): {why}; log: {log}\n{tail}")
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
    counters, part = {}, ""
    for name, text in row.items():
        if not name or not isinstance(text, str):
            continue
        number = text.replace(",", "")
        if "__" in name and re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", number):
            counters[name] = float(number)
        elif "Push/Pop_Range" in name:
            part = next((part for range_name, part in RANGES.items() if range_name in text), "")
    return CountedKernel(str(row.get("Kernel Name") or ""), counters, part)

"""A model's place under the roofline, from the counters of its kernels. Pure: :class:`RooflineRow` and its sentence.

What was profiled is the middle layer of the model, counted as often as the model has layers, and its head once; or a
whole request. A **kernel** is bound by compute or by memory when its SM or its DRAM throughput reaches
:data:`BOUND_PCT` of the peak (Orion, EuroSys 2024); one that reaches neither waits for latencies, or is too small to
fill the device. A **model** is placed by its intensity against the ridge, and by the share of its kernels' time in each
of the three.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtexp.profiling.cost_model import LAUNCH_BOUND_PCT, Peaks, bound_by, request_cost, shape_of
from mtexp.profiling.ncu import DRAM, FLOP_FACTORS, READ, SM, TIME, WRITTEN, CountedKernel
from mtexp.spec import TenantSpec

BOUND_PCT = 60.0
_MOST_PCT = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineRow:
    """One model under the roofline; of one request, without its embeddings. What could not be measured is None."""

    tenant: str
    name: str
    """Name of the row: its model, with its tenant if the mix has the model in several sizes."""
    model: str
    workload: str
    batch_size: int
    seq_len: int
    precision: str
    execution: str
    profiled: str
    """``layer``: the middle layer, times ``layers``, and the head; ``request``: all of one request; ``kernels``: ncu
    did not report their NVTX ranges, so shares and intensity are of these kernels, and no sum is a request's."""
    layers: int
    kernels: int
    complete: bool
    """True if all kernels are included, not only the first ``profiler.kernels``."""
    time_ms: float
    """Sum of the kernels' durations, each alone on the device with cold caches."""
    flops: float | None
    flops_source: str
    """``counters``; ``formula`` where the device has no counter for its tensor cores; empty if unknown."""
    bytes: float | None
    """DRAM traffic."""
    flops_per_s: float | None
    bytes_per_s: float | None
    intensity: float | None
    """FLOPs a byte."""
    ridge: float | None
    """Intensity from which on the device's peak arithmetic can be reached."""
    compute_peak_pct: float | None
    memory_peak_pct: float | None
    compute_bound_time_pct: float
    """Share of the time in kernels with at least 60 % of the SM throughput, and more of it than of DRAM's."""
    memory_bound_time_pct: float
    latency_bound_time_pct: float
    """Share of the time in kernels that reach 60 % of neither."""
    formula_flops: float | None
    formula_bytes: float | None
    launch_bound_pct: float | None
    bound: str | None
    """``compute``, ``memory`` or ``launch`` by the roofline; ``launch`` takes precedence."""
    kernels_bound: str
    """``compute``, ``memory`` or ``latency``: the majority of the kernels' time; ``mixed`` without a majority."""

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
            "latency_bound_time_pct": self.latency_bound_time_pct,
            "launch_bound_pct": self.launch_bound_pct,
        }
        return {key: value for key, value in values.items() if value is not None}

    def sentence(self) -> str:
        """Describe what limits the model."""
        parts = []
        if self.launch_bound_pct is not None:
            enough = "launch-bound" if self.launch_bound_pct >= LAUNCH_BOUND_PCT else "not launch-bound"
            parts.append(f"alone, the GPU waits for launches {self.launch_bound_pct:.0f} % of a request: {enough}")
        parts.append(
            f"of its kernels' time {self.compute_bound_time_pct:.0f} % is compute-bound, "
            f"{self.memory_bound_time_pct:.0f} % memory-bound, {self.latency_bound_time_pct:.0f} % neither "
            f"(both below {BOUND_PCT:.0f} % of the peak)"
        )
        if self.intensity is not None and self.ridge is not None:
            side = "compute" if self.intensity >= self.ridge else "memory"
            parts.append(
                f"{self.intensity:.0f} FLOP/byte against a ridge of {self.ridge:.0f}: the {side} side of the roofline"
            )
        if self.compute_peak_pct is not None and self.memory_peak_pct is not None:
            parts.append(
                f"it reaches {self.compute_peak_pct:.0f} % of the peak arithmetic and {self.memory_peak_pct:.0f} % of "
                "the peak bandwidth"
            )
        return f"{self.name}: {'; '.join(parts)}."


def _flops(weighted: Sequence[tuple[CountedKernel, int]]) -> float | None:
    """FLOPs of kernels, each so many times, by their counters; None without a counter of the tensor cores."""
    names = {n for kernel, _ in weighted for n in kernel.counters}
    tensor = [n for n in names if n.startswith("sm__ops_path_tensor_") and n.endswith(".sum")]
    if not tensor:
        return None
    scalar = sum(factor * _total(weighted, name) for name, factor in FLOP_FACTORS.items())
    return scalar + sum(_total(weighted, name) for name in tensor)


def _total(weighted: Iterable[tuple[CountedKernel, int]], name: str) -> float:
    return sum(times * kernel.counters.get(name, 0.0) for kernel, times in weighted)


def kernel_bound(kernel: CountedKernel) -> str:
    """``compute``, ``memory`` or ``latency``."""
    sm, dram = kernel.counters.get(SM, 0.0), kernel.counters.get(DRAM, 0.0)
    if max(sm, dram) < BOUND_PCT:
        return "latency"
    return "compute" if sm >= dram else "memory"


def kernel_rows(tenant: TenantSpec, kernels: Sequence[CountedKernel]) -> list[dict[str, Any]]:
    """A row a kernel: tenant, model, part, kernel, time_us, flops, bytes, intensity, sm_pct, dram_pct, bound."""
    rows = []
    for kernel in kernels:
        flops, moved = _flops([(kernel, 1)]), kernel.counters.get(READ, 0.0) + kernel.counters.get(WRITTEN, 0.0)
        rows.append(
            {
                "tenant": tenant.id,
                "model": tenant.model.name,
                "part": kernel.part,
                "kernel": kernel.name,
                "time_us": kernel.counters.get(TIME, 0.0) / 1e3,
                "flops": flops,
                "bytes": moved,
                "intensity": flops / moved if flops is not None and moved else None,
                "sm_pct": kernel.counters.get(SM),
                "dram_pct": kernel.counters.get(DRAM),
                "bound": kernel_bound(kernel),
            }
        )
    return rows


def roofline_row(
    kernels: Sequence[CountedKernel],
    tenant: TenantSpec,
    *,
    kernel_limit: int,
    name: str = "",
    peaks: Peaks | None = None,
    launch_bound_pct: float | None = None,
) -> RooflineRow:
    """One model's row from its profiled kernels.

    Args:
        kernels: Of :func:`mtexp.profiling.ncu.profile`, at least one.
        tenant: The tenant of the model.
        kernel_limit: The ``kernels`` of ``ncu.profile_command``; as many were seen means that some may be missing.
        name: What to call the row; empty = its model.
        peaks: Of the device, if known.
        launch_bound_pct: Of its baseline, if measured.

    Raises:
        ConfigError: The model is a transformer of unknown shape.
    """
    transformer, precision = tenant.model.role != "stressor", tenant.precision
    one_size = transformer and not len(tenant.arrival.lengths)
    cost = request_cost(tenant.model, tenant.workload, precision, tenant.cost) if one_size else None
    layers = shape_of(tenant.model).layers if transformer and tenant.model.has_formula else 1
    weighted = [(kernel, layers if kernel.part == "layer" else 1) for kernel in kernels]
    parts = {kernel.part for kernel in kernels}
    complete = len(kernels) < kernel_limit and "" not in parts
    time_s = _total(weighted, TIME) / 1e9
    moved = _total(weighted, READ) + _total(weighted, WRITTEN)
    flops, source = _flops(weighted), "counters"
    if flops is None:
        flops, source = (cost.flops, "formula") if cost and complete else (None, "")
    flops_per_s = flops / time_s if flops and time_s else None
    bytes_per_s = moved / time_s if moved and time_s else None
    intensity = flops / moved if flops and moved else None
    peak = peaks.flops.get(precision) if peaks else None
    ridge = peaks.ridge(precision) if peaks and peak else None
    shares = _shares(weighted)
    return RooflineRow(
        tenant=tenant.id,
        name=name or tenant.model.name,
        model=tenant.model.name,
        workload=tenant.workload.kind,
        batch_size=tenant.workload.batch_size,
        seq_len=tenant.workload.seq_len,
        precision=precision,
        execution=tenant.execution,
        profiled=next((part for part in ("layer", "request") if part in parts and "" not in parts), "kernels"),
        layers=layers,
        kernels=len(kernels),
        complete=complete,
        time_ms=time_s * 1e3,
        flops=flops,
        flops_source=source,
        bytes=moved or None,
        flops_per_s=flops_per_s,
        bytes_per_s=bytes_per_s,
        intensity=intensity,
        ridge=ridge,
        compute_peak_pct=100 * flops_per_s / peak if flops_per_s and peak else None,
        memory_peak_pct=100 * bytes_per_s / peaks.bytes_per_s if bytes_per_s and peaks else None,
        compute_bound_time_pct=shares["compute"],
        memory_bound_time_pct=shares["memory"],
        latency_bound_time_pct=shares["latency"],
        formula_flops=cost.flops if cost else None,
        formula_bytes=cost.bytes if cost else None,
        launch_bound_pct=launch_bound_pct,
        bound=bound_by(intensity, ridge, launch_bound_pct) if intensity and ridge else None,
        kernels_bound=next((name for name, share in shares.items() if share >= _MOST_PCT), "mixed"),
    )


def _shares(weighted: Sequence[tuple[CountedKernel, int]]) -> Mapping[str, float]:
    """Shares (percent) of the time in kernels bound by each."""
    time = dict.fromkeys(("compute", "memory", "latency"), 0.0)
    for kernel, times in weighted:
        time[kernel_bound(kernel)] += times * kernel.counters.get(TIME, 0.0)
    total = sum(time.values())
    return {name: 100 * part / total if total else 0.0 for name, part in time.items()}

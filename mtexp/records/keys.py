"""Every tag, parameter and metric that MLflow holds for mtexp: name, unit, better direction, where it lives.

Lives here: the one table that the writer, the queries and the plots read. May touch: nothing.

A metric's unit is the last part of its name. A name that is not in the table is a mistake, not a new metric:
:func:`metric` refuses it and suggests the nearest. Names made from other names (intervals, summaries of telemetry) come
from :func:`interval` and :func:`telemetry_summary` and from nowhere else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mtexp.metrics.churn import KINDS as CHURN_KINDS

LOWER, HIGHER, NONE = "lower", "higher", "none"
RUN, TENANT, HISTORY, TELEMETRY = "run", "tenant", "history", "telemetry"
TENANT_TELEMETRY = "tenant_telemetry"


@dataclass(frozen=True, slots=True)
class Key:
    """One name in MLflow."""

    name: str
    kind: str
    """``tag``, ``param`` or ``metric``."""
    unit: str = ""
    better: str = NONE
    """``lower``, ``higher`` or ``none``."""
    where: tuple[str, ...] = ()
    """``run`` (parent), ``tenant`` (child), ``history`` (child, by iteration), ``telemetry`` (parent, by sample) or
    ``tenant_telemetry`` (child, by sample)."""
    dtype: str = "string"
    """pandas dtype of the column that :mod:`analysis.fetch` makes of it."""
    text: str = ""


# --- tags -------------------------------------------------------------------------------------------------------------

KIND = "mtexp.kind"
SWEEP = "mtexp.sweep"
VERDICT = "mtexp.verdict"
VERDICT_REASONS = "mtexp.verdict_reasons"
SPEC_HASH = "mtexp.spec_hash"
BASELINE_HASH = "mtexp.baseline_hash"
INTERVAL_SCOPE = "mtexp.interval_scope"
WITHIN_RUN = "within_run"
OVER_ROUNDS = "over_rounds"
INTERVAL_TEXTS = {
    WITHIN_RUN: "[ ] hold 95 % within this run; how much fresh runs differ is not in them",
    OVER_ROUNDS: "[ ] hold 95 % over rounds on CPU cores drawn anew, so differences between runs too",
}
RECORD_ID = "mtexp.record_id"
RECORD_PATH = "mtexp.record_path"
FORMAT_VERSION = "mtexp.format_version"
UPLOAD = "mtexp.upload"
UPLOAD_COMPLETE = "complete"
FAILURE = "mtexp.failure"
DEVICE = "mtexp.device"
GPU_UUID = "mtexp.gpu_uuid"
SHRUNK = "mtexp.shrunk"
RUNTIME = "mtexp.runtime"
REPETITION = "mtexp.repetition"
ATTEMPT = "mtexp.attempt"
SWEEP_POSITION = "mtexp.sweep_position"
SWEPT = "mtexp.swept"
SWEPT_GAP = " · "
"""Between the keys in the tag."""
PROFILE_OF = "mtexp.profile_of"
SEARCH = "mtexp.search"
SESSION = "mtexp.session"
TIME_SLICE = "mtexp.time_slice"
SESSION_REFERENCE = "mtexp.session_reference"
AGAINST = "mtexp.against"
REQUEST = "mtexp.request"
RUN_KIND = "mtexp.run_kind"
INSUFFICIENT = "mtexp.insufficient"
HISTORY_THINNED = "mtexp.history_thinned"
BASELINE_RUN_ID = "mtexp.baseline_run_id"
BASELINE_RECORD_ID = "mtexp.baseline_record_id"
PARTITIONED_BASELINE_RUN_ID = "mtexp.partitioned_baseline_run_id"
ARRIVALS_BASELINE_RUN_ID = "mtexp.arrivals_baseline_run_id"
ARRIVALS_BASELINE_RECORD_ID = "mtexp.arrivals_baseline_record_id"

ENVIRONMENT_TAGS = {
    "host": "mtexp.host",
    "driver_version": "mtexp.driver",
    "cuda_version": "mtexp.cuda",
    "torch_version": "mtexp.torch",
    "torch_cuda_version": "mtexp.torch_cuda",
    "transformers_version": "mtexp.transformers",
    "python_version": "mtexp.python",
    "mtexp_version": "mtexp.version",
    "git_commit": "mtexp.git_commit",
    "git_dirty": "mtexp.git_dirty",
    "cpu_model": "mtexp.cpu",
    "gpu_sm_count": "mtexp.gpu_sm_count",
}
"""Key of a record's environment -> tag."""

_TAGS = (
    (KIND, "kind of the run: mix, baseline, profile or churn; tenant for a tenant of a mix or a baseline"),
    (RUN_KIND, "of a tenant's run: the kind of its parent"),
    (SWEEP, "name of the sweep"),
    (VERDICT, "VALID or INVALID"),
    (VERDICT_REASONS, "reasons for INVALID, and warnings"),
    (SPEC_HASH, "hash of what was measured"),
    (BASELINE_HASH, "hash of everything that could change a baseline"),
    (
        INTERVAL_SCOPE,
        "what ..._ci_low and ..._ci_high cover; within_run: iterations of this run, not differences between runs; "
        "over_rounds: rounds of blocks on CPU cores drawn anew, so differences between runs too",
    ),
    (RECORD_ID, "id of the record on disk"),
    (RECORD_PATH, "folder of the record on the host that measured"),
    (FORMAT_VERSION, "format of the record"),
    (UPLOAD, "complete, once everything of the run is in MLflow"),
    (FAILURE, "why the run or the tenant failed"),
    (DEVICE, "GPU name, or cpu"),
    (GPU_UUID, "UUID of the GPU or MIG instance"),
    (SHRUNK, "true: models were shrunk for the CPU"),
    (RUNTIME, "gpu or cpu"),
    (REPETITION, "which repetition of the same point"),
    (ATTEMPT, "1, or more after retries"),
    (SWEEP_POSITION, "how many points of the sweep were started before"),
    (SWEPT, "what distinguishes the run from the others of its sweep: key=value, with · between them"),
    (PROFILE_OF, "record of the timed run that a profile belongs to"),
    (REQUEST, "of a tenant: what one request is, whose latency is measured"),
    (TIME_SLICE, "the driver's time slice, where nvidia-smi reports it: default, short, medium or long"),
    (SESSION, "names the runs that were measured side by side"),
    (SESSION_REFERENCE, "record of the run of the session that ..._ratio, ..._whole and mode_cost compare with"),
    (AGAINST, "what slowdowns compare with: baseline (alone on the whole device) or alone_in_mode (alone blocks)"),
    (SEARCH, "search for a capacity that the run is a probe of"),
    (INSUFFICIENT, "percentiles with too few iterations to be trusted"),
    (HISTORY_THINNED, "metrics whose history was thinned, with points kept and measured"),
    (BASELINE_RUN_ID, "MLflow run of the baseline compared with"),
    (BASELINE_RECORD_ID, "record of the baseline compared with"),
    (PARTITIONED_BASELINE_RUN_ID, "MLflow run of the partitioned baseline compared with"),
    (ARRIVALS_BASELINE_RUN_ID, "MLflow run of the tenant alone at the same arrivals (open loop)"),
    (ARRIVALS_BASELINE_RECORD_ID, "record of the tenant alone at the same arrivals (open loop)"),
    *((tag, name.replace("_", " ")) for name, tag in ENVIRONMENT_TAGS.items()),
)
_INTEGER_TAGS = (REPETITION, ATTEMPT, SWEEP_POSITION, FORMAT_VERSION)
_BOOLEAN_TAGS = (SHRUNK,)

# --- parameters -------------------------------------------------------------------------------------------------------

_PARAMS = (
    ("mix", "string", "name of the mix, or its token"),
    ("precision", "string", "fp16, bf16, fp32, tf32, int8 or fp8"),
    ("mps_settings", "string", "choice of that group; disabled = driver time slicing"),
    ("sharing", "string", "processes, streams, green_contexts or mig"),
    ("workload", "string", "forward, prefill, decode, generate or train"),
    ("arrival", "string", "closed, poisson, constant or trace"),
    ("execution", "string", "eager, cuda_graph or compile"),
    ("batch_size", "Int64", "sequences in a request"),
    ("seq_len", "Int64", "tokens of input in a sequence"),
    ("iterations", "Int64", "minimum number of measured iterations of each tenant"),
    ("warmup", "Int64", "iterations before the barrier"),
    ("num_tenants", "Int64", "tenants in the run"),
    ("overlap", "string", "sustained or fixed"),
    ("design", "string", "crossover, sustained or fixed"),
    ("rounds", "Int64", "rounds of a crossover run"),
    ("block_ms", "Float64", "length of the blocks of all tenants (crossover), median"),
    ("attn_implementation", "string", "sdpa or eager"),
    ("tenant", "string", "id of the tenant"),
    ("model", "string", "name in conf/models"),
    (
        "role",
        "string",
        "encoder, decoder, vision ... as in conf/models; custom for the user's code; stressor",
    ),
    ("active_thread_pct", "Float64", "MPS limit of the tenant; 0 = the server's default"),
    ("mps_priority", "Int64", "MPS priority of the tenant, where it is below normal: 1"),
    ("pinned_memory_limit", "string", "MPS limit of the tenant's pinned device memory, if it has one"),
    ("sm_partition", "Int64", "chunks of static SM partitioning, if the tenant has some"),
    ("partition_sms", "Int64", "SMs of the tenant's green context"),
    ("mig", "string", "MIG profile or instance asked for by name"),
    ("new_tokens", "Int64", "tokens generated per sequence (generate)"),
    ("parameters", "Int64", "number of parameters of the model's shape"),
    ("weights", "string", "pretrained, where weights are not random; shared, where tenants have them in memory once"),
    ("trace", "string", "names the arrival times of a trace, and the lengths of its requests where they are used"),
    ("padded_to", "string", "lengths to which the requests of a trace are padded"),
    ("rate_rps", "Float64", "mean arrivals a second (open loop)"),
    ("load", "Float64", "arrivals as a share of the tenant's baseline throughput (open loop)"),
    ("search_by", "string", "of a probe: load or rate, what the search varies"),
    ("search_value", "Float64", "of a probe: the load, or requests a second of each tenant"),
    ("search_attainment_pct", "Float64", "of a probe: share of requests within the level that is asked for"),
)

# --- metrics ----------------------------------------------------------------------------------------------------------

_STATISTICS = ("mean", "stdev", "min", "p50", "p90", "p95", "p99", "max")


def _statistics(stem: str, text: str) -> list[tuple[str, str, str, str]]:
    """Rows of a summarised quantity: ``latency_mean_ms`` ... ``latency_max_ms``."""
    return [(f"{stem}_{name}_ms", "ms", LOWER, f"{text}, {name}") for name in _STATISTICS]


_HISTORY_METRICS = (
    ("latency_ms", "ms", LOWER, "host clock, issue or intended arrival to end of device work"),
    ("gpu_time_ms", "ms", LOWER, "CUDA event span"),
)

_TENANT_METRICS = (
    *_statistics("latency", "latency"),
    *_statistics("gpu_time", "CUDA event span"),
    *_statistics("wait", "latency less gpu time"),
    *_statistics("queue", "intended arrival to start"),
    *_statistics("service", "start to end of device work"),
    *_statistics("ttft", "time to first token"),
    *_statistics("tpot", "time per output token after the first"),
    ("throughput_rps", "rps", HIGHER, "closed loop: 1 / mean cycle; open loop: requests served a second"),
    (
        "tokens_per_s",
        "1/s",
        HIGHER,
        "tokens a second: generated (decode, generate) or of input (forward, prefill, train)",
    ),
    (
        "inputs_per_s",
        "1/s",
        HIGHER,
        "inputs (images, recordings; of own code) a second: batch_size a request",
    ),
    ("overlap_pct", "%", HIGHER, "share of the window in which it had a request in flight or had just ended one"),
    ("window_share_pct", "%", HIGHER, "window / measuring time of the tenant"),
    ("saturated", "", LOWER, "1: more arrives than is served (open loop)"),
    ("offered_rps", "rps", NONE, "arrivals a second (open loop)"),
    ("slowdown", "", LOWER, "mean latency shared / alone"),
    ("slowdown_p50", "", LOWER, "p50 latency shared / alone"),
    ("slowdown_p90", "", LOWER, "p90 latency shared / alone"),
    ("slowdown_p95", "", LOWER, "p95 latency shared / alone"),
    ("slowdown_p99", "", LOWER, "p99 latency shared / alone"),
    ("slowdown_clock", "", LOWER, "part of the slowdown that the SM clock explains"),
    ("slowdown_rest", "", LOWER, "part of the slowdown that the SM clock does not explain"),
    (
        "service_slowdown",
        "",
        LOWER,
        "open loop: mean service time (start to end) shared / alone in closed loop; no queueing in it",
    ),
    ("latency_slowdown", "", LOWER, "open loop: mean latency shared / alone at the same arrivals, queueing included"),
    ("latency_slowdown_p50", "", LOWER, "open loop: p50 latency shared / alone at the same arrivals"),
    ("latency_slowdown_p90", "", LOWER, "open loop: p90 latency shared / alone at the same arrivals"),
    ("latency_slowdown_p95", "", LOWER, "open loop: p95 latency shared / alone at the same arrivals"),
    ("latency_slowdown_p99", "", LOWER, "open loop: p99 latency shared / alone at the same arrivals"),
    ("slowdown_partitioned", "", LOWER, "mean latency shared / alone under the same MPS limits"),
    ("tail_inflation", "", LOWER, "p99 / p50 shared over p99 / p50 alone"),
    ("normalized_progress", "", HIGHER, "throughput shared / alone"),
    ("normalized_progress_partitioned", "", HIGHER, "throughput shared / alone under the same MPS limits"),
    ("memory_peak_mib", "MiB", LOWER, "peak device memory of the tenant"),
    ("iterations_measured", "1", NONE, "iterations after the barrier"),
    ("iterations_in_window", "1", NONE, "iterations that enter the statistics"),
    ("drift_pct", "%", NONE, "Theil-Sen change of latency over the window"),
    ("thirds_change_pct", "%", NONE, "last third of the window against the first"),
    ("baseline_drift_pct", "%", NONE, "baseline after the mix against before"),
    ("baseline_noise_pct", "%", LOWER, "95 % range of baseline changes between runs due to noise"),
    (
        "lock_wait_pct",
        "%",
        LOWER,
        "tenants of one process: share of the latency spent waiting to enqueue, for Python's lock or a core",
    ),
    ("launch_bound_pct", "%", LOWER, "share of a baseline request in which the GPU waits for launches"),
    (
        "alone_latency_mean_ms",
        "ms",
        LOWER,
        "mean latency alone: in the alone blocks; open loop: at the same arrivals",
    ),
    ("alone_latency_p50_ms", "ms", LOWER, "p50 latency alone at the same arrivals (open loop)"),
    ("alone_latency_p90_ms", "ms", LOWER, "p90 latency alone at the same arrivals (open loop)"),
    ("alone_latency_p95_ms", "ms", LOWER, "p95 latency alone at the same arrivals (open loop)"),
    ("alone_latency_p99_ms", "ms", LOWER, "p99 latency alone at the same arrivals (open loop)"),
    ("enqueue_ms", "ms", LOWER, "issue of a request to the end of its enqueueing, mean"),
    ("alone_enqueue_ms", "ms", LOWER, "the same in the alone blocks (crossover)"),
    ("host_share_pct", "%", LOWER, "enqueueing / latency in the alone blocks (crossover)"),
    ("host_noise_pct", "%", LOWER, "SD of the log mean latency of alone blocks (crossover)"),
    ("slowdown_host", "", LOWER, "part of slowdown - 1: longer enqueueing (crossover)"),
    ("slowdown_wait", "", LOWER, "part of slowdown - 1: at most this was waiting for the device to begin (crossover)"),
    ("slowdown_kernels", "", LOWER, "part of slowdown - 1: longer kernels and gaps between them (crossover)"),
    ("mode_cost", "", LOWER, "alone under the sharing mode / alone without it (side by side, or the baseline)"),
    ("slowdown_whole", "", LOWER, "mean latency shared / alone on the whole device without the mode (side by side)"),
    ("normalized_progress_whole", "", HIGHER, "throughput shared / alone without the mode (side by side)"),
    ("latency_ratio", "", LOWER, "mean latency shared / the same in the session's reference mode (side by side)"),
    ("throughput_ratio", "", HIGHER, "throughput shared / the same in the session's reference mode (side by side)"),
    ("rounds", "1", NONE, "rounds in which the tenant was measured alone and together (crossover)"),
    ("iterations_alone", "1", NONE, "iterations that count in alone blocks; in open loop at the same arrivals"),
    ("slo_ms", "ms", NONE, "service level"),
    ("slo_attainment_pct", "%", HIGHER, "requests within the service level"),
    ("goodput_rps", "rps", HIGHER, "requests within the service level a second"),
    ("kernel_overlap_pct", "%", NONE, "kernel time of the tenant that overlaps with kernels of other tenants"),
    ("busy_ms", "ms", NONE, "time in which a kernel of the tenant ran, over the capture (profile)"),
    ("busy_pct", "%", NONE, "share of the traced window in which a kernel of the tenant ran (profile)"),
    ("kernels", "1", NONE, "kernels of the tenant in the capture (profile)"),
    ("traced_slowdown", "", LOWER, "mean latency under the profiler / in the timed run (profile)"),
    ("roofline_tflop_per_s", "TFLOP/s", HIGHER, "achieved arithmetic of one request (ncu)"),
    ("roofline_gb_per_s", "GB/s", HIGHER, "achieved DRAM traffic of one request (ncu)"),
    ("intensity_flop_per_byte", "FLOP/B", NONE, "arithmetic intensity of one request (ncu)"),
    ("compute_peak_pct", "%", HIGHER, "achieved / peak arithmetic (ncu)"),
    ("memory_peak_pct", "%", HIGHER, "achieved / peak DRAM bandwidth (ncu)"),
    ("compute_bound_time_pct", "%", NONE, "share of kernel time in compute-bound kernels (ncu)"),
    ("memory_bound_time_pct", "%", NONE, "share of kernel time in memory-bound kernels (ncu)"),
    ("latency_bound_time_pct", "%", NONE, "share of kernel time in kernels bound by neither (ncu)"),
)

_RUN_METRICS = (
    ("stp", "", HIGHER, "sum of normalized progress"),
    ("antt", "", LOWER, "mean slowdown"),
    ("stp_partitioned", "", HIGHER, "STP against partitioned baselines"),
    ("antt_partitioned", "", LOWER, "ANTT against partitioned baselines"),
    ("stp_ratio", "", HIGHER, "STP / that of the session's reference mode, each against alone in its mode"),
    ("stp_whole", "", HIGHER, "STP against alone on the whole device without the mode (side by side)"),
    ("antt_whole", "", LOWER, "ANTT against alone on the whole device without the mode (side by side)"),
    ("stp_whole_ratio", "", HIGHER, "stp_whole / STP of time slicing: what the mode gains (side by side)"),
    ("jain_fairness", "", HIGHER, "Jain's index of normalized progress, corrected for noise"),
    ("fairness", "", HIGHER, "min / max normalized progress, corrected for noise"),
    ("throughput_rps", "rps", HIGHER, "sum over tenants"),
    ("goodput_rps", "rps", HIGHER, "sum over tenants"),
    ("slo_attainment_pct", "%", HIGHER, "requests of all tenants within their service level"),
    ("overlap_pct", "%", HIGHER, "share of the window in which all had a request in flight or had just ended one"),
    ("window_share_pct", "%", HIGHER, "window / longest measuring time"),
    ("window_s", "s", NONE, "time in which every tenant was measuring"),
    ("start_skew_ms", "ms", LOWER, "latest first start minus earliest first start of the tenants"),
    ("energy_j", "J", LOWER, "energy of the device over the window"),
    ("energy_j_per_request", "J", LOWER, "energy over the window / requests it holds, with fractions"),
    (
        "clock_lost_pct",
        "%",
        LOWER,
        "SM clock lost against the baselines' (without one: the run's best), not to the cap",
    ),
    ("clock_lost_power_cap_pct", "%", LOWER, "SM clock lost to the power cap, against the same clock"),
    ("alone_energy_j", "J", LOWER, "energy of the device over the alone blocks (crossover)"),
    ("host_noise_pct", "%", LOWER, "largest host noise of a tenant (crossover)"),
    ("half_width_pct", "%", LOWER, "half of the widest interval of slowdowns and STP by rounds (crossover)"),
    ("rounds", "1", NONE, "rounds (crossover)"),
    ("kernel_overlap_pct", "%", NONE, "time with kernels of two or more tenants / time with any"),
    ("gpu_idle_pct", "%", LOWER, "share of the traced window without a kernel of any tenant (profile)"),
    ("telemetry_period_ms", "ms", LOWER, "time between two telemetry samples in the window, median"),
    ("telemetry_period_max_ms", "ms", LOWER, "time between two telemetry samples in the window, longest"),
    ("wall_s", "s", LOWER, "from the sharing mode coming up to the tenants gone"),
    ("overhead_s", "s", LOWER, "wall_s less window_s: start, build, warm-up, proofs, teardown"),
)

_CHURN_METRICS = tuple(
    (f"churn_{kind}_{name}", unit, better, f"{text} ({kind} events of a churn run)")
    for kind in CHURN_KINDS
    for name, unit, better, text in (
        ("events", "1", NONE, "how many were looked at"),
        ("lost", "1", LOWER, "requests of the steady tenant that were never served"),
        ("died", "1", LOWER, "tenants that died"),
        ("steady_died_pct", "%", LOWER, "events in which the steady tenant died"),
        ("stall_ms", "ms", LOWER, "longest stall of the steady tenant, mean over events"),
        ("stall_p50_ms", "ms", LOWER, "longest stall of the steady tenant, median over events"),
        ("p99_ms", "ms", LOWER, "p99 latency of the steady tenant's requests of all events"),
        ("back_s", "s", LOWER, "until the steady tenant completed a request begun after the event, mean"),
        ("neighbour_back_s", "s", LOWER, "start, build and warm-up of the next neighbour, mean"),
        ("took_s", "s", LOWER, "until the neighbour had done it, mean"),
    )
)

_TELEMETRY_METRICS = (
    ("gpu_util_pct", "%", HIGHER, "time with any kernel resident"),
    ("gpu_memory_used_mib", "MiB", LOWER, "device memory in use"),
    ("gpu_memory_util_pct", "%", NONE, "time with memory traffic"),
    ("gpu_power_w", "W", LOWER, "board power"),
    ("gpu_sm_clock_mhz", "MHz", HIGHER, "SM clock"),
    ("gpu_mem_clock_mhz", "MHz", HIGHER, "memory clock"),
    ("gpu_temperature_c", "C", LOWER, "GPU temperature"),
    ("gpu_throttle_reasons", "", LOWER, "NVML's clocks-event reasons, bit mask"),
    ("gpu_gr_active_pct", "%", HIGHER, "GPM: graphics or compute engine active"),
    ("gpu_sm_active_pct", "%", HIGHER, "GPM: SMs with a warp resident"),
    ("gpu_sm_occupancy_pct", "%", HIGHER, "GPM: warps resident / possible"),
    ("gpu_integer_active_pct", "%", HIGHER, "GPM: integer pipe active"),
    ("gpu_tensor_active_pct", "%", HIGHER, "GPM: tensor pipe active"),
    ("gpu_dram_bw_pct", "%", HIGHER, "GPM: DRAM bandwidth used"),
    ("gpu_fp64_active_pct", "%", HIGHER, "GPM: FP64 pipe active"),
    ("gpu_fp32_active_pct", "%", HIGHER, "GPM: FP32 pipe active"),
    ("gpu_fp16_active_pct", "%", HIGHER, "GPM: FP16 pipe active"),
    ("gpu_pcie_tx_mib_per_s", "MiB/s", NONE, "GPM: PCIe, device to host"),
    ("gpu_pcie_rx_mib_per_s", "MiB/s", NONE, "GPM: PCIe, host to device"),
    ("gpu_nvlink_tx_mib_per_s", "MiB/s", NONE, "GPM: NVLink, out"),
    ("gpu_nvlink_rx_mib_per_s", "MiB/s", NONE, "GPM: NVLink, in"),
    ("gpu_ctxsw_cycles_elapsed", "1", NONE, "GPM: cycles of context switching"),
    ("gpu_ctxsw_cycles_active", "1", NONE, "GPM: cycles of context switching with work"),
    ("gpu_ctxsw_requests", "1", NONE, "GPM: requested context switches"),
    ("gpu_ctxsw_cycles_per_request", "1", LOWER, "GPM: cycles of a context switch"),
    ("gpu_ctxsw_active_pct", "%", LOWER, "GPM: time in context switches"),
    ("cpu_util_pct", "%", NONE, "host CPU in use"),
    ("memory_used_mib", "MiB", LOWER, "host memory in use"),
)

_COUNTER_METRICS = (
    ("gpu_throttled_power_cap_s", "s", LOWER, "throttled by the power cap in the window"),
    ("gpu_throttled_thermal_s", "s", LOWER, "throttled by temperature in the window"),
    ("gpu_throttled_sync_boost_s", "s", LOWER, "throttled by sync boost in the window"),
    ("gpu_throttled_sw_thermal_s", "s", LOWER, "throttled by software for temperature in the window"),
    ("gpu_throttled_hw_thermal_s", "s", LOWER, "throttled by hardware for temperature in the window"),
    ("gpu_throttled_hw_power_brake_s", "s", LOWER, "throttled by the power brake in the window"),
    ("gpu_ecc_corrected", "1", LOWER, "corrected memory errors in the window"),
    ("gpu_ecc_uncorrected", "1", LOWER, "uncorrected memory errors in the window"),
    ("gpu_pcie_tx_mib", "MiB", NONE, "PCIe, device to host, in the window"),
    ("gpu_pcie_rx_mib", "MiB", NONE, "PCIe, host to device, in the window"),
)
"""Cumulative columns of ``telemetry.parquet``; MLflow gets their growth over the window."""

_TENANT_TELEMETRY_METRICS = (
    ("tenant_gpu_memory_mib", "MiB", LOWER, "device memory of the tenant"),
    ("tenant_gpu_util_pct", "%", NONE, "GPU utilisation of the tenant's process"),
    ("tenant_cpu_util_pct", "%", NONE, "CPU of the tenant's process; 100 = one core"),
    ("tenant_memory_mib", "MiB", LOWER, "resident memory of the tenant's process"),
)
"""In ``telemetry.parquet`` as ``<name>/<tenant>``; on the tenant's own run in MLflow."""


def _metrics() -> dict[str, Key]:
    table: dict[str, Key] = {}
    groups = (
        (TENANT, _TENANT_METRICS),
        (RUN, (*_RUN_METRICS, *_COUNTER_METRICS, *_CHURN_METRICS)),
        (HISTORY, _HISTORY_METRICS),
        (TELEMETRY, _TELEMETRY_METRICS),
        (TENANT_TELEMETRY, _TENANT_TELEMETRY_METRICS),
    )
    for where, rows in groups:
        for name, unit, better, text in rows:
            places = (*table[name].where, where) if name in table else (where,)
            table[name] = Key(name, "metric", unit, better, places, "float64", text)
    for where, rows in ((RUN, _TELEMETRY_METRICS), (TENANT, _TENANT_TELEMETRY_METRICS)):
        for name, unit, better, text in rows:
            for statistic in ("mean", "median", "min", "max"):
                key = telemetry_summary(name, statistic)
                table[key] = Key(key, "metric", unit, better, (where,), "float64", f"{text}, {statistic} in the window")
    return table


def telemetry_summary(name: str, statistic: str) -> str:
    """Name of a telemetry column's ``mean``, ``median``, ``min`` or ``max`` over the window."""
    return f"{name}_{statistic}"


def interval(name: str) -> tuple[str, str]:
    """Names of the lower and upper end of a metric's 95 % interval.

    Of one run, in MLflow or in its record, it is an interval within the run (the tag :data:`INTERVAL_SCOPE`): it covers
    what iterations vary by, and holds the mean of fresh runs of the same point far less often than 95 %.
    """
    return f"{name}_ci_low", f"{name}_ci_high"


def of_tenant(name: str, tenant: str) -> str:
    """Name of a tenant's own column in ``telemetry.parquet``: ``tenant_memory_mib/enc_0``."""
    return f"{name}/{tenant}"


def _tag_dtype(name: str) -> str:
    if name in _INTEGER_TAGS:
        return "Int64"
    return "boolean" if name in _BOOLEAN_TAGS else "string"


TAGS = {name: Key(name, "tag", dtype=_tag_dtype(name), text=text) for name, text in _TAGS}
PARAMS = {name: Key(name, "param", dtype=dtype, text=text) for name, dtype, text in _PARAMS}
METRICS = _metrics()
HISTORIES = tuple(name for name, key in METRICS.items() if HISTORY in key.where)
"""Columns of ``iterations.parquet`` that MLflow gets as metrics with a history."""
TENANT_TELEMETRY_COLUMNS = tuple(name for name, key in METRICS.items() if TENANT_TELEMETRY in key.where)
TELEMETRY_COLUMNS = tuple(name for name, key in METRICS.items() if TELEMETRY in key.where)
"""Columns of ``telemetry.parquet`` that concern the device or the host."""


RETIRED = ("gpu_busy_pct",)
"""Metrics of older records that are no longer shown. ``gpu_busy_pct`` was the span between CUDA events / latency: with
queueing in the latency and the neighbours' kernels in the span it did not measure how busy the device was."""
_CLOSED_LOOP = {
    *("stp", "antt", "stp_partitioned", "antt_partitioned", "jain_fairness", "fairness"),
    *("slowdown", "slowdown_p50", "slowdown_p90", "slowdown_p95", "slowdown_p99", "slowdown_clock", "slowdown_rest"),
    *("slowdown_partitioned", "tail_inflation", "normalized_progress", "normalized_progress_partitioned"),
}
"""Metrics that an open-loop tenant does not have: they would measure load and queueing."""


def current(metrics: Mapping[str, float], arrival: str) -> dict[str, float]:
    """Return those of ``metrics`` that are shown: older records also have others.

    Args:
        metrics: Of a run or of a tenant.
        arrival: Kinds of arrival of its tenants, with commas between (the parameter ``arrival``).
    """
    found = {name: value for name, value in metrics.items() if name not in RETIRED}
    if set(arrival.split(",")) <= {"closed"}:
        return found
    return {name: value for name, value in found.items() if _stem(name) not in _CLOSED_LOOP}


def _stem(name: str) -> str:
    """The metric that ``name`` is, or that it is an end of the interval of."""
    return name.removesuffix("_ci_low").removesuffix("_ci_high")


SYSTEM = "system/"
"""Prefix under which telemetry is in MLflow once more: its UI shows such metrics under System metrics."""


def metric(name: str) -> Key:
    """Return the entry of a metric, also of an interval's end, and of telemetry under :data:`SYSTEM`.

    Raises:
        KeyError: ``name`` is not in the registry; the message suggests the nearest.
    """
    stem = _stem(name.removeprefix(SYSTEM))
    if stem not in METRICS:
        near = difflib.get_close_matches(stem, METRICS, n=1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise KeyError(f"metric {name} is not in mtexp.records.keys{hint}")
    return METRICS[stem]


def is_metric(name: str) -> bool:
    """Whether the registry has this metric, or that of whose interval it is an end."""
    return _stem(name.removeprefix(SYSTEM)) in METRICS


def unknown(names: Iterable[str]) -> list[str]:
    """Return the ``names`` that are not in the registry, each with the most similar name."""
    found = []
    for name in names:
        try:
            metric(name)
        except KeyError as error:
            found.append(str(error.args[0]))
    return found

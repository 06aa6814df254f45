"""The configuration schema: the types of ``conf/``. May touch: Hydra's ConfigStore.

Hydra merges YAML and the command line into these classes, so an unknown key or a value of a wrong type is refused
while composing. They hold what was asked for; :mod:`mtexp.config.convert` checks it and freezes it into a RunSpec.
The classes are not frozen (Hydra could not merge into them) and choices are Enums, parsed by member name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore

from mtexp.config.churn import ChurnConfig
from mtexp.config.server_schema import ServerConfig

Role = Enum(
    "Role",
    "encoder decoder encoder_decoder vision audio embedding vision_language custom server stressor",
)
Pooling = Enum("Pooling", ["mean", "cls", "last"])
Weights = Enum("Weights", ["random", "pretrained"])
Attention = Enum("Attention", ["sdpa", "eager"])
Precision = Enum("Precision", ["fp16", "bf16", "fp32", "tf32", "int8", "fp8"])
Execution = Enum("Execution", ["eager", "cuda_graph", "compile"])
Workload = Enum("Workload", ["forward", "prefill", "decode", "generate", "train"])
Arrival = Enum("Arrival", ["closed", "poisson", "constant", "trace"])
Scale = Enum("Scale", ["none", "thin", "stretch"])
Tokens = Enum("Tokens", ["trace", "workload"])
Design = Enum("Design", ["crossover", "sustained"])
Overlap = Enum("Overlap", ["sustained", "fixed"])
Foreign = Enum("Foreign", ["refuse", "warn", "ignore"])
CiStatistic = Enum("CiStatistic", ["mean", "p50", "p90", "p95", "p99"])
MpsMode = Enum("MpsMode", ["disabled", "managed", "external"])
SharingMode = Enum("SharingMode", ["processes", "streams", "green_contexts", "mig"])
RuntimeKind = Enum("RuntimeKind", ["auto", "gpu", "cpu"])
Shrink = Enum("Shrink", ["auto", "none", "always"])
Launcher = Enum("Launcher", ["forkserver", "interpreter"])
Profiler = Enum("Profiler", ["none", "nsys", "ncu", "torch"])
Baseline = Enum("Baseline", ["auto", "require", "skip"])
Store = Enum("Store", ["sqlite", "server", "none"])
SweepOrder = Enum("SweepOrder", ["random", "written"])
SideBySide = Enum("SideBySide", ["auto", "never", "require", "mixes"])
SearchBy = Enum("SearchBy", ["load", "rate"])


@dataclass(kw_only=True)
class TenantArrivalConfig:
    """A tenant's own arrivals; null = the run's."""

    kind: Arrival | None = None
    """When requests come."""
    rate: float | None = None
    """Mean requests a second."""
    load: float | None = None
    """The rate as a share of the tenant's own baseline throughput."""
    trace: str | None = None
    """File of arrival times, or a published trace."""
    scale: Scale | None = None
    """How the rate of a trace becomes ``rate``."""
    tokens: Tokens | None = None
    """Whose the lengths of requests are."""
    buckets: list[int] | None = None
    """Lengths that requests of a trace are padded to."""
    seed: int | None = None
    """Seed of the arrivals."""


@dataclass(kw_only=True)
class TenantConfig:
    """One entry of ``mix.tenants``: a model (merged in from ``conf/models``) and the tenant's own settings."""

    name: str = ""
    """Name of the model in ``conf/models``."""
    role: Role | None = None
    """Kind of model, or ``stressor``, a kernel loop that stresses one resource. null = encoder; with ``config``, what
    the published configuration says."""
    config: str = ""
    """``hub:ID`` or ``folder:PATH``: where architecture and shape are published; instead of those two."""
    architecture: str = ""
    """transformers' ``model_type``; for a stressor, its kind."""
    shape: dict[str, Any] = field(default_factory=dict)
    """Fields of the Hugging Face configuration, complete."""
    parameters: int = 0
    """Number of parameters of the shape, tied weights once."""
    hub: str = ""
    """Hub id that ``weights=pretrained`` loads when ``source`` is empty."""
    attention: list[Attention] = field(default_factory=list)
    """Attention implementations the architecture has, the first is its default; empty = those that transformers has."""
    model_class: str = ""
    """Class of transformers that builds it, e.g. ``ViTForImageClassification``; empty = that of the role."""
    pooling: Pooling | None = None
    """How the last hidden states become an embedding (``role: embedding``); null = mean."""
    inputs: dict[str, list[int]] = field(default_factory=dict)
    """Sizes of inputs that are no tokens, without the batch, e.g. ``pixel_values: [3, 224, 224]``; empty = those of the
    configuration."""
    target: str = ""
    """``package.module:factory`` of your own code, instead of an architecture."""
    params: dict[str, Any] = field(default_factory=dict)
    """Arguments of the factory, beside device, dtype, batch_size, seq_len and seed."""
    server: ServerConfig = field(default_factory=ServerConfig)
    """A command of yours that serves requests, instead of an architecture."""
    count: int = 1
    """Number of tenants; with more than one, their ids are ``<id>_0``, ``<id>_1`` ..."""
    weights: Weights | None = None
    """null = the run's ``weights``."""
    source: str = ""
    """Local folder or hub id of pretrained weights; empty = ``hub``."""
    attn_implementation: Attention | None = None
    """null = the run's, and if that is null, the model's default."""
    precision: Precision | None = None
    """null = the run's."""
    execution: Execution | None = None
    """null = the run's."""
    workload: Workload | None = None
    """null = the run's ``workload.kind``."""
    batch_size: int | None = None
    """null = the run's ``workload.batch_size``."""
    seq_len: int | None = None
    """null = the run's ``workload.seq_len``."""
    new_tokens: int | None = None
    """null = the run's ``workload.new_tokens``."""
    arrival: TenantArrivalConfig = field(default_factory=TenantArrivalConfig)
    """Arrivals of this tenant; null fields use the run's."""
    active_thread_pct: float | None = None
    """Share of the SMs this MPS client may use, in percent; null = the run's ``mps_settings``."""
    pinned_memory_limit: str | None = None
    """Device memory limit of this MPS client, e.g. ``4G``; null = the run's."""
    priority: int | None = None
    """MPS client priority: 0 normal, 1 below normal; null = the run's."""
    sm_partition: int | None = None
    """Chunks of static SM partitioning; null = the run's."""
    sm_count: int | None = None
    """SMs of its green context; null = the run's ``sharing.sm_count``."""
    sm_pct: float | None = None
    """Percent of the SMs for its green context, in place of ``sm_count``."""
    mig: str = ""
    """UUID or profile of the requested MIG instance; empty = round robin."""
    slo_ms: float = 0.0
    """Service level in milliseconds; 0 = none."""
    slo_factor: float = 0.0
    """Service level as a multiple of the baseline's mean latency; 0 = none."""


@dataclass(kw_only=True)
class MixConfig:
    """The tenants of one run."""

    name: str = ""
    """Name of the mix, or the token it was made from; empty = the name of its file."""
    models: str = ""
    """The models of this mix as a token. If the tenants were changed, the run is named after its own token."""
    tenants: dict[str, TenantConfig] = field(default_factory=dict)
    """By tenant id; ``models@mix.tenants.<id>=<model>`` swaps, ``+`` adds, ``~`` drops."""
    start_order: list[str] = field(default_factory=list)
    """Ids of the tenants that are servers, in the order in which they start; empty = the order of the mix."""


@dataclass(kw_only=True)
class PrecisionConfig:
    """Number format of the computation."""

    name: Precision = Precision.fp16
    """Type of weights and activations; ``tf32`` is fp32 with TF32 matrix products. With ``int8`` and ``fp8`` weights of
    linear layers are in that type, the rest in bf16 (extra ``quantised``)."""


@dataclass(kw_only=True)
class WorkloadConfig:
    """What one request is; tenants may override it."""

    kind: Workload = Workload.forward
    """What a request computes."""
    batch_size: int = 8
    """Sequences per request."""
    seq_len: int = 128
    """Input tokens per sequence; for ``decode``, the context in the KV cache."""
    new_tokens: int = 32
    """Tokens generated per request (``generate``)."""


@dataclass(kw_only=True)
class ArrivalConfig:
    """When requests arrive; tenants may override it."""

    kind: Arrival = Arrival.closed
    """``closed`` (the next request starts when one ends), ``poisson``, ``constant`` or ``trace``."""
    rate: float = 0.0
    """Mean requests per second of each tenant (``poisson``, ``constant``); 0 = use ``load``."""
    load: float = 0.0
    """The rate as a share of the tenant's own baseline throughput, e.g. 0.5."""
    trace: str = ""
    """File of arrival times, or a published trace (``trace``)."""
    scale: Scale = Scale.none
    """How the mean rate of a trace becomes ``rate``: ``none`` (it does not), ``thin`` (requests are left out) or
    ``stretch`` (times are scaled)."""
    tokens: Tokens = Tokens.trace
    """Lengths of requests: ``trace`` (those of the trace, where it has some and the tenant can vary them) or
    ``workload`` (all of one size)."""
    buckets: list[int] = field(default_factory=list)
    """Lengths that requests of a trace are padded to, ascending; a longer one is cut. Empty = powers of two from 16."""
    seed: int | None = None
    """Seed of the arrivals; null = the run's ``seed``."""


@dataclass(kw_only=True)
class MeasureConfig:
    """The measurement protocol."""

    iterations: int = 100
    """Minimum number of measured iterations of each tenant, not counting the first, which is excluded."""
    warmup: int = 10
    """Iterations before the barrier; stored with a flag."""
    overlap: Overlap = Overlap.sustained
    """``sustained`` (all measure until all have their iterations) or ``fixed`` (N each, then idle)."""
    design: Design | None = None
    """``crossover`` (alone and together in turns, in the same processes) or ``sustained`` (together throughout,
    compared with separate baselines); null = crossover for a mix in closed loop, where nothing speaks against it."""
    block_ms: float | None = None
    """crossover: length of a block; null = 50 ms, and longer where a tenant needs it for six requests."""
    target_pct: float = 3.0
    """crossover: rounds go on until the 95 % intervals of slowdowns and STP are within +- this many percent."""
    max_time_s: float = 15.0
    """crossover: most seconds of rounds for reaching the target; ``iterations`` are measured all the same."""
    percentiles: list[float] = field(default_factory=list)
    """Requested percentiles; the run is refused if it has too few iterations for one of them."""
    min_time_s: float = 0.0
    """Every tenant measures at least this long."""
    until_ci_pct: float = 0.0
    """Stop when the 95 % interval's half width is below this many percent of the statistic; 0 = off."""
    until_ci_statistic: CiStatistic = CiStatistic.mean
    """The statistic whose interval ``until_ci_pct`` is about."""
    max_iterations: int = 131_072
    """Maximum iterations of a tenant; limits ``until_ci_pct``."""
    pin_cores: bool = True
    """Pin tenants to disjoint cores if there are enough."""
    foreign: Foreign = Foreign.refuse
    """Busy foreign processes on the device: ``refuse`` (the run is INVALID), ``warn`` or ``ignore``."""
    probe_sms: bool = False
    """Have each tenant note the SMs that it runs on, before and after the window (needs ``cuda-bindings``); green
    contexts always do."""
    check_outputs: bool = True
    """Check that every tenant computes what it should: its layers before the warm-up, its outputs in the window."""


@dataclass(kw_only=True)
class MpsSettingsConfig:
    """CUDA MPS and its default limits; tenants may override them."""

    name: str = "disabled"
    """Name of the choice, as MLflow records it."""
    mode: MpsMode = MpsMode.disabled
    """``disabled`` (driver time slicing), ``managed`` (a private daemon), ``external`` (an administrator's)."""
    equal_share: bool = False
    """Give each of n tenants 100/n percent."""
    active_thread_pct: float = 0.0
    """Share of the SMs each tenant may use, in percent; 0 = no limit."""
    pinned_memory_limit: str = ""
    """Device memory limit of each tenant, e.g. ``4G`` or ``512M``; empty = none."""
    priority: int = 0
    """0 normal, 1 below normal."""
    static_partitioning: bool = False
    """Static SM partitioning (CUDA 13.1 or newer)."""
    sm_partition: int = 0
    """Chunks of each tenant under static partitioning; 0 = none."""
    pipe_directory: str = ""
    """Pipe directory of an external daemon; empty = the driver's default."""


@dataclass(kw_only=True)
class SharingConfig:
    """How tenants share the device."""

    mode: SharingMode = SharingMode.processes
    """``processes`` (time slicing or CUDA MPS), ``streams`` or ``green_contexts`` (of one process), or ``mig``."""
    sm_count: int = 0
    """green_contexts: SMs of each tenant without its own ``sm_count`` or ``sm_pct``; 0 = equal shares."""


@dataclass(kw_only=True)
class RuntimeConfig:
    """Where the run executes."""

    kind: RuntimeKind = RuntimeKind.auto
    """``auto`` (a GPU if there is one), ``gpu`` or ``cpu``."""
    shrink: Shrink = Shrink.auto
    """Small models of the same kind: ``auto`` (on the CPU), ``none`` or ``always``."""
    device: str = ""
    """UUID of the requested GPU; empty = the first free one."""
    launcher: Launcher = Launcher.forkserver
    """How tenant processes start: ``forkserver`` (fast) or ``interpreter`` (fresh)."""


@dataclass(kw_only=True)
class DeadlinesConfig:
    """Seconds each phase may take."""

    start_s: float = 60.0
    """A tenant process has started."""
    build_s: float = 300.0
    """The model is built and its layers are checked."""
    warmup_s: float = 300.0
    """The warm-up has ended."""
    measure_s: float = 900.0
    """The measurement has ended."""
    stall_s: float = 60.0
    """A measuring tenant fails if it neither finishes a request nor polls for an arrival for this long."""
    stop_s: float = 20.0
    """A tenant has ended after it was asked to; after that it is killed."""


@dataclass(kw_only=True)
class LeaseConfig:
    """Waiting for the device."""

    wait: float = 3600.0
    """Seconds to wait while another run uses the device; 0 = fail at once."""


@dataclass(kw_only=True)
class TelemetryConfig:
    """Sampling of the device during the run."""

    enabled: bool = True
    """Whether the device is sampled."""
    period_s: float = 0.05
    """Seconds between two samples."""
    gpm_period_s: float = 0.25
    """Hopper's GPM averages between two samples: 0.2 s or more."""


@dataclass(kw_only=True)
class ProfilerConfig:
    """A profiling pass after the timed run; it is a separate run."""

    kind: Profiler = Profiler.none
    """The profiler."""
    iterations: int = 20
    """Iterations of each tenant inside the capture (nsys, torch), which measures 30 s at most."""
    gpu_metrics: bool = False
    """Also sample whole-GPU metrics (nsys)."""
    kernels: int = 200
    """Maximum number of profiled kernels (ncu)."""


@dataclass(kw_only=True)
class BaselineConfig:
    """Baselines: each tenant measured alone."""

    mode: Baseline = Baseline.auto
    """``auto`` (measure what is missing, reuse what is there), ``require`` or ``skip``."""
    recheck: bool = False
    """Repeat the baselines after the mix and report how far they drifted."""
    partitioned: bool = False
    """Also measure each tenant alone under the run's MPS limits."""
    max_age_h: float = 168.0
    """Hours after which a baseline is measured again."""
    min_time_s: float = 2.0
    """Minimum measuring time of a baseline."""


@dataclass(kw_only=True)
class CapacityConfig:
    """Search for the highest rate at which every tenant meets its service level (``experiment=capacity``)."""

    by: SearchBy = SearchBy.load
    """What is searched: ``load`` (share of each tenant's own baseline throughput) or ``rate`` (requests a second)."""
    low: float | None = None
    """Lowest value tried; null = a load of 0.05."""
    high: float | None = None
    """Highest value tried; null = a load of 1."""
    tolerance_pct: float = 5.0
    """The search ends when the lowest missed value is at most this much above the highest kept one."""
    max_probes: int = 12
    """Maximum number of runs in one search."""
    attainment_pct: float = 99.0
    """Share of each tenant's requests that must be within its level; more than 0 and less than 100."""
    search: str = ""
    """Name of the search that this run is a probe of; set by the search."""


@dataclass(kw_only=True)
class TrackingConfig:
    """Where results are stored."""

    store: Store = Store.sqlite
    """``sqlite`` (a file in the current folder, unless ``uri`` or MLFLOW_TRACKING_URI is set), ``server`` (one of them
    must be set) or ``none`` (records on disk only, without MLflow)."""
    uri: str = ""
    """MLflow tracking URI, without credentials; empty = MLFLOW_TRACKING_URI, else SQLite in the current folder."""
    experiment: str = "mtexp"
    """MLflow experiment."""
    max_history: int = 10_000
    """Maximum points of one metric's history in MLflow; the Parquet files have all points."""


@dataclass(kw_only=True)
class Config:
    """All settings of a run."""

    mix: MixConfig = field(default_factory=MixConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    execution: Execution = Execution.eager
    """``eager``, ``cuda_graph`` or ``compile``."""
    weights: Weights = Weights.random
    """``random`` (speed depends on shapes, not values) or ``pretrained``."""
    share_weights: bool = False
    """Replicas of one model in several processes have its weights in memory once."""
    attn_implementation: Attention | None = None
    """Attention of every tenant; null = each model's default."""
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    arrival: ArrivalConfig = field(default_factory=ArrivalConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    mps_settings: MpsSettingsConfig = field(default_factory=MpsSettingsConfig)
    sharing: SharingConfig = field(default_factory=SharingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    deadlines: DeadlinesConfig = field(default_factory=DeadlinesConfig)
    lease: LeaseConfig = field(default_factory=LeaseConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    profiler: ProfilerConfig = field(default_factory=ProfilerConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    capacity: CapacityConfig = field(default_factory=CapacityConfig)
    churn: ChurnConfig = field(default_factory=ChurnConfig)
    seed: int = 0
    """Seed of weights, inputs and arrivals."""
    repetition: int = 0
    """Which repetition of the same run this is."""
    repetitions: int = 1
    """How often every point runs, each time in new processes."""
    retries: int = 0
    """How often a failed point is repeated."""
    dry_run: bool = False
    """Check everything, print how many runs, about how long and how much disk, and stop; nothing is created."""
    verbose: bool = False
    """Print findings in full, with what to do about each."""
    resume: bool = False
    """Run only missing and failed points of the sweep."""
    rerun_invalid: bool = False
    """With ``resume``: also run points whose verdict was INVALID."""
    sweep: str = ""
    """Name of the sweep and of its folder; empty = date, time and four random digits."""
    sweep_order: SweepOrder = SweepOrder.random
    """Order in which the points of a sweep run: ``random`` (from ``seed``, repetition by repetition) or ``written``.
    Also spelt ``sweep.order``."""
    side_by_side: SideBySide = SideBySide.auto
    """Points of a sweep that differ only in how tenants share are measured together, block by block in turns, on the
    same CPU cores (crossover): ``auto`` (where it is possible), ``never`` or ``require`` (refused where it is not).
    ``mixes``: points that differ in their mix too; each tenant is built once and serves every mix that has it."""


def register() -> None:
    """Register the schema as ``schema`` in Hydra's ConfigStore, where ``conf/config.yaml`` names it first."""
    ConfigStore.instance().store(name="schema", node=Config)

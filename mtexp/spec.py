"""What one run is, as frozen plain data. Lives here: RunSpec and its parts. May touch: the standard library.

``mtexp.config`` makes a spec from a composed configuration; everything after that reads only the spec. A spec is
JSON-serialisable (:func:`to_json`, :func:`from_json`), so a tenant started as ``python -m mtexp.tenant spec.json`` gets
the same data as one forked from the forkserver, and :func:`content_hash` names it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from mtexp.lengths import Lengths
from mtexp.served import ServerSpec, served_request

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """An architecture and where its weights come from."""

    name: str
    """Name in ``conf/models``, e.g. ``bert_base``."""
    role: str
    """``encoder``, ``decoder``, ``encoder_decoder``, ``vision``, ``audio``, ``embedding``, ``vision_language``,
    ``custom`` (the user's own code), ``server`` or ``stressor``."""
    architecture: str
    """transformers' ``model_type`` (``bert``, ``gpt2``, ``llama`` ...); for a stressor, its kind."""
    shape: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the Hugging Face configuration, complete (library defaults are other sizes)."""
    weights: str = "random"
    """``random`` or ``pretrained``."""
    source: str = ""
    """Hub id or local folder of pretrained weights."""
    parameters: int = 0
    """Number of parameters of ``shape``."""
    layer_parameters: int = 0
    """Elements of the weight matrices of all layers that a token passes; 0 = not known."""
    attn_implementation: str = "sdpa"
    """``sdpa`` or ``eager``."""
    model_class: str = ""
    """Class of transformers that builds it; empty = that of the role."""
    pooling: str = ""
    """How an embedding is made of the last hidden states: ``mean``, ``cls`` or ``last``; empty for other roles."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Shape of each input without the batch, by name; empty = tokens of the workload only."""

    target: str = ""
    """``package.module:factory`` of the user's own code; empty = a model of transformers, or a stressor."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """What the factory is called with, beside what every factory gets."""
    code: Mapping[str, Any] = field(default_factory=dict)
    """What names that code: ``source``, a hash, and ``packages``, the versions of what it imports. Of a server
    ``files``, hashes by argument, and ``packages``."""
    code_path: str = ""
    """Folder from which it is imported, or in which the server is started; changes nothing."""
    server: ServerSpec | None = None
    """A server of the user's; None = a model or code in the tenant's own process."""

    @property
    def has_formula(self) -> bool:
        """Whether what a request takes follows from its dimensions: one stack of equal layers over tokens."""
        return self.role in ("encoder", "decoder", "embedding") and not self.inputs

    @property
    def of_transformers(self) -> bool:
        """Whether transformers builds it."""
        return self.role not in ("custom", "server", "stressor")


QUANTISED = ("int8", "fp8")
"""Precisions of which only the weights of linear layers are in that type, and the rest in bf16."""
STRESSORS = ("sm", "dram", "l2", "pcie", "launch")
"""What a stressor may press on."""
SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a sweep may be called: it names a folder."""

REQUESTS = {
    "forward": "one forward pass over {batch_size} x {seq_len} tokens",
    "prefill": "a KV cache filled from {batch_size} x {seq_len} tokens",
    "decode": "the next token of {batch_size} sequences, from a KV cache of {seq_len} tokens each",
    "generate": "{new_tokens} tokens generated after a prompt of {seq_len}, for {batch_size} sequences",
    "train": "one training step (forward, backward, AdamW) over {batch_size} x {seq_len} tokens",
}
"""Kinds of workload, and what one request of each is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """What one request is; one iteration is one request."""

    kind: str = "forward"
    """``forward``, ``prefill``, ``decode``, ``generate`` or ``train``."""
    batch_size: int = 8
    seq_len: int = 128
    """Tokens of input per sequence; for ``decode``, the context already in the KV cache."""
    new_tokens: int = 32
    """Tokens generated per request (``generate`` only)."""

    @property
    def tokens(self) -> int:
        """Tokens of one request: those generated (``decode``, ``generate``), else those of the input."""
        return self.batch_size * {"decode": 1, "generate": self.new_tokens}.get(self.kind, self.seq_len)


def _request_of(model: ModelSpec, workload: WorkloadSpec, ranges: Mapping[str, str]) -> str:
    """One request in words: with the shapes of the inputs where they are more than tokens.

    Args:
        model: Of the tenant.
        workload: Of the tenant.
        ranges: In the place of its sizes, where requests are of many.
    """
    sizes = {**{name: str(value) for name, value in asdict(workload).items()}, **ranges}
    if model.server is not None:
        return served_request(model.server, workload.batch_size, sizes["seq_len"], sizes["new_tokens"])
    if model.target:
        return f"one request of {model.target}, batch_size {workload.batch_size}, seq_len {workload.seq_len}"
    if not model.inputs:
        return REQUESTS[workload.kind].format(**sizes) + (f", {model.pooling} pooling" if model.pooling else "")
    given = ", ".join(f"{name} {'x'.join(map(str, (workload.batch_size, *s)))}" for name, s in model.inputs.items())
    what = {
        "train": "one training step (forward, backward, AdamW) over",
        "generate": f"{workload.new_tokens} tokens generated from",
    }.get(workload.kind, "one forward pass over")
    return f"{what} {given}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSpec:
    """What one forward pass takes, counted while the model ran without memory; 0 = not counted, a formula is used."""

    flops: float = 0.0
    numbers: float = 0.0
    """Numbers read and written: weights once, operands and results of every product."""
    weights: float = 0.0
    """How many of them are weights."""
    activations: float = 0.0
    """Most numbers that one operation reads and writes, weights left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalSpec:
    """When requests come."""

    kind: str = "closed"
    """``closed``, ``poisson``, ``constant`` or ``trace``."""
    rate_rps: float = 0.0
    """Mean arrivals a second (``poisson``, ``constant``)."""
    load: float = 0.0
    """Alternatively, the rate as a share of the tenant's baseline throughput; 0 = not used."""
    trace: tuple[float, ...] = ()
    """Arrival times in seconds from the start of the window (``trace``)."""
    lengths: Lengths = field(default_factory=Lengths)
    """Tokens of each request of the trace. A baseline has those of its run: it asks for them in turn."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MpsLimits:
    """Limits of one CUDA MPS client; 0 and empty mean the server's default."""

    active_thread_pct: float = 0.0
    pinned_memory_limit: str = ""
    """E.g. ``4G`` or ``512M``."""
    priority: int = 0
    """0 normal, 1 below normal."""
    sm_partition: int = 0
    """Chunks of static SM partitioning, where the control binary offers it; 0 = none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSpec:
    """One tenant: a model serving one workload."""

    id: str
    model: ModelSpec
    workload: WorkloadSpec = WorkloadSpec()
    arrival: ArrivalSpec = ArrivalSpec()
    precision: str = "fp16"
    """``fp16``, ``bf16``, ``fp32``, ``tf32``, ``int8`` or ``fp8``."""
    execution: str = "eager"
    """``eager``, ``cuda_graph`` or ``compile``."""
    mps: MpsLimits = MpsLimits()
    sm_count: int = 0
    """SMs of its green context; 0 = ``sm_pct``."""
    sm_pct: float = 0.0
    """Percent of the SMs for its green context, rounded down to what the GPU can part."""
    mig: str = ""
    """UUID or profile name of the MIG instance asked for; empty = round robin."""
    slo_ms: float = 0.0
    """Service level in milliseconds; 0 = none."""
    slo_factor: float = 0.0
    """Service level as a multiple of the baseline's mean latency; 0 = none."""
    seed: int = 0
    """Seed of weights and inputs."""
    cost: CostSpec = CostSpec()

    @property
    def request(self) -> str:
        """What one request is, in words; empty for a stressor."""
        if self.model.role == "stressor":
            return ""
        return _request_of(self.model, self.workload, self.arrival.lengths.ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSpec:
    """The measurement protocol."""

    iterations: int = 100
    """Fewest measured iterations of each tenant, after the first, which is left out."""
    warmup: int = 10
    overlap: str = "sustained"
    """``sustained`` (all measure until all have their iterations) or ``fixed`` (N each, then idle)."""
    design: str = "sustained"
    """``crossover`` (alone and together in turns, block by block) or ``sustained`` (together throughout)."""
    block_ms: float = 0.0
    """Length of a block; 0 = 50 ms, and longer where the slowest tenant needs it for several requests."""
    target_pct: float = 3.0
    """Crossover: rounds go on until the 95 % intervals of slowdowns and STP are at most +- this many percent wide."""
    max_time_s: float = 15.0
    """Crossover: most seconds of rounds for reaching the target; the fewest iterations are measured all the same."""
    percentiles: tuple[float, ...] = ()
    """Percentiles the user demands; too few iterations for one of them refuses the run."""
    min_time_s: float = 0.0
    """Every tenant measures at least this long."""
    until_ci_pct: float = 0.0
    """Stop when the 95 % interval's half width is below this share of the statistic, in percent; 0 = off."""
    until_ci_statistic: str = "mean"
    """``mean`` or ``p50``, ``p90``, ``p95``, ``p99``."""
    max_iterations: int = 131_072
    """Room for samples of each tenant; the cap of ``until_ci``."""
    pin_cores: bool = True
    """Pin tenants to disjoint cores where there are enough."""
    foreign: str = "refuse"
    """What busy processes of others on the device do to a run: ``refuse`` (INVALID), ``warn`` or ``ignore``."""
    check_outputs: bool = True
    """Check that every tenant computes what it should, outside the window."""
    probe_sms: bool = False
    """Each tenant notes the SMs that it runs on, before and after the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingSpec:
    """How tenants share the device."""

    mode: str = "processes"
    """``processes``, ``streams``, ``green_contexts`` or ``mig``."""
    mps: str = "disabled"
    """Name in ``conf/mps_settings``."""
    mps_mode: str = "disabled"
    """``disabled`` (driver time slicing), ``managed`` (a private daemon), ``external``."""
    pipe_directory: str = ""
    """Pipe directory of an external daemon; empty = the default of the driver."""
    static_partitioning: bool = False
    share_weights: bool = False
    """All tenants have one model, whose weights are in memory once."""

    @property
    def one_process(self) -> bool:
        """Whether all tenants are in one process."""
        return self.mode in ("streams", "green_contexts")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineSpec:
    """Seconds each phase may take; no wait is without one."""

    start_s: float = 60.0
    """Until a tenant process answers."""
    build_s: float = 300.0
    """Until its model is on the device."""
    warmup_s: float = 300.0
    measure_s: float = 900.0
    stall_s: float = 60.0
    """A measuring tenant finishes an iteration at least this often."""
    stop_s: float = 20.0
    """Until it has gone, before it is terminated and then killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySpec:
    """Sampling of the device."""

    enabled: bool = True
    period_s: float = 0.05
    gpm_period_s: float = 0.25
    """Hopper's GPM averages between two samples: 0.2 s or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilerSpec:
    """The profiling pass."""

    kind: str = "none"
    """``none``, ``nsys``, ``ncu`` or ``torch``."""
    iterations: int = 20
    """Iterations of each tenant inside the capture (nsys, torch)."""
    gpu_metrics: bool = False
    """Also sample whole-GPU metrics (nsys)."""
    kernels: int = 200
    """Most kernels profiled (ncu)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSpec:
    """What to compare with."""

    mode: str = "auto"
    """``auto`` (measure what is missing, reuse what is there), ``require`` or ``skip``."""
    recheck: bool = False
    """Repeat baselines after the mix (A-B-A) and report the drift."""
    partitioned: bool = False
    """Also measure each tenant alone under the run's MPS limits."""
    max_age_h: float = 168.0
    min_time_s: float = 2.0
    """A baseline measures at least this long: everything is compared with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpec:
    """The search that a run is a probe of (``experiment=capacity``); it does not change what is measured."""

    name: str = ""
    """Empty = none."""
    by: str = "load"
    """``load`` or ``rate``: what the search varies."""
    value: float = 0.0
    """Load or rate of this probe."""
    attainment_pct: float = 0.0
    """Share of requests within the service level that the search asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnSpec:
    """Events of the second tenant beside the first (``experiment=churn``)."""

    events: tuple[str, ...] = ()
    """Kinds (:data:`mtexp.metrics.churn.KINDS`); empty = no churn run."""
    repeats: int = 0
    """Events of each kind."""
    window_s: float = 5.0
    """Seconds after each event in which the first tenant is looked at."""
    per_life: int = 1
    """Events of ``quiet``, ``beside``, ``memory`` and ``oom`` in one life of a neighbour."""
    limit_s: float = 0.0
    """No event begins later than this after the first, once the sharing mode is proven; 0 = no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingSpec:
    """Where results go."""

    uri: str = ""
    """MLflow tracking URI; never holds credentials."""
    experiment: str = "mtexp"
    max_history: int = 10_000
    """Most points of one metric's history sent to MLflow; Parquet always has all."""
    enabled: bool = True
    """False (``tracking=none``): the record stays on disk; MLflow is neither asked nor imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One Hydra job: the tenants of one mix, how they share, how they are measured."""

    kind: str = "mix"
    """``mix``, ``baseline``, ``profile`` or ``churn``."""
    mix: str
    """Name of the mix, or its token (``bert_base*2+llama_3_2_1b``)."""
    tenants: tuple[TenantSpec, ...]
    measure: MeasureSpec = MeasureSpec()
    sharing: SharingSpec = SharingSpec()
    runtime: str = "cpu"
    """``gpu`` or ``cpu``: what ``auto`` came to."""
    start_order: tuple[str, ...] = ()
    """Ids of the tenants that are servers, in the order in which they start."""
    device: str = ""
    """GPU UUID asked for; empty = the first that can be leased."""
    shrunk: bool = False
    """Models were shrunk for the CPU."""
    launcher: str = "forkserver"
    """``forkserver`` or ``interpreter``."""
    deadlines: DeadlineSpec = DeadlineSpec()
    lease_wait_s: float = 3600.0
    telemetry: TelemetrySpec = TelemetrySpec()
    profiler: ProfilerSpec = ProfilerSpec()
    baseline: BaselineSpec = BaselineSpec()
    tracking: TrackingSpec = TrackingSpec()
    search: SearchSpec = SearchSpec()
    churn: ChurnSpec = ChurnSpec()
    repetition: int = 0
    seed: int = 0

    @property
    def cores(self) -> int:
        """CPU cores that its tenants and their servers take where each has its own."""
        return sum(1 + (tenant.model.server.cores if tenant.model.server else 0) for tenant in self.tenants)

    @property
    def mps_settings(self) -> str:
        """The ``mps_settings`` choice, as MLflow's parameter of that name holds it."""
        return self.sharing.mps


def to_json(spec: Any) -> dict[str, Any]:
    """Return ``spec`` (any dataclass of this module) as plain JSON data."""
    data: dict[str, Any] = json.loads(json.dumps(spec, default=fields_in))
    return data


def fields_in(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as ``json.dumps`` asks for them: ``asdict`` copies each value, and takes longer.

    Raises:
        TypeError: ``value`` is no dataclass.
    """
    own: Any = type(value)
    return {name: getattr(value, name) for name in _names(own)}


_hints = functools.cache(typing.get_type_hints)
"""Evaluating the annotations of a class takes longer than building an object of it."""


@functools.cache
def _names(cls: Any) -> dict[str, None]:
    """Names of the fields of a dataclass, in their order."""
    return dict.fromkeys(f.name for f in fields(cls))


_PLAIN = frozenset((str, int, float, bool, type(None)))


def hints_of(cls: Any) -> Mapping[str, Any]:
    """The types of the fields of a dataclass."""
    return _hints(cls)


def from_json(cls: type[T], data: Mapping[str, Any]) -> T:
    """Rebuild a dataclass of this module from :func:`to_json`'s output; fields that are absent take their default.

    Raises:
        TypeError: A required field is absent, or ``data`` is not a mapping.
    """
    own: Any = cls
    hints, known = _hints(own), _names(own)
    return cls(**{k: v if type(v) in _PLAIN else _revive(hints[k], v) for k, v in data.items() if k in known})


def _revive(hint: Any, value: Any) -> Any:
    if type(value) in _PLAIN or not isinstance(value, (Mapping, list)):
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint) and isinstance(value, Mapping):
        return from_json(hint, value)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        return tuple(_revive(args[0], v) for v in value)
    if origin in (typing.Union, types.UnionType):
        return _revive(next(a for a in args if a is not type(None)), value)
    return value


def content_hash(data: Any) -> str:
    """Return 16 hex digits that name ``data`` (plain JSON data): equal data, equal name."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def drop_absent(model: dict[str, Any]) -> None:
    """Take out of a model, in place, the fields that older records lack and this one makes no use of."""
    del model["code_path"]
    for name in ("model_class", "pooling", "inputs", "target", "params", "code", "server"):
        if not model[name]:
            del model[name]
    if "server" in model:
        del model["server"]["ready"], model["server"]["ready_s"]


def drop_lengths(arrival: dict[str, Any]) -> None:
    """Take out of an arrival, in place, the lengths of requests that are all of one size: older records lack them."""
    if not arrival["lengths"]["buckets"] and not arrival["lengths"]["output_tokens"]:
        del arrival["lengths"]


def spec_hash(spec: RunSpec) -> str:
    """Return the name of what ``spec`` measures; where it is tracked, who asks and how long it may wait do not.

    A load names itself: the rate that it came to is measured, and differs from run to run.
    """
    data = to_json(spec)
    for tenant in data["tenants"]:
        for key in ("sm_count", "sm_pct"):  # younger than records whose hash must stay what it is
            if not tenant[key]:
                del tenant[key]
        del tenant["model"]["layer_parameters"], tenant["cost"]  # follow from the shape, and older records lack them
        drop_absent(tenant["model"])
        drop_lengths(tenant["arrival"])
        if tenant["arrival"]["load"]:
            tenant["arrival"]["rate_rps"] = 0.0
    if data["measure"]["foreign"] == "refuse":  # younger than records whose hash must stay what it is
        del data["measure"]["foreign"]
    del data["measure"]["check_outputs"], data["measure"]["probe_sms"]
    if data["measure"]["design"] == "sustained":  # likewise, and they bound rounds, which it has not
        for key in ("design", "block_ms", "target_pct", "max_time_s"):
            del data["measure"][key]
    _drop_unasked(data)
    for key in ("tracking", "deadlines", "lease_wait_s", "launcher", "search"):
        del data[key]
    return content_hash(data)


def _drop_unasked(data: dict[str, Any]) -> None:
    """Take out of a run, in place, what only some runs have, and older records lack."""
    if not data["sharing"]["share_weights"]:
        del data["sharing"]["share_weights"]
    if not data["churn"]["repeats"]:
        del data["churn"]
    elif data["churn"]["per_life"] == 1 and not data["churn"]["limit_s"]:
        del data["churn"]["per_life"], data["churn"]["limit_s"]
    if not data["start_order"]:
        del data["start_order"]

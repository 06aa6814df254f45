"""FLOPs and bytes of a request by formula, peaks of devices, and the roofline. Pure: spec, errors, standard library.

T = batch * seq tokens, q = heads * head_dim, k = kv_heads * head_dim, W_mm the elements of the weight matrices of all
layers (read off the model, so that no architecture is assumed), f = W_mm / (L h) - 2 q - 2 k the rows of a layer's
feed-forward matrices (2 i, or 3 i where it is gated), b bytes an element, R rows of the relative position table
(DeBERTa), P pairs of a query and a key: S^2, causal S (S + 1) / 2:

- Linear FLOPs = 2 T W_mm; attention = 4 B P q L; head = 2 T h V (all positions).
- DeBERTa adds, a layer, 4 R h^2 (projecting the table twice) and 4 T h R (content-to-position and back).
- Bytes: weights b (W_mm + h V), activations b T L ((h+q+2k) + (q+h) + (2h+f) + 6h), attention
  b T L (2q+2k), if eager 4 b L heads B S^2, logits b T V. DeBERTa's two score tensors are written and read, and so is
  what is gathered from them: 4 b L heads B S (R + S).
- Decode step with context C: FLOPs = B (2 W_mm + 2 h V + 4 C q L); bytes = b (W_mm + h V) + 2 b B (C + 1) k L.

They count what the mathematics needs, not what a library happens to do: a lower bound for both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtexp.errors import ConfigError
from mtexp.spec import CostSpec, ModelSpec, WorkloadSpec

BYTES = {"fp16": 2, "bf16": 2, "fp32": 4, "tf32": 4, "int8": 2, "fp8": 2}
"""Bytes of a number between layers, and of a weight outside them."""
_WEIGHT_BYTES = {**BYTES, "int8": 1, "fp8": 1}
"""Bytes of a weight of a layer."""
RELATIVE = frozenset({"deberta", "deberta-v2"})
LAUNCH_BOUND_PCT = 50.0
"""From this share of a request on that the device waits for the host, a model is bound by launches."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions that FLOPs and bytes depend on; letters as in the module's formulas."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    weights: int
    """W_mm."""
    causal: bool
    """A query sees the keys before it only."""
    vocab: int
    """0 for an encoder: it has no language-model head."""
    relative_rows: int
    """Rows of the relative position table of one layer; 0 without; -1: twice the sequence length."""

    @property
    def q(self) -> int:
        """Width of the queries."""
        return self.heads * self.head_dim

    @property
    def k(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_dim

    @property
    def feed_forward(self) -> float:
        """f: rows of the feed-forward matrices of one layer."""
        return max(0.0, self.weights / (self.layers * self.hidden) - 2 * self.q - 2 * self.k)

    @property
    def head(self) -> int:
        """Elements of the language-model head."""
        return self.hidden * self.vocab


@dataclass(frozen=True, slots=True)
class Cost:
    """One request."""

    flops: float
    bytes: float
    weight_bytes: float

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.bytes

    def plus(self, other: Cost, times: int = 1) -> Cost:
        """This and ``times`` the other; weights are the same weights."""
        return Cost(self.flops + times * other.flops, self.bytes + times * other.bytes, self.weight_bytes)


@dataclass(frozen=True, slots=True)
class Peaks:
    """Published peaks of a device, dense (no sparsity)."""

    name: str
    flops: Mapping[str, float]
    """FLOP/s by precision; a precision that is absent has no published figure."""
    bytes_per_s: float
    source: str

    def ridge(self, precision: str) -> float:
        """FLOPs a byte above which a kernel can reach the compute peak."""
        return self.flops[precision] / self.bytes_per_s


def _peaks(name: str, half: float, tf32: float, fp32: float, gb_per_s: float, source: str, fp8: float = 0.0) -> Peaks:
    """TFLOP/s and GB/s as datasheets print them, without sparsity; products with int8 weights are in half precision."""
    values = {"fp16": half, "bf16": half, "int8": half, "fp8": fp8, "tf32": tf32, "fp32": fp32}
    return Peaks(name, {p: v * 1e12 for p, v in values.items() if v}, gb_per_s * 1e9, source)


DEVICES: tuple[tuple[str, Peaks], ...] = (  # the whole name that the driver gives, without NVIDIA
    (r"B200", _peaks("B200", 2250, 1125, 75, 8000, "NVIDIA Blackwell architecture brief (HGX B200)", 4500)),
    (r"GH200 480GB", _peaks("GH200", 989.4, 494.7, 67, 4000, "NVIDIA GH200 datasheet (96 GB HBM3)", 1979)),
    (r"H200 NVL", _peaks("H200 NVL", 835.5, 417.5, 60, 4800, "NVIDIA H200 datasheet (NVL)", 1670.5)),
    (r"H200", _peaks("H200 SXM", 989.4, 494.7, 67, 4800, "NVIDIA H200 datasheet (SXM)", 1979)),
    (r"H100 NVL", _peaks("H100 NVL", 835.5, 417.5, 60, 3900, "NVIDIA H100 datasheet (NVL)", 1670.5)),
    (r"H100 PCIe", _peaks("H100 PCIe", 756, 378, 51, 2000, "NVIDIA H100 datasheet (PCIe)", 1513)),
    (r"H100 80GB HBM3", _peaks("H100 SXM", 989.4, 494.7, 67, 3350, "NVIDIA H100 datasheet (SXM)", 1979)),
    (r"A100[- ](80GB PCIe|PCIE-80GB)", _peaks("A100 PCIe 80GB", 312, 156, 19.5, 1935, "NVIDIA A100 datasheet")),
    (r"A100-SXM4-80GB", _peaks("A100 SXM 80GB", 312, 156, 19.5, 2039, "NVIDIA A100 datasheet")),
    (r"A100-(SXM4|PCIE)-40GB", _peaks("A100 40GB", 312, 156, 19.5, 1555, "NVIDIA A100 datasheet")),
    (r"A10G", _peaks("A10G", 70, 35, 35, 600, "AWS G5 / NVIDIA A10G product brief")),
    (r"A10", _peaks("A10", 125, 62.5, 31.2, 600, "NVIDIA A10 datasheet")),
    (r"L40S", _peaks("L40S", 362, 183, 91.6, 864, "NVIDIA L40S datasheet", 733)),
    (r"L40", _peaks("L40", 181, 90.5, 90.5, 864, "NVIDIA L40 datasheet", 362)),
    (r"L4", _peaks("L4", 121, 60, 30.3, 300, "NVIDIA L4 datasheet", 242.5)),
)


def device_peaks(device_name: str) -> Peaks | None:
    """Peaks of the device that NVML or CUDA calls ``device_name``; None for one that is not in the table.

    The whole name must be known: an RTX A1000 is no A100, and an instance of a GPU (MIG) has a share of its peaks.
    """
    model = device_name.removeprefix("NVIDIA ").strip()
    return next((peaks for pattern, peaks in DEVICES if model == peaks.name or re.fullmatch(pattern, model)), None)


def shape_of(model: ModelSpec) -> Shape:
    """Dimensions from the Hugging Face fields of ``model.shape``.

    Raises:
        ConfigError: A field is missing (stressors and unknown architectures have none of them).
    """

    def get(*names: str) -> int:
        for name in names:
            if model.shape.get(name) is not None:
                return int(model.shape[name])
        raise ConfigError(f"models.{model.name}.shape", names[0], "a transformer's shape", "It has no roofline.")

    hidden, heads = get("hidden_size", "n_embd"), get("num_attention_heads", "n_head")
    shape: dict[str, Any] = dict(model.shape)
    if not model.layer_parameters:
        remedy = "Take the model from a composed configuration: its layers are counted there."
        raise ConfigError(f"models.{model.name}.layer_parameters", 0, "1 or more", remedy)
    return Shape(
        layers=get("num_hidden_layers", "n_layer"),
        hidden=hidden,
        heads=heads,
        kv_heads=int(shape.get("num_key_value_heads") or heads),
        head_dim=int(shape.get("head_dim") or hidden // heads),
        weights=model.layer_parameters,
        causal=model.role == "decoder",
        vocab=get("vocab_size") if model.role == "decoder" else 0,
        relative_rows=_relative_rows(model),
    )


def _relative_rows(model: ModelSpec) -> int:
    if model.architecture not in RELATIVE or not model.shape.get("relative_attention"):
        return 0
    buckets = int(model.shape.get("position_buckets") or -1)
    return 2 * buckets if buckets > 0 else -1


def request_cost(
    model: ModelSpec, workload: WorkloadSpec, precision: str, counted: CostSpec | None = None
) -> Cost | None:
    """FLOPs and bytes of one request; None of a model without a formula of which nothing was counted.

    ``forward`` has logits of every position (decoders), ``prefill`` of the last one; ``generate`` is a prefill and
    ``new_tokens - 1`` decode steps; ``train`` counts three forwards (Kaplan et al. 2020: backward = 2 x forward),
    without the optimizer.

    Raises:
        ConfigError: The model has no transformer shape, or the workload is unknown.
    """
    if not model.has_formula and model.role != "stressor":
        return _counted_cost(workload, precision, counted)
    shape, element, weight = shape_of(model), BYTES[precision], _WEIGHT_BYTES[precision]
    batch, seq = workload.batch_size, workload.seq_len
    eager = model.attn_implementation == "eager" or model.architecture in RELATIVE
    whole = _pass_cost(shape, batch, seq, element, weight, eager=eager, logits=batch * seq)
    prefill = _pass_cost(shape, batch, seq, element, weight, eager=eager, logits=batch)
    match workload.kind:
        case "forward":
            return whole
        case "prefill":
            return prefill
        case "decode":
            return decode_cost(shape, batch, seq, element, weight)
        case "generate":
            middle = seq + workload.new_tokens // 2
            return prefill.plus(decode_cost(shape, batch, middle, element, weight), max(workload.new_tokens - 1, 0))
        case "train":
            return Cost(3 * whole.flops, 3 * whole.bytes, whole.weight_bytes)
    raise ConfigError("workload", workload.kind, ("forward", "prefill", "decode", "generate", "train"), "Choose one.")


def _counted_cost(workload: WorkloadSpec, precision: str, counted: CostSpec | None) -> Cost | None:
    """A forward pass as it was counted, a training step three of them; of a generation nothing is known."""
    if counted is None or not counted.flops or workload.kind not in ("forward", "train"):
        return None
    times, element = 3 if workload.kind == "train" else 1, BYTES[precision]
    weight_bytes = counted.weights * _WEIGHT_BYTES[precision]
    moved = (counted.numbers - counted.weights) * element + weight_bytes
    return Cost(times * counted.flops, times * moved, weight_bytes)


def _pass_cost(shape: Shape, batch: int, seq: int, element: int, weight: int, *, eager: bool, logits: int) -> Cost:
    h, q, k, layers = shape.hidden, shape.q, shape.k, shape.layers
    tokens, scores = batch * seq, batch * seq * seq
    pairs = batch * seq * (seq + 1) / 2 if shape.causal else scores
    rows = 2 * seq if shape.relative_rows < 0 else shape.relative_rows
    flops = 2 * tokens * shape.weights + 4 * pairs * q * layers + 2 * logits * shape.head
    flops += layers * (4 * rows * h * h + 4 * tokens * h * rows)
    weight_bytes = weight * shape.weights + element * shape.head
    activations = (h + q + 2 * k) + (q + h) + (2 * h + shape.feed_forward) + 6 * h
    moved = element * (tokens * layers * (activations + 2 * q + 2 * k) + logits * shape.vocab)
    if eager:
        moved += 4 * element * layers * shape.heads * scores
    if rows:
        moved += 4 * element * layers * shape.heads * (tokens * rows + scores)
    return Cost(float(flops), float(weight_bytes + moved), float(weight_bytes))


def decode_cost(shape: Shape, batch: int, context: int, element: int, weight: int) -> Cost:
    """One decode step of ``batch`` sequences with ``context`` tokens in the cache: bytes of a number, of a weight."""
    weight_bytes = weight * shape.weights + element * shape.head
    flops = batch * (2 * shape.weights + 2 * shape.head + 4 * context * shape.q * shape.layers)
    cache = 2 * element * batch * (context + 1) * shape.k * shape.layers
    return Cost(float(flops), float(weight_bytes + cache), float(weight_bytes))


def bound_by(intensity: float, ridge: float, launch_bound_pct: float | None = None) -> str:
    """``launch`` if the device waits for the host at least half the time; else ``compute`` or ``memory`` by ridge."""
    if launch_bound_pct is not None and launch_bound_pct >= LAUNCH_BOUND_PCT:
        return "launch"
    return "compute" if intensity >= ridge else "memory"


def launch_bound_pct(busy_ms: float, latency_ms: float) -> float:
    """Share of a baseline's latency in which the device waits for the host, percent, 0 to 100.

    100 * (1 - busy / latency), where ``busy_ms`` is the device time of one request whose kernels were all queued before
    the first one ran, and ``latency_ms`` the baseline's mean latency on the host clock. 0: the device is the limit. 70:
    a neighbour could have 70 % of the device for free, so a slowdown near 1 says little about sharing.

    Raises:
        ValueError: Not positive and finite: nothing was measured, so there is no share.
    """
    if not (0 < busy_ms < float("inf") and 0 < latency_ms < float("inf")):
        raise ValueError(f"busy_ms={busy_ms} and latency_ms={latency_ms} must be positive and finite")
    return 100.0 * max(0.0, 1.0 - busy_ms / latency_ms)

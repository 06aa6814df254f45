"""Shapes of models: dimensions, parameter counts, shrinking for the CPU. Pure: standard library only.

A shape is the mapping of Hugging Face configuration fields that ``conf/models/*.yaml`` gives. Formulas follow the
modelling code of transformers 5; a test counts the parameters of every model on torch's meta device and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_NAMES = {
    "hidden": ("hidden_size", "n_embd"),
    "layers": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "intermediate": ("intermediate_size", "n_inner"),
    "vocab": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions"),
}
"""Field names of each dimension, by architecture."""

_OTHER_SIZES = ("type_vocab_size", "max_relative_positions", "position_buckets")
MAX_SIZE = 2**31 - 1
"""Most that a size of a model may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Sizes of a transformer, independent of the architecture's field names."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    positions: int


def field_of(shape: Mapping[str, Any], dimension: str) -> str | None:
    """Return the name that ``shape`` has for ``dimension`` (a field of :class:`Dimensions`), or None."""
    return next((name for name in _NAMES[dimension] if name in shape), None)


def dimensions(shape: Mapping[str, Any]) -> Dimensions | None:
    """Return the dimensions of ``shape``; None if one without a default is missing (e.g. a stressor)."""

    def get(dimension: str, default: int | None = None) -> Any:
        name = field_of(shape, dimension)
        value = shape[name] if name else None
        return default if value is None else value

    hidden, layers, heads = get("hidden"), get("layers"), get("heads")
    vocab, positions = get("vocab"), get("positions")
    if not all(isinstance(v, int) and v > 0 for v in (hidden, layers, heads, vocab, positions)):
        return None
    return Dimensions(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=get("kv_heads", heads),
        head_dim=get("head_dim", hidden // heads),
        intermediate=get("intermediate", 4 * hidden),
        vocab=vocab,
        positions=positions,
    )


def not_sizes(shape: Mapping[str, Any]) -> str:
    """Return the first invalid size of ``shape`` as ``name=value``; empty if all are integers or absent."""
    for name in (*(name for names in _NAMES.values() for name in names), *_OTHER_SIZES):
        value = shape.get(name)
        if value is not None and not (type(value) is int and abs(value) <= MAX_SIZE):
            return f"{name}={str(value)[:30]}"
    return ""


def _size(shape: Mapping[str, Any], name: str, default: int) -> int:
    value = shape.get(name)
    return default if value is None else int(value)


class Counts(NamedTuple):
    """How large a model is."""

    parameters: int
    """Number of parameters; tied weights count once."""
    layer_parameters: int
    """Elements of the weight matrices of all layers that a token passes: no embedding, head, bias or norm."""


def known_counts(architecture: str, shape: Mapping[str, Any]) -> Counts | None:
    """Return the sizes of an architecture that has a formula here; None for any other, about which nothing is assumed.

    Encoders are the bare model (BERT with its pooler), decoders carry their language-model head.
    """
    d, formula = dimensions(shape), _FORMULAS.get(architecture)
    if d is None or formula is None:
        return None
    count, matrices = formula
    q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    per_layer = d.hidden * (2 * q + 2 * kv + matrices * d.intermediate)
    return Counts(count(d, shape), d.layers * per_layer)


def has_formula(architecture: str) -> bool:
    """Whether :func:`known_counts` has a formula for ``architecture``."""
    return architecture in _FORMULAS


def _encoder_layers(d: Dimensions) -> int:
    attention = 4 * (d.hidden * d.hidden + d.hidden)
    feed_forward = 2 * d.hidden * d.intermediate + d.intermediate + d.hidden
    return d.layers * (attention + feed_forward + 2 * 2 * d.hidden)


def _bert(d: Dimensions, shape: Mapping[str, Any]) -> int:
    rows = d.vocab + d.positions + _size(shape, "type_vocab_size", 2)
    pooler = d.hidden * d.hidden + d.hidden
    return (rows + 2) * d.hidden + _encoder_layers(d) + pooler


def _deberta_v2(d: Dimensions, shape: Mapping[str, Any]) -> int:
    rows = d.vocab + _size(shape, "type_vocab_size", 0) + 2
    if shape.get("position_biased_input", True):
        rows += d.positions
    if shape.get("relative_attention", False):
        reach = _size(shape, "max_relative_positions", -1)
        buckets = _size(shape, "position_buckets", -1)
        rows += 2 * (buckets if buckets > 0 else reach if reach > 0 else d.positions)
        rows += 2 if "layer_norm" in str(shape.get("norm_rel_ebd", "none")) else 0
    total = rows * d.hidden + _encoder_layers(d)
    if shape.get("relative_attention", False) and not shape.get("share_att_key", False):
        kinds = len(_words(shape.get("pos_att_type")))
        total += d.layers * kinds * (d.hidden * d.hidden + d.hidden)
    return total


def _words(value: Any) -> list[Any]:
    """A list, or one written as ``p2c|c2p``, as on the hub."""
    if isinstance(value, str):
        return value.split("|") if value else []
    return list(value) if isinstance(value, (list, tuple)) else []


def _gpt2(d: Dimensions, shape: Mapping[str, Any]) -> int:
    attention = 4 * d.hidden * d.hidden + 4 * d.hidden
    feed_forward = 2 * d.hidden * d.intermediate + d.intermediate + d.hidden
    layers = d.layers * (attention + feed_forward + 4 * d.hidden)
    return (d.vocab + d.positions + 2) * d.hidden + layers + _untied_head(d, shape, tied=True)


def _llama(d: Dimensions, shape: Mapping[str, Any]) -> int:
    q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    attention = 2 * d.hidden * q + 2 * d.hidden * kv
    if shape.get("attention_bias", False):
        attention += q + 2 * kv + d.hidden
    feed_forward = 3 * d.hidden * d.intermediate
    if shape.get("mlp_bias", False):
        feed_forward += 2 * d.intermediate + d.hidden
    layers = d.layers * (attention + feed_forward + 2 * d.hidden)
    return d.vocab * d.hidden + layers + d.hidden + _untied_head(d, shape, tied=False)


def _untied_head(d: Dimensions, shape: Mapping[str, Any], *, tied: bool) -> int:
    return 0 if shape.get("tie_word_embeddings", tied) else d.vocab * d.hidden


_FORMULAS = {
    "bert": (_bert, 2),
    "deberta-v2": (_deberta_v2, 2),
    "gpt2": (_gpt2, 2),
    "llama": (_llama, 3),
    "mistral": (_llama, 3),
}
"""For known architectures: the formula of the parameters, the matrices of a feed-forward block. A test compares
both with the model that transformers builds. Any other architecture is read off that model (mtexp.config.read_off)."""


def shrink_stressor(shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of a stressor shrunk for a CPU, where a request then takes milliseconds."""
    most = {"size": 128, "mib": 1, "repeats": 20}
    return {name: min(value, most[name]) if name in most else value for name, value in shape.items()}


def shrink(shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``shape`` with fewer and narrower layers of the same kinds; grouped-query attention is kept.

    Hidden 32 in 2 heads (1 key/value head where the original has fewer of those than heads), an eighth of the layers
    but at least 2, intermediate in proportion but at least 64, 256 words, 16 relative positions.
    Absolute positions stay, because they cost almost nothing.
    A shape without these dimensions is made small by the names of its fields (:func:`_shrink_fields`).
    """
    d = dimensions(shape)
    if d is None:
        return _shrink_fields(shape)
    hidden, heads = _HIDDEN, _HEADS
    wanted = {
        "hidden": hidden,
        "layers": max(2, d.layers // 8),
        "heads": heads,
        "kv_heads": 1 if d.kv_heads < d.heads else heads,
        "head_dim": hidden // heads,
        "intermediate": max(64, hidden * d.intermediate // d.hidden),
        "vocab": min(256, d.vocab),
    }
    small = dict(shape)
    for dimension, value in wanted.items():
        name = field_of(shape, dimension)
        if name is not None and shape[name] is not None:
            small[name] = value
    if "pooler_hidden_size" in shape:
        small["pooler_hidden_size"] = hidden
    if _size(shape, "position_buckets", -1) > 0:
        small["position_buckets"] = min(16, int(shape["position_buckets"]))
    for name in ("moe_intermediate_size", "num_experts", "num_local_experts", "num_experts_per_tok"):
        if isinstance(shape.get(name), int):
            small[name] = min(_FIELDS[name], shape[name])
    if isinstance(shape.get("layer_types"), list):
        small["layer_types"] = shape["layer_types"][-wanted["layers"] :]
    return small | _token_ids(shape)


def shrink_inputs(inputs: Mapping[str, list[int]], shape: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return ``inputs`` made short for a model of the small ``shape``: recordings cut, images of its own size."""
    return {
        name: [min(_MOST_SAMPLES, size) for size in sizes]
        for name, sizes in inputs.items()
        if not (name == "pixel_values" and "image_size" in shape)
    }


_MOST_SAMPLES = 4096
_HIDDEN, _HEADS = 32, 2
_FIELDS = {
    **dict.fromkeys(("hidden_size", "d_model", "projection_dim", "embed_dim", "moe_intermediate_size"), _HIDDEN),
    **dict.fromkeys(("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads", "num_heads"), _HEADS),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 64),
    **dict.fromkeys(("head_dim", "d_kv"), _HIDDEN // _HEADS),
    **dict.fromkeys(("num_experts", "num_local_experts"), 8),
    "num_key_value_heads": _HEADS,
    "num_experts_per_tok": 2,
    "vocab_size": 256,
    "max_source_positions": 50,
    "encoder_hidden_size": 8,
    "decoder_hidden_size": 64,
    "n_codebooks": 2,
    "codebook_size": 64,
    "conv_dim": _HIDDEN,
    "num_conv_pos_embeddings": 16,
    "image_size": 64,
}
"""Fields that are made at most so large in a small model of any architecture."""


def _shrink_fields(shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``shape`` with the fields of :data:`_FIELDS` made small, those of its parts (``text_config``) too."""
    small = dict(shape)
    for name, value in shape.items():
        if name.endswith("_config") and isinstance(value, Mapping):
            small[name] = _shrink_fields(value)
        elif name in _FIELDS:
            most = max(_FIELDS[name], 2 * _size(shape, "patch_size", 0)) if name == "image_size" else _FIELDS[name]
            sizes = value if isinstance(value, list) else [value]
            if all(type(size) is int for size in sizes):
                cut = [min(most, size) for size in sizes]
                small[name] = cut if isinstance(value, list) else cut[0]
    return small | (_token_ids(shape) if type(shape.get("vocab_size")) is int else {})


def _token_ids(shape: Mapping[str, Any]) -> dict[str, int]:
    """Special tokens of a vocabulary that was cut short."""
    ids = [name for name in shape if name.endswith("_token_id") and type(shape[name]) is int]
    return {name: 0 for name in ids if shape[name] >= 256 or name in ("bos_token_id", "eos_token_id")}


def needed_positions(kind: str, seq_len: int, new_tokens: int) -> int:
    """Return how many positions one request takes: a decode step adds a token, a generation ``new_tokens``."""
    return seq_len + {"decode": 1, "generate": new_tokens}.get(kind, 0)

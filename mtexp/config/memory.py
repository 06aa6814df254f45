"""Estimates the device memory that a tenant needs, before anything starts. Pure: standard library only.

The estimate is low on purpose: it refuses only what cannot fit, and lets the device decide close cases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from mtexp.config.shapes import dimensions
from mtexp.spec import QUANTISED, TenantSpec, WorkloadSpec

GPU_CONTEXT_MIB = 512.0
"""CUDA context, libraries and allocator of one process (about 0.5 GiB on recent drivers)."""
CPU_PROCESS_MIB = 150.0
"""Unshared memory of a tenant forked from the preloaded forkserver."""

_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4, "tf32": 4, "int8": 2, "fp8": 2}
"""Bytes of a number between layers."""
_LIMIT = re.compile(r"([0-9]{1,7})([GM])")
_MIB = 2**20


def tenant_mib(tenant: TenantSpec) -> float:
    """Return the MiB that ``tenant`` needs beside its process: weights + activations + KV cache.

    With b bytes a number, T = batch * tokens, h hidden, q and kv the widths of queries and keys, f all rows of the
    feed-forward matrices of a layer (2 i, or 3 i where it is gated), as the number of its weights has it:

    - weights: parameters * b (training: four times, for gradients and AdamW's two moments); one byte each for those of
      layers in int8 and fp8
    - one layer's activations: T * (4 h + q + 2 kv + f) * b (training: every layer's)
    - eager attention scores: batch * heads * tokens * context * (2 b + 4), the softmax being in fp32
    - logits of decoders: T * vocabulary * b
    - models of other inputs or dimensions: the most that one operation reads and writes
    - KV cache (prefill, decode, generate): 2 * batch * context * kv * layers * b, for each length of cache that the
      requests of a trace have
    """
    model, load, width = tenant.model, _largest(tenant), _BYTES[tenant.precision]
    training = load.kind == "train"
    total = _weights_bytes(tenant, width) * (4 if training else 1)
    d = dimensions(model.shape) if not model.inputs else None
    if d is None:
        return (total + tenant.cost.activations * width) / _MIB
    context = load.seq_len + {"decode": 1, "generate": load.new_tokens}.get(load.kind, 0)
    tokens = load.batch_size * (1 if load.kind == "decode" else load.seq_len)
    kv = d.kv_heads * d.head_dim
    q = d.heads * d.head_dim
    feed_forward = max(0.0, model.layer_parameters / d.layers / d.hidden - 2 * q - 2 * kv)
    activations = tokens * (4 * d.hidden + q + 2 * kv + feed_forward) * width
    if model.attn_implementation == "eager":
        activations += tokens * d.heads * context * (2 * width + 4)
    total += activations * (d.layers if training else 1)
    if model.role == "decoder":
        total += tokens * d.vocab * width
    if load.kind in ("prefill", "decode", "generate"):
        total += 2 * load.batch_size * (context + _other_caches(tenant)) * kv * d.layers * width
    return total / _MIB


def _weights_bytes(tenant: TenantSpec, width: int) -> float:
    parameters = float(tenant.model.parameters)
    if tenant.precision not in QUANTISED:
        return parameters * width
    in_layers = min(tenant.model.layer_parameters or parameters, parameters)
    return in_layers + (parameters - in_layers) * width


def _other_caches(tenant: TenantSpec) -> int:
    """Tokens of the KV caches of a trace's requests, one cache a length, without the longest."""
    kept = sorted({size.cache_tokens or size.padded_tokens for size in tenant.arrival.lengths.sizes})
    return sum(kept[:-1])


def _largest(tenant: TenantSpec) -> WorkloadSpec:
    """The workload, as the largest request of a trace has it."""
    load, lengths = tenant.workload, tenant.arrival.lengths
    if not lengths.buckets:
        return load
    seq_len = lengths.largest.padded_tokens
    new_tokens = lengths.largest.cache_tokens - seq_len if lengths.largest.cache_tokens else load.new_tokens
    return replace(load, seq_len=seq_len, new_tokens=new_tokens)


def run_mib(tenants: Sequence[TenantSpec], *, one_process: bool, gpu: bool, share_weights: bool = False) -> float:
    """Return the MiB that the tenants of a run need, their processes included."""
    processes = 1 if one_process else len(tenants)
    total = sum(map(tenant_mib, tenants)) + processes * (GPU_CONTEXT_MIB if gpu else CPU_PROCESS_MIB)
    if share_weights:
        total -= sum(_weights_bytes(tenant, _BYTES[tenant.precision]) for tenant in tenants[1:]) / _MIB
    return total


def limit_mib(limit: str) -> float | None:
    """Return the MiB of an MPS memory limit such as ``4G`` or ``512M``; None if it is not one."""
    match = _LIMIT.fullmatch(limit)
    return float(match[1]) * (1024 if match[2] == "G" else 1) if match else None

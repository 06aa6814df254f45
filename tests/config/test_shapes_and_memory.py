"""Dimensions, parameter counts, shrinking and memory, as functions of the shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtexp.config import compose_spec
from mtexp.config.hardware import hardware_of
from mtexp.config.memory import limit_mib, tenant_mib
from mtexp.config.plan import plan
from mtexp.config.read_off import read_off
from mtexp.config.shapes import Counts, dimensions, known_counts, needed_positions, shrink
from mtexp.errors import ConfigError
from mtexp.host import Device
from mtexp.spec import ModelSpec, TenantSpec, WorkloadSpec, spec_hash
from mtexp.tracking.ledger import baseline_hash

_sizes = st.integers(1, 64)


def count_parameters(architecture: str, shape: Mapping[str, Any]) -> int:
    counts = known_counts(architecture, shape)
    assert counts is not None
    return counts.parameters


@st.composite
def llama_shapes(draw: st.DrawFn) -> dict[str, int]:
    kv_heads, groups, head_dim = draw(_sizes), draw(st.integers(1, 8)), draw(_sizes)
    return {
        "hidden_size": draw(st.integers(32, 4096)),
        "num_hidden_layers": draw(st.integers(1, 80)),
        "num_attention_heads": kv_heads * groups,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": draw(st.integers(1, 20_000)),
        "vocab_size": draw(st.integers(1, 200_000)),
        "max_position_embeddings": draw(st.integers(1, 131_072)),
    }


def _tenant(
    shape: dict[str, int], load: WorkloadSpec, *, precision: str = "fp16", attention: str = "sdpa"
) -> TenantSpec:
    count = known_counts("llama", shape) or Counts(0, 0)
    model = ModelSpec(
        name="m",
        role="decoder",
        architecture="llama",
        shape=shape,
        parameters=count.parameters,
        layer_parameters=count.layer_parameters,
        attn_implementation=attention,
    )
    return TenantSpec(id="a", model=model, workload=load, precision=precision)


@given(llama_shapes())
def test_shrinking_never_makes_a_wide_model_larger_and_twice_is_once(shape: dict[str, int]) -> None:
    """Small stays small, heads stay divisible by key/value heads, grouping stays grouping."""
    small = shrink(shape)
    before, after = dimensions(shape), dimensions(small)
    assert before is not None
    assert after is not None
    assert after.hidden == 32
    assert after.layers == max(2, before.layers // 8)
    assert after.heads % after.kv_heads == 0
    assert (after.kv_heads < after.heads) == (before.kv_heads < before.heads)
    assert after.positions == before.positions
    assert set(small) == set(shape)
    assert shrink(small)["hidden_size"] == 32


@given(llama_shapes(), st.integers(1, 64), st.integers(1, 512))
def test_memory_grows_with_everything_that_needs_it(shape: dict[str, int], batch: int, seq_len: int) -> None:
    """More batch, longer sequences, wider numbers, a KV cache, eager attention and training all need more."""
    load = WorkloadSpec(batch_size=batch, seq_len=seq_len)
    needs = tenant_mib(_tenant(shape, load))
    assert needs > 0
    assert tenant_mib(_tenant(shape, replace(load, batch_size=batch + 1))) > needs
    assert tenant_mib(_tenant(shape, replace(load, seq_len=seq_len + 1))) > needs
    assert tenant_mib(_tenant(shape, load, precision="fp32")) > needs
    assert tenant_mib(_tenant(shape, replace(load, kind="prefill"))) > needs
    assert tenant_mib(_tenant(shape, load, attention="eager")) > needs
    assert tenant_mib(_tenant(shape, replace(load, kind="train"))) > needs


def test_a_shape_without_dimensions_is_left_alone() -> None:
    """A stressor has a shape of its own: not counted, not shrunk, no activations."""
    assert dimensions({"size_mib": 64}) is None
    assert shrink({"size_mib": 64}) == {"size_mib": 64}
    assert known_counts("stress", {"size_mib": 64}) is None
    stressor = ModelSpec(name="s", role="stressor", architecture="stress", shape={"size_mib": 64})
    assert tenant_mib(TenantSpec(id="s", model=stressor)) == 0


def test_options_of_an_architecture_are_counted() -> None:
    """Biases, an untied head and own relative projections add what they add."""
    shape = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 10,
        "max_position_embeddings": 4,
    }
    plain = count_parameters("llama", {**shape, "tie_word_embeddings": True})
    assert plain is not None
    assert count_parameters("llama", shape) == plain + 80
    assert count_parameters("llama", {**shape, "attention_bias": True, "tie_word_embeddings": True}) == plain + 32
    assert count_parameters("llama", {**shape, "mlp_bias": True, "tie_word_embeddings": True}) == plain + 40
    deberta = {**shape, "relative_attention": True, "position_buckets": 2, "pos_att_type": ["p2c", "c2p"]}
    shared = count_parameters("deberta-v2", {**deberta, "share_att_key": True})
    assert shared is not None
    assert count_parameters("deberta-v2", deberta) == shared + 2 * 72
    unbucketed = {**deberta, "share_att_key": True, "position_buckets": -1}
    assert count_parameters("deberta-v2", unbucketed) == shared + 4 * 8
    assert count_parameters("deberta-v2", {**unbucketed, "max_relative_positions": 3}) == shared + 2 * 8


def test_positions_a_request_takes() -> None:
    """A decode step adds one token to its context, a generation adds its new tokens."""
    assert [needed_positions(kind, 100, 32) for kind in ("forward", "prefill", "decode", "generate")] == [
        100,
        100,
        101,
        132,
    ]


def test_memory_limits_as_mps_writes_them() -> None:
    """Integers with G or M, nothing else."""
    assert [limit_mib(text) for text in ("4G", "512M", "4", "1.5G", "4GB", "")] == [4096, 512, None, None, None, None]


def test_stressors_shrink_for_the_cpu():
    """Beside a shrunken model a stressor is small too; what it presses on stays."""
    spec = compose_spec(["mix=bert_base+stress_dram+stress_sm"])
    shapes = {tenant.id: dict(tenant.model.shape) for tenant in spec.tenants}
    assert shapes["stress_dram"] == {"mib": 1, "repeats": 4}
    assert shapes["stress_sm"] == {"size": 128, "repeats": 20}


QWEN = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 200,
    "vocab_size": 500,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
"""Of an architecture without a formula: its feed-forward is gated, which no list here says."""


@pytest.mark.process
def test_a_model_without_a_formula_is_read_off_the_model_itself(tmp_path: Path) -> None:
    """A user's own YAML: its sizes are those of what transformers builds, whatever the file claims."""
    lines = ["name: own", "role: decoder", "architecture: qwen3", "parameters: 7", "attention: [sdpa]", "shape:"]
    lines += [f"  {name}: {str(value).lower()}" for name, value in QWEN.items()]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "own.yaml").write_text("\n".join(lines) + "\n")
    arguments = ["--config-dir", str(tmp_path), "mix=own", "baseline=skip", "runtime.shrink=none"]
    planned = plan(arguments, hardware=lambda: hardware_of(Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)))
    (tenant,) = planned.points[0].spec.tenants
    per_layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 200
    assert tenant.model.layer_parameters == 3 * per_layer
    norms = 3 * (2 * 64 + 2 * 16) + 64
    assert tenant.model.parameters == 3 * per_layer + 500 * 64 + norms
    plain = replace(tenant, model=replace(tenant.model, layer_parameters=3 * (per_layer - 64 * 200)))
    assert tenant_mib(tenant) > tenant_mib(plain)


def test_an_architecture_that_nobody_knows_is_refused() -> None:
    """Before anything starts, with what transformers says."""
    model = ModelSpec(name="own", role="decoder", architecture="nonesuch", shape=QWEN)
    with pytest.raises(ConfigError, match=r"(?s)mix\.tenants\.a\.architecture=nonesuch.*nonesuch"):
        read_off("mix.tenants.a", model, WorkloadSpec())


def test_what_follows_from_the_shape_names_no_other_run() -> None:
    """Records of before the field have the spec and baseline hashes of those after it."""
    run = compose_spec(["mix=solo"])
    tenant = run.tenants[0]
    older = replace(tenant, model=replace(tenant.model, layer_parameters=0))
    before = replace(run, tenants=(older,))
    assert tenant.model.layer_parameters > 0
    assert spec_hash(run) == spec_hash(before)
    assert baseline_hash(tenant, run, {}) == baseline_hash(older, before, {})

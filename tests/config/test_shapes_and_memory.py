"""Dimensions, parameter counts, shrinking and memory, as functions of the shape."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mtexp.config import compose_spec
from mtexp.config.memory import limit_mib, tenant_mib
from mtexp.config.shapes import count_parameters, dimensions, needed_positions, shrink
from mtexp.spec import ModelSpec, TenantSpec, WorkloadSpec

_sizes = st.integers(1, 64)


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
    count = count_parameters("llama", shape)
    model = ModelSpec(
        name="m",
        role="decoder",
        architecture="llama",
        shape=shape,
        parameters=count or 0,
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
    assert count_parameters("stress", {"size_mib": 64}) is None
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

from dataclasses import replace

import pytest

from mtexp.config.shapes import known_counts
from mtexp.errors import ConfigError
from mtexp.profiling.cost_model import bound_by, device_peaks, launch_bound_pct, request_cost, shape_of
from mtexp.spec import ModelSpec, WorkloadSpec


def counted(spec):
    """With the sizes that the planner would give it."""
    shape = {"max_position_embeddings": 512, **spec.shape}
    architecture = {"deberta": "deberta-v2"}.get(spec.architecture, spec.architecture)
    return replace(spec, layer_parameters=known_counts(architecture, shape).layer_parameters)


def floor_ms(cost, peaks, precision):
    """Time that compute alone, and memory alone, would take at the peaks."""
    return 1e3 * cost.flops / peaks.flops[precision], 1e3 * cost.bytes / peaks.bytes_per_s


def bert(layers, hidden, heads, architecture="bert", **more):
    shape = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "vocab_size": 30522,
        **more,
    }
    return counted(ModelSpec(name="m", role="encoder", architecture=architecture, shape=shape))


def deberta(layers, hidden, heads, architecture="deberta-v2", buckets=256):
    return bert(layers, hidden, heads, architecture, relative_attention=True, position_buckets=buckets)


def llama(layers, hidden, heads, head_dim, intermediate, vocab, architecture="llama"):
    shape = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": head_dim,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
    }
    return counted(ModelSpec(name="m", role="decoder", architecture=architecture, shape=shape))


MODELS = {
    "distilgpt2": counted(
        ModelSpec(
            name="distilgpt2",
            role="decoder",
            architecture="gpt2",
            shape={"n_layer": 6, "n_embd": 768, "n_head": 12, "n_inner": None, "vocab_size": 50257},
        )
    ),
    "bert_base": bert(12, 768, 12),
    "bert_large": bert(24, 1024, 16),
    "deberta_v3_base": deberta(12, 768, 12),
    "deberta_v3_large": deberta(24, 1024, 16),
    "deberta_large_v1": deberta(24, 1024, 16, "deberta", -1),
    "llama_3_2_1b": llama(16, 2048, 32, 64, 8192, 128256),
    "llama_3_2_3b": llama(28, 3072, 24, 128, 8192, 128256),
    "mistral_7b": llama(32, 4096, 32, 128, 14336, 32000, "mistral"),
}

TABLE = [
    ("distilgpt2", 167, 162, 328, 285, 0.17, 0.11),
    ("bert_base", 179, 170, 271, 220, 0.18, 0.14),
    ("bert_large", 631, 604, 330, 273, 0.64, 0.40),
    ("deberta_v3_base", 213, 170, 136, 136, 0.21, 0.33),
    ("deberta_v3_large", 734, 604, 170, 170, 0.74, 0.90),
    ("deberta_large_v1", 683, 604, 194, 194, 0.69, 0.73),
    ("llama_3_2_1b", 2539, 2471, 559, None, 2.6, 0.95),
    ("llama_3_2_3b", 6602, 6425, 611, None, 6.7, 2.25),
    ("mistral_7b", 14597, 14221, 691, None, 14.8, 4.4),
]


@pytest.mark.parametrize(("model", "gflop", "weights_mb", "fused", "eager", "compute_ms", "memory_ms"), TABLE)
def test_a_forward_costs_what_was_worked_out_by_hand(model, gflop, weights_mb, fused, eager, compute_ms, memory_ms):
    """Batch 8, sequence 128, bf16, logits of every position, on an H200."""
    spec = MODELS[model]
    cost = request_cost(spec, WorkloadSpec(), "bf16")
    assert cost.flops / 1e9 == pytest.approx(gflop, abs=0.51)
    assert cost.weight_bytes / 1e6 == pytest.approx(weights_mb, abs=0.51)
    assert cost.intensity == pytest.approx(fused, abs=0.51)
    if eager:
        unfused = request_cost(replace(spec, attn_implementation="eager"), WorkloadSpec(), "bf16")
        assert unfused.intensity == pytest.approx(eager, abs=0.51)
    peaks = device_peaks("NVIDIA H200")
    assert floor_ms(cost, peaks, "bf16") == (pytest.approx(compute_ms, abs=0.06), pytest.approx(memory_ms, abs=0.01))


@pytest.mark.parametrize(
    ("model", "floor", "kib_a_token"),
    [("distilgpt2", 0.04, 18), ("llama_3_2_1b", 0.52, 32), ("llama_3_2_3b", 1.36, 112), ("mistral_7b", 2.99, 128)],
)
def test_a_decode_step_is_bound_by_memory(model, floor, kib_a_token):
    """Its floor on an H200 is the time to read the weights; a token of context costs its keys and values."""
    spec = MODELS[model]
    cost = request_cost(spec, WorkloadSpec(kind="decode"), "fp16")
    assert floor_ms(cost, device_peaks("NVIDIA H200"), "fp16")[1] == pytest.approx(floor, abs=0.006)
    assert 7.2 < cost.intensity < 8.0
    longer = request_cost(spec, WorkloadSpec(kind="decode", seq_len=129), "fp16")
    assert (longer.bytes - cost.bytes) / 8 / 1024 == pytest.approx(kib_a_token)


def test_workloads_build_on_each_other():
    """Prefill has logits of one position; generate is a prefill and its decode steps; train is three forwards."""
    spec = MODELS["llama_3_2_1b"]
    forward, prefill = (request_cost(spec, WorkloadSpec(kind=k), "fp16") for k in ("forward", "prefill"))
    head = 2 * 8 * 127 * shape_of(spec).head
    assert forward.flops - prefill.flops == head
    one = request_cost(spec, WorkloadSpec(kind="generate", new_tokens=1), "fp16")
    assert one == prefill
    many = request_cost(spec, WorkloadSpec(kind="generate", new_tokens=33), "fp16")
    step = request_cost(spec, WorkloadSpec(kind="decode", seq_len=144), "fp16")
    assert many.flops == prefill.flops + 32 * step.flops
    assert request_cost(spec, WorkloadSpec(kind="train"), "fp16").flops == 3 * forward.flops


def test_causal_attention_computes_half_of_the_pairs():
    """A query sees the keys before it: S (S + 1) / 2 pairs, so that the FLOPs stay a lower bound."""
    decoder = MODELS["llama_3_2_1b"]
    both_ways = replace(decoder, role="encoder", shape={**decoder.shape})
    head = 2 * 8 * 128 * shape_of(decoder).head
    causal, full = (request_cost(spec, WorkloadSpec(), "fp16").flops for spec in (decoder, both_ways))
    assert full - (causal - head) == 4 * 8 * (128 * 127 / 2) * 2048 * 16


def test_a_gated_model_of_an_unknown_architecture_costs_what_its_weights_say():
    """No list of architectures: 3 matrices of a feed-forward block are 3, whatever it is called."""
    known = MODELS["llama_3_2_1b"]
    stranger = replace(known, architecture="qwen3")
    assert request_cost(stranger, WorkloadSpec(), "fp16") == request_cost(known, WorkloadSpec(), "fp16")
    with pytest.raises(ConfigError, match="layer_parameters"):
        request_cost(replace(stranger, layer_parameters=0), WorkloadSpec(), "fp16")


def test_four_byte_precisions_move_twice_the_bytes():
    """And compute the same."""
    half, full = (request_cost(MODELS["bert_base"], WorkloadSpec(), p) for p in ("fp16", "fp32"))
    assert (full.flops, full.bytes) == (half.flops, 2 * half.bytes)


def test_what_has_no_transformer_shape_has_no_roofline():
    """A stressor, and an unknown workload: an error that names it."""
    stressor = ModelSpec(name="copy", role="stressor", architecture="memcpy")
    with pytest.raises(ConfigError, match=r"models\.copy\.shape"):
        request_cost(stressor, WorkloadSpec(), "fp16")
    with pytest.raises(ConfigError, match="workload=dance"):
        request_cost(MODELS["bert_base"], WorkloadSpec(kind="dance"), "fp16")


@pytest.mark.parametrize(
    ("name", "tflops", "gb_per_s"),
    [
        ("NVIDIA H200", 989.4, 4800),
        ("NVIDIA H100 80GB HBM3", 989.4, 3350),
        ("NVIDIA H100 PCIe", 756, 2000),
        ("NVIDIA GH200 480GB", 989.4, 4000),
        ("NVIDIA A100-SXM4-80GB", 312, 2039),
        ("NVIDIA A100 80GB PCIe", 312, 1935),
        ("NVIDIA A100-SXM4-40GB", 312, 1555),
        ("NVIDIA A100-PCIE-40GB", 312, 1555),
        ("H100 SXM", 989.4, 3350),
        ("NVIDIA H100 NVL", 989.4 * 835.5 / 989.4, 3900),
        ("NVIDIA A10", 125, 600),
        ("NVIDIA L4", 121, 300),
        ("NVIDIA L40S", 362, 864),
    ],
)
def test_a_device_is_found_by_the_name_its_driver_gives(name, tflops, gb_per_s):
    """Longer names before shorter ones: L40S is not an L4."""
    peaks = device_peaks(name)
    assert (peaks.flops["fp16"], peaks.bytes_per_s) == (tflops * 1e12, gb_per_s * 1e9)


def test_an_unknown_device_has_no_peaks():
    """Nothing is invented for it."""
    for name in (
        "NVIDIA GeForce GT 710",
        "NVIDIA RTX A1000",
        "NVIDIA RTX A1000 Laptop GPU",
        "NVIDIA H200 MIG 1g.18gb",
        "NVIDIA H20",
        "NVIDIA GB200",
        "NVIDIA A10M",
        "GRID A100-10C",
        "NVIDIA H800",
        "",
    ):
        assert device_peaks(name) is None, name


def test_the_bound_is_launch_first_then_by_the_ridge():
    """An idle device is bound by launches whatever its kernels are."""
    ridge = device_peaks("NVIDIA H200").ridge("fp16")
    assert ridge == pytest.approx(206, abs=0.5)
    assert bound_by(271, ridge) == "compute"
    assert bound_by(136, ridge) == "memory"
    assert bound_by(271, ridge, launch_bound_pct=70.0) == "launch"
    assert bound_by(271, ridge, launch_bound_pct=10.0) == "compute"


def test_launch_bound_is_the_share_the_device_waits():
    """BERT-base on an H200: 1.0 ms of kernels in 3.3 ms; never below 0; nothing measured is an error."""
    assert launch_bound_pct(1.0, 3.3) == pytest.approx(69.7, abs=0.1)
    assert launch_bound_pct(3.4, 3.3) == 0
    for busy, latency in ((0.0, 1.0), (1.0, 0.0), (float("nan"), 1.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="positive and finite"):
            launch_bound_pct(busy, latency)

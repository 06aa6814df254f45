"""Models of every family: what they are given, that it runs, that it is checked, and what it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tenant_specs import MODELS

from mtexp.config.shapes import shrink, shrink_inputs
from mtexp.spec import ModelSpec, TenantSpec, WorkloadSpec
from mtexp.tenant import families
from mtexp.tenant.counting import describe
from mtexp.tenant.outputs import check_layers, output_tensor
from mtexp.tenant.prepared import Prepared
from mtexp.tenant.requests import prepare

CPU = torch.device("cpu")
DECODER = ("forward", "prefill", "decode", "generate", "train")
FAMILIES = {
    "qwen3_0_6b": DECODER,
    "qwen3_moe_6_layers": DECODER,
    "gemma_3_1b": DECODER,
    "modernbert_base": ("forward", "train"),
    "t5_base": ("forward", "generate", "train"),
    "whisper_small": ("forward", "generate", "train"),
    "vit_base": ("forward", "train"),
    "yolos_small": ("forward", "train"),
    "clip_vit_b_32": ("forward", "train"),
    "minilm_l6": ("forward", "train"),
    "wav2vec2_base": ("forward", "train"),
    "dac_44khz": ("forward", "train"),
}


def family(name: str, kind: str = "forward", *, small: bool = True, **sizes: int) -> TenantSpec:
    """A tenant of a shipped model, read off as the plan does it."""
    data = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
    shape = shrink(data["shape"]) if small else data["shape"]
    inputs = data.get("inputs", {})
    asked = ModelSpec(
        name=name,
        role=data["role"],
        architecture=data["architecture"],
        shape=shape,
        model_class=data.get("model_class", ""),
        pooling=data.get("pooling", ""),
        inputs=shrink_inputs(inputs, shape) if small else inputs,
    )
    workload = replace(WorkloadSpec(kind=kind, batch_size=2, seq_len=12, new_tokens=4), **sizes)
    found = describe(asked, workload)
    model = replace(asked, inputs=found["inputs"], attn_implementation=found["attention"][0])
    return TenantSpec(id="a", model=model, workload=workload, precision="fp32")


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in FAMILIES.items() for kind in kinds])
def test_every_request_of_every_family_runs_and_its_products_are_checked(name: str, kind: str) -> None:
    """A request gives finite numbers; its layers are compared with float32 and are right."""
    prepared = prepare(family(name, kind), CPU, lambda model: model)
    check = check_layers(prepared.forward or prepared.request, "fp32", training=kind == "train")
    assert check["compared"] > 0
    assert check["wrong_kinds"] == 0
    with torch.inference_mode():
        prepared.request()
    assert torch.isfinite(output_tensor(prepared.outputs.last)).all()


@pytest.mark.parametrize("name", ["t5_base", "whisper_small"])
def test_generating_after_an_encoder_gives_the_tokens_that_no_cache_gives(name: str) -> None:
    """The second request too: the caches of the first are set back."""
    tenant = family(name, "generate", new_tokens=5)
    prepared = prepare(tenant, CPU, lambda model: model)
    *given, start = prepared.inputs
    encoder = dict(zip([n for n in ("input_ids", "input_features") if n in _names(tenant)], given, strict=True))
    with torch.inference_mode():
        tokens, model = start, _model(prepared)
        for _ in range(5):
            logits = model(**encoder, decoder_input_ids=tokens, use_cache=False).logits[:, -1:]
            tokens = torch.cat([tokens, logits.argmax(-1)], 1)
        for _ in range(2):
            assert prepared.request() > 0
            torch.testing.assert_close(prepared.outputs.last[:, -1:], logits, atol=1e-4, rtol=1e-3)


def _names(tenant: TenantSpec) -> set[str]:
    return set(tenant.model.inputs) or {"input_ids"}


def _model(prepared: Prepared) -> Any:
    return prepared.module


def test_a_static_cache_of_experts_and_sliding_windows_decodes_what_no_cache_does() -> None:
    """The logits of one more token, from a cache of 12: those of a forward pass over 13."""
    for name in ("qwen3_moe_6_layers", "gemma_3_1b"):
        prepared = prepare(family(name, "decode"), CPU, lambda model: model)
        (context,) = prepared.inputs
        whole = torch.cat([context, context[:, -1:]], 1)
        with torch.inference_mode():
            prepared.request()
            wanted = _model(prepared)(input_ids=whole, use_cache=False).logits[:, -1:]
        torch.testing.assert_close(prepared.outputs.last.logits, wanted, atol=1e-4, rtol=1e-3)


def test_an_embedding_is_one_vector_of_length_one_for_each_text() -> None:
    """The pooling is part of the request."""
    for pooling in families.POOLING:
        tenant = family("minilm_l6")
        prepared = prepare(replace(tenant, model=replace(tenant.model, pooling=pooling)), CPU, lambda model: model)
        with torch.inference_mode():
            prepared.request()
        assert prepared.outputs.last.shape == (2, 32)
        torch.testing.assert_close(prepared.outputs.last.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize(
    ("name", "giga_macs"),
    [("vit_base", 17.6), ("clip_vit_b_32", 4.4 + 2.98)],  # published; CLIP: 77 tokens of text and one image
)
def test_flops_are_those_that_are_published(name: str, giga_macs: float) -> None:
    """Counted on the meta device: two a multiplication, of one image."""
    found = describe(family(name, small=False, seq_len=128).model, WorkloadSpec(batch_size=4))
    assert found["cost"]["flops"] / 4 / 2e9 == pytest.approx(giga_macs, rel=0.02)
    assert found["cost"]["weights"] < found["cost"]["numbers"]


@pytest.mark.parametrize(
    ("architecture", "named", "role", "model_class"),
    [
        ("bert", "BertForMaskedLM", "encoder", ""),
        ("qwen3", "Qwen3ForCausalLM", "decoder", ""),
        ("gpt2", "GPT2LMHeadModel", "decoder", ""),
        ("t5", "T5ForConditionalGeneration", "encoder_decoder", ""),
        ("whisper", "WhisperForConditionalGeneration", "encoder_decoder", "AutoModelForSpeechSeq2Seq"),
        ("vit", "ViTForImageClassification", "vision", "ViTForImageClassification"),
        ("clip", "CLIPModel", "vision_language", ""),
        ("dac", "DacModel", "audio", ""),
    ],
)
def test_the_role_follows_from_what_is_published(architecture: str, named: str, role: str, model_class: str) -> None:
    """The class that config.json names decides; a text model without a head that generates is the bare encoder."""
    assert families.role_of(architecture, {"architectures": [named]}) == (role, model_class)


def test_inputs_without_a_size_name_their_key() -> None:
    """A detector whose configuration has no image size, and a model whose prompts hold images."""
    detector = ModelSpec(name="d", role="vision", architecture="rt_detr", model_class="RTDetrForObjectDetection")
    with pytest.raises(families.NoRequest, match=r"inputs\.pixel_values"):
        describe(detector, WorkloadSpec())
    given = describe(replace(detector, inputs={"pixel_values": [3, 256, 256]}), WorkloadSpec(batch_size=2))
    assert given["inputs"] == {"pixel_values": [3, 256, 256]}
    chat = ModelSpec(name="c", role="vision_language", architecture="llava")
    with pytest.raises(families.NoRequest, match="target"):
        describe(chat, WorkloadSpec())


def test_the_same_seed_gives_the_same_inputs() -> None:
    """Images and recordings as well as tokens."""
    tenant = family("clip_vit_b_32")
    model = prepare(tenant, CPU, lambda module: module).module
    first, second, other = (families.inputs_of(model, replace(tenant, seed=seed), CPU) for seed in (1, 1, 2))
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert not torch.equal(value, other[name])


def test_shipped_files_are_all_tried() -> None:
    """A family whose file is added has its requests tried here."""
    plain = {"bert_base", "bert_large", "deberta_v3_base", "deberta_v3_large", "distilgpt2"}
    plain |= {"llama_3_2_1b", "llama_3_2_3b", "mistral_7b"}
    there = {path.stem for path in Path(MODELS).glob("*.yaml") if not path.stem.startswith("stress_")}
    assert there == plain | set(FAMILIES)

"""Weights in int8 and fp8: which layers have them; products are checked against what the weights stand for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from mtexp.tenant import outputs, weights
from mtexp.tenant.quantised import NothingQuantised, dense, is_quantised, parts
from mtexp.tenant.reference import Call, compare
from mtexp.tenant.requests import prepare
from tests.tenant.tenant_specs import tenant

quantization = pytest.importorskip("torchao.quantization")
CPU = torch.device("cpu")


def built(name: str, kind: str = "forward", seed: int = 0) -> Any:
    return prepare(tenant(name, kind, precision="int8", seed=seed), CPU, lambda model: model)


@pytest.mark.parametrize(("name", "kind"), [("bert_base", "forward"), ("llama_3_2_1b", "decode")])
def test_layers_are_in_int8_and_right(name: str, kind: str) -> None:
    """All linear layers but the output embedding; each product is close to that with the weights as they are."""
    prepared = built(name, kind)
    linear = {n for n, m in prepared.module.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    there = {n.removesuffix(".weight") for n, p in prepared.module.named_parameters() if is_quantised(p)}
    assert there == linear
    assert not is_quantised(prepared.module.get_input_embeddings().weight)
    with torch.inference_mode():
        found = outputs.check_layers(prepared.request, "int8")
    assert found["wrong_kinds"] == found["unchecked"] == 0
    assert found["kinds"] >= 4


def test_the_checksum_names_the_quantised_numbers() -> None:
    """Equal for one seed, another one for another seed and for the same weights in bf16."""
    sums = [weights.checksum(built("bert_base", seed=seed).module.parameters()) for seed in (1, 1, 2)]
    plain = prepare(tenant("bert_base", precision="bf16", seed=1), CPU, lambda model: model)
    assert plain.module is not None
    assert sums[0] == sums[1]
    assert len({*sums, weights.checksum(plain.module.parameters())}) == 3


@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"])
def test_a_product_is_compared_with_the_weights_as_they_are_quantised(config: str) -> None:
    """Not with those before: the right output is close, one with a wrong scale is wrong."""
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(64, 48)).to(torch.bfloat16)
    before = layer[0].weight.detach().clone()
    quantization.quantize_(layer, getattr(quantization, config)(set_inductor_config=False))
    weight, given = layer[0].weight, torch.randn(256, 64, dtype=torch.bfloat16)
    assert is_quantised(weight)
    assert all(not is_quantised(part) for part in parts(weight))
    assert 0 < (dense(weight) - before.float()).norm() / before.float().norm() < 0.05
    out = functional.linear(given, weight, layer[0].bias)
    call = Call("linear", (given, weight, layer[0].bias), {})
    right, wrong = compare(call, out), compare(call, out * 1.2)
    assert right is not None
    assert wrong is not None
    assert call.quantised
    assert not right.wrong("int8")
    assert wrong.wrong("int8")
    assert wrong.wrong("fp8")


def test_a_model_without_linear_layers_is_refused() -> None:
    """GPT-2's products are with matrices of another kind of layer."""
    with pytest.raises(NothingQuantised, match="precision=int8: distilgpt2 has no linear layers"):
        built("distilgpt2")

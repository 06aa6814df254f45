"""A product is compared with float32: right ones pass in every precision, one wrong tile does not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tenant_specs import tenant
from torch.nn import functional

from mtexp.tenant import reference
from mtexp.tenant.model_requests import random_tokens
from mtexp.tenant.models import DTYPES, build_model
from mtexp.tenant.reference import Call, Products, compare, exact

CPU = torch.device("cpu")


def calls_of(name: str, precision: str, attention: str = "") -> list[tuple[Call, torch.Tensor]]:
    spec = tenant(name, precision=precision)
    model: Any = build_model(spec, CPU)
    if attention:
        model.set_attn_implementation(attention)
    found: list[tuple[Call, torch.Tensor]] = []
    with torch.inference_mode(), Products(lambda call, out: found.append((call, out))):
        model(input_ids=random_tokens(model, spec, CPU))
    return found


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize(
    ("name", "attention", "kinds"),
    [
        ("bert_base", "sdpa", {"linear", "attention"}),
        ("bert_base", "eager", {"linear", "matmul"}),
        ("deberta_v3_base", "eager", {"linear", "matmul"}),
        ("distilgpt2", "sdpa", {"addmm", "linear", "attention"}),
        ("llama_3_2_1b", "sdpa", {"linear", "attention"}),
        ("mistral_7b", "eager", {"linear", "matmul"}),
    ],
)
def test_products_of_every_kind_of_model_are_found_and_right(
    name: str, attention: str, kinds: set[str], precision: str
) -> None:
    found = calls_of(name, precision, attention)
    assert {call.op for call, _ in found} == kinds
    for call, out in found:
        assert not compare(call, out).wrong(precision), call.name


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.0])
@pytest.mark.parametrize("name", ["bert_base", "deberta_v3_base", "distilgpt2", "llama_3_2_1b"])
def test_one_wrong_tile_is_found_in_every_product(name: str, value: float) -> None:
    for call, out in calls_of(name, "fp16"):
        wrong = out.clone()
        wrong[..., : wrong.shape[-2] // 8 + 1, : wrong.shape[-1] // 4 + 1] = value
        assert compare(call, wrong).wrong("fp16"), call.name


def test_slices_see_the_whole_product(monkeypatch: pytest.MonkeyPatch) -> None:
    left, weight, bias = torch.randn(40, 24), torch.randn(56, 24), torch.randn(56)
    call, out = Call("linear", (left, weight, bias), {}), functional.linear(left, weight, bias)
    monkeypatch.setattr(reference, "SLICE", 100)
    assert compare(call, out, torch.float64).error < 1e-6
    out[3, 55] += 10
    assert compare(call, out, torch.float64).wrong("fp32")


def test_of_very_many_rows_some_of_each_tile_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    left, weight = torch.randn(1024, 8), torch.randn(8, 8)
    call, out = Call("linear", (left, weight), {}), functional.linear(left, weight)
    monkeypatch.setattr(reference, "ROWS", 64)
    out[512:528] = 0
    assert compare(call, out, torch.float64).wrong("fp32")


@pytest.mark.parametrize(("count", "wrong"), [(8, False), (9, True)])
def test_a_few_numbers_that_are_off_are_counted_where_the_norm_does_not_show_them(count: int, wrong: bool) -> None:
    left, weight = torch.randn(2048, 64).sign(), torch.randn(512, 64).sign()
    call, out = Call("linear", (left, weight), {}), functional.linear(left, weight)
    out[: 100 * count : 100, 7] += 10.0  # the root mean square is 8
    found = compare(call, out, torch.float64)
    assert found.error < reference.TOLERANCE["bf16"]
    assert (found.off, found.wrong("bf16")) == (count, wrong)


@pytest.mark.parametrize("masked", ["none", "causal", "bool", "float"])
def test_attention_is_understood(masked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "SLICE", 64)
    query, key, value = torch.randn(2, 4, 10, 8), torch.randn(2, 2, 10, 8), torch.randn(2, 2, 10, 8)
    visible = torch.ones(10, 10, dtype=torch.bool).tril(2)
    options: dict[str, Any] = {
        "none": {},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": visible},
        "float": {"attn_mask": torch.zeros(2, 1, 10, 10).masked_fill(~visible, -1e4)},
    }[masked]
    options |= {"enable_gqa": True, "scale": 0.3}
    call = Call("attention", (query, key, value), options)
    assert compare(call, functional.scaled_dot_product_attention(query, key, value, **options)).error < 1e-5


def test_convolutions_are_understood() -> None:
    image, kernel = torch.randn(3, 4, 9, 9), torch.randn(5, 4, 3, 3)
    found: list[tuple[Call, torch.Tensor]] = []
    with Products(lambda call, out: found.append((call, out))):
        functional.conv2d(image, kernel, torch.randn(5), padding=1)
    (call, out) = found[0]
    assert compare(call, out).error < 1e-5
    assert compare(call, out + 1).wrong("bf16")


def test_an_output_that_the_precision_cannot_hold_is_called_an_overflow() -> None:
    left, weight = torch.full((4, 64), 100.0, dtype=torch.float16), torch.full((4, 64), 100.0, dtype=torch.float16)
    found = compare(Call("linear", (left, weight), {}), functional.linear(left, weight))
    assert found.wrong("fp16")
    assert found.overflow


def test_the_reference_is_float32_whatever_the_tenant_computes_in() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with exact():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_calls_that_run_one_kernel_have_one_key() -> None:
    left = torch.randn(4, 8, dtype=DTYPES["bf16"])
    square = torch.randn(8, 8, dtype=DTYPES["bf16"])
    first, other = Call("linear", (left, square), {}), Call("linear", (left + 1, square), {})
    assert first.key == other.key
    assert first.key != Call("linear", (left, square.t()), {}).key

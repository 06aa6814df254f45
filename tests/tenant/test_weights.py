"""Random weights: the library's distributions, whatever the device's own generator would give."""

from __future__ import annotations

import random

import pytest
import torch
from tenant_specs import tenant

from mtexp.tenant.models import build_model
from mtexp.tenant.weights import POOL, Pool, checksum, filled_from

CPU = torch.device("cpu")


def test_weights_do_not_depend_on_the_generator_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_model(tenant("bert_base"), CPU)
    seed = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda number: seed(number + 1))  # as another SM count would be
    second = build_model(tenant("bert_base"), CPU)
    assert checksum(first.parameters()) == checksum(second.parameters())
    assert checksum(first.parameters()) != checksum(build_model(tenant("bert_base", seed=1), CPU).parameters())


@pytest.mark.parametrize("kind", ["bert_base", "distilgpt2", "llama_3_2_1b", "mistral_7b", "deberta_v3_base"])
def test_weights_have_the_distributions_of_the_library(kind: str) -> None:
    model = build_model(tenant(kind), CPU)
    for name, weight in model.named_parameters():
        values = weight.detach().float()
        if "norm" in name.lower() or ".ln_" in name:
            assert set(values.flatten().tolist()) <= {0.0, 1.0}, name
        elif name.endswith("bias"):
            assert not values.any(), name
        elif values.numel() > 1000:
            assert 0.005 < float(values.std()) < 0.03, name
            assert abs(float(values.mean())) < 0.005, name


def test_seeds_and_tensors_differ() -> None:
    pool, other = Pool(1, CPU), Pool(2, CPU)
    first, second, third = (p.normal_(torch.empty(64, 64)) for p in (pool, pool, other))
    assert checksum([first]) != checksum([second])
    assert checksum([first]) != checksum([third])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_are_those_of_the_pool_scaled_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    """Bit for bit: weights of earlier records and of baselines that are kept are made so."""
    drawn = torch.randn(POOL, generator=torch.Generator().manual_seed(5), dtype=torch.float32)
    place = random.Random(5).randrange(POOL)
    numbers = torch.cat([drawn[place:], drawn])[: POOL + 7]
    filled = Pool(5, CPU).normal_(torch.empty(POOL + 7, dtype=dtype), 0.1, 0.02)
    assert torch.equal(filled, (numbers * 0.02 + 0.1).to(dtype))


def test_a_tensor_larger_than_the_pool_has_no_two_equal_rows() -> None:
    filled = Pool(0, CPU).normal_(torch.empty(2 * POOL // 1000, 1000))
    assert len(torch.unique(filled[:, 0])) > 0.99 * len(filled)
    assert abs(float(filled.std()) - 1) < 1e-3
    assert abs(float(filled.mean())) < 1e-3


def test_a_part_of_a_tensor_can_be_filled() -> None:
    whole = torch.zeros(8, 8)
    with filled_from(Pool(0, CPU)):
        torch.nn.init.normal_(whole[:, 2:4])
        torch.nn.init.uniform_(whole[:, 6:], 1.0, 2.0)
    assert whole[:, 2:4].all()
    assert not whole[:, :2].any()
    assert bool(((whole[:, 6:] >= 1) & (whole[:, 6:] <= 2)).all())


def test_a_checksum_sees_one_changed_bit_wherever_it_is() -> None:
    for count in (1, 7, 8, 1001):
        weight = torch.arange(count, dtype=torch.float16)
        before = checksum([weight, weight[count // 2 :]])
        weight.view(torch.int16)[-1] += 1
        assert checksum([weight, weight[count // 2 :]]) != before


def test_weights_do_not_depend_on_the_default_type() -> None:
    """The library sets it to the model's precision while it builds one."""
    drawn = []
    for dtype in (torch.float32, torch.float16):
        torch.set_default_dtype(dtype)
        try:
            drawn.append(Pool(0, CPU).normal_(torch.empty(5000, dtype=torch.float32)))
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*drawn)


def test_weights_of_two_precisions_are_the_same_but_for_rounding() -> None:
    half, whole = (build_model(tenant("bert_base", precision=precision), CPU) for precision in ("fp16", "fp32"))
    for rounded, weight in zip(half.parameters(), whole.parameters(), strict=True):
        assert torch.equal(rounded, weight.half())

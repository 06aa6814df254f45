"""Weights in memory once: a borrower computes what the keeper computes, from the keeper's memory."""

from __future__ import annotations

import os
import threading
import uuid
from dataclasses import replace
from typing import Any

import pytest
import torch

from mtexp.spec import TenantSpec
from mtexp.tenant import weights
from mtexp.tenant.requests import prepare
from mtexp.tenant.shared_weights import SharedModel, WeightsNotShared
from tests.tenant.tenant_specs import tenant

CPU = torch.device("cpu")


@pytest.fixture
def pair() -> tuple[SharedModel, SharedModel]:
    """A keeper and a borrower; in one process, which the memory does not know."""
    address = f"mtexp-test-{uuid.uuid4().hex}"
    return SharedModel(address, keeper=True), SharedModel(address, keeper=False)


def built(spec: TenantSpec, shared: SharedModel) -> Any:
    return prepare(spec, CPU, lambda model: model, shared.build)


@pytest.mark.parametrize(
    ("name", "kind"), [("bert_base", "forward"), ("distilgpt2", "generate"), ("llama_3_2_1b", "decode")]
)
def test_a_borrower_computes_the_same_from_the_keepers_memory(
    pair: tuple[SharedModel, SharedModel], name: str, kind: str
) -> None:
    """Buffers and tied weights included; what the keeper writes, the borrower reads."""
    spec = tenant(name, kind)
    kept, borrowed = (built(spec, shared) for shared in pair)
    alone = prepare(spec, CPU, lambda model: model)
    outs = []
    with torch.inference_mode():
        for prepared in (alone, kept, borrowed):
            prepared.request()
            outs.append(prepared.outputs.last)
        tensors = [out if isinstance(out, torch.Tensor) else out[0] for out in outs]
        assert torch.equal(tensors[0], tensors[1])
        assert torch.equal(tensors[1], tensors[2])
    modules = [prepared.module for prepared in (alone, kept, borrowed)]
    assert len({weights.checksum(module.parameters()) for module in modules}) == 1
    assert len({sum(p.numel() for p in module.parameters()) for module in modules}) == 1
    with torch.no_grad():
        next(modules[1].parameters()).add_(1)
    assert torch.equal(next(modules[1].parameters()), next(modules[2].parameters()))
    assert pair[0].facts()["weights"] == "kept"
    assert pair[1].facts() == {"weights": "borrowed", "shared_weights_mib": pair[0].facts()["shared_weights_mib"]}


def test_the_borrower_waits_for_the_keeper(pair: tuple[SharedModel, SharedModel]) -> None:
    """It may ask before the keeper has built."""
    found: list[Any] = []
    spec = tenant("bert_base")
    asking = threading.Thread(target=lambda: found.append(built(spec, pair[1])))
    asking.start()
    kept = built(spec, pair[0])
    asking.join(30)
    assert weights.checksum(found[0].module.parameters()) == weights.checksum(kept.module.parameters())


def test_models_that_differ_are_refused(pair: tuple[SharedModel, SharedModel]) -> None:
    """With the first tensor that only one of them has."""
    built(tenant("bert_base"), pair[0])
    with pytest.raises(WeightsNotShared, match=r"is not a tensor of both.*share_weights=false"):
        built(tenant("llama_3_2_1b"), pair[1])


def test_the_memory_is_there_once(pair: tuple[SharedModel, SharedModel]) -> None:
    """Both map the same anonymous file: the kernel counts its pages once."""
    spec = tenant("bert_base")
    spec = replace(spec, model=replace(spec.model, shape={**spec.model.shape, "vocab_size": 30_522}))
    built(spec, pair[0])
    before = _resident_kib()
    borrowed = built(spec, pair[1])
    weights.checksum(borrowed.module.parameters())  # reads all of it
    grown_kib = _resident_kib() - before
    assert pair[1].facts()["shared_weights_mib"] * 1024 > 2_000
    assert grown_kib < 1_000


def _resident_kib() -> int:
    """Anonymous memory of this process and of files that nobody else has, in KiB."""
    with open(f"/proc/{os.getpid()}/status") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

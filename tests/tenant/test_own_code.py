"""Code of the user as a tenant: what its factory gets, what it may return, and that it is checked as any tenant is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mtexp.spec import ModelSpec, TenantSpec, WorkloadSpec
from mtexp.tenant import outputs
from mtexp.tenant.own_code import BadFactory
from mtexp.tenant.requests import prepare

SOURCE = """
import torch

def net(*, device, dtype, batch_size, seq_len, seed, width=8):
    module = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Dropout(0.5))
    return module.to(dtype), torch.randn(batch_size, width, device=device, dtype=dtype)

def unbatched(*, device, dtype, **_):
    return torch.nn.Conv1d(2, 3, 3).to(device, dtype), {"input": torch.randn(2, 16, device=device, dtype=dtype)}

def product(*, device, dtype, **_):
    weight = torch.randn(8, 8, device=device, dtype=dtype)
    return lambda: weight @ weight

def silent(**_):
    return lambda: None

def bare(**_):
    return torch.nn.Linear(2, 2)

def nothing(**_):
    return None

def words(**_):
    return torch.nn.Linear(2, 2), "hello"

def fails(**_):
    raise RuntimeError("my own fault")

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes the request of a factory of the module above."""
    (tmp_path / "own_tenant_module.py").write_text(SOURCE)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def make(factory: str, **params: Any) -> Any:
        target = f"own_tenant_module:{factory}"
        model = ModelSpec(
            name="own", role="custom", architecture=target, target=target, params=params, code_path=str(tmp_path)
        )
        tenant = TenantSpec(id="a", model=model, workload=WorkloadSpec(batch_size=2), precision="fp32")
        return prepare(tenant, torch.device("cpu"), lambda module: module)

    yield make
    sys.modules.pop("own_tenant_module", None)


def test_a_module_with_inputs_is_a_checked_request(own: Any) -> None:
    """Its parameters are known, its layers compared, and it is in evaluation mode: the same output again."""
    prepared = own("net", width=16)
    assert sum(p.numel() for p in prepared.module.parameters()) == 16 * 17
    check = outputs.check_layers(prepared.request, "fp32")
    assert (check["kinds"], check["compared"], check["wrong_kinds"]) == (1, 1, 0)
    with torch.inference_mode():
        prepared.request()
        first = prepared.outputs.last
        prepared.request()
    assert first.shape == (2, 16)
    assert torch.equal(first, prepared.outputs.last)


def test_a_convolution_without_a_batch_does_not_fail_the_check(own: Any) -> None:
    """Inputs by name; a product that cannot be sliced by samples is left out."""
    assert outputs.check_layers(own("unbatched").request, "fp32")["wrong_kinds"] == 0


def test_a_callable_is_checked_if_it_returns_a_tensor(own: Any) -> None:
    """And is a request without a check otherwise."""
    prepared = own("product")
    assert prepared.checked
    assert outputs.check_layers(prepared.request, "fp32")["compared"] == 1
    silent = own("silent")
    assert not silent.checked
    assert silent.request() == 0


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        ("nothing", "returned NoneType. It returns"),
        ("bare", "module without inputs"),
        ("words", "inputs of type str"),
        ("number", "is no function"),
        ("absent", "is no function"),
    ],
)
def test_a_factory_that_gives_no_request_says_what_it_gave(own: Any, factory: str, why: str) -> None:
    """With the target in the message."""
    with pytest.raises(BadFactory, match=f"own_tenant_module:{factory} .*{why}|own_tenant_module:{factory} {why}"):
        own(factory)


def test_what_the_code_raises_is_left_as_it_is(own: Any) -> None:
    """Its own traceback goes to the log."""
    with pytest.raises(RuntimeError, match="my own fault"):
        own("fails")
    with pytest.raises(TypeError, match="height"):
        own("net", height=3)

"""int8 and fp8: refused in the plan where the device, the request or the installation lacks them; counted in memory."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

from mtexp.config import compose_spec
from mtexp.config.memory import tenant_mib
from mtexp.errors import ConfigError
from mtexp.host import Device
from mtexp.profiling.cost_model import device_peaks, request_cost
from mtexp.tracking.ledger import baseline_hash

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 140_000, 132, capability=(9, 0))


@pytest.fixture(autouse=True)
def torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed."""
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.18.0" if name == "torchao" else real(name))


@pytest.mark.parametrize(
    ("overrides", "device", "why"),
    [
        (("precision=fp8",), None, r"precision=fp8: allowed: int8 or others on the CPU"),
        (("precision=fp8",), replace(GPU, name="A100", capability=(8, 0)), r"on A100 \(compute capability 8\.0; fp8"),
        (("precision=int8", "mix.tenants.a.workload=train"), GPU, r"precision=int8: .* with workload=train"),
    ],
)
def test_what_cannot_be_computed_is_refused(overrides: tuple[str, ...], device: Device | None, why: str) -> None:
    """With what the device or the request has instead."""
    with pytest.raises(ConfigError, match=why):
        compose_spec(["mix=pair", *overrides], device)


def test_code_of_the_user_quantises_its_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its factory makes them."""
    (tmp_path / "own.py").write_text("def build(**_):\n    return None\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"precision=int8: .* for code of your own"):
        compose_spec(["mix=target:own:build", "precision=int8"])


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message, before anything starts."""

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match=r"without torchao.*pip install -e '\.\[quantised\]'"):
        compose_spec(["mix=pair", "precision=int8"])


@pytest.mark.parametrize("device", [None, GPU])
def test_int8_is_planned_everywhere(device: Device | None) -> None:
    """And fp8 where the tensor cores have it, or are not known."""
    assert {t.precision for t in compose_spec(["mix=pair", "precision=int8"], device).tenants} == {"int8"}
    for capability in ((9, 0), None):
        known = replace(GPU, capability=capability)
        assert compose_spec(["mix=pair", "precision=fp8"], known).tenants[0].precision == "fp8"


def test_memory_bytes_and_peaks_know_the_precision() -> None:
    """Weights of layers take a byte, the rest two; products with int8 weights run at the rate of bf16."""
    spec = compose_spec(["mix=llama_3_2_1b", "precision=int8", "workload=decode"], GPU)
    (tenant,) = spec.tenants
    half = replace(tenant, precision="bf16")
    in_layers = tenant.model.layer_parameters
    assert tenant_mib(half) - tenant_mib(tenant) == pytest.approx(in_layers / 2**20)
    int8, bf16 = (request_cost(t.model, t.workload, t.precision) for t in (tenant, half))
    assert int8 is not None
    assert bf16 is not None
    assert bf16.bytes - int8.bytes == in_layers
    assert int8.flops == bf16.flops
    peaks = device_peaks("NVIDIA H200")
    assert peaks is not None
    assert peaks.flops["int8"] == peaks.flops["bf16"] < peaks.flops["fp8"]


def test_a_baseline_is_of_one_version_of_torchao() -> None:
    """Its kernels change; those of other precisions do not depend on it."""
    spec = compose_spec(["mix=bert_base", "precision=int8"], GPU)
    plain = compose_spec(["mix=bert_base", "precision=bf16"], GPU)
    hosts = [{"packages": {"torchao": version}} for version in ("0.18.0", "0.18.1")]
    assert len({baseline_hash(spec.tenants[0], spec, host) for host in hosts}) == 2
    assert len({baseline_hash(plain.tenants[0], plain, host) for host in hosts}) == 1

"""Tenants small enough to be built in milliseconds: the models of ``conf/models``, shrunk as on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mtexp.config.shapes import known_counts, shrink
from mtexp.spec import ModelSpec, TenantSpec, WorkloadSpec

MODELS = Path(__file__).resolve().parents[2] / "conf" / "models"
STRESSORS = ("sm", "dram", "l2", "pcie", "launch")


def model(name: str, **shape: Any) -> ModelSpec:
    """The shrunk model of that name, with these fields of its shape changed."""
    data = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
    stressor = data["role"] == "stressor"
    shape = {**(data["shape"] if stressor else shrink(data["shape"])), **shape}
    counts = None if stressor else known_counts(data["architecture"], shape)
    return ModelSpec(
        name=name,
        role=data["role"],
        architecture=data["architecture"],
        shape=shape,
        layer_parameters=counts.layer_parameters if counts else 0,
        attn_implementation=data.get("attention", ["sdpa"])[0],
    )


def tenant(name: str, kind: str = "forward", *, seed: int = 0, precision: str = "fp32", **sizes: Any) -> TenantSpec:
    """A tenant of a shrunk model: 2 sequences of 12 tokens, 4 new ones."""
    spec = WorkloadSpec(kind=kind, batch_size=2, seq_len=12, new_tokens=4)
    return TenantSpec(id="a", model=model(name), workload=replace(spec, **sizes), precision=precision, seed=seed)


def stressor(kind: str) -> TenantSpec:
    """A stressor that moves next to nothing."""
    small = {"mib": 0.01, "size": 8, "repeats": 3}
    spec = model(f"stress_{kind}")
    return TenantSpec(id="a", model=replace(spec, shape={k: small[k] for k in spec.shape}), precision="fp32")

"""Green contexts: how many SMs each tenant gets, and what proves that it had them."""

from __future__ import annotations

from typing import Any

import pytest

from mtexp.config import compose_spec
from mtexp.errors import ConfigError
from mtexp.host import Device
from mtexp.running.baselines import baseline_spec
from mtexp.sharing import proof
from mtexp.sharing.partitions import partition_sizes
from mtexp.spec import ModelSpec, TenantSpec
from mtexp.tracking.ledger import baseline_hash

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)


def tenants(*asked: tuple[int, float]) -> list[TenantSpec]:
    model = ModelSpec(name="m", role="encoder", architecture="bert", shape={})
    return [TenantSpec(id=f"t{i}", model=model, sm_count=count, sm_pct=pct) for i, (count, pct) in enumerate(asked)]


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ([(0, 50.0)] * 2, [64, 64]),
        ([(0, 33.33)] * 3, [40, 40, 40]),
        ([(0, 6.25)] * 16, [8] * 16),
        ([(96, 0.0), (32, 0.0)], [96, 32]),
        ([(0, 75.0), (0, 25.0)], [96, 32]),
        ([(0, 100.0)], [128]),
        ([(0, 1.0)], [8]),
    ],
)
def test_shares_are_rounded_down_to_what_the_gpu_can_part(asked: list[tuple[int, float]], sizes: list[int]) -> None:
    assert list(partition_sizes(tenants(*asked), 132).values()) == sizes


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        ([(0, 5.88)] * 17, "136 SMs"),
        ([(96, 0.0), (48, 0.0)], "96 [+] 48 = 144 SMs"),
        ([(12, 0.0)], "Use 8 or 16"),
        ([(132, 0.0)], "128"),
    ],
)
def test_partitions_that_the_gpu_cannot_make_are_refused(asked: list[tuple[int, float]], value: str) -> None:
    with pytest.raises(ConfigError, match=value):
        partition_sizes(tenants(*asked), 132)


def codes(facts: dict[str, dict[str, Any]], sizes: dict[str, int]) -> set[str]:
    notes = proof.Notes()
    for tenant, size in sizes.items():
        proof.check_partition(notes, tenant, facts[tenant], size)
    proof.check_disjoint_partitions(notes, facts)
    return {finding.code for finding in notes.findings()}


def partition(ids: range, count: int | None = None) -> dict[str, Any]:
    return {"partition_sm_count": len(ids) if count is None else count, "partition_sm_ids": list(ids)}


def test_disjoint_partitions_of_the_size_asked_for_are_proven() -> None:
    assert codes({"a": partition(range(64)), "b": partition(range(64, 128))}, {"a": 64, "b": 64}) == set()


@pytest.mark.parametrize(
    ("b", "code"),
    [
        (partition(range(32, 96)), "partitions-overlap"),
        (partition(range(64, 96)), "partition-size"),
        (partition(range(64, 96), 64), "partition-size"),
        ({}, "partition-size"),
    ],
)
def test_overlapping_and_wrong_partitions_are_found(b: dict[str, Any], code: str) -> None:
    assert codes({"a": partition(range(64)), "b": b}, {"a": 64, "b": 64}) == {code}


def test_the_plan_knows_the_partitions_and_a_baseline_has_the_whole_device() -> None:
    spec = compose_spec(
        ["mix=pair", "sharing=green_contexts", "mix.tenants.a.sm_pct=75", "mix.tenants.b.sm_count=32"], GPU
    )
    assert [tenant.sm_count for tenant in spec.tenants] == [96, 32]
    whole, own = (baseline_spec(spec.tenants[0], spec, partitioned=partitioned) for partitioned in (False, True))
    assert (whole.sharing.mode, whole.tenants[0].sm_count) == ("processes", 0)
    assert (own.sharing.mode, own.tenants[0].sm_count) == ("green_contexts", 96)
    assert baseline_hash(whole.tenants[0], whole, {}) != baseline_hash(own.tenants[0], own, {})

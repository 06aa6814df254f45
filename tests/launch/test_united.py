"""Which runs one set of tenant processes can serve, and what such a set has in it."""

from __future__ import annotations

from dataclasses import replace

from mtexp.config import compose_spec
from mtexp.spec import RunSpec
from mtexp.united import by_set, unite


def specs(*mixes: str, mode: str = "disabled") -> list[RunSpec]:
    return [compose_spec([f"mix={mix}", "runtime=cpu", f"mps_settings={mode}"]) for mix in mixes]


def test_a_tenant_that_mixes_have_in_common_is_there_once() -> None:
    """At whatever place of a mix it is: weights and inputs are the same."""
    united = unite(specs("bert_base*2", "bert_base+distilgpt2", "distilgpt2+bert_base"))
    assert [tenant.model.name for tenant in united.spec.tenants] == ["bert_base", "bert_base", "distilgpt2"]
    assert united.slots == ((0, 1), (0, 2), (2, 0))
    assert len({tenant.id for tenant in united.spec.tenants}) == 3


def test_alike_tenants_of_one_mix_stay_two() -> None:
    """They are active at the same time."""
    (spec,) = specs("bert_base*2")
    same = replace(spec, tenants=tuple(replace(tenant, seed=0) for tenant in spec.tenants))
    united = unite([same, *specs("bert_base+distilgpt2")])
    assert united.slots[0] == (0, 1)


def test_a_tenant_has_time_and_room_for_the_requests_of_each_of_its_mixes() -> None:
    """Its samples of all mixes are in one buffer: were it full, the mixes would end early."""
    runs = specs("bert_base*2", "bert_base+distilgpt2", "distilgpt2*2")
    united = unite(runs).spec
    assert united.measure.max_iterations == 2 * runs[0].measure.max_iterations
    assert united.deadlines.measure_s == 3 * runs[0].deadlines.measure_s


def test_one_mix_stays_as_it_is() -> None:
    """Names, deadlines and all."""
    (spec,) = specs("bert_base*2")
    assert unite([spec]).spec is spec


def test_a_mode_written_twice_is_two_sets() -> None:
    """An A/A check compares processes of its own."""
    runs = specs("bert_base*2", "bert_base+distilgpt2", "bert_base*2", "bert_base+distilgpt2")
    assert by_set(runs) == [[0, 1], [2, 3]]
    assert by_set([*runs[:2], *specs("bert_base*2", mode="default")]) == [[0, 1], [2]]

"""Which design a command line comes to, and what does not go with crossover."""

from __future__ import annotations

import pytest

from mtexp.config import plan as planning
from mtexp.config.hardware import hardware_of
from mtexp.config.plan import Plan, plan
from mtexp.config.problems import Refused
from mtexp.spec import MeasureSpec, RunSpec, spec_hash, to_json


def planned(*overrides: str, mix: str = "mix=pair") -> Plan:
    return plan([mix, *overrides], hardware=lambda: hardware_of(None))


def spec(*overrides: str, mix: str = "mix=pair") -> RunSpec:
    (point,) = planned(*overrides, mix=mix).points
    return point.spec


def measure(*overrides: str, mix: str = "mix=pair") -> MeasureSpec:
    return spec(*overrides, mix=mix).measure


def test_a_mix_in_closed_loop_takes_turns_by_default() -> None:
    """Stressors too, and threads of one process; the design is not explained, for it is what is to be expected."""
    for mix, overrides in (("pair", ()), ("bert_base+stress_sm", ()), ("pair", ("sharing=streams",))):
        point = planned(*overrides, mix=f"mix={mix}")
        assert point.points[0].spec.measure.design == "crossover"
        assert not point.notes


@pytest.mark.parametrize(
    ("overrides", "because"),
    [
        (("mix=solo",), ""),
        (("mix=pair", "arrival=poisson", "arrival.rate=5"), ""),
        (("mix=pair", "measure.design=sustained", "measure.until_ci_pct=2"), ""),
        (("mix=pair", "measure.overlap=fixed"), "measure.overlap=fixed"),
        (("mix=pair", "measure.until_ci_pct=2"), "measure.until_ci_pct=2"),
        (("mix=pair", "baseline.recheck=true"), "baseline.recheck=true"),
        (("mix=pair", "baseline.partitioned=true"), "baseline.partitioned=true"),
        (("mix=pair", "mps_settings=half"), "mps_settings=half"),
        (("mix=pair", "mps_settings=equal_share"), "mps_settings=equal_share"),
    ],
)
def test_what_cannot_take_turns_is_sustained_and_a_mix_says_why(overrides: tuple[str, ...], because: str) -> None:
    """A lone tenant, open loop, and what asks for another protocol; only the last needs a word."""
    mix, *more = overrides
    made = planned(*more, mix=mix)
    assert made.points[0].spec.measure.design == "sustained"
    assert len(made.notes) == bool(because)
    assert not because or because in made.notes[0]


def test_a_limited_share_takes_turns_only_where_it_was_asked_for() -> None:
    """The alone blocks have the same share: the slowdown is then that of the neighbours, not that of the limit."""
    assert measure("mps_settings=half", "measure.design=crossover").design == "crossover"
    assert measure("mps_settings=default").design == "crossover"


def test_a_capacity_search_is_sustained() -> None:
    """Its arrivals are open loop."""
    (point,) = planned("+experiment=capacity", "mix.tenants.a.slo_ms=20").points
    assert point.spec.measure.design == "sustained"


def test_a_sustained_run_has_the_name_it_had_before_there_were_designs() -> None:
    """Else ``resume=true`` would measure old sweeps anew; bounds of rounds are part of a crossover run only."""
    sustained = spec("measure.design=sustained")
    data = to_json(sustained)
    for key in ("design", "block_ms", "target_pct", "max_time_s"):
        assert key in data["measure"]
    assert spec_hash(sustained) == spec_hash(spec("measure.design=sustained", "measure.target_pct=9"))
    assert spec_hash(sustained) != spec_hash(spec())
    assert spec_hash(spec()) != spec_hash(spec("measure.target_pct=9"))


def test_more_tenants_than_cores_are_said_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contention for cores would look like interference; a design that draws cores cannot take it out."""
    monkeypatch.setattr(planning, "_cores", lambda launcher: 3)
    assert not planned().warnings
    (warning,) = planned(mix="mix=bert_base*4").warnings
    assert "bert_base*4" in warning
    assert "3 CPU cores" in warning
    assert not planned("measure.design=sustained", mix="mix=bert_base*4").warnings


def test_crossover_on_request() -> None:
    """With its bounds as they were given, or as they are by default."""
    rule = measure("measure.design=crossover", "measure.target_pct=5")
    assert (rule.design, rule.block_ms, rule.target_pct) == ("crossover", 0.0, 5.0)
    assert measure("measure.design=crossover", "measure.block_ms=80").block_ms == 80.0
    assert measure("measure.design=sustained").design == "sustained"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("arrival=poisson", "arrival.rate=5"), "arrival"),
        (("measure.overlap=fixed",), "measure.overlap"),
        (("measure.until_ci_pct=2",), "measure.until_ci_pct"),
        (("baseline.recheck=true",), "baseline.recheck"),
        (("baseline.partitioned=true",), "baseline.partitioned"),
        (("measure.target_pct=0",), "measure.target_pct"),
        (("measure.max_time_s=0",), "measure.max_time_s"),
        (("measure.block_ms=-1",), "measure.block_ms"),
    ],
)
def test_what_does_not_go_with_crossover_is_refused_before_the_start(overrides: tuple[str, ...], key: str) -> None:
    """Each names its key, and the way out."""
    with pytest.raises(Refused) as refused:
        measure("measure.design=crossover", *overrides)
    assert str(refused.value).startswith(f"refused: {key}=")


def test_one_tenant_has_nothing_to_take_turns_with() -> None:
    """A mix of one is measured as a baseline is."""
    with pytest.raises(Refused, match="two tenants or more"):
        measure("measure.design=crossover", mix="mix=solo")

"""Which design a command line comes to, and what does not go with crossover."""

from __future__ import annotations

import pytest

from mtexp.config.hardware import hardware_of
from mtexp.config.plan import plan
from mtexp.config.problems import Refused
from mtexp.spec import MeasureSpec


def measure(*overrides: str, mix: str = "mix=pair") -> MeasureSpec:
    (point,) = plan([mix, *overrides], hardware=lambda: hardware_of(None)).points
    return point.spec.measure


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

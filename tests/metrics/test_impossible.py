"""Figures that cannot be are found, and what noise alone makes of figures at their limit is not taken for one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtexp.metrics.impossible import Compared, impossible


def tenant(name: str, slowdown: float, *, sd: float = 0.05, baseline: str = "h", least: float = 1.0) -> Compared:
    return Compared(
        id=name,
        baseline=baseline,
        baseline_ms=10.0,
        slowdown=slowdown,
        slowdown_high=1.03 * slowdown,
        progress=1 / slowdown,
        runs_sd=sd,
        least=least,
    )


def codes(tenants: list[Compared], stp: float | None = None) -> list[tuple[str, str]]:
    total = sum(one.progress for one in tenants) if stp is None else stp
    return [(found.code, found.tenant) for found in impossible(tenants, total, 0.97 * total)]


def test_half_the_time_of_a_tenant_alone_cannot_be() -> None:
    """The tenant is named; STP of two is surely above 2 as well, which is of the run."""
    assert codes([tenant("a", 0.5), tenant("b", 0.5)]) == [("impossible", n) for n in ("a", "b", "")]
    assert codes([tenant("a", 0.7, baseline="h1"), tenant("b", 3.0, baseline="h2")]) == [("impossible", "a")]


@pytest.mark.parametrize("slowdown", [0.96, 1.0, 2.0])
def test_what_lies_within_five_percent_can_be(slowdown: float) -> None:
    """However well the runs repeat."""
    assert codes([tenant("a", slowdown, sd=0.0), tenant("b", slowdown, sd=0.0)]) == []


def test_noise_between_runs_is_allowed_for() -> None:
    """The same slowdown is impossible of a model that repeats to 2 %, and not of one that differs by 20 %."""
    assert codes([tenant("a", 0.85, sd=0.02)]) == [("impossible", "a"), ("impossible", "")]
    assert codes([tenant("a", 0.85, sd=0.2)]) == []


def test_a_higher_clock_than_the_baselines_explains_its_part() -> None:
    """Eight tenths of the time at a clock higher by a quarter is no wonder."""
    assert codes([tenant("a", 0.8, sd=0.02)])
    assert codes([tenant("a", 0.8, sd=0.02, least=0.8)]) == []


def test_without_an_interval_nothing_is_sure() -> None:
    """One request on a side says too little."""
    one = tenant("a", 0.2)
    unknown = Compared(**{name: getattr(one, name) for name in one.__slots__} | {"slowdown_high": math.inf})
    assert impossible([unknown], math.nan, 0.0) == ()


@pytest.mark.parametrize("tenants", [1, 2, 8])
@pytest.mark.parametrize("shared", [True, False])
def test_noise_alone_is_seldom_called_impossible(tenants: int, shared: bool) -> None:
    """No interference at all, runs that differ by 15 %: at most 2.5 % of runs; a baseline twice too slow is found."""
    rng, runs, sd = np.random.default_rng(tenants), 2000, 0.15
    alarms = found = 0
    for _ in range(runs):
        alone = np.full(tenants, rng.normal(0, sd)) if shared else rng.normal(0, sd, tenants)
        logs = rng.normal(0, sd, tenants) - alone
        names = ["h" if shared else f"h{i}" for i in range(tenants)]
        for slower in (0.0, math.log(2)):
            own = [tenant(f"t{i}", math.exp(logs[i] - slower), sd=sd, baseline=names[i]) for i in range(tenants)]
            stp = sum(one.progress for one in own)
            any_found = bool(impossible(own, stp, 0.97 * stp))
            alarms += any_found and slower == 0
            found += any_found and slower > 0
    assert alarms / runs <= 0.03
    assert found / runs >= 0.75

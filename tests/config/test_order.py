"""The order in which points of a sweep run: drawn from the seed, pass by pass, the same everywhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mtexp.config.hardware import hardware_of
from mtexp.config.order import random_order
from mtexp.config.plan import Plan, plan
from mtexp.spec import RunSpec

SWEEP = ("-m", "mix=solo,pair", "workload.batch_size=1,2,3,4", "runtime=gpu")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned(*argv: str) -> Plan:
    from mtexp.host import Device

    gpu = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)
    return plan([*SWEEP, *argv], hardware=lambda: hardware_of(gpu))


def point_of(spec: RunSpec) -> tuple[str, int]:
    return spec.mix, spec.tenants[0].workload.batch_size


def test_every_point_runs_once_in_an_order_of_the_seed() -> None:
    """Not as written; the same for the same seed, another for another."""
    first, again, other = planned("seed=1"), planned("seed=1"), planned("seed=2")
    assert sorted(first.order) == list(range(8))
    assert first.order == again.order != other.order
    assert first.order != tuple(range(8))
    assert "hydra/sweeper=random_order" in first.argv


@pytest.mark.parametrize("asked", ["sweep_order=written", "sweep.order=written", "hydra/sweeper=basic"])
def test_the_order_written_is_kept_on_request(asked: str) -> None:
    """With either spelling of mtexp's key, and with Hydra's own sweeper."""
    made = planned(asked)
    assert not made.order
    assert "hydra/sweeper=random_order" not in made.argv


def test_repetitions_are_passes_over_all_points() -> None:
    """No point is repeated before all have run; each pass has an order of its own."""
    made = planned("repetitions=3")
    passes = [[made.points[i].spec for i in made.order[start : start + 8]] for start in (0, 8, 16)]
    for number, specs in enumerate(passes):
        assert {spec.repetition for spec in specs} == {number}
        assert len({point_of(spec) for spec in specs}) == 8
    orders = {tuple(map(point_of, specs)) for specs in passes}
    assert len(orders) == 3


def test_every_place_is_as_likely_for_every_point() -> None:
    """Over seeds: no point is favoured by where it is written."""
    points = [[f"mix={name}"] for name in "abcd"]
    firsts = Counter(random_order(points, seed)[0] for seed in range(2000))
    assert all(abs(firsts[i] - 500) < 100 for i in range(4))

"""What is settled when processes start is in the interval of one run: slowdowns of short CUDA graphs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtexp.config import compose_spec
from mtexp.host import Device
from mtexp.metrics.crossover import CrossoverFigures, Rounds, compare
from mtexp.metrics.fresh_processes import SD, TURN_MS, concerned, unseen
from mtexp.metrics.samples import Floats
from mtexp.metrics.side_by_side import Side, mode_ratios

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)
RESULTS = Path(__file__).parents[2] / "docs" / "results"
ALONE_MS = {"bert_base": 0.85, "llama_3_2_1b": 6.3}
RUNS = 300
SLOWDOWNS = np.array([3.45, 1.6])
T_6 = 2.447
"""97.5 % quantile of t with 6 degrees of freedom: of the mean of seven sessions."""
LOST = SD * np.array([[1.0, -1.0]])
"""What a state of the processes does to both log slowdowns by time slicing."""


@pytest.mark.parametrize(
    ("overrides", "alone_ms", "expected"),
    [
        (["execution=cuda_graph"], ALONE_MS, ["bert_base", "llama_3_2_1b"]),
        (["execution=cuda_graph", "mps_settings=default"], ALONE_MS, ["bert_base"]),
        (["execution=cuda_graph"], {"bert_base": 2.3, "llama_3_2_1b": 6.3}, []),
        (["execution=cuda_graph"], {}, []),
        (["execution=cuda_graph", "sharing=streams"], ALONE_MS, []),
        (["execution=cuda_graph", "mix=bert_base"], ALONE_MS, []),
        (["execution=eager"], ALONE_MS, []),
    ],
)
def test_whose_slowdown_differs_between_processes(
    overrides: list[str], alone_ms: dict[str, float], expected: list[str]
) -> None:
    """A graph shorter than a turn of a time slice; by time slicing its neighbours, which gain what it loses."""
    spec = compose_spec(["mix=bert_base+llama_3_2_1b", *overrides], GPU)
    assert concerned(spec, alone_ms) == expected
    found = unseen(spec, alone_ms, list(ALONE_MS))
    assert (found is None) == (not expected)
    if found is not None:
        assert np.linalg.norm(found, axis=0) == pytest.approx([SD * (name in expected) for name in ALONE_MS])
        assert found.sum(axis=1) == pytest.approx([0, 0] if len(expected) == 2 else [SD, 0])


def rounds(rng: np.random.Generator, slowdowns: np.ndarray) -> Rounds:
    """15 rounds of two tenants in one set of processes."""
    (state,) = rng.normal(size=(1, 1)) @ LOST
    values = np.log(slowdowns) + state + rng.normal(0, 0.04, (15, 2))
    return Rounds(("bert", "llama"), np.ones_like(values), np.exp(values), np.arange(15))


def held(draw: Callable[[], CrossoverFigures]) -> dict[str, float]:
    """Share of runs whose 95 % intervals hold the truth."""
    progress = 1 / SLOWDOWNS
    truth = {"bert": SLOWDOWNS[0], "llama": SLOWDOWNS[1], "stp": progress.sum(), "antt": SLOWDOWNS.mean()}
    truth |= {"fairness": progress.min() / progress.max()}
    truth |= {"jain_fairness": progress.sum() ** 2 / (2 * (progress**2).sum())}
    hits = dict.fromkeys(truth, 0)
    for _ in range(RUNS):
        found = draw()
        figures = found.run | found.slowdown
        for key, value in truth.items():
            hits[key] += figures[key].low <= value <= figures[key].high
    return {key: count / RUNS for key, count in hits.items()}


def test_intervals_hold_the_figures_of_fresh_processes() -> None:
    """All of them do, with the states of sets of processes; by the rounds alone slowdowns and fairness do not."""
    rng = np.random.default_rng(1)
    states = np.array([[1.0, -1.0], [-1.0, 1.0]]) * SD / math.sqrt(2)
    found = held(lambda: compare(rounds(rng, SLOWDOWNS), unseen=states))
    assert min(found.values()) >= 0.92, found
    by_rounds = held(lambda: compare(rounds(rng, SLOWDOWNS)))
    assert max(by_rounds[key] for key in ("bert", "llama", "fairness")) < 0.8, by_rounds


def test_equal_tenants_are_not_called_unfair() -> None:
    """Three equal short graphs, each in a state of its own."""
    rng = np.random.default_rng(2)
    reached = 0
    for _ in range(RUNS):
        values = 1.0 + rng.normal(0, SD, 3) + rng.normal(0, 0.01, (12, 3))
        of_a_run = Rounds(("a", "b", "c"), np.ones_like(values), np.exp(values), np.arange(12))
        found = compare(of_a_run, unseen=SD * np.eye(3))
        reached += found.run["fairness"].high >= 1 and found.run["jain_fairness"].high >= 1
    assert reached / RUNS >= 0.93


def test_more_rounds_are_not_asked_for_what_they_cannot_show() -> None:
    """The width that the stopping rule knows is that of the rounds."""
    of_a_run = rounds(np.random.default_rng(3), SLOWDOWNS)
    with_it, without = compare(of_a_run, unseen=LOST), compare(of_a_run)
    assert with_it.half_width_pct == without.half_width_pct
    assert with_it.slowdown["bert"].half_width_pct > math.hypot(without.slowdown["bert"].half_width_pct, 190 * SD)
    moved = 100 * 1.96 * SD * abs(np.diff(1 / SLOWDOWNS)).item() / (1 / SLOWDOWNS).sum()
    of_stp = math.hypot(without.run["stp"].half_width_pct, moved)
    assert with_it.run["stp"].half_width_pct == pytest.approx(of_stp, rel=0.05)


def test_one_mode_twice_is_seldom_called_different() -> None:
    """A/A: two sets of processes differ in their latency together by more than the rounds say, and not alone."""
    rng = np.random.default_rng(4)
    different = {"latency_ratio": 0, "stp_ratio": 0, "by rounds": 0}
    for _ in range(RUNS):
        own, other = rounds(rng, SLOWDOWNS), rounds(rng, SLOWDOWNS)
        by_rounds = mode_ratios(Side(own, own), Side(other, other), whole=True).tenants["bert"]["latency_ratio"]
        found = mode_ratios(Side(own, own, LOST), Side(other, other, LOST), whole=True)
        ratios = {"latency_ratio": found.tenants["bert"]["latency_ratio"], "stp_ratio": found.run["stp_ratio"]}
        for name, ratio in (ratios | {"by rounds": by_rounds}).items():
            different[name] += not ratio.low <= 1 <= ratio.high
        assert found.tenants["bert"]["mode_cost"].half_width_pct == pytest.approx(0)
    assert max(different["latency_ratio"], different["stp_ratio"]) / RUNS <= 0.075
    assert different["by rounds"] / RUNS > 0.2


def sessions(name: str) -> Iterator[tuple[str, list[dict[str, float]], Floats, Floats]]:
    """BERT-base + Llama-3.2-1B in each mode: the mode, and of eight sessions the slowdowns, the logarithm of a figure
    and its half width by the rounds."""
    found: dict[tuple[str, bool], list[tuple[dict[str, float], list[float]]]] = {}
    for line in (RESULTS / "designs" / "sessions_graphs_h200.jsonl").read_text().splitlines():
        run = json.loads(line)
        if run["mix"] == "bert_base+llama_3_2_1b":
            slowdowns = {tenant: metrics["slowdown"][0] for tenant, metrics in run["tenants"].items()}
            interval = run["stp"] if name == "stp" else run["tenants"][name]["slowdown"]
            found.setdefault((run["mode"], run["reference"]), []).append((slowdowns, interval))
    for (mode, _), runs in found.items():
        values, lows, highs = np.log([interval for _, interval in runs]).T
        yield mode, [slowdowns for slowdowns, _ in runs], values, (highs - lows) / 2


@pytest.mark.parametrize(
    ("name", "by_rounds", "in_all"), [("bert_base", 16, 22), ("llama_3_2_1b", 20, 24), ("stp", 21, 23)]
)
def test_one_run_speaks_for_fresh_ones_on_an_h200(name: str, by_rounds: int, in_all: int) -> None:
    """Eight sessions, three modes: how often an interval holds the mean of the other sessions."""
    hits = {"rounds": 0, "all": 0}
    for mode, slowdowns, values, half in sessions(name):
        settings = "default" if mode == "MPS" else "disabled"
        spec = compose_spec(["mix=bert_base+llama_3_2_1b", "execution=cuda_graph", f"mps_settings={settings}"], GPU)
        states = unseen(spec, ALONE_MS, list(ALONE_MS))
        assert states is not None
        for i, value in enumerate(values):
            progress = np.array([1 / slowdowns[i][tenant] for tenant in ALONE_MS])
            weights = progress / progress.sum() if name == "stp" else np.array([t == name for t in ALONE_MS])
            others = np.delete(values, i)
            of_others = T_6 * others.std(ddof=1) / math.sqrt(others.size)
            own = math.hypot(half[i], 1.96 * float(np.linalg.norm(states @ weights)))
            for way, reach in (("rounds", half[i]), ("all", own)):
                hits[way] += abs(value - others.mean()) <= math.hypot(reach, of_others)
    assert hits == {"rounds": by_rounds, "all": in_all}


def test_other_pairs_agree_between_hosts() -> None:
    """Pairs with a short graph by time slicing, measured on two or three hosts: how often two slowdowns agree within
    the root of the sum of their squared half widths. The standard deviation was chosen without them."""
    runs = [
        pd.read_parquet(RESULTS / study / "records" / "tenants.parquet")
        for study in ("pairs/graphs", "partitions/axis")
    ]
    rows = pd.concat(runs)
    rows = rows[(rows["verdict"] == "VALID") & (rows["sharing"] == "processes") & (rows["mps_settings"] == "disabled")]
    rows = rows[
        (rows["design"] == "crossover")
        & (rows["execution"] == "cuda_graph")
        & (rows["mix"] != "bert_base+llama_3_2_1b")
    ]
    shortest_ms = rows.groupby(["mix", "session"])["alone_latency_mean_ms"].transform("min")
    hits = {0.0: 0, SD: 0}
    count = 0
    for _, same in rows[shortest_ms < TURN_MS].groupby(["mix", "tenant"]):
        logs, half = np.log(same["slowdown"]), np.log(same["slowdown_ci_high"] / same["slowdown_ci_low"]) / 2
        for (a, half_a), (b, half_b) in combinations(zip(logs, half, strict=True), 2):
            count += 1
            for sd in hits:
                hits[sd] += abs(a - b) <= math.hypot(half_a, half_b, 1.96 * sd, 1.96 * sd)
    assert (count, hits) == (42, {0.0: 30, SD: 41})

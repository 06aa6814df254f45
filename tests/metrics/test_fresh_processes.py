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
from mtexp.metrics.fresh_processes import SD, TURN_MS, unseen_sd
from mtexp.metrics.side_by_side import Side, mode_ratios

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)
RESULTS = Path(__file__).parents[2] / "docs" / "results"
ALONE_MS = {"bert_base": 0.85, "llama_3_2_1b": 6.3}
RUNS = 300
SLOWDOWNS = np.array([3.45, 1.6])
T_6 = 2.447
"""97.5 % quantile of t with 6 degrees of freedom: of the mean of seven sessions."""
LOST = np.array([1.0, -SLOWDOWNS[1] / SLOWDOWNS[0]])
"""What a state of the processes does to both log slowdowns: STP stays."""


@pytest.mark.parametrize(
    ("overrides", "alone_ms", "concerned"),
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
    overrides: list[str], alone_ms: dict[str, float], concerned: list[str]
) -> None:
    """A graph shorter than a turn of a time slice; by time slicing its neighbours, which gain what it loses."""
    spec = compose_spec(["mix=bert_base+llama_3_2_1b", *overrides], GPU)
    assert unseen_sd(spec, alone_ms) == dict.fromkeys(concerned, SD)


def rounds(rng: np.random.Generator, slowdowns: np.ndarray) -> Rounds:
    """15 rounds of two tenants in one set of processes."""
    state = rng.normal(0, SD) * LOST
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
    """All of them do, with the standard deviation between sets of processes; by the rounds alone only STP does."""
    rng = np.random.default_rng(1)
    found = held(lambda: compare(rounds(rng, SLOWDOWNS), unseen=SD))
    assert min(found.values()) >= 0.92, found
    by_rounds = held(lambda: compare(rounds(rng, SLOWDOWNS)))
    assert by_rounds.pop("stp") >= 0.92
    assert max(by_rounds[key] for key in ("bert", "antt", "fairness")) < 0.85, by_rounds


def test_equal_tenants_are_not_called_unfair() -> None:
    """Three equal short graphs, each in a state of its own."""
    rng = np.random.default_rng(2)
    reached = 0
    for _ in range(RUNS):
        values = 1.0 + rng.normal(0, SD, 3) + rng.normal(0, 0.01, (12, 3))
        found = compare(Rounds(("a", "b", "c"), np.ones_like(values), np.exp(values), np.arange(12)), unseen=SD)
        reached += found.run["fairness"].high >= 1 and found.run["jain_fairness"].high >= 1
    assert reached / RUNS >= 0.93


def test_more_rounds_are_not_asked_for_what_they_cannot_show() -> None:
    """The width that the stopping rule knows is that of the rounds."""
    of_a_run = rounds(np.random.default_rng(3), SLOWDOWNS)
    with_it, without = compare(of_a_run, unseen=SD), compare(of_a_run)
    assert with_it.half_width_pct == without.half_width_pct
    assert with_it.slowdown["bert"].half_width_pct > math.hypot(without.slowdown["bert"].half_width_pct, 190 * SD)
    assert with_it.run["stp"] == without.run["stp"]


def test_one_mode_twice_is_seldom_called_different() -> None:
    """A/A: two sets of processes differ in their latency together by more than the rounds say, and not alone."""
    rng = np.random.default_rng(4)
    different = {sd: 0 for sd in (0.0, SD)}
    for _ in range(RUNS):
        own, other = rounds(rng, SLOWDOWNS), rounds(rng, SLOWDOWNS)
        for sd in different:
            found = mode_ratios(Side(own, own, sd), Side(other, other, sd), whole=True).tenants["bert"]
            different[sd] += not found["latency_ratio"].low <= 1 <= found["latency_ratio"].high
            assert found["mode_cost"].half_width_pct == pytest.approx(0)
    assert different[SD] / RUNS <= 0.07
    assert different[0.0] / RUNS > 0.2


def sessions() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Of each tenant of BERT-base + Llama-3.2-1B in each mode: its name, and in eight sessions (log slowdown, half
    width of its logarithm by the rounds)."""
    found: dict[tuple[str, bool, str], list[list[float]]] = {}
    for line in (RESULTS / "designs" / "sessions_graphs_h200.jsonl").read_text().splitlines():
        run = json.loads(line)
        if run["mix"] == "bert_base+llama_3_2_1b":
            for tenant, metrics in run["tenants"].items():
                found.setdefault((run["mode"], run["reference"], tenant), []).append(metrics["slowdown"])
    for (mode, _, tenant), intervals in found.items():
        values, lows, highs = np.log(intervals).T
        yield f"{tenant} {mode}", values, (highs - lows) / 2


def test_one_run_speaks_for_fresh_ones_on_an_h200() -> None:
    """Eight sessions, three modes, two tenants: how often an interval holds the mean of the other sessions."""
    spec = compose_spec(["mix=bert_base+llama_3_2_1b", "execution=cuda_graph"], GPU)
    under_mps = compose_spec(["mix=bert_base+llama_3_2_1b", "execution=cuda_graph", "mps_settings=default"], GPU)
    hits = {"rounds": 0, "all": 0}
    for name, values, half in sessions():
        tenant, _, mode = name.partition(" ")
        sd = unseen_sd(under_mps if mode == "MPS" else spec, ALONE_MS).get(tenant, 0.0)
        for i, value in enumerate(values):
            others = np.delete(values, i)
            of_others = T_6 * others.std(ddof=1) / math.sqrt(others.size)
            for way, own in (("rounds", half[i]), ("all", math.hypot(half[i], 1.96 * sd))):
                hits[way] += abs(value - others.mean()) <= math.hypot(own, of_others)
    assert hits == {"rounds": 36, "all": 46}


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

"""Slowdowns from blocks: which requests count, what the figures are, and whether the intervals hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtexp.metrics.crossover import (
    MIN_UNITS,
    Block,
    Rounds,
    compare,
    enough,
    host_noise_pct,
    mark,
    mean_interval,
    rounds_of,
    split,
)
from mtexp.metrics.round_means import Means
from mtexp.metrics.samples import ALONE, EDGE, MEASURE, WARMUP, Floats, Samples
from mtexp.testing.two_states import Host

MS = 1_000_000


def block(number: int, active: str, start_ms: float, end_ms: float, round_: int = 0) -> Block:
    return Block(
        block=number,
        round=round_,
        group=round_,
        active=tuple(active),
        start_ns=round(start_ms * MS),
        end_ns=round(end_ms * MS),
    )


def requests(*spans: tuple[float, float], warmup: int = 0, enqueue_ms: float = 0, gpu_ms: float = 0) -> Samples:
    """Requests that start and end at these instants (ms)."""
    start, end = (np.array([round(span[i] * MS) for span in spans], dtype=np.int64) for i in (0, 1))
    count = len(spans)
    return Samples(
        phase=(np.arange(count) >= warmup).astype(np.uint8),
        arrival_ns=start,
        start_ns=start,
        end_ns=end,
        first_token_ns=np.zeros(count, dtype=np.int64),
        gpu_time_ns=np.full(count, round(gpu_ms * MS) if gpu_ms else -1),
        enqueue_ns=start + round(enqueue_ms * MS) if enqueue_ms else np.zeros(count, dtype=np.int64),
    )


def back_to_back(start_ms: float, length_ms: float, count: int) -> list[tuple[float, float]]:
    return [(start_ms + i * length_ms, start_ms + (i + 1) * length_ms) for i in range(count)]


class TestMark:
    """Which request belongs where."""

    blocks = (block(0, "a", 10, 20), block(1, "ab", 30, 40), block(2, "b", 50, 60))

    def marked(self) -> dict[str, Samples]:
        a = requests((0, 2), *back_to_back(10, 3, 4), *back_to_back(30, 3, 6), warmup=1)
        b = requests(*back_to_back(30.5, 4, 3), *back_to_back(50, 4, 3))
        return mark({"a": a, "b": b}, self.blocks)

    def test_the_first_of_a_block_and_those_after_its_end_do_not_count(self) -> None:
        """Alone and together; a request that began before the end counts whole."""
        marked = self.marked()
        assert marked["a"].phase.tolist() == [WARMUP, EDGE, *[ALONE] * 3, EDGE, *[MEASURE] * 3, EDGE, EDGE]
        assert marked["b"].phase.tolist() == [EDGE, MEASURE, MEASURE, EDGE, ALONE, ALONE]

    def test_each_request_knows_its_block_and_round(self) -> None:
        """Warm-ups have none."""
        marked = self.marked()
        assert marked["a"].block.tolist() == [-1, *[0] * 4, *[1] * 6]
        assert marked["b"].round.tolist() == [0] * 6

    def test_what_ran_before_a_late_neighbour_does_not_count(self) -> None:
        """A tenant that reached its block late was not there yet."""
        a, b = requests(*back_to_back(30, 1, 12)), requests(*back_to_back(34.5, 1, 6))
        marked = mark({"a": a, "b": b}, [block(0, "ab", 30, 40)])
        assert marked["a"].start_ns[marked["a"].phase == MEASURE].min() == 35 * MS

    def test_a_block_that_a_tenant_did_not_reach_counts_for_nobody(self) -> None:
        """It failed before its first request: the others ran with fewer neighbours than the block says."""
        marked = mark({"a": requests(*back_to_back(30, 1, 8)), "b": requests()}, [block(0, "ab", 30, 40)])
        assert set(marked["a"].phase.tolist()) == {EDGE}

    def test_together_samples_are_what_statistics_see(self) -> None:
        """``measured`` leaves alone blocks out."""
        assert len(self.marked()["a"].measured) == 3


def test_rounds_are_means_of_what_counts() -> None:
    """By round, alone and together; a block with one request that counts gives none."""
    a = requests((10, 13), (13, 15), (15, 17), (20, 24), (24, 29), (29, 34), *back_to_back(40, 9, 2))
    b = requests(*back_to_back(20, 5, 3))
    blocks = [block(0, "a", 10, 18), block(1, "ab", 20, 33), block(2, "a", 40, 50, round_=1)]
    rounds = rounds_of(mark({"a": a, "b": b}, blocks), blocks, lambda own: own.latency_ms)
    assert rounds.alone_ms[:, 0].tolist() == pytest.approx([2.0, math.nan], nan_ok=True)
    assert rounds.together_ms[0].tolist() == [5.0, 5.0]
    assert rounds.complete.tolist() == [1, 0]


def rounds(log_ratios: Floats, group: Floats | None = None) -> Rounds:
    """Rounds of these log ratios, shape (rounds, tenants)."""
    values = np.asarray(log_ratios, dtype=np.float64)
    groups = np.arange(len(values)) if group is None else np.asarray(group)
    names = tuple(f"t{i}" for i in range(values.shape[1]))
    return Rounds(names, np.ones_like(values), np.exp(values), groups)


def test_figures_of_rounds_without_noise() -> None:
    """Slowdowns 2 and 4: NP 0.5 and 0.25, STP 0.75, ANTT 3, fairness 0.5, Jain 0.9; intervals without width."""
    found = compare(rounds(np.log([[2.0, 4.0]] * 5)))
    values = {**found.run, **{f"s_{k}": v for k, v in found.slowdown.items()}}
    expected = {"stp": 0.75, "antt": 3.0, "fairness": 0.5, "jain_fairness": 0.9, "s_t0": 2.0, "s_t1": 4.0}
    for key, value in expected.items():
        assert (values[key].value, values[key].low, values[key].high) == pytest.approx([value] * 3), key
    assert found.normalized_progress["t1"].value == pytest.approx(0.25)
    assert found.half_width_pct == pytest.approx(0, abs=1e-6)


def test_one_round_has_figures_and_no_interval() -> None:
    """Nothing bounds it."""
    found = compare(rounds(np.log([[2.0, 4.0]])))
    assert found.slowdown["t0"].value == pytest.approx(2.0)
    assert math.isinf(found.half_width_pct)


def test_a_tenant_never_measured_alone_takes_the_run_figures_away() -> None:
    """STP of half the tenants would be invented."""
    found = compare(rounds(np.array([[0.1, np.nan]] * 5)))
    assert list(found.slowdown) == ["t0"]
    assert found.run == {}


def test_rounds_of_one_group_are_one_observation() -> None:
    """What the cores of a group do to all its rounds is not averaged away by having many rounds."""
    rng = np.random.default_rng(1)
    cores = np.repeat(rng.normal(0, 0.1, 6), 20)
    values = (cores + rng.normal(0, 0.01, 120))[:, None]
    grouped = compare(rounds(values, np.repeat(np.arange(6), 20))).slowdown["t0"].half_width_pct
    assert grouped > 3 * compare(rounds(values)).slowdown["t0"].half_width_pct


def coverage(draw: object, truth: dict[str, float], runs: int) -> dict[str, float]:
    """Share of runs whose 95 % intervals hold the truth."""
    hits = dict.fromkeys(truth, 0)
    for _ in range(runs):
        found = compare(draw())  # type: ignore[operator]
        values = {**found.run, **found.slowdown}
        for key, value in truth.items():
            hits[key] += values[key].low <= value <= values[key].high
    return {key: count / runs for key, count in hits.items()}


@pytest.mark.parametrize("subset", [0, 3], ids=["all", "subset"])
def test_intervals_hold_the_truth(subset: int) -> None:
    """Four tenants whose rounds have something in common; with alone blocks of all, or of three drawn a round."""
    rng = np.random.default_rng(2)
    slowdowns = np.array([1.2, 1.5, 1.9, 1.9])

    def draw() -> Rounds:
        values = np.log(slowdowns) + rng.normal(0, 0.05, (16, 1)) + rng.normal(0, 0.08, (16, 4))
        if subset:
            values[rng.permuted(np.tile(np.arange(4), (16, 1)), axis=1) >= subset] = np.nan
        return rounds(values)

    np_ = 1 / slowdowns
    truth = {"t0": 1.2, "t2": 1.9, "stp": np_.sum(), "antt": slowdowns.mean(), "fairness": 1.2 / 1.9}
    truth["jain_fairness"] = np_.sum() ** 2 / (4 * (np_**2).sum())
    found = coverage(draw, truth, 250)
    assert min(found.values()) >= 0.91, found


def test_equal_tenants_are_not_called_unfair() -> None:
    """The interval of fairness and of Jain's index reaches 1 although noise makes every figure smaller."""
    rng = np.random.default_rng(3)
    found = coverage(lambda: rounds(rng.normal(0.3, 0.1, (12, 3))), {"fairness": 1.0, "jain_fairness": 1.0}, 200)
    assert min(found.values()) >= 0.93


def test_intervals_hold_the_truth_on_a_host_of_two_states() -> None:
    """The state of a core takes part in both sides of the comparison: the interval of one run is honest."""
    rng = np.random.default_rng(4)
    slowdowns = (1.14, 1.4)
    truth = {"t0": 1.14, "t1": 1.4, "stp": 1 / 1.14 + 1 / 1.4}
    found = coverage(lambda: Host(rng).run(slowdowns, 0.0, redraw=True, count=24), truth, 150)
    assert min(found.values()) >= 0.9, found


def test_new_cores_make_one_run_speak_for_other_runs() -> None:
    """Where the slowdown depends on the core's state, runs that stay on their cores differ by more than their
    intervals say; runs that draw new cores do not.
    """
    found = {}
    for redraw in (False, True):
        rng = np.random.default_rng(5)
        ratios, covered = [], []
        for _ in range(100):
            host = Host(rng)
            host.slow[:] = np.arange(8) < 4  # spells longer than a run
            ratios.append(compare(host.run((1.4, 1.4), 0.5, redraw=redraw, count=24)).slowdown["t0"])
        middle = math.exp(np.mean([math.log(r.value) for r in ratios]))
        covered = [r.low <= middle <= r.high for r in ratios]
        found[redraw] = np.mean(covered)
    assert found[True] >= 0.88
    assert found[False] < 0.6


def test_fresh_runs_agree_and_two_of_one_point_are_not_called_different() -> None:
    """A/A on a host of two states: runs in turns differ by a few percent, and as their intervals say; slowdowns from
    runs of their own differ by several times as much.
    """
    rng = np.random.default_rng(7)
    slowdowns = (1.14, 1.4)
    separate = [Host(rng, seconds=30.0, spell_s=(0.1, 10.0)).separate(slowdowns, 1.0, 6.0) for _ in range(60)]
    turns = [compare(Host(rng, spell_s=(0.1, 10.0)).run(slowdowns, 0.0, redraw=True, count=40)) for _ in range(60)]
    logs = np.log([[run.slowdown[name].value for name in ("t0", "t1")] for run in turns])
    spread = logs.std(axis=0, ddof=1)
    assert spread.max() <= 0.05
    assert np.log(separate).std(axis=0, ddof=1).min() > 3 * spread.max()
    stp = [run.run["stp"] for run in turns]
    pairs = list(zip(stp[::2], stp[1::2], strict=True))
    different = [abs(a.value - b.value) > math.hypot(a.high - a.low, b.high - b.low) / 2 for a, b in pairs]
    assert np.mean(different) <= 0.1  # 5 % are to be expected: at most 3 of 30 by chance


def test_a_run_may_stop_when_its_intervals_are_narrow() -> None:
    """After every round, from ten on, asked whether +-3 % is reached: the final intervals hold the truth as often as
    intervals of a fixed number of rounds would.
    """
    rng = np.random.default_rng(6)
    hits, stopped = 0, []
    for _ in range(300):
        values = rng.normal(math.log(1.3), 0.045, (60, 1))
        count = next((n for n in range(2, 60) if enough(rounds(values[:n]), 3.0)), 60)
        final = compare(rounds(values[:count])).slowdown["t0"]
        hits += final.low <= 1.3 <= final.high
        stopped.append(count)
    assert min(stopped) >= MIN_UNITS
    assert 12 < np.mean(stopped) < 30
    assert 0.9 <= hits / 300 <= 0.99


def test_every_tenant_and_stp_must_be_narrow() -> None:
    """One noisy tenant keeps the rounds going."""
    rng = np.random.default_rng(7)
    quiet, noisy = rng.normal(0.3, 0.001, (20, 1)), rng.normal(0.3, 0.3, (20, 1))
    assert enough(rounds(np.hstack([quiet, quiet])), 3.0)
    assert not enough(rounds(np.hstack([quiet, noisy])), 3.0)


def test_a_mean_over_rounds_has_an_interval() -> None:
    """As of a slowdown, without the logarithm."""
    found = mean_interval(np.array([1.0, 2.0, 3.0, np.nan]), np.arange(4))
    assert found.value == 2.0
    assert (found.low, found.high) == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)), rel=1e-3)
    with pytest.raises(ValueError, match="needs at least one"):
        mean_interval(np.array([np.nan]), np.zeros(1, dtype=int))


def test_host_noise_is_the_spread_of_the_alone_blocks() -> None:
    """In percent; one block has none."""
    assert host_noise_pct(np.array([1.0, 1.1, np.nan, 1 / 1.1])) == pytest.approx(100 * math.log(1.1))
    assert host_noise_pct(np.array([1.0, np.nan])) is None


class TestSplit:
    """A slowdown in parts that add up."""

    def test_a_slower_host(self) -> None:
        """Enqueueing took 1 ms more, the rest stayed."""
        alone = requests((0, 4), enqueue_ms=3, gpu_ms=3.5)
        together = requests((0, 5), enqueue_ms=4, gpu_ms=4.5)
        found = split(alone, together)
        assert found is not None
        assert (found.host, found.wait, found.kernels) == pytest.approx((0.25, 0, 0))

    def test_a_busy_device(self) -> None:
        """2 ms more after enqueueing, 1.5 of them before the device began."""
        alone = requests((0, 4), enqueue_ms=1, gpu_ms=3.5)
        together = requests((0, 6), enqueue_ms=1, gpu_ms=4)
        found = split(alone, together)
        assert found is not None
        assert (found.host, found.wait, found.kernels) == pytest.approx((0, 0.375, 0.125))

    def test_without_stamps_there_is_none(self) -> None:
        """Old records, and the CPU."""
        assert split(requests((0, 4), gpu_ms=3), requests((0, 5), gpu_ms=3)) is None
        assert split(requests((0, 4), enqueue_ms=3), requests((0, 5), enqueue_ms=4)) is None


def test_fairness_of_two_rounds_that_differ_much_is_a_number() -> None:
    """What a run that was killed early has: as a power of e, the noise between its rounds is no float any more."""
    means = Means.of(np.array([[0.0, 3.0], [3.0, -4.0]]), np.array([0, 1]))
    with np.errstate(all="raise", under="ignore"):
        found = means.jain(0)
    assert 0 <= found.low <= found.value <= found.high <= 1

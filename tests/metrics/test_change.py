"""Changed, equal or not known: how often each is right, by simulation against the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtexp.metrics.change import CHANGED, EQUAL, NOT_KNOWN, Change, Part, answers, claim_levels


def part(log: float, sd: float = 0.05, runs: int = 3, freedom: float = 8, **more: object) -> Part:
    return Part(log, (sd**2, sd**2), (runs, runs), freedom, **more)  # type: ignore[arg-type]


def one(log: float, **how: object) -> Change:
    return Change(((1.0, part(log, **how)),))  # type: ignore[arg-type]


def measured(rng: np.random.Generator, true_log: float, sd: float, runs: int, freedom: float) -> Change:
    """A point whose spread was learnt with so many degrees of freedom."""
    found = rng.normal(true_log, sd * math.sqrt(2 / runs))
    learnt = sd * math.sqrt(rng.chisquare(freedom) / freedom)
    return one(found, sd=learnt, runs=runs, freedom=freedom)


def test_of_equal_things_hardly_any_is_called_changed() -> None:
    """Sixty points that are equal: any change is claimed in at most 5 % of comparisons."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(400):
        points = [measured(rng, 0.0, 0.1, 2, 8) for _ in range(60)]
        total = Change(tuple((1 / 60, point.terms[0][1]) for point in points))
        own, overall = answers(points, [total], 0.03)
        false += CHANGED in (*own, *overall)
    assert false <= 400 * 0.05 + 2 * math.sqrt(400 * 0.05 * 0.95)


def test_of_what_is_called_changed_few_are_not() -> None:
    """A third of the points differ: most are found, and of the claims at most 5 % are false on average."""
    rng = np.random.default_rng(1)
    shares, found = [], 0
    for _ in range(200):
        true = np.where(np.arange(60) < 20, math.log(1.3), 0.0)
        said, _ = answers([measured(rng, log, 0.05, 3, 8) for log in true], [], 0.03)
        claims = np.array([answer == CHANGED for answer in said])
        shares.append(claims[20:].sum() / max(claims.sum(), 1))
        found += int(claims[:20].sum())
    assert np.mean(shares) <= 0.05 + 2 * np.std(shares) / math.sqrt(200)
    assert found > 0.8 * 200 * 20


def test_equality_is_claimed_wrongly_in_at_most_one_of_twenty() -> None:
    """At the margin itself, where it is hardest; well inside it is found."""
    rng = np.random.default_rng(2)
    at_margin = sum(measured(rng, math.log(1.03), 0.01, 3, 8).equal_within(0.03) for _ in range(2000))
    inside = sum(measured(rng, 0.0, 0.01, 3, 8).equal_within(0.03) for _ in range(2000))
    assert at_margin <= 2000 * 0.05 + 2 * math.sqrt(2000 * 0.05 * 0.95)
    assert inside > 0.8 * 2000


def test_a_sure_difference_within_the_margin_is_equal() -> None:
    """Whoever says 3 % does not want to hear of 1 %."""
    said, _ = answers([one(math.log(1.01), sd=0.001), one(math.log(1.2), sd=0.001)], [], 0.03)
    assert said == [EQUAL, CHANGED]


def test_nothing_is_claimed_where_nothing_was_repeated() -> None:
    """A ratio of 10 with an unknown spread: one more run shows it."""
    change = one(math.log(10), freedom=0)
    assert answers([change], [], 0.03)[0] == [NOT_KNOWN]
    assert change.interval.high == math.inf
    assert change.more_runs(0.03) == 1


def test_so_many_more_runs_tell() -> None:
    """Of comparisons with as many runs as asked for, four of five of equal things say that they are equal."""
    rng = np.random.default_rng(3)
    more = one(0.0, sd=0.05, runs=2).more_runs(0.03)
    assert more is not None
    told = sum(measured(rng, 0.0, 0.05, 2 + more, 400).equal_within(0.03) for _ in range(2000))
    assert told / 2000 == pytest.approx(0.8, abs=0.04)
    assert one(math.log(1.2), sd=0.05, runs=2).more_runs(0.03) < more  # type: ignore[operator]
    assert one(0.0, sd=50).more_runs(0.03) is None


def test_among_many_figures_a_change_needs_more_runs() -> None:
    """Six hundred figures ask for a smaller p-value of each than one does, and so for more runs."""
    own, total = claim_levels(600, 3)
    assert own < total < 0.05
    single = one(math.log(1.2), sd=0.1, runs=2)
    few, many = single.more_runs(0.03), single.more_runs(0.03, own)
    assert few is not None
    assert many is not None
    assert many > few


def test_a_baseline_that_both_sides_have_does_not_err() -> None:
    """All runs in common: no error; some: less than none in common."""
    assert Change(((1.0, part(0.0, shared=3)),)).error == 0
    assert Change(((1.0, part(0.0, shared=1)),)).error < one(0.0).error


def test_tenants_of_one_run_err_alike() -> None:
    """Two tenants of one run are known less well together than two of different runs, as far as they correlate."""
    alike = [(0.5, part(0.0, together="a")), (0.5, part(0.0, together="a"))]
    apart = [(0.5, part(0.0, together="a")), (0.5, part(0.0, together="b"))]
    assert Change(tuple(alike), 1.0).error == pytest.approx(one(0.0).error)
    assert Change(tuple(apart), 1.0).error == pytest.approx(one(0.0).error / math.sqrt(2))
    assert Change(tuple(apart), 0.2).error < Change(tuple(alike), 0.2).error < one(0.0).error

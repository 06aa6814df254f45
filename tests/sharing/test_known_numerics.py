"""SM shares that are known to give wrong results are found by GPU, stack, precision and percentage."""

from __future__ import annotations

import pytest

from mtexp.sharing.known_numerics import KNOWN, known_wrong

H100 = {"gpu": "NVIDIA H100 80GB HBM3", "torch": "2.11.0+cu130", "cuda": "13.0", "precision": "fp16"}


@pytest.mark.parametrize("percentage", [75, 80, 40, 100 / 3, 33, 20])
def test_shares_that_were_measured_to_be_wrong_are_found(percentage: float) -> None:
    """Also a third, which is written 33.33 in a record."""
    found = known_wrong(**H100, percentage=percentage)
    assert found is not None
    assert found.architecture == "Hopper"


@pytest.mark.parametrize("percentage", [0, 100, 50, 25, 10, 12.5, 60])
def test_right_shares_and_those_that_nobody_measured_are_not_called_wrong(percentage: float) -> None:
    """No limit at all is none of them either."""
    assert known_wrong(**H100, percentage=percentage) is None


@pytest.mark.parametrize(
    "other",
    [
        {"gpu": "NVIDIA A100-SXM4-80GB"},
        {"torch": "2.110.0"},
        {"torch": "2.8.0"},
        {"cuda": "12.8"},
        {"precision": "fp32"},
    ],
)
def test_another_gpu_stack_or_precision_is_another_question(other: dict[str, str]) -> None:
    """What was measured on one says nothing about another."""
    assert known_wrong(**(H100 | other), percentage=75) is None


def test_no_percentage_is_both_right_and_wrong() -> None:
    """The table does not contradict itself."""
    for known in KNOWN:
        assert not set(known.wrong_pct) & set(known.right_pct)

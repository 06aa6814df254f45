"""SM shares that are known to give wrong results are found by GPU, stack, precision and percentage."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mtexp.sharing.known_numerics import KNOWN, known_of, known_wrong, sm_count

H100 = {"gpu": "NVIDIA H100 80GB HBM3", "torch": "2.11.0+cu130", "cuda": "13.0", "precision": "fp16"}


def counts_of(report: Mapping[str, Any]) -> tuple[set[int], set[int]]:
    """The SM counts that a report of ``python -m mtexp.sharing.numerics`` found right, and those it found wrong.

    Args:
        report: Its JSON file.
    """
    rows = [row for row in report["results"] if row["percentage"] is not None and row["same_as"] is None]
    wrong = {
        row["sm_count"]
        for row in rows
        if any(found.get("wrong") for found in (*row["products"], *row["models"])) or row["failure"]
    }
    return {row["sm_count"] for row in rows} - wrong, wrong


@pytest.mark.parametrize("percentage", [75, 80, 40, 100 / 3, 33, 20])
def test_shares_that_were_measured_to_be_wrong_are_found(percentage: float) -> None:
    """Also a third, which is written 33.33 in a record."""
    found = known_wrong(**H100, percentage=percentage)
    assert found is not None
    assert found.architecture == "Hopper"


@pytest.mark.parametrize("percentage", [0, 100, 50, 25, 10, 12.5, 90, 2])
def test_right_shares_and_those_that_nobody_measured_are_not_called_wrong(percentage: float) -> None:
    """No limit at all is none of them either."""
    assert known_wrong(**H100, percentage=percentage) is None


@pytest.mark.parametrize(
    "other",
    [
        {"gpu": "NVIDIA A100-SXM4-80GB"},
        {"gpu": "NVIDIA H100 PCIe"},
        {"torch": "2.110.0"},
        {"torch": "2.8.0"},
        {"cuda": "12.8"},
        {"precision": "fp32"},
    ],
)
def test_another_gpu_stack_or_precision_is_another_question(other: dict[str, str]) -> None:
    """What was measured on one says nothing about another."""
    assert known_wrong(**(H100 | other), percentage=75) is None


def test_no_count_is_both_right_and_wrong() -> None:
    """The table does not contradict itself."""
    for known in KNOWN:
        assert not set(known.wrong) & set(known.right)


REPORTS = sorted((Path(__file__).parents[2] / "docs" / "results" / "mps-numerics").glob("*.json.xz"))


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.name)
def test_the_table_is_what_the_committed_reports_found(path: Path) -> None:
    """Each count of each report is where the report puts it, unless another GPU of the kind found it wrong."""
    report = json.loads(lzma.decompress(path.read_bytes()))
    device, versions = report["device"], report["device"]["versions"]
    known = known_of(gpu=device["device_name"], torch=versions["torch"], cuda=versions["cuda"], precision="fp16")
    assert known is not None
    assert known.sms == device["sm_count"]
    right, wrong = counts_of(report)
    assert wrong <= set(known.wrong)
    assert right <= {*known.right, *known.wrong}
    assert {sm_count(known.sms, row["percentage"]) for row in report["results"] if row["percentage"]} == right | wrong


def test_every_count_of_the_table_is_in_a_report() -> None:
    found = [counts_of(json.loads(lzma.decompress(path.read_bytes()))) for path in REPORTS]
    (known,) = KNOWN
    assert set(known.wrong) == set().union(*(wrong for _, wrong in found))
    assert set(known.right) == set().union(*(right for right, _ in found)) - set(known.wrong)


def test_right_percentages_near_by_are_named() -> None:
    """Written as short as possible; each comes to a count that is right."""
    (known,) = KNOWN
    assert known.right_near(33.33) == (26.0, 47.0)
    assert known.right_near(75) == (50.0, 90.0)
    assert known.right_near(5) == (8.0,)
    assert all(sm_count(known.sms, percentage) in known.right for percentage in known.right_pct)
    assert {100.0, 50.0, 25.0} < set(known.right_pct)


@pytest.mark.parametrize(
    ("percentage", "count"),
    [
        (100, 132),
        (50, 66),
        (33.33, 42),
        (33.34, 44),
        (66.66, 86),
        (20, 26),
        (16.66, 20),
        (14.28, 18),
        (12.5, 16),
        (1, 8),
    ],
)
def test_a_percentage_comes_to_the_count_that_the_driver_gave(percentage: float, count: int) -> None:
    """Measured on an H100 and an H200; 1 % by the documented minimum."""
    assert sm_count(132, percentage) == count

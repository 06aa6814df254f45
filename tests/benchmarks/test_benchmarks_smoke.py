"""The benchmarks are not run by the tests; that they can be started is."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import common

SHARED = {"common", "optimum_side", "plain"}
NOT_BENCHMARKS = {"soak"}
"""Scripts with a target of their own, and without ``--quick``."""
FILES = (common.ROOT / "benchmarks").glob("*.py")
SCRIPTS = sorted(path.stem for path in FILES if path.stem not in SHARED | NOT_BENCHMARKS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_takes_quick_and_refuses_what_it_does_not_know(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every script is imported without running, takes --quick, says what it measures, and refuses a misspelt option."""
    module = importlib.import_module(f"benchmarks.{script}")
    parser = module.arguments()
    assert callable(module.main)
    assert common.repeats_of(parser.parse_args(["--quick"])) == 2
    assert common.repeats_of(parser.parse_args([])) >= 3
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--qick"])
    assert "--qick" in capsys.readouterr().err


def test_make_targets_name_every_script() -> None:
    """``make bench`` and ``make bench-gpu`` together leave no script out, so none rots unseen."""
    makefile = (common.ROOT / "Makefile").read_text(encoding="utf-8")
    loops = re.findall(r"for name in ([\w\s\\]+); do", makefile)
    named = {name for loop in loops for name in loop.replace("\\", " ").split()}
    assert len(loops) == 2
    assert set(SCRIPTS) == named


def test_cases_take_turns() -> None:
    """Repeats are interleaved and the order rotates, so that a slow minute does not hit one case alone."""
    order: list[str] = []

    def case(name: str) -> Callable[[], str]:
        return lambda: order.append(name) or name

    found = common.interleaved({"a": case("a"), "b": case("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": ["a"] * 3, "b": ["b"] * 3}


def test_rounds_end_with_the_time_that_they_were_given() -> None:
    """Two at least, for a spread; on a GPU that is lent for a minute a benchmark ends with a table."""
    assert common.interleaved({"a": lambda: 1}, 100, within_s=0) == {"a": [1, 1]}


def test_figures_are_told_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    """A benchmark that ends in its last case has told what the others found."""

    def cut_off() -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        common.interleaved({"quick": lambda: {"wall_s": 1.25}, "slow": cut_off}, 1)
    assert "{'wall_s': 1.25}" in capsys.readouterr().err


def test_ratio_is_taken_within_each_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    """A ratio compares what was measured in the same repeat; the JSON line holds every value."""
    report = common.Report("example")
    report.ratio("second / first", [2.0, 30.0, 8.0], [1.0, 10.0, 2.0], "<= 3")
    report.show()
    out = capsys.readouterr().out
    assert "| second / first | 3 | 2 | 4 | x | <= 3 |" in out
    (figure,) = json.loads(out.splitlines()[-1])["figures"]
    assert figure["values"] == [2.0, 3.0, 4.0]
    assert figure["median"] == 3.0


def test_command_that_fails_is_no_figure(tmp_path: Path) -> None:
    """The time of a command that failed is not reported as that of one that worked."""
    with pytest.raises(RuntimeError, match="exit code 3"):
        common.command_s(["sh", "-c", "exit 3"], tmp_path)

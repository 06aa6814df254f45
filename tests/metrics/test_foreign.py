"""A busy foreign process makes a run INVALID, a desktop does not; what cannot be matched is never called foreign."""

from __future__ import annotations

import pytest

from mtexp.metrics.foreign import Foreign, ForeignProcess, foreign_findings


def _found(*processes: ForeignProcess, rule: str = "refuse") -> dict[str, str]:
    """Level by code."""
    return {f.code: f.level for f in foreign_findings(Foreign(rule=rule, processes=processes))}


DESKTOP = (
    ForeignProcess(pid=900, type="G", name="Xorg of root", memory_mib=180.0, util_pct=1.0),
    ForeignProcess(pid=950, type="G", name="gnome-shell of x", memory_mib=60.0, util_pct=0.0),
)


def test_a_desktop_on_which_nothing_moves_is_noted() -> None:
    """Display server and compositor: the run stays VALID."""
    assert _found(*DESKTOP) == {"foreign-graphics": "note"}


@pytest.mark.parametrize("type_", ["C", "G", "M", "?"])
def test_a_busy_foreign_process_is_invalid_whatever_it_does(type_: str) -> None:
    """A game as much as a training job; the message says who and how busy."""
    foreign_process = ForeignProcess(pid=7, type=type_, name="game of y", memory_mib=2000.0, util_pct=40.0)
    assert _found(foreign_process) == {"foreign-process": "invalid"}
    (finding,) = foreign_findings(Foreign(processes=(foreign_process,)))
    assert "pid 7" in finding.message
    assert "40 %" in finding.message
    assert "Xorg" not in finding.message


def test_an_idle_context_is_a_warning() -> None:
    """A notebook that was left open holds memory and a context, and computes nothing."""
    assert _found(ForeignProcess(pid=7, type="C", memory_mib=500.0, util_pct=0.0)) == {"foreign-idle": "warning"}


@pytest.mark.parametrize(
    ("type_", "found"), [("C", {"foreign-process": "invalid"}), ("G", {"foreign-graphics": "warning"})]
)
def test_where_utilisation_is_not_known(type_: str, found: dict[str, str]) -> None:
    """Somebody's computation is taken for busy, a screen is not: each is what it mostly is."""
    assert _found(ForeignProcess(pid=7, type=type_, memory_mib=500.0)) == found


@pytest.mark.parametrize(
    ("rule", "found"),
    [("refuse", {"foreign-process": "invalid"}), ("warn", {"foreign-process": "warning"}), ("ignore", {})],
)
def test_the_rule_says_what_a_busy_foreign_process_does(rule: str, found: dict[str, str]) -> None:
    """And the record has it under every rule."""
    foreign_process = ForeignProcess(pid=7, type="C", name="python of y", memory_mib=500.0, util_pct=90.0)
    assert _found(foreign_process, rule=rule) == found
    kept = Foreign(rule=rule, processes=(foreign_process,)).to_json()
    assert kept["rule"] == rule
    assert kept["processes"] == [
        {"pid": 7, "type": "C", "name": "python of y", "memory_mib": 500.0, "util_pct": 90.0, "busy": True}
    ]


@pytest.mark.parametrize("foreign", [Foreign(not_attributable=3, own=2), Foreign(unlisted=True, own=2)])
def test_what_cannot_be_matched_is_one_note(foreign: Foreign) -> None:
    """However many processes; nobody is called foreign."""
    assert [(f.level, f.code) for f in foreign_findings(foreign)] == [("note", "not-attributable")]

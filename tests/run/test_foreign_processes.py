"""Other processes on the device, from telemetry to the verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import mtexp.running.measurement as sessions
from mtexp.running.bare_record import RecordContext
from mtexp.running.churn_record import Churned, keep_churn
from mtexp.running.measured import Measurement
from mtexp.telemetry import GpuProcess, Occupants
from tests.run.evaluated import RUN, codes, measurement, record, write_telemetry
from tests.strategies import MS


def _util(folder: Path, measured: Measurement, *pcts: tuple[int, float]) -> None:
    """Telemetry with one poll of the utilisation of processes within the window."""
    at_ns = int(measured.samples["a"].start_ns.min()) + 1000 * MS
    write_telemetry(folder, measured, process_util=[[at_ns, [list(pct) for pct in pcts]]])


@pytest.mark.parametrize(
    ("pct", "code", "verdict"), [(60.0, "foreign-process", "INVALID"), (0.0, "foreign-idle", "VALID")]
)
def test_a_foreign_process_is_judged_by_its_utilisation(tmp_path: Path, pct: float, code: str, verdict: str) -> None:
    """As telemetry has it of the window; the record says who it was and by which rule."""
    other = GpuProcess(7, "compute", "python of mallory", 512.0)
    occupants = Occupants(foreign=(other,), own=frozenset({1, 2}), same_pids=True)
    measured = measurement(occupants=occupants)
    _util(tmp_path, measured, (1, 90.0), (7, pct))

    found = record(measured, spec=replace(RUN, runtime="gpu"), folder=tmp_path)

    assert (found.verdict, codes(found)) == (verdict, {code})
    assert found.telemetry_notes["foreign"] == {
        "rule": "refuse",
        "processes": [
            {
                "pid": 7,
                "type": "C",
                "name": "python of mallory",
                "memory_mib": 512.0,
                "util_pct": pct,
                "busy": pct > 5,
            }
        ],
        "not_attributable": 0,
    }


def test_a_foreign_process_that_came_and_went_within_the_window_is_found(tmp_path: Path) -> None:
    """No list has it, its utilisation does; where pids are the host's, it may be a tenant and is not foreign."""
    for same_pids, expected in ((True, {"foreign-process"}), (False, set())):
        measured = measurement(occupants=Occupants(own=frozenset({1, 2}), same_pids=same_pids))
        _util(tmp_path, measured, (1, 50.0), (77, 40.0))
        assert codes(record(measured, spec=replace(RUN, runtime="gpu"), folder=tmp_path)) == expected


def test_the_rule_about_foreign_processes_is_the_runs(tmp_path: Path) -> None:
    """``measure.foreign=warn``."""
    spec = replace(RUN, measure=replace(RUN.measure, foreign="warn"))
    found = record(measurement(occupants=Occupants(foreign=(GpuProcess(7, "compute", "", None),))), spec=spec)
    assert (found.verdict, codes(found)) == ("VALID", {"foreign-process"})


def test_a_churn_run_knows_foreign_processes_from_neighbours_that_have_gone(tmp_path: Path) -> None:
    """Every look adds: a pid that was the run's once stays so, and a foreign process that left has been there."""
    other = GpuProcess(7, "compute", "python of mallory", 512.0)
    first = Occupants(foreign=(other,), own=frozenset({1, 2}), same_pids=True)
    gone = GpuProcess(2, "compute", "python", 512.0)
    seen = first.joined(Occupants(foreign=(gone,), own=frozenset({1, 3}), same_pids=True))
    assert (seen.foreign, seen.own) == ((other,), frozenset({1, 2, 3}))
    measured = measurement(occupants=seen)
    _util(tmp_path, measured, (1, 50.0), (2, 40.0), (7, 60.0))
    spec = replace(RUN, runtime="gpu", kind="churn")
    found = keep_churn(spec, Churned(measured=measured), tmp_path, RecordContext(), "")
    assert found.verdict == "INVALID"
    assert [finding.message.count("pid 7") for finding in found.findings if finding.code == "foreign-process"] == [1]
    assert found.telemetry_notes["foreign"]["processes"][0]["pid"] == 7


def test_the_mps_server_of_a_mode_that_warms_up_later_is_no_foreign_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Modes side by side warm up one after the other; interrupted after that, no run names the server of another."""

    def a_set(mode: str, pid: int, servers: tuple[int, ...]) -> SimpleNamespace:
        spec = SimpleNamespace(sharing=SimpleNamespace(mps_mode=mode))
        tenants = SimpleNamespace(pids=(pid,))
        none = SimpleNamespace(pids=lambda: ())
        own = SimpleNamespace(spec=spec, tenants=tenants, servers=none, listed=[], results=[SimpleNamespace()])
        own.sharing = SimpleNamespace(pids=lambda: servers if own.listed else ())  # known once it was observed
        return own

    there = [GpuProcess(pid, "compute", "", 1.0) for pid in (10, 11, 12)]
    monkeypatch.setattr(sessions, "listed", lambda device: there)
    session = object.__new__(sessions._Session)
    session.device, session.listed_before = SimpleNamespace(kind="gpu"), []
    sliced, managed = a_set("disabled", 10, ()), a_set("managed", 11, (12,))
    session.going = [sliced, managed]
    for own in session.going:
        session._look(own)
    assert [own.results[0].occupants.foreign for own in session.going] == [(), ()]

"""``experiment=churn`` from the command line to the record: real processes that start, end and are killed."""

from __future__ import annotations

import json

import pytest

from analysis import churn as churn_command
from mtexp.records.samples_file import read_iterations
from mtexp.testing.faults import START, Fault
from tests.run.run_helpers import SMALL, Ran, Workplace, kind

pytestmark = pytest.mark.process

CHURN = ("+experiment=churn", "mps_settings=disabled", "hydra.mode=RUN", "arrival.load=0", "arrival.rate=40")
FEW = ("churn.repeats=1", "churn.window_s=0.3", "sweep=c")


def _run(workplace: Workplace, *arguments: str) -> Ran:
    small = [text for text in SMALL if not text.startswith(("sweep_order", "measure.design"))]
    return workplace.run(*CHURN, *FEW, *arguments, small=small)


def test_a_neighbour_comes_works_and_goes(workplace: Workplace) -> None:
    """Every event that needs no GPU; its process is killed, the steady tenant serves on, and nothing is lost."""
    ran = _run(workplace)
    assert ran.code == 0, ran.err
    record = workplace.records("outputs/c")["."]
    kinds = ["quiet", "start", "build", "warm_up", "load", "beside", "memory", "end", "kill"]
    assert [event.kind for event in record.events] == kinds
    assert {event.kind: event.died for event in record.events if event.died} == {"kill": ("b",)}
    assert (record.kind, record.status, record.verdict, record.sharing["proven"]) == (
        "churn",
        "FINISHED",
        "VALID",
        True,
    )
    assert sum(event.lost for event in record.events) == 0
    assert all(event.stall_ms > 0 for event in record.events)
    assert record.events[0].requests > 3
    end = next(event for event in record.events if event.kind == "end")
    assert end.neighbour_back_s
    frame = read_iterations(workplace.folder / "outputs/c/iterations.parquet")
    assert set(frame["tenant"]) == {"a"}
    (run,) = workplace.mlflow_runs(kind("churn"))
    assert run.data.metrics["churn_kill_died"] == 1
    assert "neighbour back s" in ran.out


def test_where_all_share_a_process_its_end_is_that_of_all(workplace: Workplace) -> None:
    """sharing=streams: a kill takes the steady tenant along; it is started again and what it missed is counted."""
    ran = _run(workplace, "sharing=streams", "churn.events=[kill,end]", "tracking=none")
    assert ran.code == 0, ran.err
    record = workplace.records("outputs/c")["."]
    kill = next(event for event in record.events if event.kind == "kill")
    assert kill.died == ("a", "b")
    assert kill.lost > 0
    assert kill.back_s
    assert kill.stall_ms > 100
    assert record.metrics["churn_kill_lost"] == kill.lost
    lines = [json.loads(line) for line in (workplace.folder / "outputs/c/events.jsonl").read_text().splitlines()]
    assert {line["kind"]: line["lost"] for line in lines} == {"kill": kill.lost, "end": 0}


def test_a_thread_that_ends_takes_its_process_along(workplace: Workplace) -> None:
    """sharing=streams: the neighbour's thread dies, as after a fault of the device; the process is replaced at once.

    Without that the next neighbour is awaited in a process that has no thread for it, and the run fails.
    """
    small = [text for text in SMALL if not text.startswith(("sweep_order", "measure.design"))]
    fault = Fault(kind="raise", at=12, once=str(workplace.folder / "once"))
    ran = workplace.run(
        *CHURN, *FEW, "sharing=streams", "tracking=none", "churn.events=[beside,end]", "churn.repeats=2",
        "deadlines.start_s=6", "deadlines.stop_s=1", small=small, faults={"b": fault},
    )  # fmt: skip
    assert (ran.code, (workplace.folder / "once").exists()) == (0, True), ran.err
    record = workplace.records("outputs/c")["."]
    assert {event.kind for event in record.events} == {"beside", "end"}
    assert {event.died for event in record.events} <= {(), ("a", "b")}


def test_a_limit_of_time_keeps_what_was_seen(workplace: Workplace) -> None:
    """No event begins after it; events that leave the neighbour as it is come several to a life, before the others."""
    ran = _run(
        workplace, "churn.events=[quiet,beside]", "churn.repeats=9", "churn.per_life=2", "churn.limit_s=0.01",
        "tracking=none",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    record = workplace.records("outputs/c")["."]
    assert [event.kind for event in record.events] == ["quiet", "quiet"]
    assert (record.verdict, "no-events" in {finding.code for finding in record.findings}) == ("VALID", True)


def test_a_neighbour_that_cannot_start_is_in_the_record(workplace: Workplace) -> None:
    """It dies before it says hello, again and again: the run fails, says so, and keeps what it saw before."""
    small = [text for text in SMALL if not text.startswith(("sweep_order", "measure.design"))]
    ran = workplace.run(
        *CHURN, *FEW, "tracking=none", "deadlines.start_s=2", small=small, faults={"b": Fault(kind="kill", at=START)}
    )
    assert ran.code == 1
    record = workplace.records("outputs/c")["."]
    assert record.status == "FAILED"
    assert "neighbour" in record.failure
    assert [event.kind for event in record.events] == ["quiet"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["churn.events=[fault]"], "churn.events=fault"),
        (["arrival=closed", "arrival.load=0", "arrival.rate=0"], "arrival=closed"),
        (["mix=solo"], "two tenants"),
    ],
)
def test_what_cannot_be_is_refused_before_the_start(workplace: Workplace, arguments: list[str], said: str) -> None:
    """One message, nothing started."""
    base = [
        text for text in CHURN if not (text.startswith("arrival") and any(a.startswith("arrival") for a in arguments))
    ]
    ran = workplace.run(*base, *FEW, *arguments)
    assert ran.code != 0
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not workplace.records()


def test_modes_are_compared(workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs below one folder: a row for each event and mode, a figure, the events as JSON."""
    events = "churn.events=[load,end]"
    for name, mode in (("one", "processes"), ("two", "streams")):
        assert _run(workplace, events, f"sharing={mode}", f"sweep={name}", "tracking=none").code == 0
    assert churn_command.main(["outputs", "--out", "page"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 1 + 4
    data = json.loads((workplace.folder / "page/churn.json").read_text())
    assert [len(run["events"]) for run in data] == [2, 2]
    assert (workplace.folder / "page/churn.html").stat().st_size > 1000
    assert churn_command.main(["nowhere"]) == 2

"""Iterations beside what the device and the neighbours did: by time, run by run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.data import load
from analysis.dataset import DataError, Dataset
from analysis.join import on_another_clock, with_telemetry

MS = 1_000_000


def _iterations(*rows: tuple[str, str, int, int]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["record_id", "tenant", "start_ns", "end_ns"])
    return frame.assign(start_ns=frame["start_ns"] * MS, end_ns=frame["end_ns"] * MS)


def _telemetry(*rows: tuple[str, int, float | None]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["record_id", "monotonic_ns", "gpu_sm_clock_mhz"])
    return frame.assign(monotonic_ns=frame["monotonic_ns"] * MS)


def test_neighbours_are_those_in_flight_when_a_request_begins() -> None:
    """Begun and not ended, of another tenant of the same run; who ends as this one begins is no neighbour."""
    found = with_telemetry(
        _iterations(
            ("r", "a", 0, 10),  # nobody yet
            ("r", "b", 5, 20),  # beside a
            ("r", "a", 10, 30),  # beside b
            ("r", "c", 15, 40),  # beside a and b
            ("r", "b", 20, 25),  # beside a and c; its own request before it is none
            ("other", "a", 15, 40),  # alone in its run
        ),
        pd.DataFrame(),
    )

    assert found["neighbours"].tolist() == [0, 1, 1, 2, 2, 0]
    assert found["neighbour_names"].tolist() == ["", "a", "b", "a+b", "a+c", ""]
    assert found["gpu_sm_clock_mhz"].isna().all()


def test_the_clock_is_that_of_the_run_in_the_middle_of_the_request() -> None:
    """Between two samples by a straight line; nothing is guessed before the first, after the last, or without any."""
    telemetry = _telemetry(("r", 100, 1500), ("r", 0, 1000), ("r", 50, None), ("other", 0, 300), ("other", 9, 300))
    iterations = _iterations(("r", "a", 40, 60), ("r", "a", 99, 100), ("r", "a", 90, 130), ("unsampled", "a", 0, 9))

    found = with_telemetry(iterations, telemetry)["gpu_sm_clock_mhz"]

    assert found.tolist()[:2] == pytest.approx([1250, 1497.5])
    assert found.isna().tolist() == [False, False, True, True]


def test_rows_stay_as_they_are(study: Dataset) -> None:
    """Order, index and columns of a study's iterations are kept; a tenant of a closed loop is beside all others."""
    before = study.iterations.iloc[::-1]
    found = with_telemetry(before, study.telemetry)

    pd.testing.assert_frame_equal(found[before.columns], before)
    mixed = study.runs.loc[study.runs["mix"] == "mixed", "record_id"].iloc[0]
    own = found[(found["record_id"] == mixed) & found["in_window"]]
    assert own["neighbours"].median() == 3
    assert own["gpu_sm_clock_mhz"].between(1500, 2300).mean() > 0.9


def test_iterations_without_their_times_are_refused() -> None:
    """What is needed is named, and how to get it."""
    with pytest.raises(DataError, match=r"lack end_ns: read them with columns="):
        with_telemetry(_iterations(("r", "a", 0, 1)).drop(columns="end_ns"), pd.DataFrame())


@pytest.mark.parametrize(("first", "last"), [(5, 200), (1000, 2000), (-500, -100)], ids=["late", "after", "before"])
def test_a_clock_that_was_lost_is_said_and_not_guessed(caplog: pytest.LogCaptureFixture, first: int, last: int) -> None:
    """Old exports count requests from the first one, and telemetry from the start of the host: no clock, a warning."""
    telemetry = _telemetry(("r", first, 1500), ("r", last, 1500), ("good", -50, 1000), ("good", 90, 1000))
    iterations = _iterations(("r", "a", 0, 60), ("r", "a", 60, 120), ("good", "a", 0, 60))

    found = with_telemetry(iterations, telemetry)["gpu_sm_clock_mhz"]

    assert found.isna().tolist() == [True, True, False]
    assert on_another_clock(iterations, telemetry) == {"r"}
    (said,) = [record.getMessage() for record in caplog.records]
    assert "1 runs" in said


@pytest.mark.parametrize(
    ("export", "kept"), [("study", False), ("workloads", False), ("models", True), ("modes", True)]
)
def test_the_committed_exports_are_told_apart(export: str, kept: bool) -> None:
    """Those of before the clock was kept, and those of after it."""
    data = load(records=Path(__file__).parents[2] / "docs/archive/h200/records" / export)
    lost = on_another_clock(data.iterations, data.telemetry)
    sampled = set(data.telemetry["record_id"].astype(str))
    assert lost == (set() if kept else sampled)

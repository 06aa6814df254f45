"""What a store holds, by sweep: listed with its disk use, renamed, deleted only when the user says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtexp.spec import TrackingSpec
from mtexp.testing.records import stored
from mtexp.tracking import sweeps
from mtexp.tracking.mlflow_writer import log_record
from mtexp.tracking.store import open_store


@pytest.fixture
def uri(tmp_path: Path, made_store: bytes) -> str:
    """A store with the sweeps ``first`` (a mix, a baseline) and ``second`` (an INVALID mix)."""
    (tmp_path / "mlflow.db").write_bytes(made_store)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    rows = (("first", "mix", "VALID"), ("first", "baseline", "VALID"), ("second", "mix", "INVALID"))
    for number, (sweep, kind, verdict) in enumerate(rows):
        folder = tmp_path / str(number)
        stored(folder, sweep=sweep, kind=kind, verdict=verdict, seed=number)
        log_record(folder, TrackingSpec(uri=uri))
    return uri


def named(uri: str) -> dict[str, sweeps.Sweep]:
    with open_store(TrackingSpec(uri=uri), write=False) as store:
        return {own.name: own for own in sweeps.sweeps(store)}


def test_sweeps_are_listed_renamed_and_deleted(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs count without their tenants; disk use is that of the artifacts; what is deleted is gone from the list."""
    assert sweeps.main(["--uri", uri]) == 0
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert {tuple(line.split()[i] for i in (0, 3, 4, 5)) for line in (first, second)} == {
        ("first", "1", "1", "0"),
        ("second", "1", "0", "1"),
    }
    assert all(own.mib > 0 for own in named(uri).values())
    assert sweeps.main(["--uri", uri, "rename", "first", "pairs-1"]) == 0
    assert set(named(uri)) == {"pairs-1", "second"}
    assert sweeps.main(["--uri", uri, "delete", "second"]) == 2, "nobody is there to ask"
    refusal = capsys.readouterr().err
    assert "--yes" in refusal
    assert "second: 1 run," in refusal
    assert sweeps.main(["--uri", uri, "delete", "second", "--yes"]) == 0
    assert set(named(uri)) == {"pairs-1"}


def test_what_cannot_be_done_is_refused(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown sweep names those that there are; a name that is taken or no name is not given; no store is made."""
    for arguments, said in (
        (["delete", "third", "--yes"], "first"),
        (["rename", "first", "second"], "second"),
        (["rename", "first", "../evil"], "letters"),
    ):
        assert sweeps.main(["--uri", uri, *arguments]) == 2
        assert said in capsys.readouterr().err
    nowhere = tmp_path / "none.db"
    assert sweeps.main(["--uri", f"sqlite:///{nowhere}", "delete", "first", "--yes"]) == 2
    assert not nowhere.exists()

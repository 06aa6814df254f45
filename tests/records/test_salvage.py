"""Runs that were killed: what they leave becomes a FAILED record, once, and nothing of a run that lives is touched."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import fetch
from mtexp.errors import RecordError
from mtexp.metrics.churn import Event
from mtexp.metrics.samples import Samples
from mtexp.metrics.verdict import Finding
from mtexp.records import live_files, salvage
from mtexp.records.files import BEGUN, EVENTS, ITERATIONS
from mtexp.records.record import RunRecord, load
from mtexp.records.samples_file import read_iterations, read_samples
from mtexp.spec import TrackingSpec
from mtexp.tenant.buffers import COLUMNS, SampleBuffer
from mtexp.testing.records import example, stored
from mtexp.tracking.upload import main, pending

CONFIG = "mix: mixed\n"


def _fill(path: Path, samples: Samples, *, room: int = 100) -> None:
    """A sample buffer as a tenant leaves it."""
    buffer = SampleBuffer(path, room, create=True)
    for name in COLUMNS:
        np.frombuffer(buffer.columns[name], dtype=np.int64)[: len(samples)] = np.maximum(getattr(samples, name), 0)
    buffer.header[0], buffer.header[1] = len(samples), int((samples.phase == 0).sum())


def _begun(folder: Path, run: Mapping[str, Any] | None = None, **changes: Any) -> tuple[RunRecord, dict[str, Samples]]:
    """A folder as a run that was killed (or ``run``) leaves it; returns the record it had begun with, and samples."""
    record, samples = example(**changes)
    bare = tuple(replace(tenant, metrics={}) for tenant in record.tenants)
    record = replace(record, status="FAILED", failure=salvage.KILLED, tenants=bare, metrics={}, window=None)
    finding = Finding("invalid", "host", salvage.KILLED)
    record = replace(record, verdict="INVALID", findings=(finding,), clock=record.clock[:1])
    salvage.begin(record, folder, config=CONFIG)
    for slot, rows in enumerate(samples.values()):
        _fill(folder / f"samples-{slot}.bin", rows)
    (folder / "board.bin").write_bytes(bytes(64))
    note = json.loads((folder / BEGUN).read_text())
    note["run"] |= {"pid": _dead_pid()} if run is None else run
    (folder / BEGUN).write_text(json.dumps(note))
    return record, samples


def _dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_a_killed_run_measured_becomes_a_record(tmp_path: Path) -> None:
    """FAILED and INVALID, with the figures and samples of every tenant, its configuration, and its own id."""
    begun, samples = _begun(tmp_path / "run")
    (said,) = salvage.salvage(tmp_path)
    assert str(said).startswith(f"{tmp_path / 'run'}: was killed; ")
    assert "40 measured iterations" in said.outcome
    record = load(tmp_path / "run")
    assert (record.status, record.verdict, record.record_id) == ("FAILED", "INVALID", begun.record_id)
    assert record.failure == salvage.KILLED
    assert {"host", "salvaged"} == {finding.code for finding in record.findings}
    for tenant in record.tenants:
        assert tenant.metrics["iterations_measured"] == 20
        assert tenant.metrics["latency_mean_ms"] > 0
        assert "slowdown" not in tenant.metrics
    assert record.metrics["window_s"] > 0
    assert record.ended_at > record.started_at
    for name, rows in read_samples(tmp_path / "run" / ITERATIONS).items():
        assert asdict(rows).keys() == asdict(samples[name]).keys()
        assert (rows.end_ns == samples[name].end_ns).all()
    assert sorted(_files(tmp_path / "run")) == ["config.yaml", "environment.json", ITERATIONS, "record.json"]
    assert list(salvage.salvage(tmp_path)) == []


def test_one_that_was_killed_while_it_warmed_up_has_measured_nothing(tmp_path: Path) -> None:
    """Warm-ups are kept as such; a tenant whose buffer is not there has none; there is no window and no figure."""
    _, samples = _begun(tmp_path / "run")
    path = tmp_path / "run" / "samples-0.bin"
    path.unlink()
    rows = samples["t0"].select(samples["t0"].phase == 0)
    _fill(path, rows)
    (tmp_path / "run" / "samples-1.bin").unlink()
    (said,) = salvage.salvage(tmp_path)
    assert "0 measured iterations" in said.outcome
    record = load(tmp_path / "run")
    assert record.window is None
    assert [t.metrics for t in record.tenants] == [{"iterations_measured": 0, "iterations_in_window": 0}, {}]
    assert read_iterations(tmp_path / "run" / ITERATIONS)["phase"].tolist() == ["warmup", "warmup"]


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({}, "still running"),
        ({"host": "elsewhere", "boot_id": "other"}, "cannot be seen from here"),
        ({"pid_namespace": "pid:[1]"}, "cannot be seen from here"),
    ],
)
def test_a_run_that_may_be_alive_is_left_alone(tmp_path: Path, run: dict[str, Any], said: str) -> None:
    """This process, another host, another container: not a byte changes, and an old record there is not sent."""
    _begun(tmp_path / "run", run=run)
    stored(tmp_path / "old", seed=8)
    (tmp_path / "old" / "record.json").rename(tmp_path / "run" / "record.json")
    before = _files(tmp_path / "run")
    (found,) = salvage.salvage(tmp_path / "run")
    assert said in found.outcome
    assert found.ok
    assert main([str(tmp_path / "run"), "--uri", f"sqlite:///{tmp_path / 'no.db'}"]) == 0
    assert _files(tmp_path / "run") == before
    assert not (tmp_path / "no.db").exists()


@pytest.mark.parametrize("run", [{"boot_id": "before"}, {"started": "1"}, {"host": "elsewhere", "boot_id": "other"}])
def test_a_run_is_dead_when_its_process_cannot_be(tmp_path: Path, run: dict[str, Any]) -> None:
    """The host was started anew, its pid belongs to another process now, or the user says so."""
    _begun(tmp_path / "run", run=run)
    (found,) = salvage.salvage(tmp_path, ended="host" in run)
    assert "FAILED record" in found.outcome


@pytest.mark.parametrize("moment", ["before", "after"])
def test_salvaging_that_is_killed_itself_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before the record is written the samples are all there; after, the record is, and is not made again."""
    _begun(tmp_path / "run")

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        name = "mtexp.records.record." + ("write_aside" if moment == "before" else "remove_leftovers")
        patch.setattr(name, killed)
        with pytest.raises(KeyboardInterrupt):
            list(salvage.salvage(tmp_path))
    assert (tmp_path / "run" / "samples-1.bin").is_file()
    if moment == "after":
        (tmp_path / "run" / "samples-1.bin").unlink()
    (found,) = salvage.salvage(tmp_path)
    assert found.outcome.startswith("was killed" if moment == "before" else "its record was complete")
    assert len(read_samples(tmp_path / "run" / ITERATIONS)) == 2
    assert not list(tmp_path.rglob("*.bin"))


def test_salvaging_writes_over_no_record(tmp_path: Path) -> None:
    """In a folder with another run's record, even one that cannot be read, the new record gets a folder of its own."""
    old = stored(tmp_path / "whole", seed=5)
    begun, _ = _begun(tmp_path / "whole", seed=6)
    _begun(tmp_path / "broken", seed=7)
    (tmp_path / "broken" / "record.json").write_text("{")
    places = [found.directory for found in salvage.salvage(tmp_path) if found.made]
    assert places == [tmp_path / "broken" / "run-2", tmp_path / "whole" / "run-2"]
    assert load(tmp_path / "whole").record_id == old.record_id
    assert load(tmp_path / "whole" / "run-2").record_id == begun.record_id
    assert (tmp_path / "broken" / "record.json").read_text() == "{"
    assert not list(tmp_path.rglob("*.bin"))
    assert list(salvage.salvage(tmp_path)) == []


def test_a_note_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe would be waited for."""
    os.mkfifo(tmp_path / BEGUN)
    (found,) = salvage.salvage(tmp_path)
    assert not found.ok
    assert not salvage.is_running(tmp_path)


def test_the_command_salvages_and_sends_once(
    tmp_path: Path, tracking: TrackingSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    """One FAILED run in MLflow however often it is sent; queries for results do not see it."""
    _begun(tmp_path / "sweep" / "0")
    arguments = [str(tmp_path / "sweep"), "--uri", tracking.uri]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert main([str(tmp_path / "sweep"), "--uri", f"http://127.0.0.1:{nobody.getsockname()[1]}"]) == 2
    assert "Nothing was sent" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "was killed" in capsys.readouterr().out
    assert list(pending(tmp_path)) == []
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith(f"1 of 1 records are in MLflow at {tracking.uri}\n")
    (run,) = fetch.runs(uri=tracking.uri).to_dict("records")
    assert (run["status"], run["verdict"], run["failure"]) == ("FAILED", "INVALID", salvage.KILLED)
    with pytest.raises(fetch.QueryError, match="no run of 1"):
        fetch.runs("tags.`mtexp.verdict` = 'VALID'", uri=tracking.uri)


def test_what_is_no_note_or_no_buffer_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line each, exit code 1, the others are salvaged all the same; no link is followed out of the folder."""
    _begun(tmp_path / "a")
    (tmp_path / "a" / BEGUN).write_text("{")
    _begun(tmp_path / "b")
    (tmp_path / "b" / "samples-0.bin").unlink()
    (tmp_path / "b" / "samples-0.bin").symlink_to(tmp_path / "d" / "samples-0.bin")
    _begun(tmp_path / "c")
    with (tmp_path / "c" / "samples-1.bin").open("r+b") as file:
        file.write((10**9).to_bytes(8, "little"))
    _begun(tmp_path / "d")
    said = {found.directory.name: found for found in salvage.salvage(tmp_path)}
    assert "not JSON" in said["a"].outcome
    assert "leaves its folder" in said["b"].outcome
    assert "1000000000 rows" in said["c"].outcome
    assert [found.ok for found in said.values()] == [False, False, False, True]
    assert main([str(tmp_path / "a"), "--uri", f"sqlite:///{tmp_path / 'no.db'}"]) == 1
    assert "NOT salvaged" in capsys.readouterr().out


def test_a_folder_that_nobody_foresaw_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tracking: TrackingSpec
) -> None:
    """Whatever one folder raises is said of that folder; the next one is salvaged, and sent."""
    _begun(tmp_path / "a", seed=1)
    _begun(tmp_path / "b", seed=2)
    real = salvage._salvaged

    def broken(directory: Path) -> salvage.Salvage:
        if directory.name == "a":
            raise ZeroDivisionError("nobody foresaw this")
        return real(directory)

    monkeypatch.setattr(salvage, "_salvaged", broken)
    assert main([str(tmp_path), "--uri", tracking.uri]) == 1
    out = capsys.readouterr().out
    assert "a: NOT salvaged: ZeroDivisionError: nobody foresaw this" in out
    assert "1 of 1 records are in MLflow" in out


def test_a_burst_is_salvaged(tmp_path: Path) -> None:
    """All arrivals at one instant: a FAILED record without an offered rate."""
    _, samples = _begun(tmp_path / "run")
    for slot, rows in enumerate(samples.values()):
        path = tmp_path / "run" / f"samples-{slot}.bin"
        path.unlink()
        _fill(path, replace(rows, arrival_ns=np.full(len(rows), int(rows.start_ns.min()))))
    (found,) = salvage.salvage(tmp_path)
    assert found.ok
    record = load(tmp_path / "run")
    assert all("offered_rps" not in tenant.metrics for tenant in record.tenants)
    assert "no-offered-rate" in {finding.code for finding in record.findings}


def test_the_events_of_a_churn_run_are_salvaged(tmp_path: Path) -> None:
    """With their figures, as they were seen; a line that was cut off is left out, the folders of processes go."""
    folder = tmp_path / "run"
    _, samples = _begun(folder, kind="churn")
    (folder / "steady-0").mkdir()
    for slot in range(2):
        (folder / f"samples-{slot}.bin").unlink()
    _fill(folder / "steady-0" / "samples-0.bin", samples["t0"])
    for number in range(31):
        kill = Event(kind="kill", cycle=number, start_ns=number, done_ns=number, end_ns=number + 1, died=("t1",))
        live_files.append(folder / EVENTS, [replace(kill, stall_ms=number + 1.0, lost=2, requests=9)])
    with (folder / EVENTS).open("a") as file:
        file.write('{"kind": "kill", "cyc')
    (found,) = salvage.salvage(tmp_path)
    assert "31 events and 20 measured" in found.outcome
    record = load(folder)
    assert (record.status, len(record.events), record.events[0].died) == ("FAILED", 31, ("t1",))
    assert record.metrics["churn_kill_stall_p50_ms"] == 16
    assert record.metrics["churn_kill_stall_p50_ms_ci_low"] < 16
    assert record.metrics["churn_kill_steady_died_pct"] == 0
    assert record.metrics["churn_kill_lost"] == 62
    assert "churn_kill_p99_ms" not in record.metrics
    assert set(read_samples(folder / ITERATIONS)) == {"t0"}
    assert not (folder / "steady-0").exists()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def note(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("note")
    _begun(folder)
    return json.loads((folder / BEGUN).read_text())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_note_is_a_note_or_refused(tmp_path: Path, note: dict[str, Any], data: st.DataObject) -> None:
    """Whatever stands in it: one line, never another exception, and nothing outside the folder."""
    changed = {key: dict(value) if isinstance(value, dict) else value for key, value in note.items()}
    place = data.draw(st.sampled_from(sorted(changed)))
    inner = changed[place]
    if isinstance(inner, dict) and data.draw(st.booleans()):
        inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(_JSON)
    else:
        changed[place] = data.draw(_JSON)
    text = json.dumps(changed).encode() if data.draw(st.booleans()) else data.draw(st.binary(max_size=60))
    (tmp_path / BEGUN).write_bytes(text)
    (found,) = salvage.salvage(tmp_path, ended=True)
    assert found.outcome
    assert salvage.is_running(tmp_path) in (True, False)


def test_a_disk_that_cannot_be_written_is_left_to_the_run(tmp_path: Path) -> None:
    """Its own message is the better one."""
    (tmp_path / "file").write_text("")
    record, _ = example()
    salvage.begin(record, tmp_path / "file" / "run")
    with pytest.raises(RecordError):
        load(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]

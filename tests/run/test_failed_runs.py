"""Runs that fail, are tried again, resumed or interrupted: what is on disk, in MLflow and on the terminal."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mtexp.launch import TenantGroup
from mtexp.records.files import find_records
from mtexp.records.record import load
from mtexp.records.salvage import KILLED
from mtexp.records.samples_file import read_iterations
from mtexp.telemetry import Sampler
from mtexp.tenant.buffers import SampleBuffer
from mtexp.terminal import cli
from mtexp.testing.faults import BUILD, Fault
from mtexp.tracking import upload
from tests.launch.conftest import forked
from tests.run.run_helpers import ENDLESS, ON_THE_CPU, Workplace, kind

pytestmark = pytest.mark.process

ALONE = "baseline=skip"
FAILS = {"b": Fault(kind="kill", at=20)}
"""The second tenant of ``mix=pair`` is killed while it measures."""


def when_measured(folder: Path, iterations: int, action: Callable[[], Any]) -> Callable[[str], None]:
    """A phase hook: once every tenant of the run in ``folder`` has measured so many, do this."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while _measured(folder) < iterations and time.monotonic() < deadline:
            time.sleep(0.02)
        action()

    def hook(text: str) -> None:
        if text == "measuring":
            threading.Thread(target=wait).start()

    return hook


def test_a_failed_run_is_kept_and_the_sweep_goes_on_and_is_resumed(workplace: Workplace) -> None:
    """FAILED with its reason and what had been measured; the other point runs; resumed, only the failed one runs."""
    points = ("-m", "mix=pair,solo", ALONE, "sweep=s")
    ran = workplace.run(*points, faults=FAILS)
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert "1 of 2 runs failed, 0 did not run" in ran.out
    assert "tenant b failed in measure: the process was ended by SIGKILL" in ran.out
    summary = ran.out[ran.out.rindex("mps_settings") :].splitlines()
    assert [line.split()[-1] for line in summary[1:3]] == ["FAILED", "VALID"]

    record = workplace.records("multirun/s")["0"]
    assert (record.status, record.verdict) == ("FAILED", "INVALID")
    assert {t.id: (t.status, t.phase) for t in record.tenants} == {"a": ("FINISHED", ""), "b": ("FAILED", "measure")}
    frame = read_iterations(workplace.folder / "multirun/s/0/iterations.parquet")
    measured = frame[frame["phase"] == "measure"].groupby("tenant", observed=True).size()
    assert measured["b"] == 17
    assert measured["a"] > 0

    (run,) = workplace.mlflow_runs("attributes.status = 'FAILED' AND params.mix = 'pair' AND " + kind("mix"))
    assert "ended by SIGKILL" in run.data.tags["mtexp.failure"]
    assert "tenant b failed" in run.data.tags["mtexp.verdict_reasons"]
    children = workplace.children(run)
    assert {name: child.info.status for name, child in children.items()} == {"a": "FINISHED", "b": "FAILED"}
    assert children["b"].data.metrics["iterations_measured"] == 17

    ran = workplace.run(*points, "resume=true")
    assert ran.code == 0
    assert "solo: done before, skipped (resume=true)" in workplace.phases
    assert workplace.phases.count("measuring") == 1
    records = workplace.records("multirun/s")
    assert {place: r.status for place, r in records.items()} == {"0": "FAILED", "0/run-2": "FINISHED", "1": "FINISHED"}
    assert len(workplace.mlflow_runs(kind("mix"))) == 3

    assert workplace.run(*points, "resume=true").code == 0
    assert "measuring" not in workplace.phases


def test_retries_are_counted_and_visible(workplace: Workplace) -> None:
    """The second attempt counts as one, the first stays as what it was; exit code 0."""
    fault = Fault(kind="raise", at=BUILD, once=str(workplace.folder / "once"))
    ran = workplace.run("mix=solo", ALONE, "retries=1", "sweep=s", faults={"a": fault})
    assert ran.code == 0
    assert any(text.startswith("attempt 1 of 2 failed, trying again: tenant a failed") for text in workplace.phases)
    records = workplace.records("outputs/s")
    assert {place: (r.attempt, r.status) for place, r in records.items()} == {
        ".": (1, "FAILED"),
        "attempt-2": (2, "FINISHED"),
    }
    runs = workplace.mlflow_runs(kind("mix"))
    assert {run.data.tags["mtexp.attempt"]: run.info.status for run in runs} == {"1": "FAILED", "2": "FINISHED"}


def test_a_failed_baseline_is_said_and_compared_with_nothing(workplace: Workplace) -> None:
    """The baseline's record is FAILED, the mix runs, warns, and has no slowdown."""
    fault = Fault(kind="raise", at=BUILD, once=str(workplace.folder / "once"))
    ran = workplace.run("mix=solo", "sweep=s", faults={"bert_base": fault})
    assert ran.code == 0
    assert "a has no VALID baseline: nothing to compare with" in ran.out
    records = workplace.records("outputs/s")
    assert records["."].status == "FINISHED"
    assert "slowdown" not in records["."].tenants[0].metrics
    assert [r.status for place, r in records.items() if place != "."] == ["FAILED"]


def test_repetitions_are_runs_of_their_own(workplace: Workplace) -> None:
    """Fresh processes, the same point, told apart by a tag; arrivals differ."""
    open_loop = ("arrival=poisson", "arrival.rate=200", "measure.iterations=12")
    assert workplace.run("mix=solo", ALONE, "repetitions=2", "sweep=s", *open_loop).code == 0
    records = list(workplace.records("multirun/s").values())
    assert [r.run_spec.repetition for r in records] == [0, 1]
    assert len({r.tenants[0].facts_before["pid"] for r in records}) == 2
    assert len({r.run_spec.tenants[0].arrival.seed for r in records}) == 2
    runs = workplace.mlflow_runs(kind("mix"))
    assert sorted(run.data.tags["mtexp.repetition"] for run in runs) == ["0", "1"]


def test_a_drifting_baseline_makes_a_run_invalid(workplace: Workplace) -> None:
    """A-B-A: the baseline is measured again after the mix; too far apart, the run is INVALID, finished, and redone
    only when asked for."""
    workplace.patch.setattr("mtexp.metrics.verdict.BASELINE_DRIFT_LIMIT_PCT", -1.0)  # no two are so equal
    workplace.patch.setattr("mtexp.running.runner.recheck_noise_pct", lambda *_: 0.0)
    point = ("mix=solo", "baseline.recheck=true", "sweep=s")
    ran = workplace.run(*point)
    assert ran.code == 0
    assert "INVALID" in ran.out
    records = workplace.records("outputs/s")
    record = records["."]
    assert (record.status, record.verdict) == ("FINISHED", "INVALID")
    assert "baseline-drift" in {finding.code for finding in record.findings}
    before, again = (r for place, r in records.items() if place != ".")
    assert before.baseline_hash == again.baseline_hash
    means = [r.tenants[0].metrics["latency_mean_ms"] for r in (before, again)]
    assert record.tenants[0].metrics["baseline_drift_pct"] == pytest.approx(100 * (means[1] / means[0] - 1))
    (run,) = workplace.mlflow_runs(kind("mix"))
    assert (run.data.tags["mtexp.verdict"], run.info.status) == ("INVALID", "FINISHED")
    assert workplace.run(*point, "resume=true").code == 0
    assert "measuring" not in workplace.phases


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")],
)
def test_an_interrupted_run_is_kept(workplace: Workplace, number: int, code: int, said: str) -> None:
    """Tenants are stopped in order, samples and reason on disk and in MLflow, no further point. (SIGHUP: a terminal
    that is closed, in another test.)"""
    ran = workplace.run(
        "-m",
        "mix=pair,solo",
        ALONE,
        "sweep=s",
        *ENDLESS,
        on_phase=when_measured(workplace.folder / "multirun/s/0", 5, lambda: os.kill(os.getpid(), number)),
    )
    assert ran.code == code
    assert "Traceback" not in ran.err
    assert f"FAILED: interrupted: {said}" in ran.out
    assert f"1 of 2 runs failed, 1 did not run: interrupted by {said}" in ran.out
    assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    (record,) = workplace.records("multirun/s").values()
    assert (record.status, record.failure) == ("FAILED", f"interrupted: {said}")
    assert [t.status for t in record.tenants] == ["FINISHED", "FINISHED"]
    frame = read_iterations(workplace.folder / "multirun/s/0/iterations.parquet")
    assert (frame[frame["phase"] == "measure"].groupby("tenant", observed=True).size() > 0).all()
    (run,) = workplace.mlflow_runs(kind("mix"))
    assert (run.info.status, run.data.tags["mtexp.failure"]) == ("FAILED", f"interrupted: {said}")


@pytest.mark.parametrize("moment", ["while the sampler stops", "while the tenants stop"])
def test_interrupting_twice_ends_at_once(workplace: Workplace, moment: str) -> None:
    """A deaf tenant is not waited for; the record is on disk, MLflow is left for later, and takes it then."""
    stop_sampler, stop_tenants = Sampler.stop, TenantGroup._stop_in_order

    def again_at_once(sampler: Sampler) -> Any:
        signal.raise_signal(signal.SIGINT)
        return stop_sampler(sampler)

    def again_soon(group: TenantGroup) -> None:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        stop_tenants(group)

    if moment == "while the sampler stops":
        workplace.patch.setattr(Sampler, "stop", again_at_once)
    else:
        workplace.patch.setattr(TenantGroup, "_stop_in_order", again_soon)
    begin = time.monotonic()
    ran = workplace.run(
        "mix=pair",
        ALONE,
        "sweep=s",
        "deadlines.stop_s=120",
        *ENDLESS,
        faults={"b": Fault(kind="hang", at=20)},
        on_phase=when_measured(workplace.folder / "outputs/s", 17, lambda: os.kill(os.getpid(), signal.SIGINT)),
    )
    assert ran.code == 130
    assert time.monotonic() - begin < 60
    assert "1 record is not in MLflow" in ran.out
    record = workplace.records("outputs/s")["."]
    assert record.failure == "interrupted: Ctrl-C"
    assert record.tenants[1].metrics["iterations_measured"] == 17
    assert upload.main(["outputs/s"]) == 0
    (run,) = workplace.mlflow_runs(kind("mix"))
    assert run.info.status == "FAILED"


def _parent(folder: Path, *arguments: str) -> None:
    """A command line in a process of its own."""
    os.chdir(folder)
    os.environ["MTEXP_LEASE_DIR"] = str(folder / "lease")
    with (folder / "out").open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    cli.main([*ON_THE_CPU, "mix=pair", ALONE, "sweep=s", *arguments])


def test_a_killed_run_leaves_no_process_and_its_samples(
    tmp_path: Path, made_store: bytes, nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of the run itself: tenants and sampler end by themselves; what was measured becomes a FAILED record that
    MLflow gets once; the point can be run again, and is counted once."""
    (tmp_path / "mlflow.db").write_bytes(made_store)
    others = forked()
    run = multiprocessing.get_context("forkserver").Process(target=_parent, args=(tmp_path, *ENDLESS))
    run.start()
    folder = tmp_path / "outputs/s"
    monkeypatch.chdir(tmp_path)
    deadline = time.monotonic() + 60
    while not (folder / "board.bin").is_file() or _measured(folder) < 50:
        assert time.monotonic() < deadline, (tmp_path / "out").read_text()
        time.sleep(0.05)
    tenants = forked() - others - {run.pid}
    assert len(tenants) >= 2
    assert upload.main(["outputs/s"]) == 0
    assert not (folder / "record.json").exists()
    os.kill(run.pid or 0, signal.SIGKILL)
    run.join()
    run.close()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in tenants if psutil.pid_exists(pid)], timeout=15)
    assert not alive
    assert _measured(folder) >= 50
    assert upload.main(["outputs/s"]) == upload.main(["outputs/s"]) == 0
    record = load(folder)
    assert (record.status, record.failure) == ("FAILED", KILLED)
    assert min(tenant.metrics["iterations_measured"] for tenant in record.tenants) >= 50
    assert (folder / "telemetry.parquet").is_file()
    with Workplace.at(tmp_path) as place:
        assert place.run("mix=pair", ALONE, "sweep=s", "resume=true", "telemetry=disabled").code == 0
        assert {path: r.status for path, r in place.records("outputs/s").items()} == {
            ".": "FAILED",
            "run-2": "FINISHED",
        }
        runs = place.mlflow_runs(kind("mix"))
        assert [run.info.status for run in runs] == ["FAILED", "FINISHED"]
        assert runs[0].data.tags["mtexp.failure"] == KILLED
    assert not list(tmp_path.rglob("*.bin"))


def test_a_killed_profile_leaves_the_timed_run_as_it_was(
    tmp_path: Path, made_store: bytes, nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL while the profiler's pass measures: the timed run is finished and in MLflow, of the pass nothing counts,
    and the point is not run again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(made_store)
    folder = tmp_path / "outputs/s"
    arguments = ("profiler=torch", "profiler.iterations=1000", "baseline.min_time_s=0.3")
    run = multiprocessing.get_context("forkserver").Process(target=_parent, args=(tmp_path, *arguments))
    run.start()
    deadline = time.monotonic() + 60
    while not list((folder / "profile-torch").glob("samples-1.bin")):
        assert time.monotonic() < deadline, (tmp_path / "out").read_text()
        time.sleep(0.02)
    os.kill(run.pid or 0, signal.SIGKILL)
    run.join()
    run.close()
    assert [(path, load(path).status) for path in find_records(folder)] == [(folder, "FINISHED")]
    assert upload.main(["outputs/s"]) == 0
    with Workplace.at(tmp_path) as place:
        assert [run.info.status for run in place.mlflow_runs(kind("mix"))] == ["FINISHED"]
        assert place.mlflow_runs(kind("profile")) == []
        assert place.run("mix=pair", ALONE, "sweep=s", *arguments, "resume=true").code == 0
        assert "measuring" not in place.phases


def _measured(folder: Path) -> int:
    return min(len(SampleBuffer(path).samples().measured) for path in folder.glob("samples-*.bin"))

"""The sampling loop on its grid, and the sampler process with its ladder."""

import contextlib
import multiprocessing
import os
import signal

import numpy as np
import psutil
import pytest

from mtexp.errors import HostError
from mtexp.spec import TelemetrySpec
from mtexp.telemetry import sampler
from mtexp.telemetry.gpu import POLLED, GpuProbe
from mtexp.telemetry.probes import FAST, GPM, RARE, CpuProbe, Probes
from mtexp.telemetry.sampler import Sampler, open_sampler, sample
from mtexp.telemetry.table import Table, load
from mtexp.testing.nvml import FakeGpu, FakeNvml

MS = 1_000_000
PERIODS_NS = {FAST: 50 * MS, GPM: 250 * MS, RARE: 1000 * MS}


class Scripted:
    """A probe that takes a given time to read and counts its readings; a clock and a wait to go with it."""

    def __init__(self, read_ms=0.0, stalls=()):
        self.now_ns, self.readings = 0, {FAST: [], GPM: [], RARE: []}
        self._read_ms, self._stalls = read_ms, dict(stalls)

    def columns(self):
        return {FAST: ("f",), GPM: ("g",), RARE: ("r",)}

    def open(self):
        pass

    def read(self, group):
        self.readings[group].append(self.now_ns / MS)
        if group == FAST:
            self.now_ns += round((self._read_ms + self._stalls.get(len(self.readings[FAST]), 0)) * MS)
        return [1.0]

    def notes(self):
        return {}

    def close(self):
        pass

    def clock_ns(self):
        return self.now_ns

    def stop_after(self, seconds):
        def stopped(wait_s):
            self.now_ns += round(wait_s * 1e9)
            return self.now_ns >= seconds * 1e9

        return stopped


def _run(probe, seconds):
    table = Table(probe.columns(), rows=4)
    return table, sample(probe, table, PERIODS_NS, probe.stop_after(seconds), probe.clock_ns)


def test_each_group_is_read_at_its_own_rate_and_once_more_at_the_end():
    """Fast values 20 times a second, GPM 4 times, costly ones once; all at the start and at the end."""
    probe = Scripted()
    table, missed = _run(probe, 2.0)

    assert probe.readings[FAST] == [50.0 * n for n in range(40)] + [2000.0]
    assert probe.readings[GPM] == [250.0 * n for n in range(8)] + [2000.0]
    assert probe.readings[RARE] == [0.0, 1000.0, 2000.0]
    assert (len(table), missed) == (41, 0)


def test_slow_reading_does_not_make_the_grid_drift():
    """A reading of 7 ms leaves the schedule where it was: no period becomes 57 ms."""
    probe = Scripted(read_ms=7)
    _run(probe, 2.0)

    assert probe.readings[FAST][:-1] == [50.0 * n for n in range(40)]


def test_missed_grid_points_are_left_out_and_counted():
    """After a stall sampling goes on with the grid; nothing is read twice to catch up, and the gap is on record."""
    probe = Scripted(stalls={3: 170})
    _, missed = _run(probe, 1.0)

    assert probe.readings[FAST][:6] == [0.0, 50.0, 100.0, 270.0, 300.0, 350.0]
    assert missed == 2


def test_two_probes_are_read_as_one():
    """GPU and host values share rows, in the order of the columns; notes are joined."""
    lib = FakeNvml(FakeGpu(values={"gpu_power_w": 680.0}))
    both = Probes(GpuProbe(FakeGpu().uuid, {}, lib=lib), CpuProbe({"a": os.getpid()}, GPM))
    both.open()
    try:
        names, values = both.columns()[GPM], both.read(GPM)
        fast = dict(zip(both.columns()[FAST], both.read(FAST), strict=True))
    finally:
        both.close()

    assert len(names) == len(values)
    assert dict(zip(names, values, strict=True))["tenant_memory_mib/a"] > 1
    assert fast["gpu_power_w"] == 680
    assert "absent" in both.notes()


def test_one_probe_that_cannot_open_closes_the_other():
    """When the second probe fails the first gives back what it holds."""
    lib = FakeNvml(FakeGpu())
    broken = GpuProbe("GPU-nowhere", {}, lib=lib)
    with pytest.raises(HostError):
        Probes(GpuProbe(FakeGpu().uuid, {}, lib=lib), broken).open()

    assert lib.sessions == 0


def test_vanished_tenant_is_absent_not_zero():
    """A tenant whose process is gone has no CPU use or memory any more."""
    child = multiprocessing.get_context("spawn").Process(target=int)
    child.start()
    pid = child.pid
    child.join()
    probe = CpuProbe({"a": pid})
    probe.open()

    assert np.isnan(probe.read(GPM)).all()
    assert len(probe.read(GPM)) == len(probe.columns()[GPM]) == 2


def test_disabled_sampler_does_nothing(tmp_path):
    """telemetry.enabled=false starts no process, writes no file, finds nothing."""
    with open_sampler(TelemetrySpec(enabled=False), "gpu", "GPU-x", {}, tmp_path / "t.parquet") as sampler:
        assert sampler.pid is None
        assert sampler.stop() == ()

    assert list(tmp_path.iterdir()) == []


# --- real processes ---------------------------------------------------------------------------------------------------

PERIODS_S = {FAST: 0.01, GPM: 0.2, RARE: 1.0}
SPAWN = multiprocessing.get_context("spawn")


def _gone(pid):
    return not psutil.pid_exists(pid)


@pytest.mark.process
def test_sampler_process_writes_what_it_sampled(tmp_path):
    """A GPU sampler in its own process leaves a readable file and no process."""
    path = tmp_path / "telemetry.parquet"
    lib = FakeNvml(FakeGpu(values=dict.fromkeys(POLLED, 42.0)))
    probe = Probes(GpuProbe(FakeGpu().uuid, {"a": 1}, lib=lib), CpuProbe({"a": os.getpid()}, GPM))
    with Sampler(probe, path, PERIODS_S, core=min(os.sched_getaffinity(0)), context=SPAWN) as sampler:
        pid = sampler.pid
        findings = sampler.stop()

    found = load(path)
    assert findings == ()
    assert _gone(pid)
    assert set(found.columns["gpu_power_w"]) == {42.0}
    assert (np.diff(found.times_ns) > 0).all()
    assert found.notes["periods_ms"] == {FAST: 10.0, GPM: 200.0, RARE: 1000.0}
    assert found.notes["absent"]["field 74"] == "Not Supported"


@pytest.mark.process
@pytest.mark.parametrize(("mps", "told"), [(False, {"a": 40.0}), (True, {})])
def test_a_gpu_run_asks_for_the_utilisation_of_tenants_only_without_mps(tmp_path, monkeypatch, mps, told):
    """What open_sampler chooses for a GPU: NVML, the host beside it, utilisation by tenant where it means something."""
    gpu = FakeGpu(values=dict.fromkeys(POLLED, 42.0), process_util=[(os.getpid(), 40)], compute=[(os.getpid(), 2**30)])
    monkeypatch.setattr("mtexp.telemetry.gpu.pynvml", FakeNvml(gpu))
    path, fork = tmp_path / "telemetry.parquet", multiprocessing.get_context("fork")  # the child has the fake, too
    with open_sampler(TelemetrySpec(), "gpu", gpu.uuid, {"a": os.getpid()}, path, mps=mps, context=fork) as sampler:
        assert sampler.stop() == ()

    columns = load(path).columns
    found = {name.partition("/")[2]: values for name, values in columns.items() if name.startswith("tenant_gpu_util")}
    assert {name: np.nanmax(values) for name, values in found.items()} == told
    assert np.nanmax(columns["tenant_gpu_memory_mib/a"]) == 1024
    assert {"gpu_power_w", "memory_used_mib", "tenant_memory_mib/a"} <= set(columns)


@pytest.mark.process
def test_sampler_that_cannot_start_is_a_finding(tmp_path):
    """No such GPU: the run goes on, with a warning that carries the reason."""
    probe = GpuProbe("GPU-nowhere", {}, lib=FakeNvml(FakeGpu()))
    with Sampler(probe, tmp_path / "t.parquet", PERIODS_S, context=SPAWN) as sampler:
        findings = sampler.stop()

    assert [(f.level, f.code) for f in findings] == [("warning", "telemetry-missing")]
    assert "GPU-nowhere" in findings[0].message
    assert sampler.stop() == findings


def test_sampler_that_is_killed_while_it_is_started_is_a_finding(tmp_path, monkeypatch):
    """Before it has read what it is to do: the pipe to it breaks, and the run goes on."""

    def broken(process):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sampler, "Started", broken)
    with open_sampler(TelemetrySpec(), "cpu", "", {}, tmp_path / "telemetry.parquet") as opened:
        (finding,) = opened.stop()
    assert (finding.level, finding.code) == ("warning", "telemetry-missing")
    assert "Broken pipe" in finding.message


@pytest.mark.process
def test_killed_sampler_is_a_finding(tmp_path):
    """SIGKILL of the sampler does not end the run; the finding says how it died."""
    with Sampler(CpuProbe({}), tmp_path / "t.parquet", PERIODS_S, context=SPAWN) as sampler:
        os.kill(sampler.pid, signal.SIGKILL)
        findings = sampler.stop()

    assert "died (exit code -9)" in findings[0].message


@pytest.mark.process
def test_file_that_cannot_be_written_is_a_finding(tmp_path):
    """A folder that is gone (a full disk alike) costs the telemetry, not the run."""
    with Sampler(CpuProbe({}), tmp_path / "gone" / "t.parquet", PERIODS_S, context=SPAWN) as sampler:
        findings = sampler.stop()

    assert "t.parquet" in findings[0].message


@pytest.mark.process
def test_error_in_the_run_still_writes_the_file_and_ends_the_process(tmp_path):
    """What was sampled until a tenant failed is on disk, and no process is left."""
    sampler = Sampler(CpuProbe({}), tmp_path / "t.parquet", PERIODS_S, context=SPAWN)
    pids = []

    def fail():
        with sampler:
            pids.append(sampler.pid)
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert _gone(*pids)
    assert len(load(tmp_path / "t.parquet").times_ns) >= 2


def _run_and_die(path, report):
    with Sampler(CpuProbe({}), path, PERIODS_S, context=multiprocessing.get_context("forkserver")) as sampler:
        report.send(sampler.pid)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.process
def test_sampler_ends_with_its_parent(tmp_path):
    """SIGKILL of the parent: the sampler writes what it has and goes."""
    ours, theirs = SPAWN.Pipe()
    parent = SPAWN.Process(target=_run_and_die, args=(tmp_path / "t.parquet", theirs))
    parent.start()
    theirs.close()
    assert ours.poll(30)
    pid = ours.recv()
    parent.join(30)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(30)

    assert len(load(tmp_path / "t.parquet").times_ns) >= 2

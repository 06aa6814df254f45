"""What a window of a fraction of a second comes to, from NVML's answers to the summary."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtexp.telemetry.gpu import GpuProbe
from mtexp.telemetry.probes import FAST, GPM, RARE
from mtexp.telemetry.sampler import sample
from mtexp.telemetry.summary import TelemetrySummary, read
from mtexp.telemetry.table import Table
from mtexp.testing.nvml import FakeGpu, FakeNvml, Values

S = 1_000_000_000
PERIODS_NS = {FAST: S // 20, GPM: S // 4, RARE: S}
IDLE_W, BUSY_W = 100.0, 600.0


class Bench:
    """A GPU that is busy from ``begin_s`` to ``end_s`` and sampled from 0 until just after, on a clock of its own."""

    def __init__(self, begin_s: float, end_s: float, absent: tuple[str, ...] = (), tenants: tuple[str, ...] = ()):
        self.begin_ns, self.end_ns, self.now_ns = round(begin_s * S), round(end_s * S), 0
        self._absent, self._pids = absent, {name: pid for pid, name in enumerate(tenants, 10)}

    def _values(self, now_ns: int) -> Values:
        busy_s = (min(max(now_ns, self.begin_ns), self.end_ns) - self.begin_ns) / S
        busy = self.begin_ns <= now_ns < self.end_ns
        values = {
            "gpu_power_w": BUSY_W if busy else IDLE_W,
            "gpu_energy_j": 1e6 + IDLE_W * now_ns / S + (BUSY_W - IDLE_W) * busy_s,
        }
        return {name: value for name, value in values.items() if name not in self._absent}

    def _stopped(self, wait_s: float) -> bool:
        self.now_ns += round(wait_s * S)
        return self.now_ns > self.end_ns

    def summary(self, folder: Path) -> TelemetrySummary:
        """Sample, write, read back over the busy time."""
        gpu = FakeGpu(values=self._values, compute=[(pid, pid * 2**30) for pid in self._pids.values()])
        probe = GpuProbe(gpu.uuid, self._pids, lib=FakeNvml(gpu, clock_ns=self._clock), clock_ns=self._clock)
        probe.open()
        table = Table(probe.columns())
        sample(probe, table, PERIODS_NS, self._stopped, self._clock)
        probe.close()
        table.write(folder / "telemetry.parquet", probe.notes())
        return read(folder / "telemetry.parquet", self.begin_ns, self.end_ns)

    def _clock(self) -> int:
        return self.now_ns


@pytest.mark.parametrize("window_s", [0.35, 0.6, 2.0])
@pytest.mark.parametrize("begin_s", [0.72, 1.0, 1.43, 1.88])
def test_energy_of_a_step_in_power(tmp_path: Path, begin_s: float, window_s: float) -> None:
    """Work that begins with the window is not thinned by the idle time before it, however short the window is."""
    found = Bench(begin_s, begin_s + window_s).summary(tmp_path)

    assert found.energy_j == pytest.approx(BUSY_W * window_s, rel=0.05)
    assert found.energy_source == "counter+power"


def test_energy_without_its_counter(tmp_path: Path) -> None:
    """The power alone gives it, and the summary says so, with the kind of power."""
    found = Bench(1.43, 1.78, absent=("gpu_energy_j",)).summary(tmp_path)

    assert found.energy_j == pytest.approx(BUSY_W * 0.35, rel=0.05)
    assert (found.energy_source, found.power_source) == ("power", "instant (field 186)")


def test_energy_without_power_needs_a_longer_window(tmp_path: Path) -> None:
    """Between two readings of the counter alone nothing tells idle from busy: no figure for a short window."""
    assert Bench(1.43, 1.78, absent=("gpu_power_w",)).summary(tmp_path).energy_j is None
    assert Bench(1.0, 5.0, absent=("gpu_power_w",)).summary(tmp_path).energy_source == "counter"


@pytest.mark.parametrize("window_s", [0.1, 0.35])
def test_memory_of_each_tenant_is_always_there(tmp_path: Path, window_s: float) -> None:
    """A window between two readings of the costly group still says what each tenant held."""
    found = Bench(1.43, 1.43 + window_s, tenants=("a", "b")).summary(tmp_path)

    assert found.tenants["a"]["tenant_gpu_memory_mib_max"] == 10 * 1024
    assert found.tenants["b"]["tenant_gpu_memory_mib_max"] == 11 * 1024

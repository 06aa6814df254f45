"""What a thread waits to enqueue, with clocks that a test turns."""

from __future__ import annotations

import time

import pytest

from mtexp.tenant.device import CpuDevice
from mtexp.tenant.lock_probe import lock_wait_pct

MS = 1_000_000


def test_time_in_which_the_thread_does_not_run_is_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests take 10 ms to enqueue, of which the thread runs 4: 60 % of their latency."""
    wall, cpu = [0], [0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: wall[0])
    monkeypatch.setattr(time, "thread_time_ns", lambda: cpu[0])

    def request() -> int:
        wall[0] += 10 * MS
        cpu[0] += 4 * MS
        return 0

    assert lock_wait_pct(request, CpuDevice().timer(), 0.1) == pytest.approx(60)


def test_a_sleeping_thread_waits() -> None:
    """With the real clocks: asleep in its request it does not run."""

    def request() -> int:
        time.sleep(0.005)
        return 0

    assert lock_wait_pct(request, CpuDevice().timer(), 0.02) > 50

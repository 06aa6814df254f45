"""How long a tenant that shares its process waits to enqueue: for Python's interpreter lock, or for a core.

May touch: the standard library. Threads of one process run Python one at a time (the global interpreter lock, GIL).
What a thread waits for it is wall time of enqueueing less CPU time of the thread; where each tenant has a core of its
own nothing else is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mtexp.tenant.device import Timer

PROBE_S = 0.3


def lock_wait_pct(request: Callable[[], int], timer: Timer, probe_s: float = PROBE_S) -> float:
    """Requests back to back for ``probe_s``, while the neighbours do the same.

    Returns:
        Share of their latency in which the thread, enqueueing, did not run, in percent.
    """
    waited_ns = total_ns = 0
    end_ns = time.monotonic_ns() + round(probe_s * 1e9)
    while time.monotonic_ns() < end_ns or not total_ns:
        start_ns, ran_ns = time.monotonic_ns(), time.thread_time_ns()
        timer.begin()
        request()
        enqueued_ns = time.monotonic_ns()
        waited_ns += max(0, enqueued_ns - start_ns - (time.thread_time_ns() - ran_ns))
        timer.end()
        total_ns += time.monotonic_ns() - start_ns
    return 100 * waited_ns / total_ns

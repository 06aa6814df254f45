"""The measuring loop. Nothing but the request stands between the time stamps; nothing is sent, logged, or allocated
that grows while it runs. May touch: the standard library; device and request are handed in.

Each loop reads the run's stop flag before an iteration and publishes its progress after one: two memory accesses, no
system call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mtexp.tenant.buffers import Board, SampleBuffer
from mtexp.tenant.device import Timer
from mtexp.tenant.outputs import Outputs

SPIN_NS = 100_000  # a timer wakes some 60 us late: sleep until this long before the instant, then spin
START_SPIN_NS = 5_000_000
"""For the common start: longer than a slice of the kernel's scheduler, so that nobody is still waiting for a core."""


def sleep_until(instant_ns: int, spin_ns: int = SPIN_NS) -> None:
    """Return at ``instant_ns`` of the monotonic clock: sleep, then spin the last 0.1 ms (or ``spin_ns``)."""
    rest = instant_ns - time.monotonic_ns() - spin_ns
    if rest > 0:
        time.sleep(rest / 1e9)
    while time.monotonic_ns() < instant_ns:
        pass


class Loop:
    """One tenant's iterations: its request, its timer, where the samples go, which outputs are kept."""

    def __init__(
        self,
        request: Callable[[], int],
        timer: Timer,
        buffer: SampleBuffer,
        board: Board,
        slot: int,
        outputs: Outputs | None = None,
    ) -> None:
        self.request, self.timer, self.buffer = request, timer, buffer
        self.board, self.slot = board, slot
        self.outputs = outputs or Outputs()
        self.rows = 0

    def warm_up(self, iterations: int) -> None:
        """Run ``iterations`` requests and keep them as warm-up."""
        self.buffer.header[1] = self.rows + iterations  # before: one that ends half way has measured nothing
        for _ in range(iterations):
            self._once()

    def measure_closed(self, iterations: int | None) -> None:
        """One request in flight, the next when the last has ended: ``iterations`` times, or until the stop flag."""
        columns = self.buffer.columns
        starts, ends = columns["start_ns"], columns["end_ns"]
        first_tokens, gpu_times = columns["first_token_ns"], columns["gpu_time_ns"]
        words, progress, header = self.board.words, self.board.slot(self.slot), self.buffer.header
        request, begin, end, gpu_time_ns = self.request, self.timer.begin, self.timer.end, self.timer.gpu_time_ns
        outputs, now = self.outputs, time.monotonic_ns
        row = first = self.rows
        last = self.buffer.capacity if iterations is None else min(first + iterations, self.buffer.capacity)
        while row < last and not words[0]:
            outputs.last = None
            start = now()
            begin()
            token = request()
            end()
            stop = now()
            starts[row], ends[row], first_tokens[row], gpu_times[row] = start, stop, token, gpu_time_ns()
            if row >= outputs.due:
                outputs.keep()
            row += 1
            progress[0] = row - first
            header[0] = row
        self.rows = row
        if row == last:
            progress[1] = 1

    def measure_open(self, arrivals_ns: Sequence[int], start_ns: int = 0) -> None:
        """Requests at the given instants after ``start_ns``, served in order, until the stop flag or the last arrival.

        A request that comes while the last one is served waits in the queue; its latency counts from its arrival.
        """
        words, progress = self.board.words, self.board.slot(self.slot)
        arrivals = self.buffer.columns["arrival_ns"]
        first = self.rows
        for offset_ns in arrivals_ns[: self.buffer.capacity - first]:
            arrival_ns = start_ns + offset_ns
            if not _wait(arrival_ns, words, progress):
                return
            arrivals[self.rows] = arrival_ns
            self._once()
            progress[0] = self.rows - first
        progress[1] = 1

    def _once(self) -> None:
        columns, row, timer, outputs = self.buffer.columns, self.rows, self.timer, self.outputs
        outputs.last = None
        start = time.monotonic_ns()
        timer.begin()
        token = self.request()
        timer.end()
        stop = time.monotonic_ns()
        columns["start_ns"][row], columns["end_ns"][row] = start, stop
        columns["first_token_ns"][row], columns["gpu_time_ns"][row] = token, timer.gpu_time_ns()
        if row >= outputs.due:
            outputs.keep()
        self.rows = self.buffer.header[0] = row + 1


def _wait(instant_ns: int, words: memoryview, progress: memoryview) -> bool:
    """Wait for ``instant_ns``; False if the stop flag was raised meanwhile (looked at every 10 ms).

    Each look is counted in ``progress``: a tenant that nobody asks for anything is idle, not stuck.
    """
    while not words[0]:
        progress[2] += 1
        rest = instant_ns - time.monotonic_ns()
        if rest <= 10_000_000:
            sleep_until(instant_ns)
            return not words[0]
        time.sleep(0.01)
    return False

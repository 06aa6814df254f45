"""The measuring loop. Nothing but the request stands between the time stamps; nothing is sent, logged, or allocated
that grows while it runs. May touch: the standard library; device and request are handed in.

Each loop reads the run's stop flag between iterations and publishes its progress after one: two memory accesses, no
system call. In a request there is one time stamp more than its start and end: when it was enqueued.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mtexp.tenant.buffers import (
    ACTIVE,
    BLOCK,
    BLOCK_END_NS,
    BLOCK_START_NS,
    CORE,
    COUNTED,
    NEVER,
    OVER,
    Board,
    SampleBuffer,
)
from mtexp.tenant.device import Timer
from mtexp.tenant.outputs import Outputs

SPIN_NS = 100_000  # a timer wakes some 60 us late: sleep until this long before the instant, then spin
GATE_S = 0.0005
"""Between two looks for the next block: only between blocks, and while the last request of one ends."""
START_SPIN_NS = 5_000_000
"""For the common start: longer than a slice of the kernel's scheduler, so that no tenant still waits for a core."""


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
        words, first, room = self.board.words, self.rows, self.buffer.capacity
        last = room if iterations is None else min(first + iterations, room)
        if not words[0]:
            self._back_to_back(first, last, lambda stop_ns: bool(words[0]))
        if self.rows == last:
            self.board.slot(self.slot)[1] = 1

    def measure_blocks(self, move: Callable[[int], None]) -> None:
        """Wait at the gate and serve the blocks that the board announces, until the stop flag.

        A tenant that is not active in a block sleeps until its end. In a block requests run back to back; those that
        start before its end count. After it they run on, uncounted, until the last request that counts has ended
        everywhere: no tenant measures without the neighbours of the block.

        Args:
            move: Moves this tenant to a CPU core.
        """
        words, own, first = self.board.words, self.board.slot(self.slot), self.rows
        seen = 0
        while not words[0] and self.rows < self.buffer.capacity:
            own[2] += 1
            if (number := words[BLOCK]) == seen:
                time.sleep(GATE_S)
                continue
            seen, start_ns, end_ns = number, words[BLOCK_START_NS], words[BLOCK_END_NS]
            if own[CORE]:
                move(own[CORE] - 1)
                own[CORE] = 0
            if own[ACTIVE] == number:
                counted = self.board.counted_words(number)
                sleep_until(start_ns)
                self._block(number, end_ns, first, counted)
            elif (rest_ns := end_ns - time.monotonic_ns()) > 0:
                time.sleep(rest_ns / 1e9)
        own[1] = self.rows == self.buffer.capacity
        own[COUNTED] = own[OVER] = NEVER  # the parent does not wait for it in a block that it does not serve

    def _block(self, number: int, end_ns: int, first: int, counted: Sequence[int]) -> None:
        words, own = self.board.words, self.board.slot(self.slot)

        def over(stop_ns: int) -> bool:
            if stop_ns >= end_ns:
                own[COUNTED] = number
                return bool(words[0]) or all(words[place] >= number for place in counted)
            return bool(words[0])

        self._back_to_back(first, self.buffer.capacity, over)
        own[COUNTED] = own[OVER] = number  # also where there was no more room

    def _back_to_back(self, first: int, last: int, over: Callable[[int], bool]) -> None:
        """One request after the other, up to row ``last``, or until ``over`` is true of the instant it ended.

        Args:
            first: Row from which on progress is counted.
            last: Row before which to stop.
            over: Asked after each request.
        """
        columns = self.buffer.columns
        starts, ends, enqueued = columns["start_ns"], columns["end_ns"], columns["enqueue_ns"]
        first_tokens, gpu_times = columns["first_token_ns"], columns["gpu_time_ns"]
        progress, header = self.board.slot(self.slot), self.buffer.header
        request, begin, end, gpu_time_ns = self.request, self.timer.begin, self.timer.end, self.timer.gpu_time_ns
        outputs, now = self.outputs, time.monotonic_ns
        row = self.rows
        while row < last:
            outputs.last = None
            start = now()
            begin()
            token = request()
            queued = now()
            end()
            stop = now()
            starts[row], enqueued[row], ends[row] = start, queued, stop
            first_tokens[row], gpu_times[row] = token, gpu_time_ns()
            if row >= outputs.due:
                outputs.keep()
            row += 1
            progress[0] = row - first
            header[0] = row
            if over(stop):
                break
        self.rows = row

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
        queued = time.monotonic_ns()
        timer.end()
        stop = time.monotonic_ns()
        columns["start_ns"][row], columns["enqueue_ns"][row], columns["end_ns"][row] = start, queued, stop
        columns["first_token_ns"][row], columns["gpu_time_ns"][row] = token, timer.gpu_time_ns()
        if row >= outputs.due:
            outputs.keep()
        self.rows = self.buffer.header[0] = row + 1


def _wait(instant_ns: int, words: memoryview, progress: memoryview) -> bool:
    """Wait for ``instant_ns``; False if the stop flag was raised meanwhile (looked at every 10 ms).

    Each look is counted in ``progress``: a tenant without requests is idle, not stuck.
    """
    while not words[0]:
        progress[2] += 1
        rest = instant_ns - time.monotonic_ns()
        if rest <= 10_000_000:
            sleep_until(instant_ns)
            return not words[0]
        time.sleep(0.01)
    return False

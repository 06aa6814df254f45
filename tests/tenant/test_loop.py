"""The measuring loop on a clock of the test's own: what is stored, when it stops, from when latency counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from mtexp.metrics.samples import Samples
from mtexp.tenant import loop as loops
from mtexp.tenant.buffers import Board, SampleBuffer
from mtexp.tenant.loop import Loop, sleep_until

MS = 1_000_000
TICK_NS = 1000
START_NS = 10**12


@dataclass
class Clock:
    """Stands for the ``time`` module: reading takes 1 us, sleeping as long as asked."""

    now_ns: int = START_NS
    sleeps: list[float] = field(default_factory=list)

    def monotonic_ns(self) -> int:
        self.now_ns += TICK_NS
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_ns += round(seconds * 1e9)


@dataclass
class Bench:
    """A loop with a request of a given length, and a device clock that says what was asked of it."""

    clock: Clock
    board: Board
    buffer: SampleBuffer
    service_ms: float = 4.0
    token_ms: float = 0.0
    on_request: Callable[[int], None] = lambda number: None
    served: int = 0
    timer_calls: list[str] = field(default_factory=list)

    def request(self) -> int:
        self.on_request(self.served)
        self.served += 1
        begun = self.clock.now_ns
        self.clock.now_ns += round(self.service_ms * MS)
        return begun + round(self.token_ms * MS) if self.token_ms else 0

    def begin(self) -> None:
        self.timer_calls.append("begin")

    def end(self) -> None:
        self.timer_calls.append("end")

    def gpu_time_ns(self) -> int:
        return round(self.service_ms * MS / 2)

    def loop(self) -> Loop:
        return Loop(self.request, self, self.buffer, self.board, 0)

    @property
    def samples(self) -> Samples:
        return self.buffer.samples()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    clock = Clock()
    monkeypatch.setattr(loops, "time", clock)
    return Bench(clock, Board(tmp_path / "b.bin", 1, create=True), SampleBuffer(tmp_path / "s.bin", 64, create=True))


def test_closed_loop_runs_back_to_back(bench: Bench) -> None:
    """N requests of the fixed protocol: latency is the request, no gap but the bookkeeping, then done."""
    bench.loop().measure_closed(5)
    samples = bench.samples
    assert len(samples) == 5
    assert samples.latency_ms == pytest.approx(4.0, abs=0.01)
    assert samples.start_ns[1:] - samples.end_ns[:-1] == pytest.approx(0, abs=0.01 * MS)
    assert samples.gpu_time_ms.tolist() == [2.0] * 5
    assert bench.timer_calls == ["begin", "end"] * 5
    assert (bench.board.measured(0), bench.board.done(0)) == (5, True)
    assert not samples.open_loop


def test_closed_loop_goes_on_until_told_to_stop(bench: Bench) -> None:
    """Sustained: the iteration during which the flag is raised is the last, and is kept."""
    bench.on_request = lambda number: bench.board.stop() if number == 7 else None
    bench.loop().measure_closed(None)
    assert bench.board.measured(0) == len(bench.samples) == 8
    assert not bench.board.done(0)


def test_warm_up_is_kept_and_not_counted_as_progress(bench: Bench) -> None:
    """Rows of the warm-up come first and are flagged; the board counts what was measured."""
    loop = bench.loop()
    loop.warm_up(3)
    loop.measure_closed(4)
    assert bench.samples.phase.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert bench.board.measured(0) == 4
    assert len(bench.samples.measured) == 4


def test_a_full_buffer_ends_the_loop(bench: Bench) -> None:
    """No room: done, instead of an overrun."""
    loop = bench.loop()
    loop.warm_up(4)
    loop.measure_closed(None)
    assert len(bench.samples) == 64
    assert bench.board.done(0)
    assert bench.board.measured(0) == 60


def test_progress_is_published_after_each_iteration(bench: Bench) -> None:
    """The parent sees every iteration that has ended, and its row."""
    seen = []
    bench.on_request = lambda number: seen.append((bench.board.measured(0), len(bench.samples)))
    bench.loop().measure_closed(4)
    assert seen == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_the_first_token_is_stored(bench: Bench) -> None:
    """As the request reports it: between start and end."""
    bench.token_ms = 1.0
    bench.loop().measure_closed(2)
    assert bench.samples.ttft_ms == pytest.approx(1.0, abs=0.01)


def arrivals(*at_ms: float) -> list[int]:
    return [START_NS + round(ms * MS) for ms in at_ms]


def test_open_loop_waits_for_each_arrival(bench: Bench) -> None:
    """A tenant that keeps up has no queue: its latency is its service time; the end of the trace is done."""
    bench.loop().measure_open(arrivals(1, 11, 21))
    samples = bench.samples
    assert samples.queue_ms == pytest.approx(0, abs=0.01)
    assert samples.latency_ms == pytest.approx(4.0, abs=0.02)
    assert (bench.board.measured(0), bench.board.done(0)) == (3, True)


def test_latency_counts_from_the_intended_arrival(bench: Bench) -> None:
    """Requests that come while another is served queue up: no coordinated omission."""
    bench.service_ms = 25.0
    bench.loop().measure_open(arrivals(0, 10, 20, 30))
    samples = bench.samples
    assert (samples.arrival_ns - START_NS).tolist() == [0, 10 * MS, 20 * MS, 30 * MS]
    assert samples.queue_ms == pytest.approx([0, 15, 30, 45], abs=0.1)
    assert samples.latency_ms == pytest.approx([25, 40, 55, 70], abs=0.1)
    assert samples.service_ms == pytest.approx(25, abs=0.01)
    assert samples.open_loop


def test_the_stop_flag_ends_the_wait_for_an_arrival(bench: Bench) -> None:
    """Within 10 ms, without serving the request that had not come."""
    bench.clock.sleep = lambda seconds: (Clock.sleep(bench.clock, seconds), bench.board.stop())[0]
    bench.loop().measure_open(arrivals(60_000))
    assert len(bench.samples) == 0
    assert not bench.board.done(0)
    assert bench.clock.now_ns - START_NS < 30 * MS


def test_an_idle_tenant_shows_signs_of_life(bench: Bench) -> None:
    """While nothing arrives the count of signs grows: idle is not stuck."""
    signs = []
    bench.on_request = lambda number: signs.append(bench.board.heartbeat(0))
    bench.loop().measure_open(arrivals(500, 1000))
    assert signs[0] >= 40
    assert signs[1] >= signs[0] + 40


def test_open_loop_never_overruns_its_buffer(bench: Bench) -> None:
    """Arrivals beyond the room are not served."""
    bench.loop().measure_open(arrivals(*range(0, 1000, 10)))
    assert len(bench.samples) == 64
    assert bench.board.done(0)


def test_sleeping_ends_on_time(bench: Bench) -> None:
    """Sleep until 0.1 ms before, then look at the clock: a timer wakes late."""
    sleep_until(START_NS + 5 * MS)
    assert 0 <= bench.clock.now_ns - (START_NS + 5 * MS) <= 2 * TICK_NS
    assert np.sum(bench.clock.sleeps) == pytest.approx(0.0049, abs=1e-5)
    sleep_until(START_NS)
    assert len(bench.clock.sleeps) == 1


class TestBlocks:
    """The gate and the blocks of a crossover run."""

    def blocks(
        self, bench: Bench, *blocks: tuple[float, float, bool], cores: dict[int, int] | None = None
    ) -> list[int]:
        """Announce blocks (start and end in ms, active or not) one after the other, each when the last is over, then
        the stop; returns the cores that the tenant moved to."""
        waiting = list(enumerate(blocks, 1))
        moved: list[int] = []

        def announce(seconds: float) -> None:
            Clock.sleep(bench.clock, seconds)
            if seconds != loops.GATE_S:
                return
            if not waiting:
                bench.board.stop()
                return
            number, (start, end, active) = waiting.pop(0)
            instants = (START_NS + round(at * MS) for at in (start, end))
            bench.board.open_block(number, *instants, [0] if active else [], cores or {})

        bench.clock.sleep = announce  # type: ignore[method-assign]
        bench.loop().measure_blocks(moved.append)
        return moved

    def test_requests_run_from_the_start_of_a_block_to_its_end(self, bench: Bench) -> None:
        """Back to back; the one that is in flight at the end is the last."""
        self.blocks(bench, (10, 30, True))
        starts = (bench.samples.start_ns - START_NS) / MS
        assert starts == pytest.approx([10, 14, 18, 22, 26], abs=0.1)

    def test_an_idle_tenant_sleeps_through_the_block(self, bench: Bench) -> None:
        """One sleep to its end, no request, and it is there for the next."""
        self.blocks(bench, (10, 30, False), (40, 50, True))
        assert max(bench.clock.sleeps) == pytest.approx(0.029, abs=0.002)
        assert (bench.samples.start_ns[0] - START_NS) / MS == pytest.approx(40, abs=0.1)

    def test_it_moves_to_its_core_before_the_block(self, bench: Bench) -> None:
        """Once."""
        assert self.blocks(bench, (10, 20, True), cores={0: 5}) == [5]

    def test_it_runs_on_until_every_neighbour_has_ended_what_counts(self, tmp_path: Path, bench: Bench) -> None:
        """Those requests come after the end of the block, and do not count."""
        bench.board = Board(tmp_path / "two.bin", 2, create=True)
        neighbour = bench.board.slot(1)
        neighbour[3] = 1  # active in block 1

        def slow_neighbour(number: int) -> None:
            if number == 7:
                neighbour[5] = 1  # what counts of it has ended

        bench.on_request = slow_neighbour
        self.blocks(bench, (10, 30, True))
        assert len(bench.samples) == 8

    def test_a_full_buffer_does_not_keep_the_neighbours_waiting(self, bench: Bench) -> None:
        """It has left the block, and every later one, and is done."""
        self.blocks(bench, (10, 1000, True))
        assert len(bench.samples) == 64
        assert bench.board.left(0) > 1
        assert bench.board.done(0)

    def test_the_enqueue_stamp_lies_between_start_and_end(self, bench: Bench) -> None:
        """It is taken when the request returns, before the device is waited for."""
        self.blocks(bench, (10, 20, True))
        samples = bench.samples
        assert (samples.start_ns < samples.enqueue_ns).all()
        assert (samples.enqueue_ns < samples.end_ns).all()
        assert samples.enqueue_ms == pytest.approx(4.0, abs=0.02)

"""The client of a server as a tenant: it asks, stamps and counts, and measures its own lag. May touch: asyncio, torch's
version; never the device.

It has the place of a tenant's process: the same commands, board, samples and blocks. A request is sent at once when it
is due: in closed loop when the one before it in its slot has been answered, in open loop at its arrival, however many
are in flight. How late it was sent, and how long the kernel had this process wait for a core, is the client's own lag.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mtexp.tenant import arrivals
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
from mtexp.tenant.http import Answer, Connection, tokens_of
from mtexp.tenant.job import ProcessJob, TenantJob
from mtexp.tenant.loop import GATE_S, sleep_until
from mtexp.tenant.surroundings import library_versions
from mtexp.tenant.texts import requests_of

MOST_IN_FLIGHT = 512
"""Requests in flight in open loop where no bound is given: a connection each."""
_SPIN_NS = 1_500_000
"""A wait of asyncio is rounded up to a millisecond: sleep until this long before the instant, then look."""
_SETTLE_S = 0.002
_KEPT = 100
Over = Callable[[int, int], bool]
"""Whether a slot sends no more requests, from its number and the instant of its last answer."""


class ServedTenant:
    """One tenant whose requests a server answers; it has the methods of a tenant of this process.

    Args:
        job: Whose model is a server, with the URL that it answers at.
        process: The job of this process.
        board: Of the run.
    """

    stream = None

    def __init__(self, job: TenantJob, process: ProcessJob, board: Board) -> None:
        assert job.tenant.model.server is not None
        self.id, self.spec, self.process, self._job = job.tenant.id, job.tenant, process, job
        self.server = job.tenant.model.server
        self.buffer = SampleBuffer(Path(job.samples))
        self.board, self._own = board, board.slot(job.slot)
        self.error: Exception | None = None
        self.rows = 0
        self._issued = 0
        self._first = 0
        self._requests: list[bytes] = []
        self._arrivals_ns: list[int] = []
        self._made: list[Connection] = []
        self._idle: list[Connection] = []
        self._loop = asyncio.new_event_loop()
        self._lag = _Lag()
        self._sizes = job.tenant.arrival.lengths.sizes
        self._answers: deque[tuple[Answer, int]] = deque(maxlen=_KEPT)
        """The newest ones, and how many tokens each was asked for."""
        self._thread_id = 0

    @property
    def concurrency(self) -> int:
        """Requests in flight in closed loop."""
        return self.server.concurrency or 1

    # what the parent asks for

    def build(self) -> None:
        """Make the requests, and draw the arrivals."""
        self.guarded(lambda tenant: tenant._build())

    def _build(self) -> None:
        self._requests = requests_of(self.spec, self._job.url, self._job.values)
        self.buffer.prefault()
        if self.spec.arrival.kind != "closed":
            count = self.process.measure.max_iterations
            self._arrivals_ns = arrivals.arrival_instants_ns(self.spec.arrival, 0, count)

    def warm_up(self) -> None:
        """The warm-up requests, as many in flight as in the window."""
        count = self.server.warmup or self.process.measure.warmup
        self.buffer.header[1] = self.rows + count
        self._run(self._closed(self.rows + count, lambda slot, end_ns: False))

    def measure(self, start_ns: int) -> None:
        """Ask from ``start_ns`` until the run's stop flag, N times in the fixed protocol, or block by block."""
        measure, words = self.process.measure, self.board.words
        self._first, room = self.rows, self.buffer.capacity
        if measure.design == "crossover":
            self._run(self._blocks())
            return
        sleep_until(start_ns)
        self._lag.begin()
        if self.spec.arrival.kind != "closed":
            self._run(self._open(start_ns))
        else:
            last = min(self._first + measure.iterations, room) if measure.overlap == "fixed" else room
            self._run(self._closed(last, lambda slot, end_ns: bool(words[0])))
            self._own[1] = self.rows == last
        self._lag.end()

    def check_outputs(self) -> None:
        """Nothing: an answer is a success or an error, and no more is known of it."""

    def probe_busy(self) -> None:
        """Nothing: the device is another process's."""

    def leave(self) -> None:
        """Nothing: the server is ended by the parent."""

    def close(self) -> None:
        """Close the connections."""
        for connection in self._made:
            connection.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def facts(self) -> dict[str, Any]:
        """What this process is, and what it knows of its own lag and of the answers."""
        facts: dict[str, Any] = {
            "pid": os.getpid(),
            "thread_id": self._thread_id,
            "device_name": "client",
            "cores": sorted(os.sched_getaffinity(0)),
            **library_versions(),
            **self._lag.facts(closed=self.spec.arrival.kind == "closed"),
        }
        if self._answers and self.server.api in ("completions", "chat"):
            counts = [tokens_of(bytes(answer.body)) for answer, _ in self._answers]
            facts |= {"answer_tokens_min": min(counts), "answer_tokens_max": max(counts)}
            facts["answers_off"] = sum(count != asked for count, (_, asked) in zip(counts, self._answers, strict=True))
        elif self._answers:
            sizes = [len(answer.body) for answer, _ in self._answers]
            facts |= {"answer_bytes_min": min(sizes), "answer_bytes_max": max(sizes)}
        return facts

    def guarded(self, action: Callable[[Any], None]) -> None:
        """Run ``action``; an error leaves with the tenant's id on it."""
        self._thread_id = threading.get_native_id()
        try:
            action(self)
        except Exception as error:
            error.tenant = self.id  # type: ignore[attr-defined]
            raise

    def on_own_stream(self, action: Callable[[Any], None]) -> None:
        """As :meth:`guarded`: a server is the only tenant of its process."""
        self.guarded(action)

    # loops

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        async def settled() -> None:
            await asyncio.sleep(_SETTLE_S)  # what the server has closed meanwhile is seen before it is used
            await work

        self._loop.run_until_complete(settled())

    async def _closed(self, last: int, over: Over, due_ns: int = 0) -> None:
        """As many in flight as :attr:`concurrency`, each the next when one ends, until row ``last`` or ``over``."""
        self._issued = self.rows
        due_ns = due_ns or time.monotonic_ns()

        async def serve(slot: int) -> None:
            connection, due = self._connection(), due_ns
            while self._issued < last:
                due = await self._ask(connection, due)
                if over(slot, due):
                    break
            self._idle.append(connection)

        await _all(serve(slot) for slot in range(min(self.concurrency, max(0, last - self.rows))))

    async def _blocks(self) -> None:
        """Wait at the gate and serve the blocks that the board announces: see ``Loop.measure_blocks``."""
        words, own, seen = self.board.words, self._own, 0
        while not words[0] and self.rows < self.buffer.capacity:
            own[2] += 1
            if (number := words[BLOCK]) == seen:
                await asyncio.sleep(GATE_S)
                continue
            seen, start_ns, end_ns = number, words[BLOCK_START_NS], words[BLOCK_END_NS]
            if own[CORE]:
                os.sched_setaffinity(0, {own[CORE] - 1})
                own[CORE] = 0
            if own[ACTIVE] == number:
                await self._block(number, start_ns, end_ns)
            elif (rest_ns := end_ns - time.monotonic_ns()) > 0:
                await asyncio.sleep(rest_ns / 1e9)
        own[1] = self.rows == self.buffer.capacity
        own[COUNTED] = own[OVER] = NEVER

    async def _block(self, number: int, start_ns: int, end_ns: int) -> None:
        words, own = self.board.words, self._own
        counted = self.board.counted_words(number)
        through: set[int] = set()

        def over(slot: int, now_ns: int) -> bool:
            if now_ns < end_ns:
                return bool(words[0])
            through.add(slot)
            if len(through) == self.concurrency:  # none that counts is in flight any more
                own[COUNTED] = number
            return bool(words[0]) or all(words[place] >= number for place in counted)

        sleep_until(start_ns)
        self._lag.begin()
        await self._closed(self.buffer.capacity, over, start_ns)
        self._lag.end()
        own[COUNTED] = own[OVER] = number

    async def _open(self, start_ns: int) -> None:
        """Requests at the given instants after ``start_ns``, until the stop flag or the last arrival."""
        most, running = self.server.concurrency or MOST_IN_FLIGHT, set[asyncio.Task[None]]()
        room = self.buffer.capacity - self.rows
        for offset_ns in self._arrivals_ns[:room]:
            due_ns = arrival_ns = start_ns + offset_ns
            if not await self._until(arrival_ns, running):
                break
            while len(running) >= most:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                _forget(running)
                due_ns = time.monotonic_ns()
            running.add(self._loop.create_task(self._arrived(arrival_ns, due_ns)))
        else:
            self._own[1] = 1
        await _all(running)

    async def _arrived(self, arrival_ns: int, due_ns: int) -> None:
        connection = self._connection()
        await self._ask(connection, due_ns, arrival_ns)
        self._idle.append(connection)

    async def _until(self, instant_ns: int, running: set[asyncio.Task[None]]) -> bool:
        """Wait for an instant; False if the stop flag was raised meanwhile."""
        words, own = self.board.words, self._own
        while not words[0]:
            own[2] += 1
            _forget(running)
            rest_ns = instant_ns - time.monotonic_ns()
            if rest_ns <= 0:
                return True
            if rest_ns > _SPIN_NS:
                await asyncio.sleep(min(rest_ns - _SPIN_NS, 10_000_000) / 1e9)
            else:
                await asyncio.sleep(0)
        return False

    def _connection(self) -> Connection:
        if self._idle:
            return self._idle.pop()
        stream = "" if not self.server.stream else "events" if self.server.api else "pieces"
        self._made.append(Connection(self._job.url, stream, self._job.request_s))
        return self._made[-1]

    async def _ask(self, connection: Connection, due_ns: int, arrival_ns: int = 0) -> int:
        """One request, which was to be sent at ``due_ns``; returns when it was answered."""
        number = (self._issued - self._first) % len(self._requests)
        self._issued += 1
        answer = await connection.ask(self._requests[number])
        row, columns = self.rows, self.buffer.columns
        columns["arrival_ns"][row], columns["start_ns"][row] = arrival_ns, answer.start_ns
        columns["end_ns"][row], columns["first_token_ns"][row] = answer.end_ns, answer.first_ns
        asked = self.spec.workload.new_tokens
        if self._sizes:
            size = self._sizes[number]
            asked = size.output_tokens or asked
            columns["input_tokens"][row], columns["padded_tokens"][row] = size.input_tokens, size.padded_tokens
            columns["output_tokens"][row] = size.output_tokens
        self._answers.append((answer, asked))
        self.rows = self.buffer.header[0] = row + 1
        self._own[0] = self.rows - self._first
        self._lag.late(answer.start_ns - due_ns)
        return answer.end_ns


class _Lag:
    """How late this process is, while it measures."""

    def __init__(self) -> None:
        self._late_ns = array("q")
        self._measuring = False
        self._began = (0, 0, 0)
        self._total = [0, 0, 0]

    def begin(self) -> None:
        """From now on it counts."""
        self._measuring, self._began = True, _clocks()

    def end(self) -> None:
        """Until the next :meth:`begin` it does not."""
        self._measuring = False
        self._total = [t + now - then for t, now, then in zip(self._total, _clocks(), self._began, strict=True)]

    def late(self, late_ns: int) -> None:
        """A request that was sent so long after it was due."""
        if self._measuring:
            self._late_ns.append(late_ns)

    def facts(self, *, closed: bool) -> dict[str, float]:
        """Mean and p99 of how late requests were sent; what the kernel had it wait for a core, a request; busy share.

        In open loop it looks for the next arrival all the time and has no busy share.
        """
        if not self._late_ns:
            return {}
        wall_ns, busy_ns, waited_ns = self._total
        late_ms = np.asarray(self._late_ns) / 1e6
        busy = {"client_busy_pct": 100 * busy_ns / wall_ns} if closed and wall_ns else {}
        return {
            "client_late_mean_ms": float(late_ms.mean()),
            "client_late_p99_ms": float(np.percentile(late_ms, 99)),
            "client_wait_ms": waited_ns / 1e6 / len(late_ms),
            **busy,
        }


def _clocks() -> tuple[int, int, int]:
    """Monotonic time, CPU time of this thread, and the time it waited for a core (0 where the kernel does not say)."""
    waited_ns = 0
    with contextlib.suppress(OSError, IndexError, ValueError):
        waited_ns = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    return time.monotonic_ns(), time.thread_time_ns(), waited_ns


async def _all(work: Iterable[Coroutine[Any, Any, None] | asyncio.Task[None]]) -> None:
    """Wait for all; the first error ends the others and is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    if not tasks:
        return
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


def _forget(running: set[asyncio.Task[None]]) -> None:
    """Drop the tasks that have ended; the error of one is raised."""
    for task in [task for task in running if task.done()]:
        running.discard(task)
        task.result()

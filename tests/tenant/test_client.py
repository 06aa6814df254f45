"""The client of a server: what it sends, how it reads answers, what it counts in closed and open loop."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtexp.lengths import Lengths
from mtexp.metrics.samples import Samples
from mtexp.served import ServerSpec
from mtexp.spec import ArrivalSpec, MeasureSpec, ModelSpec, TenantSpec, WorkloadSpec
from mtexp.tenant.buffers import Board, SampleBuffer
from mtexp.tenant.client import ServedTenant
from mtexp.tenant.http import Connection, ServerError, text_of, tokens_of
from mtexp.tenant.job import ProcessJob, TenantJob
from mtexp.tenant.texts import requests_of
from mtexp.testing.toy_server import _Toy

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=1\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n"
TO_THE_END = b"HTTP/1.0 200 OK\r\n\r\nhello"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH


async def asked(answer: bytes, pieces: int, stream: str = "", times: int = 2, close: bool = False) -> list[Any]:
    """Ask a server that answers so, byte for byte, in so many pieces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65536):
                for piece in np.array_split(np.frombuffer(answer, dtype=np.uint8), pieces):
                    writer.write(piece.tobytes())
                    await writer.drain()
                    await asyncio.sleep(0)
                if close:
                    break
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = Connection(f"http://127.0.0.1:{port}/x", stream, 5.0)
        try:
            return [await connection.ask(b"GET /x HTTP/1.1\r\n\r\n") for _ in range(times)]
        finally:
            connection.close()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("pieces", [1, 3, 40])
@pytest.mark.parametrize(
    ("answer", "close"), [(LENGTH, False), (CHUNKS, False), (TO_THE_END, True), (CONTINUE, False), (LENGTH, True)]
)
def test_answers_of_every_framing_are_read_however_they_are_cut(answer: bytes, close: bool, pieces: int) -> None:
    """A length, chunks with a trailer, until the end; a kept connection, and one that the server closes."""
    for found in asyncio.run(asked(answer, pieces, close=close)):
        assert bytes(found.body) == b"hello"
        assert 0 < found.start_ns < found.end_ns
        assert found.first_ns == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nbad", "answered 500: bad"),
        (b"SSH-2.0\r\n\r\n", "nothing that is HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "chunks"),
        (b"", "closed the connection"),
    ],
)
def test_what_is_no_success_is_an_error_that_says_what_came(answer: bytes, why: str) -> None:
    """With the beginning of the body."""
    with pytest.raises(ServerError, match=why):
        asyncio.run(asked(answer, 1, close=not answer))


def test_the_first_token_is_the_first_event_that_holds_text() -> None:
    """Not the one that names a role, nor an empty one."""
    events = [
        {"choices": [{"delta": {"role": "assistant"}}]},
        {"choices": [{"delta": {"content": ""}}]},
        {"choices": [{"delta": {"content": "a"}}]},
        {"choices": [{"text": "b"}]},
        {"choices": [], "usage": {"completion_tokens": 7}},
    ]
    lines = [b"data: " + json.dumps(event).encode() for event in events]
    assert [text_of(line) for line in lines] == ["", "", "a", "b", ""]
    assert tokens_of(b"\n\n".join(lines[:4])) == 2
    assert tokens_of(b"\n\n".join(lines)) == 7
    body = b"\n\n".join([*lines, b"data: [DONE]\n\n"])
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    (found,) = asyncio.run(asked(answer, 30, "events", times=1))
    assert found.start_ns < found.first_ns < found.end_ns


# --- loops against the toy server -------------------------------------------------------------------------------------


@contextmanager
def toy(**options: Any) -> Iterator[str]:
    """A toy server in a thread; its URL."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = SimpleNamespace(
        **({"port": port, "ms": 1.0, "workers": 1, "ready_after": 0.0, "fault": None, "after": 0} | options)
    )
    threading.Thread(target=_Toy(given).serve, daemon=True).start()  # type: ignore[arg-type]
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Callable[..., tuple[ServedTenant, Board]]]:
    """Makes a client that is built, and its board."""
    clients = []

    def make(url: str, *, arrival: ArrivalSpec | None = None, measure: MeasureSpec | None = None, **server: Any) -> Any:
        path = server.pop("path", "/work")
        spec = ServerSpec(command=("toy",), url=url + path, **({"body": '{"text": "{text}"}'} | server))
        model = ModelSpec(name="toy", role="server", architecture="toy", server=spec)
        load = WorkloadSpec(kind="generate" if spec.api else "forward", batch_size=1, seq_len=4, new_tokens=3)
        tenant = TenantSpec(id="toy", model=model, workload=load, arrival=arrival or ArrivalSpec())
        rule = measure or MeasureSpec(iterations=20, warmup=4, max_iterations=500, overlap="fixed")
        board = Board(tmp_path / "board", 1, create=True)
        SampleBuffer(tmp_path / "samples", 500, create=True)
        job = TenantJob(
            tenant=tenant, slot=0, samples=str(tmp_path / "samples"), url=url + path, values={"new_tokens": 3}
        )
        process = ProcessJob(name="toy", tenants=(job,), address="", board="", log="", runtime="cpu", measure=rule)
        made = ServedTenant(job, process, board)
        made.build()
        clients.append(made)
        return made, board

    yield make
    for own in clients:
        own.close()


def measured(client: ServedTenant) -> Samples:
    return client.buffer.samples().measured


@pytest.mark.parametrize("concurrency", [0, 3])
def test_so_many_are_in_flight_in_closed_loop(client: Callable[..., Any], concurrency: int) -> None:
    """Warm-up apart; each starts when one has ended; rows are in the order of their ends."""
    with toy(workers=4, ms=3) as url:
        own, board = client(url, concurrency=concurrency)
        own.warm_up()
        own.measure(time.monotonic_ns())
    found = measured(own)
    assert (len(found), len(own.buffer.samples())) == (20, 24)
    assert board.done(0)
    assert (np.diff(found.end_ns) >= 0).all()
    in_flight = [int(((found.start_ns <= t) & (found.end_ns > t)).sum()) for t in found.start_ns]
    assert max(in_flight) == max(1, concurrency)
    assert found.service_ms.min() >= 3.0
    facts = own.facts()
    assert facts["client_late_mean_ms"] >= 0
    assert 0 < facts["client_busy_pct"] <= 100
    assert facts["answer_bytes_min"] == facts["answer_bytes_max"] > 0


def test_streamed_tokens_have_a_first_one(client: Callable[..., Any]) -> None:
    """And are counted."""
    body = '{"prompt": "{text}", "max_tokens": "{new_tokens}"}'
    with toy(ms=4) as url:
        own, _ = client(url, path="/v1/completions", api="completions", stream=True, body=body)
        own.warm_up()
        own.measure(time.monotonic_ns())
    found = measured(own)
    assert (found.start_ns < found.first_token_ns).all()
    assert (found.first_token_ns <= found.end_ns).all()  # the same where a busy host gives this process all at once
    assert np.median(found.end_ns - found.first_token_ns) > 0
    assert own.facts()["answer_tokens_min"] == own.facts()["answer_tokens_max"] == 3


def test_in_open_loop_requests_are_sent_when_they_arrive(client: Callable[..., Any]) -> None:
    """Also while others are in flight: the queue is the server's, and in the latency."""
    trace = ArrivalSpec(kind="trace", trace=(0.05, 0.05, 0.051, 0.2))
    with toy(workers=1, ms=20) as url:
        own, board = client(url, arrival=trace)
        start_ns = time.monotonic_ns()
        own.measure(start_ns)
    found = measured(own)
    assert len(found) == 4
    assert board.done(0)
    assert found.open_loop
    assert sorted((found.arrival_ns - start_ns) // 1_000_000) == [50, 50, 51, 200]
    assert (found.start_ns >= found.arrival_ns).all()
    first = np.sort(found.end_ns)[0]
    assert (np.sort(found.start_ns)[:3] < first).all()
    assert np.sort(found.latency_ms)[-1] >= 55


def test_each_request_of_a_trace_asks_for_its_tokens(client: Callable[..., Any]) -> None:
    """Also where several are in flight: a row has the lengths of its own request, and answers are held to them."""
    body = '{"prompt": "{text}", "max_tokens": "{new_tokens}"}'
    lengths = Lengths(input_tokens=(5, 40, 5), output_tokens=(2, 6, 1), buckets=(16, 64))
    trace = ArrivalSpec(kind="trace", trace=(0.0, 0.001, 0.002), lengths=lengths)
    with toy(workers=3, ms=2) as url:
        own, _ = client(url, arrival=trace, path="/v1/completions", api="completions", stream=True, body=body)
        own.measure(time.monotonic_ns())
    found = measured(own)
    rows = sorted(zip(found.arrival_ns, found.input_tokens, found.padded_tokens, found.output_tokens, strict=True))
    assert [tuple(row[1:]) for row in rows] == [(5, 16, 2), (40, 64, 6), (5, 16, 1)]
    facts = own.facts()
    assert (facts["answer_tokens_min"], facts["answer_tokens_max"], facts["answers_off"]) == (1, 6, 0)
    words = [len(json.loads(request.partition(b"\r\n\r\n")[2])["prompt"].split()) for request in own._requests]
    assert words == [16, 64, 16]


def test_a_bound_keeps_requests_back(client: Callable[..., Any]) -> None:
    """What waits in the client is in its queueing time."""
    trace = ArrivalSpec(kind="trace", trace=(0.01, 0.01, 0.01))
    with toy(workers=3, ms=10) as url:
        own, _ = client(url, arrival=trace, concurrency=1)
        own.measure(time.monotonic_ns())
    found = measured(own)
    assert (found.start_ns[1:] >= found.end_ns[:-1]).all()
    assert found.queue_ms[2] >= 19


def test_a_block_of_rounds_counts_only_when_all_in_flight_have_ended(client: Callable[..., Any]) -> None:
    """Idle blocks are not asked in; the gate is left with the stop flag."""
    rule = MeasureSpec(iterations=5, warmup=0, max_iterations=400, design="crossover")
    with toy(workers=2, ms=4) as url:
        own, board = client(url, measure=rule, concurrency=2)
        thread = threading.Thread(target=own.measure, args=(0,))
        thread.start()
        for number, active in ((1, [0]), (2, []), (3, [0])):
            start_ns = time.monotonic_ns() + 5_000_000
            board.open_block(number, start_ns, start_ns + 40_000_000, active, {})
            deadline = time.monotonic() + 5
            while (board.left(0) < number if active else time.monotonic_ns() < start_ns + 60_000_000) and (
                time.monotonic() < deadline
            ):
                time.sleep(0.001)
        board.stop()
        thread.join(5)
    found = measured(own)
    gaps_ms = (found.start_ns[1:] - found.end_ns[:-1]) / 1e6
    assert 0 < len(found) < 60
    assert (gaps_ms > 40).sum() == 1  # the block in which it slept
    assert board.left(0) > 3


@pytest.mark.parametrize(("fault", "why"), [("error", "answered 500"), ("hang", "did not answer a request within 0.3")])
def test_a_server_that_fails_is_one_error(client: Callable[..., Any], fault: str, why: str) -> None:
    """However many are in flight."""
    with toy(workers=4, fault=fault, after=6) as url:
        own, _ = client(url, concurrency=3)
        object.__setattr__(own._job, "request_s", 0.3)
        own.warm_up()
        with pytest.raises(ServerError, match=why) as failed:
            own.guarded(lambda tenant: tenant.measure(time.monotonic_ns()))
    assert failed.value.tenant == "toy"  # type: ignore[attr-defined]


def test_requests_differ_and_hold_what_is_asked_for() -> None:
    """Texts, lists of texts, token ids; the same for the same seed."""
    server = ServerSpec(command=("x",), url="http://h/x?a=1", body='{"a": "{texts}", "b": "{tokens}", "c": "{text}"}')
    model = ModelSpec(name="m", role="server", architecture="x", server=server)
    tenant = TenantSpec(id="m", model=model, workload=WorkloadSpec(batch_size=2, seq_len=5))
    found = requests_of(tenant, server.url, {})
    assert found == requests_of(tenant, server.url, {})
    assert len(set(found)) == len(found)
    head, _, body = found[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x?a=1 HTTP/1.1\r\nHost: h\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    data = json.loads(body)
    assert [len(text.split()) for text in [*data["a"], data["c"]]] == [5, 5, 5]
    assert len(data["b"]) == 5

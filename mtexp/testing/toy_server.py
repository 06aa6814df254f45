"""A server whose service time is known: the truth that a client is compared with, and faults to be found.

``python -m mtexp.testing.toy_server --port 8000 --ms 5``: POST /work answers after 5 ms, one request at a time or
``--workers`` at once; POST /v1/completions streams ``max_tokens`` tokens, one every ``--ms``; GET /health is ready
``--ready-after`` seconds from now. May touch: the standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import threading
import time

_SPIN_S = 0.0005


class _Toy:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.monotonic()
        self.served = 0
        self.free = threading.Semaphore(options.workers)

    def serve(self) -> None:
        with socket.create_server(("127.0.0.1", self.options.port)) as listener:
            print(f"toy server listens on {self.options.port}", flush=True)  # noqa: T201  a line to wait for
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        """Answer the requests of one connection."""
        raw = b""
        with connection, contextlib.suppress(ConnectionError):
            while True:
                while b"\r\n\r\n" not in raw:
                    data = connection.recv(65536)
                    if not data:
                        return
                    raw += data
                head, _, raw = raw.partition(b"\r\n\r\n")
                lines = head.split(b"\r\n")
                sizes = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")]
                while len(raw) < sum(sizes):
                    raw += connection.recv(65536)
                body, raw = raw[: sum(sizes)], raw[sum(sizes) :]
                self.answer(connection, lines[0].split()[1], body)

    def answer(self, connection: socket.socket, path: bytes, body: bytes) -> None:
        options = self.options
        if path == b"/health":
            ready = time.monotonic() - self.began >= options.ready_after
            connection.sendall(_response(b"200 OK" if ready else b"503 Service Unavailable", b"{}"))
            return
        self.served += 1
        if options.fault and self.served > options.after:
            self.fail(connection)
            return
        with self.free:
            if path == b"/v1/completions":
                self.stream(connection, json.loads(body)["max_tokens"])
            else:
                _wait(time.perf_counter() + options.ms / 1e3)
                connection.sendall(_response(b"200 OK", b'{"tokens": %d}' % len(body.split())))

    def fail(self, connection: socket.socket) -> None:
        if self.options.fault == "die":
            os._exit(3)
        if self.options.fault == "hang":
            time.sleep(3600)
        connection.sendall(_response(b"500 Internal Server Error", b'{"error": "a fault was asked for"}'))

    def stream(self, connection: socket.socket, tokens: int) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + _chunk(b'data: {"choices": [{"text": ""}]}\n\n'))
        due = time.perf_counter()
        for _ in range(tokens):
            due += self.options.ms / 1e3
            _wait(due)
            connection.sendall(_chunk(b'data: {"choices": [{"text": " token"}]}\n\n'))
        connection.sendall(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _response(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _wait(until: float) -> None:
    """Sleep, then spin: a timer wakes late."""
    rest_s = until - time.perf_counter() - _SPIN_S
    if rest_s > 0:
        time.sleep(rest_s)
    while time.perf_counter() < until:
        pass


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ms", type=float, default=1.0, help="service time, or time of a token")
    parser.add_argument("--workers", type=int, default=1, help="requests that are served at once")
    parser.add_argument("--ready-after", type=float, default=0.0, help="seconds until /health answers 200")
    parser.add_argument("--fault", choices=("error", "die", "hang"), help="what happens after --after requests")
    parser.add_argument("--after", type=int, default=0)
    parser.add_argument("--fork", action="store_true", help="go on as a daemon, and end the command")
    parser.add_argument("--child", action="store_true", help="start a process that ignores SIGTERM, in its own session")
    options = parser.parse_args()
    if options.fork:
        command = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == command:  # so that a busy host ends the command first
            time.sleep(0.01)
    if options.child and not os.fork():
        import signal

        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)
    _Toy(options).serve()


if __name__ == "__main__":
    main()

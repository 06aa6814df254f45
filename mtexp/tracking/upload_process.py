"""Records sent by a process of their own: MLflow takes its time under Python's lock, and the next run starts meanwhile.

Lives here: :class:`UploadsApart` and, in that process, :func:`serve`: :class:`~mtexp.tracking.background.Uploads` at
the other end of a pipe, with its steps and its silence. May touch: multiprocessing, one thread that listens. The
process ends with this one, however that ends: the pipe says so.
"""

from __future__ import annotations

import atexit
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mtexp.processes import is_stopped, shielded, signals_postponed
from mtexp.spec import TrackingSpec, from_json, to_json
from mtexp.tracking.background import GIVING_UP_S, NOBODY_WAITS, Uploads
from mtexp.tracking.store import warm as import_mlflow
from mtexp.tracking.upload import Upload, deferred

NO_NEWS_S = 600.0
"""Longest that one record may take; MLflow's calls have deadlines of their own, a record has many."""
_LOOK_S = 0.5
_STOPPED_LOOKS = 6
"""A process that is seen stopped so many times in a row is given up."""


class UploadsApart(Uploads):
    """The records of this process on their way to MLflow, through another process."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count()
        self._news = threading.Condition()
        self._sending: dict[int, tuple[Path, TrackingSpec, Future[Upload]]] = {}
        self._heard = 0
        self._start()
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        """Of the process that sends."""
        return self._process.pid or 0

    def prepare(self) -> None:
        """Import what the look-up of a baseline takes; the other process imports the rest."""
        import_mlflow()

    def begin(self, record_dir: Path, tracking: TrackingSpec, draw: bool) -> Future[Upload]:
        """Hand a record over; if the process that sends has been killed, to a new one."""
        sent = Future[Upload]()
        with self._news:
            if not self._listening and not self._abandoned:
                self._start()
            number = next(self._numbers)
            self._sending[number] = (record_dir, tracking, sent)
        self._tell(do="send", number=number, record_dir=str(record_dir), tracking=to_json(tracking), draw=draw)
        with self._news:
            if not self._listening:  # it ended before it was asked
                self._defer_all()
        return sent

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Let nothing be sent until the block ends; enter it when the step that is going on has ended."""
        number = next(self._numbers)
        try:
            self._tell(do="hush", number=number)
            with self.watched(), self._news:
                self._news.wait_for(lambda: self._silent_since == number or not self._listening)
            yield
        finally:
            self._tell(do="go on")

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Kill the process that sends when it is stopped, or nothing comes of it for :data:`NO_NEWS_S`."""
        done = threading.Event()

        def watch() -> None:
            stopped, heard, since = 0, self._heard, time.monotonic()
            while not done.wait(_LOOK_S):
                stopped = stopped + 1 if is_stopped(self.pid) else 0
                if heard != self._heard:
                    heard, since = self._heard, time.monotonic()
                if stopped >= _STOPPED_LOOKS or time.monotonic() - since > NO_NEWS_S:
                    self._process.kill()  # the listener defers what it had
                    return

        watching = threading.Thread(target=watch, daemon=True, name="mtexp-uploads-watch")
        watching.start()
        try:
            yield
        finally:
            done.set()
            watching.join()

    def abandon(self) -> None:
        """Send nothing more, and end the process: what is not sent keeps its marker."""
        self._abandoned = True
        self._tell(do="end")
        wait(self._waiting, GIVING_UP_S)
        self._end(0 if self.left else GIVING_UP_S)

    def close(self) -> None:
        """End the process; a record that is sent after all gets a new one."""
        self._tell(do="end")
        self._end(GIVING_UP_S)

    def _start(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        spawning = multiprocessing.get_context("spawn")
        self._process = spawning.Process(target=serve, args=(theirs,), name="mtexp-uploads", daemon=True)
        with signals_postponed(), shielded():
            self._process.start()
        theirs.close()  # or its end would not be seen
        self._listening, self._silent_since = True, -1
        self._listener = threading.Thread(target=self._listen, daemon=True, name="mtexp-uploads")
        self._listener.start()

    def _end(self, patience_s: float) -> None:
        self._process.join(patience_s)
        self._process.kill()
        self._listener.join()

    def _tell(self, **message: Any) -> None:
        with suppress(OSError):  # it has ended: the listener knows
            self._connection.send_bytes(json.dumps(message).encode())

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                message = json.loads(self._connection.recv_bytes())
                self._heard += 1
                with self._news:
                    if message["event"] == "silent":
                        self._silent_since = message["number"]
                        self._news.notify_all()
                    else:
                        directory, _, sent = self._sending.pop(message["number"])
                        sent.set_result(Upload(directory, message["run_id"], message["reason"]))
        with self._news:
            self._listening = False
            self._defer_all()
            self._news.notify_all()

    def _defer_all(self) -> None:
        self._process.join(GIVING_UP_S)
        ended = f"The process that sends records has ended (exit code {self._process.exitcode})."
        while self._sending:
            _, (directory, tracking, sent) = self._sending.popitem()
            sent.set_result(deferred(directory, tracking, NOBODY_WAITS if self._abandoned else ended))


def serve(connection: Connection) -> None:
    """Send what the other end of ``connection`` asks for, until it says that it is the end, or there is none."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the whole group: the other end gets it too, and ends this
    uploads = Uploads()
    uploads.warm()
    speaking = threading.Lock()

    def tell(**message: Any) -> None:
        with speaking, suppress(OSError):
            connection.send_bytes(json.dumps(message).encode())

    def send(number: int, record_dir: str, tracking: dict[str, Any], draw: bool) -> None:
        def told(sent: Future[Upload]) -> None:
            if error := sent.exception():  # nobody foresaw it: the other end defers the record, and starts another
                traceback.print_exception(error)
                os._exit(1)
            tell(event="sent", number=number, run_id=sent.result().run_id, reason=sent.result().reason)

        uploads.begin(Path(record_dir), from_json(TrackingSpec, tracking), draw).add_done_callback(told)

    with ExitStack() as silence, suppress(EOFError, OSError):
        while True:
            message = json.loads(connection.recv_bytes())
            match message.pop("do"):
                case "send":
                    send(**message)
                case "hush":
                    silence.enter_context(uploads.silence())
                    tell(event="silent", **message)
                case "go on":
                    silence.close()
                case "end":
                    break
    uploads.abandon()

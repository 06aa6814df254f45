"""Uploads records in a background thread that pauses while a run is measuring.

Lives here: :class:`Uploads`. May touch: that thread, what :mod:`mtexp.tracking.upload` may.

The thread sends one record after another, in steps: one call of the store, one picture drawn. A measurement takes
:meth:`Uploads.paused`, which waits for the step that is going on (tenths of a second) and lets no other begin. Every
record is on disk, with the marker that it is to be sent, before it is handed over: however the process ends, nothing is
lost.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

from mtexp.errors import TrackingError
from mtexp.records.picture import draw_run
from mtexp.spec import TrackingSpec
from mtexp.tracking.store import warm as import_mlflow
from mtexp.tracking.upload import Upload, log_or_defer, mark_pending
from mtexp.tracking.uri import pinned

log = logging.getLogger(__name__)

WAITING = 4
"""Most records that wait to be sent: with a slower store, the runs wait for it."""
GIVING_UP_S = 5.0
"""Longest wait for the current call of the store after an interrupt."""
SILENCE_S = 30.0
"""Longest wait of a measurement for the current call of the store. A call that takes longer hangs on the network (a
database that no longer answers), and uses no CPU that tenants need."""
INTERRUPTED = "Interrupted before it was sent."


class Uploads:
    """The records of this process on their way to MLflow."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._steps = 0
        self._silent = self._abandoned = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mtexp-uploads")
        self._waiting: deque[Future[Upload]] = deque()
        self._unsent: set[Future[Upload]] = set()

    def send(self, record_dir: Path, tracking: TrackingSpec, *, draw: bool = False) -> Future[Upload]:
        """Send a record after those before it; returns at once, unless too many wait.

        Args:
            record_dir: The record's.
            tracking: Where to.
            draw: Draw the run's picture first, which is sent along.
        """
        if tracking.enabled:
            mark_pending(record_dir)
            with suppress(TrackingError):  # no URI: sending it says so
                tracking = pinned(tracking)
        sent = self._pool.submit(self._send, record_dir, tracking, draw)
        self._waiting.append(sent)
        if tracking.enabled:
            self._unsent.add(sent)
            sent.add_done_callback(self._unsent.discard)
        if len(self._waiting) > WAITING:
            wait([self._waiting[-WAITING - 1]])
        return sent

    def prepare(self) -> None:
        """Import, at once, what sending takes: seconds."""
        import_mlflow()
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
        import pyarrow.parquet  # noqa: F401

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let nothing be sent until the block ends; enter it when the step that is going on has ended."""
        with self._turn:
            self._silent = True
        try:
            with self._turn:
                if not self._turn.wait_for(lambda: not self._steps, SILENCE_S):
                    log.warning("MLflow has not answered for %g s: the run measures while that call waits", SILENCE_S)
            yield
        finally:
            with self._turn:
                self._silent = False
                self._turn.notify_all()

    def sent_within(self, time_s: float) -> bool:
        """Wait so long at most; whether every record is sent, or has failed to be."""
        return not wait(self._waiting, time_s).not_done

    def drain(self) -> None:
        """Wait until every record is sent or has failed to be; an interrupt leaves those for later that are not."""
        try:
            wait(self._waiting, GIVING_UP_S if self._abandoned else None)
        except KeyboardInterrupt:
            self.abandon()
            raise

    @property
    def left(self) -> int:
        """Records that are to be sent and are not yet."""
        return len(self._unsent)

    def abandon(self) -> None:
        """Send nothing more: what is not sent keeps its marker, for ``python -m mtexp.tracking.upload``."""
        with self._turn:
            self._abandoned = True
            self._turn.notify_all()
        wait(self._waiting, GIVING_UP_S)

    def results(self) -> Iterator[Upload]:
        """Yield what became of records, in their order and each once, up to the first that is still to be sent."""
        while self._waiting and self._waiting[0].done():
            yield self._waiting.popleft().result()

    def _send(self, record_dir: Path, tracking: TrackingSpec, draw: bool) -> Upload:
        if draw:
            with suppress(TrackingError), self._step():  # abandoned: what follows says so
                draw_run(record_dir)
        return log_or_defer(record_dir, tracking, self._step)

    @contextmanager
    def _step(self) -> Iterator[None]:
        with self._turn:
            self._turn.wait_for(lambda: self._abandoned or not self._silent)
            if self._abandoned:
                raise TrackingError(INTERRUPTED)
            self._steps += 1
        try:
            yield
        finally:
            with self._turn:
                self._steps -= 1
                self._turn.notify_all()

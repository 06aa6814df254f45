"""The steady tenant of a churn run: a process, and another one when that has died.

May touch: launch. It measures while this process does other things, so its group of tenants has a thread here.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtexp.errors import HostError, MtexpError, TenantFailed
from mtexp.launch import Starter, TenantGroup
from mtexp.metrics.churn import Served, joined
from mtexp.metrics.samples import Samples
from mtexp.records.files import STEADY
from mtexp.spec import DeadlineSpec
from mtexp.tenant.arrivals import arrival_instants_ns
from mtexp.tenant.job import ProcessJob, TenantJob

_RETRY_S = 0.5
MakeJob = Callable[[TenantJob, str, Path], ProcessJob]
"""(the steady tenant, address of the group, board) -> the job of its process."""


class Steady:
    """One steady tenant over all its processes.

    Args:
        starter: How processes are started.
        deadlines: Of one process; ``start_s`` also bounds the time in which a new one is tried again.
        folder: Of the run.
        release: Called with the pid of a process before it is killed (CUDA MPS).
        make_job: Makes the job of a process.
        tenant: The tenant's part of the job, with no path of samples yet.
        rows: Most requests of one process.
    """

    def __init__(
        self,
        starter: Starter,
        deadlines: DeadlineSpec,
        folder: Path,
        *,
        release: Callable[[int], None],
        make_job: MakeJob,
        tenant: Callable[[str], TenantJob],
        rows: int,
    ) -> None:
        self._starter, self._deadlines, self._folder, self._release = starter, deadlines, folder, release
        self._make_job, self._tenant, self._rows = make_job, tenant, rows
        self._lives: list[Samples] = []
        self._ended_ns: list[int] = []
        """When the process of each life ended, or stopped."""
        self._left_ns = 0
        self._group: TenantGroup | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._ended = threading.Event()
        self.failure: TenantFailed | None = None
        """Why the present process has ended."""
        self.facts: dict[str, Any] = {}
        """The facts that the present process reported."""
        self.facts_after: dict[str, Any] = {}

    @property
    def dead(self) -> bool:
        """Whether its process has died."""
        return self._ended.is_set() and self.failure is not None

    @property
    def pid(self) -> int:
        """Pid of its process; 0 = none."""
        return self._group.pids[0] if self._group is not None and self._group.pids else 0

    @property
    def _place(self) -> Path:
        return self._folder / f"{STEADY}-{len(self._lives)}"

    def begin(self) -> None:
        """Start a process, build, warm up, and measure from now on.

        Raises:
            TenantFailed: It could not be started.
        """
        self._place.mkdir()
        self.failure = None
        self._over.clear()
        self._ended.clear()
        group = TenantGroup(self._starter, self._deadlines, self._place, release=self._release)
        self._group = group.__enter__()
        try:
            own = self._tenant("")
            board, (samples,) = group.allocate([own.tenant.id], self._rows)
            group.start([self._make_job(self._tenant(str(samples)), group.address, board)])
            group.build()
            group.begin_warm_up()
            self.facts = group.warm_up()[own.tenant.id]
        except BaseException as error:
            self._leave(error)
            raise
        self._thread = threading.Thread(target=self._measure, name="steady", daemon=True)
        self._thread.start()

    def _measure(self) -> None:
        try:
            if self._group is not None:
                self._group.measure(lambda slot, iterations, elapsed_s: self._over.is_set())
        except TenantFailed as error:
            self.failure = error
        finally:
            self._left_ns = time.monotonic_ns()
            self._ended.set()

    def begin_again(self) -> None:
        """Replace the process that has died; tried until ``deadlines.start_s`` have passed.

        Raises:
            HostError: None could be started.
        """
        deadline = time.monotonic() + self._deadlines.start_s
        self._join(self.failure)
        while True:
            try:
                self.begin()
                return
            except TenantFailed as error:
                if time.monotonic() > deadline:
                    raise HostError(f"the steady tenant cannot be started again: {error}") from error
                time.sleep(_RETRY_S)

    def end(self) -> None:
        """Stop measuring, and have the outputs of the window compared.

        Raises:
            TenantFailed: It had died.
        """
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        try:
            if self.failure is not None:
                raise self.failure
            if self._group is not None:
                self._group.begin_finish()
                (self.facts_after,) = self._group.finish().values()
        except MtexpError as error:
            self._leave(error)
            raise
        self._leave(None)

    def abandon(self, error: BaseException | None) -> None:
        """Stop whatever runs."""
        self._over.set()
        self._join(error)

    def wait_for_end(self, deadline_s: float) -> bool:
        """Wait until its process has ended; whether it has."""
        return self._ended.wait(deadline_s)

    def kill(self) -> None:
        """SIGKILL to its process, and wait until that is seen."""
        if pid := self.pid:
            os.kill(pid, signal.SIGKILL)
            self._ended.wait(self._deadlines.stop_s)

    def _join(self, error: BaseException | None) -> None:
        if self._thread is not None:
            self._thread.join()
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        """End the process, and keep what it has measured."""
        group, self._group, self._thread = self._group, None, None
        if group is None:
            return
        place = self._place
        try:
            group.__exit__(type(error) if error else None, error, None)
        finally:
            measured = list(group.samples().values()) if (place / "board.bin").exists() else []
            shutil.rmtree(place, ignore_errors=True)
            if measured and len(measured[0].measured):
                self._lives.append(measured[0])
                self._ended_ns.append(self._left_ns)

    def samples(self) -> Samples | None:
        """All that was measured, of all processes; None for nothing."""
        if not self._lives:
            return None
        names = [f.name for f in fields(Samples)]
        return Samples(**{name: np.concatenate([getattr(life, name) for life in self._lives]) for name in names})

    def served(self, rows: int) -> Served:
        """All requests so far, with those that were lost while it was dead."""
        offsets_ns = self._offsets_ns(rows)
        lives: list[Served] = []
        schedules: list[NDArray[np.int64]] = []
        now = [*self._group.samples().values()] if self._thread is not None and self._group is not None else []
        for life in (life.measured for life in (*self._lives, *now)):
            if not len(life):
                continue
            lives.append(Served.of(life.arrival_ns, life.start_ns, life.end_ns))
            schedules.append(life.arrival_ns[0] - offsets_ns[0] + offsets_ns)
        if not lives:
            none = np.zeros(0, dtype=np.int64)
            return Served.of(none, none, none)
        return joined(lives, schedules, [*self._ended_ns, time.monotonic_ns()][: len(lives)])

    @cache  # noqa: B019  one a run
    def _offsets_ns(self, rows: int) -> NDArray[np.int64]:
        return np.array(arrival_instants_ns(self._tenant("").tenant.arrival, 0, rows), dtype=np.int64)

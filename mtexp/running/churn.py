"""A churn run: a steady tenant in open loop, and a neighbour that starts, works, misbehaves and goes, again and again.

Lives here: the order of the events, from the start of the sharing mode to the record. May touch: launch, sharing,
telemetry. What an event does to the steady tenant is computed by :mod:`mtexp.metrics.churn`. No event ends the run:
a tenant that dies is started again.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtexp.errors import HostError, MtexpError, interrupted
from mtexp.launch import CorePlan, leased_cores
from mtexp.launch.neighbour import NeighbourGone, NeighbourHandle
from mtexp.metrics.churn import (
    BESIDE,
    ENDINGS,
    QUIET,
    Event,
    next_cycle,
    seen,
)
from mtexp.metrics.guarded import Attempts
from mtexp.records import live_files
from mtexp.records.files import EVENTS
from mtexp.running.churn_record import Churned
from mtexp.running.churn_steady import Steady
from mtexp.running.measured import TELEMETRY, Facts, Place, Setup, clock_pair
from mtexp.running.measurement import listed
from mtexp.sharing import SharingMode, open_sharing
from mtexp.spec import RunSpec
from mtexp.telemetry import identify, open_sampler
from mtexp.tenant.job import ProcessJob, TenantJob

_SETTLE_S = 0.5
"""After steps that are not looked at, before one that is."""
_LOOK_S = 0.01
_SPARE_ROWS = 3
"""Requests that the steady tenant has room for, as a multiple of those that the windows alone have."""
_SPARE_S = 900.0
_MOST_ROWS = 5_000_000


def churn(spec: RunSpec, folder: Path, setup: Setup) -> Churned:
    """Run the events of ``spec``; logs, telemetry and :mod:`mtexp.records.live_files` go to ``folder``.

    What ends the run early is in the result, with all that had been seen.
    """
    churned = Churned()
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        (folder / EVENTS).unlink(missing_ok=True)
        with (
            open_sharing(spec, setup.device, work_dir=folder) as sharing,
            leased_cores([len(group) for group in sharing.groups()], pin=spec.measure.pin_cores) as cores,
            _ChurnRun(Place(spec, folder), setup, sharing, cores, churned) as run,
            setup.uploads_paused(),
        ):
            core = cores.sampler[0] if cores.sampler else None
            path, mps = folder / TELEMETRY, spec.sharing.mps_mode != "disabled"
            with open_sampler(spec.telemetry, spec.runtime, setup.device.uuid, {}, path, core, mps=mps) as sampler:
                run.measure()
                churned.measured.findings += sampler.stop()
    except MtexpError as error:
        churned.measured.failure = error
    except OSError as error:
        churned.measured.failure = HostError(f"{error.filename or folder}: {error.strerror or error}")
    except KeyboardInterrupt as stop:
        churned.measured.failure = MtexpError(interrupted(stop))
        churned.measured.stop = stop
    churned.measured.clock.append(clock_pair())
    return churned


class _ChurnRun:
    """The events of one run, one after another."""

    def __init__(self, place: Place, setup: Setup, sharing: SharingMode, cores: CorePlan, churned: Churned) -> None:
        self.spec, self.folder = spec, folder = place.spec, place.folder
        self.device, self.sharing, self.cores = setup.device, sharing, cores
        self.listed_before = listed(setup.device)
        self.pids: set[int] = set()
        """Pids of all processes of both tenants so far."""
        self.churned, self.progress = churned, setup.progress
        self.status = setup.status or (lambda text: None)
        self.steady_spec, self.neighbour_spec = spec.tenants
        self.one_process = len(sharing.groups()) == 1
        self.rows = _rows(spec)
        self.settle_s = min(_SETTLE_S, spec.churn.window_s)
        self.until_s = math.inf
        """No event begins later."""
        self.cycle = 0
        self.took_s: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        """The facts that the neighbour reported."""
        self.ending: int | None = None
        """Place of the event after which the next neighbour is awaited."""
        self.neighbour = NeighbourHandle(setup.starter, spec.deadlines.stop_s, release=sharing.release)
        long = replace(spec.deadlines, measure_s=1e9)  # bounded by the deadlines of the events
        self.steady = Steady(
            setup.starter,
            long,
            folder,
            release=sharing.release,
            make_job=self._steady_job,
            tenant=lambda samples: TenantJob(
                tenant=self.steady_spec, slot=0, samples=samples, sm_count=self._sms(self.steady_spec.id)
            ),
            rows=self.rows + spec.measure.warmup,
        )

    def __enter__(self) -> _ChurnRun:
        self.neighbour.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        measured = self.churned.measured
        try:
            failure = error[1] if isinstance(error[1], BaseException) else None
            self.steady.abandon(failure)
        finally:
            self.neighbour.__exit__(None, None, None)
            samples = self.steady.samples()
            if samples is not None:
                measured.samples = {self.steady_spec.id: samples}
                self.churned.served = self.churned.attempts.of(
                    "what was served and what was lost", lambda: self.steady.served(self.rows), None
                )

    def measure(self) -> None:
        """Run all events.

        Raises:
            MtexpError: A tenant could not be started again.
        """
        churn, done = self.spec.churn, Counter[str]()
        self.progress("starting the steady tenant")
        self.steady.begin()
        self._wait(time.monotonic() + _SETTLE_S)
        if churn.limit_s:
            self.until_s = time.monotonic() + churn.limit_s
        self.churned.measured.cores = self.cores
        most = 2 * churn.repeats * len(ENDINGS) + len(churn.events)
        self.progress(f"{churn.repeats} events of each kind: {', '.join(churn.events)}")
        while (
            (steps := next_cycle(churn.events, done, churn.repeats, churn.per_life))
            and self.cycle < most
            and not self._late()
        ):
            self._live(steps, done)
            self.cycle += 1
        if self.neighbour.alive:
            self._act("end")
        self._wait(time.monotonic() + self.settle_s)  # what came in the last window is served
        if not self.churned.measured.proof:
            raise HostError("no neighbour ever served: the sharing mode is not proven")
        self.steady.end()
        self.churned.measured.facts_after = {self.steady_spec.id: self.steady.facts_after}

    def _live(self, steps: list[tuple[str, bool]], done: Counter[str]) -> None:
        """One life of a neighbour: it ends early if a tenant dies."""
        settled = True
        for kind, looked_at in steps:
            if self._late():
                return
            if looked_at and not settled:
                self._wait(time.monotonic() + self.settle_s)
            event = self._happen(kind, looked_at)
            settled = looked_at
            if kind == "warm_up" and not event.error:
                self._back()
            if looked_at:
                done[kind] += 1
                self._keep(event)
                most = self.spec.churn.repeats * len(self.spec.churn.events)
                self.status(f"churn: {sum(done.values())} of {most} events")
            if kind in ENDINGS and looked_at:
                self.ending = len(self.churned.events) - 1
            if kind == "load" and not event.died:
                if not self.churned.measured.proof:
                    self._prove()
                self._look()
            if kind not in (QUIET, *ENDINGS) and not self.neighbour.alive:
                return

    def _late(self) -> bool:
        """Whether the time is up; not before the sharing mode is proven."""
        return time.monotonic() >= self.until_s and bool(self.churned.measured.proof)

    def _happen(self, kind: str, looked_at: bool) -> Event:
        """One step, and the window after it."""
        start_ns = time.monotonic_ns()
        error = self._act(kind)
        done_ns = time.monotonic_ns()
        self.took_s[kind] = (done_ns - start_ns) / 1e9
        window_s = self.spec.churn.window_s if looked_at else 0.0
        died = self._wait(start_ns / 1e9 + window_s)
        if kind not in (QUIET, "start", "end") and not self.neighbour.alive:
            died.add(self.neighbour_spec.id)
            if self.one_process and self.steady_spec.id not in died:
                died |= self._process_gone()
        if self.steady_spec.id in died:  # it is back: what it missed is part of this event
            self._wait(time.monotonic() + self.settle_s)
            end_ns = time.monotonic_ns()
        else:
            end_ns = max(start_ns + round(window_s * 1e9), done_ns)
        names = tuple(tenant.id for tenant in self.spec.tenants if tenant.id in died)
        return Event(
            kind=kind, cycle=self.cycle, start_ns=start_ns, done_ns=done_ns, end_ns=end_ns, died=names, error=error
        )

    def _act(self, kind: str) -> str:
        """Have the neighbour do ``kind``; what went wrong, in a line."""
        deadlines = self.spec.deadlines
        try:
            if kind in (QUIET, BESIDE):
                return ""
            if kind == "start":
                self._start()
                return ""
            if kind == "kill":
                self._kill()
                return ""
            limit_s = {"build": deadlines.build_s, "warm_up": deadlines.warmup_s}.get(kind, deadlines.stall_s)
            answer = self.neighbour.ask(kind, limit_s)
            if kind == "end":
                self.neighbour.wait_for_end(deadlines.stop_s)
            self.facts = answer.get("facts", self.facts)
            return str(answer.get("message", "")).partition("\n")[0]
        except NeighbourGone as gone:
            return str(gone)

    def _start(self) -> None:
        """A new neighbour, tried again while the mode does not take it (CUDA MPS after a fault).

        Raises:
            HostError: None could be started within ``deadlines.start_s``.
        """
        deadline = time.monotonic() + self.spec.deadlines.start_s
        while True:
            if self.steady.dead:
                self.steady.begin_again()
            try:
                self.neighbour.start(None if self.one_process else self._neighbour_job(), self.spec.deadlines.start_s)
                return
            except NeighbourGone as gone:
                if time.monotonic() > deadline:
                    raise HostError(f"no neighbour can be started: {gone}") from gone
                self._wait(time.monotonic() + _SETTLE_S)

    def _process_gone(self) -> set[str]:
        """The thread of the neighbour has ended, so the process of all tenants is lost, whether it ends or hangs.

        Returns:
            The steady tenant, which is started again.
        """
        if not self.steady.wait_for_end(self.spec.deadlines.stop_s):
            self.steady.kill()
        return self._wait(time.monotonic())

    def _kill(self) -> None:
        """SIGKILL, with a request in flight: to the process of the neighbour, which may be that of all tenants."""
        if self.one_process:
            self.steady.kill()
        else:
            self.neighbour.kill()
            self.neighbour.wait_for_end(self.spec.deadlines.stop_s)

    def _wait(self, until_s: float) -> set[str]:
        """Wait until an instant of the monotonic clock, and start the steady tenant again if it dies; who died."""
        died: set[str] = set()
        while True:
            if self.steady.dead:
                died.add(self.steady_spec.id)
                self.steady.begin_again()
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return died
            time.sleep(min(left_s, _LOOK_S))

    def _back(self) -> None:
        """A neighbour serves again: note how long that took after the last ending."""
        if self.ending is None:
            return
        events = self.churned.events
        took_s = sum(self.took_s[kind] for kind in ("start", "build", "warm_up"))
        events[self.ending] = replace(events[self.ending], neighbour_back_s=took_s)
        self.ending = None

    def _keep(self, event: Event) -> None:
        """On disk at once, with what was seen of the steady tenant so far: whatever ends the run costs no event."""
        self.churned.events.append(event)
        # what fails here fails again for the record, and is a finding there
        so_far = Attempts().of("so far", lambda: seen(event, self.steady.served(self.rows)), event)
        live_files.append(self.folder / EVENTS, [so_far])

    # the sharing mode

    def _prove(self) -> None:
        """Both tenants are there: what they say of themselves, and what the mode shows."""
        measured = self.churned.measured
        facts: Facts = {self.steady_spec.id: self.steady.facts, self.neighbour_spec.id: self.facts}
        observed = self.sharing.observe()
        measured.proof, findings = self.sharing.prove(facts, facts, observed, observed)
        measured.facts_before = facts
        measured.findings += findings

    def _look(self) -> None:
        """Note whose the processes on the device are, while both tenants are there."""
        if self.device.kind != "gpu":
            return
        self.pids |= {self.steady.pid, self.neighbour.pid} - {0}
        self.sharing.observe()  # the MPS server may be another one after a fault
        seen = identify(
            self.listed_before,
            listed(self.device),
            self.pids,
            (os.getpid(), *self.sharing.pids()),
            external_mps=self.spec.sharing.mps_mode == "external",
        )
        measured = self.churned.measured
        measured.occupants = measured.occupants.joined(seen)

    # jobs

    def _sms(self, tenant: str) -> int:
        return self.sharing.sm_counts().get(tenant, 0)

    def _visitor(self) -> TenantJob:
        return TenantJob(
            tenant=self.neighbour_spec,
            slot=0,  # it has no part in the board
            samples="",
            sm_count=self._sms(self.neighbour_spec.id),
            address=self.neighbour.address,
        )

    def _steady_job(self, tenant: TenantJob, address: str, board: Path) -> ProcessJob:
        tenants = (tenant, self._visitor()) if self.one_process else (tenant,)
        return self._job(self.sharing.groups()[0], tenants, address, board, 0)

    def _neighbour_job(self) -> ProcessJob:
        return self._job(self.sharing.groups()[1], (self._visitor(),), "", self.folder, 1)

    def _job(
        self, group: tuple[str, ...], tenants: tuple[TenantJob, ...], address: str, board: Path, place: int
    ) -> ProcessJob:
        name = group[0] if len(group) == 1 else "tenants"
        return ProcessJob(
            name=name,
            tenants=tenants,
            address=address,
            board=str(board),
            log=str(self.folder / "logs" / f"{name}.log"),
            runtime=self.spec.runtime,
            measure=replace(self.spec.measure, max_iterations=self.rows),
            environment=self.sharing.environment(group),
            cores=self.cores.processes[place],
        )


def _rows(spec: RunSpec) -> int:
    """Room for the requests of one process: the windows, and as long again for what is between them."""
    arrival, churn = spec.tenants[0].arrival, spec.churn
    if arrival.kind == "trace":
        return len(arrival.trace)
    windows_s = len(churn.events) * churn.repeats * churn.window_s
    return min(round(arrival.rate_rps * (_SPARE_ROWS * windows_s + _SPARE_S)) + spec.measure.warmup, _MOST_ROWS)

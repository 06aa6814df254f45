"""One measured run, from sharing mode up to tenants gone: what was measured, before anybody judges it.

Lives here: the order of design section 4, steps 4 to 6. May touch: launch, sharing, telemetry, host.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtexp.errors import HostError, MtexpError, TenantFailed, interrupted_twice
from mtexp.host import Device
from mtexp.launch import CorePlan, Servers, Starter, TenantGroup, leased_cores
from mtexp.metrics.crossover import Block, mark
from mtexp.metrics.finding import Finding
from mtexp.metrics.samples import Samples
from mtexp.records.files import BLOCKS
from mtexp.running.crossover import Turns, measure_rounds
from mtexp.running.jobs import jobs_of
from mtexp.running.pinning import about_cores, keep_off
from mtexp.running.servers import server_cores, server_findings, start_servers, with_servers
from mtexp.running.stopping import enough_of
from mtexp.sharing import SharingMode, open_sharing
from mtexp.spec import RunSpec
from mtexp.telemetry import GpuProcess, Occupants, Sampler, identify, open_sampler, processes, take_part
from mtexp.tenant.job import ProcessJob

Facts = dict[str, dict[str, Any]]
Progress = Callable[[str], None]
Silence = Callable[[], contextlib.AbstractContextManager[None]]
"""Entered while tenants warm up and measure: this process does nothing else meanwhile."""

TELEMETRY = "telemetry.parquet"
_OF_ALL = "telemetry-of-all.parquet"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


@dataclass(slots=True)
class Measurement:
    """Everything one run produced, also when it failed half way."""

    samples: dict[str, Samples] = field(default_factory=dict)
    """By tenant; of a crossover run with the block, round and phase of each request."""
    blocks: list[Block] = field(default_factory=list)
    """Of a crossover run, those that ended."""
    facts_before: Facts = field(default_factory=dict)
    facts_after: Facts = field(default_factory=dict)
    proof: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    full: list[str] = field(default_factory=list)
    occupants: Occupants = field(default_factory=Occupants)
    """Who was on the device while the tenants were."""
    clock: list[tuple[int, int]] = field(default_factory=lambda: [_clock_pair()])
    """(monotonic ns, realtime ns) pairs, at the start and at the end."""
    cores: CorePlan | None = None
    failure: MtexpError | None = None
    stop: KeyboardInterrupt | None = None
    """Somebody wants the run to end (Ctrl-C, SIGTERM): to be raised again once the record is safe."""
    sets: int = 1
    """How many sharing modes were measured side by side, this one among them."""

    @property
    def failed_tenant(self) -> str:
        """Id of the tenant that failed, or empty."""
        return self.failure.tenant if isinstance(self.failure, TenantFailed) else ""

    @property
    def hurried(self) -> bool:
        """True after a second Ctrl-C or signal while the tenants were being stopped."""
        return interrupted_twice(self.stop)


@dataclass(frozen=True, slots=True)
class Place:
    """What to measure, and the folder of its samples, logs and telemetry."""

    spec: RunSpec
    folder: Path


def measure(
    spec: RunSpec,
    device: Device,
    folder: Path,
    starter: Starter,
    progress: Progress,
    *,
    trace_folder: str = "",
    silence: Silence = contextlib.nullcontext,
    status: Progress | None = None,
) -> Measurement:
    """Bring the sharing mode up and measure ``spec`` on ``device``; samples, logs and telemetry go to ``folder``.

    A failure of a tenant or of the host, and Ctrl-C, end the run and are returned in the measurement with all that was
    measured; the tenants are gone, the sharing mode is down, nothing is left behind.
    """
    session = _Session([Place(spec, folder)], device, starter, progress, trace_folder, silence, status)
    return session.measure()[0]


def measure_side_by_side(
    places: Sequence[Place],
    device: Device,
    starter: Starter,
    progress: Progress,
    *,
    silence: Silence = contextlib.nullcontext,
    status: Progress | None = None,
) -> list[Measurement]:
    """Measure crossover runs that differ in how tenants share, all resident at once, block by block in turns.

    As :func:`measure`; one that fails is taken away and the others go on. One without any block may fit by itself.
    """
    return _Session(places, device, starter, progress, "", silence, status).measure()


class _Set:
    """One run of a session: its sharing mode, its tenants, and what came of it."""

    def __init__(self, place: Place) -> None:
        self.spec, self.folder = place.spec, place.folder
        self.result = Measurement()
        self.open = contextlib.ExitStack()
        """What has to be taken down again."""
        self.sharing: SharingMode
        self.servers: Servers
        self.tenants: TenantGroup
        self.observed: dict[str, Any] = {}
        self.listed: list[GpuProcess] = []

    def begin(self, starter: Starter) -> None:
        """Bring the sharing mode up; the group of tenants is still empty."""
        self.open.enter_context(self.sharing)
        _clear(self.folder)
        self.open.callback(self._end)
        servers = Servers(self.folder, self.spec.deadlines, self.sharing.release)
        self.servers = self.open.enter_context(servers)
        group = TenantGroup(starter, self.spec.deadlines, self.folder, release=self.sharing.release)
        self.tenants = self.open.enter_context(group)
        self.open.callback(self._take)

    def _take(self) -> None:
        """Before the tenants are stopped."""
        self.result.samples = mark(self.tenants.samples(), self.result.blocks)
        self.result.full = self.tenants.full()
        self.result.findings += server_findings(self.spec, self.result.samples, self.result.facts_after)

    def _end(self) -> None:
        """Once they have gone."""
        # the samples of a profiling pass are not used; those of other runs stay until their record is on disk
        if self.spec.kind == "profile":
            _clear(self.folder, "*.bin")
        self.result.clock.append(_clock_pair())

    def fail(self, error: MtexpError | OSError, stop: KeyboardInterrupt | None = None) -> None:
        """Remember why it ended, unless it had ended before."""
        if self.result.failure is not None:
            return
        if isinstance(error, TenantFailed):
            error = self.servers.blamed(error)
            error.remedy = self.sharing.explain(f"{error.cause}\n{error.log_tail}") or ""
        failure = HostError(_explain(error, self.folder)) if isinstance(error, OSError) else error
        self.result.failure, self.result.stop = failure, stop

    def jobs(self, cores: CorePlan, trace_folder: str) -> list[ProcessJob]:
        """What its processes are to do."""
        return jobs_of(self.spec, self.folder, self.sharing, cores, self.tenants, self.servers, trace_folder)

    @property
    def pids(self) -> dict[str, int]:
        """Process of each tenant."""
        groups = zip(self.sharing.groups(), self.tenants.pids, strict=True)
        return {tenant: pid for group, pid in groups for tenant in group} | self.servers.main_pids()


class _Session:
    """One run, or several side by side, from sharing modes up to tenants gone."""

    def __init__(
        self,
        places: Sequence[Place],
        device: Device,
        starter: Starter,
        progress: Progress,
        trace_folder: str,
        silence: Silence,
        status: Progress | None,
    ) -> None:
        self.all = [_Set(place) for place in places]
        self.going = list(self.all)
        """Those that have not failed."""
        self.device, self.starter, self.progress, self.status = device, starter, progress, status
        self.trace_folder, self.silence = trace_folder, silence
        self.listed_before: list[GpuProcess] = []
        """Processes on the device before the run started anything."""
        self.telemetry = places[0].folder / (TELEMETRY if len(places) == 1 else _OF_ALL)

    def measure(self) -> list[Measurement]:
        """Measure all; what came of each, in order."""
        try:
            with contextlib.ExitStack() as opened:
                self._measure(opened)
        except (MtexpError, OSError) as error:
            self._fail(error)
        except KeyboardInterrupt as stop:
            self._fail(MtexpError(f"interrupted: {str(stop) or 'Ctrl-C'}"), stop)
            _let_go(stop)
        for own in self.all:
            own.result.sets = len(self.all)
        return [own.result for own in self.all]

    def _fail(self, error: MtexpError | OSError, stop: KeyboardInterrupt | None = None) -> None:
        for own in self.going:
            own.fail(error, stop)

    def _each(self, action: Callable[[_Set], object]) -> None:
        """Do something for every set; one for which it fails is taken away, unless it is the last."""
        for own in list(self.going):
            try:
                action(own)
            except (MtexpError, OSError) as error:
                self._drop(own, error)

    def _drop(self, own: _Set, error: MtexpError | OSError) -> None:
        if len(self.going) == 1:
            raise error
        own.fail(error)
        self.going.remove(own)
        self.progress(f"{shared_by(own.spec)} is taken away, the others go on: {str(error).partition(chr(10))[0]}")
        own.open.close()

    def _measure(self, opened: contextlib.ExitStack) -> None:
        self._each(self._choose)
        spec = self.going[0].spec
        crossover, tenants = spec.measure.design == "crossover", len(spec.tenants)
        sizes = [len(group) for group in self.going[0].sharing.groups()]
        servers = server_cores(spec, self.going[0].sharing)
        leased = leased_cores(sizes, pin=spec.measure.pin_cores, spare=crossover, servers=servers)
        cores = opened.enter_context(leased)
        opened.enter_context(keep_off(cores))
        for own in self.going:
            own.result.cores = cores
            own.result.findings += about_cores(cores, tenants)
            opened.push(own.open)
        self._each(lambda own: own.begin(self.starter))
        self._each(lambda own: start_servers(own.spec, own.sharing, cores, own.servers, self.progress))
        modes = f" under each of {len(self.going)} sharing modes" if len(self.going) > 1 else ""
        self.progress(("starting 1 tenant" if tenants == 1 else f"starting {tenants} tenants") + modes)
        self._each(lambda own: own.tenants.start(own.jobs(cores, self.trace_folder)))
        if len(self.all) > 1:
            opened.callback(self._part_telemetry)
        with self._sampler(cores) as sampler:
            self.progress("building models")
            self._each(lambda own: own.tenants.build())
            with self.silence():  # from here on: waiting for it between warm-up and window would cool them down
                self.progress("warming up")
                self._each(self._warm_up)
                self.progress("measuring")
                if crossover:
                    measure_rounds([self._turns(own) for own in self.going], cores, self.status)
                else:
                    (only,) = self.going
                    only.tenants.measure(enough_of(spec, only.tenants, self.status))
                self._each(lambda own: self._finish(own, sampler))

    def _choose(self, own: _Set) -> None:
        (own.folder / "logs").mkdir(parents=True, exist_ok=True)
        if not self.listed_before:
            self.listed_before = _listed(self.device)
        own.sharing = open_sharing(own.spec, self.device, work_dir=own.folder)

    def _warm_up(self, own: _Set) -> None:
        """One set after the other, so that each finds the device as its blocks do."""
        own.tenants.begin_warm_up()
        own.observed = own.sharing.observe()  # meanwhile: a device that waits for it would cool down
        self._look(own)
        own.result.facts_before = with_servers(own.tenants.warm_up(), own.servers, own.listed)

    def _turns(self, own: _Set) -> Turns:
        drop = (lambda failure: self._drop(own, failure)) if len(self.all) > 1 else None
        return Turns(own.spec, own.tenants, own.result.blocks, own.folder / BLOCKS, drop)

    def _finish(self, own: _Set, sampler: Sampler) -> None:
        observed_after = own.sharing.observe()
        self._look(own)
        own.servers.check()
        own.tenants.begin_finish()
        own.result.findings += sampler.stop()
        own.result.facts_after = with_servers(own.tenants.finish(), own.servers, own.listed)
        facts = own.result.facts_before, own.result.facts_after
        own.result.proof, findings = own.sharing.prove(*facts, own.observed, observed_after)
        own.result.findings += findings

    def _look(self, own: _Set) -> None:
        """Note whose the processes on the device are."""
        if self.device.kind != "gpu":
            return
        own.listed += _listed(self.device)
        tenants = [pid for each in self.going for pid in (*each.tenants.pids, *each.servers.pids())]
        others = (os.getpid(), *(pid for each in self.going for pid in each.sharing.pids()))
        external = own.spec.sharing.mps_mode == "external"
        own.result.occupants = identify(self.listed_before, own.listed, tenants, others, external_mps=external)

    def _sampler(self, cores: CorePlan) -> Sampler:
        several = len(self.all) > 1
        pids = {
            f"{number}:{tenant}" if several else tenant: pid
            for number, own in enumerate(self.all)
            if own in self.going
            for tenant, pid in own.pids.items()
        }
        spec = self.going[0].spec
        return open_sampler(
            spec.telemetry,
            spec.runtime,
            self.device.uuid,
            pids,
            self.telemetry,
            cores.sampler[0] if cores.sampler else None,
            mps=any(own.spec.sharing.mps_mode != "disabled" for own in self.going),
        )

    def _part_telemetry(self) -> None:
        """Give each run the samples of the device, and those of its own tenants."""
        if self.telemetry.is_file():
            for number, own in enumerate(self.all):
                take_part(self.telemetry, f"{number}:", own.folder / TELEMETRY)
            self.telemetry.unlink()


def shared_by(spec: RunSpec) -> str:
    """How tenants share, as the command line has it."""
    return f"mps_settings={spec.mps_settings}" if spec.sharing.mode == "processes" else f"sharing={spec.sharing.mode}"


def _clear(folder: Path, *patterns: str) -> None:
    """Remove what a run of this folder that was killed has left, or only the sample buffers."""
    for pattern in patterns or ("*.bin", BLOCKS, TELEMETRY):
        for path in folder.glob(pattern):
            path.unlink()


def _explain(error: OSError, folder: Path) -> str:
    text = f"{error.filename or folder}: {error.strerror or error}"
    if error.errno in _NO_ROOM:
        text += ". Make room, or choose another place with hydra.run.dir (hydra.sweep.dir in a sweep)"
    return text


def _listed(device: Device) -> list[GpuProcess]:
    return processes(device.uuid) if device.kind == "gpu" else []


def _let_go(error: BaseException | None) -> None:
    """Free what the frames of an exception that is kept hold: a sampler that was not stopped ends once it is freed."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _clock_pair() -> tuple[int, int]:
    return time.monotonic_ns(), time.time_ns()

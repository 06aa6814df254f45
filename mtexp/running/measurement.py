"""Measures a run, or several side by side, from the start of the sharing mode to the end of the tenants.

Lives here: the order of these steps. The result is judged by :mod:`mtexp.running.evaluation`. May touch: launch,
sharing, telemetry, host.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from mtexp.errors import MtexpError, interrupted
from mtexp.host import Device
from mtexp.launch import CorePlan, leased_cores
from mtexp.records.files import BLOCKS
from mtexp.running.crossover import CrossoverSet, measure_rounds
from mtexp.running.measured import TELEMETRY, Measurement, Place, Setup
from mtexp.running.pinning import core_findings, parent_off_tenant_cores
from mtexp.running.servers import server_cores, start_servers
from mtexp.running.stopping import enough_of
from mtexp.running.tenant_set import TenantSet
from mtexp.sharing import open_sharing
from mtexp.spec import RunSpec
from mtexp.telemetry import GpuProcess, Sampler, identify, open_sampler, processes, take_part
from mtexp.united import by_set, without_sharing

_OF_ALL = "telemetry-of-all.parquet"


def measure(spec: RunSpec, folder: Path, setup: Setup, trace_folder: str = "") -> Measurement:
    """Bring the sharing mode up and measure ``spec``; samples, logs and telemetry go to ``folder``.

    A failure of a tenant or of the host, and Ctrl-C, end the run and are returned in the measurement with all that was
    measured. The tenants have ended then, and the sharing mode is down.
    """
    return _Session([Place(spec, folder)], setup, trace_folder).measure()[0]


def measure_side_by_side(places: Sequence[Place], setup: Setup) -> list[Measurement]:
    """Measure crossover runs that differ in how tenants share, or in their mix, all resident at once, block by block.

    Runs that differ only in their mix share one set of processes. As :func:`measure`, but a set that fails is removed
    and the others continue. A run that got no block can still be measured by itself.
    """
    return _Session(places, setup).measure()


class _Session:
    """One run, or several side by side."""

    def __init__(self, places: Sequence[Place], setup: Setup, trace_folder: str = "") -> None:
        self.places = places
        self.all = [TenantSet([places[i] for i in own]) for own in by_set([place.spec for place in places])]
        self.going = list(self.all)
        """The sets that have not failed."""
        self.setup, self.device, self.progress = setup, setup.device, setup.progress
        self.trace_folder = trace_folder
        self.listed_before: list[GpuProcess] = []
        """Processes on the device before the run started anything."""
        self.telemetry = places[0].folder / (TELEMETRY if len(places) == 1 else _OF_ALL)

    def measure(self) -> list[Measurement]:
        """Measure all; returns the measurement of each, in order."""
        try:
            with contextlib.ExitStack() as opened:
                self._measure(opened)
        except (MtexpError, OSError) as error:
            self._fail(error)
        except KeyboardInterrupt as stop:
            self._fail(MtexpError(interrupted(stop)), stop)
            _let_go(stop)
        results = {run.place.folder: run.result for own in self.all for run in own.runs}
        for result in results.values():
            result.runs = len(self.places)
        return [results[place.folder] for place in self.places]

    def _fail(self, error: MtexpError | OSError, stop: KeyboardInterrupt | None = None) -> None:
        for own in self.going:
            own.fail(error, stop)

    def _each(self, action: Callable[[TenantSet], object]) -> None:
        """Do something for every set; a set for which it fails is removed, unless it is the last."""
        for own in list(self.going):
            try:
                action(own)
            except (MtexpError, OSError) as error:
                self._drop(own, error)

    def _drop(self, own: TenantSet, error: MtexpError | OSError) -> None:
        if len(self.going) == 1:
            raise error
        own.fail(error)
        self.going.remove(own)
        self.progress(f"{shared_by(own.spec)} is taken away, the others go on: {str(error).partition(chr(10))[0]}")
        own.open.close()

    def _measure(self, opened: contextlib.ExitStack) -> None:
        self._each(self._choose)
        spec = self.going[0].spec
        crossover = spec.measure.design == "crossover"
        tenants = max(len(slots) for own in self.going for slots in own.slots)
        mixes = max(len(own.runs) for own in self.going)  # a sweep that is resumed may lack some of a mode
        sizes = [len(group) for group in self.going[0].sharing.groups()] if mixes == 1 else [1] * tenants
        servers = server_cores(spec, self.going[0].sharing)
        leased = leased_cores(sizes, pin=spec.measure.pin_cores, spare=crossover, servers=servers)
        cores = opened.enter_context(leased)
        opened.enter_context(parent_off_tenant_cores(cores))
        for own in self.going:
            for result in own.results:
                result.cores = cores
                result.findings += core_findings(cores, tenants)
            opened.push(own.open)
        self._each(lambda own: own.begin(self.setup.starter))
        self._each(lambda own: start_servers(own.spec, own.sharing, cores, own.servers, self.progress))
        modes = f" under each of {len(self.going)} sharing modes" if len(self.going) > 1 else ""
        count = len(spec.tenants)
        of_mixes = f" of {mixes} mixes" if mixes > 1 else ""
        self.progress(("starting 1 tenant" if count == 1 else f"starting {count} tenants") + of_mixes + modes)
        self._each(lambda own: own.tenants.start(own.jobs(cores, self.trace_folder)))
        if len(self.places) > 1:
            opened.callback(self._part_telemetry)
        with self._sampler(cores) as sampler:
            self.progress("building models")
            self._each(lambda own: own.tenants.build())
            with self.setup.uploads_paused():  # waiting for it between warm-up and window would cool the device down
                self.progress("warming up")
                self._each(self._warm_up)
                self.progress("measuring")
                if crossover:
                    measure_rounds(self._mixes(), cores, self.setup.status)
                else:
                    (only,) = self.going
                    only.tenants.measure(enough_of(spec, only.tenants, self.setup.status))
                self._each(lambda own: self._finish(own, sampler))

    def _choose(self, own: TenantSet) -> None:
        (own.folder / "logs").mkdir(parents=True, exist_ok=True)
        if not self.listed_before:
            self.listed_before = listed(self.device)
        own.sharing = open_sharing(own.spec, self.device, work_dir=own.folder)

    def _warm_up(self, own: TenantSet) -> None:
        """Warm up one set after the other, so that each finds the device as in its blocks."""
        own.tenants.begin_warm_up()
        own.observed = own.sharing.observe()  # meanwhile: a device that waits for it would cool down
        self._look(own)
        own.warmed_up(own.tenants.warm_up())

    def _mixes(self) -> list[list[CrossoverSet]]:
        """The sets that take turns, by mix: one for each sharing mode."""
        mixes: dict[str, list[CrossoverSet]] = {}
        for own in self.going:
            drop = (lambda failure, own=own: self._drop(own, failure)) if len(self.all) > 1 else None
            for run in own.runs:
                place, blocks = run.place, run.result.blocks
                one = CrossoverSet(place.spec, run.part, blocks, place.folder / BLOCKS, drop)
                mixes.setdefault(without_sharing(place.spec), []).append(one)
        return list(mixes.values())

    def _finish(self, own: TenantSet, sampler: Sampler) -> None:
        observed_after = own.sharing.observe()
        self._look(own)
        own.servers.check()
        own.tenants.begin_finish()
        found = sampler.stop()
        for result in own.results:
            result.findings += found
        own.finished(own.tenants.finish(), observed_after)

    def _look(self, own: TenantSet) -> None:
        """Note which processes are on the device, and which of them are the run's."""
        if self.device.kind != "gpu":
            return
        own.listed += listed(self.device)
        tenants = [pid for each in self.going for pid in (*each.tenants.pids, *each.servers.pids())]
        others = (os.getpid(), *(pid for each in self.going for pid in each.sharing.pids()))
        for each in self.going:  # those that looked before this one's MPS server was known, again
            if each.listed:
                external = each.spec.sharing.mps_mode == "external"
                occupants = identify(self.listed_before, each.listed, tenants, others, external_mps=external)
                for result in each.results:
                    result.occupants = occupants

    def _sampler(self, cores: CorePlan) -> Sampler:
        several = len(self.places) > 1
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
        """Give each run the samples of the device, and those of its own tenants; of several mixes, in its blocks."""
        if self.telemetry.is_file():
            for number, own in enumerate(self.all):
                for run in own.runs:
                    names = {f"{number}:{name}": tenant for name, tenant in run.ids.items()}
                    spans = [(block.start_ns, block.end_ns) for block in run.result.blocks]
                    to = run.place.folder / TELEMETRY
                    take_part(self.telemetry, names, to, spans if len(own.runs) > 1 else None)
            self.telemetry.unlink()


def shared_by(spec: RunSpec) -> str:
    """How tenants share, as the command line has it."""
    sharing = spec.sharing
    mode = f"mps_settings={spec.mps_settings}" if sharing.mode == "processes" else f"sharing={sharing.mode}"
    return f"{mode} share_weights=true" if sharing.share_weights else mode


def listed(device: Device) -> list[GpuProcess]:
    """Return the processes that are on the device; none on the CPU."""
    return processes(device.uuid) if device.kind == "gpu" else []


def _let_go(error: BaseException | None) -> None:
    """Free what the frames of a kept exception hold: a sampler that was not stopped ends once it is freed."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__

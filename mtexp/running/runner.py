"""Runs a job, step by step: lease, baselines, measurement, record, MLflow, profile.

May touch: everything below it, through its front doors. One Runner lives as long as the process, so that the points of
a sweep share the forkserver and the baselines.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from mtexp.collector import collector_off
from mtexp.errors import HostError
from mtexp.host import Device, cpu_device, environment
from mtexp.launch import ForkserverStarter, InterpreterStarter, Starter
from mtexp.leases import lease
from mtexp.metrics.drift import recheck_noise_pct
from mtexp.metrics.finding import Finding
from mtexp.records.files import RECORD, fresh
from mtexp.records.record import RunRecord
from mtexp.running.bare_record import RecordContext
from mtexp.running.baselines import BaselineRun, Baselines, alone_of, baseline_spec, linked, with_rates
from mtexp.running.churn import churn
from mtexp.running.churn_record import keep_churn
from mtexp.running.crossover_figures import Reference, no_mode
from mtexp.running.evaluation import Comparison, begin, doubted, keep
from mtexp.running.measured import Measurement, Place, Progress, Setup
from mtexp.running.measurement import measure, measure_side_by_side, shared_by
from mtexp.running.profile import profile
from mtexp.spec import RunSpec
from mtexp.telemetry import chosen, find_devices
from mtexp.telemetry import facts as gpu_facts
from mtexp.tracking.background import Uploads
from mtexp.tracking.upload import Upload
from mtexp.united import without_sharing


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One point of a sweep: what to run, and where it belongs."""

    spec: RunSpec
    folder: Path
    """The run's directory: its record, logs and plots; where one has been, the new one gets a folder in it."""
    config: str = ""
    """The composed configuration, as YAML."""
    sweep: str = ""
    position: int = 0
    """How many points of the sweep ran before."""
    swept: dict[str, str] = field(default_factory=dict)
    """What distinguishes the point from the others of its sweep: short names of keys, and values."""
    retries: int = 0
    progress: Progress = field(default=lambda text: None)
    """Called with a line for each phase."""
    status: Progress | None = None
    """Called about once a second with what has been measured so far; must return at once. None = not shown."""
    separate: str = ""
    """Why it is not measured beside the other sharing modes of its mix."""
    required: bool = False
    """Fail if it cannot be measured side by side (``side_by_side=require``)."""


class Runner:
    """Runs jobs, one after another."""

    def __init__(self, forkserver: ForkserverStarter | None = None) -> None:
        self._forkserver = forkserver or ForkserverStarter()
        self._baselines = Baselines()
        self.uploads = Uploads()
        self.waits_at_end = False
        """True if the command line waits for ``uploads`` at its end; otherwise each job waits for its own."""

    def warm(self, *, tracked: bool = True) -> None:
        """Import torch in the forkserver and, for tracked runs, MLflow in this process, both at once."""
        self._forkserver.warm()
        if tracked:
            with collector_off():
                self.uploads.prepare()

    def run(self, job: Job) -> RunRecord:
        """Run one job to its record on disk and on its way to MLflow (``uploads``).

        A failure of a tenant or of the host is in the record, one of MLflow in ``uploads``; nothing is lost.

        Raises:
            LeaseBusy: No device became free.
            ConfigError: A baseline was required and is not there.
            RecordError: The record cannot be written.
            KeyboardInterrupt: What had been measured is on disk and, after a single interrupt, on its way to MLflow.
        """
        spec = job.spec
        label = f"{spec.mix} {spec.mps_settings}"
        with lease(_candidates(spec), wait_s=spec.lease_wait_s, label=label, tell=job.progress) as device:
            starter = self._forkserver if spec.launcher == "forkserver" else InterpreterStarter()
            return self._run(_Point(job, device, starter, self._baselines, self.uploads))

    def run_side_by_side(self, jobs: Sequence[Job]) -> list[RunRecord]:
        """Run jobs that differ in how tenants share, all resident at once, block by block in turns; as :meth:`run`.

        One that fails before its first block is run again by itself: perhaps there was no room for all.
        """
        first = jobs[0].spec
        label = f"{first.mix} side by side"
        with lease(_candidates(first), wait_s=first.lease_wait_s, label=label, tell=jobs[0].progress) as device:
            starter = self._forkserver if first.launcher == "forkserver" else InterpreterStarter()
            points = [_Point(job, device, starter, self._baselines, self.uploads) for job in jobs]
            found = side_by_side(points)
            return [self._run(point, record) for point, record in zip(points, found, strict=True)]

    def _run(self, point: _Point, record: RunRecord | None = None) -> RunRecord:
        """Try until it ends well; ``record`` is that of a first attempt."""
        job = point.job
        for attempt in range(1, job.retries + 2):
            if attempt > 1 or record is None:
                record = point.run(attempt)
            if record.status == "FINISHED":
                break
            if attempt <= job.retries:
                reason = record.failure.partition("\n")[0]
                job.progress(f"attempt {attempt} of {job.retries + 1} failed, trying again: {reason}")
        assert record is not None
        if record.status == "FINISHED" and job.spec.profiler.kind != "none":
            point.profile(record)
        return record


@cache
def shared_runner() -> Runner:
    """The runner of this process."""
    return Runner()


class _Point:
    """One job on the device it got."""

    def __init__(self, job: Job, device: Device, starter: Starter, baselines: Baselines, uploads: Uploads) -> None:
        self.device, self.baselines, self.uploads = device, baselines, uploads
        self.setup = Setup(device, starter, job.progress, job.status, uploads.paused)
        self.job = replace(job, folder=fresh(job.folder))
        self.environment = environment(device) | (gpu_facts(device.uuid) if device.kind == "gpu" else {})
        self.origin = RecordContext(
            sweep=job.sweep, position=job.position, swept=job.swept, environment=self.environment
        )

    def alone(self) -> dict[str, BaselineRun]:
        """The baselines that the run is compared with, measured where they are missing."""
        spec = self.job.spec
        in_blocks = spec.measure.design == "crossover" and spec.baseline.mode != "require"
        return {} if in_blocks else self.baselines.of(spec, self.environment, self._measure_alone)

    def run(self, attempt: int) -> RunRecord:
        spec, progress = self.job.spec, self.job.progress
        if spec.kind == "churn":
            return self._churn(spec)
        alone = self.alone()
        partitioned = {}
        if spec.baseline.partitioned:
            partitioned = self.baselines.of(spec, self.environment, self._measure_alone, partitioned=True)
        spec = with_rates(spec, alone)
        at_arrivals = self.baselines.of(spec, self.environment, self._measure_alone, at_arrivals=True)
        folder = self.job.folder if attempt == 1 else self.job.folder / f"attempt-{attempt}"
        origin = replace(self.origin, attempt=attempt)
        origin = begin(spec, folder, origin, self.job.config)
        progress(f"{spec.mix} on {self.device}, {shared_by(spec)}")
        measured = measure(spec, folder, self.setup)
        if self.job.separate:
            measured.findings.append(one_after_another(self.job.separate))
        compared = Comparison(alone=alone, partitioned=partitioned, at_arrivals=at_arrivals)
        try:
            if spec.baseline.recheck and measured.failure is None:
                self._recheck(spec, compared)
            if spec.baseline.mode == "auto" and alone and measured.failure is None:
                self._remeasure_doubted(spec, measured, folder, compared)
            if not measured.stop_now:
                compared = compared.linked()
        finally:  # an interrupt of these does not cost the run its record
            record, _ = self.keep(spec, measured, folder, compared, origin)
        return record

    def _churn(self, spec: RunSpec) -> RunRecord:
        """The events of a churn run: windows around them, and no slowdown."""
        steady = replace(spec, tenants=spec.tenants[:1])
        if steady.tenants[0].arrival.load:
            steady = with_rates(steady, self.baselines.of(steady, self.environment, self._measure_alone))
        spec = replace(spec, tenants=(*steady.tenants, *spec.tenants[1:]))
        folder = fresh(self.job.folder) if (self.job.folder / RECORD).exists() else self.job.folder
        origin = begin(spec, folder, self.origin, self.job.config)
        self.job.progress(f"churn of {spec.mix} on {self.device}, {shared_by(spec)}")
        churned = churn(spec, folder, self.setup)
        record = keep_churn(spec, churned, folder, origin, self.job.config)
        self.uploads.send(folder, spec.tracking)
        if churned.measured.stop is not None:
            raise churned.measured.stop
        return record

    def profile(self, timed: RunRecord) -> None:
        """Run the profiling pass as a run of its own, after the timed one, which it cannot harm."""
        self.uploads.drain()  # a profiler's session is another process: nothing here knows when it measures
        folder = profile(timed, self.job.folder, self.origin, self.setup)
        if folder is not None:
            self.uploads.send(folder, self.job.spec.tracking)

    def keep(
        self, spec: RunSpec, measured: Measurement, folder: Path, compared: Comparison, origin: RecordContext
    ) -> tuple[RunRecord, Future[Upload]]:
        """Write what was measured, judge it, write that, have it sent; then raise an interrupt that had come."""
        record = keep(spec, measured, folder, compared, origin, self.job.config)
        if spec.tracking.enabled:
            self.job.progress("tracking")
        if measured.stop_now:
            self.uploads.abandon()
        sent = self.uploads.send(folder, spec.tracking, draw=True)
        if measured.stop is not None:
            raise measured.stop
        return record, sent

    def _measure_alone(self, spec: RunSpec, baseline_hash: str, place: str = "baselines") -> BaselineRun | None:
        """Measure a baseline; one that fails or is INVALID is kept as a record, but not used."""
        folder = fresh(self.job.folder / place / f"{spec.mix}-{baseline_hash[:8]}")
        at = "" if spec.tenants[0].arrival.kind == "closed" else " at the same arrivals"
        self.job.progress(f"baseline of {spec.mix}{at}")
        origin = replace(self.origin, baseline_hash=baseline_hash, swept={})
        origin = begin(spec, folder, origin, self.job.config)
        measured = measure(spec, folder, self.setup)
        record, sent = self.keep(spec, measured, folder, Comparison(), origin)
        return alone_of(record, measured.samples, folder, sent)

    def _remeasure_doubted(self, spec: RunSpec, measured: Measurement, folder: Path, compared: Comparison) -> None:
        """Measure baselines once more, at once, where figures against them are impossible.

        ``compared`` gets the new ones, and keeps the first ones as ``before``. All tenants of a baseline are compared
        with the new one.
        """
        alone = compared.alone
        doubts = doubted(spec, measured, folder, Comparison(alone=alone))
        named = {finding.tenant for finding in doubts}
        names = {alone[tenant].ref.baseline_hash for tenant in alone if named & {tenant, ""}}
        for doubt in doubts:
            self.job.progress(f"impossible: {doubt.message}; measured again")
        for name in sorted(names):
            tenants = [tenant for tenant in spec.tenants if tenant.id in alone]
            same = [tenant for tenant in tenants if alone[tenant.id].ref.baseline_hash == name]
            again = self._measure_alone(baseline_spec(same[0], spec), name)
            if again is None:
                continue
            self.baselines.learn(again, spec)
            for tenant in same:
                compared.before[tenant.id], alone[tenant.id] = alone[tenant.id], again

    def _recheck(self, spec: RunSpec, compared: Comparison) -> None:
        """Measure the baselines once more: how far each mean latency moved, and how far noise alone moves it."""
        again: dict[str, BaselineRun | None] = {}
        for tenant in spec.tenants:
            if tenant.id not in compared.alone:
                continue
            before = compared.alone[tenant.id]
            name = before.ref.baseline_hash
            if name not in again:
                again[name] = self._measure_alone(baseline_spec(tenant, spec), name, "rechecks")
            after = again[name]
            if after is not None:
                compared.drift_pct[tenant.id] = 100 * (after.ref.latency_mean_ms / before.ref.latency_mean_ms - 1)
                compared.noise_pct[tenant.id] = recheck_noise_pct(
                    before.baseline.series.latency_ms, after.baseline.series.latency_ms, before.launch_bound_pct
                )


def side_by_side(points: Sequence[_Point]) -> list[RunRecord | None]:
    """Measure points side by side; returns the record of each, None where it still has to be measured by itself.

    Raises:
        KeyboardInterrupt: The records of all are on disk.
    """
    alone = [point.alone() for point in points]
    session = uuid.uuid4().hex[:16]
    origins = []
    for point in points:
        origin = replace(point.origin, session=session)
        origins.append(begin(point.job.spec, point.job.folder, origin, point.job.config))
    first = points[0]
    modes = ", ".join(dict.fromkeys(shared_by(point.job.spec) for point in points))
    mixes = list(dict.fromkeys(without_sharing(point.job.spec) for point in points))
    what = first.job.spec.mix if len(mixes) == 1 else f"{len(mixes)} mixes"
    first.job.progress(f"{what} on {first.device}, side by side: {modes}")
    found = measure_side_by_side(
        [Place(point.job.spec, point.job.folder) for point in points],
        first.setup,
    )
    references = {mix: _reference(mix, points, found, origins) for mix in mixes}
    records: list[RunRecord | None] = []
    stop: KeyboardInterrupt | None = None
    for point, measured, origin, baselines in zip(points, found, origins, alone, strict=True):
        stop = stop or measured.stop
        by_itself = measured.failure is not None and not measured.blocks and stop is None
        if by_itself and not point.job.required:
            reason = str(measured.failure).partition("\n")[0]
            point.job = replace(point.job, separate=f"side by side it failed before its first block: {reason}")
            records.append(None)
            continue
        reference = references[without_sharing(point.job.spec)]
        other = reference if reference is not None and reference.measured is not measured else None
        compared = Comparison(alone=linked(baselines), reference=other)
        if other is not None:
            origin = replace(origin, session_reference=other.record_id)
        try:
            records.append(point.keep(point.job.spec, measured, point.job.folder, compared, origin)[0])
        except KeyboardInterrupt as raised:  # that of the measurement, once its record is on disk
            stop = raised
    if stop is not None:
        raise stop
    return records


def _reference(
    mix: str, points: Sequence[_Point], found: Sequence[Measurement], origins: Sequence[RecordContext]
) -> Reference | None:
    """The run that those of one mix are compared with: time slicing, else the first mode; None if too few succeeded."""
    there = [
        Reference(point.job.spec, measured, origin.record_id)
        for point, measured, origin in zip(points, found, origins, strict=True)
        if without_sharing(point.job.spec) == mix and (measured.failure is None or measured.stop is not None)
    ]
    return next((one for one in there if no_mode(one.spec)), there[0]) if len(there) > 1 else None


def one_after_another(why: str) -> Finding:
    """The finding of a run that was not measured beside the other sharing modes of its mix."""
    return Finding(
        "note",
        "one-after-another",
        f"not measured side by side with the other sharing modes of this mix, because {why}",
        "Differences between them may come from the host, which changes within minutes: intervals cover one run only.",
    )


def _candidates(spec: RunSpec) -> list[Device]:
    """Devices that the run may use, best first."""
    if spec.runtime == "cpu":
        return [cpu_device()]
    devices = chosen(find_devices(), spec.device)
    if not devices:
        raise HostError("no CUDA GPU is visible: nvidia-smi -L lists them, CUDA_VISIBLE_DEVICES hides them")
    return devices

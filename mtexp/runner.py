"""The story of one run, top to bottom: lease, baselines, measurement, record, MLflow, profile.

May touch: everything below it, through its front doors. One Runner lives as long as the process, so that the points of
a sweep share the forkserver and the baselines.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mtexp.baselines import Alone, Baselines, alone_of, baseline_spec, with_rates
from mtexp.errors import HostError, ProfilerError
from mtexp.evaluation import Comparison, Origin, evaluate
from mtexp.host import Device, cpu_device, environment, lease
from mtexp.launch import ForkserverStarter, InterpreterStarter, Starter
from mtexp.measurement import Measurement, measure
from mtexp.profile_pass import profile
from mtexp.spec import RunSpec
from mtexp.telemetry import facts as gpu_facts
from mtexp.telemetry import find_devices
from mtexp.tracking import record as records
from mtexp.tracking.plots import draw_run
from mtexp.tracking.record import RunRecord
from mtexp.tracking.upload import Upload, defer, log_or_defer

log = logging.getLogger(__name__)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One point of a sweep: what to run, and where it belongs."""

    spec: RunSpec
    folder: Path
    """The run's directory: its record, logs and plots."""
    config: str = ""
    """The composed configuration, as YAML."""
    sweep: str = ""
    retries: int = 0
    progress: Progress = field(default=lambda text: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a job."""

    record: RunRecord
    uploads: tuple[Upload, ...]
    """Of the run, its new baselines and its profile."""

    @property
    def ok(self) -> bool:
        """True when the run finished; its verdict may still be INVALID."""
        return self.record.status == "FINISHED"


class Runner:
    """Runs jobs, one after another."""

    def __init__(self, forkserver: ForkserverStarter | None = None) -> None:
        self._forkserver = forkserver or ForkserverStarter()
        self._baselines = Baselines()

    def warm(self) -> None:
        """Start importing torch beside whatever comes before the first run."""
        self._forkserver.warm()

    def run(self, job: Job) -> Outcome:
        """Run one job to its record on disk and in MLflow.

        A failure of a tenant, of the host or of MLflow is in the outcome; nothing of it is lost or left behind.

        Raises:
            LeaseBusy: No device became free.
            ConfigError: A baseline was required and is not there.
            RecordError: The record cannot be written.
            KeyboardInterrupt: Somebody interrupted; what had been measured is on disk and, after one Ctrl-C, in MLflow.
        """
        spec = job.spec
        with lease(_candidates(spec), wait_s=spec.lease_wait_s, label=f"{spec.mix} {spec.mps_settings}") as device:
            point = _Point(job, device, self._starter(spec), self._baselines)
            for attempt in range(1, job.retries + 2):
                record = point.run(attempt)
                if record.status == "FINISHED":
                    break
                if attempt <= job.retries:
                    reason = record.failure.partition("\n")[0]
                    job.progress(f"attempt {attempt} of {job.retries + 1} failed, trying again: {reason}")
            if record.status == "FINISHED" and spec.profiler.kind != "none":
                point.profile(record)
        return Outcome(record=record, uploads=tuple(point.uploads))

    def _starter(self, spec: RunSpec) -> Starter:
        return self._forkserver if spec.launcher == "forkserver" else InterpreterStarter()


@cache
def shared_runner() -> Runner:
    """The runner of this process."""
    return Runner()


class _Point:
    """One job on the device it got."""

    def __init__(self, job: Job, device: Device, starter: Starter, baselines: Baselines) -> None:
        self.job, self.device, self.starter, self.baselines = job, device, starter, baselines
        self.environment = environment(device) | (gpu_facts(device.uuid) if device.kind == "gpu" else {})
        self.uploads: list[Upload] = []

    def run(self, attempt: int) -> RunRecord:
        spec, progress = self.job.spec, self.job.progress
        alone = self.baselines.of(spec, self.environment, self._measure_alone)
        partitioned = {}
        if spec.baseline.partitioned:
            partitioned = self.baselines.of(spec, self.environment, self._measure_alone, partitioned=True)
        spec = with_rates(spec, alone)
        folder = self.job.folder if attempt == 1 else self.job.folder / f"attempt-{attempt}"
        origin = Origin(sweep=self.job.sweep, attempt=attempt, environment=self.environment)
        progress(f"{spec.mix} on {self.device}, {_sharing(spec)}")
        measured = measure(spec, self.device, folder, self.starter, progress)
        drift: dict[str, float] = {}
        try:
            if spec.baseline.recheck and measured.failure is None:
                self._recheck(spec, alone, drift)
        finally:  # an interrupt during the re-check does not cost the run its record
            compared = Comparison(alone=alone, partitioned=partitioned, drift_pct=drift)
            record = self._keep(spec, measured, folder, compared, origin)
        return record

    def profile(self, record: RunRecord) -> None:
        """The profiler's pass, as its own run, after the timed one."""
        origin = Origin(sweep=self.job.sweep, environment=self.environment, profile_of=record.record_id)
        try:
            for folder in profile(self.job.spec, self.device, record, self.job.folder, origin, self.job.progress):
                self.uploads.append(log_or_defer(folder, self.job.spec.tracking))
        except ProfilerError as error:
            log.warning("No profile; the timed results stand. %s", error)

    def _keep(
        self, spec: RunSpec, measured: Measurement, folder: Path, compared: Comparison, origin: Origin
    ) -> RunRecord:
        """Judge, write the record, send it; then let an interrupt go on."""
        record = evaluate(spec, measured, folder, compared, origin)
        record = records.save(record, folder, measured.samples, config=self.job.config)
        if measured.hurried:
            upload = defer(folder, "interrupted twice.")
        else:
            draw_run(folder, measured.samples, record.window)
            self.job.progress("tracking")
            upload = log_or_defer(folder, spec.tracking)
        self.uploads.append(upload)
        if measured.stop is not None:
            raise measured.stop
        return record

    def _measure_alone(self, spec: RunSpec, baseline_hash: str, place: str = "baselines") -> Alone | None:
        """Measure a baseline; one that fails or comes out INVALID is kept, and not compared with."""
        folder = self.job.folder / place / f"{spec.mix}-{baseline_hash[:8]}"
        self.job.progress(f"baseline of {spec.mix}")
        origin = Origin(sweep=self.job.sweep, baseline_hash=baseline_hash, environment=self.environment)
        measured = measure(spec, self.device, folder, self.starter, self.job.progress)
        record = self._keep(spec, measured, folder, Comparison(), origin)
        return alone_of(record, measured.samples, folder, self.uploads[-1].run_id)

    def _recheck(self, spec: RunSpec, alone: dict[str, Alone], drift_pct: dict[str, float]) -> None:
        """Measure the baselines once more; ``drift_pct`` gets the change of each tenant's mean latency."""
        again: dict[str, Alone | None] = {}
        for tenant in spec.tenants:
            if tenant.id not in alone:
                continue
            before = alone[tenant.id].ref
            name = before.baseline_hash
            if name not in again:
                again[name] = self._measure_alone(baseline_spec(tenant, spec), name, "rechecks")
            after = again[name]
            if after is not None:
                drift_pct[tenant.id] = 100 * (after.ref.latency_mean_ms / before.latency_mean_ms - 1)


def _candidates(spec: RunSpec) -> list[Device]:
    """Devices that would do, best first."""
    if spec.runtime == "cpu":
        return [cpu_device()]
    devices = [d for d in find_devices() if spec.device in ("", d.uuid)]
    if not devices:
        raise HostError("no CUDA GPU is visible: nvidia-smi -L lists them, CUDA_VISIBLE_DEVICES hides them")
    return devices


def _sharing(spec: RunSpec) -> str:
    return f"mps_settings={spec.mps_settings}" if spec.sharing.mode == "processes" else f"sharing={spec.sharing.mode}"

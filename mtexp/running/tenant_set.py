"""The tenant processes of one sharing mode, and the runs that they serve. May touch: launch, sharing, run folders."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtexp.errors import HostError, MtexpError, TenantFailed
from mtexp.launch import CorePlan, Part, Servers, Starter, TenantGroup, cores_of_all
from mtexp.metrics.crossover import mark
from mtexp.records.files import BLOCKS
from mtexp.running.jobs import jobs_of
from mtexp.running.measured import TELEMETRY, Facts, Measurement, Place, clock_pair
from mtexp.running.servers import server_findings, with_servers
from mtexp.sharing import SharingMode
from mtexp.telemetry import GpuProcess
from mtexp.tenant.job import ProcessJob
from mtexp.united import unite

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


@dataclass(slots=True)
class Run:
    """One run of a set of processes, and its result."""

    place: Place
    ids: dict[str, str]
    """Tenant ids of the run, by those of the set."""
    part: Part = field(init=False)
    result: Measurement = field(default_factory=Measurement)

    def own(self, facts: Facts) -> Facts:
        """The facts of this run's tenants, among those of the set."""
        return {own: facts[name] for name, own in self.ids.items() if name in facts}

    def failure(self, error: MtexpError) -> MtexpError:
        """``error`` in the words of this run: of its own tenant, or of one of another mix."""
        if not isinstance(error, TenantFailed):
            return error
        names = error.tenant.split(",")
        if not set(names) & self.ids.keys():
            return MtexpError(f"a tenant of another mix, in the same set of processes, ended this run: {error}")
        own = TenantFailed(
            ",".join(self.ids[name] for name in names if name in self.ids),
            error.phase, error.cause, exit_code=error.exit_code, log=error.log, log_tail=error.log_tail,
        )  # fmt: skip
        own.remedy = error.remedy
        return own


class TenantSet:
    """The tenant processes of one sharing mode, and the runs that they serve: one, or one of each mix."""

    def __init__(self, places: Sequence[Place]) -> None:
        united = unite([place.spec for place in places])
        self.spec, self.folder = united.spec, places[0].folder
        ids = [tenant.id for tenant in self.spec.tenants]
        self.slots = united.slots
        self.runs = [
            Run(place, {ids[slot]: tenant.id for slot, tenant in zip(slots, place.spec.tenants, strict=True)})
            for place, slots in zip(places, united.slots, strict=True)
        ]
        self.open = contextlib.ExitStack()
        """What has to be closed at the end."""
        self.sharing: SharingMode
        self.servers: Servers
        self.tenants: TenantGroup
        self.observed: dict[str, Any] = {}
        self.listed: list[GpuProcess] = []
        self.facts_before: Facts = {}

    @property
    def results(self) -> list[Measurement]:
        """Measurements of its runs."""
        return [run.result for run in self.runs]

    def begin(self, starter: Starter) -> None:
        """Bring the sharing mode up; the group of tenants is still empty."""
        self.open.enter_context(self.sharing)
        for run in self.runs:
            _clear(run.place.folder)
        self.open.callback(self._end)
        servers = Servers(self.folder, self.spec.deadlines, self.sharing.release)
        self.servers = self.open.enter_context(servers)
        group = TenantGroup(starter, self.spec.deadlines, self.folder, release=self.sharing.release)
        self.tenants = self.open.enter_context(group)
        log: list[tuple[int, Part]] = []
        for run, slots in zip(self.runs, self.slots, strict=True):
            run.part = Part(group, dict(zip(run.ids.values(), slots, strict=True)), log)
        self.open.callback(self._take)

    def _take(self) -> None:
        """Take the samples before the tenants are stopped."""
        for run in self.runs:
            run.result.samples = mark(run.part.samples(), run.result.blocks)
            run.result.full = run.part.full()
            run.result.findings += server_findings(self.spec, run.result.samples, run.result.facts_after)

    def _end(self) -> None:
        """Clear up once the tenants have ended."""
        # the samples of a profiling pass are not used; those of other runs stay until their record is on disk
        if self.spec.kind == "profile":
            _clear(self.folder, "*.bin")
        for result in self.results:
            result.clock.append(clock_pair())

    def fail(self, error: MtexpError | OSError, stop: KeyboardInterrupt | None = None) -> None:
        """Keep the reason of the failure, unless there is an earlier one."""
        if self.runs[0].result.failure is not None:
            return
        if isinstance(error, TenantFailed):
            error = self.servers.blamed(error)
            error.remedy = self.sharing.explain(f"{error.cause}\n{error.log_tail}") or ""
        failure = HostError(_explain(error, self.folder)) if isinstance(error, OSError) else error
        for run in self.runs:
            run.result.failure = run.failure(failure) if len(self.runs) > 1 else failure
            run.result.stop = stop

    def jobs(self, cores: CorePlan, trace_folder: str) -> list[ProcessJob]:
        """The jobs of its processes."""
        if len(self.runs) > 1:
            cores = cores_of_all(cores, len(self.spec.tenants))
        jobs = jobs_of(self.spec, self.folder, self.sharing, cores, self.tenants, self.servers, trace_folder)
        for run, slots in zip(self.runs[1:], self.slots[1:], strict=True):
            _link_samples(self.folder, slots, run.place.folder)
        return jobs

    def warmed_up(self, facts: Facts) -> None:
        """Keep the facts that the tenants reported before the window."""
        self.facts_before = with_servers(facts, self.servers, self.listed)
        for run in self.runs:
            run.result.facts_before = run.own(self.facts_before)

    def finished(self, facts: Facts, observed_after: Mapping[str, Any]) -> None:
        """Keep those reported after it, and check whether they prove the sharing mode."""
        after = with_servers(facts, self.servers, self.listed)
        proof, findings = self.sharing.prove(self.facts_before, after, self.observed, observed_after)
        for run in self.runs:
            run.result.facts_after = run.own(after)
            run.result.proof = proof | {"tenants": run.own(proof.get("tenants", {}))}
            of_run = (one for one in findings if not one.tenant or one.tenant in run.ids)
            run.result.findings += [replace(one, tenant=run.ids.get(one.tenant, "")) for one in of_run]

    @property
    def pids(self) -> dict[str, int]:
        """Process of each tenant."""
        groups = zip(self.sharing.groups(), self.tenants.pids, strict=True)
        return {tenant: pid for group, pid in groups for tenant in group} | self.servers.main_pids()


def _link_samples(folder: Path, slots: Sequence[int], run: Path) -> None:
    """Give ``run`` the buffers of its tenants as hard links, so that they can be salvaged if this process is killed."""
    with contextlib.suppress(OSError):  # a file system without hard links: these runs cannot be salvaged
        for place, slot in enumerate(slots):
            os.link(folder / f"samples-{slot}.bin", run / f"samples-{place}.bin")


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

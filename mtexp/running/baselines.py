"""Baselines: the tenants of a run alone on the device, reused where they were measured, else measured.

Lives here: what a baseline of a tenant is, and when one is reused. May touch: the tracking ledger; the runner measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtexp.errors import Misplaced
from mtexp.launch import missing_cores
from mtexp.metrics.finding import Finding
from mtexp.metrics.samples import Samples
from mtexp.metrics.summary import Baseline
from mtexp.metrics.window import Series, Window
from mtexp.records.computed import computed_with
from mtexp.records.record import BaselineRef, RunRecord
from mtexp.records.time import iso_ms
from mtexp.spec import (
    ArrivalSpec,
    BaselineSpec,
    ChurnSpec,
    MpsLimits,
    ProfilerSpec,
    RunSpec,
    SharingSpec,
    TenantSpec,
)
from mtexp.tracking.ledger import baseline_hash, find_baseline
from mtexp.tracking.upload import Upload


@dataclass(frozen=True, slots=True)
class BaselineRun:
    """A tenant's baseline: which run it was, and what it measured."""

    ref: BaselineRef
    baseline: Baseline
    launch_bound_pct: float | None = None
    started_ms: int = 0
    """When it was measured, in ms since 1970; 0 = not known."""
    sent: Future[Upload] | None = None
    """Its way to MLflow, if it was measured by this process."""


MeasureAlone = Callable[[RunSpec, str], BaselineRun | None]
"""Measures a baseline spec under its hash; None when it failed or is INVALID."""


def alone_of(
    record: RunRecord, samples: Mapping[str, Samples], folder: Path, sent: Future[Upload]
) -> BaselineRun | None:
    """The baseline that a run measured; None when it failed or is INVALID: nothing is compared with that.

    Args:
        record: Of the baseline.
        samples: Of its tenant, by id.
        folder: Of its record.
        sent: Its way to MLflow.
    """
    if record.verdict != "VALID" or record.window is None:
        return None
    (tenant,) = record.tenants
    if not tenant.metrics.keys() >= {"throughput_rps", "latency_mean_ms"}:
        return None  # its figures could not be computed: a finding of its record says why
    window = Window(record.window["t0_ns"], record.window["t1_ns"])
    ref = BaselineRef(
        record_id=record.record_id,
        baseline_hash=record.baseline_hash,
        path=str(folder.resolve()),
        throughput_rps=tenant.metrics["throughput_rps"],
        latency_mean_ms=tenant.metrics["latency_mean_ms"],
        computed_with=computed_with(record.run_spec.tenants[0].seed, tenant.facts_after),
    )
    clock_mhz = record.telemetry.get("gpu_sm_clock_mhz_mean")
    baseline = Baseline(Series.of(samples[tenant.id], window), clock_mhz)
    return BaselineRun(ref, baseline, tenant.metrics.get("launch_bound_pct"), iso_ms(record.started_at), sent)


def linked(found: Mapping[str, BaselineRun]) -> dict[str, BaselineRun]:
    """Return ``found`` with the MLflow run of each; waits until pending uploads have ended."""
    return {
        tenant: replace(alone, ref=replace(alone.ref, run_id=alone.sent.result().run_id)) if alone.sent else alone
        for tenant, alone in found.items()
    }


def with_rates(run: RunSpec, alone: Mapping[str, BaselineRun]) -> RunSpec:
    """Return ``run`` with loads (shares of a tenant's own baseline throughput) turned into rates.

    Raises:
        ConfigError: A tenant with a load has no baseline.
    """
    tenants = []
    for tenant in run.tenants:
        if tenant.arrival.load and not tenant.arrival.rate_rps:
            if tenant.id not in alone:
                remedy = "Use arrival.rate, or let the baseline be measured (baseline=auto)."
                raise Misplaced(
                    "arrival.load", tenant.arrival.load, f"{tenant.id} has no VALID baseline to scale", remedy
                )
            rate_rps = tenant.arrival.load * alone[tenant.id].ref.throughput_rps
            tenant = replace(tenant, arrival=replace(tenant.arrival, rate_rps=rate_rps))
        tenants.append(tenant)
    return replace(run, tenants=tuple(tenants))


def measures_alone(run: RunSpec) -> bool:
    """Whether a run is one of a tenant alone on the whole device without a sharing mode: what a baseline is."""
    return len(run.tenants) == 1 and run.sharing.mode in ("processes", "mig") and run.sharing.mps_mode == "disabled"


def without_arrivals(run: RunSpec) -> bool:
    """Whether no tenant of ``run`` is compared with itself alone at the same arrivals.

    A single tenant is alone already. A capacity search tries another rate with each probe: it looks for the service
    level, not for the cost of sharing.
    """
    return measures_alone(run) or run.kind != "mix" or bool(run.search.name) or run.baseline.mode == "skip"


def missing_baselines(
    run: RunSpec,
    alone: Mapping[str, BaselineRun],
    rechecked: Collection[str],
    at_arrivals: Mapping[str, BaselineRun],
) -> Iterator[Finding]:
    """A finding for each baseline that ``run`` asks for and does not have.

    Args:
        run: The run to compare with.
        alone: Baselines, by tenant.
        rechecked: Tenants whose baseline was VALID once more after the mix.
        at_arrivals: Baselines at their own arrivals of tenants in open loop.
    """
    remedy = "See the verdict of that baseline; the next run measures it again."
    for tenant in run.tenants:
        name = tenant.id
        if name not in alone:
            yield Finding(
                "warning", "no-baseline", f"{name} has no VALID baseline: nothing to compare with", remedy, name
            )
        elif run.baseline.recheck and name not in rechecked:
            yield Finding("warning", "no-recheck", f"the baseline of {name} was not VALID after the mix", remedy, name)
        if tenant.arrival.kind != "closed" and name not in at_arrivals and not without_arrivals(run):
            yield Finding(
                "note",
                "no-arrivals-baseline",
                f"{name} has no VALID baseline at its own arrivals: its latency is compared with nothing",
                "baseline=auto measures it. If it was measured, see its verdict: alone it may be saturated too.",
                name,
            )


def baseline_spec(tenant: TenantSpec, run: RunSpec, *, partitioned: bool = False, at_arrivals: bool = False) -> RunSpec:
    """The run that measures ``tenant`` alone: closed loop, the whole device, no sharing. Requests of a trace keep their
    lengths and their order.

    On MIG it is alone on an instance like its own: a GPU that is cut into instances cannot be used as a whole. It is
    pinned to a CPU core only where all tenants of ``run`` can be: a baseline with a core of its own beside a run that
    has none would show contention for CPU cores as interference on the GPU.

    Args:
        tenant: One tenant of ``run``.
        run: The run to compare with.
        partitioned: Keep the run's MPS limits (the partitioned baseline).
        at_arrivals: Keep the tenant's arrivals, instant by instant; its load is a rate by now.
    """
    lengths = replace(tenant.arrival.lengths, unused="")
    arrival = replace(tenant.arrival, load=0.0) if at_arrivals else ArrivalSpec(lengths=lengths)
    alone = replace(tenant, id=tenant.model.name, arrival=arrival, slo_ms=0.0, slo_factor=0.0, seed=run.seed)
    sharing = run.sharing
    if not partitioned and sharing.mode != "mig":
        alone = replace(alone, mps=MpsLimits(), mig="", sm_count=0, sm_pct=0.0)
        sharing = SharingSpec()
    time_s = max(run.measure.min_time_s, run.baseline.min_time_s)
    return replace(
        run,
        kind="baseline",
        mix=tenant.model.name,
        tenants=(alone,),
        start_order=(alone.id,) if alone.model.server else (),
        sharing=sharing,
        measure=replace(
            run.measure,
            min_time_s=time_s,
            until_ci_pct=0.0,
            overlap="sustained",
            design="sustained",
            pin_cores=run.measure.pin_cores and not missing_cores(run.cores),
        ),
        profiler=ProfilerSpec(),
        churn=ChurnSpec(),
        baseline=BaselineSpec(mode="skip"),
        repetition=0,
    )


class Baselines:
    """Baselines of one sweep in this process: each VALID one is looked up once and measured at most once in a pass
    over its points (a repetition), until it is older than ``baseline.max_age_h``. So the baselines of a sweep are
    spread over it as the repetitions of its points are.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[BaselineRun, int]] = {}
        """By hash: the baseline, and the repetition for which it was looked up or measured."""

    def of(
        self,
        run: RunSpec,
        environment: Mapping[str, Any],
        measure: MeasureAlone,
        *,
        partitioned: bool = False,
        at_arrivals: bool = False,
    ) -> dict[str, BaselineRun]:
        """The baseline of each tenant of ``run`` that has one, by tenant id.

        Args:
            run: The run to compare with.
            environment: Of the host.
            measure: Measures one that is not there.
            partitioned: Under the run's MPS limits.
            at_arrivals: Of tenants in open loop, at their own arrivals; ``baseline=require`` does without.

        Raises:
            ConfigError: ``baseline=require`` and one has not been measured.
        """
        if run.baseline.mode == "skip" or (at_arrivals and without_arrivals(run)):
            return {}
        found: dict[str, BaselineRun] = {}
        tried: dict[str, BaselineRun | None] = {}
        for tenant in run.tenants:
            if at_arrivals and tenant.arrival.kind == "closed":
                continue
            spec = baseline_spec(tenant, run, partitioned=partitioned, at_arrivals=at_arrivals)
            name = baseline_hash(spec.tenants[0], spec, environment)
            if name not in tried:  # one that failed is tried again by a later run: this one may have been disturbed
                tried[name] = self._again(name, spec, run, measure)
                tried[name] = tried[name] or self._young(name, run) or self._stored(name, run)
                if not (at_arrivals and run.baseline.mode == "require"):
                    tried[name] = tried[name] or self._measured(name, spec, run, measure)
            if (alone := tried[name]) is not None:
                found[tenant.id] = alone
                if name not in self._known or self._known[name][0] is not alone:
                    self._known[name] = alone, run.repetition
        return found

    def _again(self, name: str, spec: RunSpec, run: RunSpec, measure: MeasureAlone) -> BaselineRun | None:
        """The baseline measured anew, where the known one is of an earlier pass; None = not needed, or not VALID."""
        if run.baseline.mode != "auto" or name not in self._known or self._known[name][1] >= run.repetition:
            return None
        self._known[name] = self._known[name][0], run.repetition  # one attempt a pass
        return measure(spec, name)

    def learn(self, alone: BaselineRun, run: RunSpec) -> None:
        """Compare with ``alone`` from now on, which was measured for ``run`` after the known one."""
        self._known[alone.ref.baseline_hash] = alone, run.repetition

    def _young(self, name: str, run: RunSpec) -> BaselineRun | None:
        alone, _ = self._known.get(name, (None, 0))
        if alone is None or not alone.started_ms:
            return alone
        age_h = (time.time() - alone.started_ms / 1e3) / 3600
        return alone if age_h <= run.baseline.max_age_h else None

    def _stored(self, name: str, run: RunSpec) -> BaselineRun | None:
        stored = find_baseline(name, run.tracking, max_age_h=run.baseline.max_age_h)
        if stored is None:
            return None
        baseline = Baseline(stored.series, stored.sm_clock_mhz)
        return BaselineRun(stored.ref, baseline, stored.launch_bound_pct, iso_ms(stored.started_at))

    def _measured(self, name: str, spec: RunSpec, run: RunSpec, measure: MeasureAlone) -> BaselineRun | None:
        if run.baseline.mode == "require":
            why = f"{spec.mix} has no stored baseline on this device (baseline hash {name})"
            raise Misplaced("baseline.mode", "require", why, "Run it once with baseline=auto.")
        return measure(spec, name)

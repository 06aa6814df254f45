"""How long a sweep takes and how much disk it needs, before it begins: a first guess from its protocol. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mtexp.spec import RunSpec, TenantSpec
from mtexp.text_tables import about, counted

START_S = 5.0
"""About what a run takes besides measuring: processes, models, warm-up, record."""
LEAST_MEASURED_S = 1.0
RECORD_MB = 0.4
"""About the size of a record with its logs and its plot, without samples."""
SAMPLE_BYTES = 48
"""Bytes of one request in memory; on disk they are compressed."""


def estimate(specs: Sequence[RunSpec]) -> str:
    """``56 runs, about 9 min, about 25 MB``; baselines that have to be measured first count, as if none existed."""
    compared = [spec for spec in specs if spec.baseline.mode == "auto" and spec.measure.design != "crossover"]
    alone = {
        (tenant.model.name, tenant.precision, tenant.workload): spec.baseline.min_time_s
        for spec in compared
        if len(spec.tenants) > 1
        for tenant in spec.tenants
    }
    at_arrivals = {
        (tenant.model.name, tenant.precision, tenant.workload, tenant.arrival): max(
            spec.baseline.min_time_s, _arrivals_s(tenant, spec)
        )
        for spec in compared
        for tenant in _in_open_loop(spec)
    }
    baselines_s = [*alone.values(), *at_arrivals.values()]
    seconds = sum(START_S + _measured_s(spec) for spec in specs) + sum(START_S + long_s for long_s in baselines_s)
    megabytes = sum(_megabytes(spec) for spec in specs) + len(baselines_s) * RECORD_MB
    runs = counted(len(specs), "run")
    if baselines_s:
        runs += f" and up to {counted(len(baselines_s), 'baseline')}"
    if at_arrivals:
        runs += f" ({len(at_arrivals)} at the arrivals of a tenant)"
    return f"{runs}, {about(seconds)}, about {max(megabytes, 1):.0f} MB"


def _measured_s(spec: RunSpec) -> float:
    rule = spec.measure
    in_turns_s = rule.max_time_s if rule.design == "crossover" else 0.0
    return max(LEAST_MEASURED_S, rule.min_time_s, in_turns_s, *(_arrivals_s(tenant, spec) for tenant in spec.tenants))


def _in_open_loop(spec: RunSpec) -> list[TenantSpec]:
    """Tenants that are also measured alone at their own arrivals."""
    tenants = [tenant for tenant in spec.tenants if tenant.arrival.kind != "closed"]
    if not tenants:
        return []
    from mtexp.running.baselines import without_arrivals  # scipy: only where it is needed

    return [] if without_arrivals(spec) else tenants


def _arrivals_s(tenant: TenantSpec, spec: RunSpec) -> float:
    """Until its requests have arrived; 0 in closed loop, and for a load, whose rate is not known yet."""
    arrival, iterations = tenant.arrival, spec.measure.iterations
    if arrival.trace:
        return arrival.trace[min(iterations, len(arrival.trace)) - 1]
    return iterations / arrival.rate_rps if arrival.rate_rps else 0.0


def _megabytes(spec: RunSpec) -> float:
    return RECORD_MB + len(spec.tenants) * spec.measure.iterations * SAMPLE_BYTES / 1e6

"""Which runs are of one tenant alone, and which runs need the baselines of their tenants. Pure."""

from __future__ import annotations

from mtexp.spec import RunSpec, TenantSpec


def measures_alone(run: RunSpec) -> bool:
    """Whether a run is one of a tenant alone on the whole device without a sharing mode: what a baseline is."""
    return len(run.tenants) == 1 and run.sharing.mode in ("processes", "mig") and run.sharing.mps_mode == "disabled"


def is_like_its_baseline(run: RunSpec) -> bool:
    """Whether ``run`` measures one tenant as its baseline would: there is nothing to compare it with."""
    return measures_alone(run) and run.tenants[0].arrival.kind == "closed"


def with_baselines(run: RunSpec) -> tuple[TenantSpec, ...]:
    """The tenants of a run whose baselines are figures of it, or are needed to make it.

    A run that is like a baseline needs none, unless its service level is a multiple of that baseline or the baseline is
    to be rechecked. A churn run has no slowdown: a load alone needs one.
    """
    if run.baseline.mode == "skip":
        return ()
    if run.kind == "churn":
        return tuple(tenant for tenant in run.tenants[:1] if tenant.arrival.load)
    if is_like_its_baseline(run) and not run.tenants[0].slo_factor and not run.baseline.recheck:
        return ()
    return run.tenants


def without_arrivals(run: RunSpec) -> bool:
    """Whether no tenant of ``run`` is compared with itself alone at the same arrivals.

    A single tenant is alone already. A capacity search tries another rate with each probe: it looks for the service
    level, not for the cost of sharing.
    """
    return measures_alone(run) or run.kind != "mix" or bool(run.search.name) or run.baseline.mode == "skip"

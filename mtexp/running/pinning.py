"""The CPU cores of a run: what to say where tenants have none of their own, and keeping off those they have.

May touch: the affinity of this process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from mtexp.cgroup import cpu_limit
from mtexp.launch import CorePlan
from mtexp.metrics.finding import Finding


def core_findings(cores: CorePlan, tenants: int) -> list[Finding]:
    """What to say where tenants are not pinned for want of cores, or pinned to threads of one physical core."""
    if cores.held_by_others:
        found = (
            f"other runs on this host hold {cores.held_by_others} CPU cores: too few are left to pin each tenant to one"
        )
        remedy = "Run fewer side by side, or set measure.pin_cores=false for all."
        return [Finding("warning", "cores-held", found, remedy)]
    if cores.missing and tenants > 1:  # a single tenant has no contention
        found = (
            f"no tenant is pinned to a CPU core of its own: {cores.missing} cores more are needed for {tenants} "
            "tenants, sampler and parent; contention for CPU cores looks like interference on the GPU"
        )
        remedy = "Run fewer tenants, or use more cores; baselines of this run are not pinned either."
        return [Finding("warning", "cores-few", found, remedy)]
    limit = cpu_limit()
    if limit is not None and limit < tenants + 1:
        found = (
            f"this container or job may use the time of {limit:g} CPUs (a cgroup quota); {tenants} tenants and the "
            f"sampler need up to {tenants + 1}: the kernel stops them when it is used up, which looks like interference"
        )
        remedy = "Raise the limit (docker run --cpus, limits.cpu of a pod), or remove it."
        return [Finding("warning", "cpu-limit", found, remedy)]
    if cores.on_shared_cores:
        found = (
            f"{cores.on_shared_cores} tenants share a physical CPU core with another tenant or run, as threads of it: "
            "what slows them there looks like interference on the GPU"
        )
        return [Finding("warning", "cores-shared", found, "Run fewer tenants, or use a host with more physical cores.")]
    return []


@contextlib.contextmanager
def parent_off_tenant_cores(cores: CorePlan) -> Iterator[None]:
    """Keep this process off the tenants' cores while they run."""
    before = os.sched_getaffinity(0)
    if cores.pinned:
        os.sched_setaffinity(0, cores.parent)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

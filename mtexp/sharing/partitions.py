"""How many SMs each partition of green contexts gets. Lives here: the arithmetic. May touch: nothing."""

from __future__ import annotations

from collections.abc import Sequence

from mtexp.errors import ConfigError
from mtexp.spec import TenantSpec

STEP = 8
"""Partitions are multiples of so many SMs: what Hopper can divide, and SMs that a thread block cluster may need."""


def partition_sizes(tenants: Sequence[TenantSpec], total: int) -> dict[str, int]:
    """Return the number of SMs of each tenant's partition, by tenant id.

    A share in percent is rounded down to a multiple of 8 SMs, and is 8 at least. 132 SMs for two equal tenants are 64
    each: 4 SMs are in no partition and stay idle.

    Args:
        tenants: Each with ``sm_count``, or ``sm_pct``.
        total: SMs of the device.

    Raises:
        ConfigError: A count is no multiple of 8, or the partitions need more SMs than the device has.
    """
    sizes = {}
    for tenant in tenants:
        if tenant.sm_count % STEP:
            below, above = tenant.sm_count // STEP * STEP, -(-tenant.sm_count // STEP) * STEP
            allowed = f"a multiple of {STEP} SMs, the steps in which mtexp divides a GPU"
            near = " or ".join(str(size) for size in (below, above) if 0 < size <= total)
            raise ConfigError(f"mix.tenants.{tenant.id}.sm_count", tenant.sm_count, allowed, f"Use {near}.")
        sizes[tenant.id] = tenant.sm_count or max(STEP, int(total * tenant.sm_pct / 100 + 1e-9) // STEP * STEP)
    needed = sum(sizes.values())
    if needed > total // STEP * STEP:
        parts = " + ".join(str(size) for size in sizes.values())
        allowed = f"at most {total // STEP * STEP} of the {total} SMs, in multiples of {STEP}"
        raise ConfigError("sharing", f"{parts} = {needed} SMs", allowed, "Ask for fewer SMs, or drop tenants.")
    return sizes

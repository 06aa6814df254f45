"""How many SMs each partition of green contexts gets. Lives here: the arithmetic. May touch: nothing."""

from __future__ import annotations

from collections.abc import Sequence

from mtexp.errors import ConfigError
from mtexp.spec import TenantSpec

SM_UNIT = 8
"""SMs of the smallest partition on Hopper and Blackwell, and its step; Ampere and Ada part in steps of 2, from 4."""


def partition_sizes(tenants: Sequence[TenantSpec], total: int, unit: int = SM_UNIT) -> dict[str, int]:
    """Return the number of SMs of each tenant's partition, by tenant id.

    A share in percent is rounded down to whole units, and is one unit at least. 132 SMs for two equal tenants are 64
    each: 4 SMs are in no partition and stay idle.

    Args:
        tenants: Each with ``sm_count``, or ``sm_pct``.
        total: SMs of the device.
        unit: SMs of the smallest partition.

    Raises:
        ConfigError: A count is no multiple of the unit, or the partitions need more SMs than the device has.
    """
    sizes = {}
    for tenant in tenants:
        if tenant.sm_count % unit:
            below, above = tenant.sm_count // unit * unit, -(-tenant.sm_count // unit) * unit
            allowed = f"a multiple of {unit} SMs, the smallest partition of this GPU"
            near = " or ".join(str(size) for size in (below, above) if 0 < size <= total)
            raise ConfigError(f"mix.tenants.{tenant.id}.sm_count", tenant.sm_count, allowed, f"Use {near}.")
        sizes[tenant.id] = tenant.sm_count or max(unit, int(total * tenant.sm_pct / 100 + 1e-9) // unit * unit)
    needed = sum(sizes.values())
    if needed > total // unit * unit:
        parts = " + ".join(str(size) for size in sizes.values())
        allowed = f"at most {total // unit * unit} of the {total} SMs in partitions of {unit} or more"
        raise ConfigError("sharing", f"{parts} = {needed} SMs", allowed, "Ask for fewer SMs, or drop tenants.")
    return sizes

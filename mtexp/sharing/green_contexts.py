"""All tenants in one process, each on its own SMs: CUDA green contexts. May touch: nvidia-smi, read only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mtexp.errors import HostError
from mtexp.sharing import base, proof
from mtexp.sharing.partitions import partition_sizes
from mtexp.sharing.streams import Streams
from mtexp.spec import TenantSpec


class GreenContexts(Streams):
    """One process whose tenants have a stream each, in disjoint partitions of the SMs.

    L2 cache, memory bandwidth and power stay shared. Proven by what the driver says of each context, and by a kernel
    that writes the number of the SM that each of its blocks ran on.
    """

    mode: ClassVar[str] = "green_contexts"

    def _start(self) -> None:
        super()._start()
        self.sm_counts()  # refuses what cannot be divided before any process starts

    def sm_counts(self) -> dict[str, int]:
        """The SMs of each tenant's green context.

        Raises:
            HostError: The SMs of the device are not known.
            ConfigError: They cannot be divided as requested.
        """
        if self.device.sm_count is None:
            raise HostError(f"sharing=green_contexts: NVML does not report how many SMs {self.device} has")
        return partition_sizes(self.spec.tenants, self.device.sm_count)

    def _look(self) -> dict[str, Any]:
        sizes, total = self.sm_counts(), self.device.sm_count or 0
        return super()._look() | {"partitions": sizes, "sms_without_partition": total - sum(sizes.values())}

    def _expected(self, tenant: TenantSpec, observed: Mapping[str, Any]) -> dict[str, Any]:
        return {"sm_count_expected": self.sm_counts()[tenant.id]}

    def _evidence(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        names = ("partition_sm_count", "partition_sm_ids")
        return super()._evidence(facts) | {name: facts[name] for name in names if name in facts}

    def _check_tenant(
        self, notes: proof.Notes, tenant: TenantSpec, facts: Mapping[str, Any], observed: Mapping[str, Any]
    ) -> None:
        super()._check_tenant(notes, tenant, facts, observed)
        proof.check_partition(notes, tenant.id, facts, self.sm_counts()[tenant.id])

    def _check_run(self, notes: proof.Notes, facts: base.Facts, observed: Mapping[str, Any]) -> None:
        super()._check_run(notes, facts, observed)
        proof.check_disjoint_partitions(notes, facts)

"""All tenants in one process, each with its own thread and CUDA stream. May touch: nvidia-smi, read only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mtexp.sharing import base, proof
from mtexp.sharing.time_slicing import TimeSlicing


class Streams(TimeSlicing):
    """One process, so one CUDA context: the device sees streams, not tenants."""

    mode: ClassVar[str] = "streams"

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """All tenants, in one process."""
        return (tuple(tenant.id for tenant in self.spec.tenants),)

    def _check_run(self, notes: proof.Notes, facts: base.Facts, observed: Mapping[str, Any]) -> None:
        proof.check_one_process(notes, facts)
        proof.check_distinct(notes, facts, "stream_id")

"""Tenants on the CPU, for hosts without a GPU: processes, or threads for ``sharing=streams``. May touch: nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mtexp.sharing import base, proof


class Cpu(base.SharingMode):
    """CPU mode: verifies only that tenants were distinct processes, or threads of one."""

    mode: ClassVar[str] = "cpu"

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """One process per tenant, or one for all (``sharing=streams``)."""
        if self.spec.sharing.mode == "streams":
            return (tuple(tenant.id for tenant in self.spec.tenants),)
        return super().groups()

    def _check_run(self, notes: proof.Notes, facts: base.Facts, observed: Mapping[str, Any]) -> None:
        if self.spec.sharing.mode == "streams":
            proof.check_one_process(notes, facts)
            proof.check_distinct(notes, facts, "thread_id")
        else:
            proof.check_distinct(notes, facts, "pid")

    def _check_change(self, notes: proof.Notes, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        if self.spec.sharing.mps_mode != "disabled" or self.spec.sharing.mode == "mig":
            asked = "sharing=mig" if self.spec.sharing.mode == "mig" else f"mps_settings={self.spec.mps_settings}"
            notes.add("no-device", f"{asked} has no effect on the CPU", "Use runtime=gpu to measure it", level="note")

    def explain(self, text: str) -> str | None:
        """Return None: the explanations are about GPUs."""
        return None

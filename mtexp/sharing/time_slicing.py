"""Driver time slicing: one process per tenant, and proof that none used CUDA MPS. May touch: nvidia-smi, read only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mtexp.errors import HostError
from mtexp.host import Device
from mtexp.sharing import base, commands, parse, proof, server_proof
from mtexp.sharing.control import ask_nvidia_smi
from mtexp.sharing.daemon import SHORT, private_name
from mtexp.spec import RunSpec, TenantSpec


class TimeSlicing(base.SharingMode):
    """The driver time-slices the whole device among the tenants.

    Tenants get a pipe directory that does not exist, so they cannot connect to a daemon in the default one. Nothing
    has to be removed afterwards.
    """

    mode: ClassVar[str] = "time_slicing"

    def __init__(self, spec: RunSpec, device: Device, work_dir: Path) -> None:
        super().__init__(spec, device, work_dir)
        self._pipe = SHORT / private_name()
        self._time_slice: str | None = None

    def _start(self) -> None:
        self._refuse_cut()
        mode = self._compute_mode().get("compute_mode")
        self._refuse_prohibited(mode)
        processes = len(self.groups())
        if mode in ("exclusive_process", "exclusive_thread") and processes > 1:
            raise HostError(
                f"compute mode of {self.device} is {mode.upper()}: one process may use it, and this run has "
                f"{processes} (they would get CUDA error 46). Use mps_settings=default, or have an administrator run: "
                f"nvidia-smi -i {self.device.index} -c DEFAULT"
            )
        gpu = self.device.parent_uuid or self.device.uuid
        self._time_slice = parse.time_slice(ask_nvidia_smi(commands.compute_policy_query(gpu)))

    def environment(self, tenant_ids: Sequence[str]) -> dict[str, str]:
        """The device, by UUID, and no MPS."""
        return commands.no_mps_environment(pipe=str(self._pipe), visible=self.device.uuid)

    def _look(self) -> dict[str, Any]:
        return {
            "pipe_directory": str(self._pipe),
            "daemon": os.path.exists(self._pipe),
            **({} if self._time_slice is None else {"time_slice": self._time_slice}),
            **self._compute_mode(),
        }

    def _check_tenant(
        self, notes: proof.Notes, tenant: TenantSpec, facts: Mapping[str, Any], observed: Mapping[str, Any]
    ) -> None:
        proof.check_no_mps(notes, tenant.id, facts)
        proof.check_device(notes, tenant.id, facts, self.device.uuid, self.device.parent_uuid)
        proof.check_whole_device(notes, tenant.id, facts, self.device.sm_count)

    def _check_server(self, notes: proof.Notes, tenant: TenantSpec, facts: Mapping[str, Any]) -> None:
        super()._check_server(notes, tenant, facts)
        server_proof.check_not_mps(notes, tenant.id, facts)

    def _check_run(self, notes: proof.Notes, facts: base.Facts, observed: Mapping[str, Any]) -> None:
        proof.check_distinct(notes, facts, "pid")
        if observed.get("daemon"):
            notes.add(
                "mps-daemon-found",
                f"something is in the pipe directory {observed.get('pipe_directory')} that mtexp keeps empty",
                "An MPS daemon may serve the tenants: find out who created it, and run again",
            )

    def _check_change(self, notes: proof.Notes, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        proof.check_same_compute_mode(notes, before, after)

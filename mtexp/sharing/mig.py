"""Places tenants on existing MIG instances, in turn or by name; never creates one. May touch: nvidia-smi, read only."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mtexp.errors import ConfigError, HostError
from mtexp.host import Device, MigInstance
from mtexp.sharing import commands, proof
from mtexp.sharing.time_slicing import TimeSlicing
from mtexp.spec import RunSpec, TenantSpec


def place(tenants: Sequence[TenantSpec], instances: Sequence[MigInstance]) -> dict[str, MigInstance]:
    """Return each tenant's instance: the requested UUID, else in turn among those of its profile, or among all.

    Raises:
        ConfigError: A tenant requests an instance or a profile that does not exist.
    """
    turns = {name: itertools.cycle([i for i in instances if i.profile == name]) for name in _profiles(instances)}
    turns[""] = itertools.cycle(instances)
    by_uuid = {instance.uuid: instance for instance in instances}
    placed = {}
    for tenant in tenants:
        if tenant.mig in by_uuid:
            placed[tenant.id] = by_uuid[tenant.mig]
        elif tenant.mig in turns:
            placed[tenant.id] = next(turns[tenant.mig])
        else:
            raise ConfigError(
                f"mix.tenants.{tenant.id}.mig",
                tenant.mig,
                [*_profiles(instances), *by_uuid],
                "Name a profile or an instance that exists; nvidia-smi -L lists them",
            )
    return placed


def _profiles(instances: Sequence[MigInstance]) -> list[str]:
    return sorted({instance.profile for instance in instances})


def how_to_create(device: Device, tenants: int) -> str:
    """Return the existing profiles and commands for an administrator; mtexp never runs them."""
    profiles = ", ".join(device.mig_profiles) or "unknown to this driver, or MIG is off"
    profile = device.mig_profiles[0] if device.mig_profiles else "PROFILE"
    wanted = ",".join([profile] * min(tenants, 7))
    return (
        f"sharing=mig: {device} has no MIG instance; profiles: {profiles}. "
        "mtexp creates none; an administrator would run:\n"
        f"  nvidia-smi -i {device.index} -mig 1\n"
        f"  nvidia-smi mig -i {device.index} -lgip\n"
        f"  nvidia-smi mig -i {device.index} -cgi {wanted} -C\n"
        "and afterwards, to undo it: nvidia-smi mig -dci; nvidia-smi mig -dgi; nvidia-smi -mig 0"
    )


class Mig(TimeSlicing):
    """Each tenant runs on a MIG instance; tenants on the same instance are time-sliced.

    Args:
        spec: The run.
        device: The GPU whose instances are used.
        work_dir: Existing directory of the run.
        instances: The MIG instances that exist on it.
    """

    mode: ClassVar[str] = "mig"

    def __init__(self, spec: RunSpec, device: Device, work_dir: Path, instances: Sequence[MigInstance]) -> None:
        super().__init__(spec, device, work_dir)
        self._instances = tuple(instances)
        self._placed: dict[str, MigInstance] = {}

    def _start(self) -> None:
        if not self._instances:
            raise HostError(how_to_create(self.device, len(self.spec.tenants)))
        self._refuse_unlike()
        self._placed = place(self.spec.tenants, self._instances)
        self._refuse_prohibited(self._compute_mode().get("compute_mode"))

    def _refuse_unlike(self) -> None:
        """Refuse round robin over instances of different sizes: baselines could use another size."""
        profiles = _profiles(self._instances)
        anywhere = [tenant.id for tenant in self.spec.tenants if not tenant.mig]
        if len(profiles) > 1 and anywhere and self.spec.baseline.mode != "skip":
            remedy = "Its baseline would be measured on an instance of another size. Name one, or use baseline=skip"
            raise ConfigError(f"mix.tenants.{anywhere[0]}.mig", "''", [*profiles, "a UUID"], remedy)

    def environment(self, tenant_ids: Sequence[str]) -> dict[str, str]:
        """The instance, by UUID, and no MPS."""
        return commands.no_mps_environment(pipe=str(self._pipe), visible=self._placed[tenant_ids[0]].uuid)

    def _expected(self, tenant: TenantSpec, observed: Mapping[str, Any]) -> dict[str, Any]:
        instance = self._placed[tenant.id]
        return {"mig_uuid": instance.uuid, "mig_profile": instance.profile}

    def _check_tenant(
        self, notes: proof.Notes, tenant: TenantSpec, facts: Mapping[str, Any], observed: Mapping[str, Any]
    ) -> None:
        instance = self._placed[tenant.id]
        proof.check_no_mps(notes, tenant.id, facts)
        proof.check_device(notes, tenant.id, facts, instance.uuid, instance.parent_uuid)
        if (
            proof.bare_uuid(str(facts.get("gpu_uuid"))) == proof.bare_uuid(instance.parent_uuid)
            and instance.sm_count is None
        ):
            notes.add(
                "mig-unproven",
                f"CUDA gives it the UUID of the whole GPU, and how many SMs {instance.uuid} has is not known",
                "A newer PyTorch gives the UUID of the instance",
                tenant.id,
            )
        proof.check_whole_device(notes, tenant.id, facts, instance.sm_count)

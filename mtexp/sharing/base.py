"""The interface of every sharing mode: a context manager that the runner enters. May touch: nvidia-smi, read only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from mtexp.errors import HostError
from mtexp.host import Device
from mtexp.metrics.finding import Finding
from mtexp.sharing import commands, parse, proof, server_proof
from mtexp.sharing.control import ask_nvidia_smi
from mtexp.sharing.explain import explain
from mtexp.spec import RunSpec, TenantSpec

Facts = Mapping[str, Mapping[str, Any]]
"""Facts that each tenant reports about itself, by tenant id."""


class SharingMode:
    """A sharing mode as a context manager: started on entry, always stopped on exit.

    Args:
        spec: The run.
        device: The leased device.
        work_dir: Existing directory of the run; logs go to its ``logs`` folder.
    """

    mode: ClassVar[str]
    """Name in the record: ``mps``, ``time_slicing``, ``streams``, ``green_contexts``, ``mig`` or ``cpu``."""

    def __init__(self, spec: RunSpec, device: Device, work_dir: Path) -> None:
        self.spec, self.device, self.work_dir = spec, device, work_dir
        self._observed: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        """Start the mode, or raise HostError."""

    def _stop(self) -> None:
        """Stop the mode; safe to call twice."""

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Return the tenant ids of each process: one tenant per process by default."""
        return tuple((tenant.id,) for tenant in self.spec.tenants)

    def sm_counts(self) -> dict[str, int]:
        """Return the SMs of each tenant's green context, by tenant id; empty in modes without green contexts."""
        return {}

    def environment(self, tenant_ids: Sequence[str]) -> dict[str, str]:
        """Return the environment of the process of ``tenant_ids``, to be set before CUDA starts; empty = unset it."""
        return {}

    def observe(self) -> dict[str, Any]:
        """Return the current state of the mode as seen from outside the tenants; unknown facts are absent."""
        self._observed = self._look()
        return self._observed

    def _look(self) -> dict[str, Any]:
        return {}

    def prove(
        self, before: Facts, after: Facts, observed_before: Mapping[str, Any], observed_after: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[Finding, ...]]:
        """Compare the reports of tenants and daemon, before and after the window, with the requested mode.

        Args:
            before: Facts of each tenant before the window; the same for ``after``.
            observed_before: What :meth:`observe` returned then; the same for ``observed_after``.

        Returns:
            The proof for the record, and the findings: one of level ``invalid`` means that the mode is not proven.
        """
        moments = {"before": (before, observed_before), "after": (after, observed_after)}
        notes = proof.Notes()
        for moment, (facts, observed) in moments.items():
            notes.set_phase(moment)
            for tenant in self.spec.tenants:
                known = facts.get(tenant.id)
                if not known:
                    notes.add("facts-missing", "it reported nothing about itself", "See its log", tenant.id)
                elif tenant.model.server is not None:
                    self._check_server(notes, tenant, known)
                else:
                    self._check_tenant(notes, tenant, known, observed)
            self._check_run(notes, facts, observed)
        notes.set_phase("")
        self._check_change(notes, observed_before, observed_after)
        findings = notes.findings()
        result = {
            "mode": self.mode,
            "proven": not any(finding.level == "invalid" for finding in findings),
            "observed_before": dict(observed_before),
            "observed_after": dict(observed_after),
            "tenants": {
                tenant.id: {
                    **{moment: self._evidence(facts.get(tenant.id, {})) for moment, (facts, _) in moments.items()},
                    **self._expected(tenant, observed_before),
                }
                for tenant in self.spec.tenants
            },
        }
        return result, findings

    def _evidence(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        names = ["pid", "mps_enabled", "sm_count", "gpu_uuid", "stream_id"]
        names += ["server_pid", "server_pids", "server_cuda_pids", "server_nvml"]
        return {name: facts[name] for name in names if name in facts}

    def _expected(self, tenant: TenantSpec, observed: Mapping[str, Any]) -> dict[str, Any]:
        """The requested settings, for the record."""
        return {}

    def _check_tenant(
        self, notes: proof.Notes, tenant: TenantSpec, facts: Mapping[str, Any], observed: Mapping[str, Any]
    ) -> None:
        """Add the problems of one tenant at one time."""

    def _check_server(self, notes: proof.Notes, tenant: TenantSpec, facts: Mapping[str, Any]) -> None:
        """Add the problems of one tenant that is a server, as seen from outside, at one time."""
        if self.device.kind == "gpu":
            server_proof.check_on_device(notes, tenant.id, facts)
            server_proof.note_unseen(notes, tenant.id, tenant.mps.active_thread_pct)

    def _check_run(self, notes: proof.Notes, facts: Facts, observed: Mapping[str, Any]) -> None:
        """Add the problems of all tenants together at one time."""

    def _check_change(self, notes: proof.Notes, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Add what changed between before and after."""

    def pids(self) -> tuple[int, ...]:
        """Return the pids on the device that belong to the mode (MPS servers), as last observed."""
        return ()

    def release(self, pid: int) -> None:
        """Prepare the process ``pid`` for SIGKILL with work in flight; bounded, and never raises."""

    def explain(self, text: str) -> str | None:
        """Return what a tenant's failure text means for this run and what to do; None if it is unknown."""
        return explain(text, {"mode": self.mode, "tenants": len(self.spec.tenants), **self._observed})

    def _compute_mode(self) -> dict[str, str]:
        gpu = self.device.parent_uuid or self.device.uuid
        mode = parse.compute_mode(ask_nvidia_smi(commands.compute_mode_query(gpu)))
        return {} if mode is None else {"compute_mode": mode}

    def _refuse_cut(self) -> None:
        if self.device.mig_instances:
            names = ", ".join(instance.uuid for instance in self.device.mig_instances)
            raise HostError(
                f"{self.device} is cut into MIG instances ({names}), and CUDA cannot use the whole GPU. "
                "Use sharing=mig to place tenants on them, or runtime.device=<UUID of one> to run on one of them"
            )

    def _refuse_prohibited(self, mode: str | None) -> None:
        if mode == "prohibited":
            raise HostError(
                f"compute mode of {self.device} is PROHIBITED: no CUDA process can start on it. "
                f"An administrator changes it with: nvidia-smi -i {self.device.index} -c DEFAULT"
            )

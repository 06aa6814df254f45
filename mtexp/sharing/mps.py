"""Sharing through CUDA MPS, with a private daemon or with an administrator's.

May touch: the control binary, and through :mod:`mtexp.sharing.daemon` a daemon of our own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mtexp.errors import ConfigError, HostError
from mtexp.host import Device
from mtexp.sharing import base, commands, control, parse, proof
from mtexp.sharing.daemon import SHORT, PrivateDaemon, sweep_stale
from mtexp.spec import RunSpec, TenantSpec

log = logging.getLogger(__name__)

_UNSEEN = ("pinned_memory_limit", "priority")
"""Limits that CUDA reads from the environment and that neither tenant nor daemon reports."""

NO_PARTITIONING = (
    "Static SM partitioning came with CUDA 13.1 (driver 590). A percentage is an upper limit, not a "
    "reservation: mps_settings=half"
)


def check_tenants(spec: RunSpec, can: control.MpsCapabilities) -> None:
    """Refuse settings that this control binary does not support, before anything starts.

    Raises:
        ConfigError: More tenants than clients allowed, or static partitioning without support or without chunks.
    """
    count = len(spec.tenants)
    if count > can.client_limit:
        version = f"CUDA MPS {can.version}" if can.version else "CUDA MPS before 13.1"
        allowed = f"at most {can.client_limit} tenants with {version}"
        raise ConfigError("mix", f"{spec.mix} ({count} tenants)", allowed, "Use fewer, or mps_settings=disabled")
    asked = [tenant.id for tenant in spec.tenants if tenant.mps.sm_partition]
    if not spec.sharing.static_partitioning:
        if asked:
            remedy = "Set mps_settings.static_partitioning=true, or use a percentage"
            raise ConfigError("mps_settings.sm_partition", ", ".join(asked), "0 without static partitioning", remedy)
        return
    if can.static_partitioning is False:
        allowed = f"false with CUDA MPS {can.version}"
        raise ConfigError("mps_settings.static_partitioning", "true", allowed, NO_PARTITIONING)
    if missing := [tenant.id for tenant in spec.tenants if tenant.id not in asked]:
        remedy = "With static partitioning a tenant without a partition gets no context (CUDA error 915)"
        key, allowed = "mps_settings.sm_partition", "1 or more chunks for each tenant"
        raise ConfigError(key, f"0 for {', '.join(missing)}", allowed, remedy)


class _Mps(base.SharingMode):
    mode: ClassVar[str] = "mps"

    def __init__(self, spec: RunSpec, device: Device, work_dir: Path) -> None:
        super().__init__(spec, device, work_dir)
        self._control: control.MpsControl | None = None
        self._capabilities = control.capabilities_of(None)
        self._partitions: dict[str, str] = {}
        self._silent = False

    def environment(self, tenant_ids: Sequence[str]) -> dict[str, str]:
        tenant = next(tenant for tenant in self.spec.tenants if tenant.id == tenant_ids[0])
        return commands.client_environment(
            pipe=self._daemon.pipe,
            logs=self._client_logs(),
            gpu_uuid=self.device.uuid,
            limits=tenant.mps,
            partition=self._partitions.get(tenant.id, ""),
        )

    @property
    def _daemon(self) -> control.MpsControl:
        if self._control is None:
            raise RuntimeError("the sharing mode has not been entered")
        return self._control

    def _client_logs(self) -> str:
        return ""

    def _prepare(self) -> str:
        """Refuse invalid settings before anything starts; return the path of the control binary."""
        binary = control.find_binary()
        self._capabilities = control.capabilities(binary)
        check_tenants(self.spec, self._capabilities)
        self._refuse_cut()
        self._refuse_prohibited(self._compute_mode().get("compute_mode"))
        return binary

    def _look(self) -> dict[str, Any]:
        limits = sorted({tenant.mps.pinned_memory_limit for tenant in self.spec.tenants} - {""})
        version = self._capabilities.version
        seen = {
            "pipe_directory": self._daemon.pipe,
            "uid": os.getuid(),
            "pid_namespace": str(os.stat("/proc/self/ns/pid").st_ino),
            "client_limit": self._capabilities.client_limit,
            **({"version": version} if version else {}),
            **({"pinned_memory_limits": limits} if limits else {}),
            **self._compute_mode(),
        }
        try:
            return seen | self._daemon.state()
        except HostError as error:
            return seen | {"error": str(error)}

    def pids(self) -> tuple[int, ...]:
        return tuple(server["pid"] for server in self._observed.get("servers", ()))

    def release(self, pid: int) -> None:
        if self._silent:  # after one missed deadline, do not try the others
            return
        try:
            listed = parse.clients(self._daemon.ask("ps"))
            server = next((client.server for client in listed if client.pid == pid), None)
            if server is not None:
                answer = self._daemon.ask(commands.terminate_client(server, pid)).strip()
                log.info("terminate_client %d %d: %s", server, pid, answer)
        except HostError as error:
            self._silent = True
            log.warning("tenant process %d is killed without terminate_client: %s", pid, error)

    def explain(self, text: str) -> str | None:
        self.observe()  # current state, after the tenant failed
        return super().explain(text)

    # proof

    def _expected(self, tenant: TenantSpec, observed: Mapping[str, Any]) -> dict[str, Any]:
        expected = self._expected_sms(tenant, observed)
        return {
            "active_thread_pct": self._percentage(tenant, observed),
            **{name: value for name in _UNSEEN if (value := getattr(tenant.mps, name))},
            **({} if expected is None else {"sm_count_expected": [expected[0], expected[-1]]}),
        }

    def _percentage(self, tenant: TenantSpec, observed: Mapping[str, Any]) -> float:
        """The lower of what the client asked for and what the server allows."""
        default = observed.get("default_active_thread_pct", 100.0)
        servers = observed.get("servers", ())
        allowed = min((server.get("active_thread_pct", default) for server in servers), default=default)
        return float(min(tenant.mps.active_thread_pct or 100.0, allowed))

    def _expected_sms(self, tenant: TenantSpec, observed: Mapping[str, Any]) -> range | None:
        if tenant.id in self._partitions:
            count = tenant.mps.sm_partition * proof.SM_CHUNK
            return range(count, count + 1)
        total = self.device.sm_count
        return None if total is None else proof.expected_sm_counts(total, self._percentage(tenant, observed))

    def _check_tenant(
        self, notes: proof.Notes, tenant: TenantSpec, facts: Mapping[str, Any], observed: Mapping[str, Any]
    ) -> None:
        proof.check_mps_attribute(notes, tenant.id, facts, self._daemon.pipe)
        proof.check_device(notes, tenant.id, facts, self.device.uuid, self.device.parent_uuid)
        expected = self._expected_sms(tenant, observed)
        proof.check_sm_cap(notes, tenant.id, facts, self.device.sm_count, expected)

    def _check_run(self, notes: proof.Notes, facts: base.Facts, observed: Mapping[str, Any]) -> None:
        proof.check_distinct(notes, facts, "pid")
        proof.check_servers(notes, facts, observed)
        if "error" not in observed:
            proof.check_clients(notes, facts, observed)

    def _check_change(self, notes: proof.Notes, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        proof.check_same_servers(notes, before, after)
        proof.check_same_compute_mode(notes, before, after)
        for name in _UNSEEN:
            if asked := [f"{t.id} {value}" for t in self.spec.tenants if (value := getattr(t.mps, name))]:
                found = f"{name} ({', '.join(asked)}) was requested, but CUDA does not report whether it is in effect"
                notes.add("mps-limit-untold", found, "The record has the requested values", level="note")


class ManagedMps(_Mps):
    """A private daemon for this run, stopped on exit and also if this process is killed.

    Args:
        spec: The run.
        device: The leased GPU.
        work_dir: Existing directory of the run; mps-control.log and mps-server.log go to its ``logs`` folder.
        root: Parent of the private directory; short, because socket addresses are limited.
    """

    def __init__(self, spec: RunSpec, device: Device, work_dir: Path, *, root: Path = SHORT) -> None:
        super().__init__(spec, device, work_dir)
        self._root, self._logs = root, work_dir / "logs"
        self._private: PrivateDaemon | None = None

    def _start(self) -> None:
        binary = self._prepare()
        sweep_stale(self._root)
        self._logs.mkdir(parents=True, exist_ok=True)
        static = self.spec.sharing.static_partitioning
        self._private = PrivateDaemon(binary, self.device.uuid, self._logs, root=self._root, static_partitioning=static)
        self._control = self._private.control
        try:
            self._private.start()
            self._learn_version(self._private)
            if static:
                self._partition()
        except HostError as error:
            self._stop()
            if static and "unrecognized option" in str(error).lower():
                refusal = f"mps_settings.static_partitioning=true: the MPS daemon refused -S. {NO_PARTITIONING}"
                raise HostError(refusal) from error
            raise
        except BaseException:
            self._stop()
            raise

    def _learn_version(self, daemon: PrivateDaemon) -> None:
        """Binaries that do not answer ``-v`` write their version to the control log."""
        version = parse.version(daemon.log_text())
        if version is not None and self._capabilities.version is None:
            self._capabilities = control.capabilities_of(version)
            check_tenants(self.spec, self._capabilities)

    def _partition(self) -> None:
        for tenant in self.spec.tenants:
            chunks = tenant.mps.sm_partition
            answer = self._daemon.ask(commands.add_partition(self.device.uuid, chunks)).strip()
            if "/" not in answer:
                raise HostError(
                    f"mix.tenants.{tenant.id}.sm_partition={chunks} refused: {answer or 'no answer'}. One chunk is "
                    f"{proof.SM_CHUNK} SMs from Hopper on (an H200 has 16 of them): ask for fewer"
                )
            self._partitions[tenant.id] = answer.split()[-1]

    def _client_logs(self) -> str:
        return "" if self._private is None else str(self._private.log_directory)

    def _stop(self) -> None:
        if self._private is not None:
            self._private.stop()


class ExternalMps(_Mps):
    """An administrator's daemon: mtexp queries and verifies it, and never stops it."""

    def _start(self) -> None:
        binary = self._prepare()
        pipe = (
            self.spec.sharing.pipe_directory
            or os.environ.get("CUDA_MPS_PIPE_DIRECTORY")
            or commands.DEFAULT_PIPE_DIRECTORY
        )
        if not os.path.isdir(pipe):
            raise HostError(
                f"mps_settings=external: there is no MPS pipe directory {pipe}. Start the daemon, name its directory "
                "with mps_settings.pipe_directory, or use mps_settings=default for a private daemon"
            )
        environment = {name: os.environ[name] for name in commands.INHERITED if name in os.environ}
        self._control = control.MpsControl(binary, environment | {"CUDA_MPS_PIPE_DIRECTORY": pipe})
        try:
            self._control.ask("get_server_list")
        except HostError as error:
            raise HostError(
                f"mps_settings=external: {error}. Stale MPS directory {pipe}: have the daemon started again, or remove "
                "the directory and use mps_settings=default"
            ) from error

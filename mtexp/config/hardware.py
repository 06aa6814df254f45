"""Devices of this host, and how ``runtime`` selects one. May touch: the device probe, once."""

from __future__ import annotations

from dataclasses import dataclass

from mtexp.config.schema import RuntimeConfig, RuntimeKind
from mtexp.errors import ConfigError, Misplaced
from mtexp.host import Device, cpu_device

MPS_CLIENT_LIMIT = 48
"""MPS clients of one device from Volta to CUDA 13.0; 60 from CUDA 13.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The devices of a host, with the facts that configuration checks need."""

    cpu: Device
    gpus: tuple[Device, ...] = ()
    lost: str = ""
    """Why existing GPUs cannot be used; empty = no unusable GPU."""
    mps_client_limit: int = MPS_CLIENT_LIMIT
    """Maximum number of tenants in one run."""


_CHECK = "check that nvidia-smi lists a GPU and that CUDA_VISIBLE_DEVICES does not hide it"


def probe() -> Hardware:
    """Look for the devices of this host."""
    from mtexp.telemetry.nvml import look_for_devices

    devices, lost = look_for_devices()
    return Hardware(cpu=cpu_device(), gpus=tuple(devices), lost=lost)


def hardware_of(device: Device | None) -> Hardware:
    """Return a host that has ``device`` (None: only a CPU), for tests and notebooks."""
    if device is None:
        return Hardware(cpu=cpu_device())
    if device.kind == "cpu":
        return Hardware(cpu=device)
    return Hardware(cpu=cpu_device(), gpus=(device,))


def elsewhere() -> Hardware:
    """Return placeholder hardware for jobs that a scheduler runs on other hosts: it accepts any GPU.

    Each job checks its point again, against the devices of its host.
    """
    return Hardware(cpu=cpu_device(), gpus=(Device("gpu", 0, "", "a GPU of the cluster", 2**40),))


def choose_device(runtime: RuntimeConfig, hardware: Hardware) -> Device:
    """Return the device for ``runtime``: the requested one, the first GPU, or the CPU.

    Raises:
        ConfigError: The requested GPU does not exist.
    """
    wanted = runtime.device
    if runtime.kind is RuntimeKind.auto and not hardware.gpus and hardware.lost:
        raise ConfigError(
            "runtime",
            "auto",
            f"cpu, or a usable GPU ({hardware.lost})",
            "Run nvidia-smi and fix the problem it shows, or use runtime=cpu for small models on the CPU.",
        )
    if runtime.kind is RuntimeKind.cpu or (runtime.kind is RuntimeKind.auto and not hardware.gpus):
        if wanted:
            remedy = "Leave it out, or use runtime=gpu." if hardware.gpus else f"Leave it out, or {_CHECK}."
            raise Misplaced(
                "runtime.device", wanted, "this run is on the CPU, which has no devices to choose from", remedy
            )
        return hardware.cpu
    if not hardware.gpus:
        why = hardware.lost or "no GPU was found here"
        allowed = f"cpu ({why})" if hardware.lost else f"auto, cpu ({why})"
        raise ConfigError("runtime", "gpu", allowed, f"Use runtime=cpu, or {_CHECK}.")
    if not wanted:
        return hardware.gpus[0]
    from mtexp.telemetry.nvml import chosen

    if devices := chosen(hardware.gpus, wanted):
        return devices[0]
    found = [device.uuid for device in hardware.gpus]
    found += [instance.uuid for device in hardware.gpus for instance in device.mig_instances]
    raise ConfigError("runtime.device", wanted, found, "Name one of these, or leave it empty for the first free one.")

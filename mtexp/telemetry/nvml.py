"""One-time NVML queries: GPUs, their state, their processes, their MIG instances.

Lives here: all queries before and after a window; the polled values are in :mod:`mtexp.telemetry.gpu`.
May touch: NVML through nvidia-ml-py, psutil for the names of processes. Each function opens NVML and shuts it down
again, so that nothing of it is left in a process that forks. ``lib`` is the module to speak through, replaced by
:class:`mtexp.testing.nvml.FakeNvml` in tests.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psutil
import pynvml

from mtexp.cgroup import memory_mib
from mtexp.errors import HostError
from mtexp.host import Device, MigInstance

log = logging.getLogger(__name__)

CORES_PER_SM = {(7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64, (8, 6): 128, (8, 7): 128, (8, 9): 128, (9, 0): 128}
"""FP32 lanes of one SM by compute capability (CUDA C++ Programming Guide, arithmetic throughput); 10.x on: 128."""

_HIDES_ALL = ("", "-1")
"""Values of CUDA_VISIBLE_DEVICES that hide all GPUs."""

COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """One process that NVML lists on a device."""

    pid: int
    kind: str
    """``compute``, ``mps`` (client or server of CUDA MPS) or ``graphics``."""
    name: str
    """Program and owner; never the command line, which may hold secrets. Empty when not visible from here."""
    memory_mib: float | None
    """Device memory of the process; None if the driver does not report it.

    0: a starting client of another GPU's MPS daemon (listed on every GPU), or a value withheld in a container."""


@contextmanager
def session(lib: Any = pynvml) -> Iterator[Any]:
    """Open NVML, yield the module to speak through, shut NVML down.

    Raises:
        HostError: There is no NVML library or no driver, or their versions do not match.
    """
    try:
        lib.nvmlInit()
    except lib.NVMLError as error:
        raise HostError(f"NVML does not start: {error}. Is the NVIDIA driver loaded? See nvidia-smi") from error
    try:
        yield lib
    finally:
        lib.nvmlShutdown()


def ask(lib: Any, function: str, *args: Any) -> Any:
    """Call ``lib.function(*args)``; None when the driver or the device does not answer it."""
    try:
        return getattr(lib, function)(*args)
    except lib.NVMLError as error:
        log.debug("%s: %s", function, error)
        return None


def handles(lib: Any, uuid: str) -> tuple[Any, Any]:
    """Return the handle of ``uuid`` and that of the whole GPU: the same, but for a MIG instance.

    Raises:
        HostError: There is no such device.
    """
    try:
        handle = lib.nvmlDeviceGetHandleByUUID(uuid)
        if uuid.startswith("MIG-"):
            return handle, lib.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    except lib.NVMLError as error:
        raise HostError(f"GPU {uuid}: {error}. nvidia-smi -L lists the GPUs of this host") from error
    return handle, handle


# --- devices ----------------------------------------------------------------------------------------------------------


def find_devices(lib: Any = pynvml, environ: Mapping[str, str] = os.environ) -> list[Device]:
    """Return the GPUs that a CUDA program started here would see, in its order; [] without a driver or a GPU.

    ``CUDA_VISIBLE_DEVICES`` is honoured: indices (NVML's order, which is CUDA's for GPUs of one kind or with
    ``CUDA_DEVICE_ORDER=PCI_BUS_ID``), UUIDs and their unique beginnings, MIG UUIDs. As in CUDA, an invalid entry
    hides all entries after it.
    """
    return look_for_devices(lib, environ)[0]


def look_for_devices(lib: Any = pynvml, environ: Mapping[str, str] = os.environ) -> tuple[list[Device], str]:
    """Return what :func:`find_devices` does, and why existing GPUs cannot be used; empty = all can be used.

    A host without the NVIDIA driver, and GPUs that ``CUDA_VISIBLE_DEVICES`` hides, are no reason.
    """
    lost: list[str] = []
    if environ.get("CUDA_VISIBLE_DEVICES") in _HIDES_ALL:
        return [], ""
    try:
        with session(lib):
            gpus = [gpu for index in range(lib.nvmlDeviceGetCount()) if (gpu := _device(lib, index, lost))]
    except HostError as error:
        log.debug("no GPU: %s", error)
        code = getattr(error.__cause__, "value", None)
        no_gpu = lib.NVML_ERROR_LIBRARY_NOT_FOUND, lib.NVML_ERROR_DRIVER_NOT_LOADED, lib.NVML_ERROR_GPU_NOT_FOUND
        return [], "" if code in no_gpu else str(error)
    except lib.NVMLError as error:
        return [], f"NVML does not count its GPUs: {error}"
    return _visible(gpus, environ.get("CUDA_VISIBLE_DEVICES")), "; ".join(lost)


def _device(lib: Any, index: int, lost: list[str]) -> Device | None:
    """Return one GPU; None, with the reason in ``lost``, if it cannot be used."""
    try:
        handle = lib.nvmlDeviceGetHandleByIndex(index)
        uuid, name = _text(lib.nvmlDeviceGetUUID(handle)), _text(lib.nvmlDeviceGetName(handle))
        instances = _instances(lib, handle, uuid)
        memory_mib = _memory_mib(lib, handle) or sum(instance.memory_mib for instance in instances)
        if not memory_mib:
            lib.nvmlDeviceGetMemoryInfo(handle)  # for its reason
    except lib.NVMLError as error:
        log.warning("GPU %d is left out: %s", index, error)
        lost.append(f"GPU {index}: {error}")
        return None
    capability = _capability(lib, handle)
    device = Device("gpu", index, uuid, name, memory_mib, _sm_count(lib, handle))
    device = replace(device, capability=capability if capability > (0, 0) else None)
    return replace(device, mig_instances=instances, mig_profiles=_profiles(lib, handle))


def _memory_mib(lib: Any, handle: Any) -> int | None:
    """Return the memory of a device: the host's where it has none of its own (GB10, Jetson); None where it is secret.

    In a container that was given a MIG instance, the memory of the whole GPU is.
    """
    try:
        return int(lib.nvmlDeviceGetMemoryInfo(handle).total // 2**20)
    except lib.NVMLError as error:
        if error.value == lib.NVML_ERROR_NOT_SUPPORTED:
            return memory_mib()
        return None


def _sm_count(lib: Any, handle: Any) -> int | None:
    cores, capability = ask(lib, "nvmlDeviceGetNumGpuCores", handle), _capability(lib, handle)
    per_sm = CORES_PER_SM.get(capability, 128 if capability >= (10, 0) else 0)
    return cores // per_sm if cores and per_sm else None


def _capability(lib: Any, handle: Any) -> tuple[int, int]:
    major, minor = ask(lib, "nvmlDeviceGetCudaComputeCapability", handle) or (0, 0)
    return major, minor


def _visible(gpus: Sequence[Device], names: str | None) -> list[Device]:
    if names is None:
        return list(gpus)
    chosen: list[Device] = []
    for name in names.split(","):
        device = _named(gpus, name.strip())
        if device is None or device in chosen:
            break
        chosen.append(device)
    return chosen


def _named(gpus: Sequence[Device], name: str) -> Device | None:
    """Return the device that one entry of CUDA_VISIBLE_DEVICES names."""
    if name.isdecimal():
        return next((gpu for gpu in gpus if gpu.index == int(name)), None)
    if name.startswith("GPU-"):
        fitting = [gpu for gpu in gpus if gpu.uuid.lower().startswith(name.lower())]
        return fitting[0] if len(fitting) == 1 else None
    for gpu in gpus:
        for instance in gpu.mig_instances:
            if name in (instance.uuid, f"MIG-{gpu.uuid}/{instance.gi_id}/{instance.ci_id}"):
                return mig_device(gpu, instance)
    return None


def chosen(devices: Sequence[Device], wanted: str) -> list[Device]:
    """Return those of ``devices`` that ``wanted`` names by UUID or index, or their MIG instance of that UUID; '' = all.

    A MIG instance is a whole device then, for a run of its own (``sharing=mig`` places tenants on several).
    """
    whole = [device for device in devices if wanted in ("", device.uuid, str(device.index))]
    instances = ((device, instance) for device in devices for instance in device.mig_instances)
    return whole or [mig_device(device, instance) for device, instance in instances if instance.uuid == wanted]


# --- MIG --------------------------------------------------------------------------------------------------------------


def mig_device(parent: Device, instance: MigInstance) -> Device:
    """Return ``instance`` of ``parent`` as a device of its own."""
    name = f"{parent.name} MIG {instance.profile}"
    device = Device("gpu", parent.index, instance.uuid, name, instance.memory_mib, instance.sm_count, parent.uuid)
    return replace(device, capability=parent.capability)


def _mig_enabled(lib: Any, handle: Any) -> bool | None:
    mode = ask(lib, "nvmlDeviceGetMigMode", handle)
    return None if mode is None else bool(mode[0])


def _instances(lib: Any, handle: Any, parent_uuid: str) -> tuple[MigInstance, ...]:
    if not _mig_enabled(lib, handle):
        return ()
    found = []
    for index in range(ask(lib, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        instance = ask(lib, "nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        if instance is not None:  # slots without an instance answer NotFound
            found.append(_instance(lib, instance, parent_uuid))
    return tuple(found)


def _instance(lib: Any, handle: Any, parent_uuid: str) -> MigInstance:
    attributes = ask(lib, "nvmlDeviceGetAttributes", handle)
    return MigInstance(
        uuid=_text(lib.nvmlDeviceGetUUID(handle)),
        profile=_text(lib.nvmlDeviceGetName(handle)).partition("MIG ")[2],
        gi_id=lib.nvmlDeviceGetGpuInstanceId(handle),
        ci_id=lib.nvmlDeviceGetComputeInstanceId(handle),
        memory_mib=attributes.memorySizeMB if attributes else _memory_mib(lib, handle) or 0,
        parent_uuid=parent_uuid,
        sm_count=attributes.multiprocessorCount if attributes else None,
    )


def _profiles(lib: Any, handle: Any) -> tuple[str, ...]:
    if _mig_enabled(lib, handle) is None:
        return ()
    infos = [
        ask(lib, "nvmlDeviceGetGpuInstanceProfileInfo", handle, profile)
        for profile in range(lib.NVML_GPU_INSTANCE_PROFILE_COUNT)
    ]
    return tuple(dict.fromkeys(_text(info.name).removeprefix("MIG ") for info in infos if info is not None))


# --- facts and processes ----------------------------------------------------------------------------------------------


def facts(uuid: str, lib: Any = pynvml) -> dict[str, Any]:
    """Return the state of a GPU for the record's environment; facts that the driver does not report are absent.

    For a MIG instance these are the facts of its GPU; NVML has no others.

    Raises:
        HostError: NVML does not start, or there is no such GPU.
    """
    with session(lib):
        _, gpu = handles(lib, uuid)
        capability = ".".join(map(str, ask(lib, "nvmlDeviceGetCudaComputeCapability", gpu) or ()))
        cuda = ask(lib, "nvmlSystemGetCudaDriverVersion") or 0
        ecc = ask(lib, "nvmlDeviceGetEccMode", gpu)
        known = {
            "driver_version": _text(ask(lib, "nvmlSystemGetDriverVersion")),
            "cuda_version": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
            "compute_capability": capability,
            "compute_mode": COMPUTE_MODES.get(ask(lib, "nvmlDeviceGetComputeMode", gpu)),
            "mig_mode": _on_off(_mig_enabled(lib, gpu)),
            "ecc_mode": _on_off(None if ecc is None else bool(ecc[0])),
            "persistence_mode": _on_off(ask(lib, "nvmlDeviceGetPersistenceMode", gpu)),
            "power_limit_w": _watts(ask(lib, "nvmlDeviceGetEnforcedPowerLimit", gpu)),
            "power_limit_default_w": _watts(ask(lib, "nvmlDeviceGetPowerManagementDefaultLimit", gpu)),
            "max_sm_clock_mhz": ask(lib, "nvmlDeviceGetMaxClockInfo", gpu, lib.NVML_CLOCK_SM),
            "max_memory_clock_mhz": ask(lib, "nvmlDeviceGetMaxClockInfo", gpu, lib.NVML_CLOCK_MEM),
            "application_sm_clock_mhz": ask(lib, "nvmlDeviceGetApplicationsClock", gpu, lib.NVML_CLOCK_SM),
            "pcie_generation": ask(lib, "nvmlDeviceGetCurrPcieLinkGeneration", gpu),
            "pcie_width": ask(lib, "nvmlDeviceGetCurrPcieLinkWidth", gpu),
        }
    return {key: value for key, value in known.items() if value not in (None, "")}


def processes(uuid: str, lib: Any = pynvml) -> list[GpuProcess]:
    """Return every process that NVML lists on the device, by pid; one entry a pid.

    Raises:
        HostError: NVML does not start, or there is no such GPU.
    """
    lists = {"graphics": "Graphics", "compute": "Compute", "mps": "MPSCompute"}
    found: dict[int, GpuProcess] = {}
    with session(lib):
        handle, _ = handles(lib, uuid)
        for kind, word in lists.items():  # a later list has more details
            for entry in ask(lib, f"nvmlDeviceGet{word}RunningProcesses_v3", handle) or ():
                memory_mib = None if entry.usedGpuMemory is None else entry.usedGpuMemory / 2**20
                found[entry.pid] = GpuProcess(entry.pid, kind, _process_name(entry.pid), memory_mib)
    return [found[pid] for pid in sorted(found)]


def _process_name(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{process.name()} of {process.username()}"
    except psutil.Error:
        return ""


def _on_off(value: bool | int | None) -> str | None:
    return None if value is None else ("enabled" if value else "disabled")


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""

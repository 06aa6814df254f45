"""A fake of NVML, for tests of mtexp and of what is built on it: no GPU, no driver.

Lives here: :class:`FakeNvml`; the GPUs it is asked about are in :mod:`mtexp.testing.fake_gpu`, and
:func:`mtexp.testing.replay.replay` makes one repeat a recording. May touch: constants and error classes of
nvidia-ml-py.

Values are given by the column names of the telemetry, so a test says ``{"gpu_power_w": 680}``; a column that is not
given is not supported. A call that this fake does not know is refused with an AttributeError, never answered.
"""

# ruff: noqa: N802, N803, D102 - the names and the contracts are those of nvidia-ml-py

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pynvml

from mtexp.telemetry.gpu import (
    CONTEXT_SWITCHES,
    COUNTERS,
    ENERGY_COLUMN,
    ENERGY_FIELD,
    GPM_INTERVAL_MIN_NS,
    GPM_METRICS,
    POWER_INSTANT,
    RARE_COUNTERS,
)
from mtexp.testing.fake_gpu import FakeGpu, FakeMig, Values

__all__ = ["STATE", "FakeGpu", "FakeMig", "FakeNvml", "Values"]

_FIELDS: Mapping[int, tuple[str, float]] = {
    POWER_INSTANT: ("gpu_power_w", 1e3),
    ENERGY_FIELD: (ENERGY_COLUMN, 1e3),
    **{number: (column, 1 / factor) for column, (number, factor) in {**COUNTERS, **RARE_COUNTERS}.items()},
}
_METRICS = {number: column for column, number in {**GPM_METRICS, **CONTEXT_SWITCHES}.items()}
_CONSTANTS = ("NVML_", "NVMLError", "nvmlEventType", "nvmlMemory_v2", "nvmlClocksEventReason")
_UNSIGNED_LONG_LONG = 3

STATE: Mapping[str, Any] = {
    "nvmlDeviceGetComputeMode": 0,
    "nvmlDeviceGetEccMode": [1, 1],
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetApplicationsClock": 1980,
    "nvmlDeviceGetCurrPcieLinkGeneration": 5,
    "nvmlDeviceGetCurrPcieLinkWidth": 16,
}
"""Calls that every fake GPU answers the same, unless its ``codes`` refuse them."""


class FakeNvml:
    """The surface of nvidia-ml-py that mtexp uses, over fake GPUs.

    Args:
        gpus: By index.
        init_code: Return code of ``nvmlInit``; not 0 = there is no driver.
        clock_ns: What values and GPM intervals go by.
    """

    def __init__(self, *gpus: FakeGpu, init_code: int = 0, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.gpus = gpus
        self.sessions = 0
        """How often NVML is started and not shut down yet."""
        self.calls: list[str] = []
        self._init_code, self._clock_ns = init_code, clock_ns

    def __getattr__(self, name: str) -> Any:
        if name.startswith(_CONSTANTS):
            return getattr(pynvml, name)
        if name in STATE:
            return functools.partial(self._state, name)
        raise AttributeError(f"FakeNvml does not know {name}: teach it, or do not call it")

    def _check(self, function: str, device: Any) -> None:
        self.calls.append(function)
        if not self.sessions:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        if device is None:
            return
        codes = dict(self._gpu(device).codes)
        if isinstance(device, FakeGpu):
            codes |= device.whole_gpu_codes
        if code := codes.get(function, 0):
            raise pynvml.NVMLError(code)

    def _gpu(self, device: Any) -> FakeGpu:
        if isinstance(device, FakeGpu):
            return device
        return next(gpu for gpu in self.gpus if device in gpu.instances)

    def _state(self, function: str, handle: Any, *_: int) -> Any:
        self._check(function, handle)
        return STATE[function]

    def _value(self, function: str, device: Any, column: str) -> float:
        self._check(function, device)
        value = self._now(self._gpu(device)).get(column, math.nan)
        if math.isnan(value):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value

    def _now(self, gpu: FakeGpu) -> Values:
        return gpu.values(self._clock_ns()) if callable(gpu.values) else gpu.values

    # --- library and devices ------------------------------------------------------------------------------------------

    def nvmlInit(self) -> None:
        if self._init_code:
            raise pynvml.NVMLError(self._init_code)
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._check("nvmlSystemGetDriverVersion", None)
        return "580.159.04"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        self._check("nvmlSystemGetCudaDriverVersion", None)
        return 13_000

    def nvmlDeviceGetCount(self) -> int:
        self._check("nvmlDeviceGetCount", None)
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        self._check("nvmlDeviceGetHandleByIndex", self.gpus[index])
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu | FakeMig:
        self._check("nvmlDeviceGetHandleByUUID", None)
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
            for instance in gpu.instances:
                if instance.uuid == uuid:
                    return instance
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        self._check("nvmlDeviceGetUUID", handle)
        uuid: str = handle.uuid
        return uuid

    def nvmlDeviceGetName(self, handle: Any) -> str:
        self._check("nvmlDeviceGetName", handle)
        gpu = self._gpu(handle)
        return gpu.name if handle is gpu else f"{gpu.name} MIG {handle.profile}"

    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> SimpleNamespace:
        self._check("nvmlDeviceGetMemoryInfo", handle)
        if self._gpu(handle).unified_memory:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        used_mib = self._now(self._gpu(handle)).get("gpu_memory_used_mib", 0.0)
        return SimpleNamespace(total=handle.memory_mib * 2**20, used=round(used_mib * 2**20))

    def nvmlDeviceGetNumGpuCores(self, device: Any) -> int:
        self._check("nvmlDeviceGetNumGpuCores", device)
        return self._gpu(device).cores

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> tuple[int, int]:
        self._check("nvmlDeviceGetCudaComputeCapability", handle)
        return self._gpu(handle).capability

    # --- MIG ----------------------------------------------------------------------------------------------------------

    def nvmlDeviceGetMigMode(self, device: Any) -> list[int]:
        self._check("nvmlDeviceGetMigMode", device)
        mode = self._gpu(device).mig_mode
        if mode is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [mode, mode]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Any) -> int:
        self._check("nvmlDeviceGetMaxMigDeviceCount", device)
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Any, index: int) -> FakeMig:
        self._check("nvmlDeviceGetMigDeviceHandleByIndex", device)
        instances = self._gpu(device).instances
        if index >= len(instances):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return instances[index]

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, migDevice: Any) -> FakeGpu:
        self._check("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", migDevice)
        return self._gpu(migDevice)

    def nvmlDeviceGetAttributes(self, device: Any) -> SimpleNamespace:
        self._check("nvmlDeviceGetAttributes", device)
        return SimpleNamespace(memorySizeMB=device.memory_mib, multiprocessorCount=device.sm_count)

    def nvmlDeviceGetGpuInstanceId(self, device: Any) -> int:
        self._check("nvmlDeviceGetGpuInstanceId", device)
        return int(device.gi_id)

    def nvmlDeviceGetComputeInstanceId(self, device: Any) -> int:
        self._check("nvmlDeviceGetComputeInstanceId", device)
        return int(device.ci_id)

    def nvmlDeviceGetGpuInstanceProfileInfo(self, device: Any, profile: int, version: int = 2) -> SimpleNamespace:
        self._check("nvmlDeviceGetGpuInstanceProfileInfo", device)
        profiles = self._gpu(device).profiles
        if profile >= len(profiles):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(name=f"MIG {profiles[profile]}".encode())

    # --- processes ----------------------------------------------------------------------------------------------------

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any) -> list[SimpleNamespace]:
        self._check("nvmlDeviceGetComputeRunningProcesses_v3", handle)
        return _entries(self._gpu(handle), self._gpu(handle).compute)

    def nvmlDeviceGetMPSComputeRunningProcesses_v3(self, handle: Any) -> list[SimpleNamespace]:
        self._check("nvmlDeviceGetMPSComputeRunningProcesses_v3", handle)
        return _entries(self._gpu(handle), self._gpu(handle).mps)

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle: Any) -> list[SimpleNamespace]:
        self._check("nvmlDeviceGetGraphicsRunningProcesses_v3", handle)
        return _entries(self._gpu(handle), self._gpu(handle).graphics)

    def nvmlDeviceGetProcessUtilization(self, handle: Any, timeStamp: int) -> list[SimpleNamespace]:
        self._check("nvmlDeviceGetProcessUtilization", handle)
        now_us = self._clock_ns() // 1000
        if not self._gpu(handle).process_util or now_us <= timeStamp:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        gpu = self._gpu(handle)
        return [
            SimpleNamespace(pid=gpu.host_pids.get(pid, pid), smUtil=sm, timeStamp=now_us)
            for pid, sm in gpu.process_util
        ]

    # --- polled values ------------------------------------------------------------------------------------------------

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> SimpleNamespace:
        if isinstance(handle, FakeMig):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        name = "nvmlDeviceGetUtilizationRates"
        gpu = self._value(name, handle, "gpu_util_pct")
        return SimpleNamespace(gpu=int(gpu), memory=int(self._value(name, handle, "gpu_memory_util_pct")))

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        return round(self._value("nvmlDeviceGetPowerUsage", handle, "gpu_power_w") * 1000)

    def nvmlDeviceGetClockInfo(self, handle: Any, type: int) -> int:
        column = "gpu_sm_clock_mhz" if type == pynvml.NVML_CLOCK_SM else "gpu_mem_clock_mhz"
        return int(self._value("nvmlDeviceGetClockInfo", handle, column))

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        return int(self._value("nvmlDeviceGetTemperature", handle, "gpu_temperature_c"))

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> int:
        return int(self._value("nvmlDeviceGetCurrentClocksEventReasons", handle, "gpu_throttle_reasons"))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:
        return round(self._value("nvmlDeviceGetTotalEnergyConsumption", handle, ENERGY_COLUMN) * 1000)

    def nvmlDeviceGetFieldValues(self, handle: Any, fieldIds: Sequence[int]) -> list[SimpleNamespace]:
        self._check("nvmlDeviceGetFieldValues", handle)
        gpu = self._gpu(handle)
        now = self._now(gpu)
        answers = []
        for number in fieldIds:
            column, factor = _FIELDS[number]
            code, value = _answer(gpu, f"field {number}", now.get(column, math.nan) * factor)
            union = SimpleNamespace(ullVal=0 if code else round(value))
            answers.append(SimpleNamespace(fieldId=number, nvmlReturn=code, valueType=_UNSIGNED_LONG_LONG, value=union))
        return answers

    # --- GPM ----------------------------------------------------------------------------------------------------------

    def nvmlGpmQueryDeviceSupport(self, device: Any) -> SimpleNamespace:
        self._check("nvmlGpmQueryDeviceSupport", device)
        return SimpleNamespace(isSupportedDevice=int(self._gpu(device).gpm))

    def nvmlGpmSampleAlloc(self) -> SimpleNamespace:
        self._check("nvmlGpmSampleAlloc", None)
        return SimpleNamespace(at_ns=0, gpu=None)

    def nvmlGpmSampleFree(self, gpmSample: SimpleNamespace) -> None:
        self._check("nvmlGpmSampleFree", None)

    def nvmlGpmSampleGet(self, device: Any, gpmSample: SimpleNamespace) -> SimpleNamespace:
        self._check("nvmlGpmSampleGet", device)
        gpmSample.at_ns, gpmSample.gpu = self._clock_ns(), self._gpu(device)
        return gpmSample

    def nvmlGpmMigSampleGet(self, device: Any, gpuInstanceId: int, gpmSample: SimpleNamespace) -> SimpleNamespace:
        if gpuInstanceId not in [instance.gi_id for instance in self._gpu(device).instances]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.nvmlGpmSampleGet(device, gpmSample)

    def c_nvmlGpmMetricsGet_t(self) -> SimpleNamespace:
        return SimpleNamespace(metrics=[SimpleNamespace(metricId=0, nvmlReturn=0, value=0.0) for _ in range(64)])

    def nvmlGpmMetricsGet(self, metricsGet: SimpleNamespace) -> SimpleNamespace:
        """As on an H200: under 0.1 s between the samples, 0 or NaN with a success code."""
        gpu, interval_ns = metricsGet.sample2.gpu, metricsGet.sample2.at_ns - metricsGet.sample1.at_ns
        self._check("nvmlGpmMetricsGet", gpu)
        if any(asked.metricId > gpu.gpm_metrics_max for asked in metricsGet.metrics[: metricsGet.numMetrics]):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        now = self._now(gpu)
        for answer in metricsGet.metrics[: metricsGet.numMetrics]:
            value = now.get(_METRICS[answer.metricId], math.nan)
            answer.nvmlReturn, answer.value = _answer(gpu, f"gpm {answer.metricId}", value)
            if interval_ns < GPM_INTERVAL_MIN_NS:
                answer.nvmlReturn, answer.value = 0, (0.0 if answer.metricId % 2 else math.nan)
        return metricsGet

    # --- events -------------------------------------------------------------------------------------------------------

    def nvmlEventSetCreate(self) -> SimpleNamespace:
        self._check("nvmlEventSetCreate", None)
        return SimpleNamespace(gpu=None, types=0)

    def nvmlDeviceGetSupportedEventTypes(self, handle: Any) -> int:
        self._check("nvmlDeviceGetSupportedEventTypes", handle)
        return int(pynvml.nvmlEventTypeAll)

    def nvmlDeviceRegisterEvents(self, handle: Any, eventTypes: int, eventSet: SimpleNamespace) -> None:
        self._check("nvmlDeviceRegisterEvents", handle)
        eventSet.gpu, eventSet.types = self._gpu(handle), eventTypes

    def nvmlEventSetWait_v2(self, eventSet: SimpleNamespace, timeoutms: int) -> SimpleNamespace:
        self._check("nvmlEventSetWait_v2", None)
        if eventSet.gpu is None or not eventSet.gpu.events:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        kind, data = eventSet.gpu.events.pop(0)
        return SimpleNamespace(eventType=kind, eventData=data)

    def nvmlEventSetFree(self, eventSet: SimpleNamespace) -> None:
        self._check("nvmlEventSetFree", None)


def _answer(gpu: FakeGpu, name: str, value: float) -> tuple[int, float]:
    code = gpu.codes.get(name, pynvml.NVML_ERROR_NOT_SUPPORTED if math.isnan(value) else 0)
    return code, 0.0 if code else value


def _entries(gpu: FakeGpu, found: Sequence[tuple[int, int | None]]) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(pid=gpu.host_pids.get(pid, pid), usedGpuMemory=0 if gpu.withholds_memory else used)
        for pid, used in found
    ]

"""Reads one row of GPU telemetry: maps each column to an NVML call, field or GPM metric.

Lives here: :class:`GpuProbe` and its tables. May touch: NVML, through the module it is given. Opened in the sampler
process only. Each value has its own return code. A value that the device does not report is NaN, never 0, with the
reason in :meth:`GpuProbe.notes`. Field and metric numbers: nvml.h, as nvidia-ml-py names them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pynvml

from mtexp.telemetry.nvml import handles, session
from mtexp.telemetry.probes import FAST, GPM, NAN, RARE, by_process

POLLED = (
    "gpu_util_pct",
    "gpu_memory_util_pct",
    "gpu_memory_used_mib",
    "gpu_power_w",
    "gpu_sm_clock_mhz",
    "gpu_mem_clock_mhz",
    "gpu_temperature_c",
    "gpu_throttle_reasons",
)

COUNTERS: Mapping[str, tuple[int, float]] = {
    "gpu_throttled_power_cap_s": (74, 1e-9),
    "gpu_throttled_thermal_s": (75, 1e-9),
    "gpu_throttled_sync_boost_s": (76, 1e-9),
    "gpu_throttled_sw_thermal_s": (269, 1e-9),
    "gpu_throttled_hw_thermal_s": (270, 1e-9),
    "gpu_throttled_hw_power_brake_s": (271, 1e-9),
    "gpu_pcie_tx_mib": (197, 2**-20),
    "gpu_pcie_rx_mib": (198, 2**-20),
}
"""Cumulative counters: column to field and factor. A column counts from the sampler's start."""

WRAPPING = frozenset({"gpu_pcie_tx_mib", "gpu_pcie_rx_mib"})
"""Counters that begin again at 0 ("value can be wrapped", nvml.h), at 2**32 or 2**64 bytes. In the 50 ms between two
readings the fastest link (64 GB/s) moves less than 2**32 bytes, so that no wrap is missed."""

RARE_COUNTERS: Mapping[str, tuple[int, float]] = {"gpu_ecc_corrected": (3, 1.0), "gpu_ecc_uncorrected": (4, 1.0)}

POWER_INSTANT = 186
ENERGY_COLUMN, ENERGY_FIELD = "gpu_energy_j", 83

GPM_METRICS: Mapping[str, int] = {
    "gpu_gr_active_pct": 1,
    "gpu_sm_active_pct": 2,
    "gpu_sm_occupancy_pct": 3,
    "gpu_integer_active_pct": 4,
    "gpu_tensor_active_pct": 5,
    "gpu_dram_bw_pct": 10,
    "gpu_fp64_active_pct": 11,
    "gpu_fp32_active_pct": 12,
    "gpu_fp16_active_pct": 13,
    "gpu_pcie_tx_mib_per_s": 20,
    "gpu_pcie_rx_mib_per_s": 21,
    "gpu_nvlink_rx_mib_per_s": 60,
    "gpu_nvlink_tx_mib_per_s": 61,
}

CONTEXT_SWITCHES: Mapping[str, int] = {
    "gpu_ctxsw_cycles_elapsed": 170,
    "gpu_ctxsw_cycles_active": 171,
    "gpu_ctxsw_requests": 172,
    "gpu_ctxsw_cycles_per_request": 173,
    "gpu_ctxsw_active_pct": 174,
}
"""Since driver R575. A driver may answer success and 0 for all: no cycle elapsed means that nothing was counted."""

GPM_INTERVAL_MIN_NS = 100_000_000
"""Below this GPM answers 0 and NaN with a success code (measured on an H200, driver 580)."""

_UNION = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Member of nvmlValue_t for each nvmlValueType_t."""


class GpuProbe:
    """NVML and GPM of one GPU or MIG instance.

    Args:
        uuid: Of the device. Power, clocks and throttling of a MIG instance are those of its GPU.
        tenants: Tenant id to pid, for the memory of each.
        process_util: Give the utilisation of each tenant a column. Under CUDA MPS NVML charges the server, so this
            means something only without it. That of every process on the device is in the notes all the same.
        lib: The NVML module.
        clock_ns: The clock that GPM intervals are measured by.
    """

    def __init__(
        self,
        uuid: str,
        tenants: Mapping[str, int],
        *,
        process_util: bool = False,
        lib: Any = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._uuid, self._processes = uuid, by_process(tenants)
        self._process_util = process_util
        self._lib, self._clock_ns = lib, clock_ns
        self._absent: dict[str, str] = {}
        self._refused: set[str] = set()
        self._events: list[list[int]] = []
        self._base: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._power_source = ""
        self._since_us = 0
        self._process_polls: list[list[Any]] = []

    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """Return all possible columns; empty ones are not written."""
        tenants = tuple(f"tenant_gpu_memory_mib/{name}" for name in self._processes)
        if self._process_util:
            tenants += tuple(f"tenant_gpu_util_pct/{name}" for name in self._processes)
        return {
            FAST: (*POLLED, *COUNTERS),
            GPM: (*GPM_METRICS, *CONTEXT_SWITCHES),
            RARE: (ENERGY_COLUMN, *RARE_COUNTERS, *tenants),
        }

    def open(self) -> None:
        """Start NVML, find the device, take the first GPM sample, register for errors.

        Raises:
            HostError: NVML does not start, or the device does not exist.
        """
        if self._lib is None:
            self._lib = pynvml
        self._session = session(self._lib)
        self._session.__enter__()
        try:
            self._handle, self._gpu = handles(self._lib, self._uuid)
            self._gi_id = None if self._handle is self._gpu else self._lib.nvmlDeviceGetGpuInstanceId(self._handle)
            self._open_gpm()
            self._open_events()
        except BaseException:
            self._session.__exit__(None, None, None)
            raise

    def read(self, group: str) -> Sequence[float]:
        """Return the values of ``group`` now."""
        return {FAST: self._read_fast, GPM: self._read_gpm, RARE: self._read_rare}[group]()

    def notes(self) -> dict[str, Any]:
        """Return ``absent`` (call, field or metric to the reason), ``events`` ([monotonic ns, type, data]), sources.

        Also ``process_util``: [monotonic ns, [[pid, percent of the SMs' time since the poll before], ...]] a poll.
        """
        return {
            "absent": dict(self._absent),
            "events": list(self._events),
            "power_source": self._power_source,
            "process_util": list(self._process_polls),
        }

    def close(self) -> None:
        """Free the samples and the event set, shut NVML down."""
        for sample in self._samples:
            self._ask("nvmlGpmSampleFree", sample)
        if self._event_set is not None:
            self._ask("nvmlEventSetFree", self._event_set)
        self._session.__exit__(None, None, None)

    # --- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, function: str, *args: Any) -> Any:
        """Call NVML; None, and a reason in the notes, when it does not answer."""
        if function in self._refused:
            return None
        try:
            return getattr(self._lib, function)(*args)
        except self._lib.NVMLError as error:
            self._note_absent(function, error)
            return None

    def _note_absent(self, name: str, error: Any) -> None:
        """Store the reason; values that the device does not support are not requested again."""
        self._absent[name] = str(error)
        if error.value in (self._lib.NVML_ERROR_NOT_SUPPORTED, self._lib.NVML_ERROR_FUNCTION_NOT_FOUND):
            self._refused.add(name)

    def _fields(self, wanted: Iterable[int]) -> dict[int, float]:
        """Return the field values that came with a success code."""
        asked = [field for field in wanted if f"field {field}" not in self._refused]
        answers = self._ask("nvmlDeviceGetFieldValues", self._gpu, asked) if asked else None
        found = {}
        for answer in answers if answers is not None else ():
            if answer.nvmlReturn == self._lib.NVML_SUCCESS:
                found[answer.fieldId] = float(getattr(answer.value, _UNION[answer.valueType]))
            else:
                self._note_absent(f"field {answer.fieldId}", self._lib.NVMLError(answer.nvmlReturn))
        return found

    def _since_start(self, column: str, value: float | None) -> float:
        """Return how far a cumulative counter has come since it was first read."""
        if value is None:
            return NAN
        last = self._last.get(column, value)
        if column in WRAPPING and value < last:
            self._base[column] -= 2.0**32 if last < 2**32 else 2.0**64
        self._last[column] = value
        return value - self._base.setdefault(column, value)

    # --- the fast group -----------------------------------------------------------------------------------------------

    def _read_fast(self) -> list[float]:
        fields = self._fields((POWER_INSTANT, *(field for field, _ in COUNTERS.values())))
        lib, gpu = self._lib, self._gpu
        utilisation = self._ask("nvmlDeviceGetUtilizationRates", self._handle)
        row = [
            utilisation.gpu if utilisation else NAN,
            utilisation.memory if utilisation else NAN,
            self._memory_used_mib(),
            self._power_w(fields.get(POWER_INSTANT)),
            _number(self._ask("nvmlDeviceGetClockInfo", gpu, lib.NVML_CLOCK_SM)),
            _number(self._ask("nvmlDeviceGetClockInfo", gpu, lib.NVML_CLOCK_MEM)),
            _number(self._ask("nvmlDeviceGetTemperature", gpu, lib.NVML_TEMPERATURE_GPU)),
            _number(self._ask("nvmlDeviceGetCurrentClocksEventReasons", gpu)),
        ]
        for column, (field, factor) in COUNTERS.items():
            row.append(self._since_start(column, fields.get(field)) * factor)
        return row

    def _memory_used_mib(self) -> float:
        memory = self._ask("nvmlDeviceGetMemoryInfo", self._handle, self._lib.nvmlMemory_v2)
        return NAN if memory is None else memory.used / 2**20

    def _power_w(self, instant_mw: float | None) -> float:
        if instant_mw is not None:
            self._power_source = "instant (field 186)"
            return instant_mw / 1000
        average_mw = self._ask("nvmlDeviceGetPowerUsage", self._gpu)
        if average_mw is None:
            return NAN
        self._power_source = "nvmlDeviceGetPowerUsage (1 s average on Ampere and newer)"
        return float(average_mw) / 1000

    # --- GPM ----------------------------------------------------------------------------------------------------------

    def _open_gpm(self) -> None:
        self._samples: list[Any] = []
        support = self._ask("nvmlGpmQueryDeviceSupport", self._gpu)
        if support is None or not support.isSupportedDevice:
            self._absent["gpm"] = "the device has no GPM (Hopper or newer)"
            return
        self._gpm_ids = [*GPM_METRICS.values(), *CONTEXT_SWITCHES.values()]
        self._samples = [self._lib.nvmlGpmSampleAlloc(), self._lib.nvmlGpmSampleAlloc()]
        self._query = self._lib.c_nvmlGpmMetricsGet_t()
        self._sampled_ns = self._clock_ns()
        self._take_sample(self._samples[0])

    def _take_sample(self, sample: Any) -> bool:
        if self._gi_id is not None:
            return self._ask("nvmlGpmMigSampleGet", self._gpu, self._gi_id, sample) is not None
        return self._ask("nvmlGpmSampleGet", self._gpu, sample) is not None

    def _read_gpm(self) -> list[float]:
        """Return averages since the last sample; all NaN, without a new sample, if that was too recent."""
        columns = (*GPM_METRICS.values(), *CONTEXT_SWITCHES.values())
        now_ns = self._clock_ns()
        if not self._samples or now_ns - self._sampled_ns < GPM_INTERVAL_MIN_NS:
            return [NAN] * len(columns)
        before, after = self._samples
        if not self._take_sample(after):
            return [NAN] * len(columns)
        values = self._gpm_values(before, after)
        self._samples, self._sampled_ns = [after, before], now_ns
        if values.get(CONTEXT_SWITCHES["gpu_ctxsw_cycles_elapsed"]) == 0:
            self._absent["gpm context switches"] = "the driver answers success and counts nothing (0 cycles elapsed)"
            values = {metric: v for metric, v in values.items() if metric not in CONTEXT_SWITCHES.values()}
        return [values.get(metric, NAN) for metric in columns]

    def _gpm_values(self, before: Any, after: Any) -> dict[int, float]:
        if not self._gpm_answered(before, after) and not self._gpm_answered_without_switches(before, after):
            return {}
        query, found = self._query, {}
        for place, metric in enumerate(self._gpm_ids):
            answer = query.metrics[place]
            if answer.nvmlReturn != self._lib.NVML_SUCCESS:
                self._note_absent(f"gpm {metric}", self._lib.NVMLError(answer.nvmlReturn))
            elif math.isfinite(answer.value):
                found[metric] = float(answer.value)
        return found

    def _gpm_answered(self, before: Any, after: Any) -> bool:
        query = self._query
        query.version, query.numMetrics = self._lib.NVML_GPM_METRICS_GET_VERSION, len(self._gpm_ids)
        query.sample1, query.sample2 = before, after
        for place, metric in enumerate(self._gpm_ids):
            query.metrics[place].metricId = metric
        return self._ask("nvmlGpmMetricsGet", query) is not None

    def _gpm_answered_without_switches(self, before: Any, after: Any) -> bool:
        """Retry without context switches, which older drivers do not support; keep that if it helps."""
        every, self._gpm_ids = self._gpm_ids, list(GPM_METRICS.values())
        if every == self._gpm_ids:
            return False
        refusal = self._absent.pop("nvmlGpmMetricsGet")
        self._refused.discard("nvmlGpmMetricsGet")
        answered = self._gpm_answered(before, after)
        if answered:
            self._absent["gpm context switches"] = f"{refusal}; the driver answers without them (they came with R575)"
        elif "nvmlGpmMetricsGet" not in self._refused:
            self._gpm_ids = every  # a passing failure
        return answered

    # --- the rare group -----------------------------------------------------------------------------------------------

    def _read_rare(self) -> list[float]:
        self._poll_events()
        fields = self._fields((ENERGY_FIELD, *(field for field, _ in RARE_COUNTERS.values())))
        energy_mj = fields.get(ENERGY_FIELD)
        if energy_mj is None:
            energy_mj = self._ask("nvmlDeviceGetTotalEnergyConsumption", self._gpu)
        row = [self._since_start(ENERGY_COLUMN, energy_mj) / 1000]
        row += [self._since_start(column, fields.get(field)) for column, (field, _) in RARE_COUNTERS.items()]
        row += self._process_memory_mib()
        util_pct = self._process_util_pct()
        return row + [util_pct.get(pid, NAN) for pid in self._processes.values()] if self._process_util else row

    def _process_memory_mib(self) -> list[float]:
        held: dict[int, float] = {}
        for word in ("Compute", "MPSCompute"):
            for entry in self._ask(f"nvmlDeviceGet{word}RunningProcesses_v3", self._handle) or ():
                if entry.usedGpuMemory:  # 0 bytes: withheld in a container, since every context holds memory
                    held[entry.pid] = max(held.get(entry.pid, 0.0), entry.usedGpuMemory / 2**20)
        return [held.get(pid, NAN) for pid in self._processes.values()]

    def _process_util_pct(self) -> dict[int, float]:
        """Return the mean SM utilisation of each process since the last call, by pid, and keep it for the notes."""
        samples = self._ask("nvmlDeviceGetProcessUtilization", self._handle, self._since_us)
        shares: dict[int, list[int]] = {}
        for sample in samples or ():
            self._since_us = max(self._since_us, sample.timeStamp)
            shares.setdefault(sample.pid, []).append(sample.smUtil)
        found = {pid: sum(of_pid) / len(of_pid) for pid, of_pid in shares.items()}
        if found:
            self._process_polls.append([self._clock_ns(), [[pid, round(pct, 2)] for pid, pct in found.items()]])
        return found

    # --- errors -------------------------------------------------------------------------------------------------------

    def _open_events(self) -> None:
        lib = self._lib
        self._event_set = self._ask("nvmlEventSetCreate")
        offered = self._ask("nvmlDeviceGetSupportedEventTypes", self._gpu) or 0
        wanted = offered & (lib.nvmlEventTypeXidCriticalError | lib.nvmlEventTypeDoubleBitEccError)
        if self._event_set is not None and wanted:
            self._ask("nvmlDeviceRegisterEvents", self._gpu, wanted, self._event_set)

    def _poll_events(self) -> None:
        """Store all events since the last poll; never waits."""
        while self._event_set is not None:
            try:
                event = self._lib.nvmlEventSetWait_v2(self._event_set, 0)
            except self._lib.NVMLError as error:
                if error.value != self._lib.NVML_ERROR_TIMEOUT:
                    self._absent["events"] = str(error)
                return
            self._events.append([self._clock_ns(), int(event.eventType), int(event.eventData)])


def _number(value: Any) -> float:
    return NAN if value is None else float(value)

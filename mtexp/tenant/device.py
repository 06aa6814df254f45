"""The device as a tenant sees it: streams, synchronisation, event timing, facts. May touch: torch, libcuda."""

from __future__ import annotations

import ctypes
import resource
from typing import Any, Protocol

import torch

_MPS_ENABLED = 133  # CUdevice_attribute CU_DEVICE_ATTRIBUTE_MPS_ENABLED
_STREAM_NON_BLOCKING = 1  # CUstream_flags CU_STREAM_NON_BLOCKING, what torch's own streams are
_MIB = 2**20


class Timer(Protocol):
    """Times one request on the device; all calls come from the thread that issues the request."""

    def begin(self) -> None:
        """Mark the start of the device work."""

    def end(self) -> None:
        """Mark the end of the device work and wait until it is reached."""

    def gpu_time_ns(self) -> int:
        """Span between the marks, 0 where there is no device clock."""


class CpuDevice:
    """The CPU: work is done when the call returns."""

    torch_device = torch.device("cpu")

    def timer(self) -> Timer:
        """A timer without a device clock."""
        return _CpuTimer()

    def stream(self) -> Any:
        """The CPU has no streams."""
        return None

    def settle(self) -> None:
        """The CPU has no contexts."""

    def forget_peak(self) -> None:
        """The kernel keeps the peak of a process for good."""

    def facts(self) -> dict[str, Any]:
        """What this process knows of its device."""
        return {
            "device_name": "cpu",
            "memory_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


class _CpuTimer:
    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass

    def gpu_time_ns(self) -> int:
        return 0


class CudaDevice:
    """The first CUDA device visible to this process."""

    torch_device = torch.device("cuda", 0)

    def __init__(self) -> None:
        torch.cuda.init()
        torch.cuda.set_device(0)
        self.second_context = False
        """Whether a second context has been made beside torch's (:meth:`settle`)."""

    def timer(self) -> Timer:
        """A timer on the current stream of the calling thread."""
        return _CudaTimer(torch.cuda.current_stream())

    def stream(self) -> torch.cuda.Stream:
        """A stream of its own (``sharing=streams``); ``torch.cuda.Stream`` takes turns through a pool of 32.

        Raises:
            RuntimeError: The driver makes no more of them.
        """
        torch.cuda.synchronize()  # makes the context current in the calling thread
        handle = ctypes.c_void_p()
        status = ctypes.CDLL("libcuda.so.1").cuStreamCreate(ctypes.byref(handle), _STREAM_NON_BLOCKING)
        if status != 0:
            raise RuntimeError(f"no CUDA stream: cuStreamCreate answered {status}")
        return torch.cuda.ExternalStream(handle.value)

    def settle(self) -> None:
        """Make a second context once all is built; never under CUDA MPS, where another client changes nothing."""
        self.second_context = not device_attribute(_MPS_ENABLED) and make_a_second_context()

    def forget_peak(self) -> None:
        """Give back what is not in use, and count the peak of memory from now on."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def facts(self) -> dict[str, Any]:
        """What this process knows of its device: the tenant's side of the sharing proof."""
        properties = torch.cuda.get_device_properties(0)
        facts = {
            "device_name": properties.name,
            "gpu_uuid": gpu_uuid(properties),
            "sm_count": properties.multi_processor_count,
            "torch_cuda_version": torch.version.cuda,
            "second_context": self.second_context,
            "stream_id": int(torch.cuda.current_stream().cuda_stream),
            "memory_allocated_mib": torch.cuda.memory_allocated() / _MIB,
            "memory_reserved_mib": torch.cuda.memory_reserved() / _MIB,
            "memory_peak_mib": torch.cuda.max_memory_allocated() / _MIB,
        }
        mps_enabled = device_attribute(_MPS_ENABLED)
        if mps_enabled is not None:
            facts["mps_enabled"] = mps_enabled
        return facts


class _CudaTimer:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._first = torch.cuda.Event(enable_timing=True)
        self._last = torch.cuda.Event(enable_timing=True)
        # bound once: the loop pays for the calls, not for the look-ups
        self._record_first, self._record_last = self._first.record, self._last.record
        self._stream = stream

    def begin(self) -> None:
        self._record_first(self._stream)

    def end(self) -> None:
        self._record_last(self._stream)
        self._stream.synchronize()

    def gpu_time_ns(self) -> int:
        return int(self._first.elapsed_time(self._last) * 1e6)


def gpu_uuid(properties: Any) -> str:
    """NVML's spelling of the device UUID, MIG instances included."""
    uuid = str(properties.uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def device_attribute(attribute: int) -> int | None:
    """A CUdevice_attribute of device 0, or None where this driver does not know it."""
    value = ctypes.c_int(-1)
    status = ctypes.CDLL("libcuda.so.1").cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
    return value.value if status == 0 else None


def make_a_second_context() -> bool:
    """Make and destroy a second CUDA context beside torch's, so that a lone tenant runs as tenants of a mix do.

    A process that has used several streams is slower until another context has been made on the device, by itself or by
    another process, and whether or not that context still exists: BERT-base as a CUDA graph takes 1.94 ms, and 1.80 ms
    from then on (H100; 1.87 and 1.74 ms on an H200; driver 580.159; ``benchmarks.second_context``). A baseline would
    pay for that, tenants of a mix would not. A context that is made before the model is built does not help.

    Returns:
        Whether it could be made and destroyed.
    """
    torch.cuda.synchronize()
    driver, device, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    if driver.cuCtxCreate_v2(ctypes.byref(context), 0, device) != 0:
        return False
    driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    return bool(driver.cuCtxDestroy_v2(context) == 0)


def open_device(runtime: str) -> CpuDevice | CudaDevice:
    """The device of a ``gpu`` or ``cpu`` run.

    Raises:
        RuntimeError: ``gpu`` was asked for and this torch cannot use it.
    """
    if runtime == "cpu":
        return CpuDevice()
    if not torch.backends.cuda.is_built():
        raise RuntimeError(
            f"torch {torch.__version__} is a CPU build; install a CUDA build for this driver, or set runtime=cpu"
        )
    return CudaDevice()

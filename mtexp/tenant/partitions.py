"""Green contexts: partitions of the SMs of this process, and a kernel that shows its SMs. May touch: libcuda.

The driver's calls come from ``cuda-bindings``. The SMs are parted by one ``cuDevSmResourceSplitByCount``: two splits of
the whole device may hand out the same SMs. The parts are as small as the largest that all partitions are multiples of,
and a partition joins neighbouring parts.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mtexp.errors import MtexpError

_NON_BLOCKING = 1  # CUstream_flags CU_STREAM_NON_BLOCKING
_IGNORE_COSCHEDULING = 1  # CUdevSmResourceSplit_flags
_COSCHEDULED = 8  # SMs that a thread block cluster may need together: without them cuBLAS fails on an H200
_BLOCKS_PER_SM, _THREADS, _CYCLES = 16, 1024, 20_000
_PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry where_am_i(.param .u64 out, .param .u64 cycles)
{
  .reg .pred %p<2>; .reg .b32 %r<4>; .reg .b64 %rd<9>;
  ld.param.u64 %rd1, [out];
  ld.param.u64 %rd5, [cycles];
  cvta.to.global.u64 %rd2, %rd1;
  mov.u32 %r1, %smid;
  mov.u32 %r2, %ctaid.x;
  mul.wide.u32 %rd3, %r2, 4;
  add.s64 %rd4, %rd2, %rd3;
  st.global.u32 [%rd4], %r1;
  mov.u64 %rd6, %clock64;
wait:
  mov.u64 %rd7, %clock64;
  sub.s64 %rd8, %rd7, %rd6;
  setp.lt.s64 %p1, %rd8, %rd5;
  @%p1 bra wait;
  ret;
}
\0"""


class NoGreenContexts(MtexpError):
    """The SMs cannot be parted: ``cuda-bindings`` is missing, or the driver refused; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One green context, with the stream that runs in it."""

    stream: torch.cuda.ExternalStream
    sm_count: int
    """SMs of the context, as the driver answers."""
    context: Any
    """Handle of the context, which must outlive the stream."""


def part(sizes: Sequence[int]) -> list[Partition]:
    """Part the SMs of the current device into partitions of ``sizes`` SMs, disjoint.

    Raises:
        NoGreenContexts: ``cuda-bindings`` is missing, or the driver cannot part the device so.
    """
    driver = _driver()
    torch.cuda.synchronize()  # makes the primary context, which green contexts belong to
    device = _ok(driver, "cuDeviceGet", 0)
    kind = driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
    whole = _ok(driver, "cuDeviceGetDevResource", device, kind)
    unit = math.gcd(*sizes)
    flags = 0 if unit % _COSCHEDULED == 0 else _IGNORE_COSCHEDULING
    parts, count, _rest = _ok(driver, "cuDevSmResourceSplitByCount", sum(sizes) // unit, whole, flags, unit)
    parts = [resource for resource in parts[:count] if resource.sm.smCount == unit]
    if len(parts) * unit < sum(sizes):
        raise NoGreenContexts(
            f"sharing=green_contexts: the driver made {len(parts)} parts of {unit} SMs out of {whole.sm.smCount}, and "
            f"{' + '.join(map(str, sizes))} were asked for. Ask for fewer SMs, or for multiples of 8"
        )
    partitions = []
    for size in sizes:
        own, parts = parts[: size // unit], parts[size // unit :]
        description = _ok(driver, "cuDevResourceGenerateDesc", own, len(own))
        default = driver.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
        context = _ok(driver, "cuGreenCtxCreate", description, device, default)
        stream = _ok(driver, "cuGreenCtxStreamCreate", context, _NON_BLOCKING, 0)
        given = _ok(driver, "cuGreenCtxGetDevResource", context, kind).sm.smCount
        partitions.append(Partition(torch.cuda.ExternalStream(int(stream)), int(given), context))
    return partitions


def sm_ids(stream: torch.cuda.Stream) -> list[int]:
    """Return the numbers of the SMs (``%smid``) that a kernel on ``stream`` runs on, sorted.

    Its blocks stay for some microseconds and are many more than fit at once, so that every SM gets some. Under CUDA MPS
    with a percentage the numbers are those of the client, from 0: two clients see the same ones on different SMs.

    Raises:
        NoGreenContexts: ``cuda-bindings`` is missing, or the driver refused the kernel.
    """
    driver = _driver()
    blocks = _BLOCKS_PER_SM * torch.cuda.get_device_properties(0).multi_processor_count
    with torch.cuda.stream(stream):
        out = torch.full((blocks,), -1, dtype=torch.int32, device="cuda")
    library = _ok(driver, "cuLibraryLoadData", _PTX, [], [], 0, [], [], 0)
    kernel = driver.CUfunction(int(_ok(driver, "cuLibraryGetKernel", library, b"where_am_i")))
    arguments = ((out.data_ptr(), _CYCLES), (ctypes.c_void_p, ctypes.c_longlong))
    handle = driver.CUstream(stream.cuda_stream)
    _ok(driver, "cuLaunchKernel", kernel, blocks, 1, 1, _THREADS, 1, 1, 0, handle, arguments, 0)
    stream.synchronize()
    _ok(driver, "cuLibraryUnload", library)
    return sorted(set(out.tolist()))


def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        raise NoGreenContexts(
            "sharing=green_contexts needs the package cuda-bindings: pip install 'mtexp[green]'"
        ) from None
    return driver


def _ok(driver: Any, call: str, *arguments: Any) -> Any:
    function = getattr(driver, call, None)
    if function is None:
        raise NoGreenContexts(f"this cuda-bindings has no {call}: pip install 'mtexp[green]'")
    status, *values = function(*arguments)
    if int(status) != 0:
        name = driver.cuGetErrorName(status)[1].decode()
        raise NoGreenContexts(
            f"sharing=green_contexts: {call} answered {name} (driver {driver.cuDriverGetVersion()[1]}). "
            "Green contexts need driver 550 or later, a GPU that is not cut by MIG, and no CUDA MPS"
        )
    return values[0] if len(values) == 1 else values

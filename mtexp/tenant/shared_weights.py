"""Weights that several processes have in memory once. May touch: torch, libcuda, memory of another process of the run.

The keeper builds its model and moves all of its tensors into one piece of memory. Processes of the same user ask it for
the place, at an abstract Unix socket. A borrower builds the model without memory and puts its tensors there. On a
GPU the piece is one allocation with a CUDA IPC handle, which works between processes that take turns and between
clients of one CUDA MPS daemon; on the CPU it is an anonymous file. A process that is killed leaves nothing behind.

The piece is no part of torch's memory counters: what they show is what a process has beside the weights.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection
from typing import Any

import torch

from mtexp.errors import MtexpError
from mtexp.spec import TenantSpec
from mtexp.tenant.families import from_config
from mtexp.tenant.models import build_model
from mtexp.tenant.weights import DTYPES

_ALIGNED = 256
_LOOK_S = 0.05
_LEAVE_S = 10.0
_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the only flag there is
_MIB = 2**20
_Found = tuple[str, dict[str, Any], torch.Tensor]
"""A name, what holds the tensor, the tensor."""


class WeightsNotShared(MtexpError):
    """Memory of another process that cannot be had; the message says why."""


class SharedModel:
    """Builds a tenant's model on weights that are in memory once.

    Args:
        address: Abstract Unix socket of the keeper.
        keeper: Whether this process is it.
    """

    def __init__(self, address: str, *, keeper: bool) -> None:
        self._address, self._keeper = "\0" + address, keeper
        self._borrowers: list[socket.socket] = []
        self._asked: Connection | None = None
        self._mib = 0.0

    def build(self, tenant: TenantSpec, device: torch.device) -> torch.nn.Module:
        """The model of ``tenant``, as :func:`build_model` makes it.

        Raises:
            WeightsNotShared: The driver, or the keeper's model, does not allow it.
        """
        if self._keeper:
            model = build_model(tenant, device)
            place = _kept(model, device)
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            self._serve(place)
        else:
            with torch.device("meta"):
                model = from_config(
                    tenant.model,
                    dtype=DTYPES[tenant.precision],
                    attn_implementation=tenant.model.attn_implementation,
                ).eval()
            torch.set_float32_matmul_precision("high" if tenant.precision == "tf32" else "highest")
            place = self._ask()
            _borrowed(model, place, device)
        self._mib = place["bytes"] / _MIB
        return model

    def facts(self) -> dict[str, Any]:
        """For the record."""
        return {"weights": "kept" if self._keeper else "borrowed", "shared_weights_mib": self._mib}

    def close(self) -> None:
        """Have the keeper wait until all borrowers have ended, for a bounded time."""
        deadline = time.monotonic() + _LEAVE_S
        for borrower in self._borrowers:
            borrower.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                borrower.recv(1)
            except OSError:
                continue

    def _serve(self, place: dict[str, Any]) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self._address)
        listener.listen(64)
        threading.Thread(target=self._answer, args=(listener, place), name="weights", daemon=True).start()

    def _answer(self, listener: socket.socket, place: dict[str, Any]) -> None:
        while True:
            asking, _ = listener.accept()
            _, uid, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != os.getuid():
                asking.close()
                continue
            Connection(os.dup(asking.fileno())).send_bytes(json.dumps(place).encode())
            self._borrowers.append(asking)

    def _ask(self) -> dict[str, Any]:
        """Where the weights are, from their keeper once it has built; the run's deadline bounds the wait."""
        while True:
            try:
                self._asked = Client(self._address, "AF_UNIX")
                place: dict[str, Any] = json.loads(self._asked.recv_bytes())
                return place
            except ConnectionRefusedError:
                time.sleep(_LOOK_S)


def _tensors(model: torch.nn.Module) -> Iterator[_Found]:
    """Each tensor of ``model``, one that is at several places once a place."""
    for place, module in model.named_modules():
        for kind, held in (("p", module._parameters), ("b", module._buffers), ("a", vars(module))):
            for name, tensor in held.items():
                if isinstance(tensor, torch.Tensor):
                    yield f"{place}:{kind}:{name}", held, tensor


def _kept(model: torch.nn.Module, device: torch.device) -> dict[str, Any]:
    """Move the tensors of ``model`` into one piece of memory; returns where each is, as plain data."""
    found = list(_tensors(model))
    offsets: dict[int, int] = {}
    size = 0
    for _, _, tensor in found:
        if id(tensor) not in offsets:
            offsets[id(tensor)] = size
            size += -(-max(tensor.nbytes, 1) // _ALIGNED) * _ALIGNED
    piece, where = (_on_gpu if device.type == "cuda" else _on_cpu)(size)
    tensors: dict[str, list[Any]] = {
        name: [offsets[id(tensor)], str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        for name, _, tensor in found
    }
    with torch.no_grad():
        for name, _, tensor in found:
            _view(piece, *tensors[name]).copy_(tensor)
    place = {**where, "bytes": size, "tensors": tensors}
    _put_all(found, piece, place)
    return place


def _borrowed(model: torch.nn.Module, place: dict[str, Any], device: torch.device) -> None:
    """Put the tensors of ``model``, which has no memory, where the keeper's are."""
    piece = (_of_gpu if device.type == "cuda" else _of_cpu)(place)
    found = list(_tensors(model))
    if missing := {name for name, _, _ in found} ^ set(place["tensors"]):
        raise WeightsNotShared(
            f"share_weights: {sorted(missing)[0]} (and {len(missing) - 1} more) is not a tensor of both the model that "
            "keeps the weights and this one; set share_weights=false"
        )
    _put_all(found, piece, place)


def _put_all(found: list[_Found], piece: torch.Tensor, place: dict[str, Any]) -> None:
    """Replace each tensor by its place in ``piece``; one that is at several places stays one."""
    made: dict[tuple[int, bool], torch.Tensor] = {}
    for name, held, old in found:
        offset, dtype, shape = place["tensors"][name]
        key = offset, isinstance(old, torch.nn.Parameter)
        if key not in made:
            view = _view(piece, offset, dtype, shape)
            made[key] = torch.nn.Parameter(view, requires_grad=False) if key[1] else view
        held[name.rpartition(":")[2]] = made[key]


def _view(piece: torch.Tensor, offset: int, dtype: str, shape: list[int]) -> torch.Tensor:
    kind = getattr(torch, dtype)
    count = torch.Size(shape).numel()
    return piece[offset : offset + count * kind.itemsize].view(kind).view(shape)


# --- pieces of memory -------------------------------------------------------------------------------------------------


def _on_cpu(size: int) -> tuple[torch.Tensor, dict[str, Any]]:
    descriptor = os.memfd_create("mtexp-weights")
    os.ftruncate(descriptor, size)
    where = {"pid": os.getpid(), "descriptor": descriptor}
    return _of_cpu({**where, "bytes": size}), where


def _of_cpu(place: dict[str, Any]) -> torch.Tensor:
    path = f"/proc/{place['pid']}/fd/{place['descriptor']}"
    return torch.from_file(path, shared=True, size=place["bytes"], dtype=torch.uint8)


class _IpcHandle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_byte * 64),)


class _Piece:
    """Device memory that torch has not allocated, in the form that it takes it."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}


def _on_gpu(size: int) -> tuple[torch.Tensor, dict[str, Any]]:
    torch.cuda.synchronize()  # makes the context current in the calling thread
    driver, address, handle = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64(), _IpcHandle()
    _check("cuMemAlloc", driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)))
    _check("cuIpcGetMemHandle", driver.cuIpcGetMemHandle(ctypes.byref(handle), address))
    return torch.as_tensor(_Piece(address.value, size), device="cuda"), {"handle": bytes(handle).hex()}


def _of_gpu(place: dict[str, Any]) -> torch.Tensor:
    torch.cuda.synchronize()
    driver, address = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64()
    handle = _IpcHandle.from_buffer_copy(bytes.fromhex(place["handle"]))
    status = driver.cuIpcOpenMemHandle_v2(ctypes.byref(address), handle, ctypes.c_uint(_PEER_ACCESS))
    _check("cuIpcOpenMemHandle", status)
    return torch.as_tensor(_Piece(address.value, place["bytes"]), device="cuda")


def _check(call: str, status: int) -> None:
    if status != 0:
        raise WeightsNotShared(
            f"share_weights: {call} answered {status}: this driver or container does not let processes share memory "
            "of the device; set share_weights=false"
        )

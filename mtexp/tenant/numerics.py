"""One process of ``python -m mtexp.sharing.numerics``: which products and models this process computes right.

Lives here: what the process is asked (:class:`Task`) and what it answers, message by message. May touch: torch, CUDA.

======== ==================================================================================================
event     content
======== ==================================================================================================
device    what the process sees of its device; it then waits for ``go`` (anything else ends it)
products  the products of the models, for the processes that follow (asked for with ``find_products``)
product   one product in one precision: relative error, NaN and infinite numbers, wrong or not
model     one whole model in one precision
error     it cannot continue; the reason
done      all is measured
======== ==================================================================================================
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from mtexp.spec import ModelSpec, TenantSpec, WorkloadSpec, from_json
from mtexp.tenant import workarounds
from mtexp.tenant.device import device_attribute, gpu_uuid
from mtexp.tenant.reference import (
    MODEL_TOLERANCE,
    Call,
    Deviation,
    Products,
    compare,
    compare_tensors,
    transposed,
)
from mtexp.tenant.weights import DTYPES, Pool

HALF = ("fp16", "bf16")
"""Precisions in which whole models are run."""
_MPS_ENABLED = 133
_MESSAGE = 200
_POSITION_STEP = 32
"""Logits of each 32nd position are compared: a wrong tile is at least as high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one process is asked to do, as plain data."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Set before CUDA starts; an empty value unsets the variable."""
    runtime: str = "gpu"
    models: tuple[ModelSpec, ...] = ()
    """Whole models to run."""
    shapes_of: tuple[ModelSpec, ...] = ()
    """Models whose products are to be found first; the answer has them."""
    products: tuple[Mapping[str, Any], ...] = ()
    """Products to compute (:func:`product_of`)."""
    linear: tuple[tuple[int, int, int], ...] = ()
    """Linear products to find in place of those of models: rows, inputs, outputs."""
    precisions: tuple[str, ...] = ("fp16", "bf16", "tf32", "fp32")
    batch_size: int = 8
    seq_len: int = 128
    references: str = ""
    """Folder of the models' float32 outputs."""
    make_references: bool = False
    """Compute them, and say how far off the precisions are without any limit on the SMs."""
    workaround: str = ""
    """Name in :data:`mtexp.tenant.workarounds.SETTINGS`, applied first."""
    seed: int = 0


def serve(connection: Connection, data: Mapping[str, Any]) -> None:
    """Do one task and say what came of it. The entry of the process; never returns an error, it sends it."""
    try:
        with torch.inference_mode():
            _Checks(connection, from_json(Task, data)).run()
    except (BrokenPipeError, EOFError):
        return
    except Exception as error:  # noqa: BLE001  the process's outermost frame: a failure is data
        said = str(error).strip().splitlines() or [""]
        connection.send({"event": "error", "message": f"{type(error).__name__}: {said[0][:_MESSAGE]}"})


class _Checks:
    def __init__(self, connection: Connection, task: Task) -> None:
        self.connection, self.task = connection, task
        self.device = torch.device("cuda", 0) if task.runtime == "gpu" else torch.device("cpu")
        self.way = workarounds.SETTINGS[task.workaround or workarounds.NONE]
        self.pool: Pool

    def run(self) -> None:
        for name, value in self.task.environment.items():
            if value:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)
        facts = self.facts()
        self.say("device", **facts)
        if self.connection.recv() != "go":
            return
        self.way.apply(facts.get("sm_count", 0))
        self.pool = Pool(self.task.seed, self.device)
        products: list[Any] = list(self.task.products)
        if self.task.shapes_of or self.task.linear:
            products = [linear_product(*sizes) for sizes in self.task.linear] or self.find_products()
            self.say("products", products=products)
        for product in products[: self.way.most]:
            for precision in self.task.precisions:
                self.say("product", name=product["name"], precision=precision, **self.product(product, precision))
        for model in self.task.models:
            self.model(model)
        self.say("done")

    def say(self, event: str, **data: Any) -> None:
        self.connection.send({"event": event, **data})

    def facts(self) -> dict[str, Any]:
        """What the process sees of its device. Without MPS, no context is made before ``go``: others may measure."""
        if self.task.runtime == "cpu":
            return {"device_name": "cpu", "versions": _versions()}
        torch.cuda.init()
        mps = device_attribute(_MPS_ENABLED)
        if mps:
            torch.zeros(1, device=self.device)
        properties = torch.cuda.get_device_properties(0)
        return {
            "device_name": properties.name,
            "gpu_uuid": gpu_uuid(properties),
            "capability": f"{properties.major}.{properties.minor}",
            "sm_count": properties.multi_processor_count,
            "mps_enabled": mps,
            "versions": _versions(),
        }

    # products

    def find_products(self) -> list[dict[str, Any]]:
        """The products of one layer, and of what is around the layers, of each model; equal ones once."""
        found: dict[Any, dict[str, Any]] = {}
        for model in self.task.shapes_of:
            calls: dict[Any, Call] = {}
            layered = {**model.shape, "n_layer" if "n_layer" in model.shape else "num_hidden_layers": 1}
            tenant = self.tenant(replace(model, shape=layered), "fp32" if self.task.runtime == "cpu" else "fp16")
            module, ids = self.built(tenant)
            with Products(functools.partial(_keep_first, calls)):
                module(input_ids=ids)
            for key, call in calls.items():
                found.setdefault(key, {**product_of(call), "models": []})["models"].append(model.name)
            del module
        return list(found.values())

    def product(self, product: Mapping[str, Any], precision: str) -> dict[str, Any]:
        """Compute one product and compare it with float32 (float32 itself with float64)."""
        call = self.call(product, precision)
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        try:
            out = self.way.run(_FUNCTIONS[call.op], call)
            deviation = compare(call, out, torch.float64 if precision == "fp32" else torch.float32)
        except torch.OutOfMemoryError:
            return {"unchecked": "out of memory"}
        except NotImplementedError as error:
            return {"unchecked": str(error)}
        if deviation is None:
            return {"unchecked": "not a product that can be computed again"}
        return _found(deviation, deviation.wrong(precision))

    def call(self, product: Mapping[str, Any], precision: str) -> Call:
        pool = self.pool

        def argument(value: Mapping[str, Any]) -> Any:
            if "shape" not in value:
                return value["value"]
            shape = list(value["shape"])
            if value["dtype"] == "bool":
                return torch.ones(shape, dtype=torch.bool, device=self.device).tril()
            if value["transposed"]:
                shape[-2:] = reversed(shape[-2:])
            tensor = torch.empty(shape, device=self.device, dtype=torch.float32)
            tensor = pool.normal_(tensor, 0.0, 1.0).to(DTYPES[precision])
            return tensor.transpose(-1, -2) if value["transposed"] else tensor

        options = {name: argument(value) for name, value in product["options"].items()}
        return Call(product["op"], tuple(map(argument, product["arguments"])), options)

    # models

    def tenant(self, model: ModelSpec, precision: str) -> TenantSpec:
        workload = WorkloadSpec(batch_size=self.task.batch_size, seq_len=self.task.seq_len)
        return TenantSpec(id=model.name, model=model, workload=workload, precision=precision, seed=self.task.seed)

    def built(self, tenant: TenantSpec) -> tuple[Any, torch.Tensor]:
        """The model and its input."""
        # with transformers: seconds, unless the process was forked with it
        from mtexp.tenant.model_requests import random_tokens
        from mtexp.tenant.models import build_model

        module = build_model(tenant, self.device)
        return module, random_tokens(module, tenant, self.device)

    def model(self, model: ModelSpec) -> None:
        """Run a whole model in half precision and compare its output with that of the same weights in float32."""
        for precision in [p for p in self.task.precisions if p in HALF]:
            path = Path(self.task.references) / f"{model.name}-{precision}.npy"
            try:
                if self.task.make_references:
                    np.save(path, self.output(model, precision, upcast=True)[0].cpu().numpy())
                expected = torch.from_numpy(np.load(path)).to(self.device)
            except (torch.OutOfMemoryError, FileNotFoundError):
                unchecked = "its float32 copy does not fit the device"
                self.say("model", name=model.name, precision=precision, unchecked=unchecked)
                continue
            try:
                out, nonfinite = self.output(model, precision)
            except torch.OutOfMemoryError:
                self.say("model", name=model.name, precision=precision, unchecked="out of memory")
                continue
            found = compare_tensors(out, expected)
            deviation = Deviation(found.error, nonfinite)  # off: errors of layers add up, single numbers may well be
            wrong = nonfinite > 0 or not deviation.error <= MODEL_TOLERANCE[precision]
            self.say("model", name=model.name, precision=precision, **_found(deviation, wrong))

    def output(self, model: ModelSpec, precision: str, *, upcast: bool = False) -> tuple[torch.Tensor, int]:
        """The output that is compared, and how many numbers of the whole output are not finite.

        ``upcast`` computes it in float32 on the weights of ``precision``: their rounding is no fault of a kernel.
        """
        tenant = self.tenant(model, precision)
        module, ids = self.built(tenant)
        if upcast:
            module = module.float()
        found = module(input_ids=ids)
        whole = found.logits if model.role == "decoder" else found.last_hidden_state
        nonfinite = int((~torch.isfinite(whole)).sum())
        step = _POSITION_STEP if model.role == "decoder" and whole.shape[1] >= _POSITION_STEP else 1
        return whole[:, step - 1 :: step].clone(), nonfinite


def _keep_first(calls: dict[Any, Call], call: Call, out: torch.Tensor) -> None:
    calls.setdefault(call.key, call)


def linear_product(rows: int, inputs: int, outputs: int) -> dict[str, Any]:
    """The product of a linear layer without bias: (rows, inputs) times (outputs, inputs) transposed."""
    meta = torch.device("meta")
    sizes = (torch.empty(rows, inputs, device=meta), torch.empty(outputs, inputs, device=meta))
    return {**product_of(Call("linear", sizes, {})), "models": []}


def product_of(call: Call) -> dict[str, Any]:
    """``call`` as plain data, to be computed with other numbers."""

    def argument(value: Any) -> dict[str, Any]:
        if not isinstance(value, torch.Tensor):
            return {"value": value}
        dtype = "bool" if value.dtype == torch.bool else "float"
        return {"shape": list(value.shape), "transposed": transposed(value), "dtype": dtype}

    options = {name: argument(value) for name, value in call.options.items()}
    return {"name": call.name, "op": call.op, "arguments": [argument(v) for v in call.arguments], "options": options}


def _found(deviation: Deviation, wrong: bool) -> dict[str, Any]:
    error = float(f"{deviation.error:.3g}") if math.isfinite(deviation.error) else None
    return {"error": error, "nonfinite": deviation.nonfinite, "off": deviation.off, "wrong": wrong}


_FUNCTIONS: Mapping[str, Callable[..., torch.Tensor]] = {
    "linear": functional.linear,
    "addmm": torch.addmm,
    "matmul": torch.matmul,
    "attention": functional.scaled_dot_product_attention,
    "conv1d": functional.conv1d,
    "conv2d": functional.conv2d,
    "conv3d": functional.conv3d,
}


def _versions() -> dict[str, str]:
    """Versions of what computes: torch, CUDA as torch was built for it, cuBLAS as it was loaded."""
    known = {"torch": torch.__version__, "cuda": torch.version.cuda or "", "cublas": _cublas_version()}
    if torch.backends.cudnn.is_available():
        known["cudnn"] = str(torch.backends.cudnn.version())
    return {name: version for name, version in known.items() if version}


def _cublas_version() -> str:
    """``13.1.0``; empty where the library is not loaded."""
    major = (torch.version.cuda or "").partition(".")[0]
    try:
        library = ctypes.CDLL(f"libcublas.so.{major}", mode=os.RTLD_NOLOAD)
    except OSError:
        return ""
    parts = []
    for number in range(3):  # libraryPropertyType: MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL
        value = ctypes.c_int()
        if library.cublasGetProperty(number, ctypes.byref(value)) != 0:
            return ""
        parts.append(value.value)
    return ".".join(map(str, parts))

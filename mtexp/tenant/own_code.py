"""Code of the user as a tenant: its factory is imported, called and made a request. May touch: torch, that code.

Only a tenant whose spec names a target comes here, and specs are made of the user's configuration: never of a record.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mtexp.errors import MtexpError
from mtexp.spec import TenantSpec
from mtexp.tenant.outputs import Outputs, output_tensor
from mtexp.tenant.prepared import Prepared
from mtexp.tenant.weights import DTYPES

_RETURNS = "It returns (module, inputs), or a callable without arguments that enqueues one request"


class BadFactory(MtexpError):
    """A factory that gives no request; the message says what it gave and what is expected."""


def own_request(tenant: TenantSpec, device: torch.device, compile_module: Callable[[Any], Any]) -> Prepared:
    """Import the tenant's module, call its factory, and make what it returns a request.

    The factory gets ``device``, ``dtype``, ``batch_size``, ``seq_len``, ``seed`` and the tenant's ``params`` by name.
    It returns ``(module, inputs)``, where inputs are a tensor, a sequence (positional) or a mapping (by name), or a
    callable, which enqueues one request and returns what it computed (None: it is not checked).

    Raises:
        BadFactory: It is not callable, or returns something else.
        Exception: Whatever the user's code raises; the traceback goes to the tenant's log.
    """
    spec, workload = tenant.model, tenant.workload
    torch.set_float32_matmul_precision("high" if tenant.precision == "tf32" else "highest")
    torch.manual_seed(tenant.seed)
    if spec.code_path not in sys.path:
        sys.path.insert(0, spec.code_path)
    module, _, name = spec.target.partition(":")
    factory = getattr(importlib.import_module(module), name, None)
    if not callable(factory):
        raise BadFactory(f"{spec.target} is no function")
    made = factory(
        device=device,
        dtype=DTYPES[tenant.precision],
        batch_size=workload.batch_size,
        seq_len=workload.seq_len,
        seed=tenant.seed,
        **spec.params,
    )
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module):
        return _of_module(made[0].to(device).eval(), made[1], spec.target, compile_module)
    if isinstance(made, torch.nn.Module):
        raise BadFactory(f"{spec.target} returned a module without inputs. {_RETURNS}")
    if callable(made):
        return _of_callable(made)
    raise BadFactory(f"{spec.target} returned {type(made).__name__}. {_RETURNS}")


def _of_module(module: torch.nn.Module, inputs: Any, target: str, compile_module: Callable[[Any], Any]) -> Prepared:
    named: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {}
    given = () if named else (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    if not isinstance(given, list | tuple):
        raise BadFactory(f"{target} returned inputs of type {type(inputs).__name__}: a tensor, sequence or mapping")
    tensors = tuple(value for value in (*given, *named.values()) if isinstance(value, torch.Tensor))
    outputs, call = Outputs(), compile_module(module)

    def request() -> int:
        outputs.last = call(*given, **named)
        return 0

    return Prepared(request, module, outputs=outputs, inputs=tensors)


def _of_callable(call: Callable[[], Any]) -> Prepared:
    """A request of the user's own; what it returns is checked if that holds a floating-point tensor."""
    outputs = Outputs()

    def request() -> int:
        outputs.last = call()
        return 0

    with torch.inference_mode():
        found = call()
    try:
        output_tensor(found)
    except (TypeError, AttributeError):
        return Prepared(lambda: _without_output(call))
    return Prepared(request, outputs=outputs, checked=True)


def _without_output(call: Callable[[], Any]) -> int:
    call()
    return 0

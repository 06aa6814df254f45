"""What a model is, read off the model itself: ``python -m mtexp.tenant.counting``.

May touch: torch's meta device, on which a model has shapes and takes no memory. The planner runs this in a process of
its own (importing torch takes seconds), with a line of JSON for each question and answer.
"""

from __future__ import annotations

import gc
import json
import select
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from mtexp.collector import collector_off
from mtexp.errors import MtexpError
from mtexp.spec import CostSpec, ModelSpec, WorkloadSpec, from_json

with collector_off():
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    from mtexp.tenant import families
    from mtexp.tenant.models import meta_model

PATIENCE_S = 10.0
"""How long the process waits for the next question."""
ATTENTION = ("sdpa", "eager")
"""Attention implementations that are offered, the preferred one first."""
_DATA = ("meta tensor", "data-dependent", "cannot be called on meta", "nonzero")
"""What an error says of a model that looks at its numbers: without memory it has none."""
_TRIED = 2
"""Sequences of the trial; with one, some operations take the batch for another dimension."""


class CannotBuild(MtexpError):
    """A model that transformers cannot build or run as asked; the message says why.

    Args:
        field: Field of the model that is to blame.
        message: Why.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def describe(spec: ModelSpec, workload: WorkloadSpec) -> dict[str, Any]:
    """Return everything that follows from ``spec``'s architecture and shape.

    ``role`` and ``model_class`` (where ``spec`` leaves the role open), ``attention`` (the implementations it has),
    :func:`count`'s sizes, ``inputs`` (empty for those that take tokens only) and ``cost``, a :class:`CostSpec`.

    Raises:
        CannotBuild: It cannot be built, or cannot run on its configured inputs.
    """
    try:
        if not spec.role:
            role, model_class = families.role_of(spec.architecture, spec.shape)
            spec = replace(spec, role=role, model_class=spec.model_class or model_class)
        attention = _attention(spec)
        model = meta_model(replace(spec, attn_implementation=attention[0]))
    except families.NoRequest:
        raise
    except Exception as error:
        raise CannotBuild("architecture", _reason_of(error)) from error
    inputs, cost = _run(model, spec, workload)
    return {
        "role": spec.role,
        "model_class": spec.model_class,
        "attention": attention,
        **_sizes(model),
        "inputs": {} if all(name.endswith("input_ids") for name in inputs) else inputs,
        "cost": asdict(cost),
    }


def count(spec: ModelSpec) -> dict[str, int]:
    """Return the sizes of ``spec``'s shape.

    ``parameters`` counts tied weights once. ``layer_parameters`` are the elements of the weight matrices of all layers
    that one token passes: no embedding, head, pooler, bias or norm; of experts the share that a token is sent to.

    Raises:
        Exception: Whatever transformers says of an architecture or a shape that it does not know.
    """
    return _sizes(meta_model(spec))


def _sizes(model: Any) -> dict[str, int]:
    layers = [part for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)]
    weights = {id(w): w for part in layers for w in part.parameters()}.values()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "layer_parameters": sum(w.numel() for w in weights if w.ndim == 2)
        + int(sum(w.numel() for w in weights if w.ndim == 3) * _experts_used(model.config)),
    }


def _experts_used(config: Any) -> float:
    """Share of the experts of a layer that one token passes; 1 for a model without experts."""
    used = getattr(config, "num_experts_per_tok", None)
    there = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    return used / there if used and there else 1.0


def _attention(spec: ModelSpec) -> list[str]:
    """The attention implementations that the model can be built with.

    Raises:
        Exception: Whatever transformers says of one that cannot be built with any.
    """
    found, last = [], ""
    for name in ATTENTION:
        try:
            meta_model(replace(spec, attn_implementation=name))
        except ValueError as error:
            last = str(error)
        else:
            found.append(name)
    if not found:
        raise ValueError(last)
    return found


# --- one request without memory ---------------------------------------------------------------------------------------


def _run(model: Any, spec: ModelSpec, workload: WorkloadSpec) -> tuple[dict[str, list[int]], CostSpec]:
    """Run one forward pass on the first possible inputs that the model takes; its cost is 0 if not countable."""
    refused = ""
    batch = max(_TRIED, workload.batch_size)
    for inputs in families.possible_inputs(model, spec, workload):
        counted = _Counted(model)
        try:
            with torch.no_grad(), torch.device("meta"), counted:
                model(**families.made(inputs, batch, model, 0, torch.device("meta")))
        except Exception as error:  # noqa: BLE001  whatever a model raises over inputs that it does not take
            if any(words in str(error) for words in _DATA):
                return inputs, CostSpec()
            refused = f"{', '.join(f'{name} {shape}' for name, shape in inputs.items())}: {_reason_of(error)}"
            continue
        return inputs, counted.cost(workload.batch_size / batch)
    raise CannotBuild("inputs", f"one forward pass fails over {refused}")


class _Counted(TorchDispatchMode):
    """While entered, adds up what the products of a model compute, read and write."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = {id(p) for p in model.parameters()}
        self._seen: dict[int, int] = {}
        self._flops = self._moved = self._most = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        numbers = sum(t.numel() for t in given if not self._weight(t))
        numbers += sum(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))
        self._most = max(self._most, numbers)
        count = _FLOPS.get(func._overloadpacket) or flop_registry.get(func._overloadpacket)
        if count is not None:
            self._flops += count(*args, **(kwargs or {}), out_val=out)
            self._moved += numbers
            self._seen |= {id(_base(t)): t.numel() for t in given if self._weight(t)}
        return out

    def _weight(self, tensor: torch.Tensor) -> bool:
        return id(_base(tensor)) in self._weights

    def cost(self, share: float) -> CostSpec:
        """What was counted, for ``share`` of the batch."""
        weights = float(sum(self._seen.values()))
        return CostSpec(
            flops=self._flops * share,
            numbers=weights + self._moved * share,
            weights=weights,
            activations=self._most * share,
        )


def _grouped_mm(left: Any, right: Any, *args: Any, out_val: Any, **kwargs: Any) -> int:
    """FLOPs of a product of each row with the matrix of its group."""
    return int(2 * out_val.numel() * left.shape[-1])


_FLOPS: Mapping[Any, Any] = {torch.ops.aten._grouped_mm: _grouped_mm}


def _base(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor._base is None else tensor._base


def _reason_of(error: Exception) -> str:
    first = next((line for line in str(error).strip().splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:300]}"


def answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what :func:`describe` says of ``{"model": ..., "workload": ...}``, or ``error`` and its ``field``."""
    try:
        return describe(from_json(ModelSpec, asked["model"]), from_json(WorkloadSpec, asked["workload"]))
    except MtexpError as error:
        return {"error": str(error), "field": getattr(error, "field", "inputs")}
    except Exception as error:  # noqa: BLE001  the process's outermost frame: what went wrong is the answer
        return {"error": _reason_of(error), "field": "architecture"}


def main() -> int:
    """Answer each line of standard input, a question as JSON, with a line: its :func:`answer`; until none comes."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a model's code prints is no answer
    while select.select([sys.stdin], [], [], PATIENCE_S)[0] and (line := sys.stdin.readline()):
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()
    gc.freeze()  # else the interpreter, as it ends, goes through all of torch for a second
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Sizes of a model that no formula is known for, read off the model itself: ``python -m mtexp.tenant.counting``.

May touch: torch's meta device, on which a model has shapes and takes no memory. The planner runs this in a process of
its own (importing torch takes seconds), with JSON on both sides.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from mtexp.spec import ModelSpec, from_json
from mtexp.tenant.models import meta_model


def count(spec: ModelSpec) -> dict[str, int]:
    """Return the sizes of ``spec``'s shape.

    ``parameters`` counts tied weights once. ``layer_parameters`` are the elements of the weight matrices of all layers
    that one token passes: no embedding, head, pooler, bias or norm; of experts the share that a token is sent to.

    Raises:
        Exception: Whatever transformers says of an architecture or a shape that it does not know.
    """
    model = meta_model(spec)
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


def main() -> int:
    """Read a ModelSpec as JSON from standard input; write its sizes, or ``{"error": ...}``."""
    try:
        found: dict[str, Any] = count(from_json(ModelSpec, json.load(sys.stdin)))
    except Exception as error:  # noqa: BLE001  the process's outermost frame: what transformers raises is the answer
        first = (str(error).strip().splitlines() or [""])[0]
        found = {"error": f"{type(error).__name__}: {first[:300]}"}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

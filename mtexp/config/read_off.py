"""What follows from a model's architecture and shape, asked of transformers in a process of its own.

May touch: subprocess, for :mod:`mtexp.tenant.counting`. Importing torch takes seconds, so the planner never does it
itself, and asks only about models that :mod:`mtexp.config.shapes` has no formula for; once for each shape and workload.
One process answers all questions of a plan.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mtexp
from mtexp.errors import ConfigError
from mtexp.spec import CostSpec, ModelSpec, WorkloadSpec, from_json, to_json

PATIENCE_S = 120.0
"""Importing torch and transformers from a slow disk, and building thousands of layers."""
_ALLOWED = {
    "architecture": "an architecture and a shape that the installed transformers can build",
    "inputs": "inputs that the model takes",
}


@dataclass(frozen=True, slots=True)
class ReadOff:
    """What a model says of itself; :func:`mtexp.tenant.counting.describe` finds it out."""

    role: str
    model_class: str
    attention: tuple[str, ...]
    """Attention implementations that it has, the preferred one first."""
    parameters: int
    layer_parameters: int
    inputs: Mapping[str, list[int]]
    cost: CostSpec


def read_off(key: str, model: ModelSpec, workload: WorkloadSpec) -> ReadOff:
    """Return what ``model``, built on torch's meta device for it, says of itself: no memory, no weights.

    Args:
        key: Configuration key of the tenant, for the message.
        model: What to build; an empty role is found out.
        workload: The size of a request.

    Raises:
        ConfigError: transformers cannot build it, or cannot run it on its configured inputs.
    """
    asked = {"model": to_json(model), "workload": to_json(workload)}
    found = _ask(json.dumps(asked, sort_keys=True))
    if "error" in found:
        field = found["field"]
        value = model.architecture if field == "architecture" else dict(model.inputs) or "(from the configuration)"
        remedy = f"It says {found['error']}. Correct the architecture, shape or inputs of {model.name}."
        raise ConfigError(f"{key}.{field}", value, _ALLOWED[field], remedy)
    return ReadOff(**(found | {"attention": tuple(found["attention"]), "cost": from_json(CostSpec, found["cost"])}))


@cache
def _ask(asked: str) -> dict[str, Any]:
    for _ in range(2):  # one that ended between two questions, because none came, is started again
        fresh = True
        try:
            child, fresh = _running()
            child.stdin.write(asked + "\n")
            child.stdin.flush()
            if not select.select([child.stdout], [], [], PATIENCE_S)[0]:
                _end()
                return {"error": f"nothing within {PATIENCE_S:g} s", "field": "architecture"}
            answer: dict[str, Any] = json.loads(child.stdout.readline())
            return answer
        except (OSError, ValueError):
            _end()
        if fresh:
            break
    return {"error": "nothing; python -m mtexp.tenant.counting failed", "field": "architecture"}


_child: Any = None
"""The process that answers, which imports torch once for all questions; it ends when none comes for some seconds."""


def _running() -> tuple[Any, bool]:
    """The process that answers, and whether it was started for this question."""
    global _child
    if _child is not None and _child.poll() is None:
        return _child, False
    _end()
    path = os.pathsep.join(filter(None, (str(Path(mtexp.__file__).parents[1]), os.environ.get("PYTHONPATH", ""))))
    _child = subprocess.Popen(
        [sys.executable, "-m", "mtexp.tenant.counting"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
    )
    return _child, True


@atexit.register
def _end() -> None:
    """Stop the process that answers, if there is one."""
    global _child
    if _child is not None:
        _child.kill()
        _child.wait()
        with contextlib.suppress(OSError):  # what it did not read
            _child.stdin.close()
        _child.stdout.close()
        _child = None

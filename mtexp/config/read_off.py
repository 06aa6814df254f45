"""Sizes of a model that no formula is known for, asked of transformers in a process of its own.

May touch: subprocess, for :mod:`mtexp.tenant.counting`. Importing torch takes seconds, so the planner never does it
itself, and asks only about architectures that :mod:`mtexp.config.shapes` does not know; once for each shape.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import mtexp
from mtexp.config.shapes import Counts
from mtexp.errors import ConfigError
from mtexp.spec import ModelSpec, to_json

PATIENCE_S = 120.0
"""Importing torch and transformers from a slow disk, and building thousands of layers."""


def read_off(key: str, model: ModelSpec) -> Counts:
    """Return the sizes of ``model``, which is built on torch's meta device for it: no memory, no weights.

    Args:
        key: Configuration key of the tenant, for the message.
        model: What to build.

    Raises:
        ConfigError: transformers cannot build it.
    """
    found = _ask(json.dumps(to_json(model), sort_keys=True))
    if "error" in found:
        allowed = "an architecture and a shape that the installed transformers can build"
        remedy = f"It says {found['error']}. Correct the architecture or shape of {model.name}."
        raise ConfigError(f"{key}.architecture", model.architecture, allowed, remedy)
    return Counts(found["parameters"], found["layer_parameters"])


@cache
def _ask(model: str) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, (str(Path(mtexp.__file__).parents[1]), os.environ.get("PYTHONPATH", ""))))
    environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "mtexp.tenant.counting"]
    try:
        done = subprocess.run(
            command, input=model, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment
        )
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"nothing within {PATIENCE_S:g} s"}
    except (OSError, ValueError, IndexError):
        return {"error": "nothing; python -m mtexp.tenant.counting failed"}
    return answer

"""A process of ``mtexp.sharing.numerics`` on the CPU that believes to be on a GPU, and computes wrong at chosen counts.

May touch: mtexp.tenant, in the process only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

SMS = 132
WRONG = (44, 98)
"""SM counts at which fp16 linear layers are wrong."""
FATAL = 12
"""SM count at which the process dies."""


def serve_on_cpu(connection: Any, task: Mapping[str, Any]) -> None:
    """The real process; SM counts follow from the percentage in its environment as on an H100."""
    import torch
    from torch.nn import functional

    from mtexp.tenant import numerics

    count = SMS
    if percentage := task["environment"].get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"):
        count = max(8, math.floor(SMS * float(percentage) / 100 + 0.1) // 2 * 2)

    def facts(checks: Any) -> dict[str, Any]:
        mps = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" in os.environ
        return {
            "device_name": "no GPU",
            "gpu_uuid": "GPU-00000000-0000-0000-0000-000000000000",
            "capability": "9.0",
            "sm_count": count,
            "mps_enabled": int(mps),
            "versions": {"torch": torch.__version__, "cublas": "13.1.0"},
        }

    def linear(left: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        if count == FATAL:
            os._exit(9)
        out = functional.linear(left, *others)
        if count in WRONG and left.dtype == torch.float16:
            out[..., :16] = math.inf
        return out

    vars(numerics)["_Checks"] = type("_ChecksOnCpu", (numerics._Checks,), {"facts": facts})
    vars(numerics)["_FUNCTIONS"] = {**numerics._FUNCTIONS, "linear": linear}
    numerics.serve(connection, task)

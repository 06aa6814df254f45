"""What one iteration is: the request of a tenant, as a callable. May touch: torch.

A request enqueues its device work and returns; the loop synchronises. It returns the host time (ns) of its first token
where it has one (``generate``), else 0; what it computed is in :attr:`Outputs.last` until the next one starts.

transformers is imported for a tenant that is one of its models, not for a stressor: that takes half a second or more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mtexp.spec import TenantSpec
from mtexp.tenant.own_code import own_request
from mtexp.tenant.prepared import Prepared
from mtexp.tenant.stressors import stressor_request

Build = Callable[[TenantSpec, torch.device], torch.nn.Module]


def prepare(
    tenant: TenantSpec, device: torch.device, compile_module: Callable[[Any], Any], build: Build | None = None
) -> Prepared:
    """Build the tenant's model on ``device`` and make the request of its workload.

    Args:
        tenant: What to build.
        device: Where.
        compile_module: Applied to the model before it is called (``execution=compile``; the identity otherwise).
        build: Builds the model of one that is neither a stressor nor code of the user's; by default
            :func:`mtexp.tenant.models.build_model`.
    """
    if tenant.model.role == "stressor":
        return Prepared(stressor_request(tenant, device))
    if tenant.model.target:
        return own_request(tenant, device, compile_module)
    from mtexp.tenant.model_requests import model_request
    from mtexp.tenant.models import build_model

    return model_request(tenant, device, (build or build_model)(tenant, device), compile_module)

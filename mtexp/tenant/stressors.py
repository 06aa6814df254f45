"""Tenants that press on one resource each: run beside a model they show what the model is sensitive to.

May touch: torch. Sizes come from the ``shape`` of ``conf/models/stress_*.yaml``: ``mib`` or ``size`` of
the operands and ``repeats`` per request, chosen so that one request lasts some milliseconds on a data-centre GPU.

======== ==================================================== ================================================
kind     one request                                           presses on
======== ==================================================== ================================================
sm       square matrix products that stay in the cache         the SMs' tensor cores
dram     copies between buffers far larger than the L2         memory bandwidth
l2       in-place sums over a buffer that fits the L2          L2 bandwidth and capacity
pcie     copies from pinned host memory                        the host link
launch   kernels that do next to nothing                       the front end that launches kernels
======== ==================================================== ================================================
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mtexp.spec import STRESSORS, TenantSpec
from mtexp.tenant.weights import DTYPES, Pool

_MIB = 2**20


def stressor_request(tenant: TenantSpec, device: torch.device) -> Callable[[], int]:
    """The request of a stressor."""
    kind, shape = tenant.model.architecture, tenant.model.shape
    steps = dict(zip(STRESSORS, (_sm, _dram, _l2, _pcie, _launch), strict=True))
    step, repeats = steps[kind](tenant, device), int(shape["repeats"])

    def request() -> int:
        for _ in range(repeats):
            step()
        return 0

    return request


def _sm(tenant: TenantSpec, device: torch.device) -> Callable[[], object]:
    size = int(tenant.model.shape["size"])
    pool = Pool(tenant.seed, device)
    left, right = (
        pool.normal_(torch.empty(size, size, device=device, dtype=DTYPES[tenant.precision])) for _ in range(2)
    )
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=out)


def _dram(tenant: TenantSpec, device: torch.device) -> Callable[[], object]:
    source = torch.ones(_floats(tenant), device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _l2(tenant: TenantSpec, device: torch.device) -> Callable[[], object]:
    buffer = torch.ones(_floats(tenant), device=device)
    return lambda: buffer.mul_(1.0)


def _pcie(tenant: TenantSpec, device: torch.device) -> Callable[[], object]:
    source = torch.ones(_floats(tenant), pin_memory=device.type == "cuda")
    target = torch.empty(_floats(tenant), device=device)
    return lambda: target.copy_(source, non_blocking=True)


def _launch(tenant: TenantSpec, device: torch.device) -> Callable[[], object]:
    element = torch.zeros(1, device=device)
    return lambda: element.add_(1.0)


def _floats(tenant: TenantSpec) -> int:
    return int(float(tenant.model.shape["mib"]) * _MIB) // 4

"""Precisions that a device, a model or an installation lacks, refused in the plan. Pure, but for installed versions."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

from mtexp.errors import ConfigError
from mtexp.host import Device
from mtexp.spec import QUANTISED, TenantSpec

FP8_CAPABILITY = (8, 9)
"""The first compute capability whose tensor cores multiply fp8."""
_PLAIN = "fp16, bf16, fp32, tf32"


def check_precisions(tenants: Sequence[TenantSpec], device: Device) -> None:
    """Refuse a precision that cannot be computed.

    Raises:
        ConfigError: With the first tenant for which it cannot.
    """
    for tenant in tenants:
        if device.kind == "cpu" and tenant.precision == "tf32":
            raise ConfigError("precision", "tf32", "fp16, bf16, fp32, int8 on the CPU", "TF32 needs a GPU: use fp32.")
        if tenant.precision in QUANTISED and tenant.model.server is None:  # a server makes of it what it likes
            _check_quantised(tenant, device)


def _check_quantised(tenant: TenantSpec, device: Device) -> None:
    precision = tenant.precision
    if tenant.workload.kind == "train":
        raise ConfigError("precision", precision, f"{_PLAIN} with workload=train", "Quantised weights do not learn.")
    if tenant.model.target:
        remedy = f"Quantise the weights in the factory, and set mix.tenants.{tenant.id}.precision=bf16."
        raise ConfigError("precision", precision, f"{_PLAIN} for code of your own", remedy)
    if precision == "fp8":
        needed = ".".join(map(str, FP8_CAPABILITY))
        if device.kind == "cpu":
            remedy = "Use int8 or bf16, or run on a GPU."
            raise ConfigError("precision", "fp8", f"int8 or others on the CPU (fp8 needs a GPU from {needed})", remedy)
        if device.capability and device.capability < FP8_CAPABILITY:
            own = ".".join(map(str, device.capability))
            what = f"int8 or others on {device.name} (compute capability {own}; fp8 needs {needed})"
            raise ConfigError("precision", "fp8", what, "Use int8 or bf16.")
    try:
        importlib.metadata.version("torchao")
    except importlib.metadata.PackageNotFoundError as error:
        what = f"{_PLAIN} without torchao"
        raise ConfigError("precision", precision, what, "Install it: pip install -e '.[quantised]'.") from error

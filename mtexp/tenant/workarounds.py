"""Settings that might make a wrong product right, each to be tried by ``python -m mtexp.sharing.numerics``.

May touch: torch's settings, in the process that tries; importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Run = Callable[[Callable[..., Any], Any], Any]

NONE = "none"
_ALL = 10**6


def _as_it_is(function: Callable[..., Any], call: Any) -> Any:
    return function(*call.arguments, **call.options)


def _nothing(sm_count: int) -> None:
    """Leave every setting as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One thing to try."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment of the process, set before torch is imported."""
    apply: Callable[[int], None] = _nothing
    """Called with the SM count before the first product."""
    run: Run = _as_it_is
    """Computes one product, given its function and its call; raises NotImplementedError where it cannot."""
    most: int = _ALL
    """Products to try it on: compiling one takes seconds."""


def _no_reduced_precision(sm_count: int) -> None:
    import torch

    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def _fp16_accumulation(sm_count: int) -> None:
    import torch

    torch.backends.cuda.matmul.allow_fp16_accumulation = True


def _library(name: str) -> Callable[[int], None]:
    def apply(sm_count: int) -> None:
        import torch

        torch.backends.cuda.preferred_blas_library(name)

    return apply


def _carveout(step: int) -> Callable[[int], None]:
    """Have cuBLASLt use a multiple of ``step`` SMs."""

    def apply(sm_count: int) -> None:
        import torch

        torch._C._set_sm_carveout_experimental(sm_count % step or step)

    return apply


def _pad(rows: int = 0, outputs: int = 0) -> Run:
    """Compute a linear layer with more rows or more outputs than it has, and cut them off."""

    def run(function: Callable[..., Any], call: Any) -> Any:
        from torch.nn import functional

        if call.op != "linear":
            raise NotImplementedError("padding is tried on linear layers only")
        left, weight, *rest = call.operands
        flat = functional.pad(left.reshape(-1, left.shape[-1]), (0, 0, 0, rows))
        bias = functional.pad(rest[0], (0, outputs)) if rest else None
        out = functional.linear(flat, functional.pad(weight, (0, 0, 0, outputs)), bias)
        kept = out[: out.shape[0] - rows, : out.shape[1] - outputs]
        return kept.reshape(*left.shape[:-1], weight.shape[0])

    return run


def _parts(count: int) -> Run:
    """Compute a linear layer in ``count`` parts of its rows."""

    def run(function: Callable[..., Any], call: Any) -> Any:
        import torch
        from torch.nn import functional

        if call.op != "linear":
            raise NotImplementedError("parts are tried on linear layers only")
        left, weight, *rest = call.operands
        flat = left.reshape(-1, left.shape[-1])
        parts = [functional.linear(part, weight, *rest) for part in flat.chunk(count)]
        return torch.cat(parts).reshape(*left.shape[:-1], weight.shape[0])

    return run


def _triton(function: Callable[..., Any], call: Any) -> Any:
    import torch

    return torch.compile(function, dynamic=False, mode="max-autotune-no-cudagraphs")(*call.arguments, **call.options)


def _triton_only(sm_count: int) -> None:
    from torch._inductor import config

    config.compile_threads = 1
    config.max_autotune_gemm_backends = "TRITON"


SETTINGS: Mapping[str, Way] = {
    NONE: Way(),
    "no reduced-precision reduction": Way(apply=_no_reduced_precision),
    "fp16 accumulation": Way(apply=_fp16_accumulation),
    "preferred_blas_library(cublaslt)": Way(apply=_library("cublaslt")),
    "preferred_blas_library(cublas)": Way(apply=_library("cublas")),
    "TORCH_BLAS_PREFER_CUBLASLT=1": Way(environment={"TORCH_BLAS_PREFER_CUBLASLT": "1"}),
    "DISABLE_ADDMM_CUDA_LT=1": Way(environment={"DISABLE_ADDMM_CUDA_LT": "1"}),
    "CUBLAS_WORKSPACE_CONFIG=:0:0": Way(environment={"CUBLAS_WORKSPACE_CONFIG": ":0:0"}),
    "CUBLAS_WORKSPACE_CONFIG=:4096:8": Way(environment={"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}),
    "CUBLASLT_WORKSPACE_SIZE=0": Way(environment={"CUBLASLT_WORKSPACE_SIZE": "0"}),
    "cuBLASLt, CUBLASLT_WORKSPACE_SIZE=0": Way(
        environment={"CUBLASLT_WORKSPACE_SIZE": "0"}, apply=_library("cublaslt")
    ),
    "cuBLASLt, 8 SMs a step (SM carve-out)": Way(apply=_carveout(8)),
    "cuBLASLt, 16 SMs a step (SM carve-out)": Way(apply=_carveout(16)),
    "NVIDIA_TF32_OVERRIDE=0": Way(environment={"NVIDIA_TF32_OVERRIDE": "0"}),
    "per-context SM partitioning": Way(environment={"CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING": "1"}),
    "64 rows more": Way(run=_pad(rows=64)),
    "64 outputs more": Way(run=_pad(outputs=64)),
    "rows in 4 parts": Way(run=_parts(4)),
    "Triton (max-autotune)": Way(apply=_triton_only, run=_triton, most=2),
}
"""What is tried, by name."""

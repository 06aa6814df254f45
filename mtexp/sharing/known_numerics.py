"""SM shares that are known to give wrong results on a GPU architecture with a software stack.

Lives here: :data:`KNOWN`, the one table of what was measured, and :func:`known_wrong`, which looks a run up in it. May
touch: nothing. The planner warns by it before anything starts; the analysis keeps runs out of every figure by it.

An MPS percentage lowers the number of SMs that a process sees. cuBLAS chooses tile and cluster by that number; for some
numbers that no whole part has, its half-precision products are wrong: relative errors from 0.25 to infinity, silently
and at plausible speed. The time of a wrong kernel is no evidence either, for the right one is another kernel.

To add what was measured: one :class:`KnownShares` for each architecture and stack. A percentage that is in neither list
was not measured, and :func:`known_wrong` then returns None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SAME_PCT = 0.5
"""Percentages so near to each other give the same number of SMs (33 and 33.33)."""


@dataclass(frozen=True, slots=True)
class KnownShares:
    """What is known of one GPU architecture with one software stack."""

    gpus: str
    """Regular expression, found in the name of the GPU."""
    architecture: str
    torch: str
    """Version, or its beginning: ``2.11``."""
    cuda: str
    """CUDA version that torch was built with, or its beginning: ``13.0``."""
    library: str
    """What is at fault, with its version."""
    precisions: tuple[str, ...]
    """Precisions in which results are wrong."""
    wrong_pct: tuple[float, ...]
    """Percentages of SMs measured to give wrong results."""
    right_pct: tuple[float, ...]
    """Percentages of SMs measured to give right results in every shape that was tried."""

    def describes(self, gpu: str, torch: str, cuda: str, precision: str) -> bool:
        """Whether this is about such a GPU, such a stack and such a precision."""
        return (
            re.search(self.gpus, gpu) is not None
            and _begins(torch, self.torch)
            and _begins(cuda, self.cuda)
            and precision in self.precisions
        )


KNOWN: tuple[KnownShares, ...] = (
    KnownShares(
        gpus=r"\bG?H(100|200)\b",
        architecture="Hopper",
        torch="2.11",
        cuda="13.0",
        library="cuBLAS 13.1",
        precisions=("fp16", "bf16"),
        wrong_pct=(80.0, 75.0, 40.0, 33.0, 20.0),
        right_pct=(100.0, 50.0, 25.0, 10.0),
    ),
)


def known_wrong(*, gpu: str, torch: str, cuda: str, precision: str, percentage: float) -> KnownShares | None:
    """What is known, where it says that results are wrong; None where they are right or where nobody measured.

    Args:
        gpu: Name of the GPU.
        torch: Version of torch.
        cuda: CUDA version that torch was built with.
        precision: Of the tenant: ``fp16``, ``bf16``, ``fp32``.
        percentage: Of the SMs that the tenant may use; 0 where no limit was set.
    """
    for known in KNOWN:
        if known.describes(gpu, torch, cuda, precision) and _among(percentage, known.wrong_pct):
            return known
    return None


def known_of(*, gpu: str, torch: str, cuda: str, precision: str) -> KnownShares | None:
    """What was measured on such a GPU with such a stack in such a precision; None where nobody measured.

    The arguments are those of :func:`known_wrong`.
    """
    return next((known for known in KNOWN if known.describes(gpu, torch, cuda, precision)), None)


def _among(percentage: float, others: tuple[float, ...]) -> bool:
    return any(abs(percentage - other) < _SAME_PCT for other in others)


def _begins(version: str, prefix: str) -> bool:
    """Whether ``2.11.0+cu130`` begins with ``2.11``, and ``2.110`` does not."""
    return re.match(rf"{re.escape(prefix)}(\D|$)", version) is not None

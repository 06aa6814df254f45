"""SM counts that are known to give wrong results on a GPU architecture with a software stack.

Lives here: :data:`KNOWN`, the one table of what was measured, and :func:`known_wrong`, which looks a run up in it. May
touch: nothing. The planner warns by it before anything starts; the analysis keeps runs out of every figure by it.

An MPS percentage lowers the number of SMs that a process sees. cuBLAS chooses tile and cluster by that number; for some
numbers its half-precision products are wrong: relative errors from 0.1 to infinity, silently and at plausible speed.
The time of a wrong kernel is no evidence either, for the right one is another kernel.

The table holds what ``python -m mtexp.sharing.numerics --json FILE`` found; the files are in
``docs/results/mps-numerics``, and a test compares. To add what was measured: one :class:`KnownCounts` for each
architecture and stack. A count that is in neither list was not measured, and :func:`known_wrong` then returns None.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

SM_UNIT = 2
"""SMs of one hardware unit (a texture processing cluster): the driver rounds a percentage down to whole ones."""
FEWEST_SMS = 8
"""The fewest SMs that a client gets, however small its percentage."""


@dataclass(frozen=True, slots=True)
class KnownCounts:
    """What is known of one GPU architecture with one software stack."""

    gpus: str
    """Regular expression, found in the name of the GPU."""
    architecture: str
    sms: int
    """SMs of the whole GPU."""
    torch: str
    """Version, or its beginning: ``2.11``."""
    cuda: str
    """CUDA version that torch was built with, or its beginning: ``13.0``."""
    library: str
    """What is at fault, with its version."""
    precisions: tuple[str, ...]
    """Precisions in which results are wrong."""
    wrong: tuple[int, ...]
    """SM counts measured to give wrong results in at least one shape."""
    right: tuple[int, ...]
    """SM counts measured to give right results in every shape that was tried."""

    def describes(self, gpu: str, torch: str, cuda: str, precision: str) -> bool:
        """Whether this is about such a GPU, such a stack and such a precision; an empty version may be any."""
        return (
            re.search(self.gpus, gpu) is not None
            and (not torch or _begins(torch, self.torch))
            and (not cuda or _begins(cuda, self.cuda))
            and precision in self.precisions
        )

    @property
    def right_pct(self) -> tuple[float, ...]:
        """A percentage for each SM count that is right, from the largest down."""
        return tuple(percentage_of(count, self.sms) for count in sorted(self.right, reverse=True))

    def right_near(self, percentage: float) -> tuple[float, ...]:
        """The nearest right percentage below ``percentage`` and the nearest above, where there are such."""
        count = sm_count(self.sms, percentage)
        below = [right for right in self.right if right < count]
        above = [right for right in self.right if right > count]
        near = [*([max(below)] if below else []), *([min(above)] if above else [])]
        return tuple(percentage_of(right, self.sms) for right in near)


KNOWN: tuple[KnownCounts, ...] = (
    KnownCounts(
        gpus=r"\bG?H(100 80GB HBM3|200)\b",  # 132 SMs; an H100 PCIe or NVL has fewer
        architecture="Hopper",
        sms=132,
        torch="2.11",
        cuda="13.0",
        library="cuBLAS 13.1",
        precisions=("fp16", "bf16"),
        wrong=(18, 20, 22, 24, 26, 28, *range(36, 61, 2), *range(68, 117, 2)),
        right=(8, 10, 12, 14, 16, 30, 32, 34, 62, 64, 66, *range(118, 133, 2)),
    ),
)


def known_wrong(*, gpu: str, torch: str, cuda: str, precision: str, percentage: float) -> KnownCounts | None:
    """The measurement by which results are known to be wrong; None where they are right or were not checked.

    Args:
        gpu: Name of the GPU.
        torch: Version of torch.
        cuda: CUDA version that torch was built with.
        precision: Of the tenant: ``fp16``, ``bf16``, ``fp32``.
        percentage: Of the SMs that the tenant may use; 0 where no limit was set.
    """
    known = known_of(gpu=gpu, torch=torch, cuda=cuda, precision=precision)
    if known is None or not percentage or sm_count(known.sms, percentage) not in known.wrong:
        return None
    return known


def known_of(*, gpu: str, torch: str, cuda: str, precision: str) -> KnownCounts | None:
    """What was measured on such a GPU with such a stack in such a precision; None where nothing was.

    The arguments are those of :func:`known_wrong`.
    """
    return next((known for known in KNOWN if known.describes(gpu, torch, cuda, precision)), None)


def sm_count(total: int, percentage: float) -> int:
    """SMs that a client of ``percentage`` sees on a GPU with ``total``, as the driver rounds (33.33 % of 132: 42)."""
    if percentage >= 100:
        return total
    units = math.floor(total * percentage / 100 / SM_UNIT + 1e-9)
    return max(FEWEST_SMS, units * SM_UNIT)


def percentage_of(count: int, total: int) -> float:
    """The shortest percentage that gives ``count`` of ``total`` SMs, with two decimals at most."""
    percentage = 100.0
    for scale in (1, 10, 100):
        percentage = math.ceil(count / total * 100 * scale - 1e-9) / scale
        if sm_count(total, percentage) == count:
            return percentage
    return percentage


def _begins(version: str, prefix: str) -> bool:
    """Whether ``2.11.0+cu130`` begins with ``2.11``, and ``2.110`` does not."""
    return re.match(rf"{re.escape(prefix)}(\D|$)", version) is not None

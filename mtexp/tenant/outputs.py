"""Whether a tenant computes what it should: its layers before the warm-up, its outputs in the window.

Lives here: the two checks of a tenant. May touch: torch.

**Layers** (:func:`check_layers`): one request runs eagerly, and of each kind of product (shapes, layouts, type) the
1st, 4th, 16th ... call is computed again in float32, from the tensors that the layer was given, and compared with it. A
training step is not run: its forward pass is, and the two products of each linear layer's backward pass.

**Outputs** (:class:`Outputs`): the outputs of some requests stay where they are on the device. After the window each is
compared with the output of the last warm-up, and that with the output of the request whose layers were checked. Keeping
an output is keeping a reference to it, after the end time stamp: nothing is copied, nothing waits. A CUDA graph writes
every output to one place, so of its requests only the last one can be looked at. The loss of a training step is another
one each time: those kept must be finite.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from mtexp.spec import QUANTISED
from mtexp.tenant.reference import MODEL_TOLERANCE, Call, Deviation, Products, compare, compare_tensors
from mtexp.tenant.weights import DTYPES

BETWEEN = 4
"""Requests between the first and the last whose outputs are kept."""
ROOM = 2**28
"""Bytes of outputs that are kept through the window; of larger outputs fewer, the last one always."""
SAMPLE = 2**24
"""Numbers of an output that are compared, evenly spread; all of a smaller one."""
_NEVER = 2**62
_EXAMPLES = 3


class Outputs:
    """The outputs of the requests of one tenant; requests write :attr:`last`, the loop asks :attr:`due`."""

    def __init__(self, *, changing: bool = False, branching: bool = False) -> None:
        self.changing, self.branching = changing, branching
        """``changing``: each request gives another output (training). ``branching``: rounding may choose another token,
        so that the outputs of two executions, eager and compiled, cannot be compared (generating)."""
        self.last: Any = None
        """Output of the newest request; the loop drops it before the next one starts."""
        self.static: Any = None
        """For a CUDA graph: where every replay writes its output."""
        self.due = _NEVER
        """The row whose output is to be kept next."""
        self._checked: torch.Tensor | None = None
        self._expected: torch.Tensor | None = None
        self._bytes = 0
        self._rows: Sequence[int] = ()
        self._kept: list[torch.Tensor | None] = []
        self._next = 0
        self._against_layers: Deviation | None = None

    def checked(self) -> None:
        """The newest output is that of the request whose layers were checked."""
        out = output_tensor(self.last)
        self._checked, self.last = sample(out), None
        self._bytes = 0 if self.changing else out.numel() * out.element_size()

    def warm(self) -> None:
        """The newest output is that of the last warm-up: what all others are compared with."""
        if self._checked is None:
            return
        found = self.static if self.static is not None else self.last
        if found is None:  # no warm-up
            return
        out = output_tensor(found)
        self._expected = sample(out)
        if not self.changing and not self.branching:
            self._against_layers = compare_tensors(self._expected, self._checked)
        if self.static is None:  # the allocator keeps these blocks for the outputs to come: none is made in the window
            blocks = [torch.empty_like(out) for _ in range(self._places())]
            del blocks

    def plan(self, first: int, iterations: int, seed: int) -> None:
        """Choose the rows whose outputs are kept: the first, and some of the ``iterations`` that follow it."""
        if self._checked is None or self.static is not None:
            return
        others = range(1, max(1, iterations))
        between = random.Random(seed).sample(others, min(len(others), max(0, self._places() - 1)))
        self._rows = [first + offset for offset in sorted([0, *between])][: self._places()]
        self._kept, self._next = [None] * len(self._rows), 0
        self.due = self._rows[0] if self._rows else _NEVER

    def _places(self) -> int:
        return min(1 + BETWEEN, ROOM // max(1, self._bytes))

    def keep(self) -> None:
        """Keep the newest output; after its end time stamp."""
        self._kept[self._next] = output_tensor(self.last)
        self._next += 1
        self.due = self._rows[self._next] if self._next < len(self._rows) else _NEVER

    def compare(self, precision: str) -> dict[str, Any]:
        """After the window: compare the outputs, return the result as plain data, and release them."""
        if self._checked is None:
            return {}
        last = self.static if self.static is not None else self.last
        kept = [out for out in self._kept if out is not None] + ([] if last is None else [output_tensor(last)])
        same_kernels = self._expected is not None
        self._kept, self.last = [], None
        try:
            samples = [sample(out) for out in kept]
            found = [self._deviation(*pair) for pair in zip(samples, self.expected(kept), strict=True)]
        except torch.OutOfMemoryError:
            return {"unchecked": "out of memory"}
        wrong = [d.nonfinite > 0 if self.changing else _is_wrong(d, precision, same_kernels) for d in found]
        result = {"kept": len(kept), "wrong": sum(wrong), **_worst(found)}
        against = self._against_layers
        if against is not None:
            result["against_layers"] = _described(against)
            result["against_layers_wrong"] = _is_wrong(against, precision, False)
        return result

    def expected(self, kept: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Samples of what each of ``kept`` should be: the output of the last warm-up."""
        found = self._checked if self._expected is None else self._expected
        assert found is not None
        return [found] * len(kept)

    def _deviation(self, out: torch.Tensor, expected: torch.Tensor) -> Deviation:
        if self.changing:
            return Deviation(0.0, int((~torch.isfinite(out)).sum()))
        return compare_tensors(out, expected)


def _is_wrong(deviation: Deviation, precision: str, same_kernels: bool) -> bool:
    """Whether outputs differ too much: the same kernels agree as one product does, others only as whole models do."""
    if same_kernels:
        return deviation.wrong(precision)
    return deviation.nonfinite > 0 or not deviation.error <= MODEL_TOLERANCE[precision]


def output_tensor(found: Any, *, attached: bool = False) -> torch.Tensor:
    """The tensor of an output: itself, its logits, its last hidden state, how well each text fits each
    image, or else its largest one.

    Args:
        found: A tensor, or what a model returns.
        attached: Leave it in the graph of autograd.

    Raises:
        TypeError: It holds no floating-point tensor.
    """
    tensor = found if isinstance(found, torch.Tensor) else _named(found)
    return tensor if attached else tensor.detach()


def _named(found: Any) -> torch.Tensor:
    for name in ("logits", "last_hidden_state", "logits_per_image"):
        tensor = getattr(found, name, None)
        if isinstance(tensor, torch.Tensor):
            return tensor
    floating = [t for t in tree_leaves(found) if isinstance(t, torch.Tensor) and t.is_floating_point()]
    if not floating:
        raise TypeError(f"a request gave a {type(found).__name__} without a floating-point tensor")
    return max(floating, key=torch.Tensor.numel)


def sample(out: torch.Tensor) -> torch.Tensor:
    """A copy of at most :data:`SAMPLE` numbers of ``out``; an odd step meets every column."""
    flat = out.reshape(-1)
    step = -(-flat.numel() // SAMPLE)
    return flat[:: step if step % 2 else step + 1].clone()


# --- layers -----------------------------------------------------------------------------------------------------------


def check_layers(request: Callable[[], object], precision: str, *, training: bool = False) -> dict[str, Any]:
    """Run ``request`` once and compare its products with float32; returns what was found as plain data.

    Args:
        request: Runs the model eagerly.
        precision: Of the tenant; products of another type (float32 positions) are held to their own.
        training: Also check the two products of each linear layer's backward pass.
    """
    calls: Counter[Any] = Counter()
    found: list[tuple[str, str, Deviation]] = []
    unchecked: list[str] = []
    began = time.monotonic()

    def seen(call: Call, out: torch.Tensor) -> None:
        calls[call.key] += 1
        own = _precision(call, out, precision)
        if not own or not _power_of_four(calls[call.key]):
            return
        dtype = torch.float64 if own == "fp32" else torch.float32
        try:
            compared = [(call.name, compare(call, out, dtype))]
            for backward, gradient in _backward(call, out) if training else ():
                compared.append((f"backward of {call.name}", compare(backward, gradient, dtype)))
            found.extend((name, own, deviation) for name, deviation in compared if deviation is not None)
        except torch.OutOfMemoryError:
            unchecked.append(call.name)

    with torch.inference_mode(), Products(seen):
        request()
    wrong = [(name, own, deviation) for name, own, deviation in found if deviation.wrong(own)]
    return {
        "kinds": len({name for name, _, _ in found}),
        "compared": len(found),
        "wrong_kinds": len({name for name, _, _ in wrong}),
        **_worst([deviation for _, _, deviation in found]),
        "examples": [
            {"product": name, "precision": own, **_described(deviation)} for name, own, deviation in wrong[:_EXAMPLES]
        ],
        "unchecked": len(unchecked),
        "seconds": round(time.monotonic() - began, 3),
    }


def _precision(call: Call, out: torch.Tensor, tenant: str) -> str:
    """The precision of a product by its type; empty for a type that is none of a tenant's."""
    if out.dtype == DTYPES[tenant] and (tenant not in QUANTISED or call.quantised):
        return tenant
    return next((name for name in ("fp16", "bf16", "fp32") if DTYPES[name] == out.dtype), "")


def _power_of_four(count: int) -> bool:
    return count & (count - 1) == 0 and count.bit_length() % 2 == 1


def _backward(call: Call, out: torch.Tensor) -> Iterator[tuple[Call, torch.Tensor]]:
    """The products that autograd computes for a linear layer, with the layer's output as the gradient."""
    if call.op not in ("linear", "addmm") or call.arguments[0] is None:
        return
    left, weight = call.operands[:2] if call.op == "linear" else call.operands[1:3]
    left, gradient = left.reshape(-1, left.shape[-1]), out.reshape(-1, out.shape[-1])
    if call.op == "linear":
        pairs = ((gradient, weight), (gradient.t(), left))
    else:
        pairs = ((gradient, weight.t()), (left.t(), gradient))
    for first, second in pairs:
        yield Call("matmul", (first, second), {}), torch.mm(first, second)


def _described(deviation: Deviation) -> dict[str, Any]:
    """A deviation as plain data; an error of None is infinite or NaN."""
    error = deviation.error if math.isfinite(deviation.error) else None
    described = {"error": error, "nonfinite": deviation.nonfinite, "off": deviation.off}
    return described | ({"overflow": True} if deviation.overflow else {})


def _worst(found: Sequence[Deviation]) -> dict[str, Any]:
    """The largest deviation as plain data; nothing where there is none."""
    if not found:
        return {}
    return {"worst": _described(max(found, key=lambda deviation: (deviation.error, deviation.nonfinite)))}

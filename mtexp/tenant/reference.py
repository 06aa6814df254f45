"""What a matrix product should have given: the same product in float32, slice by slice. May touch: torch.

A product is one call of linear, addmm, baddbmm, matmul, bmm, mm, einsum, a convolution (transposed too), a product of
groups of rows (mixture of experts) or attention, as the library makes it.
:class:`Products` finds the calls while a model runs; :func:`compare` computes a call again in float32 (or float64) and
says how far its output is off. Float32 without TF32 does not use the tensor cores' half precision kernels.

The work is bounded: at most :data:`ROWS` rows, evenly spread (a wrong tile is many rows high, so it is met), and
:data:`SLICE` numbers in float32 at a time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from mtexp.tenant.quantised import dense, is_quantised

ROWS = 4096
"""Most rows of a product that are compared."""
MATRICES = 8
"""Most matrices of a batched product that are compared."""
SLICE = 2**24
"""Numbers of a float32 copy: 64 MiB."""

TOLERANCE: Mapping[str, float] = {
    "fp16": 5e-3,
    "bf16": 2e-2,
    "tf32": 2e-3,
    "fp32": 1e-4,
    "int8": 2e-2,
    "fp8": 8e-2,
}
"""Largest relative error (Frobenius norm) of a right product.

Rounding the output costs 2.8e-4 of fp16 (11 bits) and 2.2e-3 of bf16 (8 bits); partial sums that are added in half
precision (split K), and attention weights that are rounded between two products, some times that. TF32 rounds both
operands to 11 bits, 4e-4. The reference of a quantised layer has the weights as they are quantised: with int8 the
product is one of bf16; with fp8 what goes into it is rounded to 4 bits, 2.7e-2. Float32 sums of 14336 products are
right to 1e-6; its limit is where TF32 in its place would show. Wrong kernels were seen to be off by 0.25 and more.
"""

MODEL_TOLERANCE: Mapping[str, float] = {
    "fp16": 2e-2,
    "bf16": 1e-1,
    "tf32": 2e-2,
    "fp32": 1e-3,
    "int8": 1e-1,
    "fp8": 2e-1,
}
"""Largest relative error of a model's output against float32, or of one execution against another; layers' errors add
up, so it is wider than a layer's."""

_OFF_RMS, _OFF_OWN, _OFF_MOST = 0.25, 0.05, 8
"""Numbers that are off by more than a quarter of the root mean square and a twentieth of their size; how many may be.

Of a large output one wrong tile is too small a part for the norm of the whole: it has 128 such numbers or more."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far an output is from its reference."""

    error: float
    """Frobenius norm of the difference over that of the reference; infinite where the output is not finite."""
    nonfinite: int
    """NaN and infinite numbers among those compared."""
    off: int = 0
    """Numbers that are off by more than rounding explains."""
    overflow: bool = False
    """The reference itself is larger than the output's precision can hold."""

    def wrong(self, precision: str) -> bool:
        """True for an output that ``precision`` does not explain."""
        return self.nonfinite > 0 or self.off > _OFF_MOST or not self.error <= TOLERANCE[precision]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a product."""

    op: str
    """Name in :data:`OPERATIONS`."""
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    @property
    def operands(self) -> list[torch.Tensor]:
        """The tensors that it was given, in order, named ones last."""
        given = tree_leaves((*self.arguments, *self.options.values()))
        return [value for value in given if isinstance(value, torch.Tensor)]

    @property
    def quantised(self) -> bool:
        """Whether one of them is in int8 or fp8."""
        return any(map(is_quantised, self.operands))

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for calls that run the same kernel: operation, shapes, layouts, types."""
        layouts = [(tuple(t.shape), transposed(t), str(t.dtype)) for t in self.operands]
        others = [v for v in [*self.arguments, *self.options.items()] if not _has_tensor(v)]
        return (self.op, *layouts, repr(others))

    @property
    def name(self) -> str:
        """Operation and shapes: ``linear 8x128x768, 3072x768, 3072``."""
        return f"{self.op} {', '.join('x'.join(map(str, t.shape)) for t in self.operands)}"


def transposed(tensor: torch.Tensor) -> bool:
    """True for a matrix, or a batch of them, that is stored by columns."""
    return tensor.dim() >= 2 and tensor.stride(-1) != 1 and tensor.stride(-2) == 1


def _has_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, tuple) and any(map(_has_tensor, value)))


class Products(TorchFunctionMode):
    """While entered, hands each product and its output to ``seen``."""

    def __init__(self, seen: Callable[[Call, torch.Tensor], None]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        op = _NAMES.get(func)
        if op is not None and isinstance(out, torch.Tensor) and out.is_floating_point():
            self._seen(Call(op, tuple(args), dict(kwargs or {})), out)
        return out


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Float32 products are float32 meanwhile, not TF32."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


def compare(call: Call, out: torch.Tensor, dtype: torch.dtype = torch.float32) -> Deviation | None:
    """Compute ``call`` again in ``dtype`` and compare ``out`` with it, slice by slice; None for a call of another kind.

    Raises:
        torch.OutOfMemoryError: Not even a slice fits.
    """
    with torch.no_grad(), exact():
        return _deviation(OPERATIONS[call.op](call, out, dtype), out)


def compare_tensors(out: torch.Tensor, expected: torch.Tensor) -> Deviation:
    """Compare two tensors of one shape."""
    flat, wanted = out.reshape(-1), expected.reshape(-1)
    starts = range(0, flat.numel(), SLICE)
    return _deviation(((flat[i : i + SLICE], wanted[i : i + SLICE].float()) for i in starts), out) or Deviation(0.0, 0)


def _deviation(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], out: torch.Tensor) -> Deviation | None:
    """Add up over slices. None without slices.

    A right product needs only norms: on a GPU each operation that runs for the first time loads a kernel, which costs a
    tenant's start more than the arithmetic does.
    """
    squared = reference = largest = 0.0
    nonfinite = off = 0
    compared = False
    for found, expected in pairs:
        compared = True
        difference = found.to(expected.dtype) - expected
        wanted, most_wanted = _norms(expected)
        missed, most_missed = _norms(difference)
        root_mean_square = wanted / math.sqrt(expected.numel())
        squared, reference, largest = squared + missed * missed, reference + wanted * wanted, max(largest, most_wanted)
        if not math.isfinite(missed):
            nonfinite += int((~torch.isfinite(found)).sum())
        if not most_missed <= _OFF_RMS * root_mean_square:
            off += int((difference.abs() > expected.abs() * _OFF_OWN + _OFF_RMS * root_mean_square).sum())
    if not compared:
        return None
    error = math.sqrt(squared / reference) if reference > 0 else (0.0 if squared == 0 else math.inf)
    overflow = largest > torch.finfo(out.dtype).max
    return Deviation(error if math.isfinite(error) else math.inf, nonfinite, off, overflow)


def _norms(values: torch.Tensor) -> tuple[float, float]:
    """Euclidean norm and largest absolute value; not finite where a number is not."""
    return float(torch.linalg.vector_norm(values)), float(torch.linalg.vector_norm(values, math.inf))


# --- one product at a time: pairs (output, reference) of slices -------------------------------------------------------

_Slices = Iterator[tuple[torch.Tensor, torch.Tensor]]


def _rows(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, dtype: Any) -> _Slices:
    """``left`` (rows, k) times ``right`` (k, columns), plus ``bias`` (columns,)."""
    left, out = left.reshape(-1, left.shape[-1]), out.reshape(-1, out.shape[-1])
    step = -(-left.shape[0] // ROWS)
    left, out = left[::step].to(dtype), out[::step]
    width = max(1, SLICE // max(right.shape[0], left.shape[0]))
    for first in range(0, right.shape[1], width):
        columns = slice(first, first + width)
        expected = left @ right[:, columns].to(dtype)
        yield out[:, columns], expected if bias is None else expected + bias[columns].to(dtype)


def _linear(call: Call, out: torch.Tensor, dtype: Any) -> _Slices:
    left, weight, bias = _given(call, "input", "weight", "bias")
    return _rows(left, dense(weight).t(), bias, out, dtype)


def _addmm(call: Call, out: torch.Tensor, dtype: Any) -> _Slices:
    bias, left, right = _given(call, "input", "mat1", "mat2")
    if bias.dim() != 1 or call.options.get("beta", 1) != 1 or call.options.get("alpha", 1) != 1:
        return iter(())
    return _rows(left, right, bias, out, dtype)


def _matmul(call: Call, out: torch.Tensor, dtype: Any) -> _Slices:
    left, right = call.operands[:2]
    if left.dim() < 2 or right.dim() < 2:
        return
    if right.dim() == 2:
        yield from _rows(left, right, None, out, dtype)
        return
    batch = out.shape[:-2]
    left, right = left.expand(*batch, *left.shape[-2:]), right.expand(*batch, *right.shape[-2:])
    for index in _spread(math.prod(batch), MATRICES):
        place = _place(index, batch)
        yield from _rows(left[place], right[place], None, out[place], dtype)


def _attention(call: Call, out: torch.Tensor, dtype: Any) -> _Slices:
    """``softmax(q k^T scale + mask) v`` of some heads, query rows in slices; q is (batch, heads, queries, width)."""
    query, key, value, mask, dropout, causal = _given(
        call, "query", "key", "value", "attn_mask", "dropout_p", "is_causal"
    )
    if dropout:
        return
    scale = call.options.get("scale")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    batch = out.shape[:-2]
    group = query.shape[-3] // key.shape[-3] if query.dim() > 2 else 1
    height = max(1, SLICE // key.shape[-2])
    for index in _spread(math.prod(batch), MATRICES):
        place = _place(index, batch)
        shared = (*place[:-1], place[-1] // group) if place else place
        keys, values = key[shared].to(dtype), value[shared].to(dtype)
        bias = None if mask is None else mask.expand(*batch, *mask.shape[-2:])[place].expand(-1, keys.shape[0])
        for first in range(0, query.shape[-2], height):
            rows = slice(first, min(first + height, query.shape[-2]))
            scores = query[place][rows].to(dtype) @ keys.t() * scale
            if causal:
                allowed = torch.arange(rows.start, rows.stop, device=out.device)[:, None]
                scores.masked_fill_(torch.arange(keys.shape[0], device=out.device) > allowed, -math.inf)
            if bias is not None:
                part = bias if bias.shape[0] == 1 else bias[rows]
                scores = scores.masked_fill(~part, -math.inf) if part.dtype == torch.bool else scores + part.to(dtype)
            yield out[place][rows], torch.softmax(scores, -1) @ values


def _convolution(call: Call, out: torch.Tensor, dtype: Any) -> _Slices:
    function = getattr(functional, call.op)
    for index in _spread(out.shape[0], MATRICES) if call.operands[0].dim() == call.operands[1].dim() else ():

        def wide(value: Any, index: int = index) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return value[index : index + 1].to(dtype) if value is call.operands[0] else value.to(dtype)

        options = {name: wide(value) for name, value in call.options.items()}
        yield out[index : index + 1], function(*map(wide, call.arguments), **options)


def _baddbmm(call: Call, out: torch.Tensor, dtype: Any) -> _Slices:
    """``beta added + alpha left right``, of some matrices."""
    added, left, right = _given(call, "input", "batch1", "batch2")
    beta, alpha = call.options.get("beta", 1), call.options.get("alpha", 1)
    added = added.expand_as(out)
    for index in _spread(out.shape[0], MATRICES):
        product = left[index].to(dtype) @ right[index].to(dtype) * alpha
        yield out[index], product + added[index].to(dtype) * beta if beta else product


def _einsum(call: Call, out: torch.Tensor, dtype: Any) -> _Slices:
    """The whole product at once; none of one that is too large for that."""
    operands = [t for t in tree_leaves(call.arguments) if isinstance(t, torch.Tensor)]
    if isinstance(call.arguments[0], str) and max(t.numel() for t in (out, *operands)) <= SLICE:
        yield out, torch.einsum(call.arguments[0], *(t.to(dtype) for t in operands))


def _grouped(call: Call, out: torch.Tensor, dtype: Any) -> _Slices:
    """Rows of ``left`` (rows, k), each times the matrix (k, columns) of its group; ``ends`` are those of the groups."""
    left, right, ends = _given(call, "mat_a", "mat_b", "offs")
    if ends is None or left.dim() != 2 or right.dim() != 3:
        return
    bounds = [0, *ends.tolist()]
    groups = [group for group in range(right.shape[0]) if bounds[group + 1] > bounds[group]]
    for group in (groups[i] for i in _spread(len(groups), MATRICES)):
        rows = slice(bounds[group], bounds[group + 1])
        yield from _rows(left[rows], right[group], None, out[rows], dtype)


def _given(call: Call, *names: str) -> list[Any]:
    """The arguments of these names, which are the first ones; None for those that were not given."""
    positional = dict(zip(names, call.arguments, strict=False))
    return [positional.get(name, call.options.get(name)) for name in names]


def _spread(count: int, most: int) -> Sequence[int]:
    """At most ``most`` of ``range(count)``, evenly spread, the first and the last among them."""
    if count <= most:
        return range(count)
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _place(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Where entry ``index`` of a tensor of ``shape`` is."""
    place = []
    for size in reversed(shape):
        index, here = divmod(index, size)
        place.append(here)
    return tuple(reversed(place))


OPERATIONS: Mapping[str, Callable[[Call, torch.Tensor, Any], _Slices]] = {
    "linear": _linear,
    "addmm": _addmm,
    "matmul": _matmul,
    "attention": _attention,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _convolution,
    "conv_transpose2d": _convolution,
    "baddbmm": _baddbmm,
    "einsum": _einsum,
    "grouped_mm": _grouped,
}

_NAMES = {
    functional.linear: "linear",
    torch.addmm: "addmm",
    torch.Tensor.addmm: "addmm",
    torch.matmul: "matmul",
    torch.Tensor.matmul: "matmul",
    torch.Tensor.__matmul__: "matmul",
    torch.bmm: "matmul",
    torch.Tensor.bmm: "matmul",
    torch.mm: "matmul",
    torch.Tensor.mm: "matmul",
    functional.scaled_dot_product_attention: "attention",
    functional.conv1d: "conv1d",
    functional.conv2d: "conv2d",
    functional.conv3d: "conv3d",
    functional.conv_transpose1d: "conv_transpose1d",
    functional.conv_transpose2d: "conv_transpose2d",
    torch.baddbmm: "baddbmm",
    torch.Tensor.baddbmm: "baddbmm",
    torch.einsum: "einsum",
    **{f: "grouped_mm" for f in (getattr(functional, "grouped_mm", None), torch._grouped_mm) if f is not None},
}

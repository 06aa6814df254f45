"""How a request is executed: eager, as a replayed CUDA graph, or compiled. May touch: torch."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch

from mtexp.errors import MtexpError
from mtexp.tenant.prepared import Prepared, Request
from mtexp.tenant.reference import Products

_RUNS_BEFORE_CAPTURE = 3
_RUNS_TO_COMPILE = 3
_GRAPHS_OF_A_SHAPE = 3
"""At most: a prompt, a token from a cache, and one more."""


class NotCapturable(MtexpError):
    """The request cannot become a CUDA graph; the message says why and what to do."""


def compiler(execution: str) -> Callable[[Any], Any]:
    """What to apply to a model before it is called."""
    if execution != "compile":
        return lambda model: model
    from torch._inductor import config

    config.compile_threads = 1  # in this process: no worker that could outlive it or disturb a neighbour

    return lambda model: torch.compile(model, dynamic=False)


def ready(prepared: Prepared, execution: str) -> Request:
    """The request as the loop calls it: captured, or run until it has compiled.

    Raises:
        NotCapturable: ``cuda_graph`` of a request that cannot be captured.
    """
    if prepared.trace is not None:
        if execution == "compile":
            _allow_graphs(_GRAPHS_OF_A_SHAPE * prepared.trace.shapes)
        request = prepared.trace.ready(lambda part: ready(part, execution))
        prepared.graph_differs[:] = dict.fromkeys(prepared.trace.graph_differs)
        return request
    if execution == "cuda_graph":
        return _captured(prepared)
    if execution == "compile":
        _without_made_masks()
        with torch.inference_mode():
            for _ in range(_RUNS_TO_COMPILE):
                prepared.request()
    return prepared.request


def _allow_graphs(count: int) -> None:
    """Have torch.compile make so many graphs of one function; beyond its own limit it runs eagerly."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, count)


def eagerly(execution: str) -> contextlib.AbstractContextManager[Any]:
    """While entered, what :func:`compiler` has compiled runs as if it had not."""
    if execution != "compile":
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")  # imports it: a second
    return stance


def compiled_graphs() -> int:
    """Graphs that torch.compile has compiled in this process so far; more after the window means it recompiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _captured(prepared: Prepared) -> Request:
    if prepared.not_capturable:
        raise NotCapturable(_refusal(prepared.not_capturable))
    _without_host_copies()
    _without_made_masks()
    graph = torch.cuda.CUDAGraph()
    eager: Counter[str] = Counter()
    captured: Counter[str] = Counter()
    try:
        with torch.inference_mode():
            own, default = torch.cuda.current_stream(), torch.cuda.default_stream()
            side = torch.cuda.Stream() if own == default else own
            side.wait_stream(own)
            with torch.cuda.stream(side):
                with _counted(eager):
                    prepared.request()
                for _ in range(_RUNS_BEFORE_CAPTURE - 1):
                    prepared.request()
            own.wait_stream(side)
            prepared.outputs.last = None
            # a graph runs on the SMs of the stream that it was captured on; the default stream cannot be captured
            captured_on = None if own == default else own
            with torch.cuda.graph(graph, stream=captured_on, capture_error_mode="thread_local"), _counted(captured):
                prepared.request()
    except RuntimeError as error:
        raise NotCapturable(_refusal(_reason_of(error))) from error
    prepared.graph_differs.extend(differences(eager, captured))
    replay = graph.replay
    prepared.outputs.static, prepared.outputs.last = prepared.outputs.last, None

    def request() -> int:
        replay()
        return 0

    return request


def _counted(calls: Counter[str]) -> Products:
    """While entered, counts the products by operation and shapes."""
    return Products(lambda call, out: calls.update([call.name]))


def differences(eager: Counter[str], captured: Counter[str]) -> list[str]:
    """What a captured request computes that the same request in eager mode does not, and the other way round."""
    more, less = captured - eager, eager - captured
    return [f"{n} x {name} more" for name, n in more.items()] + [f"{n} x {name} less" for name, n in less.items()]


_MASKS = "transformers.masking_utils"


def _without_made_masks() -> None:
    """Have attention without padding run without a mask in a CUDA graph too, as it does in eager mode.

    A mask rules out flash attention: BERT-base takes twice as long. While a model is captured or compiled, transformers
    makes one in two cases in which eager mode does not. Up to 5.17 it asks whether the mask is traced before it asks
    whether there is one. And it does not look whether the sequences of a decoder are packed; here the last request in
    eager mode answers that.
    """
    module = sys.modules.get(_MASKS)
    if module is None or hasattr(module.is_tracing, "as_written"):
        return
    traced, look = module.is_tracing, module.find_packed_sequence_indices
    packed = {"eager": True}

    def is_tracing(tensor: Any = None) -> bool:
        return tensor is not None and bool(traced(tensor))

    def find_packed_sequence_indices(position_ids: torch.Tensor) -> torch.Tensor | None:
        if traced(position_ids) and not packed["eager"]:
            return None
        found: torch.Tensor | None = look(position_ids)
        packed["eager"] = found is not None
        return found

    is_tracing.as_written = traced  # type: ignore[attr-defined]
    find_packed_sequence_indices.as_written = look  # type: ignore[attr-defined]
    vars(module).update(is_tracing=is_tracing, find_packed_sequence_indices=find_packed_sequence_indices)


_DEBERTA = "transformers.models.deberta_v2.modeling_deberta_v2"


def _without_host_copies() -> None:
    """Make DeBERTa-v2 capturable: it copies one number from the host in each request, which no CUDA graph can hold.

    While a stream is captured, the number is an argument of the kernel. All else stays, and so do eager requests.
    """
    module = sys.modules.get(_DEBERTA)
    if module is None or hasattr(module.make_log_bucket_position, "as_written"):
        return
    as_written = module.make_log_bucket_position

    def make_log_bucket_position(relative_pos: torch.Tensor, bucket_size: int, max_position: int) -> torch.Tensor:
        if not torch.cuda.is_current_stream_capturing():
            written: torch.Tensor = as_written(relative_pos, bucket_size, max_position)
            return written
        sign, mid = torch.sign(relative_pos), bucket_size // 2
        near = (relative_pos < mid) & (relative_pos > -mid)
        abs_pos = torch.where(near, mid - 1, torch.abs(relative_pos))
        most = torch.log(torch.tensor((max_position - 1) / mid))  # stays on the host
        log_pos = torch.ceil(torch.log(abs_pos / mid) / most * (mid - 1)) + mid
        return torch.where(abs_pos <= mid, relative_pos.type_as(log_pos), log_pos * sign)

    make_log_bucket_position.as_written = as_written  # type: ignore[attr-defined]
    module.make_log_bucket_position = make_log_bucket_position  # type: ignore[attr-defined]


_TORCH_AND_MTEXP = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
"""Folders whose files are no part of a model."""


def _reason_of(error: RuntimeError) -> str:
    """The reason in one line, with the line of the model where it arose.

    What ends the capture is raised after it, and says no more than that something went wrong before. TorchScript puts
    the reason after a traceback of its own.
    """
    first: BaseException = error
    while isinstance(first.__context__, RuntimeError):
        first = first.__context__
    lines = str(first).splitlines() or [type(first).__name__]
    reason = next((line for line in lines if line.startswith("RuntimeError: ")), lines[0])
    frames = [frame for frame in extract_tb(first.__traceback__) if not frame.filename.startswith(_TORCH_AND_MTEXP)]
    if not frames:
        return reason.rstrip(".")
    where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
    return f"{reason.rstrip('.')} ({': '.join(filter(None, [where, frames[-1].line]))})"


def _refusal(reason: str) -> str:
    return f"execution=cuda_graph cannot capture this request: {reason}. Use execution=eager or compile for this tenant"

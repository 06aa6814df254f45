"""The tokens of a trace's requests: who can vary its length, what they are padded to, what the plan says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from mtexp.config.shapes import dimensions
from mtexp.config.trace_formats import Arrived
from mtexp.errors import ConfigError
from mtexp.lengths import Lengths, powers
from mtexp.served import TEXTS, names_in
from mtexp.spec import ModelSpec, RunSpec, WorkloadSpec

MOST_SHAPES = 64
"""Each is built, warmed up and, as a CUDA graph, captured."""


def lengths_of(
    key: str, buckets: Sequence[int], requests: Sequence[Arrived], model: ModelSpec, workload: WorkloadSpec
) -> Lengths:
    """Return the lengths of ``requests`` as a tenant is to issue them; those that a trace lacks are the workload's.

    Args:
        key: Of ``buckets``.
        buckets: Lengths to pad to; empty = powers of two.
        requests: Of the trace.
        model: Of the tenant.
        workload: Of the tenant.

    Raises:
        ConfigError: Buckets that are not ascending, longer than the model takes, or too many.
    """
    if any(low >= high for low, high in pairwise([0, *buckets])):
        raise ConfigError(key, f"[{','.join(map(str, buckets))}]", "lengths of 1 or more, ascending", "Sort them.")
    if not any(request.input_tokens or request.output_tokens for request in requests):
        return Lengths()
    varies = _varies(model, workload)
    if isinstance(varies, str):
        return Lengths(unused=varies)
    text, generated = varies
    given = tuple(r.input_tokens or workload.seq_len for r in requests) if text else ()
    made = tuple(r.output_tokens or workload.new_tokens for r in requests) if generated else ()
    shape = None if model.server is not None else dimensions(model.shape)
    positions = shape.positions if shape else 0
    longest = positions and positions - {"decode": 1, "generate": workload.new_tokens}.get(workload.kind, 0)
    if longest and buckets and buckets[-1] > longest:
        remedy = f"{model.name} has {positions} positions."
        raise ConfigError(key, buckets[-1], f"at most {longest} for {model.name}", remedy)
    lengths = Lengths(
        input_tokens=given,
        output_tokens=made,
        buckets=tuple(buckets or powers(max(given), longest)) if text else (),
        most_tokens=positions if made else 0,
    )
    if lengths.shapes > MOST_SHAPES:
        remedy = f"Name fewer lengths, such as {key}=[512,2048,8192]."
        raise ConfigError(key, f"{lengths.shapes} shapes", f"at most {MOST_SHAPES} shapes of requests", remedy)
    return lengths


def _varies(model: ModelSpec, workload: WorkloadSpec) -> tuple[bool, bool] | str:
    """Whether input and output of a tenant's requests can be of any length; a sentence if neither can."""
    if model.server is not None:
        names = set(names_in(model.server.body)) | set(names_in(model.server.url))
        text, generated = bool(names & {*TEXTS, "seq_len"}), "new_tokens" in names
        return (text, generated) if text or generated else "its request has no text, seq_len or new_tokens"
    if model.role == "stressor":
        return "a stressor has no tokens"
    if model.target:
        return "the factory makes requests of one size"
    if not model.has_formula:
        return "its inputs are not tokens alone"
    if workload.kind == "train":
        return "training steps are of one size"
    return True, workload.kind == "generate"


def padded(specs: Iterable[RunSpec]) -> Iterator[str]:
    """Sentences that say what becomes of the tokens of traces in ``specs``."""
    for tenant in (tenant for spec in specs for tenant in spec.tenants):
        lengths, what = tenant.arrival.lengths, "the token counts of its trace"
        if lengths.unused:
            yield f"{tenant.id}: {what} are not used: {lengths.unused}"
        elif len(lengths):
            used = ", ".join(map(str, sorted({size.padded_tokens for size in lengths.sizes})))
            input_text = f"input padded to {used}" if lengths.buckets else ""
            made = lengths.ranges.get("new_tokens")
            output_text = f"{made} tokens generated" if made else ""
            cut = f"; {lengths.cut} of {len(lengths)} requests are cut" if lengths.cut else ""
            yield f"{tenant.id}: {what} are used: {', '.join(filter(None, (input_text, output_text)))}{cut}"

"""What a tenant serves in a second beside requests: tokens, or inputs. Pure."""

from __future__ import annotations

from mtexp.metrics.samples import Samples
from mtexp.served import TEXTS, names_in
from mtexp.spec import TenantSpec


def served(tenant: TenantSpec, samples: Samples, throughput_rps: float) -> dict[str, float]:
    """``tokens_per_s`` of a tenant whose requests are text, else ``inputs_per_s``."""
    text = not (tenant.model.inputs or tenant.model.target) or tenant.workload.kind == "generate"
    if tenant.model.server is not None:
        text = tenant.workload.kind == "generate" or bool(set(names_in(tenant.model.server.body)) & {*TEXTS})
    if not text:
        return {"inputs_per_s": tenant.workload.batch_size * throughput_rps}
    return {"tokens_per_s": _tokens(tenant, samples) * throughput_rps}


def _tokens(tenant: TenantSpec, samples: Samples) -> float:
    """Mean tokens of a request: those that it generates, else those of its input, without padding."""
    load, rows = tenant.workload, samples.measured
    counts = rows.output_tokens if load.kind == "generate" else rows.input_tokens
    if load.kind == "decode" or not counts.any():
        return load.tokens
    return load.batch_size * float(counts.mean())

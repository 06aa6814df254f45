"""What the wire costs: a toy server of known service time, and one BERT as mtexp's tenant, as a factory, behind HTTP.

The error of the client on the toy server is its latency less the service time: the wire, the toy's own parsing and the
client. The three BERTs are alone in turns in one run (design=crossover), so what the host does meets all of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common

EXAMPLES = common.ROOT / "docs" / "examples"
SERVICE_MS = (1.0, 5.0, 20.0)
TOY = "{python} -m mtexp.testing.toy_server --port {port} --ms"
BERT = (
    "{python} %s --port {port} --precision {precision} --execution {execution} --batch-size {batch_size} "
    "--seq-len {seq_len}"
)


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=5, gpu=True)
    made.add_argument("overrides", nargs="*", help="more of the configuration of the BERTs: execution=cuda_graph")
    return made


def main() -> None:
    options = arguments().parse_args()
    report = common.Report("wire_price")
    repeats, quick = common.repeats_of(options), options.quick
    with common.scratch() as folder:
        tenants = common.Tenants(folder)
        for service_ms in SERVICE_MS:
            found = [_toy(tenants, service_ms, 30 if quick else 300) for _ in range(repeats)]
            target = f"<= {0.01 * service_ms + 0.2:.3g}"
            report.add(
                f"toy server of {service_ms:g} ms: p50 above it", [f["p50"] - service_ms for f in found], "ms", target
            )
            report.add(f"toy server of {service_ms:g} ms: mean above it", [f["mean"] - service_ms for f in found], "ms")
        berts = [_berts(tenants, options, 2 if quick else 8) for _ in range(repeats)]
    names = {"bert_base": "BERT-base, mtexp's tenant", "own_bert_build": "a factory", "bert_http": "behind HTTP"}
    for name, said in names.items():
        report.add(f"{said}, alone: mean", [float(found[name].mean()) for found in berts], "ms")
        report.add(f"{said}, alone: p50", [float(np.median(found[name])) for found in berts], "ms")
    base = [float(np.median(found["bert_base"])) for found in berts]
    for name in ("own_bert_build", "bert_http"):
        own = [float(np.median(found[name])) for found in berts]
        report.ratio(f"{names[name]} / mtexp's tenant, p50", own, base)
        report.add(f"{names[name]} - mtexp's tenant, p50", [a - b for a, b in zip(own, base, strict=True)], "ms")
    report.show()


def _toy(tenants: common.Tenants, service_ms: float, iterations: int) -> dict[str, float]:
    spec, device = common.spec_of(
        [
            "mix=server:toy",
            f"mix.tenants.toy.server.command='{TOY} {service_ms}'",
            "mix.tenants.toy.server.ready=/health",
            "mix.tenants.toy.server.request.url=/work",
            "+mix.tenants.toy.server.request.json={text: '{text}'}",
            f"measure.iterations={iterations}",
        ],
        gpu=False,
    )
    return common.latency_figures(tenants.measure(spec, device).samples["toy"].measured.latency_ms)


def _berts(tenants: common.Tenants, options: Any, time_s: float) -> dict[str, Any]:
    """Latencies (ms) of each BERT alone."""
    from mtexp.metrics.samples import ALONE

    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    spec, device = common.spec_of(
        [
            "mix=bert_base+target:own_bert:build+server:bert_http",
            f"mix.tenants.bert_http.server.command='{BERT % Path(EXAMPLES / 'bert_server.py')}'",
            "mix.tenants.bert_http.server.ready=/health",
            "mix.tenants.bert_http.server.request.url=/embed",
            "+mix.tenants.bert_http.server.request.json={tokens: '{tokens}', batch_size: '{batch_size}'}",
            "runtime.shrink=none",
            "measure.design=crossover",
            "measure.iterations=10",
            f"measure.max_time_s={time_s}",
            *options.overrides,
        ],
        gpu=options.gpu,
    )
    measured = tenants.measure(spec, device)
    return {name: own.latency_ms[own.phase == ALONE] for name, own in measured.samples.items()}


if __name__ == "__main__":
    main()

"""The same three single-tenant points with optimum-benchmark and with mtexp: seconds a point, latency disturbance.

optimum-benchmark needs transformers 4, so it lives in an environment of its own; ``--optimum PYTHON`` names its
interpreter (made with ``python -m venv DIR && DIR/bin/pip install optimum-benchmark 'transformers<5'``), and so does
``make bench OPTIMUM=PYTHON``. Without it only mtexp and the bare loop are run. Latencies of each are told against a
bare loop of the same model with mtexp's libraries; that loop once more is the control. Library versions differ
between the sides: both are told.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

from benchmarks import common, plain
from benchmarks.point_overhead import RUN

MODELS = ("bert_base", "bert_large", "deberta_v3_base")
"""Encoders: both sides run one forward pass of the bare model a request."""
DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_VERSIONS = (
    "import importlib.metadata as m; "
    "print(', '.join(f'{n} {m.version(n)}' for n in ('optimum-benchmark', 'transformers', 'torch')))"
)


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=3, gpu=True)
    optimum = os.environ.get("OPTIMUM", "")
    made.add_argument("--optimum", metavar="PYTHON", default=optimum, help="interpreter that has optimum-benchmark")
    made.add_argument("--iterations", type=int, default=0, help="of each point; default 500, with --quick 100")
    return made


def main() -> None:
    options = arguments().parse_args()
    if options.optimum and not shutil.which(options.optimum):
        raise SystemExit(f"--optimum {options.optimum}: no such interpreter")
    points = Points(options.iterations or (100 if options.quick else 500), gpu=options.gpu)
    report = common.Report("versus_optimum")
    with common.scratch() as folder:
        cases = {
            "bare loop": points.bare,
            "mtexp": lambda: points.mtexp(folder),
            "bare loop, again": points.bare,
        }
        if options.optimum:
            cases["optimum-benchmark"] = lambda: points.optimum(options.optimum, folder)
            versions = subprocess.run([options.optimum, "-c", _VERSIONS], capture_output=True, text=True, check=True)
            report.remarks.append(f"optimum-benchmark's side: {versions.stdout.strip()}.")
        else:
            report.remarks.append("optimum-benchmark was not run: --optimum PYTHON was not given.")
        points.mtexp(folder)  # makes the store, which no repeat should pay for
        found = common.interleaved(cases, common.repeats_of(options))
    for name, rounds in found.items():
        if "again" not in name:
            report.add(f"{name}: seconds a point", [f["wall_s"] / len(MODELS) for f in rounds], "s")
    for model in MODELS:
        for statistic in ("p50", "p99"):
            base = [f[model][statistic] for f in found["bare loop"]]
            report.add(f"{model} bare loop: {statistic}", base, "ms")
            for name in [case for case in found if case != "bare loop"]:
                kind = "control: " if "again" in name else ""
                report.ratio(f"{kind}{model} {statistic}, {name}", [f[model][statistic] for f in found[name]], base)
    report.show()


class Points:
    """The three points, run by any side; each answers with the wall of its command and figures by model."""

    def __init__(self, iterations: int, *, gpu: bool) -> None:
        self._sizes = ["runtime=gpu", "precision=fp16"] if gpu else list(common.SMALL)
        self._sizes += [f"measure.iterations={iterations}", "measure.warmup=20", "measure.overlap=fixed"]
        self._sizes += ["baseline=skip"]
        self._specs = [common.spec_of([f"mix={model}", *self._sizes], gpu=gpu)[0] for model in MODELS]

    def bare(self) -> dict[str, Any]:
        """A spawned process and a loop each."""
        figures: dict[str, Any] = {}

        def loops() -> None:
            for model, spec in zip(MODELS, self._specs, strict=True):
                figures[model] = common.latency_figures(plain.latencies_ms(plain.run(spec)[0]))

        return {"wall_s": common.seconds(loops), **figures}

    def mtexp(self, folder: Path) -> dict[str, Any]:
        """One command, a sweep of three."""
        from mtexp.records.samples_file import read_samples

        sweep = uuid.uuid4().hex
        wall_s = common.command_s([*RUN, "-m", f"mix={','.join(MODELS)}", *self._sizes, f"sweep={sweep}"], folder)
        figures: dict[str, Any] = {"wall_s": wall_s}
        for number, model in enumerate(MODELS):
            path = folder / "multirun" / sweep / str(number) / "iterations.parquet"
            (samples,) = read_samples(path).values()
            figures[model] = common.latency_figures(samples.measured.latency_ms)
        return figures

    def optimum(self, python: str, folder: Path) -> dict[str, Any]:
        """One command, three launches; making the model folders is not its doing and is left out."""
        place = folder / uuid.uuid4().hex
        place.mkdir()
        (place / "points.json").write_text(json.dumps([_point(spec) for spec in self._specs]))
        side = str(common.ROOT / "benchmarks" / "optimum_side.py")
        common.command_s([python, side, str(place / "points.json"), str(place / "results.json")], place)
        results = json.loads((place / "results.json").read_text())
        figures = {
            model: common.latency_figures(result["latency_ms"]) for model, result in zip(MODELS, results, strict=True)
        }
        return {"wall_s": sum(result["wall_s"] for result in results), **figures}


def _point(spec: Any) -> dict[str, Any]:
    (tenant,) = spec.tenants
    return {
        "name": tenant.model.name,
        "architecture": tenant.model.architecture,
        "shape": dict(tenant.model.shape),
        "attn_implementation": tenant.model.attn_implementation,
        "dtype": DTYPES[tenant.precision],
        "runtime": spec.runtime,
        "batch_size": tenant.workload.batch_size,
        "seq_len": tenant.workload.seq_len,
        "iterations": spec.measure.iterations,
        "warmup": spec.measure.warmup,
    }


if __name__ == "__main__":
    main()

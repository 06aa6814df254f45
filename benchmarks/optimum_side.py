"""optimum-benchmark's side of ``benchmarks.versus_optimum``; run by the interpreter that has it, never by mtexp's.

    PYTHON benchmarks/optimum_side.py POINTS.json RESULTS.json

Each point has a model folder made beside POINTS.json (random weights of the given shape), then a launch of its own, as
optimum-benchmark isolates them. Nothing is downloaded. optimum-benchmark 0.6.0 gives ``intra_op_num_threads`` to
PyTorch's inter-op pool, so its one thread comes from the environment that its processes inherit.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def run(point: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Measure one point; latencies in ms, and the seconds that the launch took."""
    from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, ProcessConfig, PyTorchConfig
    from transformers import AutoConfig, AutoModel

    model = AutoModel.from_config(AutoConfig.for_model(point["architecture"], **point["shape"]))
    model.save_pretrained(folder)
    gpu = point["runtime"] == "gpu"
    backend = PyTorchConfig(
        model=str(folder),
        task="feature-extraction",
        library="transformers",
        model_type=point["architecture"],
        device="cuda" if gpu else "cpu",
        device_ids="0" if gpu else None,
        torch_dtype=point["dtype"],
        attn_implementation=point["attn_implementation"],
    )
    scenario = InferenceConfig(
        iterations=point["iterations"],
        duration=0,
        warmup_runs=point["warmup"],
        input_shapes={"batch_size": point["batch_size"], "sequence_length": point["seq_len"]},
    )
    config = BenchmarkConfig(name=point["name"], launcher=ProcessConfig(), scenario=scenario, backend=backend)
    begin = time.perf_counter()
    report = Benchmark.launch(config)
    took_s = time.perf_counter() - begin
    return {"wall_s": took_s, "latency_ms": [1000 * value for value in report.forward.latency.values]}


def main(arguments: list[str]) -> None:
    """Measure every point, one after another."""
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    points, results = Path(arguments[0]), Path(arguments[1])
    measured = [run(point, points.parent / point["name"]) for point in json.loads(points.read_text())]
    results.write_text(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1:])

"""What a lone process pays until a second CUDA context has been made beside its own: BERT-base as a CUDA graph.

    python -m benchmarks.second_context --gpu

Each case is a fresh process that times replays, makes a second context (``itself`` or by ``another`` process, which
ends at once), and times replays again. The ratio within one process is the price of never having had a neighbour.
``nvidia-smi`` is the control: it talks to the driver and makes no context.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks import common

CASES = ("nvidia-smi", "itself", "another")
_CHAIN, _CHAINS, _WARM_S = 20, 12, 0.3
_OTHER = """
import ctypes
driver, device, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
driver.cuInit(0), driver.cuDeviceGet(ctypes.byref(device), 0), driver.cuCtxCreate_v2(ctypes.byref(context), 0, device)
"""


def measure(case: str) -> dict[str, float]:
    """Milliseconds of one replay before and after the case's event; to be called in a fresh process."""
    import torch
    from transformers import AutoConfig, AutoModel

    from mtexp.tenant.device import make_a_second_context

    with torch.device("cuda"), torch.inference_mode():
        model = AutoModel.from_config(AutoConfig.for_model("bert"), dtype=torch.float16).eval()
        ids = torch.randint(0, 30_000, (8, 128))
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # as before every capture of mtexp: without it the price was not seen
            model(input_ids=ids)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            model(input_ids=ids)
    events: dict[str, Callable[[], object]] = {
        "nvidia-smi": lambda: subprocess.run(["nvidia-smi"], stdout=subprocess.DEVNULL, check=True),
        "itself": make_a_second_context,
        "another": lambda: subprocess.run([sys.executable, "-c", _OTHER], check=True),
    }
    before = _replay_ms(graph)
    events[case]()
    return {"before_ms": before, "after_ms": _replay_ms(graph)}


def _replay_ms(graph: object) -> float:
    import torch

    replay: Callable[[], None] = graph.replay  # type: ignore[attr-defined]
    end = time.monotonic() + _WARM_S
    while time.monotonic() < end:
        replay()
        torch.cuda.synchronize()
    took = []
    for _ in range(_CHAINS):
        start = time.monotonic_ns()
        for _ in range(_CHAIN):
            replay()
        torch.cuda.synchronize()
        took.append((time.monotonic_ns() - start) / 1e6 / _CHAIN)
    return statistics.median(took)


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=3, gpu=True)
    made.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    return made


def main() -> None:
    options = arguments().parse_args()
    if not options.gpu:
        sys.exit("second_context is about CUDA contexts: it needs a GPU. Use --gpu on a host that has one.")
    if options.case:
        print(json.dumps(measure(options.case)))
        return
    print(f"{'a second context made by':26s} before ms  after ms  before / after")
    for repeat in range(common.repeats_of(options)):
        for case in CASES[repeat % len(CASES) :] + CASES[: repeat % len(CASES)]:
            command = [sys.executable, "-m", "benchmarks.second_context", "--gpu", "--case", case]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            before, after = found["before_ms"], found["after_ms"]
            name = "nobody (nvidia-smi ran)" if case == "nvidia-smi" else case
            print(f"{name:26s} {before:9.3f} {after:9.3f} {before / after:15.3f}", flush=True)


if __name__ == "__main__":
    main()

"""BERT-base behind HTTP: POST /embed {"tokens": [...], "batch_size": 8} answers with the mean of its hidden states.

``python bert_server.py --port 8000 --precision fp16 --execution eager|cuda_graph``; needs torch, transformers, uvicorn.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
import uvicorn
from own_bert import build

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    """Serve until the end of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--precision", default="fp32", choices=DTYPES)
    parser.add_argument("--execution", default="eager", choices=("eager", "cuda_graph"))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = {"batch_size": options.batch_size, "seq_len": options.seq_len}
    model, inputs = build(device=device, dtype=DTYPES[options.precision], seed=0, **sizes)
    compute = of_graph(model.eval(), inputs) if options.execution == "cuda_graph" else of_module(model.eval(), inputs)
    uvicorn.run(application(compute, options.batch_size), port=options.port, log_level="warning")


def of_module(model: Any, inputs: dict[str, torch.Tensor]) -> Callable[[torch.Tensor], list[float]]:
    """Calls the module."""

    def compute(tokens: torch.Tensor) -> list[float]:
        with torch.inference_mode():
            inputs["input_ids"].copy_(tokens)
            found: list[float] = model(**inputs).last_hidden_state.mean((0, 1))[:8].tolist()
        return found

    return compute


def of_graph(model: Any, inputs: dict[str, torch.Tensor]) -> Callable[[torch.Tensor], list[float]]:
    """Replays a CUDA graph of it."""
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(**inputs)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(**inputs).last_hidden_state.mean((0, 1))[:8]

    def compute(tokens: torch.Tensor) -> list[float]:
        inputs["input_ids"].copy_(tokens)
        graph.replay()
        found: list[float] = out.tolist()
        return found

    return compute


def application(compute: Callable[[torch.Tensor], list[float]], batch_size: int) -> Any:
    """The ASGI application: /embed, and /health for everything else."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        answer: dict[str, Any] = {}
        if scope["path"] == "/embed":
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            tokens = torch.tensor(json.loads(body)["tokens"])
            answer = {"embedding": compute(tokens.expand(batch_size, -1))}
        text = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    return serve


if __name__ == "__main__":
    main()

"""A decoder with random weights behind OpenAI's API: POST /v1/completions streams max_tokens tokens, greedily.

``python chat_server.py --port 8000 --model llama_3_2_1b``; one request at a time, as it would be without batching.
With ``--execution cuda_graph`` each token after the first is the replay of a CUDA graph over a static KV cache.
Needs torch, transformers, uvicorn, PyYAML; the shape is that of mtexp's own model of that name.
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import torch
import uvicorn
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, StaticCache

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
Generate = Callable[[torch.Tensor, int], Iterator[int]]
"""From a prompt (1, tokens) and a number of tokens to these."""


def main() -> None:
    """Serve until the end of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="llama_3_2_1b")
    parser.add_argument("--layers", type=int, default=0, help="0 = all")
    parser.add_argument("--precision", default="fp32", choices=DTYPES)
    parser.add_argument("--execution", default="eager", choices=("eager", "cuda_graph"))
    parser.add_argument("--longest", type=int, default=512, help="tokens of the static cache: prompt and answer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = yaml.safe_load((files("mtexp") / "conf" / "models" / f"{options.model}.yaml").read_text())
    shape = data["shape"] | ({"num_hidden_layers": options.layers} if options.layers else {})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:
        config = AutoConfig.for_model(data["architecture"], **shape)
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[options.precision]).eval()
    generate = of_graph(model, device, options.longest) if options.execution == "cuda_graph" else of_module(model)
    uvicorn.run(application(generate, device, model.config.vocab_size), port=options.port, log_level="warning")


def of_module(model: Any) -> Generate:
    """Calls the module, with a cache that grows."""

    def generate(prompt: torch.Tensor, count: int) -> Iterator[int]:
        tokens, cache = prompt, None
        for _ in range(count):
            with torch.inference_mode():
                out = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            tokens, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            yield int(tokens)

    return generate


def of_graph(model: Any, device: torch.device, longest: int) -> Generate:
    """Replays one CUDA graph a token; without a GPU it makes the same steps."""
    cache = StaticCache(config=model.config, max_cache_len=longest)
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    position = torch.zeros_like(token)

    @torch.inference_mode()
    def begin(prompt: torch.Tensor) -> None:
        for layer in cache.layers:
            layer.cumulative_length.zero_()
        positions = torch.arange(prompt.shape[1], device=device)[None]
        out = model(input_ids=prompt, position_ids=positions, past_key_values=cache, logits_to_keep=1)
        token.copy_(out.logits[:, -1:].argmax(-1))
        position.fill_(prompt.shape[1])

    @torch.inference_mode()
    def step() -> None:
        out = model(input_ids=token, position_ids=position, past_key_values=cache)
        token.copy_(out.logits[:, -1:].argmax(-1))
        position.add_(1)

    replay = step
    if device.type == "cuda":
        begin(token)  # allocates the cache
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay = graph.replay

    def generate(prompt: torch.Tensor, count: int) -> Iterator[int]:
        if prompt.shape[1] + count > longest:
            raise ValueError(f"{prompt.shape[1]} + {count} tokens are more than --longest {longest}")
        begin(prompt)
        yield int(token)
        for _ in range(count - 1):
            replay()
            yield int(token)

    return generate


def application(generate: Generate, device: torch.device, vocabulary: int) -> Any:
    """The ASGI application: /v1/completions, and an empty answer for everything else."""
    lock = asyncio.Lock()

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/v1/completions":
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            asked = json.loads(body)
            words = [hash(word) % vocabulary for word in asked["prompt"].split()]
            async with lock:
                for token in generate(torch.tensor([words], device=device), asked["max_tokens"]):
                    event = json.dumps({"choices": [{"text": f" {token}"}]})
                    await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
                    await asyncio.sleep(0)  # the piece goes out before the next token is computed
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return serve


if __name__ == "__main__":
    main()

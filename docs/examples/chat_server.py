"""A decoder with random weights behind OpenAI's API: POST /v1/completions streams max_tokens tokens, greedily.

``python chat_server.py --port 8000 --model llama_3_2_1b``; one request at a time, as it would be without batching.
Needs torch, transformers, uvicorn, PyYAML; the shape is that of mtexp's own model of that name.
"""

import argparse
import asyncio
import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import torch
import uvicorn
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    """Serve until the end of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="llama_3_2_1b")
    parser.add_argument("--layers", type=int, default=0, help="0 = all")
    parser.add_argument("--precision", default="fp32", choices=DTYPES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = yaml.safe_load((files("mtexp") / "conf" / "models" / f"{options.model}.yaml").read_text())
    shape = data["shape"] | ({"num_hidden_layers": options.layers} if options.layers else {})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:
        config = AutoConfig.for_model(data["architecture"], **shape)
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[options.precision]).eval()
    uvicorn.run(application(model, device), port=options.port, log_level="warning")


def generate(model: Any, prompt: torch.Tensor, count: int) -> Iterator[int]:
    """Yield ``count`` tokens after ``prompt`` (1, tokens)."""
    tokens, cache = prompt, None
    for _ in range(count):
        with torch.inference_mode():
            out = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        tokens, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
        yield int(tokens)


def application(model: Any, device: torch.device) -> Any:
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
            words = [hash(word) % model.config.vocab_size for word in asked["prompt"].split()]
            async with lock:
                for token in generate(model, torch.tensor([words], device=device), asked["max_tokens"]):
                    event = json.dumps({"choices": [{"text": f" {token}"}]})
                    await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
                    await asyncio.sleep(0)  # the piece goes out before the next token is computed
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return serve


if __name__ == "__main__":
    main()

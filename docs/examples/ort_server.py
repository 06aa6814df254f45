"""ONNX Runtime behind HTTP: POST /embed {"tokens": [...], "batch_size": 8} answers with numbers of an embedding.

``python ort_server.py FILE --port 8000``; needs onnxruntime (onnxruntime-gpu for a GPU), numpy and uvicorn.
"""

import argparse
import json
from typing import Any

import numpy as np
import onnxruntime
import uvicorn

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def main() -> None:
    """Serve until the end of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    there = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(options.file, settings, providers=[p for p in PROVIDERS if p in there])
    uvicorn.run(application(session), port=options.port, log_level="warning")


def application(session: Any) -> Any:
    """The ASGI application: /embed, and /health for everything else."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        answer: dict[str, Any] = {"providers": session.get_providers()}
        if scope["path"] == "/embed":
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            asked = json.loads(body)
            tokens = np.tile(np.array(asked["tokens"], dtype=np.int64), (asked["batch_size"], 1))
            (embedding,) = session.run(None, {"tokens": tokens})
            answer = {"embedding": embedding[0, :8].tolist()}
        text = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    return serve


if __name__ == "__main__":
    main()

"""The chat server of docs/examples gives the same tokens whichever way it computes them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_steps_over_a_static_cache_are_those_of_a_growing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a second prompt, shorter than the first: nothing of the first is left in the cache."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("uvicorn")
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.syspath_prepend(str(EXAMPLES))
    chat = importlib.import_module("chat_server")
    torch.manual_seed(0)
    sizes = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    growing, static = chat.of_module(model), chat.of_graph(model, torch.device("cpu"), 32)
    for length in (17, 5):
        prompt = torch.randint(0, 500, (1, length))
        assert list(static(prompt, 8)) == list(growing(prompt, 8))
    with pytest.raises(ValueError, match="--longest 32"):
        list(static(torch.zeros(1, 30, dtype=torch.long), 8))

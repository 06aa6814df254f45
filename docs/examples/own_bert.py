"""BERT-base as a factory of your own (``target: own_bert:build``): random weights, the inputs of mtexp's own tenant."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModel


def build(*, device: torch.device, dtype: torch.dtype, batch_size: int, seq_len: int, seed: int) -> tuple[Any, Any]:
    """Return the module and its inputs."""
    torch.manual_seed(seed)
    model = AutoModel.from_config(AutoConfig.for_model("bert"), attn_implementation="sdpa").to(device, dtype)
    return model, {"input_ids": torch.randint(0, 30_000, (batch_size, seq_len), device=device)}

"""Export an encoder with random weights for ``ort_server.py``: python export_tiny.py FILE; needs torch and onnx."""

import sys

import torch

WORDS, HIDDEN, LAYERS, HEADS = 2_000, 256, 4, 4


class Layer(torch.nn.Module):
    """Attention and a feed-forward part, each added to what goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.into = torch.nn.Linear(HIDDEN, 3 * HIDDEN)
        self.out = torch.nn.Linear(HIDDEN, HIDDEN)
        self.wide = torch.nn.Sequential(
            torch.nn.LayerNorm(HIDDEN),
            torch.nn.Linear(HIDDEN, 4 * HIDDEN),
            torch.nn.GELU(),
            torch.nn.Linear(4 * HIDDEN, HIDDEN),
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States (batch, tokens, hidden) to such."""
        batch = states.shape[0]
        parts = self.into(states).reshape(batch, -1, 3, HEADS, HIDDEN // HEADS).permute(2, 0, 3, 1, 4)
        mixed = torch.nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        states = states + self.out(mixed.transpose(1, 2).reshape(batch, -1, HIDDEN))
        wide: torch.Tensor = states + self.wide(states)
        return wide


class Encoder(torch.nn.Module):
    """Token ids (batch, tokens) to one embedding each (batch, hidden)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Embedding(WORDS, HIDDEN), *(Layer() for _ in range(LAYERS)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The mean over the tokens."""
        mean: torch.Tensor = self.layers(tokens).mean(1)
        return mean


def main(file: str) -> None:
    """Export it, with a free batch size and a free number of tokens."""
    torch.manual_seed(0)
    free = {"tokens": {0: "batch", 1: "length"}, "embedding": {0: "batch"}}
    given = (torch.zeros(2, 16, dtype=torch.long),)
    names = {"input_names": ["tokens"], "output_names": ["embedding"]}
    torch.onnx.export(Encoder().eval(), given, file, dynamic_axes=free, dynamo=False, **names)


if __name__ == "__main__":
    main(sys.argv[1])

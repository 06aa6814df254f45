"""Export an encoder with random weights for ``ort_server.py``: python export_tiny.py FILE; needs torch and onnx."""

import sys

import torch

WORDS, HIDDEN, LAYERS, HEADS = 2_000, 256, 4, 4


class Encoder(torch.nn.Module):
    """Token ids (batch, tokens) to one embedding each (batch, hidden)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(WORDS, HIDDEN)
        layer = torch.nn.TransformerEncoderLayer(HIDDEN, HEADS, 4 * HIDDEN, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The mean over the tokens."""
        mean: torch.Tensor = self.layers(self.words(tokens)).mean(1)
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

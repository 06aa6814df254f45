"""One colour a model in every picture: reports, rooflines, lanes, the picture of a run. Pure.

The palette of the first eight models is Okabe and Ito's (Color Universal Design, 2008), which people with any colour
vision tell apart. The other models have colours of Paul Tol's "muted" and "bright" schemes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
FAINT = "#9AA5B1"
"""For secondary things: guides, and tenants that only load a resource."""
_MODELS = {
    "bert_base": BLUE,
    "bert_large": SKY,
    "deberta_v3_base": GREEN,
    "deberta_v3_large": BLACK,
    "distilgpt2": ORANGE,
    "llama_3_2_1b": RED,
    "llama_3_2_3b": YELLOW,
    "mistral_7b": PURPLE,
    "modernbert_base": "#332288",
    "minilm_l6": "#88CCEE",
    "qwen3_0_6b": "#44AA99",
    "qwen3_moe_6_layers": "#117733",
    "gemma_3_1b": "#999933",
    "t5_base": "#DDCC77",
    "vit_base": "#CC6677",
    "yolos_small": "#882255",
    "clip_vit_b_32": "#AA4499",
    "whisper_small": "#661100",
    "wav2vec2_base": "#4477AA",
    "dac_44khz": "#AA3377",
}
_SPARE = (SKY, BLACK, YELLOW, GREEN, PURPLE, BLUE, ORANGE, RED)
_MOST_SHADE = 0.7


def model_colour(model: str) -> str:
    """The colour of a model (``#RRGGBB``); of one that mtexp does not ship, by its name."""
    if model in _MODELS:
        return _MODELS[model]
    if model.startswith("stress_"):
        return FAINT
    return _SPARE[sum(map(ord, model)) % len(_SPARE)]


def shades(models: Sequence[str]) -> list[str]:
    """A colour for each of several things of a model: the first of a model has its colour, the others darken.

    Args:
        models: The model of each tenant, curve or point, in the order shown.
    """
    of_model, before, colours = Counter(models), Counter[str](), []
    for model in models:
        share = _MOST_SHADE * before[model] / of_model[model]
        before[model] += 1
        colour = model_colour(model)
        end = 255 if colour == BLACK else 0  # black alone gets lighter
        parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        colours.append("#" + "".join(f"{round(part + share * (end - part)):02X}" for part in parts))
    return colours

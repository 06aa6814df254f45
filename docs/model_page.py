"""The reference page of the models: made by ``make docs`` from the files in ``conf/models``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mtexp.config.models import PASSES, WORKLOADS

_FOLDER = Path(__file__).parents[1] / "conf" / "models"
_HEAD = """# Models

The models that mtexp brings, in their published shapes, smallest first. A name is a mix by itself (`mix=bert_base`) and
may stand in a longer one (`mix=bert_base*2+t5_base`). Any other model of transformers needs
[one token or one file](../how-to/own-model.md).

Weights are random unless `weights=pretrained` is set; latency hardly depends on their values. The size is that of the
weights in fp16: a process also needs a CUDA context (about 0.5 GiB) and its activations. On a CPU the models are shrunk
to a few narrow layers of the same kind (`runtime.shrink=none` forbids it).

| Model | Role | Parameters | Weights | Layers | Width | Workloads | Published as |
|---|---|---:|---:|---:|---:|---|---|
"""
_STRESSORS = """
## Stressors

These are no models. Each presses on one resource of the device, so that you see what a model depends on
([workloads](../workloads.md)). `experiment=sensitivity` runs them beside the models of the study.

| Stressor | What it does |
|---|---|
"""


def page() -> str:
    """Return the page as Markdown."""
    files = sorted(_FOLDER.glob("*.yaml"))
    found = [(yaml.safe_load(text), text) for text in (file.read_text(encoding="utf-8") for file in files)]
    models = sorted((m for m in found if m[0]["role"] != "stressor"), key=lambda m: int(m[0]["parameters"]))
    stressors = [m for m in found if m[0]["role"] == "stressor"]
    rows = [_row(model, _remark(model, text)) for model, text in models]
    rows += [_STRESSORS, *(f"| `{model['name']}` | {_remark(model, text)} |\n" for model, text in stressors)]
    return _HEAD + "".join(rows)


def _row(model: dict[str, Any], remark: str) -> str:
    parameters, role, shape = int(model["parameters"]), model["role"], model["shape"]
    towers = [shape[name] for name in ("text_config", "vision_config") if name in shape] or [shape]
    layers = [tower.get(name) for tower in towers for name in _LAYERS if tower.get(name)]
    widths = [next((tower[name] for name in _WIDTHS if name in tower), None) for tower in towers]
    cells = (
        f"`{model['name']}`",
        role.replace("_", "-"),
        f"{parameters / 1e6:,.0f} M",
        f"{parameters * 2 / 2**30:.2f} GiB",
        " + ".join(map(str, layers)),
        " + ".join(str(width) for width in widths if width),
        ", ".join(WORKLOADS.get(role, PASSES)),
        "; ".join(part for part in (model.get("hub", ""), remark) if part),
    )
    return "| " + " | ".join(cells) + " |\n"


_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "encoder_layers", "num_decoder_layers", "decoder_layers")
_WIDTHS = ("hidden_size", "d_model", "n_embd")


def _remark(model: dict[str, Any], text: str) -> str:
    """What the first line of the file says beside where the model was published."""
    return text.splitlines()[0].removeprefix("# ").removeprefix(model.get("hub", "")).lstrip(":;, ").rstrip(".")

"""What kind of model an architecture is, and what one is given. May touch: transformers.

Everything is read off transformers' own tables, the configuration and the model's ``forward``; no architecture is named
here.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from torch.nn import functional
from transformers import AutoConfig
from transformers.models.auto import modeling_auto

from mtexp.collector import collector_off
from mtexp.errors import MtexpError
from mtexp.spec import ModelSpec, TenantSpec, WorkloadSpec

AUTOMATIC = {
    "encoder": "AutoModel",
    "embedding": "AutoModel",
    "decoder": "AutoModelForCausalLM",
    "encoder_decoder": "AutoModelForSeq2SeqLM",
    "vision": "AutoModel",
    "audio": "AutoModel",
    "vision_language": "AutoModel",
}
"""Class that builds a model of a role whose file names none."""
_SPEECH = "AutoModelForSpeechSeq2Seq"
_OF_TASK = (
    ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "decoder", ""),
    ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "encoder_decoder", ""),
    ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", "encoder_decoder", _SPEECH),
)
"""Tables of transformers in which the class that a published configuration names is looked up, and the role it has."""
_SECONDS = 10
"""Default length of an audio input, for configurations that do not give one."""
_SAMPLING_RATE = 16_000
_FRAMES = 1000


class NoRequest(MtexpError):
    """A model that mtexp has no request for; the message says what to do."""


def config_of(spec: ModelSpec) -> Any:
    """The configuration object of ``spec``'s shape."""
    shape = {name: value for name, value in spec.shape.items() if name not in ("model_type", "auto_map")}
    return AutoConfig.for_model(spec.architecture, **copy.deepcopy(shape))


def class_of(spec: ModelSpec) -> Any:
    """The class that builds ``spec``: the one its file names, or that of its role.

    Raises:
        NoRequest: transformers has no class of that name.
    """
    name = spec.model_class or AUTOMATIC[spec.role]
    if name == AUTOMATIC["encoder_decoder"] and spec.architecture in _table("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES"):
        name = _SPEECH
    found = getattr(transformers, name, None)
    if not inspect.isclass(found) or not hasattr(found, "from_pretrained"):
        raise NoRequest(f"transformers {transformers.__version__} has no model class {name}")
    return found


def from_config(spec: ModelSpec, **options: Any) -> Any:
    """Build ``spec`` from its shape, where the default device says, with the options of ``from_config``."""
    with collector_off():  # transformers imports the module of an architecture, and much with it, when it is asked for
        found, config = class_of(spec), config_of(spec)
        build = getattr(found, "from_config", None) or found._from_config  # that of a class that is not automatic
        return build(config, **options)


def role_of(architecture: str, shape: Mapping[str, Any]) -> tuple[str, str]:
    """The role of a published configuration, and the class that builds it where that is not the role's own.

    The class that the configuration names (``architectures``) decides: one for causal language models is a decoder, one
    that generates text from text or speech an encoder-decoder. One with a head for images or sounds is built as it is
    named. Anything else is the bare model, whose inputs decide.
    """
    named = [name for name in shape.get("architectures") or [] if isinstance(name, str)]
    for name in named[:1]:
        for table, role, automatic in _OF_TASK:
            if name in _classes(table, architecture):
                return role, automatic
    given = set(inspect.signature(_bare(architecture).forward).parameters)
    images, tokens = "pixel_values" in given, "input_ids" in given
    if images and tokens:
        return "vision_language", ""
    role = "vision" if images else "audio" if given & {"input_values", "input_features"} else "encoder"
    head = named[0] if named and role != "encoder" and named[0] != _bare(architecture).__name__ else ""
    return role, head


def _bare(architecture: str) -> Any:
    names = _classes("MODEL_MAPPING_NAMES", architecture)
    if not names:
        raise NoRequest(f"transformers {transformers.__version__} has no bare model of {architecture}")
    return getattr(transformers, names[0])


def _classes(table: str, architecture: str) -> tuple[str, ...]:
    found = _table(table).get(architecture, ())
    return (found,) if isinstance(found, str) else tuple(found)


def _table(name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(modeling_auto, name, {})
    return found


# --- inputs -----------------------------------------------------------------------------------------------------------


def possible_inputs(model: Any, spec: ModelSpec, workload: WorkloadSpec) -> Iterator[dict[str, list[int]]]:
    """The inputs that ``model`` may take, most likely first: {name: shape without the batch}.

    Sizes are those of the model's file (``inputs``), else of its configuration. Text is ``workload.seq_len`` tokens, or
    as many as the text side of an image and text model has positions.

    Raises:
        NoRequest: The configuration has no size for an input that the model needs.
    """
    given = {name: list(shape) for name, shape in spec.inputs.items()}
    taken = inspect.signature(model.forward).parameters
    if spec.architecture in _table("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES") and "input_ids" in taken:
        raise NoRequest("its prompts hold places for images, each model its own: give it a factory of yours (target)")
    first: list[dict[str, list[int]]] = [{}]
    main = model.main_input_name
    needed = [main] + [name for name in ("pixel_values", "input_ids") if name in taken and name != main]
    if model.config.is_encoder_decoder and "decoder_input_ids" in taken:
        needed.append("decoder_input_ids")
    for name in needed:
        shapes = [given[name]] if name in given else list(_shapes(name, model, workload))
        if not shapes:
            raise NoRequest(f"its configuration has no size of {name}: set inputs.{name}=[...], without the batch")
        first = [{**known, name: shape} for known in first for shape in shapes]
    yield from ({**given, **known} for known in first)


def _shapes(name: str, model: Any, workload: WorkloadSpec) -> Iterator[list[int]]:
    config = model.config
    if name.endswith("input_ids"):
        text = getattr(config, "text_config", None)
        yield [min(workload.seq_len, getattr(text, "max_position_embeddings", None) or workload.seq_len)]
    elif name == "pixel_values":
        vision = getattr(config, "vision_config", None) or config
        size = getattr(vision, "image_size", None)
        if size:
            height, width = size if isinstance(size, list | tuple) else (size, size)
            yield [getattr(vision, "num_channels", 3), height, width]
    elif name == "input_features" and hasattr(config, "max_source_positions"):
        yield [config.num_mel_bins, 2 * config.max_source_positions]  # the first convolution halves it
    elif hasattr(config, "num_mel_bins"):
        yield [getattr(config, "max_length", _FRAMES), config.num_mel_bins]
    elif name == "input_values":
        samples = _SECONDS * getattr(config, "sampling_rate", _SAMPLING_RATE)
        yield [samples]
        yield [getattr(config, "audio_channels", 1), samples]


def made(
    inputs: Mapping[str, list[int]], batch: int, model: Any, seed: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """The tensors of ``inputs``: names that end in ``ids`` are tokens, in ``mask`` ones, others normally distributed.

    The same for the same seed, on whatever device; in the type of the model's weights.
    """
    generator = torch.Generator().manual_seed(seed)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    tensors = {}
    for name, shape in inputs.items():
        if name.endswith("ids"):
            value = torch.randint(0, vocabulary(model.config), (batch, *shape), generator=generator)
        elif name.endswith("mask"):
            value = torch.ones(batch, *shape, dtype=torch.long)
        else:
            value = torch.randn(batch, *shape, generator=generator).to(dtype)
        tensors[name] = value.to(device)
    return tensors


def inputs_of(model: Any, tenant: TenantSpec, device: torch.device) -> dict[str, torch.Tensor]:
    """What one request of ``tenant`` is given, by name, the batch first."""
    tokens, shapes = [tenant.workload.seq_len], dict(tenant.model.inputs)
    if not shapes:
        shapes = {"input_ids": tokens}
        if tenant.model.role == "encoder_decoder":
            shapes["decoder_input_ids"] = tokens
    return made(shapes, tenant.workload.batch_size, model, tenant.seed, device)


def vocabulary(config: Any) -> int:
    """Words that the text side of a model knows."""
    size: int = getattr(config, "vocab_size", None) or config.get_text_config(decoder=True).vocab_size
    return size


def chooses(model: torch.nn.Module) -> bool:
    """Whether rounding may choose another way through ``model``: an expert, or the entry of a code book."""
    config = model.config
    experts = any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    return experts or getattr(config, "codebook_size", None) is not None


# --- embeddings -------------------------------------------------------------------------------------------------------


def _mean(found: Any) -> torch.Tensor:
    return functional.normalize(found.last_hidden_state.mean(1), dim=-1)


def _first(found: Any) -> torch.Tensor:
    return functional.normalize(found.last_hidden_state[:, 0], dim=-1)


def _last(found: Any) -> torch.Tensor:
    return functional.normalize(found.last_hidden_state[:, -1], dim=-1)


POOLING = {"mean": _mean, "cls": _first, "last": _last}
"""How the last hidden states (batch, tokens, width) become one embedding (batch, width) of length 1; no token of a
request is padding."""

"""Configurations as models are published with: of a hub id or a local folder, and the architectures that exist.

May touch: the folder it is given, the hub's cache, and for a hub id that is not in it the network; the text of the
installed transformers, which is read and not imported (that takes seconds).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mtexp.config.checks import nearest
from mtexp.config.shapes import not_sizes
from mtexp.errors import ConfigError

MAX_CONFIG_BYTES = 2**20
HUB, FOLDER, TARGET, SERVER = "hub:", "folder:", "target:", "server:"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
_ARCHITECTURE = re.compile(r'\(\s*"([a-zA-Z0-9_.-]+)",\s*"\w+Config"')
_ALLOWED = "hub:ORGANISATION/NAME or folder:PATH"
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Published:
    """A published configuration."""

    source: str
    """Hub id or folder, as pretrained weights are loaded from."""
    architecture: str
    shape: dict[str, Any]


def model_name(token: str) -> str | None:
    """The name of the model that ``hub:ID``, ``folder:PATH``, ``target:module:factory`` or ``server:NAME`` stands for.

    The last part of the id or path, module and factory, or the name, in lower case, with ``_`` for what a tenant's id
    cannot hold. None for any other text.
    """
    for prefix, separator in ((HUB, "/"), (FOLDER, "/"), (TARGET, "."), (SERVER, "/")):
        if token.startswith(prefix) and (last := token.removeprefix(prefix).rstrip("/").rpartition(separator)[2]):
            name = re.sub(r"[^a-z0-9]+", "_", last.lower()).strip("_")[:64]
            return name if name and name[0].isalpha() else f"m_{name}"[:64]
    return None


@cache
def published(key: str, token: str) -> Published:
    """Read the configuration that ``token`` (``hub:ID`` or ``folder:PATH``) stands for.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    if token.startswith(FOLDER):
        folder = Path(token.removeprefix(FOLDER)).expanduser()
        architecture, shape = of_folder(key, token, folder)
        return Published(str(folder.resolve()), architecture, shape)
    source = token.removeprefix(HUB)
    if not token.startswith(HUB) or not _HUB_ID.fullmatch(source):
        raise ConfigError(key, token, _ALLOWED, "Correct it.")
    return Published(source, *_read(key, token, _from_hub(key, token, source)))


_MERGE = (
    'pip install peft; python -c "from peft import AutoPeftModelForCausalLM as A; '
    "A.from_pretrained('{}').merge_and_unload().save_pretrained('merged')\", and name the folder merged"
)


def of_folder(key: str, value: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return architecture and shape of the model in ``folder``.

    Raises:
        ConfigError: There is no such folder, it holds an adapter, or no configuration that can be read.
    """
    if not os.path.isdir(folder):
        raise ConfigError(key, value, "a folder with config.json", "There is no such folder: correct the path.")
    refuse_adapter(key, value, folder)
    return _read(key, value, folder / "config.json")


def refuse_adapter(key: str, value: str, folder: Path) -> None:
    """Refuse a folder that holds an adapter (LoRA) rather than a model."""
    if os.path.isfile(folder / "adapter_config.json"):
        remedy = f"It holds an adapter (LoRA). Merge it with its model first: {_MERGE.format(folder)}."
        raise ConfigError(key, value, "a folder with a whole model", remedy)


def _from_hub(key: str, token: str, source: str) -> Path:
    """The configuration in the hub's cache, or else the hub's; asked once, without the retries of its client."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    cached = huggingface_hub.try_to_load_from_cache(source, "config.json")
    if isinstance(cached, str):
        return Path(cached)
    allowed = "a model of the hub, or of its cache here"
    try:
        url = huggingface_hub.hf_hub_url(source, "config.json")
        huggingface_hub.get_hf_file_metadata(url, timeout=_TIMEOUT_S)
        return Path(huggingface_hub.hf_hub_download(source, "config.json"))
    except EntryNotFoundError as error:
        remedy = "It has no config.json: it is no model of transformers, or an adapter (merge it first)."
        raise ConfigError(key, token, allowed, remedy) from error
    except Exception as error:  # whatever the hub's client and its HTTP library raise
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
        remedy = f"{why}. Correct the id; offline, use folder:PATH; for a gated one, log in with `hf auth login`."
        raise ConfigError(key, token, allowed, remedy) from error


def _read(key: str, value: str, file: Path) -> tuple[str, dict[str, Any]]:
    allowed = "a model with a config.json"
    try:
        with file.open(encoding="utf-8") as text:
            shape = json.loads(text.read(MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(key, value, allowed, f"config.json cannot be read: {error}.") from error
    if not isinstance(shape, dict) or not isinstance(shape.get("model_type"), str):
        raise ConfigError(key, value, allowed, "Its config.json names no model_type.")
    if wrong := not_sizes(shape):
        raise ConfigError(key, value, allowed, f"Its config.json has {wrong}, which is no size.")
    return shape["model_type"], shape


# --- architectures ----------------------------------------------------------------------------------------------------


@cache
def architectures() -> frozenset[str]:
    """Every ``model_type`` of the installed transformers; empty where its files are arranged otherwise."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return frozenset()
    folder = Path(spec.origin).parent / "models" / "auto"
    files = [folder / "auto_mappings.py", folder / "configuration_auto.py"]
    return frozenset(name for file in files if file.is_file() for name in _ARCHITECTURE.findall(file.read_text()))


def check_architecture(key: str, architecture: str) -> None:
    """Refuse an architecture that the installed transformers does not have, with the nearest name."""
    known = architectures()
    if known and architecture not in known:
        remedy = f"{nearest(architecture, known)} Or install a transformers that has it.".strip()
        if "." in architecture:
            remedy = "For a module of your own write target: package.module:factory instead."
        allowed = f"one of the {len(known)} architectures (model_type) of the installed transformers"
        raise ConfigError(key, architecture or "(empty)", allowed, remedy)

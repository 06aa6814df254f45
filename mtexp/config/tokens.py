"""Choices written as one token: ``mix=bert_base*2+hub:Qwen/Qwen3-0.6B`` and ``mps_settings=30pct``.

Hydra looks up a group's choice in its search path. The source here generates the content of a choice that has no file
from its name. Tokens therefore compose, sweep and work with every launcher like any other choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

from mtexp.config.published import SERVER, TARGET, model_name

_PART = re.compile(r"([A-Za-z][A-Za-z0-9_]*|(?:hub|folder|target|server):[^*+]+)(?:\*([0-9]{1,4}))?")
_PERCENTAGE = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?)pct")
_MAX_PARTS = 64


def parse_mix(token: str) -> Mapping[str, int] | None:
    """Return {model: count} of a mix token such as ``bert_base*2+llama_3_2_1b``; None if ``token`` is not one.

    A model is a name in ``conf/models``, ``hub:ID``, ``folder:PATH``, ``target:MODULE:FACTORY`` or ``server:NAME``; one
    that is named twice counts twice. The caller checks whether the models exist.
    """
    counts: dict[str, int] = {}
    parts = token.split("+")
    if len(parts) > _MAX_PARTS:
        return None
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None:
            return None
        counts[match[1]] = counts.get(match[1], 0) + int(match[2] or 1)
    return counts


def parse_percentage(token: str) -> float | None:
    """Return 30.0 for ``30pct``; None if ``token`` is not a percentage."""
    match = _PERCENTAGE.fullmatch(token)
    return float(match[1]) if match else None


def _mix(token: str) -> dict[str, object] | None:
    counts = parse_mix(token)
    if counts is None:
        return None
    names = tenant_names(counts)
    defaults: list[object] = [{f"/models@tenants.{names[model]}": model} for model in counts]
    tenants = {names[model]: {"count": count, "name": names[model]} for model, count in counts.items()}
    return {"defaults": [*defaults, "_self_"], "name": token, "models": token, "tenants": tenants}


def tenant_names(models: Iterable[str]) -> dict[str, str]:
    """Return {model: name of its tenant} of the models of a mix token; two of one name are numbered."""
    names: dict[str, str] = {}
    for model in models:
        name = first = model_name(model) or model
        number = 1
        while name in names.values():
            number += 1
            name = f"{first}_{number}"
        names[model] = name
    return names


def _model(token: str) -> dict[str, object] | None:
    name = model_name(token)
    if name is None:
        return None
    if token.startswith(SERVER):
        return {"name": name, "role": "server"}
    return {"name": name, **({"target": token.removeprefix(TARGET)} if token.startswith(TARGET) else {"config": token})}


def _mps_settings(token: str) -> dict[str, object] | None:
    pct = parse_percentage(token)
    return None if pct is None else {"name": token, "mode": "managed", "active_thread_pct": pct}


_GROUPS = {"mix": _mix, "models": _model, "mps_settings": _mps_settings}


class TokenSource(ConfigSource):
    """Hydra config source ``mtexp-token://`` for choices that are written as tokens."""

    @staticmethod
    def scheme() -> str:
        """Scheme of the search path entry."""
        return "mtexp-token"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the content of ``group/token``."""
        content = self._content(config_path)
        if content is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        config, path = OmegaConf.create(content), f"{self.scheme()}://"
        return ConfigResult(config=config, path=path, provider=self.provider, header={"package": None})

    def available(self) -> bool:
        """Always there."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Always false: the files define the groups."""
        return False

    def is_config(self, config_path: str) -> bool:
        """Whether ``group/token`` can be read as a token."""
        return self._content(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return nothing: tokens cannot be listed."""
        return []

    def _content(self, config_path: str) -> dict[str, object] | None:
        group, _, token = config_path.removesuffix(".yaml").partition("/")
        return _GROUPS[group](token) if group in _GROUPS else None


def register() -> None:
    """Make ``mtexp-token://`` known to Hydra."""
    Plugins.instance().register(TokenSource)

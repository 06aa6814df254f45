"""The model of a tenant: where its shape comes from, what is read off it, and whether it can be asked for. May touch:
the folder or hub id that a configuration names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtexp.config.checks import at_least, own_or_run
from mtexp.config.own_code import own_model
from mtexp.config.published import check_architecture, of_folder, published, refuse_adapter
from mtexp.config.read_off import ReadOff, read_off
from mtexp.config.schema import Attention, Config, Role, TenantConfig, Weights
from mtexp.config.shapes import (
    MAX_SIZE,
    dimensions,
    has_formula,
    known_counts,
    needed_positions,
    not_sizes,
    shrink,
    shrink_inputs,
    shrink_stressor,
)
from mtexp.config.weights import layers_in, not_safetensors
from mtexp.errors import ConfigError, Misplaced
from mtexp.spec import STRESSORS, CostSpec, ModelSpec, WorkloadSpec

PASSES = ("forward", "train")
WORKLOADS = {
    "decoder": ("forward", "prefill", "decode", "generate", "train"),
    "encoder_decoder": ("forward", "generate", "train"),
}
"""Workloads of a role; the others have :data:`PASSES`."""
_SIZES = {"sm": ("size", "repeats"), "launch": ("repeats",)} | dict.fromkeys(("dram", "l2", "pcie"), ("mib", "repeats"))
"""What the shape of each kind of stressor names."""
_FORMULA_ROLES = ("encoder", "decoder", "embedding")


def model_of(
    config: Config, key: str, tenant: TenantConfig, workload: WorkloadSpec, *, shrunk: bool
) -> tuple[ModelSpec, CostSpec]:
    """Return the model of one entry of the mix, and what a forward pass takes where no formula says.

    Args:
        config: The composed configuration.
        key: Of the entry.
        tenant: The entry.
        workload: Of the entry.
        shrunk: Make a model with random weights small.

    Raises:
        ConfigError: It cannot be what the entry says.
    """
    weights = tenant.weights or config.weights
    if tenant.target:
        return own_model(key, tenant, workload), CostSpec()
    if tenant.params or tenant.role is Role.custom:
        raise ConfigError(f"{key}.target", "(empty)", "package.module:factory", f"Set {key}.target.")
    if tenant.role is Role.stressor:
        _check_stressor(key, tenant.architecture, tenant.shape)
        shape = shrink_stressor(tenant.shape) if shrunk else dict(tenant.shape)
        return _stressor(config, key, tenant, shape, weights), CostSpec()
    model = _asked(key, tenant, weights)
    if weights is not Weights.pretrained and shrunk:
        shape = shrink(model.shape)
        model = replace(model, shape=shape, inputs=shrink_inputs(model.inputs, shape))
    check_architecture(f"{key}.architecture", model.architecture)
    formula = _has_formula(model, tenant)
    _check_shape(key, model, needed=formula)
    counts = known_counts(model.architecture, model.shape) if formula else None
    if counts is not None:
        cost, offered = CostSpec(), tenant.attention or list(Attention)
        model = replace(model, parameters=counts.parameters, layer_parameters=counts.layer_parameters)
    else:
        found = read_off(key, model, workload)
        cost, offered = found.cost, _offered(tenant, found)
        model = _completed(model, found)
    _check_workload(config, key, tenant, model, workload)
    _check_positions(key, tenant, model, workload)
    pooling = (tenant.pooling.name if tenant.pooling else "mean") if model.role == "embedding" else ""
    attention = _attention(config, key, tenant, offered).name
    return replace(model, attn_implementation=attention, pooling=pooling), cost


def _stressor(config: Config, key: str, tenant: TenantConfig, shape: dict[str, Any], weights: Weights) -> ModelSpec:
    if tenant.architecture not in STRESSORS:
        remedy = "For work of your own use target: package.module:factory."
        raise ConfigError(f"{key}.architecture", tenant.architecture, STRESSORS, remedy)
    return ModelSpec(
        name=tenant.name,
        role="stressor",
        architecture=tenant.architecture,
        shape=shape,
        weights=weights.name,
        parameters=tenant.parameters,
        attn_implementation=_attention(config, key, tenant, tenant.attention or list(Attention)).name,
    )


def _asked(key: str, tenant: TenantConfig, weights: Weights) -> ModelSpec:
    """The model as the entry says; an empty role is to be read off."""
    for name, sizes in tenant.inputs.items():
        for size in sizes:
            at_least(f"{key}.inputs.{name}", size, 1)
    architecture, shape, source = tenant.architecture, dict(tenant.shape), ""
    role = (tenant.role or Role.encoder).name
    if tenant.config:
        if architecture:
            remedy = f"Leave {key}.architecture out, or {key}.config."
            raise Misplaced(f"{key}.architecture", architecture, f"{key}.config names the architecture already", remedy)
        found = published(f"{key}.config", tenant.config)
        architecture, shape = found.architecture, found.shape | shape
        role, source = tenant.role.name if tenant.role else "", found.source
    if weights is Weights.pretrained:
        own = tenant.source or tenant.hub or source
        architecture, shape = _pretrained(key, own, architecture, shape)
        source = own
    else:
        source = ""
    if wrong := not_sizes(shape):
        name, _, value = wrong.partition("=")
        raise ConfigError(f"{key}.shape.{name}", value, f"an integer up to {MAX_SIZE}", "Correct it.")
    return ModelSpec(
        name=tenant.name,
        role=role,
        architecture=architecture,
        shape=shape,
        weights=weights.name,
        source=source,
        model_class=tenant.model_class,
        inputs={name: list(sizes) for name, sizes in tenant.inputs.items()},
    )


def _has_formula(model: ModelSpec, tenant: TenantConfig) -> bool:
    plain = model.role in _FORMULA_ROLES and not model.model_class and not model.inputs
    return plain and not tenant.config and has_formula(model.architecture)


def _completed(model: ModelSpec, found: ReadOff) -> ModelSpec:
    return replace(
        model,
        role=found.role,
        model_class=found.model_class,
        parameters=found.parameters,
        layer_parameters=found.layer_parameters,
        inputs=found.inputs,
    )


def _offered(tenant: TenantConfig, found: ReadOff) -> list[Attention]:
    """The attention implementations that the model has, in the order of its file where that names some."""
    there = [Attention[name] for name in found.attention]
    return [name for name in tenant.attention if name in there] or there


def _pretrained(key: str, source: str, architecture: str, shape: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return architecture and shape of pretrained weights: a local folder's own, or those of the configuration."""
    allowed = "a hub id, or a local folder with config.json and weights in safetensors"
    if not source:
        raise ConfigError(f"{key}.source", "(empty)", allowed, f"Set {key}.source, or weights=random.")
    folder = Path(source).expanduser()
    if not os.path.isdir(folder):
        if source.count("/") == 1 and source[0] not in "./~":  # organisation/name: the hub's to resolve
            return architecture, shape
        raise ConfigError(f"{key}.source", source, allowed, "There is no such folder: correct the path.")
    refuse_adapter(f"{key}.source", source, folder)
    if not any(folder.glob("*.safetensors")):
        remedy = "The folder has no *.safetensors: save the model with safe_serialization=True."
        raise ConfigError(f"{key}.source", source, allowed, remedy)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        if wrong := not_safetensors(file):
            raise ConfigError(f"{key}.source", source, allowed, f"{file.name} {wrong}.")
    architecture, shape = of_folder(f"{key}.source", source, folder)
    d = dimensions(shape)
    if d and has_formula(architecture) and (there := layers_in(files)) < d.layers:
        remedy = f"config.json names {d.layers} layers, the weights have {there}: take both of the same model."
        raise ConfigError(f"{key}.source", source, allowed, remedy)
    return architecture, shape


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_shape(key: str, model: ModelSpec, *, needed: bool) -> None:
    d = dimensions(model.shape)
    if d is None:
        if needed:
            what = "hidden size, layers, heads, vocabulary and positions, all positive integers"
            raise ConfigError(f"{key}.shape", model.architecture, what, f"Complete the shape of {model.name}.")
        return
    if min(d.head_dim, d.kv_heads, d.intermediate) < 1:
        remedy = f"Correct the shape of {model.name}."
        raise ConfigError(f"{key}.shape", model.architecture, "positive sizes", remedy)
    if "head_dim" not in model.shape and d.hidden % d.heads:
        what = f"a number of heads that divides {d.hidden}"
        raise ConfigError(f"{key}.shape", f"{d.heads} heads", what, f"Correct the shape of {model.name}.")
    if d.heads % d.kv_heads:
        what = f"a number of key/value heads that divides {d.heads}"
        raise ConfigError(f"{key}.shape", f"{d.kv_heads} key/value heads", what, f"Correct {model.name}.")


def _check_stressor(key: str, kind: str, shape: dict[str, Any]) -> None:
    known = _SIZES.get(kind, tuple(shape))
    if missing := [name for name in known if name not in shape]:
        remedy = f"Add {' and '.join(missing)}."
        raise ConfigError(f"{key}.shape", dict(shape) or "(empty)", f"{' and '.join(known)} of the kind {kind}", remedy)
    for name, value in shape.items():
        if name not in known:
            raise ConfigError(
                f"{key}.shape.{name}", value, f"only {' and '.join(known)} of the kind {kind}", "Drop it."
            )
        kinds = (int, float) if name == "mib" else (int,)
        if type(value) not in kinds or not 0 < value <= MAX_SIZE:
            what = f"{'a number' if name == 'mib' else 'an integer'} above 0, at most {MAX_SIZE}"
            raise ConfigError(f"{key}.shape.{name}", value, what, "Correct it.")


def _check_workload(config: Config, key: str, tenant: TenantConfig, model: ModelSpec, workload: WorkloadSpec) -> None:
    allowed = WORKLOADS.get(model.role, PASSES)
    if workload.kind not in allowed:
        own_key, _ = own_or_run(tenant.workload, f"{key}.workload", config.workload.kind, "workload")
        article, role = "an" if model.role[0] in "aeiou" else "a", model.role.replace("_", " ")
        remedy = f"{tenant.name} is {article} {role} model: drop it, or set {key}.workload=forward for it alone."
        raise ConfigError(own_key, workload.kind, list(allowed), remedy)


def _check_positions(key: str, tenant: TenantConfig, model: ModelSpec, workload: WorkloadSpec) -> None:
    if model.role == "encoder_decoder":
        positions = _sizes_of(model.shape, "max_target_positions", "max_position_embeddings")
        needed = max(workload.seq_len, workload.new_tokens if workload.kind == "generate" else 0)
        extra = 0
    else:
        d = None if model.inputs else dimensions(model.shape)
        positions = d.positions if d else 0
        needed = needed_positions(workload.kind, workload.seq_len, workload.new_tokens)
        extra = needed - workload.seq_len
    if positions and needed > positions:
        what = f"at most {positions - extra} for {tenant.name}" + (f" with {extra} new tokens" if extra else "")
        size_key = f"{key}.seq_len" if tenant.seq_len is not None else "workload.seq_len"
        raise ConfigError(size_key, workload.seq_len, what, f"Shorten it, or set {key}.seq_len for this tenant alone.")


def _sizes_of(shape: Mapping[str, Any], *names: str) -> int:
    return next((int(shape[name]) for name in names if isinstance(shape.get(name), int)), 0)


def _attention(config: Config, key: str, tenant: TenantConfig, offered: list[Attention]) -> Attention:
    own_key = f"{key}.attn_implementation"
    chosen_key, chosen = own_or_run(
        tenant.attn_implementation, own_key, config.attn_implementation, "attn_implementation"
    )
    if chosen is None:
        return offered[0]
    if chosen not in offered:
        allowed = f"{', '.join(a.name for a in offered)} ({tenant.name} has no other)"
        raise ConfigError(chosen_key, chosen.name, allowed, f"Set {own_key}={offered[0].name} for this tenant.")
    return chosen

"""Every file in conf/ composes, converts, and says what the schema can hold."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from mtexp.config import CONF_DIR, Composer, compose_spec, to_spec
from mtexp.config.composer import to_config
from mtexp.config.hardware import hardware_of
from mtexp.config.plan import plan
from mtexp.config.problems import Refused
from mtexp.config.shapes import known_counts, shrink
from mtexp.config.tokens import parse_mix
from mtexp.host import Device
from mtexp.spec import ModelSpec, from_json, spec_hash, to_json
from mtexp.tenant.counting import count

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)
PUBLISHED = {
    "distilgpt2": 81_912_576,
    "bert_base": 109_482_240,
    "bert_large": 335_141_888,
    "deberta_v3_base": 183_831_552,
    "deberta_v3_large": 434_012_160,
    "llama_3_2_1b": 1_235_814_400,
    "llama_3_2_3b": 3_212_749_824,
    "mistral_7b": 7_241_732_096,
    "minilm_l6": 22_713_216,
}


def _names(folder: str) -> list[str]:
    return sorted(file.stem for file in Path(CONF_DIR, folder).glob("*.yaml"))


@cache
def _models(device: Device | None) -> dict[str, ModelSpec]:
    """Each file of conf/models as a tenant, all of them of one mix: composing takes longer than converting."""
    roomy = device and replace(device, memory_mib=10**6)
    spec = compose_spec([f"mix={'+'.join(_names('models'))}"], roomy)
    return {tenant.id: tenant.model for tenant in spec.tenants}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_the_published_parameters_to_the_unit(name: str) -> None:
    """The YAML states the published total, the formula gives it, and transformers builds exactly that."""
    model = _models(GPU)[name]
    assert model.parameters == PUBLISHED[name]
    assert yaml.safe_load(Path(CONF_DIR, "models", f"{name}.yaml").read_text())["parameters"] == PUBLISHED[name]
    assert count(model) == {"parameters": PUBLISHED[name], "layer_parameters": model.layer_parameters}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shrunken_model_is_small_keeps_its_kind_and_is_counted_exactly(name: str) -> None:
    """On the CPU the same architecture is built, with the number of parameters that the spec says."""
    model, full = _models(None)[name], _models(GPU)[name]
    assert model.architecture == full.architecture
    assert known_counts(model.architecture, model.shape) == (model.parameters, model.layer_parameters)
    assert count(model) == {"parameters": model.parameters, "layer_parameters": model.layer_parameters}
    assert model.parameters < 200_000
    assert model.shape == shrink(full.shape)


@pytest.mark.parametrize("name", ["bert_base", "deberta_v3_base", "distilgpt2", "llama_3_2_1b", "mistral_7b"])
def test_a_shrunken_model_computes(name: str) -> None:
    """A forward pass of a shrunken model gives numbers, also for lengths beyond its relative positions."""
    from transformers import AutoConfig, AutoModel

    model = _models(None)[name]
    config = AutoConfig.for_model(model.architecture, **dict(model.shape))
    network = AutoModel.from_config(config, attn_implementation=model.attn_implementation).eval()
    with torch.inference_mode():
        output = network(input_ids=torch.randint(0, 200, (2, 96))).last_hidden_state
    assert torch.isfinite(output).all()


def test_shrinking_keeps_grouped_query_attention() -> None:
    """A model with fewer key/value heads than heads still has fewer."""
    shape = _models(None)["llama_3_2_1b"].shape
    assert shape["num_key_value_heads"] < shape["num_attention_heads"]


def test_every_model_converts() -> None:
    """Each file of conf/models is a tenant, named after its file, on a GPU and on a CPU."""
    for device in (GPU, None):
        assert [model.name for model in _models(device).values()] == _names("models")


@pytest.mark.parametrize("name", _names("mix"))
def test_every_mix_converts_and_is_named_after_its_file(name: str) -> None:
    """Each mix has tenants with ids that differ, on a GPU and on a CPU."""
    for device in (GPU, None):
        spec = compose_spec([f"mix={name}"], device)
        assert spec.mix == name
        assert len({t.id for t in spec.tenants}) == len(spec.tenants) > 0


_CHOICES = {
    group: _names(group)
    for group in ("precision", "mps_settings", "telemetry", "baseline", "sharing", "runtime", "profiler")
}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in _CHOICES.items() for name in names])
def test_every_choice_converts_on_a_gpu(group: str, name: str) -> None:
    """No choice that -h lists is broken. Choices of several groups are composed at once, and converted one by one."""
    number = _CHOICES[group].index(name)
    composed, _ = Composer().load([f"{group}={names[number]}" for group, names in _CHOICES.items() if names[number:]])
    config = to_config(Composer().load([])[0])
    setattr(config, group, getattr(to_config(composed), group))
    spec = to_spec(config, hardware_of(GPU))
    if group == "mps_settings":
        assert spec.mps_settings == name
    assert from_json(type(spec), to_json(spec)) == spec


@pytest.mark.parametrize("name", _names("workload"))
def test_every_workload_converts_for_a_decoder(name: str) -> None:
    """Decoders have every workload."""
    assert compose_spec(["mix=distilgpt2", f"workload={name}"], GPU).tenants[0].workload.kind == name


@pytest.mark.parametrize("name", [n for n in _names("arrival") if n != "trace"])
def test_every_arrival_converts(name: str) -> None:
    """Arrivals need no further setting but a trace."""
    assert compose_spec([f"arrival={name}"], GPU).tenants[0].arrival.kind == name


def _params(name: str) -> dict[str, list[str]]:
    """What a preset sweeps, and over which values."""
    preset = yaml.safe_load(Path(CONF_DIR, "experiment", f"{name}.yaml").read_text())
    params: dict[str, str] = preset["hydra"]["sweeper"]["params"]
    return {key: [value.strip() for value in str(values).split(",")] for key, values in params.items()}


@cache
def _models_of(mix: str) -> tuple[str, ...]:
    """Models of a mix, whatever it is called."""
    counts = None if mix in _names("mix") else parse_mix(mix)
    if counts is None:
        return tuple(sorted(tenant.model.name for tenant in compose_spec([f"mix={mix}"], GPU).tenants))
    return tuple(sorted(model for model, count in counts.items() for _ in range(count)))


# capacity needs a service level
@pytest.mark.parametrize("name", sorted({*_names("experiment")} - {"capacity"}))
def test_every_experiment_plans_on_gpu_and_cpu(name: str) -> None:
    """Each preset is a sweep whose points could run on either (but for partitions of a GPU), none twice.

    The first mix, one between and the last are planned: each model converts by itself, above.
    """
    params = _params(name)
    assert all(len(set(values)) == len(values) for values in params.values())
    mixes = params.get("mix", [])
    assert {model for mix in mixes for model in _models_of(mix)} <= {*_names("models")}
    some = list(dict.fromkeys([mixes[number] for number in (0, len(mixes) // 2, -1) if mixes]))
    fewer = [f"hydra.sweeper.params.mix='{','.join(some)}'"] if mixes else []
    for device in (GPU,) if name == "sm_curve" else (GPU, None):
        planned = plan([f"+experiment={name}", *fewer], hardware=lambda device=device: hardware_of(device))
        assert planned.multirun, "a preset is a sweep, with or without -m"
        hashes = [spec_hash(point.spec) for point in planned.points]
        points = math.prod(len(values) for values in params.values())
        assert len(set(hashes)) == len(hashes) > 1
        assert len(hashes) == points / max(1, len(mixes)) * max(1, len(some))
        assert {point.spec.shrunk for point in planned.points} == {device is None}


@pytest.mark.parametrize("name", ["sm_curve", "one_axis"])
def test_presets_of_partitions_run_eager_too(name: str) -> None:
    """As their pages say: with CUDA graphs or without."""
    one = f"hydra.sweeper.params.mix={_params(name)['mix'][0]}"
    planned = plan([f"+experiment={name}", "execution=eager", one], hardware=lambda: hardware_of(GPU))
    assert {tenant.execution for point in planned.points for tenant in point.spec.tenants} == {"eager"}


def _measured(name: str) -> set[tuple[str, tuple[str, ...]]]:
    """What the points of a preset measure: how tenants share, and their models."""
    params = _params(name)
    return set(itertools.product(params.get("mps_settings", ["disabled"]), map(_models_of, params["mix"])))


@pytest.mark.parametrize("name", ["baselines", "pairs", "encoders", "decoders", "mixed", "many_few", "scaling"])
def test_the_report_preset_is_the_whole_study(name: str) -> None:
    """Whoever runs it has every point of the others, but for the falling percentages, which its file says."""
    assert _measured(name) <= _measured("report")
    assert "+experiment=mps_percentages" in Path(CONF_DIR, "experiment", "report.yaml").read_text()


@pytest.mark.parametrize(("name", "number"), [("pairs", 7), ("study", 10)])
def test_pairs_are_all_pairs(name: str, number: int) -> None:
    """Of the study's seven models, or of ten: each beside each, itself too, under time slicing and MPS."""
    models = sorted({model for _, mix in _measured(name) for model in mix})
    assert len(models) == number
    assert set(models) <= {*_names("models")}
    pairs = itertools.combinations_with_replacement(models, 2)
    assert _measured(name) == set(itertools.product(("disabled", "default"), pairs))


def test_the_study_is_measured_in_turns() -> None:
    """Served by one set of processes a mode."""
    preset = yaml.safe_load(Path(CONF_DIR, "experiment", "study.yaml").read_text())
    assert preset["side_by_side"] == "mixes"


def test_defaults_are_those_of_the_study() -> None:
    """Without arguments: batch 8, 128 tokens, 10 warm-ups, 100 iterations, fp16, time slicing, processes."""
    spec = compose_spec([], GPU)
    load = spec.tenants[0].workload
    assert (load.kind, load.batch_size, load.seq_len) == ("forward", 8, 128)
    assert (spec.measure.warmup, spec.measure.iterations, spec.measure.overlap) == (10, 100, "sustained")
    assert {t.precision for t in spec.tenants} == {"fp16"}
    assert (spec.mps_settings, spec.sharing.mode, spec.runtime, spec.shrunk) == ("disabled", "processes", "gpu", False)


@pytest.mark.parametrize(
    "content",
    [b"name: [", b"\xff", b"- a", b"a: &a [*a]", b"name: !!python/object/apply:os.getcwd []", b"defaults:\n  - own\n"],
)
def test_a_file_that_cannot_be_composed_is_one_message(tmp_path: Path, content: bytes) -> None:
    """Not what the YAML reader, the decoder or the interpreter's own depth makes of it."""
    (tmp_path / "mix").mkdir()
    (tmp_path / "mix" / "own.yaml").write_bytes(content)
    with pytest.raises(Refused, match="own"):
        plan(["runtime=cpu", "--config-dir", str(tmp_path), "mix=own"])


@pytest.mark.parametrize("name", ["1", "1.5"])
def test_a_file_with_the_name_of_a_number_is_asked_for_in_quotes(tmp_path: Path, name: str) -> None:
    (tmp_path / "mix").mkdir()
    (tmp_path / "mix" / f"{name}.yaml").write_text("defaults:\n  - /models@tenants.a: bert_base\n  - _self_\n")
    command = ["runtime=cpu", "--config-dir", str(tmp_path)]
    assert plan([*command, f"mix='{name}'"]).points[0].spec.mix == name
    with pytest.raises(Refused, match=f"mix={name}.*Quote"):
        plan([*command, f"mix={name}"])


@pytest.mark.parametrize("text", ["hydra.sweep.subdir=x", "hydra.sweep.subdir='../${hydra.job.num}'"])
def test_points_have_folders_of_their_own(text: str) -> None:
    with pytest.raises(Refused, match=r"hydra\.sweep\.subdir="):
        plan(["-m", "runtime=cpu", "mix=solo,pair", text])


def test_a_value_that_only_composing_finds_wrong(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"hydra\.sweeper\.params="):
        plan(["runtime=cpu", "hydra.sweeper.params={a: 1}"])

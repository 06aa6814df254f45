"""Every file in conf/ composes, converts, and says what the schema can hold."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from mtexp.config import CONF_DIR, Composer, compose_spec
from mtexp.config.hardware import hardware_of
from mtexp.config.plan import Plan, plan
from mtexp.config.problems import Refused
from mtexp.config.shapes import known_counts, shrink
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


def _model(name: str, *more: str, device: Device | None = GPU) -> ModelSpec:
    spec = compose_spec(["mix=solo", f"models@mix.tenants.a={name}", *more], device)
    return spec.tenants[0].model


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_the_published_parameters_to_the_unit(name: str) -> None:
    """The YAML states the published total, the formula gives it, and transformers builds exactly that."""
    model = _model(name)
    assert model.parameters == PUBLISHED[name]
    assert Composer().load([f"mix={name}"])[0].mix.tenants[name].parameters == PUBLISHED[name]
    assert count(model) == {"parameters": PUBLISHED[name], "layer_parameters": model.layer_parameters}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shrunken_model_is_small_keeps_its_kind_and_is_counted_exactly(name: str) -> None:
    """On the CPU the same architecture is built, with the number of parameters that the spec says."""
    model, full = _model(name, device=None), _model(name)
    assert model.architecture == full.architecture
    assert known_counts(model.architecture, model.shape) == (model.parameters, model.layer_parameters)
    assert count(model) == {"parameters": model.parameters, "layer_parameters": model.layer_parameters}
    assert model.parameters < 200_000
    assert model.shape == shrink(full.shape)


@pytest.mark.parametrize("name", ["bert_base", "deberta_v3_base", "distilgpt2", "llama_3_2_1b", "mistral_7b"])
def test_a_shrunken_model_computes(name: str) -> None:
    """A forward pass of a shrunken model gives numbers, also for lengths beyond its relative positions."""
    from transformers import AutoConfig, AutoModel

    model = _model(name, device=None)
    config = AutoConfig.for_model(model.architecture, **dict(model.shape))
    network = AutoModel.from_config(config, attn_implementation=model.attn_implementation).eval()
    with torch.inference_mode():
        output = network(input_ids=torch.randint(0, 200, (2, 96))).last_hidden_state
    assert torch.isfinite(output).all()


def test_shrinking_keeps_grouped_query_attention() -> None:
    """A model with fewer key/value heads than heads still has fewer."""
    shape = _model("llama_3_2_1b", device=None).shape
    assert shape["num_key_value_heads"] < shape["num_attention_heads"]


@pytest.mark.parametrize("name", _names("models"))
def test_every_model_converts(name: str) -> None:
    """Each file of conf/models is a tenant by itself, named after its file."""
    assert _model(name).name == name


@pytest.mark.parametrize("name", _names("mix"))
def test_every_mix_converts_and_is_named_after_its_file(name: str) -> None:
    """Each mix has tenants with ids that differ, on a GPU and on a CPU."""
    for device in (GPU, None):
        spec = compose_spec([f"mix={name}"], device)
        assert spec.mix == name
        assert len({t.id for t in spec.tenants}) == len(spec.tenants) > 0


_GROUPS = ("precision", "mps_settings", "telemetry", "baseline", "sharing", "runtime", "profiler")


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in _GROUPS for name in _names(group)])
def test_every_choice_converts_on_a_gpu(group: str, name: str) -> None:
    """No choice that -h lists is broken."""
    spec = compose_spec([f"{group}={name}"], GPU)
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


@cache
def _planned(name: str, device: Device | None) -> Plan:
    return plan([f"+experiment={name}"], hardware=lambda: hardware_of(device))


# capacity needs a service level, and the study is planned for most of a minute
@pytest.mark.parametrize("name", sorted({*_names("experiment")} - {"capacity", "study"}))
def test_every_experiment_plans_on_gpu_and_cpu(name: str) -> None:
    """Each preset is a sweep all of whose points could run on either (but for partitions of a GPU), none twice."""
    for device in (GPU,) if name == "sm_curve" else (GPU, None):
        planned = _planned(name, device)
        assert planned.multirun, "a preset is a sweep, with or without -m"
        hashes = [spec_hash(point.spec) for point in planned.points]
        assert len(set(hashes)) == len(hashes) > 1
        assert {point.spec.shrunk for point in planned.points} == {device is None}


@pytest.mark.parametrize("name", ["sm_curve", "one_axis"])
def test_presets_of_partitions_run_eager_too(name: str) -> None:
    """As their pages say: with CUDA graphs or without."""
    planned = plan([f"+experiment={name}", "execution=eager"], hardware=lambda: hardware_of(GPU))
    assert {tenant.execution for point in planned.points for tenant in point.spec.tenants} == {"eager"}


def _measured(name: str) -> set[tuple[str, tuple[str, ...]]]:
    """What the points of a preset measure, whatever their mixes are called: how tenants share, and their models."""
    return {
        (point.spec.mps_settings, tuple(sorted(tenant.model.name for tenant in point.spec.tenants)))
        for point in _planned(name, GPU).points
    }


@pytest.mark.parametrize("name", ["baselines", "pairs", "encoders", "decoders", "mixed", "many_few", "scaling"])
def test_the_report_preset_is_the_whole_study(name: str) -> None:
    """Whoever runs it has every point of the others, but for the falling percentages, which its file says."""
    assert _measured(name) <= _measured("report")
    assert "+experiment=mps_percentages" in Path(CONF_DIR, "experiment", "report.yaml").read_text()


def test_pairs_are_all_pairs_of_the_study() -> None:
    """Each of seven models beside each, itself too, under time slicing and MPS."""
    models = sorted({model for _, mix in _measured("pairs") for model in mix})
    assert len(models) == 7
    pairs = itertools.combinations_with_replacement(models, 2)
    assert _measured("pairs") == set(itertools.product(("disabled", "default"), pairs))


def test_the_study_is_all_pairs_of_ten_models_in_turns() -> None:
    """Each beside each, itself too, under time slicing and MPS, served by one set of processes a mode."""
    preset = yaml.safe_load(Path(CONF_DIR, "experiment", "study.yaml").read_text())
    params = preset["hydra"]["sweeper"]["params"]
    mixes = [mix.strip() for mix in params["mix"].split(",")]
    pairs = [tuple(sorted([mix[:-2]] * 2 if mix.endswith("*2") else mix.split("+"))) for mix in mixes]
    models = sorted({model for pair in pairs for model in pair})
    assert len(models) == 10
    assert set(models) <= {*_names("models")}
    assert sorted(pairs) == sorted(itertools.combinations_with_replacement(models, 2))
    assert (params["mps_settings"], preset["side_by_side"]) == ("disabled,default", "mixes")


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

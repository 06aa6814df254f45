"""Models by a hub id or a folder: what a token is called, what is read, and what is refused with what remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtexp.config import compose_spec
from mtexp.config.plan import plan
from mtexp.config.published import architectures, check_architecture, model_name, published
from mtexp.config.tokens import parse_mix, tenant_names
from mtexp.errors import ConfigError

QWEN = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 200,
    "vocab_size": 500,
    "max_position_embeddings": 128,
}


@pytest.fixture(autouse=True)
def forget() -> Any:
    published.cache_clear()


def folder(path: Path, config: dict[str, Any], **files: str) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (path / f"{name}.json").write_text(text)
    return path


def test_a_token_is_a_mix_and_its_tenants_are_named_after_the_model() -> None:
    """Counts, several models, and two models of one name."""
    assert parse_mix("hub:Qwen/Qwen3-0.6B*2+bert_base") == {"hub:Qwen/Qwen3-0.6B": 2, "bert_base": 1}
    assert parse_mix("folder:/data/my-model") == {"folder:/data/my-model": 1}
    assert model_name("hub:Qwen/Qwen3-0.6B") == "qwen3_0_6b"
    assert model_name("folder:/data/7b/") == "m_7b"
    assert model_name("bert_base") is model_name("hub:") is None
    assert list(tenant_names(["hub:a/X", "hub:b/x", "x"]).values()) == ["x", "x_2", "x_3"]


def test_a_folder_is_a_tenant(tmp_path: Path) -> None:
    """Its configuration says what it is; the mix is called by the names of its models."""
    path = folder(tmp_path / "my.model", QWEN)
    spec = compose_spec([f"mix=folder:{path}*2+bert_base", "workload.seq_len=32"])
    assert spec.mix == "my_model*2+bert_base"
    assert [t.id for t in spec.tenants] == ["my_model_0", "my_model_1", "bert_base"]
    model = spec.tenants[0].model
    assert (model.role, model.architecture, model.source) == ("decoder", "qwen3", "")
    assert model.parameters > 0
    decode = compose_spec([f"mix=folder:{path}", "workload=decode", "workload.seq_len=32"])
    assert decode.tenants[0].workload.kind == "decode"


def test_a_file_of_the_user_names_a_published_model_and_changes_its_shape(tmp_path: Path) -> None:
    """``config`` in a model's own YAML, with fields of ``shape`` over the published ones."""
    path = folder(tmp_path / "model", QWEN)
    (tmp_path / "conf" / "models").mkdir(parents=True)
    text = f"name: deep\nconfig: folder:{path}\nshape:\n  num_hidden_layers: 3\n"
    (tmp_path / "conf" / "models" / "deep.yaml").write_text(text)
    arguments = ["--config-dir", str(tmp_path / "conf"), "mix=deep", "baseline=skip", "runtime.kind=cpu"]
    (tenant,) = plan([*arguments, "runtime.shrink=none", "workload.seq_len=32"]).points[0].spec.tenants
    assert (tenant.model.name, tenant.model.shape["num_hidden_layers"]) == ("deep", 3)


def test_the_hub_is_asked_once_and_its_cache_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A configuration in the cache needs no network."""
    file = folder(tmp_path / "cached", QWEN) / "config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(file))
    spec = compose_spec(["mix=hub:Qwen/Qwen3-0.6B", "workload.seq_len=32"])
    assert spec.tenants[0].model.architecture == "qwen3"


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message with the key and the way without a network."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    with pytest.raises(ConfigError, match=r"qwen3_0_6b\.config=hub:Qwen/Qwen3-0\.6B.*no route.*folder:PATH"):
        compose_spec(["mix=hub:Qwen/Qwen3-0.6B"])


@pytest.mark.parametrize("key", ["config", "source"])
def test_an_adapter_is_to_be_merged_first(tmp_path: Path, key: str) -> None:
    """A folder of a LoRA adapter is no model, wherever it is named."""
    path = folder(tmp_path / "lora", QWEN, adapter_config="{}")
    asked = {
        "config": [f"mix=folder:{path}"],
        "source": ["mix=bert_base", "weights=pretrained", f"mix.tenants.bert_base.source={path}"],
    }
    with pytest.raises(ConfigError, match=rf"\.{key}=.*merge_and_unload"):
        compose_spec(asked[key])


def test_an_architecture_that_does_not_exist_has_the_nearest_name() -> None:
    """Found in the text of the installed transformers, which is not imported for it."""
    assert {"bert", "qwen3_moe", "whisper"} <= architectures()
    with pytest.raises(ConfigError, match=r"a\.architecture=qwen3_mo: .*Did you mean qwen3_moe\?"):
        check_architecture("a.architecture", "qwen3_mo")
    with pytest.raises(ConfigError, match="write target: package"):
        check_architecture("a.architecture", "my_package.MyNet")
    with pytest.raises(ConfigError, match=r"architecture=berrt.*bert"):
        compose_spec(["mix=bert_base", "mix.tenants.bert_base.architecture=berrt"])


def test_an_attention_that_a_model_lacks_names_our_key() -> None:
    """A codec has no scaled-dot-product attention, whatever its file says."""
    with pytest.raises(ConfigError, match=r"^attn_implementation=sdpa: allowed: eager"):
        compose_spec(["mix=dac_44khz", "attn_implementation=sdpa"])
    assert compose_spec(["mix=dac_44khz"]).tenants[0].model.attn_implementation == "eager"


@pytest.mark.parametrize(
    ("mix", "kind", "allowed"),
    [("vit_base", "decode", "forward"), ("t5_base", "prefill", "generate"), ("minilm_l6", "generate", "train")],
)
def test_a_workload_that_a_family_does_not_have_is_refused(mix: str, kind: str, allowed: str) -> None:
    """With those that it has."""
    with pytest.raises(ConfigError, match=rf"workload={kind}: .*{allowed}"):
        compose_spec([f"mix={mix}", f"workload={kind}"])


def test_more_tokens_than_a_decoder_has_positions_are_refused() -> None:
    """Whisper's decoder has 448."""
    with pytest.raises(ConfigError, match=r"workload\.seq_len=500: allowed: at most 448"):
        compose_spec(["mix=whisper_small", "workload.seq_len=500"])


def test_a_request_says_what_it_is_given() -> None:
    """Images by their size, texts by their tokens, embeddings with their pooling."""
    requests = {name: compose_spec([f"mix={name}"]).tenants[0].request for name in ("vit_base", "minilm_l6")}
    assert requests["vit_base"] == "one forward pass over pixel_values 8x3x64x64"
    assert requests["minilm_l6"].endswith("mean pooling")

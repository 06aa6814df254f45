"""Weights that are not there, not whole, or not of the model are refused, never replaced by random ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from mtexp.config import compose_spec
from mtexp.config.weights import not_safetensors
from mtexp.errors import ConfigError
from mtexp.spec import ModelSpec, TenantSpec

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small encoder of two layers, saved."""
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
    BertModel(BertConfig(**sizes, num_hidden_layers=2)).save_pretrained(tmp_path)
    return tmp_path


def _composed(folder: Path) -> None:
    source = f"mix.tenants.bert_base.source={folder}"
    compose_spec(["mix=bert_base", "weights=pretrained", source, "workload.seq_len=8"])


def test_whole_weights_are_taken(folder: Path) -> None:
    assert not_safetensors(folder / WEIGHTS) == ""
    _composed(folder)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"", "cut off"),
        (b"\x08\0\0\0\0\0\0\0notjson!", "cannot be read"),
        (b"\xff" * 64, "cut off"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_in_the_plan(folder: Path, content: bytes, why: str) -> None:
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        _composed(folder)


def test_a_file_that_was_cut_off_is_refused_in_the_plan(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(ConfigError, match="100 bytes are missing"):
        _composed(folder)


def _deeper(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))


def test_layers_without_weights_are_refused_in_the_plan(folder: Path) -> None:
    _deeper(folder)
    with pytest.raises(ConfigError, match="4 layers, the weights have 2"):
        _composed(folder)


def test_layers_without_weights_are_refused(folder: Path) -> None:
    """config.json of a deeper model: its last layers would be random, and the run VALID."""
    import torch

    from mtexp.tenant.models import ModelUnavailable, build_model

    tenant = TenantSpec(
        id="a",
        model=ModelSpec(
            name="bert", role="encoder", architecture="bert", shape={}, weights="pretrained", source=str(folder)
        ),
        precision="fp32",
    )
    build_model(tenant, torch.device("cpu"))
    _deeper(folder)
    with pytest.raises(ModelUnavailable, match="layers"):
        build_model(tenant, torch.device("cpu"))

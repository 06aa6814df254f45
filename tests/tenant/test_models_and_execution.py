"""Where weights come from, how many there are, and what becomes of a request that is compiled or captured."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mtexp.spec import ModelSpec, TenantSpec
from mtexp.tenant import execution
from mtexp.tenant.models import ModelUnavailable, build_model, meta_model
from mtexp.tenant.prepared import Prepared
from mtexp.tenant.reference import Call, Products
from mtexp.tenant.requests import prepare
from tests.tenant.tenant_specs import MODELS, model, tenant

CPU = torch.device("cpu")


def pretrained(source: Path | str, name: str = "bert_base") -> TenantSpec:
    spec = tenant(name)
    return replace(spec, model=replace(spec.model, weights="pretrained", source=str(source)))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Any]:
    """A small model saved as the hub has them, and the model."""
    made = build_model(tenant("bert_base", seed=7), CPU)
    made.save_pretrained(tmp_path / "model")
    return tmp_path / "model", made


@pytest.mark.parametrize("path", sorted(p for p in MODELS.glob("*.yaml") if not p.name.startswith("stress_")))
def test_every_model_has_the_parameters_that_its_file_states(path: Path) -> None:
    """Counted on the meta device from the published shape: no memory needed."""
    data = yaml.safe_load(path.read_text())
    spec = ModelSpec(
        name=data["name"],
        role=data["role"],
        architecture=data["architecture"],
        shape=data["shape"],
        attn_implementation=data["attention"][0],
        model_class=data.get("model_class", ""),
    )
    assert sum(p.numel() for p in meta_model(spec).parameters()) == data["parameters"]


def test_counting_agrees_with_the_model_that_is_built() -> None:
    """The count of a shape is that of the weights on the device."""
    for name in ("llama_3_2_1b", "deberta_v3_base"):
        counted, built = meta_model(model(name)), build_model(tenant(name), CPU)
        assert sum(p.numel() for p in counted.parameters()) == sum(p.numel() for p in built.parameters())


def test_a_local_folder_of_safetensors_is_loaded(saved: tuple[Path, Any]) -> None:
    """The weights are those of the folder, in the precision of the run."""
    folder, original = saved
    loaded = build_model(replace(pretrained(folder), precision="bf16"), CPU)
    state = loaded.state_dict()
    for key, value in original.state_dict().items():
        assert torch.equal(state[key], value.to(torch.bfloat16))
    assert not loaded.training


def test_pickled_weights_are_refused(saved: tuple[Path, Any]) -> None:
    """A folder with nothing but a pickle: never opened, and the message says what is needed."""

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (folder / "exploded",)

    folder, _ = saved
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelUnavailable, match=r"Remedy: a local folder needs config\.json and weights in model\.safe"):
        build_model(pretrained(folder), CPU)
    assert not (folder / "exploded").exists()


def test_remote_code_is_never_run(saved: tuple[Path, Any]) -> None:
    """A folder that brings its own Python is refused, its code untouched."""
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'exploded')!r}, 'w')\n")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        build_model(pretrained(folder), CPU)
    assert not (folder / "exploded").exists()


def test_a_missing_folder_has_a_remedy(tmp_path: Path) -> None:
    """What was asked for, that it is not there, what to do."""
    with pytest.raises(ModelUnavailable, match=r"(?s)nowhere.*Remedy: .*weights=random"):
        build_model(pretrained(tmp_path / "nowhere"), CPU)


def test_an_offline_hub_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id that is not in the cache, without a network: download it, a folder, or random weights."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelUnavailable, match=r"(?s)'mtexp-tests/absent'.*Remedy: .*hf download.*weights=random"):
        build_model(pretrained("mtexp-tests/absent"), CPU)


def test_a_gated_repository_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub answers without a licence turns into what to do about it."""

    def gated(*args: Any, **kwargs: Any) -> Any:
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it at https://hf.co/x")

    monkeypatch.setattr("transformers.AutoModel.from_pretrained", gated)
    with pytest.raises(ModelUnavailable, match="accept its licence on the hub and log in with `hf auth login`"):
        build_model(pretrained("x/y"), CPU)


def test_eager_is_the_request_itself() -> None:
    """Nothing comes between the loop and the request."""
    ready = Prepared(lambda: 5)
    assert execution.ready(ready, "eager") is ready.request


def test_what_cannot_be_captured_says_why() -> None:
    """``cuda_graph`` of a request that needs the host in the middle names the reason and the remedy."""
    for kind in ("generate", "train"):
        ready = prepare(tenant("distilgpt2", kind), CPU, lambda module: module)
        with pytest.raises(
            execution.NotCapturable, match=rf"cannot capture this request: {ready.not_capturable[:9]}.*Use"
        ):
            execution.ready(ready, "cuda_graph")


@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_a_compiled_request_has_compiled_before_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once ready, more requests compile nothing more. (Traced and guarded for real; no C++ is generated: 20 s.)"""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    ready = prepare(tenant("bert_base"), CPU, execution.compiler("compile"))
    before = execution.compiled_graphs()
    request = execution.ready(ready, "compile")
    compiled = execution.compiled_graphs()
    assert compiled > before
    with torch.inference_mode():
        for _ in range(3):
            request()
    assert execution.compiled_graphs() == compiled


def test_a_captured_deberta_copies_nothing_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph cannot hold such a copy; what is captured computes the same buckets, and eager requests stay."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from transformers.models.deberta_v2 import modeling_deberta_v2

    class Copies(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, call: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            found = call(*arguments, **(options or {}))
            left = [one.device.type for one in arguments if isinstance(one, torch.Tensor)]
            self.count += call.overloadpacket.__name__ == "_to_copy" and left == ["cpu"] and found.is_meta
            return found

    as_written = modeling_deberta_v2.make_log_bucket_position
    monkeypatch.setattr(modeling_deberta_v2, "make_log_bucket_position", as_written)
    execution._without_host_copies()
    execution._without_host_copies()
    ids = torch.arange(40)
    expected = as_written(ids[:, None] - ids[None, :], 16, 64)
    for capturing, copies in ((False, 1), (True, 0)):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda capturing=capturing: capturing)
        place = torch.empty(1, 40, 8, device="meta")
        with Copies() as seen:
            modeling_deberta_v2.build_relative_position(place, place, bucket_size=16, max_position=64)
        assert seen.count == copies
        made = modeling_deberta_v2.make_log_bucket_position(ids[:, None] - ids[None, :], 16, 64)
        torch.testing.assert_close(made, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["bert_base", "distilgpt2"])
def test_a_captured_model_has_no_mask_that_eager_mode_does_not_have(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers makes one while a stream is captured, which rules out flash attention."""
    from transformers import masking_utils

    def as_in_5_17(padding_mask: Any, *others: Any, **more: Any) -> bool:
        return not masking_utils.is_tracing(padding_mask) and padding_mask is None

    monkeypatch.setattr(masking_utils, "_ignore_bidirectional_mask_sdpa", as_in_5_17)
    monkeypatch.setattr(masking_utils, "_ignore_causal_mask_sdpa", as_in_5_17)
    for function in ("is_tracing", "find_packed_sequence_indices"):
        patched = getattr(masking_utils, function)  # perhaps by another test
        monkeypatch.setattr(masking_utils, function, getattr(patched, "as_written", patched))
    ready = prepare(tenant(name), CPU, lambda module: module)

    def masked(*, capturing: bool) -> bool:
        monkeypatch.setattr("transformers.utils.import_utils.is_cuda_stream_capturing", lambda: capturing)
        calls: list[Call] = []
        with torch.inference_mode(), Products(lambda call, out: calls.append(call)):
            ready.request()
        (found,) = {len(call.operands) > 3 for call in calls if call.op == "attention"}
        return found

    assert not masked(capturing=False)
    assert masked(capturing=True)
    execution._without_made_masks()
    execution._without_made_masks()
    assert not masked(capturing=False)
    assert not masked(capturing=True)


def test_packed_sequences_keep_their_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sequences in one row, as code of one's own may have them: captured, they have the mask of eager mode."""
    from transformers import masking_utils

    for function in ("is_tracing", "find_packed_sequence_indices"):
        patched = getattr(masking_utils, function)
        monkeypatch.setattr(masking_utils, function, getattr(patched, "as_written", patched))
    execution._without_made_masks()
    packed = torch.tensor([[0, 1, 2, 0, 1]])
    for position_ids, made in ((packed, True), (torch.arange(5)[None], False)):
        for capturing in (False, True):
            monkeypatch.setattr("transformers.utils.import_utils.is_cuda_stream_capturing", lambda on=capturing: on)
            assert (masking_utils.find_packed_sequence_indices(position_ids) is not None) == made


def test_a_graph_that_computes_something_else_is_noticed() -> None:
    """Products are counted by operation and shapes, in eager mode and while the graph is captured."""
    q = torch.zeros(1, 2, 4, 8)
    eager: Counter[str] = Counter()
    captured: Counter[str] = Counter()
    with execution._counted(eager):
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
        torch.nn.functional.linear(q, torch.zeros(3, 8))
    with execution._counted(captured):
        torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=torch.ones(4, 4, dtype=torch.bool))
        torch.nn.functional.linear(q, torch.zeros(3, 8))
    assert execution.differences(eager, eager) == []
    more, less = execution.differences(eager, captured)
    assert (more, less) == (
        "1 x attention 1x2x4x8, 1x2x4x8, 1x2x4x8, 4x4 more",
        "1 x attention 1x2x4x8, 1x2x4x8, 1x2x4x8 less",
    )

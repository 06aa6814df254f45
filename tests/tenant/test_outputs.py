"""A tenant's own checks: layers against float32 before the warm-up, outputs of the window against the warm-up's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tenant_specs import model, stressor, tenant

from mtexp.tenant import execution, outputs
from mtexp.tenant.buffers import Board, SampleBuffer
from mtexp.tenant.loop import Loop
from mtexp.tenant.outputs import Outputs, check_layers, output_tensor
from mtexp.tenant.prepared import Prepared
from mtexp.tenant.requests import prepare
from mtexp.testing.faults import KINDS

CPU = torch.device("cpu")


class Untimed:
    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass

    def gpu_time_ns(self) -> int:
        return 0


def checked(prepared: Prepared, precision: str = "fp32", **options: Any) -> dict[str, Any]:
    found = check_layers(prepared.forward or prepared.request, precision, **options)
    prepared.outputs.checked()
    return found


def looped(prepared: Prepared, folder: Path, *, warmup: int = 2, measured: int = 30, seed: int = 0) -> Outputs:
    """The outputs after a warm-up and a window of a prepared request."""
    buffer = SampleBuffer(folder / "samples.bin", warmup + measured, create=True)
    loop = Loop(prepared.request, Untimed(), buffer, Board(folder / "board.bin", 1, create=True), 0, prepared.outputs)
    with torch.inference_mode():
        loop.warm_up(warmup)
        if warmup:
            loop.outputs.warm()
        loop.outputs.plan(loop.rows, measured, seed)
        loop.measure_closed(measured)
    return loop.outputs


@pytest.fixture
def wrong_kernels() -> Iterator[None]:
    from torch.utils._python_dispatch import _pop_mode

    KINDS["wrong_layers"]()
    yield
    _pop_mode()


@pytest.mark.parametrize("kind", ["forward", "prefill", "decode", "generate", "train"])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_every_workload_of_a_right_tenant_is_right(kind: str, precision: str, tmp_path: Path) -> None:
    prepared = prepare(tenant("llama_3_2_1b", kind, precision=precision), CPU, lambda module: module)
    layers = checked(prepared, precision, training=kind == "train")
    assert (layers["wrong_kinds"], layers["unchecked"], layers["examples"]) == (0, 0, [])
    assert layers["kinds"] >= 6
    with torch.inference_mode():
        found = looped(prepared, tmp_path).compare(precision)
    assert (found["kept"], found["wrong"]) == (6, 0)
    assert not found.get("against_layers_wrong")


@pytest.mark.parametrize("kind", ["forward", "prefill", "decode", "generate", "train"])
def test_a_wrong_kernel_is_found_in_every_workload(kind: str, wrong_kernels: None) -> None:
    prepared = prepare(tenant("llama_3_2_1b", kind, precision="fp16"), CPU, lambda module: module)
    layers = checked(prepared, "fp16", training=kind == "train")
    assert layers["wrong_kinds"] >= 4
    assert layers["examples"][0]["off"] > 8
    assert layers["examples"][0]["product"].startswith("linear")


def test_a_wrong_backward_product_is_found() -> None:
    prepared = prepare(tenant("bert_base", "train", precision="fp16"), CPU, lambda module: module)
    wrong, right = torch.mm, checked(prepared, "fp16", training=True)
    assert right["wrong_kinds"] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "mm", lambda a, b: wrong(a, b) * 2)
        layers = checked(prepared, "fp16", training=True)
    assert layers["wrong_kinds"] > 0
    assert all(example["product"].startswith("backward of linear") for example in layers["examples"])


def test_checking_a_training_step_changes_nothing_of_it() -> None:
    prepared = prepare(tenant("bert_base", "train"), CPU, lambda module: module)
    before = [parameter.detach().clone() for parameter in prepared.module.parameters()]
    checked(prepared, training=True)
    assert all(torch.equal(a, b) for a, b in zip(before, prepared.module.parameters(), strict=True))
    assert prepared.module.training


@pytest.fixture
def quick_compiler() -> Iterator[None]:
    """torch.compile tries no vector instructions out and compiles no header for later: half of what it takes."""
    from torch._inductor import config

    with config.patch({"cpp.vec_isa_ok": True, "cpp_cache_precompile_headers": False}):
        yield


def test_compiled_requests_are_checked_eagerly_and_compared_with_that(quick_compiler: None, tmp_path: Path) -> None:
    one_layer = replace(tenant("bert_base"), model=model("bert_base", num_hidden_layers=1))  # half to compile
    prepared = prepare(one_layer, CPU, execution.compiler("compile"))
    before = execution.compiled_graphs()
    with execution.eagerly("compile"):
        assert checked(prepared)["kinds"] >= 5
    assert execution.compiled_graphs() == before
    execution.ready(prepared, "compile")
    with torch.inference_mode():
        found = looped(prepared, tmp_path).compare("fp32")
    assert found["against_layers"]["error"] < 1e-4
    assert execution.compiled_graphs() > before


@pytest.mark.parametrize("number", [0, 7, 29])
def test_a_wrong_output_in_the_window_is_found(number: int, tmp_path: Path) -> None:
    """The first and the last are always looked at; one between stays wrong to the end here."""
    prepared = prepare(tenant("bert_base"), CPU, lambda module: module)
    checked(prepared)
    count, request = 0, prepared.request

    def wrong() -> int:
        nonlocal count
        request()
        if count >= 2 + number:
            output_tensor(prepared.outputs.last)[0, 0, :16] = 3.0
        count += 1
        return 0

    faulty = Prepared(wrong, prepared.module, outputs=prepared.outputs)
    with torch.inference_mode():
        found = looped(faulty, tmp_path).compare("fp32")
    assert 0 < found["wrong"] < (found["kept"] if number else found["kept"] + 1)
    assert found["worst"]["off"] >= 9


def test_a_loss_that_is_not_finite_is_found(tmp_path: Path) -> None:
    prepared = prepare(tenant("bert_base", "train"), CPU, lambda module: module)
    checked(prepared, training=True)
    with torch.no_grad():
        next(prepared.module.parameters()).fill_(float("nan"))
    with torch.inference_mode():
        found = looped(prepared, tmp_path).compare("fp32")
    assert found["wrong"] == found["kept"] == 6


def test_a_graph_is_looked_at_where_it_writes() -> None:
    kept = Outputs()
    kept.last = torch.ones(4)
    kept.checked()
    kept.static = torch.ones(4)
    kept.warm()
    kept.plan(0, 100, 0)
    assert kept.due > 10**9  # no row: every replay writes over the last one
    kept.static.fill_(2.0)
    found = kept.compare("fp32")
    assert (found["kept"], found["wrong"], found["against_layers_wrong"]) == (1, 1, False)


def test_rows_are_the_first_and_some_chosen_by_seed() -> None:
    def rows(seed: int, size: int = 4, iterations: int = 100) -> list[int]:
        kept = Outputs()
        kept.last = torch.ones(size)
        kept.checked()
        kept.plan(10, iterations, seed)
        found = []
        while kept.due < 10**9:
            found.append(kept.due)
            kept.last = torch.ones(1)
            kept.keep()
        return found

    assert rows(1) == rows(1) != rows(2)
    assert rows(1)[0] == 10
    assert len(rows(1)) == 1 + outputs.BETWEEN
    assert all(10 <= row < 110 for row in rows(1))
    assert rows(1, iterations=1) == [10]


def test_large_outputs_are_kept_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for room, places in ((3, 3), (1, 1), (0, 0)):
        prepared = prepare(tenant("bert_base"), CPU, lambda module: module)
        checked(prepared)
        monkeypatch.setattr(outputs, "ROOM", room * prepared.outputs._bytes)
        (tmp_path / str(room)).mkdir()
        with torch.inference_mode():
            found = looped(prepared, tmp_path / str(room)).compare("fp32")
        assert found["kept"] == places + 1


def test_of_very_large_outputs_a_sample_is_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(outputs, "SAMPLE", 100)
    prepared = prepare(tenant("bert_base"), CPU, lambda module: module)
    checked(prepared)
    assert prepared.outputs._checked.numel() <= 100
    with torch.inference_mode():
        assert looped(prepared, tmp_path).compare("fp32")["wrong"] == 0


def test_without_a_warm_up_outputs_are_compared_with_the_checked_request(tmp_path: Path) -> None:
    prepared = prepare(tenant("bert_base"), CPU, lambda module: module)
    checked(prepared)
    with torch.inference_mode():
        found = looped(prepared, tmp_path, warmup=0).compare("fp32")
    assert (found["kept"], found["wrong"]) == (6, 0)


def test_what_is_not_checked_keeps_nothing(tmp_path: Path) -> None:
    for spec in (tenant("bert_base"), stressor("sm")):
        prepared = prepare(spec, CPU, lambda module: module)
        (tmp_path / spec.model.name).mkdir()
        with torch.inference_mode():
            assert looped(prepared, tmp_path / spec.model.name).compare("fp32") == {}

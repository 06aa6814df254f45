"""Whatever stands in an arrival trace, a mix token or a model's folder: a result or one message, never a traceback.

Records are fuzzed in tests/tracking, Nsight's SQLite and traces in tests/profiling.
"""

from __future__ import annotations

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtexp.config.composer import Composer, composer_of, parse_command_line
from mtexp.config.hardware import hardware_of
from mtexp.config.plan import plan
from mtexp.config.problems import Refused
from mtexp.config.traces import MAX_ARRIVALS, read_trace
from mtexp.errors import ConfigError
from mtexp.host import Device

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)
_shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

_times = st.lists(st.floats() | st.floats(0, 100), max_size=8).flatmap(lambda t: st.sampled_from([t, sorted(t)]))
_cells = st.one_of(
    st.floats().map(repr),
    st.integers().map(str),
    st.sampled_from(["", "arrival_s", " 1 ", "1_000", "1e999", "-0", "nan", "0x10", '"1', "\x00", "\ufeff1"]),
    st.text(max_size=6),
)
_columns = st.one_of(
    _times.map(pa.array),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=5).map(lambda v: pa.array(v, pa.int64())),
    st.lists(st.text(max_size=5) | st.floats().map(repr), max_size=5).map(lambda v: pa.array(v, pa.string())),
    st.lists(st.booleans(), max_size=5).map(lambda v: pa.array(v, pa.bool_())),
    st.lists(st.lists(st.floats(), max_size=2), max_size=3).map(lambda v: pa.array(v, pa.list_(pa.float64()))),
    st.lists(st.timedeltas(timedelta(0), timedelta(days=9)), max_size=3).map(lambda v: pa.array(v, pa.duration("us"))),
    st.lists(st.decimals(-9, 9, places=2), max_size=3).map(lambda v: pa.array(v, pa.decimal128(38, 2))),
)


def _check(file: Path) -> None:
    """The file is a trace, or refused."""
    try:
        requests = read_trace("arrival.trace", str(file))
    except ConfigError:
        return
    times = [request.time_s for request in requests]
    assert 0 < len(times) <= MAX_ARRIVALS
    assert all(isinstance(count, int) and count >= 0 for request in requests for count in request[1:])
    assert times == sorted(times)
    assert all(math.isfinite(time) and time >= 0 for time in times)


@_shared_folder
@given(rows=st.lists(st.lists(_cells, max_size=3), max_size=5), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_table_of_anything_is_a_trace_or_refused(tmp_path: Path, rows: list[list[str]], end: str) -> None:
    """CSV of words, numbers of every kind, ragged rows, quotes, NUL, a byte order mark."""
    file = tmp_path / "t.csv"
    file.write_bytes(end.join(",".join(row) for row in rows).encode("utf-8", "surrogatepass"))
    _check(file)


@_shared_folder
@given(column=_columns, name=st.sampled_from(["arrival_s", "input_tokens", ""]), more=st.booleans())
def test_parquet_of_any_type_is_a_trace_or_refused(tmp_path: Path, column: Any, name: str, more: bool) -> None:
    """Columns of types that are no times, nulls, several columns of one name."""
    columns, names = ([column, column], [name, "arrival_s"]) if more else ([column], [name])
    pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "t.parquet")
    _check(tmp_path / "t.parquet")


_words = st.sampled_from(
    ["bert_base", "llama_3_2_1b", "pair", "nothing", "*2", "*0", "*9999", "*", "+", "..", "/", "@"]
)
_tokens = st.lists(_words, min_size=1, max_size=6).map("".join)


@settings(deadline=None, max_examples=40)
@given(_tokens | st.text(max_size=12))
def test_any_mix_is_planned_or_refused(token: str) -> None:
    """The front door with any text as mix: a plan in which every tenant has a known model, or a refusal."""
    try:
        planned = plan([f"mix={token}"], hardware=lambda: hardware_of(GPU))
    except Refused:
        return
    (point,) = planned.points
    assert point.spec.tenants
    assert all(tenant.model.parameters for tenant in point.spec.tenants)


@pytest.mark.parametrize("token", ["bert_base*2+" * 100, "*" * 1000, "bert_base*" + "9" * 1000])
def test_a_long_token_is_refused_at_once(token: str) -> None:
    """More parts or digits than any mix has: refused, not composed."""
    with pytest.raises(Refused):
        plan([f"mix={token}"], hardware=lambda: hardware_of(GPU))


_GPT2 = {
    **{"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 100, "n_positions": 128},
    **{"n_inner": None, "head_dim": None, "auto_map": {"AutoModel": "code.Model"}},
}
_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5) | st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
_names = st.sampled_from([*_GPT2, "type_vocab_size", "num_key_value_heads", "intermediate_size", "tie_word_embeddings"])
_types = st.sampled_from(["gpt2", "bert", "deberta-v2", "t5", "llama", "qwen3", "nothing", "../gpt2"])


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a pretrained model, as far as a plan looks at it."""
    header = json.dumps({"h.1.ln_1.bias": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    monkeypatch.setattr("mtexp.config.read_off._ask", lambda model: {"error": "it", "field": "architecture"})
    composed = composer_of(parse_command_line([])).load(_overrides(tmp_path))
    monkeypatch.setattr(Composer, "load", lambda *_: composed)  # the same for every content of the folder
    return tmp_path


def _overrides(folder: Path) -> list[str]:
    overrides = ["mix=distilgpt2", "weights=pretrained", "workload.seq_len=8", "sweep=fuzzed"]
    return [*overrides, f"mix.tenants.distilgpt2.source={folder}"]


def _plan_with(folder: Path, config: bytes) -> bool:
    """Whether it is planned, and not refused."""
    (folder / "config.json").write_bytes(config)
    try:
        planned = plan(_overrides(folder), hardware=lambda: hardware_of(GPU))
    except Refused:
        return False
    json.dumps(planned.points[0].spec.tenants[0].model.shape)
    return True


def test_the_configuration_that_is_changed_below_is_planned(model_folder: Path) -> None:
    """So what is refused there is refused for what was changed."""
    assert _plan_with(model_folder, json.dumps(_GPT2).encode())


@settings(_shared_folder, max_examples=60)
@given(changes=st.dictionaries(_names, _values, max_size=3), kind=_types)
def test_any_configuration_of_a_model_is_planned_or_refused(
    model_folder: Path, changes: dict[str, Any], kind: str
) -> None:
    """config.json of a local folder: sizes that are none, numbers beyond any memory, architectures nobody knows."""
    _plan_with(model_folder, json.dumps(_GPT2 | {"model_type": kind} | changes).encode())


@settings(_shared_folder, max_examples=20)
@given(st.binary(max_size=60))
def test_any_bytes_for_a_configuration_are_refused(model_folder: Path, config: bytes) -> None:
    """Not JSON, not UTF-8, not an object."""
    _plan_with(model_folder, config)


@pytest.mark.parametrize("config", [b"[" * 500_000, b'{"model_type": ' + b"9" * 5_000 + b"}"])
def test_a_configuration_that_is_too_much_is_refused(model_folder: Path, config: bytes) -> None:
    """Nesting and digits without end."""
    _plan_with(model_folder, config)

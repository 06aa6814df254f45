"""Every number of a configuration has both bounds: found by walking the schema, so that a new key is tried as well."""

from __future__ import annotations

import pickle
import types
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtexp.config import compose_spec
from mtexp.config.bounds import upper_bound
from mtexp.config.composer import Composer, to_config
from mtexp.config.convert import to_spec
from mtexp.config.hardware import hardware_of
from mtexp.config.plan import plan
from mtexp.config.problems import Refused
from mtexp.config.schema import Config, TenantConfig
from mtexp.errors import ConfigError


def _numbers(kind: Any, key: str) -> Iterator[tuple[str, type]]:
    """Keys of the schema that hold a number, with its type; a tenant stands for all."""
    if isinstance(kind, types.UnionType):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    if kind in (int, float):
        yield key, kind
    elif typing.get_origin(kind) is dict and typing.get_args(kind)[1] is TenantConfig:
        yield from _numbers(TenantConfig, f"{key}.a")
    elif is_dataclass(kind):
        for name, hint in typing.get_type_hints(kind).items():
            yield from _numbers(hint, f"{key}.{name}".lstrip("."))


NUMBERS = dict(_numbers(Config, ""))


@cache
def _composed() -> Any:
    return Composer().load(["mix=solo", "runtime=cpu"])[0]


@cache
def _pickled() -> bytes:
    return pickle.dumps(to_config(_composed()))


def _converted(key: str = "", value: object = None) -> None:
    """Convert a usual configuration in which ``key`` has ``value``."""
    config = node = pickle.loads(_pickled())
    *above, last = key.split(".")
    for name in above:
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    if key:
        assert hasattr(node, last)
        setattr(node, last, value)
    to_spec(config, hardware_of(None))


def test_the_walk_finds_the_numbers() -> None:
    assert {"seed", "deadlines.stop_s", "mix.tenants.a.arrival.rate", "capacity.low"} <= set(NUMBERS)
    _converted()


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_out_of_bounds_is_refused_by_its_key(key: str) -> None:
    """Below, above, 2**63, infinite, NaN. A check of its own may say it, or name what it does not agree with."""
    kind = NUMBERS[key]
    most = upper_bound(key, kind(0))
    outside: list[float] = [2 * most, 2**63] if kind is int else [2 * most, 2.0**63, float("inf"), float("nan")]
    for value in outside:
        with pytest.raises(ConfigError) as refused:
            _converted(key, value)
        assert str(refused.value).startswith(f"{key}=")
    with pytest.raises(ConfigError):
        _converted(key, kind(-1))


@pytest.mark.parametrize("key", NUMBERS)
def test_what_is_no_number_is_refused_while_composing(key: str) -> None:
    for value in (True, "", "x", [1], "0x1"):
        with pytest.raises(OmegaConfBaseException):
            OmegaConf.update(_composed(), key, value)


_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


@pytest.mark.parametrize("value", ["true", "abc", "''", "1.5", "nan", "inf", "-1", "0", str(2**63), "[1]"])
@pytest.mark.parametrize("name", [*_SIZES, "num_key_value_heads", "head_dim", "max_position_embeddings"])
def test_a_size_of_a_model_that_is_none_is_refused(name: str, value: str) -> None:
    """The schema knows no keys of a shape: they are the architecture's."""
    with pytest.raises(ConfigError, match=r"^mix\.tenants\.bert_base\.shape"):
        compose_spec(["mix=bert_base", "runtime.shrink=none", f"++mix.tenants.bert_base.shape.{name}={value}"], None)


@pytest.mark.parametrize("value", ["true", "abc", "nan", "inf", "-1", "0", str(2**63)])
@pytest.mark.parametrize("key", ["stress_sm.shape.size", "stress_dram.shape.mib", "stress_l2.shape.repeats"])
def test_a_size_of_a_stressor_that_is_none_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^mix\.tenants\.{key}="):
        compose_spec([f"mix={key.partition('.')[0]}", f"mix.tenants.{key}={value}"], None)


@pytest.mark.parametrize(
    "texts",
    [
        ("measure.min_time_s=901",),
        ("baseline.min_time_s=901",),
        ("arrival.rate=1e-320", "arrival=poisson"),
        ("arrival.rate=0.1", "arrival=constant", "measure.iterations=100"),
    ],
)
def test_what_takes_longer_than_its_deadline_is_refused(texts: tuple[str, ...]) -> None:
    """It would be waited for until deadlines.measure_s, and fail."""
    with pytest.raises(ConfigError, match=f"^{texts[0].partition('=')[0]}="):
        compose_spec(["mix=solo", *texts], None)
    compose_spec(["mix=solo", *texts[1:], *(["arrival.rate=1"] if len(texts) > 1 else [])], None)


@pytest.mark.parametrize(
    "text", ["seed=18446744073709551615", "deadlines.stop_s=1e12", "seed=nan", "measure.warmup=true", "retries=''"]
)
def test_it_is_said_in_the_plan(text: str) -> None:
    with pytest.raises(Refused, match=f"^refused: {text.partition('=')[0]}="):
        plan(["runtime=cpu", text])

"""What ``python -m mtexp.sharing.numerics`` is asked and what it found, as plain data.

Lives here: :class:`Options`, :class:`Row`, :class:`Report`, and which percentages are checked. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mtexp.sharing.known_numerics import FEWEST_SMS, SM_UNIT
from mtexp.spec import ModelSpec, from_json, to_json

FORMAT = 1
"""Version of the JSON report's format."""
USUAL = (100.0, 50.0, 25.0, 33.33, 20.0, 75.0, 40.0, 80.0, 10.0, 12.5, 16.66, 14.28, 30.0, 60.0, 66.66, 70.0, 90.0)
"""Percentages that people write, and equal shares of up to eight: checked first."""
QUICK = (100.0, 50.0, 25.0, 33.33, 20.0, 75.0)
"""With whole models, unless percentages are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is to be checked."""

    percentages: tuple[float, ...] = ()
    """Empty = those of :data:`USUAL`, then all that give another SM count."""
    models: tuple[Mapping[str, Any], ...] = ()
    """Whole models to run, as ModelSpecs in plain data."""
    shapes_of: tuple[Mapping[str, Any], ...] = ()
    """Models whose products are checked."""
    products: tuple[tuple[int, int, int], ...] = ()
    """Linear products in their place: rows, inputs, outputs."""
    precisions: tuple[str, ...] = ("fp16", "bf16", "tf32", "fp32")
    batch_size: int = 8
    seq_len: int = 128
    quick: bool = False
    probe_workarounds: bool = False
    probe_at: float = 0.0
    """Percentage of the workarounds; 0 = the one with most wrong products."""
    device: str = "0"
    """Index or UUID of the GPU."""
    wait_s: float = 0.0
    """How long to wait for a GPU that a run measures on."""
    runtime: str = "gpu"
    """``cpu`` only in tests."""


@dataclass(slots=True, kw_only=True)
class Row:
    """What one process found."""

    percentage: float | None
    """None: without CUDA MPS."""
    sm_count: int = 0
    products: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""
    """Why it could not be checked to the end."""
    same_as: float | None = None
    """The percentage that has the same SM count and was checked before: nothing was computed again."""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """``33.33 %``, or ``no MPS``."""
        return "no MPS" if self.percentage is None else f"{self.percentage:g} %"

    def wrong(self, precision: str) -> int:
        """Wrong products in ``precision``."""
        return sum(bool(p.get("wrong")) for p in self.products if p["precision"] == precision)

    def of(self, precision: str) -> int:
        """Products that were checked in ``precision``."""
        return sum("wrong" in p for p in self.products if p["precision"] == precision)

    @property
    def right(self) -> bool:
        """True when all that was checked is right."""
        return not self.failure and not any(found.get("wrong") for found in (*self.products, *self.models))


@dataclass(slots=True, kw_only=True)
class Report:
    """All results, as the JSON file has them."""

    started_at: str
    options: Options
    device: dict[str, Any] = field(default_factory=dict)
    products: list[dict[str, Any]] = field(default_factory=list)
    """What the names of products mean, and which models have them."""
    rows: list[Row] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False

    @property
    def right(self) -> bool:
        """True when nothing is wrong anywhere."""
        return all(row.right for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; an error of None is NaN or infinite."""
        return {
            "format": FORMAT,
            "started_at": self.started_at,
            "complete": self.complete,
            "device": self.device,
            "batch_size": self.options.batch_size,
            "seq_len": self.options.seq_len,
            "precisions": list(self.options.precisions),
            "products": self.products,
            "results": [to_json(row) for row in self.rows],
            "workarounds": self.probes,
        }


def every_count(total: int) -> Iterator[float]:
    """A percentage for each SM count below ``total``, rounded up to two decimals; from the largest down.

    The driver rounds a percentage down to hardware units of two SMs, and gives no client fewer than eight.
    """
    for count in range(total - SM_UNIT, FEWEST_SMS - 1, -SM_UNIT):
        yield -(-count * 10_000 // total) / 100


def model_specs(entries: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """ModelSpecs, as plain data, of entries of ``conf/models``; their first kind of attention."""
    specs = []
    for entry in entries:
        spec = from_json(ModelSpec, {k: v for k, v in entry.items() if k in ("name", "role", "architecture", "shape")})
        specs.append(to_json(replace(spec, attn_implementation=entry["attention"][0])))
    return tuple(specs)

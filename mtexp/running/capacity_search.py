"""A capacity search: reads its probes from their records, decides the next one, writes ``capacity.json``.

May touch: records (reading), ``capacity.json`` in the folder of the sweep. What to try and when to stop is
:mod:`mtexp.metrics.capacity`; Hydra's side is ``hydra_plugins/mtexp_capacity.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtexp.metrics.capacity import (
    ABOVE,
    BELOW,
    FOUND,
    OPEN,
    PROBES,
    Conclusion,
    Probe,
    Rule,
    conclude,
    judge,
    next_value,
)
from mtexp.records import keys
from mtexp.records.files import RECORD
from mtexp.records.record import RunRecord, load
from mtexp.spec import RunSpec
from mtexp.text_tables import rounded

FILE = "capacity.json"
FORMAT_VERSION = 1
_COMPARABLE = ("gpu_name", "driver_version", "cuda_version", "torch_version", "torch_cuda_version", "cpu_model")
"""Facts of the environment in which all probes of a search must agree."""


@dataclass(slots=True)
class Search:
    """One search and what it has measured so far."""

    name: str
    rule: Rule
    mix: str
    sharing: str
    """The choice of ``mps_settings``, or ``streams``, ``mig``."""
    overrides: tuple[str, ...]
    probes: list[Probe] = field(default_factory=list)
    records: list[RunRecord | None] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, rule: Rule, spec: RunSpec, overrides: Sequence[str]) -> Search:
        """A search that has not begun."""
        sharing = spec.mps_settings if spec.sharing.mode == "processes" else spec.sharing.mode
        return cls(name=name, rule=rule, mix=spec.mix, sharing=sharing, overrides=tuple(overrides))

    @property
    def next_value(self) -> float | None:
        """The load or rate to measure next; None when the search is over."""
        return next_value(self.rule, self.probes)

    @property
    def conclusion(self) -> Conclusion:
        """What is known so far."""
        return conclude(self.rule, self.probes)

    def take(self, value: float, folder: Path) -> str:
        """Read what the probe in ``folder`` measured; returns a line about it."""
        record = find_record(folder)
        kept, why = self._judged(record, folder)
        self.probes.append(Probe(value, kept, why))
        self.records.append(record)
        self.folders.append(folder)
        word = {True: "kept", False: "missed", None: "inconclusive"}[kept]
        return f"{self.mix}, {self.sharing}: {self.rule.by} {value:g} {word} ({why})"

    def _judged(self, record: RunRecord | None, folder: Path) -> tuple[bool | None, str]:
        if record is None:
            return None, f"no record in {folder}"
        if record.status != "FINISHED":
            return None, f"FAILED: {record.failure.partition(chr(10))[0]}"
        if record.verdict != "VALID":
            return None, "INVALID: " + "; ".join(f.message for f in record.findings if f.level == "invalid")
        if differs := self._elsewhere(record):
            return None, f"measured with another {', '.join(differs)} than the probes before"
        levels = [t.id for t in record.run_spec.tenants if t.slo_ms or t.slo_factor]
        return judge({t.id: t.metrics for t in record.tenants}, self.rule.attainment_pct, levels)

    def _elsewhere(self, record: RunRecord) -> list[str]:
        before = next((found for found in self.records if found is not None), record)
        return [key for key in _COMPARABLE if before.environment.get(key) != record.environment.get(key)]


def find_record(folder: Path) -> RunRecord | None:
    """The record of the last attempt of the last run in ``folder``; None when none left one.

    Raises:
        RecordError: It is not what it should be.
    """
    runs = (folder, *_numbered(folder, "run"))
    there = [path for run in runs for path in (run, *_numbered(run, "attempt")) if (path / RECORD).is_file()]
    return load(there[-1]) if there else None


def _numbered(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}-*"), key=lambda path: int(path.name.partition("-")[2]))


# --- the result -------------------------------------------------------------------------------------------------------


def save(folder: Path, sweep: str, searches: Sequence[Search]) -> None:
    """Write ``capacity.json``: every search with its probes, as far as it has come."""
    data = {"format_version": FORMAT_VERSION, "sweep": sweep, "searches": [_data(s, folder) for s in searches]}
    aside = folder / f".{FILE}"
    aside.write_text(json.dumps(data, indent=1), encoding="utf-8")
    aside.replace(folder / FILE)


def _data(search: Search, folder: Path) -> dict[str, Any]:
    found = search.conclusion
    probes = [
        asdict(probe) | {"record_id": record.record_id if record else "", "folder": path.relative_to(folder).as_posix()}
        for probe, record, path in zip(search.probes, search.records, search.folders, strict=True)
    ]
    return {
        "search": search.name,
        "query": f"tags.`{keys.SEARCH}` = '{search.name}'",
        "mix": search.mix,
        "sharing": search.sharing,
        "overrides": list(search.overrides),
        "rule": asdict(search.rule),
        **asdict(found),
        "said": said(search),
        "tenants": tenants_at(search, found.kept),
        "probes": probes,
    }


def tenants_at(search: Search, value: float | None) -> list[dict[str, Any]]:
    """What each tenant was asked for and did at ``value``: rates, goodput, attainment."""
    for probe, record in zip(search.probes, search.records, strict=True):
        if probe.value == value and record is not None:
            rates = {t.id: t.arrival.rate_rps for t in record.run_spec.tenants}
            return [
                {"tenant": t.id, "model": t.model, "rate_rps": rates[t.id] or None}
                | {name: t.metrics.get(name) for name in ("slo_ms", "slo_attainment_pct", "goodput_rps")}
                | {"throughput_rps": t.metrics["throughput_rps"], "requests": int(t.metrics["iterations_in_window"])}
                for t in record.tenants
            ]
    return []


def said(search: Search) -> str:
    """The result of the search, in a sentence."""
    rule, found = search.rule, search.conclusion
    known = f"highest {rule.by} kept {_value(found.kept)}, lowest missed {_value(found.missed)}"
    level = f"{rule.attainment_pct:g} % of the requests within the level of every tenant"
    if found.outcome == FOUND:
        return f"{known} ({level})"
    if found.outcome == ABOVE:
        return f"the upper bound, {rule.by} {rule.high:g}, still keeps the level: it is higher. Raise capacity.high"
    if found.outcome == BELOW:
        return f"the lower bound, {rule.by} {rule.low:g}, already misses the level. Lower capacity.low"
    if found.outcome == PROBES:
        return f"{known}; not within {rule.tolerance_pct:g} % after capacity.max_probes={rule.max_probes} runs"
    if found.outcome == OPEN:
        return f"not finished: {known}. Continue with resume=true"
    silent = next(probe for probe in search.probes if probe.kept is None)
    remedy = "resume=true" + (" rerun_invalid=true" if silent.why.startswith("INVALID") else "")
    why = silent.why.removesuffix(".")
    return f"stopped: the probe at {rule.by} {silent.value:g} was inconclusive ({why}); {known}. Continue with {remedy}"


def _value(value: float | None) -> str:
    return "none" if value is None else rounded(value, 4)


def read(folder: Path) -> list[dict[str, Any]]:
    """The searches of a sweep as ``capacity.json`` has them; empty when there is none."""
    file = folder / FILE
    if not file.is_file():
        return []
    searches: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["searches"]
    return searches


def complete(searches: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every search ended with an answer that its probes support."""
    return bool(searches) and all(search["outcome"] in (FOUND, ABOVE, BELOW) for search in searches)


def rows(search: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """A row a tenant at the highest value kept, for the terminal."""
    for tenant in search["tenants"]:
        yield {
            "tenant": tenant["tenant"],
            "model": tenant["model"],
            "asked/s": _number(tenant["rate_rps"], "closed loop"),
            "goodput/s": _number(tenant["goodput_rps"], "-"),
            "level ms": _number(tenant["slo_ms"], "none"),
            "within %": _number(tenant["slo_attainment_pct"], "-"),
            "requests": str(tenant["requests"]),
        }


def _number(value: float | None, absent: str) -> str:
    return absent if value is None else rounded(value, 4)

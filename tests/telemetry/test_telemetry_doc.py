"""``docs/telemetry.md`` lists every column that the sampler reads, with its unit and rate."""

from __future__ import annotations

import re
from pathlib import Path

from mtexp.records import keys
from mtexp.telemetry.gpu import CONTEXT_SWITCHES, COUNTERS, GPM_METRICS, RARE_COUNTERS, GpuProbe
from mtexp.telemetry.probes import GPM, CpuProbe, Probes

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "telemetry.md").read_text()
ROWS = re.findall(r"^\| `([\w/]+)` \| ([^|]*)\| (fast|gpm|rare) \| ([^|]+) \|", TEXT, re.MULTILINE)


def test_every_column_is_there_with_its_unit_and_rate() -> None:
    """What the probes of a GPU run read, no more and no less; units are the registry's."""
    tenant = {"TENANT": 1}
    read = Probes(GpuProbe("GPU-0", tenant, process_util=True), CpuProbe(tenant, GPM)).columns()
    rates = {name: group for group, names in read.items() for name in names}
    units = {name: key.unit for name in rates if (key := keys.METRICS.get(name.removesuffix("/TENANT")))}

    assert {name: rate for name, _, rate, _ in ROWS} == rates
    assert {name: unit.strip() for name, unit, _, _ in ROWS} == units | {"gpu_energy_j": "J"}


def test_fields_and_metrics_have_their_numbers() -> None:
    """The number of NVML's field or GPM's metric is the one that is asked for."""
    numbers = {name: f"field {number}" for name, (number, _) in {**COUNTERS, **RARE_COUNTERS}.items()}
    numbers |= {name: f"GPM {number}" for name, number in {**GPM_METRICS, **CONTEXT_SWITCHES}.items()}
    told = {name: source for name, _, _, source in ROWS}

    assert {name: told[name] for name in numbers} == numbers

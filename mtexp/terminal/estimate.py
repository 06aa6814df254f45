"""How long a sweep takes and how much disk it needs, before it begins: a first guess from its protocol. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mtexp.spec import RunSpec
from mtexp.text_tables import counted

START_S = 5.0
"""About what a run takes besides measuring: processes, models, warm-up, record."""
LEAST_MEASURED_S = 1.0
RECORD_MB = 0.4
"""About the size of a record with its logs and its plot, without samples."""
SAMPLE_BYTES = 48
"""Of one request in memory; on disk they are compressed."""


def estimate(specs: Sequence[RunSpec]) -> str:
    """``56 runs, about 9 min, about 25 MB``; baselines that have to be measured first count, as if none existed."""
    alone = {
        (tenant.model.name, tenant.precision, tenant.workload, tenant.arrival)
        for spec in specs
        if spec.baseline.mode == "auto" and spec.measure.design != "crossover" and len(spec.tenants) > 1
        for tenant in spec.tenants
    }
    baseline_s = max(spec.baseline.min_time_s for spec in specs)
    seconds = sum(START_S + _measured_s(spec) for spec in specs) + len(alone) * (START_S + baseline_s)
    megabytes = sum(_megabytes(spec) for spec in specs) + len(alone) * RECORD_MB
    runs = counted(len(specs), "run")
    if alone:
        runs += f" and up to {counted(len(alone), 'baseline')}"
    return f"{runs}, about {_time(seconds)}, about {max(megabytes, 1):.0f} MB"


def _measured_s(spec: RunSpec) -> float:
    rule = spec.measure
    return max(LEAST_MEASURED_S, rule.min_time_s, rule.max_time_s if rule.design == "crossover" else 0.0)


def _megabytes(spec: RunSpec) -> float:
    return RECORD_MB + len(spec.tenants) * spec.measure.iterations * SAMPLE_BYTES / 1e6


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""What searches for a capacity came to (``experiment=capacity``), as a table. May touch: nothing outside its arguments.

Probes are runs with ``search`` (tag ``mtexp.search``), ``search_by``, ``search_value`` and ``search_attainment_pct``;
whether one kept the level is :func:`mtexp.metrics.capacity.judge`, as when it was measured.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from mtexp.metrics.capacity import judge

from .dataset import Dataset
from .frames import rows_of
from .pooling import sharing_name

_TENANT = ("tenant", "model", "rate_rps", "goodput_rps", "slo_ms", "slo_attainment_pct", "iterations_in_window")
COLUMNS = (
    *("search", "mix", "sharing", "repetition", "by", "attainment_pct", "kept", "missed", "probes"),
    *(*_TENANT, "record_id"),
)


def probes(data: Dataset) -> pd.DataFrame:
    """One row per probe: ``search``, ``by``, ``value``, ``kept`` (True, False, None), ``why``, ``record_id``."""
    if "search" not in data.runs:
        return pd.DataFrame(columns=["search", "by", "value", "attainment_pct", "kept", "why", "record_id"])
    by_record = {str(record): own for record, own in data.tenants.groupby("record_id", observed=True)}
    rows = []
    for run in rows_of(data.runs[data.runs["search"].notna()].sort_values("start_time")):
        own = {row["tenant"]: _metrics(row) for row in rows_of(by_record[str(run["record_id"])])}
        kept, why = judge(own, run["search_attainment_pct"])
        if kept and not any("slo_attainment_pct" in metrics for metrics in own.values()):
            kept, why = None, "no tenant has a service level: the baseline it is a multiple of is not VALID"
        named = {"by": run["search_by"], "value": run["search_value"], "attainment_pct": run["search_attainment_pct"]}
        rows.append({"search": run["search"], **named, "kept": kept, "why": why, "record_id": run["record_id"]})
    return pd.DataFrame(rows)


def capacities(data: Dataset) -> pd.DataFrame:
    """One row per tenant of a search, at the highest load or rate that kept the level; absent where none did.

    ``kept`` and ``missed`` are that value and the lowest that missed; ``rate_rps`` is what the tenant was asked for,
    ``goodput_rps`` what it served within its level.
    """
    found = probes(data)
    rows: list[dict[str, Any]] = []
    for name, own in found.groupby("search", observed=True, sort=False):
        missed = own.loc[own["kept"].eq(False), "value"].min()
        below = own[own["kept"].eq(True) & ~(own["value"] >= missed)]
        last = own.iloc[-1] if below.empty else own.loc[below["value"].idxmax()]
        (run,) = rows_of(data.runs[data.runs["record_id"] == last["record_id"]])
        common = {"search": name, "mix": run["mix"], "sharing": sharing_name(run), "repetition": run.get("repetition")}
        common |= {"by": last["by"], "attainment_pct": last["attainment_pct"], "missed": missed, "probes": len(own)}
        if below.empty:
            rows.append(common)
            continue
        common |= {"kept": last["value"], "record_id": last["record_id"]}
        own_tenants = data.tenants[data.tenants["record_id"] == last["record_id"]].reindex(columns=list(_TENANT))
        rows += [common | row for row in rows_of(own_tenants)]
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    return {str(name): value for name, value in row.items() if isinstance(value, int | float) and pd.notna(value)}

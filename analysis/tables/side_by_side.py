"""Table of sharing modes that were measured side by side, as their runs found it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..dataset import Dataset
from ..frames import rows_of
from ..pooling import PHRASES, Results, sharing_name
from .columns import only, with_intervals

_OF_TENANT = ("latency_ratio", "throughput_ratio", "mode_cost", "slowdown_whole")
_OF_RUN = ("stp_whole_ratio", "stp_ratio", "stp_whole")
_OF_SHARING = ("partition_sms", "active_thread_pct", "mps_priority", "pinned_memory_limit", "sm_partition", "mig")
"""What else of a tenant may differ between the runs of a session that have the same mix and mode."""


def side_by_side(results: Results) -> pd.DataFrame:
    """One row per tenant of a run that was compared with another sharing mode, ``against``, of the same session.

    The figures are those of the run, each over its own rounds; runs are not put together.
    """
    runs = {str(run["record_id"]): run for run in rows_of(results.data.runs)}
    names = _names(results.data)
    rows = []
    for tenant in rows_of(results.data.tenants):
        run = runs.get(str(tenant["record_id"]))
        other = runs.get(str(run.get("session_reference"))) if run is not None else None
        if run is None or other is None:
            continue
        own = {"mix": run["mix"], "sharing": names[str(run["record_id"])], "against": names[str(other["record_id"])]}
        kept = {name: tenant.get(name) for name in ("tenant", "model", *with_intervals(_OF_TENANT))}
        rows.append(own | kept | {name: run.get(name) for name in (*with_intervals(_OF_RUN), "rounds", "session")})
    columns = ["mix", "sharing", "against", "tenant", "model", *with_intervals(_OF_TENANT), *with_intervals(_OF_RUN)]
    return only(pd.DataFrame(rows), [*columns, "rounds", "session"])


def _names(data: Dataset) -> dict[str, str]:
    """How the tenants of each run share, by its id: the mode, and what tells it from the others of its session."""
    own = {str(record): rows_of(found) for record, found in data.tenants.groupby("record_id", observed=True)}
    names: dict[str, str] = {}
    alike: dict[tuple[str, ...], list[str]] = {}
    for run in rows_of(data.runs):
        record = str(run["record_id"])
        shared = any("shared" in str(tenant.get("weights")) for tenant in own.get(record, ()))
        names[record] = sharing_name(run) + (", shared weights" if shared else "")
        alike.setdefault((str(run.get("session")), str(run["mix"]), names[record]), []).append(record)
    for records in alike.values():
        for column in _OF_SHARING:
            phrase = "{} %" if column == "active_thread_pct" else PHRASES.get(column, "{}")
            texts = {record: _text(own.get(record, ()), column) for record in records}
            if len(set(texts.values())) > 1:
                names |= {record: f"{names[record]}, {phrase.format(text)}" for record, text in texts.items() if text}
    return names


def _text(tenants: Sequence[Mapping[str, Any]], column: str) -> str:
    """``64``, or ``96+32`` where tenants differ; empty where none has it."""
    values = [tenant.get(column) for tenant in tenants]
    texts = [
        "" if value is None or pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)
        for value in values
    ]
    return texts[0] if len(set(texts)) == 1 else "+".join(text or "0" for text in texts)

"""Every run that measured a model alone, and which of them a tenant is compared with.

Lives here: :class:`BaselineRuns`. May touch: nothing outside its arguments. The baseline hash names everything that
could change a tenant alone (:func:`mtexp.tracking.ledger.baseline_hash`): the GPU, driver, libraries, model, workload,
precision, execution, protocol. All VALID runs of one hash measured the same thing: baselines, their re-checks, and runs
of a mix of that one tenant in closed loop under plain time slicing.

Runs on several GPUs of one kind are put together: between hosts they differ no more than on one (on H100s and H200s the
variance of hosts is 0 to 0.004 of the logarithm, that of runs 0.02 to 0.04). Hashes are of one group where everything
else in their records is the same. If two hashes of *one* GPU agree in all that, they differ in something that records
do not have; then hashes like these are not put together with others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .dataset import VALID, Dataset
from .frames import rows_of

Measured = tuple[str, str]
"""record_id and tenant: where the samples of one run are."""


@dataclass(frozen=True, eq=False)
class BaselineRuns:
    """Models alone."""

    runs: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row per run of one tenant alone, with ``baseline_hash`` and the columns of a tenant."""
    groups: Mapping[str, tuple[Measured, ...]] = field(default_factory=dict)
    """The runs of each group, in the order measured; its name is the hash that was measured first."""
    group_of: Mapping[str, str] = field(default_factory=dict)
    """The group of each hash."""

    @classmethod
    def of(cls, data: Dataset) -> BaselineRuns:
        """What ``data`` has of them."""
        referred = data.tenants.reindex(columns=["baseline_record_id", "baseline_hash"]).dropna()
        known = dict(zip(referred["baseline_record_id"], referred["baseline_hash"], strict=True))
        own = data.baselines.reindex(columns=["baseline_hash", *data.baselines.columns.drop("baseline_hash", "ignore")])
        arrival = own.reindex(columns=["arrival"])["arrival"]
        own = own[arrival.fillna("closed") == "closed"]  # a latency alone at given arrivals has queueing in it
        named = own["record_id"].map(known).astype("string")
        own = own.assign(baseline_hash=own["baseline_hash"].fillna(named).fillna(own["record_id"]))
        runs = pd.concat([own, data.tenants[_measures_alone(data)]], ignore_index=True)
        runs = runs[runs["verdict"] == VALID].sort_values("start_time", kind="stable", ignore_index=True)
        group_of = _over_hosts(runs)
        runs = runs.copy().assign(group=runs["baseline_hash"].astype(str).map(group_of))
        groups: dict[str, list[Measured]] = {}
        for row in rows_of(runs[["group", "record_id", "tenant"]]):
            groups.setdefault(str(row["group"]), []).append((str(row["record_id"]), str(row["tenant"])))
        return cls(runs, {name: tuple(found) for name, found in groups.items()}, group_of)

    def compared(self, tenant: Mapping[str, Any]) -> tuple[Measured, ...]:
        """What a tenant (a row of :attr:`Dataset.tenants`) is compared with, itself aside where there is more.

        Nothing in open loop: its latency has queueing in it, and what it gets done is what was asked of it.
        """
        if str(tenant.get("arrival", "closed")) != "closed":
            return ()
        name = tenant.get("baseline_hash")
        group = self.groups.get(self.group_of.get(str(name), ""), ()) if pd.notna(name) else ()
        others = tuple(measured for measured in group if measured[0] != tenant["record_id"])
        return others or group


_SAME = (
    *("device", "driver", "cuda", "torch", "transformers", "cpu", "shrunk", "runtime", "precision", "workload"),
    *("arrival", "execution", "batch_size", "seq_len", "new_tokens", "mps_settings", "sharing", "iterations", "warmup"),
    *("model", "attn_implementation", "active_thread_pct", "weights", "pinned_memory_limit", "mps_priority", "mig"),
    "partition_sms",
)
"""What runs alone must agree in to be put together over hosts."""


def _over_hosts(runs: pd.DataFrame) -> dict[str, str]:
    """The group of each baseline hash: the first hash that is the same but for the GPU."""
    firsts = runs.drop_duplicates("baseline_hash").reindex(columns=["baseline_hash", "gpu_uuid", *_SAME])
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows_of(firsts):
        gpu = row["gpu_uuid"]  # without a GPU the host itself is in the hash, and no two are alike
        key = tuple(str(row[name]) for name in _SAME) if pd.notna(gpu) else (str(row["baseline_hash"]),)
        alike.setdefault(key, []).append(row)
    found = {}
    for rows in alike.values():
        one_each = len({str(row["gpu_uuid"]) for row in rows}) == len(rows)
        for row in rows:
            own = str(row["baseline_hash"])
            found[own] = str(rows[0]["baseline_hash"]) if one_each else own
    return found


def _measures_alone(data: Dataset) -> pd.Series[bool]:
    """Tenants that ran alone in closed loop, on the whole device and without sharing, as their baselines do."""
    tenants = data.tenants
    columns = {"num_tenants": 1, "sharing": "processes", "mps_settings": "disabled", "arrival": "closed"}
    found = tenants.reindex(columns=["baseline_hash"])["baseline_hash"].notna()
    for name, value in columns.items():
        found &= (tenants[name] == value).fillna(False)
    return found.astype(bool)

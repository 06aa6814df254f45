"""Every run that measured a model alone, and which of them a tenant is compared with.

Lives here: :class:`Alone`. May touch: nothing outside its arguments. The baseline hash names everything that could
change a tenant alone (:func:`mtexp.tracking.ledger.baseline_hash`): the GPU, driver, libraries, model, workload,
precision, execution, protocol. All VALID runs of one hash measured the same thing, and together are what is compared
with: baselines, their re-checks, and runs of a mix of that one tenant in closed loop under plain time slicing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .data import VALID, Dataset
from .frames import rows_of

Measured = tuple[str, str]
"""record_id and tenant: where the samples of one run are."""


@dataclass(frozen=True, eq=False)
class Alone:
    """Models alone."""

    runs: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row per run of one tenant alone, with ``baseline_hash`` and the columns of a tenant."""
    groups: Mapping[str, tuple[Measured, ...]] = field(default_factory=dict)
    """The runs of each hash, in the order measured."""

    @classmethod
    def of(cls, data: Dataset) -> Alone:
        """What ``data`` has of them."""
        referred = data.tenants.reindex(columns=["baseline_record_id", "baseline_hash"]).dropna()
        known = dict(zip(referred["baseline_record_id"], referred["baseline_hash"], strict=True))
        own = data.baselines.reindex(columns=["baseline_hash", *data.baselines.columns.drop("baseline_hash", "ignore")])
        named = own["record_id"].map(known).astype("string")
        own = own.assign(baseline_hash=own["baseline_hash"].fillna(named).fillna(own["record_id"]))
        runs = pd.concat([own, data.tenants[_measures_alone(data)]], ignore_index=True)
        runs = runs[runs["verdict"] == VALID].sort_values("start_time", kind="stable", ignore_index=True)
        groups: dict[str, list[Measured]] = {}
        for row in rows_of(runs[["baseline_hash", "record_id", "tenant"]]):
            groups.setdefault(str(row["baseline_hash"]), []).append((str(row["record_id"]), str(row["tenant"])))
        return cls(runs, {name: tuple(found) for name, found in groups.items()})

    def compared(self, tenant: Mapping[str, Any]) -> tuple[Measured, ...]:
        """What a tenant (a row of :attr:`Dataset.tenants`) is compared with, itself aside where there is more.

        Nothing in open loop: its latency has queueing in it, and what it gets done is what was asked of it.
        """
        if str(tenant.get("arrival", "closed")) != "closed":
            return ()
        name = tenant.get("baseline_hash")
        group = self.groups.get(str(name), ()) if pd.notna(name) else ()
        others = tuple(measured for measured in group if measured[0] != tenant["record_id"])
        return others or group


def _measures_alone(data: Dataset) -> pd.Series[bool]:
    """Tenants that ran alone in closed loop, on the whole device and without sharing, as their baselines do."""
    tenants = data.tenants
    columns = {"num_tenants": 1, "sharing": "processes", "mps_settings": "disabled", "arrival": "closed"}
    found = tenants.reindex(columns=["baseline_hash"])["baseline_hash"].notna()
    for name, value in columns.items():
        found &= (tenants[name] == value).fillna(False)
    return found.astype(bool)

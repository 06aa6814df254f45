"""Table of sharing modes that were measured side by side, as their runs found it."""

from __future__ import annotations

import pandas as pd

from ..frames import rows_of
from ..pooling import Results, sharing_name
from .columns import only, with_intervals

_OF_TENANT = ("latency_ratio", "throughput_ratio", "mode_cost", "slowdown_whole")
_OF_RUN = ("stp_whole_ratio", "stp_ratio", "stp_whole")


def side_by_side(results: Results) -> pd.DataFrame:
    """One row per tenant of a run that was compared with another sharing mode, ``against``, of the same session.

    The figures are those of the run, each over its own rounds; runs are not put together.
    """
    runs = {str(run["record_id"]): run for run in rows_of(results.data.runs)}
    rows = []
    for tenant in rows_of(results.data.tenants):
        run = runs.get(str(tenant["record_id"]))
        other = runs.get(str(run.get("session_reference"))) if run is not None else None
        if run is None or other is None:
            continue
        own = {"mix": run["mix"], "sharing": sharing_name(run), "against": sharing_name(other)}
        kept = {name: tenant.get(name) for name in ("tenant", "model", *with_intervals(_OF_TENANT))}
        rows.append(own | kept | {name: run.get(name) for name in (*with_intervals(_OF_RUN), "rounds", "session")})
    columns = ["mix", "sharing", "against", "tenant", "model", *with_intervals(_OF_TENANT), *with_intervals(_OF_RUN)]
    return only(pd.DataFrame(rows), [*columns, "rounds", "session"])

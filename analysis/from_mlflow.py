"""A dataset from MLflow: runs that answer a query, and the baselines that they were compared with.

Lives here: :func:`from_mlflow`, :func:`sweeps`. May touch: MLflow through :mod:`analysis.fetch` (reading).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pandas as pd

from mtexp.commands import command_line
from mtexp.records import keys

from . import fetch
from .dataset import SAMPLE_COLUMNS, DataError, Dataset, column, hashed, unique

_RUN_IDS = 200
"""Runs named in one query."""


def sweeps(query: str, uri: str | None, experiment: str) -> list[str]:
    """Names of the sweeps that runs belong to which ``query`` matches, that of the newest run first.

    Raises:
        DataError: None belongs to one.
        QueryError: The query has an error, or nothing matches.
        TrackingError: MLflow does not answer.
    """
    names = fetch.runs(query, uri=uri, experiment=experiment, columns=["sweep", "start_time"])
    names = names.dropna(subset="sweep").sort_values("start_time", ascending=False)
    if names.empty:
        example = f"{command_line('run')} -m mix=enc_only,dec_only,mixed"
        raise DataError(f"no run belongs to a sweep yet: {example} makes one")
    return [str(name) for name in names["sweep"].unique()]


def from_mlflow(query: str, uri: str | None, experiment: str) -> Dataset:
    """Runs that ``query`` matches, with their baselines wherever those are in MLflow.

    Raises:
        QueryError: The query has an error, or nothing matches.
        TrackingError: MLflow does not answer.
    """
    runs = fetch.runs(query, uri=uri, experiment=experiment)
    tenants = fetch.tenants(query, uri=uri, experiment=experiment)
    mixes = runs[runs["kind"] == "mix"]
    compared = tenants[tenants["run_kind"] == "mix"]
    baselines = [hashed(tenants[tenants["run_kind"] == "baseline"], runs)]
    ids = {**_ids(runs)}
    for more in _queries(compared, ids):
        try:
            named = fetch.runs(more, uri=uri, experiment=experiment, columns=["record_id", "baseline_hash"])
            baselines.append(hashed(fetch.tenants(more, uri=uri, experiment=experiment), named))
            ids |= _ids(named)
        except fetch.QueryError:  # deleted since, or never sent: their tenants keep the figures they were given then
            continue

    def read(what: Callable[..., pd.DataFrame], record_ids: Collection[str], **options: Any) -> pd.DataFrame:
        chunks = _chunks([ids[record] for record in record_ids if record in ids])
        frames = [what(_by_id(chunk), uri=uri, experiment=experiment, **options) for chunk in chunks]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"record_id": []})

    def telemetry(record_ids: Collection[str]) -> pd.DataFrame:
        try:
            return read(fetch.telemetry, record_ids)
        except fetch.QueryError:  # none of them has any
            return pd.DataFrame({"record_id": [], "monotonic_ns": []})

    return Dataset(
        runs=mixes,
        tenants=compared,
        baselines=unique(pd.concat([b for b in baselines if len(b)] or baselines[:1], ignore_index=True)),
        invalid=mixes.iloc[:0],
        source="MLflow",
        read_iterations=lambda record_ids: read(fetch.iterations, record_ids, columns=list(SAMPLE_COLUMNS)),
        read_telemetry=telemetry,
        churn=runs[runs["kind"] == "churn"],
    )


def _queries(compared: pd.DataFrame, ids: dict[str, str]) -> list[str]:
    """Queries for the baselines that the tenants were compared with and that are not among ``ids``."""
    references = pd.DataFrame(
        {"record": column(compared, "baseline_record_id"), "run": column(compared, "baseline_run_id")}
    )
    references = references.dropna(subset="record").drop_duplicates("record")
    references = references[~references["record"].isin(list(ids))]
    unsent = references.loc[references["run"].isna(), "record"]  # not in MLflow yet when the run was recorded
    by_record = [f"tags.`{keys.RECORD_ID}` = '{record}' AND tags.`{keys.KIND}` = 'baseline'" for record in unsent]
    return [*map(_by_id, _chunks(references["run"].dropna().tolist())), *by_record]


def _ids(runs: pd.DataFrame) -> dict[str, str]:
    return dict(zip(runs["record_id"].astype(str), runs["run_id"].astype(str), strict=True))


def _by_id(run_ids: Sequence[str]) -> str:
    return f"attributes.run_id IN ({', '.join(repr(str(run)) for run in run_ids)})"


def _chunks(items: Sequence[str]) -> list[Sequence[str]]:
    return [items[first : first + _RUN_IDS] for first in range(0, len(items), _RUN_IDS)]

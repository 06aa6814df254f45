"""Runs whose results are known to be wrong, though their verdict does not say so.

Lives here: :func:`marked`, :func:`sms_under_mps`. May touch: nothing outside its arguments. An older mtexp did not
check outputs: what it measured at an SM share that is known to give wrong results is VALID in its records (the shares
are in :mod:`mtexp.sharing.known_numerics`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from mtexp.sharing.known_numerics import KNOWN, known_wrong, sm_count

from .frames import rows_of

if TYPE_CHECKING:
    from .dataset import Dataset

_STACK = ("device", "torch", "cuda", "precision", "active_thread_pct")


def marked(data: Dataset) -> Dataset:
    """``data`` with these runs INVALID, each with the reason; baselines measured at such a share too."""
    reasons: dict[str, str] = {}
    for rows in (data.tenants, data.baselines):
        for row in rows_of(rows.reindex(columns=["record_id", *_STACK])):
            if pd.notna(row["active_thread_pct"]) and (reason := _reason(row)):
                reasons.setdefault(str(row["record_id"]), reason)
    if not reasons:
        return data
    return replace(
        data,
        runs=_with(data.runs, reasons),
        tenants=_with(data.tenants, reasons),
        baselines=_with(data.baselines, reasons),
    )


def _reason(tenant: dict[str, Any]) -> str:
    gpu, torch, cuda, precision = ("" if pd.isna(tenant[name]) else str(tenant[name]) for name in _STACK[:4])
    percentage = float(tenant["active_thread_pct"])
    found = known_wrong(gpu=gpu, torch=torch, cuda=cuda, precision=precision, percentage=percentage)
    if found is None:
        return ""
    return (
        f"invalid: wrong-output: {found.library} is known to compute wrong {precision} products with {percentage:.3g} "
        f"% of the SMs of a {found.architecture} GPU. Right are {', '.join(f'{pct:g}' for pct in found.right_pct)} %"
    )


def _with(rows: pd.DataFrame, reasons: dict[str, str]) -> pd.DataFrame:
    own = rows["record_id"].astype(str).map(reasons)
    bad = own.notna()
    if not bad.any():
        return rows
    said = rows["verdict_reasons"] if "verdict_reasons" in rows else pd.Series(pd.NA, rows.index, dtype="string")
    both = own[bad].str.cat(said[bad].fillna(""), sep=" | ").str.removesuffix(" | ")
    return rows.assign(
        verdict=rows["verdict"].where(~bad, "INVALID"), verdict_reasons=said.astype("object").where(~bad, both)
    )


def sms_under_mps(gpu: str, percentage: float) -> int:
    """SMs that an MPS client of ``percentage`` has on a GPU that :mod:`mtexp.sharing.known_numerics` knows; else 0."""
    totals = [known.sms for known in KNOWN if known.describes(gpu, "", "", known.precisions[0])]
    return sm_count(totals[0], percentage) if totals else 0

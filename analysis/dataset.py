"""What an analysis rests on: runs, tenants, baselines and their samples, wherever they come from.

Lives here: :class:`Dataset`. It has the same columns whether it was read from MLflow, from a folder of records or from
an export: those of :mod:`mtexp.records.keys`, tags without ``mtexp.``. ``record_id`` is the key. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtexp.errors import MtexpError
from mtexp.metrics.crossover_summary import without_pauses
from mtexp.metrics.samples import Floats
from mtexp.metrics.window import Series

VALID = "VALID"
SAMPLE_COLUMNS = (
    *("tenant", "model", "phase", "start_ns", "end_ns", "latency_ms", "gpu_time_ms"),
    *("in_window", "arrival_ns", "ttft_ms", "block", "round"),
)
ONE_OF = {"device": "device", "driver": "driver", "torch": "torch", "cpu": "CPU", "shrunk": "shrunk"}
"""Columns in which the runs of one analysis must agree, and what a message calls them."""


class DataError(MtexpError):
    """Runs that cannot be analysed together, or at all."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Runs to analyse together."""

    runs: pd.DataFrame
    """One row per run of a mix that enters aggregates."""
    tenants: pd.DataFrame
    """One row per tenant of them."""
    baselines: pd.DataFrame
    """One row per baseline that a tenant was compared with, or that was asked for."""
    invalid: pd.DataFrame
    """Runs that were left out, with ``verdict_reasons``."""
    source: str
    """Where it comes from, in words."""
    read_iterations: Callable[[Collection[str]], pd.DataFrame]
    """record_ids -> samples with ``record_id`` and :data:`SAMPLE_COLUMNS`."""
    read_telemetry: Callable[[Collection[str]], pd.DataFrame]
    """record_ids -> telemetry with ``record_id`` and ``monotonic_ns``; empty where there is none."""
    churn: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row per churn run, with its figures; an export has none."""

    @cached_property
    def iterations(self) -> pd.DataFrame:
        """Measured samples of the runs and of their baselines, in the order served."""
        counted = self.counted()
        return counted[counted["phase"] == "measure"].reset_index(drop=True)

    def counted(self) -> pd.DataFrame:
        """:attr:`iterations`, and of runs in rounds also what tenants measured alone (phase ``alone``)."""
        wanted = [*self.runs["record_id"], *self.baselines["record_id"]]
        frame = self.read_iterations(list(dict.fromkeys(wanted)))
        return frame[frame["phase"].isin(["measure", "alone"])].reset_index(drop=True)

    @cached_property
    def telemetry(self) -> pd.DataFrame:
        """Telemetry of the runs; empty where none was sampled."""
        return self.read_telemetry(list(self.runs["record_id"]))

    @cached_property
    def _rows(self) -> dict[tuple[str, str], Any]:
        grouped = self.iterations.groupby(["record_id", "tenant"], observed=True, sort=False)
        found: dict[Any, Any] = grouped.indices
        return {(str(record), str(tenant)): positions for (record, tenant), positions in found.items()}

    def samples(self, record_id: str, tenant: str, *, window: bool = True) -> pd.DataFrame:
        """Measured samples of one tenant, with ``window`` those inside the window; empty if there are none."""
        rows: pd.DataFrame = self.iterations.iloc[self._rows.get((record_id, tenant), [])]
        return rows[rows["in_window"]] if window else rows

    def latencies_ms(self, runs: Iterable[tuple[str, str]]) -> list[Floats]:
        """Latencies inside the window of each of these (record_id, tenant); without those that have none."""
        parts = [self.samples(*run)["latency_ms"].to_numpy(np.float64) for run in runs]
        return [part for part in parts if part.size]

    @cached_property
    def _t0_ns(self) -> pd.Series[Any]:
        """Start of each run's window: the latest first start."""
        starts = self.iterations.groupby(["record_id", "tenant"], observed=True)["start_ns"].min()
        return starts.groupby(level="record_id").max()

    def series(self, record_id: str, tenant: str, column: str = "latency_ms") -> Series | None:
        """What the window kept of a tenant, as :mod:`mtexp.metrics.bootstrap` takes it; None for fewer than two.

        Args:
            record_id: Of the run or baseline.
            tenant: Its id there.
            column: ``latency_ms``, or another time in its place (``gpu_time_ms``), as if back to back.
        """
        rows = self._rows.get((record_id, tenant), [])
        rows = rows[self._columns["in_window"][rows]] if len(rows) else rows
        if len(rows) < 2:
            return None
        arrivals_ns, starts_ns, ends_ns = (self._columns[name][rows] for name in ("arrival_ns", "start_ns", "end_ns"))
        closed = bool((arrivals_ns == starts_ns).all())
        if closed:  # older records count a first request that started with the window
            later = starts_ns > self._t0_ns[record_id]
            rows, starts_ns, ends_ns = rows[later], starts_ns[later], ends_ns[later]
        values = self._columns[column][rows]
        if len(values) < 2 or not np.isfinite(values).all():
            return None
        if column != "latency_ms":
            return Series.closed(values)
        if closed:
            return Series.consecutive(*without_pauses(starts_ns, ends_ns, self._columns["block"][rows]))
        cycle_ms = np.diff(ends_ns, prepend=int(self._t0_ns[record_id])) / 1e6
        rps = self._throughput[record_id, tenant]
        return Series(values, cycle_ms, rps) if rps > 0 else None

    @cached_property
    def _columns(self) -> dict[str, Any]:
        """Columns of the samples as arrays: a tenant's rows are taken from them thousands of times."""
        whole = {name: self.iterations[name].to_numpy() for name in ("arrival_ns", "start_ns", "end_ns", "block")}
        times = {name: self.iterations[name].to_numpy(np.float64) for name in ("latency_ms", "gpu_time_ms")}
        return whole | times | {"in_window": self.iterations["in_window"].to_numpy(bool)}

    @cached_property
    def _throughput(self) -> dict[tuple[str, str], float]:
        both = pd.concat([self.tenants, self.baselines], ignore_index=True)
        named = zip(both["record_id"].astype(str), both["tenant"].astype(str), strict=True)
        return dict(zip(named, both["throughput_rps"], strict=True))


def hashed(baselines: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Tenants of baselines, each with the ``baseline_hash`` of its run."""
    names = dict(zip(runs["record_id"], column(runs, "baseline_hash"), strict=True))
    return baselines.assign(baseline_hash=baselines["record_id"].map(names).astype("string"))


def column(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    """A column that may not be there."""
    return frame[name] if name in frame else pd.Series(pd.NA, index=frame.index, dtype="string")


def unique(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a record."""
    return frame.drop_duplicates("record_id", ignore_index=True)


def together(parts: Sequence[Dataset], folder: Path) -> Dataset:
    """Several exports as one dataset; what is in two of them counts once."""
    if len(parts) == 1:
        return parts[0]

    def table(name: str) -> pd.DataFrame:
        whole: pd.DataFrame = pd.concat([getattr(part, name) for part in parts], ignore_index=True)
        return whole

    def once(read: str, record_ids: Collection[str]) -> pd.DataFrame:
        left = set(record_ids)
        frames: list[pd.DataFrame] = []
        for part in parts:
            frames.append(getattr(part, read)(left))
            left -= set(frames[-1]["record_id"])
        return pd.concat(frames, ignore_index=True)

    return Dataset(
        runs=unique(table("runs")),
        tenants=table("tenants").drop_duplicates(["record_id", "tenant"], ignore_index=True),
        baselines=unique(table("baselines")),
        invalid=unique(table("invalid")),
        source=f"the export {folder}",
        read_iterations=lambda record_ids: once("read_iterations", record_ids),
        read_telemetry=lambda record_ids: once("read_telemetry", record_ids),
    )

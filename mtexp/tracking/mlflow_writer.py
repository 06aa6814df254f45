"""Sends a record to MLflow: one parent run, one nested run per tenant, histories, artifacts.

Lives here: :func:`log_record`. May touch: MLflow, the files of the record it is given (reading). Nothing here runs
while tenants measure.

The order makes it safe to be killed at any point and called again: the parent carries ``mtexp.record_id`` from its
first moment, and its own status and ``mtexp.upload = complete`` only at the very end. A parent without the latter is
deleted, with its children, and made anew. Batches are as large as a store takes; on a server several tenants are sent
at once. All of it is done in steps (one call of the store, or one tenant's history read), so that it can stand still
between any two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import filelock
import numpy as np
from numpy.typing import NDArray

from mtexp.errors import TrackingError
from mtexp.records import keys
from mtexp.records.files import ITERATIONS, TELEMETRY
from mtexp.records.record import RunRecord, TenantRecord, load
from mtexp.records.time import epoch_ms, iso_ms
from mtexp.spec import TrackingSpec
from mtexp.tracking.content import RunContent, evenly, parent_content, tenant_content
from mtexp.tracking.query import without_gc
from mtexp.tracking.store import Step, Store, may_write, open_store

if TYPE_CHECKING:
    import pandas as pd

M = TypeVar("M")
P = TypeVar("P")

BATCH_METRICS, BATCH_PARAMS, BATCH_ENTITIES = 1000, 100, 1000
"""Maximum that a store accepts in one call."""
ARTIFACT_FOLDERS = ("logs", "plots", "profile")
MOST_SYSTEM_POINTS = 500
MAX_ARTIFACT_BYTES = 8 * 2**30
LOCK = ".upload.lock"
KILLED = "KILLED"
"""Status of a run until all of it is sent: MLflow's own, RUNNING, would stay if this process were killed."""


@dataclass(frozen=True, slots=True)
class History:
    """Points of one metric, thinned for MLflow."""

    key: str
    values: NDArray[np.float64]
    steps: NDArray[np.int64]
    times_ms: NDArray[np.int64]
    measured: int
    """Points before thinning."""


def log_record(record_dir: Path, tracking: TrackingSpec, step: Step = nullcontext) -> str:
    """Send the record in ``record_dir`` to MLflow. Repeated calls send it only once.

    Args:
        record_dir: Directory of the record.
        tracking: The store and experiment.
        step: Context entered for each step; outside of it, nothing is done and no store lock is held.

    Returns:
        Id of the parent run.

    Raises:
        RecordError: There is no valid record.
        TrackingError: MLflow could not be reached or refused; calling it again completes the upload.
    """
    with step():
        record = load(record_dir)
        histories = _Histories(record, record_dir, tracking.max_history)
    lock = filelock.FileLock(record_dir / LOCK, timeout=600) if may_write(record_dir / LOCK) else nullcontext()
    try:
        with lock, open_store(tracking, write=True, step=step) as store:
            run_id, complete = _existing(store, record.record_id)
            return run_id if complete else _send(store, record, record_dir, histories)
    except filelock.Timeout as error:
        raise TrackingError(f"{record_dir} has been in upload by another process for 600 s") from error


def _existing(store: Store, record_id: str) -> tuple[str, bool]:
    """Return the record's run if it is complete; delete what an earlier attempt left incomplete."""
    query = f"tags.`{keys.RECORD_ID}` = '{record_id}'"
    with store.step():
        runs = store.client.search_runs([store.experiment_id], query, max_results=5000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    for run in parents:
        if run.data.tags.get(keys.UPLOAD) == keys.UPLOAD_COMPLETE:
            return run.info.run_id, True
    for run in runs:
        with store.step():
            store.client.delete_run(run.info.run_id)
    return "", False


def _send(store: Store, record: RunRecord, record_dir: Path, histories: _Histories) -> str:
    path, ended_ms = str(record_dir.absolute()), iso_ms(record.ended_at) or None
    with store.step():
        own = histories.of_run()
        content = parent_content(record, path, thinned=histories.cut(own), max_history=histories.most)
    run_id = _fill(store, record, content, own)

    def send_tenant(tenant: TenantRecord) -> None:
        with store.step():
            own = histories.of_tenant(tenant.id)
            thinned = histories.cut(own)
            content = tenant_content(record, tenant, run_id, thinned=thinned, max_history=histories.most)
        child = _fill(store, record, content, own)
        with store.step():
            store.client.set_terminated(child, content.status, ended_ms)

    with ThreadPoolExecutor(store.threads, thread_name_prefix="mtexp-tracking") as pool:
        sending = [pool.submit(send_tenant, tenant) for tenant in record.tenants]
        try:
            for tenant in sending:
                tenant.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error, do not try further tenants
    for file, folder in artifacts(record_dir):
        with store.step():
            store.client.log_artifact(run_id, str(file), folder or None)
    with store.step():
        store.client.set_terminated(run_id, content.status, ended_ms)
    with store.step():
        store.client.set_tag(run_id, keys.UPLOAD, keys.UPLOAD_COMPLETE)
    return run_id


def _fill(store: Store, record: RunRecord, content: RunContent, histories: list[History]) -> str:
    """Create a run with its tags, parameters and every point of its metrics; return its id."""
    from mlflow.entities import Metric, Param

    start_ms, end_ms = iso_ms(record.started_at) or None, iso_ms(record.ended_at)
    with store.step():
        run = store.client.create_run(store.experiment_id, start_ms, content.tags, content.name)
        run_id = str(run.info.run_id)
        store.client.update_run(run_id, KILLED)
    with store.step():
        params = [Param(name, value) for name, value in content.params.items()]
        points = [Metric(key, value, end_ms, 0) for key, value in content.metrics.items()]
        for history in histories:
            columns = zip(history.values.tolist(), history.times_ms.tolist(), history.steps.tolist(), strict=True)
            points += [Metric(history.key, value, at_ms, step) for value, at_ms, step in columns]
    for metrics, own_params in batches(points, params):
        with store.step(), without_gc():
            store.client.log_batch(run_id, metrics=metrics, params=own_params)
    return run_id


def batches(metrics: Sequence[M], params: Sequence[P]) -> Iterator[tuple[Sequence[M], Sequence[P]]]:
    """Split metrics and parameters of one run into as few calls as a store takes them in."""
    metric = param = 0
    while metric < len(metrics) or param < len(params):
        some_params = params[param : param + BATCH_PARAMS]
        some_metrics = metrics[metric : metric + min(BATCH_METRICS, BATCH_ENTITIES - len(some_params))]
        metric, param = metric + len(some_metrics), param + len(some_params)
        yield some_metrics, some_params


class _Histories:
    """The histories of a record's Parquet files, thinned to ``most`` points of each metric."""

    def __init__(self, record: RunRecord, record_dir: Path, most: int) -> None:
        from mtexp.records.samples_file import read_iterations, read_telemetry

        self.most = most
        self._record = record
        self._iterations: dict[str, pd.DataFrame] = {}
        self._telemetry: pd.DataFrame | None = None
        if (path := record_dir / ITERATIONS).is_file():
            frame = read_iterations(path, ["tenant", "iteration", "phase", "end_ns", *keys.HISTORIES])
            measured = frame[frame["phase"] == "measure"]
            self._iterations = {str(name): rows for name, rows in measured.groupby("tenant", observed=True)}
        if (path := record_dir / TELEMETRY).is_file():
            self._telemetry = read_telemetry(path)

    def of_run(self) -> list[History]:
        """Telemetry of the device and the host; once more by the names that MLflow shows as system metrics."""
        sampled = self._sampled({name: name for name in keys.TELEMETRY_COLUMNS})
        return sampled + [_system(history) for history in sampled]

    def of_tenant(self, tenant: str) -> list[History]:
        """Iterations of a tenant, and the telemetry of its process."""
        histories = self._sampled({keys.of_tenant(name, tenant): name for name in keys.TENANT_TELEMETRY_COLUMNS})
        if (rows := self._iterations.get(tenant)) is not None:
            steps, times = rows["iteration"].to_numpy(), rows["end_ns"].to_numpy()
            histories = [self._history(key, rows[key].to_numpy(), steps, times) for key in keys.HISTORIES] + histories
        return [history for history in histories if history.measured]

    def cut(self, histories: list[History]) -> dict[str, int]:
        """Metrics of ``histories`` that were thinned, with how many points were measured."""
        return {history.key: history.measured for history in histories if history.measured > len(history.values)}

    def _sampled(self, columns: Mapping[str, str]) -> list[History]:
        if self._telemetry is None:
            return []
        frame = self._telemetry
        steps, times = np.arange(len(frame)), frame["monotonic_ns"].to_numpy()
        there = {column: key for column, key in columns.items() if column in frame}
        histories = [self._history(key, frame[column].to_numpy(), steps, times) for column, key in there.items()]
        return [history for history in histories if history.measured]

    def _history(self, key: str, values: NDArray[Any], steps: NDArray[Any], times_ns: NDArray[Any]) -> History:
        there = np.flatnonzero(np.isfinite(values))
        kept = there[evenly(len(there), self.most)]
        return History(key, values[kept], steps[kept], epoch_ms(self._record, times_ns[kept]), len(there))


def _system(history: History) -> History:
    """Some of these points under MLflow's prefix of system metrics."""
    kept = evenly(len(history.values), MOST_SYSTEM_POINTS)
    key = f"{keys.SYSTEM}{history.key}"
    points = len(kept)
    return History(key, history.values[kept], history.steps[kept], history.times_ms[kept], points)


def artifacts(record_dir: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a record that MLflow gets, with the artifact folder of each.

    Its own files and those of :data:`ARTIFACT_FOLDERS`; no links, no hidden files, no baselines beneath it.
    """
    for folder in ("", *ARTIFACT_FOLDERS):
        parent = record_dir / folder
        if not parent.is_dir() or parent.is_symlink():
            continue
        for path in sorted(parent.rglob("*") if folder else parent.iterdir()):
            if _is_artifact(path):
                yield path, path.parent.relative_to(record_dir).as_posix().removeprefix(".")


def _is_artifact(path: Path) -> bool:
    if path.is_symlink() or not path.is_file() or path.name.startswith((".", "upload.")):
        return False
    return path.suffix != ".sqlite" and path.stat().st_size <= MAX_ARTIFACT_BYTES  # can be exported again

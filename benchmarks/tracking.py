"""Points a second into MLflow: a record as mtexp sends it, against ``log_metric``, ``log_batch`` and the bare database.

The naive loop calls ``log_metric`` once a point; MLflow's best supported path is ``log_batch`` of 1000, in a bare loop
into one run, and by hand for the same runs with the same tags, parameters, summaries and artifacts; the floor is
``executemany`` of the same rows into the same table. The first and the last are no choice of anyone's: they say how far
there is to go. ``--server`` sends to an ``mlflow server`` instead.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import common

EXPERIMENT = "bench"
BATCH = 1000
_SERVER_S = 60.0


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=3)
    made.add_argument("--tenants", type=int, default=0, help="of the record; default 48, with --quick 8")
    made.add_argument("--iterations", type=int, default=1000, help="of each tenant")
    made.add_argument("--server", action="store_true", help="through an mlflow server on this host")
    return made


def main() -> None:
    options = arguments().parse_args()
    tenants = options.tenants or (8 if options.quick else 48)
    naive_points, batches = (100, 5) if options.quick else (400, 20)
    report = common.Report("tracking server" if options.server else "tracking sqlite")
    with common.scratch() as folder, _store(folder, server=options.server) as store:
        record = Record(folder, tenants, options.iterations)
        cases: dict[str, Callable[[], dict[str, float]]] = {
            "mtexp": lambda: {"rate": record.points / (took_s := record.send(store)), "send_s": took_s},
            "log_metric": lambda: {"rate": naive(store, naive_points)},
            "log_batch": lambda: {"rate": batched(store, batches)},
            "the same runs by hand": lambda: {"rate": record.points / record.send_by_hand(store)},
            "save": lambda: {"save_s": record.save()},
            "control": lambda: {"fixed_s": common.fixed_work_s()},
        }
        if not options.server:
            cases["executemany, 1000 a transaction"] = lambda: {"rate": floor(store, 50_000, BATCH)}
            cases["executemany, one WAL transaction"] = lambda: {"rate": floor(store, 50_000, 50_000)}
        found = common.interleaved(cases, common.repeats_of(options))
        _tell(report, found, record)
    report.show()


def _tell(report: common.Report, found: dict[str, list[dict[str, float]]], record: Record) -> None:
    rates = {name: [f["rate"] for f in figures] for name, figures in found.items() if "rate" in figures[0]}
    size = f"{record.tenants} x {record.iterations}"
    report.add(f"record of {size} on disk", [f["save_s"] for f in found["save"]], "s", "<= 2 for 48 x 1000")
    report.add(f"record of {size} in MLflow", [f["send_s"] for f in found["mtexp"]], "s", "<= 25 for 48 x 1000")
    for name, values in rates.items():
        report.add(name, values, "points/s")
    report.ratio("mtexp / log_metric", rates["mtexp"], rates["log_metric"], ">= 50")
    report.ratio("mtexp / the same runs by hand", rates["mtexp"], rates["the same runs by hand"], ">= 0.9")
    report.ratio("mtexp / log_batch", rates["mtexp"], rates["log_batch"])
    report.ratio("log_batch / log_metric", rates["log_batch"], rates["log_metric"])
    for name in rates:
        if name.startswith("executemany"):
            report.ratio(f"mtexp / {name}", rates["mtexp"], rates[name])
    report.add("control: fixed work", [f["fixed_s"] for f in found["control"]], "s")
    report.remarks.append("mtexp's rate includes runs, tags, parameters, summaries and artifacts of the record.")


class Record:
    """A record of made-up samples, sent as often as asked."""

    def __init__(self, folder: Path, tenants: int, iterations: int) -> None:
        from mtexp.testing.records import stored

        self.tenants, self.iterations = tenants, iterations
        self.points = tenants * iterations
        self._folder = folder
        self._path = folder / "record"
        self._models = ("bert_base",) * tenants
        self._runs: list[Any] = []
        stored(self._path, models=self._models, iterations=iterations, gpu=False)

    def save(self) -> float:
        """Seconds to write the record to disk."""
        from mtexp.records.record import save
        from mtexp.testing.records import example

        record, samples = example(self._models, iterations=self.iterations, gpu=False)
        place = self._folder / f"saved-{uuid.uuid4().hex}"
        return common.seconds(lambda: save(record, place, samples))

    def send(self, store: Any) -> float:
        """Seconds to log it to MLflow, as a record that is not there yet."""
        return common.seconds(lambda: self._send(store, self._fresh()))

    def send_by_hand(self, store: Any) -> float:
        """Seconds for the same runs and artifacts in as few calls of MLflow's client as there are."""
        from mlflow.entities import Metric, Param

        from mtexp.tracking.mlflow_writer import artifacts

        client = store.client
        if not self._runs:
            parent = client.get_run(self._send(store, self._fresh()))
            query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
            self._runs = [parent, *client.search_runs([store.experiment_id], query)]
        now_ms = time.time_ns() // 1_000_000
        files = list(artifacts(self._path))

        def send() -> None:
            for run in self._runs:
                run_id = client.create_run(store.experiment_id, tags=run.data.tags).info.run_id
                params = [Param(*item) for item in run.data.params.items()]
                points = [Metric(key, value, now_ms, 0) for key, value in run.data.metrics.items()]
                if run is not self._runs[0]:
                    points += [Metric("latency_ms", 1.0 + step, now_ms, step) for step in range(self.iterations)]
                first = BATCH - len(params)  # metrics and parameters share the limit of a call
                client.log_batch(run_id, points[:first], params)
                for begin in range(first, len(points), BATCH):
                    client.log_batch(run_id, points[begin : begin + BATCH])
                for file, place in files if run is self._runs[0] else ():
                    client.log_artifact(run_id, str(file), place or None)
                client.set_terminated(run_id)

        return common.seconds(send)

    def _fresh(self) -> Path:
        """A copy of the record under an id of its own."""
        from mtexp.records.files import RECORD
        from mtexp.records.record import load

        place = self._folder / f"sent-{uuid.uuid4().hex}"
        shutil.copytree(self._path, place)
        text = (place / RECORD).read_text()
        (place / RECORD).write_text(text.replace(load(place).record_id, uuid.uuid4().hex))
        return place

    @staticmethod
    def _send(store: Any, place: Path) -> str:
        from mtexp.spec import TrackingSpec
        from mtexp.tracking.mlflow_writer import log_record

        return log_record(place, TrackingSpec(uri=store.uri, experiment=EXPERIMENT))


def naive(store: Any, points: int) -> float:
    """Points a second of ``log_metric``, one call a point."""
    run_id = store.client.create_run(store.experiment_id).info.run_id
    took_s = common.seconds(
        lambda: [store.client.log_metric(run_id, "latency_ms", 1.0 + step, step=step) for step in range(points)]
    )
    return points / took_s


def batched(store: Any, batches: int) -> float:
    """Points a second of ``log_batch`` in batches of 1000."""
    from mlflow.entities import Metric

    run_id = store.client.create_run(store.experiment_id).info.run_id
    now_ms = time.time_ns() // 1_000_000

    def send() -> None:
        for batch in range(batches):
            steps = range(batch * BATCH, (batch + 1) * BATCH)
            store.client.log_batch(run_id, [Metric("latency_ms", 1.0 + step, now_ms, step) for step in steps])

    return batches * BATCH / common.seconds(send)


def floor(store: Any, points: int, transaction: int) -> float:
    """Rows a second of ``executemany`` into MLflow's own table of metrics, in a copy of the store."""
    path = Path(store.uri.removeprefix("sqlite:///"))
    copy = path.with_name(f"floor-{uuid.uuid4().hex}.db")
    run_id = store.client.create_run(store.experiment_id).info.run_id
    shutil.copy(path, copy)
    rows = [("latency_ms", 1.0 + step, step, run_id, step, 0) for step in range(points)]
    with closing(sqlite3.connect(copy)) as db:
        if transaction >= points:
            db.execute("PRAGMA journal_mode=WAL")
        text = "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)"

        def insert() -> None:
            for first in range(0, points, transaction):
                with db:
                    db.executemany(text, rows[first : first + transaction])

        took_s = common.seconds(insert)
    copy.unlink()
    return points / took_s


@contextmanager
def _store(folder: Path, *, server: bool) -> Iterator[Any]:
    """A store with its schema and experiment made."""
    from mtexp.spec import TrackingSpec
    from mtexp.tracking.store import open_store, prepare

    file = f"sqlite:///{folder / 'mlflow.db'}"
    prepare(TrackingSpec(uri=file, experiment="other"))
    if not server:
        prepare(TrackingSpec(uri=file, experiment=EXPERIMENT))
        with open_store(TrackingSpec(uri=file, experiment=EXPERIMENT), write=False) as store:
            yield store
        return
    with _server(folder, file) as uri:
        prepare(TrackingSpec(uri=uri, experiment=EXPERIMENT))
        with open_store(TrackingSpec(uri=uri, experiment=EXPERIMENT), write=False) as store:
            yield store


@contextmanager
def _server(folder: Path, backend: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    argv += ["--backend-store-uri", backend, "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + _SERVER_S
        while not _answers(uri):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start: {(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield uri
    finally:
        import psutil

        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.terminate()
        psutil.wait_procs(family, timeout=10)


def _answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()

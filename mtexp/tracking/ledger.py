"""Finds existing results: baselines, and points that a resumed sweep can skip.

Lives here: :func:`baseline_hash`, :func:`find_baseline`, :func:`finished`. May touch: MLflow and records (reading).
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mtexp.errors import RecordError, TrackingError
from mtexp.metrics.window import Series, Window
from mtexp.records import keys
from mtexp.records.computed import computed_with
from mtexp.records.files import ITERATIONS, RECORD, find_records
from mtexp.records.record import BaselineRef, RunRecord, load
from mtexp.spec import QUANTISED, RunSpec, TenantSpec, TrackingSpec, content_hash, drop_absent, drop_lengths
from mtexp.tracking.query import search
from mtexp.tracking.store import NoStoreError, Store, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run

log = logging.getLogger(__name__)

DEVICE_KEYS = ("gpu_name", "gpu_uuid", "driver_version")
"""Environment keys that identify the GPU of a result."""
CPU_KEYS = ("host", "cpu_model", "cpu_count")
"""Environment keys that identify the CPU of a result."""
LIBRARY_KEYS = ("cuda_version", "torch_version", "torch_cuda_version", "transformers_version")
"""Environment keys of the software. ``cuda_version`` is the driver's, which may differ from torch's."""

_OF_A_MIX = ("design", "block_ms", "target_pct", "max_time_s")
"""Keys of ``measure`` that only a mix has."""
_CANDIDATES = 5
"""How many of the newest baselines to try; the record of one may have been deleted."""


class StoredBaseline(NamedTuple):
    """A baseline that was measured before."""

    ref: BaselineRef
    series: Series
    """Its iterations inside the window."""
    sm_clock_mhz: float | None
    launch_bound_pct: float | None
    started_at: str
    """ISO 8601."""


class Done(NamedTuple):
    """A point that was measured before."""

    record_id: str
    verdict: str
    metrics: Mapping[str, float]
    """Metrics of the run, by name: those of :data:`SUMMED_UP` that it has."""
    tenants: tuple[Mapping[str, Any], ...] = ()
    """Metrics of the only tenant, and those that rest on too little; of more tenants, or of a run that only MLflow has,
    nothing."""


SUMMED_UP = ("stp", "antt", "fairness", "throughput_rps")
"""Metrics that the summary of a sweep shows of a run."""


def baseline_hash(tenant: TenantSpec, run: RunSpec, environment: Mapping[str, Any]) -> str:
    """Return a hash of everything that could change the baseline of ``tenant``.

    Two tenants of one name may be compared with one baseline. Ids, seeds, the name of the mix and the neighbours do not
    enter; the GPU or CPU, driver, libraries, model shape, workload, precision, execution and protocol do. So do the
    arrivals of an open-loop baseline: their kind, rate or times, and the seed that they are drawn with. CUDA graphs and
    compiled models with ``masks`` in it are not those of older baselines, whose attention had a mask of ones.

    Args:
        tenant: The tenant as it is measured alone: for a baseline without MPS limits, for a partitioned one with them.
        run: The baseline's own spec (:func:`mtexp.running.baselines.baseline_spec`).
        environment: Of the host, as a record has it.
    """
    model, measure, arrival = asdict(tenant.model), asdict(run.measure), asdict(tenant.arrival)
    for name in ("name", "parameters", "layer_parameters"):
        del model[name]
    drop_absent(model)
    for name in ("overlap", "percentiles", "max_iterations", "check_outputs", "probe_sms", *_OF_A_MIX):
        del measure[name]
    if measure["foreign"] == "refuse":  # runs with another rule for foreign processes have separate baselines
        del measure["foreign"]
    if arrival["kind"] != "poisson":  # only these are drawn with it while a tenant measures
        del arrival["seed"]
    drop_lengths(arrival)
    hardware = DEVICE_KEYS if run.runtime == "gpu" else CPU_KEYS
    data = {
        "model": model,
        "workload": asdict(tenant.workload),
        "arrival": arrival,
        "precision": tenant.precision,
        "execution": tenant.execution,
        "mps": asdict(tenant.mps),
        "mig": tenant.mig,
        **({"sms": [tenant.sm_count, tenant.sm_pct]} if tenant.sm_count or tenant.sm_pct else {}),
        "sharing": [run.sharing.mode, run.sharing.mps_mode, run.sharing.static_partitioning],
        **({"masks": "as in eager mode"} if tenant.execution in ("cuda_graph", "compile") else {}),
        **({"torchao": environment.get("packages", {}).get("torchao")} if tenant.precision in QUANTISED else {}),
        "measure": measure,
        "runtime": run.runtime,
        "shrunk": run.shrunk,
        "environment": {name: environment.get(name) for name in (*hardware, *LIBRARY_KEYS)},
    }
    return content_hash(data)


def find_baseline(name: str, tracking: TrackingSpec, *, max_age_h: float) -> StoredBaseline | None:
    """Return the newest VALID baseline called ``name`` that is not older than ``max_age_h`` hours, with its samples.

    Samples come from the record's folder where it is on this host, else from the artifacts. None if there is no such
    baseline, or, with a warning, if MLflow cannot be queried; it is then measured again.
    """
    if not tracking.enabled:
        return None
    since_ms = int((time.time() - max_age_h * 3600) * 1000)
    query = _query({keys.KIND: "baseline", keys.BASELINE_HASH: name, keys.VERDICT: "VALID"})
    query += f" AND attributes.start_time >= {since_ms}"
    try:
        with open_store(tracking, write=False) as store:
            order = ["attributes.start_time DESC"]
            for run in store.client.search_runs([store.experiment_id], query, 1, _CANDIDATES, order):
                if (baseline := _baseline(store, run, name)) is not None:
                    return baseline
    except NoStoreError:
        return None
    except TrackingError as error:
        log.warning("Existing baselines cannot be found, so they are measured again. %s", error)
    return None


def finished(
    tracking: TrackingSpec,
    environment: Mapping[str, Any],
    *,
    folder: Path | None = None,
    redo_invalid: bool = False,
) -> dict[str, Done]:
    """Return mixes and profiles that are done (FINISHED, on this device and driver) by spec hash; of two the newer one.

    Args:
        tracking: Which store and experiment.
        environment: Of this host; results of another GPU, driver or CPU do not count. Without ``gpu_uuid``, those of
            any GPU of that name and driver do: the points of a sweep may be spread over several.
        folder: Also count the records below it, whether or not they reached MLflow.
        redo_invalid: INVALID is not done.

    Where MLflow cannot be asked, only the records below ``folder`` count, with a warning.
    """
    gpu = "gpu_name" in environment
    hardware = [key for key in DEVICE_KEYS if key in environment] if gpu else CPU_KEYS
    verdicts = ("VALID",) if redo_invalid else ("VALID", "INVALID")
    done: dict[str, Done] = {}
    for record in sorted(_records(folder), key=lambda record: record.started_at):
        same = all(record.environment.get(key) == environment.get(key) for key in hardware)
        if record.kind != "baseline" and record.status == "FINISHED" and same and record.verdict in verdicts:
            tenants = tuple({"metrics": t.metrics, "insufficient": t.insufficient} for t in record.tenants)
            tenants = tenants if len(tenants) == 1 else ()
            done[record.spec_hash] = Done(record.record_id, record.verdict, _summed_up(record.metrics), tenants)
    if not tracking.enabled:
        return done
    tags: dict[str, Any] = {keys.RUNTIME: "gpu" if gpu else "cpu"}
    if gpu:
        tags |= {keys.DEVICE: environment.get("gpu_name"), keys.GPU_UUID: environment.get("gpu_uuid")}
    tags |= {keys.ENVIRONMENT_TAGS[key]: environment.get(key) for key in hardware if key in keys.ENVIRONMENT_TAGS}
    try:
        with open_store(tracking, write=False) as store:
            wanted = (keys.KIND, keys.VERDICT, keys.SPEC_HASH, keys.RECORD_ID, *SUMMED_UP)
            for run in search(store, _query(tags), wanted):
                own = run.data.tags
                if own.get(keys.KIND) in ("mix", "profile", "churn") and own[keys.VERDICT] in verdicts:
                    found = Done(own.get(keys.RECORD_ID, ""), own[keys.VERDICT], _summed_up(run.data.metrics))
                    done.setdefault(own[keys.SPEC_HASH], found)
    except NoStoreError:
        pass  # nothing has been tracked yet
    except TrackingError as error:
        log.warning("Only the records in %s count as done, because MLflow cannot be queried. %s", folder, error)
    return done


def _summed_up(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in SUMMED_UP if name in metrics}


def _query(tags: Mapping[str, Any]) -> str:
    """Return a filter for complete, FINISHED runs with these tags; tags that are None are ignored."""
    wanted = {**tags, keys.UPLOAD: keys.UPLOAD_COMPLETE}
    conditions = [f"tags.`{name}` = {_quoted(str(value))}" for name, value in wanted.items() if value is not None]
    return " AND ".join(["attributes.status = 'FINISHED'", *conditions])


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"


def _records(folder: Path | None) -> Iterator[RunRecord]:
    for directory in find_records(folder) if folder is not None else ():
        try:
            yield load(directory)
        except RecordError as error:
            log.warning("A record cannot be read and is ignored. %s", error)


def _baseline(store: Store, run: Run, name: str) -> StoredBaseline | None:
    """The baseline of an MLflow run, from its folder on this host or from its artifacts; None if neither is valid."""
    record_id = run.data.tags.get(keys.RECORD_ID, "")
    folder = Path(run.data.tags.get(keys.RECORD_PATH, ""))
    if folder.is_absolute() and os.path.isfile(folder / RECORD):
        try:
            return _stored_baseline(folder, folder, run, record_id, name)
        except RecordError as error:
            log.debug("%s; its artifacts are used instead", error)
    with tempfile.TemporaryDirectory(prefix="mtexp-baseline-") as scratch:
        for artifact in (RECORD, ITERATIONS):
            store.client.download_artifacts(run.info.run_id, artifact, scratch)
        try:
            return _stored_baseline(Path(scratch), folder, run, record_id, name)
        except RecordError as error:
            log.warning("Baseline %s cannot be used: %s", run.info.run_id, error)
    return None


def _stored_baseline(directory: Path, path: Path, run: Run, record_id: str, name: str) -> StoredBaseline:
    from mtexp.records.samples_file import read_samples

    record = load(directory)
    if record.record_id != record_id or record.baseline_hash != name or record.verdict != "VALID":
        raise RecordError(f"{directory} holds record {record.record_id}, not the VALID baseline {record_id} ({name})")
    samples = read_samples(directory / ITERATIONS)
    if len(record.tenants) != 1 or record.window is None or record.tenants[0].id not in samples:
        raise RecordError(f"{directory} is not a baseline: a baseline has one tenant with measurements")
    tenant = record.tenants[0]
    if missing := {"throughput_rps", "latency_mean_ms"} - set(tenant.metrics):
        raise RecordError(f"{directory}: the baseline has no {', '.join(sorted(missing))}")
    series = Series.of(samples[tenant.id], Window(record.window["t0_ns"], record.window["t1_ns"]))
    if not series.latency_ms.size:
        raise RecordError(f"{directory}: the window of the baseline has no iteration after the first")
    ref = BaselineRef(
        record_id=record.record_id,
        baseline_hash=name,
        path=str(path),
        run_id=str(run.info.run_id),
        throughput_rps=tenant.metrics["throughput_rps"],
        latency_mean_ms=tenant.metrics["latency_mean_ms"],
        computed_with=computed_with(record.run_spec.tenants[0].seed, tenant.facts_after),
    )
    return StoredBaseline(
        ref,
        series,
        record.telemetry.get(keys.telemetry_summary("gpu_sm_clock_mhz", "mean")),
        tenant.metrics.get("launch_bound_pct"),
        record.started_at,
    )

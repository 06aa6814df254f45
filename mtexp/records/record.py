"""The record of a run: what it was, what was measured, what it means. Written before MLflow hears of it.

Lives here: the frozen record, :func:`save` (write aside, then rename) and :func:`load` (checked, bounded). May touch:
the files of one record directory::

    record.json          everything but the samples; its presence says the record is complete
    iterations.parquet   one row per iteration of every tenant (:mod:`mtexp.records.samples_file`)
    telemetry.parquet    one row per sample, written by the sampler
    environment.json  config.yaml  logs/  plots/
    begun.json  *.bin    while the run lives, or when it was killed (:mod:`mtexp.records.salvage`)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from mtexp.errors import RecordError
from mtexp.metrics.churn import Event
from mtexp.metrics.crossover import Block
from mtexp.metrics.finding import Finding
from mtexp.metrics.samples import Samples
from mtexp.records.files import CONFIG, ENVIRONMENT, ITERATIONS, RECORD, remove_leftovers, write_aside
from mtexp.records.validation import build, parse
from mtexp.spec import REQUESTS, SWEEP_NAME, RunSpec, fields_in

FORMAT_VERSION = 1
# 1  2026-11-22  first

NO_FIGURES = "no-figures"
"""Code of the finding of a record that was saved before its figures were computed."""

MAX_RECORD_BYTES = 64 * 2**20
MAX_TENANTS = 1024

_RECORD_ID = re.compile(r"[0-9a-f]{32}")
_TENANT_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRef:
    """The baseline a tenant was compared with."""

    record_id: str
    baseline_hash: str
    path: str = ""
    """Folder of its record on the host that measured it."""
    run_id: str = ""
    """Its MLflow run; empty while it is not there."""
    throughput_rps: float
    latency_mean_ms: float
    computed_with: str = ""
    """Seed and checksums (:mod:`mtexp.records.computed`); empty in older records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRecord:
    """One tenant of a run."""

    id: str
    model: str
    status: str
    """``FINISHED`` or ``FAILED``."""
    error: str = ""
    phase: str = ""
    """Where it failed: ``start``, ``build``, ``warm-up``, ``measure``, ``stop``."""
    metrics: dict[str, float] = field(default_factory=dict)
    insufficient: tuple[str, ...] = ()
    """Metrics with too few iterations to be trusted."""
    facts_before: dict[str, Any] = field(default_factory=dict)
    facts_after: dict[str, Any] = field(default_factory=dict)
    baseline: BaselineRef | None = None
    partitioned_baseline: BaselineRef | None = None
    arrivals_baseline: BaselineRef | None = None
    """Alone at the same arrivals (open loop)."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run; :data:`FORMAT_VERSION` has the history of its format."""

    format_version: int = FORMAT_VERSION
    record_id: str
    """32 hexadecimal digits."""
    kind: str
    """``mix``, ``baseline``, ``profile`` or ``churn``."""
    sweep: str = ""
    spec: dict[str, Any]
    """:func:`mtexp.spec.to_json` of the RunSpec."""
    spec_hash: str
    baseline_hash: str = ""
    """For a baseline: :func:`mtexp.tracking.ledger.baseline_hash`."""
    status: str
    """``FINISHED`` or ``FAILED``."""
    failure: str = ""
    started_at: str = ""
    """ISO 8601, UTC."""
    ended_at: str = ""
    clock: tuple[tuple[int, int], ...] = ()
    """Pairs of ``monotonic_ns`` and ``time_ns`` read together."""
    environment: dict[str, Any] = field(default_factory=dict)
    window: dict[str, int] | None = None
    """``t0_ns`` and ``t1_ns``; None when the tenants never measured together."""
    tenants: tuple[TenantRecord, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    telemetry: dict[str, float] = field(default_factory=dict)
    """Summary of the telemetry over the window."""
    telemetry_notes: dict[str, Any] = field(default_factory=dict)
    """``energy_source``, ``power_source``, and ``absent``: what the device did not answer, and why."""
    sharing: dict[str, Any] = field(default_factory=dict)
    """What proved the sharing mode."""
    blocks: tuple[Block, ...] = ()
    """Blocks of a crossover run, in the order in which they were measured."""
    events: tuple[Event, ...] = ()
    """Events of a churn run, in the order in which they happened."""
    verdict: str = "INVALID"
    """``VALID`` or ``INVALID``."""
    findings: tuple[Finding, ...] = ()
    profile_of: str = ""
    """For a profile: record_id of the timed run."""
    attempt: int = 1
    sweep_position: int | None = None
    """How many points of the sweep were started before; None in older records."""
    swept: dict[str, str] = field(default_factory=dict)
    """What distinguishes the run from the others of its sweep, e.g. ``a.batch_size``: ``4``."""
    session: str = ""
    """Names the runs that were measured side by side; empty = by itself."""
    session_reference: str = ""
    """record_id of the run of the session that this one is compared with; empty for that run itself."""

    @cached_property
    def run_spec(self) -> RunSpec:
        """The specification as a RunSpec; every tenant of 48 asks for it, and making it takes a tenth of a second.

        Raises:
            RecordError: It is none.
        """
        return build(RunSpec, self.spec, "record.spec")


# --- writing ----------------------------------------------------------------------------------------------------------


def save(
    record: RunRecord, directory: Path, samples: Mapping[str, Samples], *, config: str = "", final: bool = True
) -> RunRecord:
    """Write ``record`` and its samples to ``directory`` so that it is there wholly or not at all.

    Numbers that are not finite are left out, with a finding that names them: what could not be measured is absent.
    The buffers that the samples come from are removed once record and samples are on disk, never before.

    Args:
        record: What to write.
        directory: Created when absent; ``telemetry.parquet`` and ``logs/`` are already in it.
        samples: Samples by tenant id; a tenant without any may be absent.
        config: The composed configuration as YAML; empty = do not write ``config.yaml``.
        final: False for a record whose figures are still to be computed (:func:`save_figures`): the buffers stay.

    Returns:
        The record as written.

    Raises:
        RecordError: The directory cannot be written.
    """
    data, record = _storable(record)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"could not make {directory}: {error.strerror or error}") from error
    _write(record, data, directory, samples, config)
    if final:
        remove_leftovers(directory)
    return record


def save_figures(record: RunRecord, directory: Path) -> RunRecord:
    """Write ``record`` in place of the one without figures that :func:`save` has left with the samples.

    Returns:
        The record as written.

    Raises:
        RecordError: The directory cannot be written; the record without figures and the buffers stay.
    """
    data, record = _storable(record)
    _write_json(directory / RECORD, data)
    remove_leftovers(directory)
    return record


def _write(
    record: RunRecord, data: Mapping[str, Any], directory: Path, samples: Mapping[str, Samples], config: str
) -> None:
    from mtexp.records.samples_file import write_iterations  # pyarrow: only once something was measured

    models = {tenant.id: tenant.model for tenant in record.tenants}
    write_iterations(directory / ITERATIONS, samples, models, record.window)
    if config:
        with write_aside(directory / CONFIG) as file:
            file.write(config.encode())
    _write_json(directory / ENVIRONMENT, data["environment"])
    _write_json(directory / RECORD, data)


def _write_json(path: Path, value: Any) -> None:
    with write_aside(path) as file:
        file.write(json.dumps(value, indent=1, allow_nan=False).encode())


def _storable(record: RunRecord) -> tuple[dict[str, Any], RunRecord]:
    """Return the record as JSON data that every store can hold, and the record that it is."""
    dropped: list[str] = []
    data = _finite(json.loads(json.dumps(record, default=_plain)), "record", dropped)
    if not dropped:
        return data, build(RunRecord, data)
    finding = Finding(
        level="warning",
        code="not_finite",
        message=f"left out, not a finite number: {', '.join(dropped)}",
        remedy="Report it: a metric divided by zero or was computed from no iterations.",
    )
    data["findings"].append(asdict(finding))
    return data, build(RunRecord, data)


def _plain(value: Any) -> Any:
    """A dataclass, a numpy scalar or array, or a path, as JSON data."""
    if is_dataclass(value) and not isinstance(value, type):
        return fields_in(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _finite(data: Any, where: str, dropped: list[str]) -> Any:
    if isinstance(data, dict):
        items = ((k, v, f"{where}.{k}") for k, v in data.items())
        return {k: _finite(v, place, dropped) for k, v, place in items if _keeps(v, place, dropped)}
    if isinstance(data, list):
        return [_finite(v, where, dropped) for v in data if _keeps(v, where, dropped)]
    if isinstance(data, str):
        if data.isascii() and "\0" not in data:
            return data
        return data.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return data


def _keeps(value: Any, where: str, dropped: list[str]) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        dropped.append(where)
        return False
    return True


# --- reading ----------------------------------------------------------------------------------------------------------


def load(directory: Path) -> RunRecord:
    """Read and check the record in ``directory``.

    Raises:
        RecordError: There is none, or it is not what a record of a known format is; says what was found where.
    """
    path = directory / RECORD
    try:
        if not path.is_file():
            raise RecordError(f"no {RECORD}; a record is the output folder of a run that ended")
        if (size := path.stat().st_size) > MAX_RECORD_BYTES:
            raise RecordError(f"{size} bytes, allowed: at most {MAX_RECORD_BYTES}")
        return from_bytes(path.read_bytes())
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from error


def from_bytes(text: bytes) -> RunRecord:
    """Return the record that ``text``, the content of a ``record.json``, holds.

    Raises:
        RecordError: It holds none.
    """
    data = parse(text)
    version = data.get("format_version") if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise RecordError(f"format_version: found {str(version)[:60]}, allowed: 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise RecordError(f"format_version {version} is newer than {FORMAT_VERSION}: read it with a newer mtexp")
    record = build(RunRecord, data)
    _check(record)
    return record


def _check(record: RunRecord) -> None:
    """Check what the types do not say: choices, names that become file names, the window."""
    _one_of("kind", record.kind, "mix", "baseline", "profile", "churn")
    _one_of("status", record.status, "FINISHED", "FAILED")
    _one_of("verdict", record.verdict, "VALID", "INVALID")
    if not _RECORD_ID.fullmatch(record.record_id):
        raise RecordError(f"record.record_id: found {record.record_id[:60]!r}, allowed: 32 hexadecimal digits")
    if not 1 <= len(record.tenants) <= MAX_TENANTS:
        raise RecordError(f"record.tenants: found {len(record.tenants)}, allowed: 1 to {MAX_TENANTS}")
    if record.sweep and not SWEEP_NAME.fullmatch(record.sweep):
        raise RecordError(
            f"record.sweep: found {record.sweep[:60]!r}, allowed: letters, digits and . _ - (a folder's name)"
        )
    ids = [tenant.id for tenant in record.tenants]
    if len(set(ids)) < len(ids):
        raise RecordError("record.tenants: two tenants of the same id")
    for tenant in record.tenants:
        _check_tenant(tenant)
    window = record.window
    if window is not None and not (window.keys() >= {"t0_ns", "t1_ns"} and window["t0_ns"] < window["t1_ns"]):
        raise RecordError(f"record.window: found {str(record.window)[:60]}, allowed: t0_ns before t1_ns")
    _check_spec(record.run_spec)


def _check_tenant(tenant: TenantRecord) -> None:
    _one_of(f"tenants.{tenant.id[:60]}.status", tenant.status, "FINISHED", "FAILED")
    _check_id(tenant.id)
    for ref in (tenant.baseline, tenant.partitioned_baseline, tenant.arrivals_baseline):
        if ref is not None and ".." in PurePath(ref.path).parts:
            raise RecordError(f"record.tenants.{tenant.id}: baseline path {ref.path[:60]!r} leaves its folder")


def _check_spec(spec: RunSpec) -> None:
    for tenant in spec.tenants:
        _check_id(tenant.id)
        _one_of(f"spec.tenants.{tenant.id}.workload.kind", tenant.workload.kind, *REQUESTS)
    if spec.tracking.max_history < 1:
        raise RecordError(f"record.spec.tracking.max_history: found {spec.tracking.max_history}, allowed: 1 or more")


def _check_id(name: str) -> None:
    if not _TENANT_ID.fullmatch(name) or ".." in name:
        raise RecordError(
            f"tenant id: found {name[:60]!r}, allowed: letters, digits and _ . + - (it names its log file)"
        )


def _one_of(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise RecordError(f"record.{name}: found {value[:60]!r}, allowed: {', '.join(allowed)}")

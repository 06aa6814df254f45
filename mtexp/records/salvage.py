"""Runs that were killed (SIGKILL of the run itself, a power cut): their samples made into FAILED records.

Lives here: :func:`begin`, which leaves ``begun.json`` before a run starts, and :func:`salvage`, which makes a record of
that note and the sample buffers once the run is dead. May touch: the files of a record directory, ``/proc``.

The note holds the record as it would be if nothing were measured, and names the process. A record that is saved takes
the note and the buffers away, so a folder with a note is one whose run is alive, or was killed.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from mtexp.errors import RecordError
from mtexp.metrics.churn import Event
from mtexp.metrics.churn_rows import metrics_of
from mtexp.metrics.crossover import Block, mark
from mtexp.metrics.crossover_summary import BlockTelemetry, real_window, summarise_crossover
from mtexp.metrics.fresh_processes import unseen_of
from mtexp.metrics.guarded import Attempts, churn_guarded, summarise_guarded
from mtexp.metrics.samples import WARMUP, Samples
from mtexp.metrics.summary import Measured, RunSummary
from mtexp.metrics.verdict import Finding, in_order
from mtexp.metrics.window import common_window
from mtexp.records.files import (
    BEGUN,
    BLOCKS,
    EVENTS,
    ITERATIONS,
    RECORD,
    STEADY,
    find_records,
    fresh,
    remove_leftovers,
    write_aside,
)
from mtexp.records.live_files import read_blocks, read_events
from mtexp.records.record import MAX_RECORD_BYTES, NO_FIGURES, RunRecord, from_bytes, load
from mtexp.records.room import save_in_room
from mtexp.records.validation import parse
from mtexp.tenant.buffers import SampleBuffer

KILLED = "the run was killed: its process ended without a word (SIGKILL, no memory, power)"
_BOOT_ID, _PID_NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True)
class Salvage:
    """What became of one folder in which a run had begun."""

    directory: Path
    outcome: str
    ok: bool = True
    """False when its note or its samples cannot be read."""
    made: bool = False
    """There is a record now, in ``directory``, which is to be sent."""

    def __str__(self) -> str:
        return f"{self.directory}: {self.outcome}"


def begin(record: RunRecord, directory: Path, *, config: str = "") -> None:
    """Leave a note that a run has begun in ``directory``: what its record is to be if it is killed.

    A directory that cannot be written is not reported here: the run notices it next, with a better message.
    It must be one in which no run has been (:func:`mtexp.records.files.fresh`).
    """
    note = {"run": _this_process(), "record": asdict(record), "config": config}
    with suppress(RecordError, OSError):
        directory.mkdir(parents=True, exist_ok=True)
        with write_aside(directory / BEGUN) as file:
            file.write(json.dumps(note, default=str).encode())


def is_running(directory: Path) -> bool:
    """Whether a run is writing to ``directory`` now, or one of another host might be."""
    try:
        return os.path.isfile(directory / BEGUN) and _life(_read(directory)[0]) != "dead"
    except RecordError:
        return False


def salvage(*folders: Path, ended: bool = False) -> Iterator[Salvage]:
    """Make a FAILED record of every run at or below ``folders`` that was killed, and report on each.

    A run that is alive is left alone. A second call changes nothing more; if this process is killed, what is on disk
    stays, and the next call finishes the work.

    Args:
        folders: Where to look.
        ended: Runs of other hosts have ended too: from here that cannot be seen.
    """
    for directory in find_records(*folders, name=BEGUN):
        lock = filelock.FileLock(directory / f".{BEGUN}.lock", timeout=0)
        try:
            found = _left_alone(directory, ended=ended)
            if found is None:
                with lock:
                    found = _salvaged(directory)
                Path(lock.lock_file).unlink(missing_ok=True)
        except filelock.Timeout:
            found = Salvage(directory, "is being salvaged by another process, left alone")
        except (RecordError, OSError) as error:
            found = Salvage(directory, f"NOT salvaged: {error}", ok=False)
        except Exception as error:  # noqa: BLE001  one folder never keeps the others from being salvaged
            found = Salvage(directory, f"NOT salvaged: {type(error).__name__}: {error}. Please report it", ok=False)
        yield found


def _left_alone(directory: Path, *, ended: bool) -> Salvage | None:
    run, _, _ = _read(directory)
    who, life = f"pid {run['pid']} on {run['host']}", _life(run)
    if life == "alive":
        return Salvage(directory, f"still running ({who}), left alone")
    if life == "unknown" and not ended:
        return Salvage(directory, f"begun by {who}, which cannot be seen from here: if it has ended, add --ended")
    return None


def _salvaged(directory: Path) -> Salvage:
    if not (directory / BEGUN).is_file():
        return Salvage(directory, "was salvaged by another process")
    _, record, config = _read(directory)
    place, own = directory, None
    if (directory / RECORD).is_file():
        own = _own_record(directory, record)
        if own is None:
            place = fresh(directory)  # a folder in which another run has left a record
        elif not any(finding.code == NO_FIGURES for finding in own.findings):  # killed after its record was written
            remove_leftovers(directory)
            return Salvage(directory, "its record was complete", made=True)
    blocks = read_blocks(directory / BLOCKS) or (own.blocks if own is not None else ())
    samples = _in_blocks(mark(dict(_samples(record, directory)), blocks), blocks) or _saved_samples(place)
    made = _as_far_as_it_came(replace(record, blocks=blocks), samples)
    if record.kind == "churn":
        made = _with_events(made, read_events(directory / EVENTS))
    save_in_room(made, place, samples, config=config)
    remove_leftovers(directory)
    count = sum(len(rows.measured) for rows in samples.values())
    events = f"{len(made.events)} events and " if made.events else ""
    return Salvage(place, f"was killed; now a FAILED record with {events}{count} measured iterations", made=True)


def _with_events(record: RunRecord, events: tuple[Event, ...]) -> RunRecord:
    """The record of a churn run: figures of what was seen at each event; p99 needs requests of processes now gone."""
    attempts, none = Attempts(), [np.zeros(0)] * len(events)
    figures = churn_guarded(events, none, record.tenants[0].id, attempts, seed=record.run_spec.seed)
    findings = in_order((*record.findings, *attempts.findings))
    return replace(record, events=events, window=None, metrics=metrics_of(figures), findings=findings)


def _own_record(directory: Path, begun: RunRecord) -> RunRecord | None:
    """The record in ``directory`` if it is of the run that had ``begun``."""
    with suppress(RecordError):
        record = load(directory)
        return record if record.record_id == begun.record_id else None
    return None


def _saved_samples(directory: Path) -> dict[str, Samples]:
    """The samples beside a record without figures, should the buffers be gone; none where there are none."""
    from mtexp.records.samples_file import read_samples  # pyarrow

    return read_samples(directory / ITERATIONS) if (directory / ITERATIONS).is_file() else {}


def _samples(record: RunRecord, directory: Path) -> Iterator[tuple[str, Samples]]:
    """What each tenant had written, by its id."""
    for slot, tenant in enumerate(record.tenants):
        folder = directory
        if record.kind == "churn":  # its last process: what others had measured died with the run
            folder = max(directory.glob(f"{STEADY}-[0-9]*"), key=lambda path: path.stat().st_mtime, default=directory)
        path = folder / f"samples-{slot}.bin"
        if not path.is_file():
            continue
        if path.is_symlink():
            raise RecordError(f"{path} is a link: it leaves its folder")
        try:
            buffer = SampleBuffer(path)
            rows, warmup = buffer.header[0], buffer.header[1]
            if not (0 <= rows <= buffer.capacity and warmup >= 0):
                raise ValueError(f"{rows} rows after {warmup} warm-ups in room for {buffer.capacity}")
            yield tenant.id, buffer.samples()
        except (OSError, ValueError, IndexError) as error:
            raise RecordError(f"{path}: not a sample buffer: {error}") from error


def _in_blocks(samples: Mapping[str, Samples], blocks: Sequence[Block]) -> dict[str, Samples]:
    """``samples`` without requests that began outside ``blocks``: the same processes served other mixes then."""
    if not blocks:
        return dict(samples)
    ends_ns = np.array([block.end_ns for block in blocks])
    return {
        tenant: own.select((own.phase == WARMUP) | ((own.block >= 0) & (own.start_ns < ends_ns[own.block])))
        for tenant, own in samples.items()
    }


def _as_far_as_it_came(record: RunRecord, samples: Mapping[str, Samples]) -> RunRecord:
    """The record with the figures of ``samples``; compared with nothing, and INVALID as it was."""
    spec = record.run_spec
    in_blocks = spec.measure.design == "crossover"
    window = None
    if len(samples) == len(record.tenants):
        window = real_window(samples) if in_blocks else common_window(list(samples.values()))
    new_tokens = {t.id: t.workload.new_tokens for t in spec.tenants if t.workload.kind == "generate"}
    measured = {
        tenant: Measured(samples=rows, new_tokens=new_tokens.get(tenant, 0)) for tenant, rows in samples.items()
    }
    attempts = Attempts()
    if in_blocks:
        summary = attempts.of(
            "the figures",
            lambda: summarise_crossover(
                measured,
                record.blocks,
                BlockTelemetry(),
                unseen=unseen_of(spec, samples),
                seed=spec.seed,
            ),
            RunSummary({}, {}, {}),
        )
    else:
        summary = summarise_guarded(measured, window, attempts, seed=spec.seed)
    tenants = tuple(
        replace(t, metrics=summary.tenants.get(t.id, {}), insufficient=summary.insufficient.get(t.id, ()))
        for t in record.tenants
    )
    last_ns = max((int(rows.end_ns.max()) for rows in samples.values() if len(rows)), default=0)
    (begun_ns, realtime_ns), *_ = record.clock or ((0, 0),)
    ended_ns = realtime_ns + max(0, last_ns - begun_ns)
    remedy = "Slowdowns and a summary of the telemetry are not made afterwards; resume=true runs the point again."
    return replace(
        record,
        status="FAILED",
        verdict="INVALID",
        failure=record.failure or KILLED,
        ended_at=datetime.fromtimestamp(ended_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
        window=None if window is None else {"t0_ns": window.t0_ns, "t1_ns": window.t1_ns},
        tenants=tenants,
        metrics=summary.metrics,
        findings=in_order(
            (
                *(finding for finding in record.findings if finding.code != NO_FIGURES),
                Finding("warning", "salvaged", "made from what a killed run has left", remedy),
                *attempts.findings,
            )
        ),
    )


# --- whose note it is -------------------------------------------------------------------------------------------------


def _read(directory: Path) -> tuple[dict[str, Any], RunRecord, str]:
    """The note of a folder: which process, the record without samples, the configuration."""
    path = directory / BEGUN
    try:
        if not path.is_file():
            raise RecordError("no file")
        if (size := path.stat().st_size) > MAX_RECORD_BYTES:
            raise RecordError(f"{size} bytes, allowed: at most {MAX_RECORD_BYTES}")
        note = parse(path.read_bytes())
        if not isinstance(note, dict) or not isinstance(note.get("run"), dict):
            raise RecordError("it does not say which run it is of")
        run = {key: note["run"].get(key) for key in _this_process()}
        if not isinstance(run["pid"], int) or run["pid"] < 1 or not isinstance(run["host"], str):
            raise RecordError(f"run: found {str(run)[:60]}, allowed: a pid and a host")
        config = note.get("config")
        record = from_bytes(json.dumps(note.get("record")).encode())
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from error
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None
    return run, record, config if isinstance(config, str) else ""


def _this_process() -> dict[str, Any]:
    return {
        "host": platform.node(),
        "boot_id": _BOOT_ID.read_text().strip(),
        "pid_namespace": os.readlink(_PID_NAMESPACE),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def _started(pid: int) -> str | None:
    """When a process was started, in clock ticks since boot; None when there is none or it is a zombie (proc(5))."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in ("Z", "X") else rest[18]


def _life(run: Mapping[str, Any]) -> str:
    """``alive``, ``dead``, or ``unknown`` where this process cannot see it: another host, another container."""
    here = _this_process()
    if run["boot_id"] != here["boot_id"]:
        return "dead" if run["host"] == here["host"] else "unknown"  # this host has been started anew since
    if run["pid_namespace"] != here["pid_namespace"]:
        return "unknown"
    return "alive" if _started(run["pid"]) == run["started"] is not None else "dead"

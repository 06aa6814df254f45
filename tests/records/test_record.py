from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtexp.errors import RecordError, TrackingError
from mtexp.metrics.verdict import Finding
from mtexp.records import record as records
from mtexp.records.files import BEGUN, find_records, fresh, write_aside
from mtexp.records.record import BaselineRef, RunRecord, from_bytes, load, save
from mtexp.records.room import save_in_room
from mtexp.records.samples_file import MAX_TELEMETRY_COLUMNS, SCHEMA, read_iterations, read_samples, read_telemetry
from mtexp.records.time import epoch_ms, iso_ms
from mtexp.telemetry.gpu import GpuProbe
from mtexp.telemetry.probes import GPM, CpuProbe, Probes
from mtexp.telemetry.table import Table
from mtexp.tenant.buffers import SampleBuffer
from mtexp.testing.records import example, stored
from mtexp.tracking.content import evenly, parent_content, tenant_content

FIXTURES = Path(__file__).parents[1] / "data" / "records"


def _paths(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from _paths(value, (*path, key))


def _complete() -> RunRecord:
    record, _ = example(gpu=True)
    ref = BaselineRef(record_id="ab" * 16, baseline_hash="h", path="/runs/b", throughput_rps=10.0, latency_mean_ms=2.0)
    findings = (Finding(level="warning", code="drift", message="drifts", remedy="wait", tenant="t0"),)
    tenants = tuple(
        replace(t, insufficient=("latency_p99_ms",), facts_before={"pid": 1}, baseline=ref) for t in record.tenants
    )
    return replace(record, tenants=tenants, findings=findings)


_COMPLETE = json.loads(json.dumps(asdict(_complete())))
_PATHS = [path for path in _paths(_COMPLETE) if path]


def _tenant_of(**changes: Any) -> dict[str, Any]:
    """A tenant of a specification."""
    return {"id": "a", "model": {"name": "m", "role": "encoder", "architecture": "bert"}, **changes}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    """A record survives the disk unchanged."""
    record, samples = _complete(), example()[1]
    assert save(record, tmp_path / "run", samples, config="mix: mixed\n") == record
    assert load(tmp_path / "run") == record
    assert (tmp_path / "run" / "config.yaml").read_text() == "mix: mixed\n"
    assert json.loads((tmp_path / "run" / "environment.json").read_text()) == record.environment
    assert not list((tmp_path / "run").glob(".*"))


def test_iterations_are_tidy_and_typed(tmp_path: Path) -> None:
    """One row per iteration, warm-ups counted backwards from the barrier, window flagged, as the design names it."""
    record, samples = example(iterations=20)
    save(record, tmp_path, samples)
    frame = read_iterations(tmp_path / "iterations.parquet")
    assert list(frame.columns) == SCHEMA.names
    rows = frame[frame["tenant"] == "t0"]
    assert rows["iteration"].tolist() == [-2, -1, *range(20)]
    assert rows["phase"].tolist() == ["warmup"] * 2 + ["measure"] * 20
    assert not rows["in_window"][:2].any()
    assert rows["latency_ms"].to_numpy() == pytest.approx(samples["t0"].latency_ms)
    assert rows["model"].unique().tolist() == ["bert_base"]
    assert rows["ttft_ms"].isna().all()
    assert record.window is not None
    inside = (rows["start_ns"] > record.window["t0_ns"]) & (rows["end_ns"] <= record.window["t1_ns"])
    assert (rows["in_window"] == (inside & (rows["iteration"] >= 0))).all()


def test_gpu_time_is_absent_on_a_cpu(tmp_path: Path) -> None:
    """What could not be measured is null, not 0."""
    record, samples = example(gpu=False)
    save(record, tmp_path, samples)
    assert read_iterations(tmp_path / "iterations.parquet", ["gpu_time_ms"])["gpu_time_ms"].isna().all()


def test_samples_come_back_to_the_nanosecond(tmp_path: Path) -> None:
    """A baseline that is read again gives the same samples."""
    record, samples = example()
    tokens = samples["t0"].start_ns + 1_234_567
    samples["t0"] = replace(samples["t0"], first_token_ns=tokens)
    save(record, tmp_path, samples)
    for tenant, again in read_samples(tmp_path / "iterations.parquet").items():
        for column in ("phase", "arrival_ns", "start_ns", "end_ns", "first_token_ns", "gpu_time_ns"):
            np.testing.assert_array_equal(getattr(again, column), getattr(samples[tenant], column))


def test_a_failed_run_without_samples_is_a_record(tmp_path: Path) -> None:
    """A run that failed before it measured is kept too."""
    record, _ = example(status="FAILED", failure="tenant t0 failed in build", window=None, verdict="INVALID")
    save(record, tmp_path, {})
    assert load(tmp_path).failure == "tenant t0 failed in build"
    assert len(read_iterations(tmp_path / "iterations.parquet")) == 0


def test_numbers_that_are_none_are_left_out_and_named(tmp_path: Path) -> None:
    """NaN never reaches a record: the metric is absent and a finding says so. Text that no store holds is repaired."""
    record, samples = example(metrics={"stp": math.nan, "antt": math.inf, "window_s": 1.0}, failure="a\0b\ud800c")
    saved = save(record, tmp_path, samples)
    assert saved.metrics == {"window_s": 1.0}
    assert saved.findings[-1].code == "not_finite"
    assert "record.metrics.stp" in saved.findings[-1].message
    assert load(tmp_path) == saved


def test_numpy_scalars_are_numbers(tmp_path: Path) -> None:
    """Facts computed with numpy need no conversion by the caller."""
    record, samples = example(sharing={"sms": np.int64(132)}, metrics={"stp": np.float64(1.5)})
    assert save(record, tmp_path, samples).sharing == {"sms": 132}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file where the directory should be, and a disk that fills: one message with its remedy, nothing half there."""
    (tmp_path / "run").write_text("")
    record, samples = example()
    with pytest.raises(RecordError, match=r"could not make .*run"):
        save(record, tmp_path / "run", samples)

    def no_space() -> None:
        with write_aside(tmp_path / "x.json"):
            raise OSError(28, "No space left on device")

    with pytest.raises(RecordError, match=r"x\.json: No space left on device. Make room"):
        no_space()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_full_disk_never_costs_the_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried again with the room they do not use; where that is not enough they stay, and the message says for what."""
    record, samples = example()
    buffer = SampleBuffer(tmp_path / "samples-0.bin", 100, create=True)
    buffer.header[0] = 7
    tried: list[int] = []

    def full(*args: Any) -> None:
        tried.append(SampleBuffer(tmp_path / "samples-0.bin").header[0])
        raise RecordError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mtexp.records.samples_file.write_iterations", full)
        with pytest.raises(RecordError, match=r"\.bin: python -m mtexp.tracking.upload"):
            save_in_room(record, tmp_path, samples)
    assert tried == [7, 7]
    assert SampleBuffer(tmp_path / "samples-0.bin").header[0] == 7
    save_in_room(record, tmp_path, samples)
    assert not list(tmp_path.glob("*.bin"))


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path) -> None:
    """Write aside, then rename: what was there stays until the new content is complete."""
    (tmp_path / "x.json").write_text("old")

    def interrupted() -> None:
        with write_aside(tmp_path / "x.json") as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "x.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("folder", sorted(FIXTURES.iterdir()), ids=lambda path: path.name)
def test_every_past_format_is_readable(folder: Path) -> None:
    """Records of every format there ever was load, with their samples and telemetry."""
    record = load(folder)
    assert {t.id for t in record.tenants} == set(read_samples(folder / "iterations.parquet"))
    assert len(read_telemetry(folder / "telemetry.parquet")) > 0
    assert record.run_spec.mix == "mixed"


def test_there_is_a_fixture_of_the_current_format() -> None:
    """A new format comes with a record of it under tests/data."""
    assert load(FIXTURES / f"v{records.FORMAT_VERSION}").format_version == records.FORMAT_VERSION


def test_records_are_found_below_a_folder(tmp_path: Path) -> None:
    """Runs of a sweep and the baselines beneath them are found."""
    stored(tmp_path / "sweep" / "0")
    stored(tmp_path / "sweep" / "0" / "baseline_bert", seed=1)
    assert [p.name for p in find_records(tmp_path)] == ["0", "baseline_bert"]


def test_a_folder_in_which_a_run_has_been_is_not_taken_again(tmp_path: Path) -> None:
    """Nor one with a record or the note of a run below it; each run after that has a number of its own."""
    assert fresh(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "a" / "logs").mkdir(parents=True)
    assert fresh(tmp_path / "a") == tmp_path / "a"
    stored(tmp_path / "a" / "baselines" / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / BEGUN).write_text("{")
    for name in ("a", "c"):
        assert [fresh(tmp_path / name).name for _ in range(2)] == ["run-2", "run-3"]
    (tmp_path / "a" / "run-4").write_text("")
    assert fresh(tmp_path / "a") == tmp_path / "a" / "run-5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format_version 99 is newer than 1"),
        ({"format_version": "1"}, "format_version: found 1"),
        ({"record_id": "../../x"}, "record_id: found '../../x'"),
        ({"kind": "other"}, "kind: found 'other', allowed: mix, baseline, profile"),
        ({"tenants": [{"id": "../../x", "model": "m", "status": "FINISHED"}]}, r"tenant id: found '../../x'"),
        ({"tenants": [{"id": "a/b", "model": "m", "status": "FINISHED"}]}, r"tenant id: found 'a/b'"),
        ({"tenants": [{"id": "a", "model": "m", "status": "FINISHED"}] * 2}, "two tenants of the same id"),
        ({"tenants": [{"id": f"t{i}", "model": "m", "status": "FINISHED"} for i in range(1025)]}, "allowed: 1 to 1024"),
        ({"metrics": {"stp": "high"}}, "record.metrics.stp: found 'high', allowed: a value of type float"),
        ({"metrics": {"stp": True}}, "record.metrics.stp: found True"),
        ({"tenants": []}, "record.tenants: found 0, allowed: 1 to 1024"),
        ({"window": {"t0_ns": 5, "t1_ns": 5}}, "t0_ns before t1_ns"),
        ({"window": {"t1_ns": 5}}, "t0_ns before t1_ns"),
        ({"sweep": "../../escaped"}, r"record.sweep: found '../../escaped', allowed: letters"),
        ({"sweep": "/tmp/escaped"}, "record.sweep: found '/tmp/escaped'"),
        ({"attempt": 10**400}, "too large|not JSON"),
        ({"spec": {"mix": "m", "tenants": "all"}}, "record.spec.tenants: found 'all'"),
        ({"spec": {"tenants": []}}, "record.spec: .*mix"),
        (
            {"spec": {"mix": "m", "tenants": [_tenant_of(workload={"kind": "zzz"})]}},
            r"spec\.tenants\.a\.workload\.kind: found 'zzz', allowed: forward, prefill, decode, generate, train",
        ),
        (
            {"spec": {"mix": "m", "tenants": [_tenant_of()], "tracking": {"max_history": -1}}},
            r"spec\.tracking\.max_history: found -1, allowed: 1 or more",
        ),
        ({"sweep": "x" * 2_000_000}, "at most 1000000 characters"),
    ],
)
def test_a_record_that_is_none_is_refused_with_what_was_found(change: dict[str, Any], message: str) -> None:
    """One message that names the place and what is allowed there."""
    with pytest.raises(RecordError, match=message):
        from_bytes(json.dumps({**_COMPLETE, **change}).encode())


def test_a_baseline_path_does_not_leave_its_folder() -> None:
    """A record cannot point outside with dots."""
    data = copy.deepcopy(_COMPLETE)
    data["tenants"][0]["baseline"]["path"] = "../../x"
    with pytest.raises(RecordError, match="leaves its folder"):
        from_bytes(json.dumps(data).encode())


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 100_000, b"\xff", b'{"a": NaN}', b"9" * 5000, b'"\\ud800"', b"null"]
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    """Broken, too deep, not UTF-8, not finite: a RecordError."""
    with pytest.raises(RecordError):
        from_bytes(text)


def test_a_record_file_has_a_bounded_size(tmp_path: Path) -> None:
    """A file of gigabytes is refused before it is read."""
    with (tmp_path / "record.json").open("wb") as file:
        file.truncate(records.MAX_RECORD_BYTES + 1)
    with pytest.raises(RecordError, match="allowed: at most"):
        load(tmp_path)
    with pytest.raises(RecordError, match=r"no record\.json"):
        load(tmp_path / "elsewhere")


def _outcome(text: bytes) -> RunRecord | RecordError:
    try:
        return from_bytes(text)
    except RecordError as error:
        return error


@given(path=st.sampled_from(_PATHS), value=_JSON)
def test_any_value_anywhere_gives_a_record_or_a_record_error(path: tuple[Any, ...], value: Any) -> None:
    """Whatever stands in a record, it is refused, or loads into one that can be saved again and shown by MLflow."""
    data = copy.deepcopy(_COMPLETE)
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    result = _outcome(json.dumps(data).encode())
    if isinstance(result, RunRecord):
        assert from_bytes(json.dumps(asdict(result)).encode()) == result
        with suppress(TrackingError):  # a metric that the registry does not have
            _shown(result)


def _shown(record: RunRecord) -> None:
    """What MLflow is to get of a record, its histories included."""
    most = record.run_spec.tracking.max_history
    instants_ns = np.arange(record.clock[0][0] if record.clock else 0, 2**62, 2**60)
    times_ms = epoch_ms(record, instants_ns[evenly(len(instants_ns), most)])
    assert len(times_ms) <= most
    thinned = {"latency_ms": len(instants_ns)}
    contents = [parent_content(record, "/runs/0", thinned=thinned, max_history=most)]
    contents += [tenant_content(record, t, "parent", thinned=thinned, max_history=most) for t in record.tenants]
    assert all(type(iso_ms(text)) is int for text in (record.started_at, record.ended_at))
    assert all(
        isinstance(text, str) for content in contents for text in (*content.tags.values(), *content.params.values())
    )


@given(st.binary(max_size=200) | _JSON.map(lambda data: json.dumps(data).encode()))
def test_any_bytes_give_a_record_or_a_record_error(text: bytes) -> None:
    """No input ends in another exception."""
    assert isinstance(_outcome(text), RecordError)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damaged_parquet_gives_rows_or_a_record_error(data: st.DataObject, tmp_path: Path) -> None:
    """A file with flipped bytes is read or refused, never a crash."""
    good = (FIXTURES / "v1" / "iterations.parquet").read_bytes()
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "iterations.parquet"
    path.write_bytes(bytes(damaged[: data.draw(st.integers(0, len(good)))]))
    with suppress(RecordError):
        assert read_iterations(path).columns.tolist() == SCHEMA.names


def test_a_parquet_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """Telemetry is not iterations, and the other way round."""
    stored(tmp_path / "run")
    with pytest.raises(RecordError, match="column tenant is absent"):
        read_iterations(tmp_path / "run" / "telemetry.parquet")
    with pytest.raises(RecordError, match="allowed: monotonic_ns and samples"):
        read_telemetry(tmp_path / "run" / "iterations.parquet")


def test_telemetry_of_sixty_tenants_is_read(tmp_path: Path) -> None:
    """60 tenants, the most that CUDA MPS takes, each with columns of its own beside those of the GPU and the host."""
    tenants = {f"t{number}": 1000 + number for number in range(60)}
    columns = Probes(GpuProbe("GPU-1", tenants, process_util=True), CpuProbe(tenants, GPM)).columns()
    table = Table(columns)
    table.append(1, {group: [1.0] * len(names) for group, names in columns.items()})
    table.write(tmp_path / "telemetry.parquet", {})
    frame = read_telemetry(tmp_path / "telemetry.parquet")
    assert frame.shape == (1, 1 + sum(map(len, columns.values())))
    assert 4 * 60 < frame.shape[1] < 300
    assert 7 * frame.shape[1] < MAX_TELEMETRY_COLUMNS  # a server on each of seven MIG instances

"""Arrival traces are data from outside: read if they are what they should be, refused with a reason if not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtexp.config import compose_spec
from mtexp.config import traces as module
from mtexp.config.traces import read_trace
from mtexp.errors import ConfigError


def _write(folder: Path, text: str | bytes, name: str = "t.csv") -> str:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(file)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff0\n0.5\n2\n",
        "\ufeffarrival_s\r\n0\r\n0.5\r\n2\r\n",
        "0\n0.5\n2\n",
        "seconds\n0\n0.5\n2\n",
        "id,arrival_s\n7,0\n8,0.5\n9,2\n",
        "0\n\n0.5\n2",
    ],
)
def test_csv_with_and_without_heading(tmp_path: Path, text: str) -> None:
    """One column of any name, or the column arrival_s."""
    assert read_trace("k", _write(tmp_path, text)) == (0, 0.5, 2)


def test_parquet(tmp_path: Path) -> None:
    """The only column, or the one called arrival_s, of any numeric type."""
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "arrival_s": pa.array([1, 2], pa.int32())}), file)
    assert read_trace("k", str(file)) == (1, 2)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no times"),
        ("0\n2\n1\n", "sort"),
        ("0\n-1\n", "Time 2 is -1"),
        ("0\nnan\n", "Time 2 is nan"),
        ("0\ninf\n", "Time 2 is inf"),
        ("0\nx\n", "cannot be read"),
        ("a,b\n1,2\n", "arrival_s"),
        ("id,arrival_s\n1,0\n2\n", "row 3 has 1 columns and row 1 has 2"),
        ("arrival_s\n0,00\n0,35\n", "decimals by a point"),
        ("arrival_s;x\n0,35;1\n", "decimals by a point"),
        ("arrival_s\n1764000000.000\n1764000000.050\n", "look like seconds since 1970"),
        ("arrival_s\n1764000000000\n1764000000050\n", "look like milliseconds since 1970: .* divide by 1000"),
        ("arrival_s\n1764000000000000000\n", "look like nanoseconds since 1970"),
        ("\ufeff0,00\n0,35\n", "arrival_s"),
        (b"\xff\xfe\x00\n", "cannot be read"),
    ],
)
def test_a_bad_trace_is_refused_with_the_reason(tmp_path: Path, text: str | bytes, why: str) -> None:
    """Unsorted, negative, not finite, not numbers, ambiguous, not text."""
    with pytest.raises(ConfigError, match=why):
        read_trace("arrival.trace", _write(tmp_path, text))


def test_size_and_name_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too long, too large, another ending, not there, not Parquet."""
    monkeypatch.setattr(module, "MAX_ARRIVALS", 2)
    with pytest.raises(ConfigError, match="more than 2"):
        read_trace("k", _write(tmp_path, "1\n2\n3\n"))
    pq.write_table(pa.table({"t": [1.0, 2.0, 3.0]}), tmp_path / "long.parquet")
    with pytest.raises(ConfigError, match="more than 2"):
        read_trace("k", str(tmp_path / "long.parquet"))
    monkeypatch.setattr(module, "MAX_BYTES", 2)
    with pytest.raises(ConfigError, match="larger"):
        read_trace("k", _write(tmp_path, "1\n2\n3\n"))
    for name in ("", str(tmp_path / "no.csv"), str(tmp_path)):
        with pytest.raises(ConfigError, match="existing file"):
            read_trace("k", name)
    with pytest.raises(ConfigError, match="endings"):
        read_trace("k", _write(tmp_path, "1", "t.pkl"))
    with pytest.raises(ConfigError):
        read_trace("k", _write(tmp_path, "PA", "t.parquet"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(max_size=200), st.sampled_from(["csv", "parquet"]))
def test_any_bytes_are_a_trace_or_refused(tmp_path: Path, data: bytes, kind: str) -> None:
    """No content of a file makes a traceback."""
    try:
        times = read_trace("k", _write(tmp_path, data, f"fuzz.{kind}"))
    except ConfigError:
        return
    assert list(times) == sorted(times)


def test_a_trace_reaches_the_tenants(tmp_path: Path) -> None:
    """arrival=trace puts the times into every tenant's spec."""
    trace = f"arrival.trace={_write(tmp_path, '0')}"
    spec = compose_spec(["arrival=trace", trace, "measure.iterations=1"])
    assert [t.arrival.trace for t in spec.tenants] == [(0.0,), (0.0,)]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (("measure.iterations=4",), "measure.iterations=4"),
        (("measure.iterations=3", "measure.min_time_s=9"), "measure.min_time_s=9"),
        (("measure.iterations=3", "deadlines.measure_s=4"), "arrival.trace=arrival 3 at 5 s"),
        (("measure.iterations=2", "deadlines.measure_s=4"), ""),
        (("measure.iterations=3",), ""),
    ],
)
def test_a_trace_has_what_is_asked_for_in_time(tmp_path: Path, settings: tuple[str, ...], key: str) -> None:
    """Shorter than the run, or in another unit: said in the plan, not found out after the deadline."""
    asked = ["arrival=trace", f"arrival.trace={_write(tmp_path, '0 2 5'.replace(' ', chr(10)))}", *settings]
    if not key:
        compose_spec(asked)
        return
    with pytest.raises(ConfigError) as refused:
        compose_spec(asked)
    assert str(refused.value).startswith(key)

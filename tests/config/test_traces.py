"""Arrival traces are data from outside: read if they are what they should be, refused with a reason if not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtexp.config import compose_spec
from mtexp.config import traces as module
from mtexp.config.traces import read_trace
from mtexp.errors import ConfigError


def _times(path: str, *scale: Any, **seed: int) -> tuple[float, ...]:
    return tuple(request.time_s for request in read_trace("k", path, *scale, **seed))


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
    assert _times(_write(tmp_path, text)) == (0, 0.5, 2)


def test_parquet(tmp_path: Path) -> None:
    """The only column, or the one called arrival_s, of any numeric type."""
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "arrival_s": pa.array([1, 2], pa.int32())}), file)
    assert _times(str(file)) == (1, 2)


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
        times = _times(_write(tmp_path, data, f"fuzz.{kind}"))
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


PUBLISHED = Path(__file__).parents[1] / "data" / "traces"


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("azure.csv", (0, 0.25, 1.5000001, 60)),
        ("azure_offset.csv", (0, 0.25, 1.5)),
        ("burstgpt.csv", (0, 40, 113.5)),
        ("mooncake.jsonl", (0, 3, 3)),
        ("aiperf.jsonl", (0, 2)),
        ("vllm.json", (0, 0.25, 0.5)),
    ],
)
def test_a_published_trace_is_read_as_it_is(name: str, times: tuple[float, ...]) -> None:
    """In seconds after the first request, in order, whatever the unit: 100 ns are kept of a date of today."""
    assert _times(str(PUBLISHED / name)) == pytest.approx(times, abs=2e-9)


@pytest.mark.parametrize("unit", [("arrival_ms", 1e3), ("arrival_us", 1e6), ("arrival_ns", 1e9)])
def test_a_column_says_its_unit(tmp_path: Path, unit: tuple[str, float]) -> None:
    """Also beside other columns, and in Parquet."""
    column, a_second = unit
    text = f"id,{column}\n7,0\n8,{int(0.5 * a_second)}\n9,{int(2 * a_second)}\n"
    assert _times(_write(tmp_path, text)) == (0, 0.5, 2)
    pq.write_table(pa.table({"id": [1, 2], column: [0, int(a_second)]}), tmp_path / "t.parquet")
    assert _times(str(tmp_path / "t.parquet")) == (0, 1)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "row 2 has the time yesterday"),
        ("t.csv", "Timestamp,Model,Request tokens,Response tokens\nsoon,m,1,2\n", "row 2 has the time soon"),
        ("t.jsonl", '{"timestamp": "x"}\n', "request 1 has the time x"),
        ("t.jsonl", '{"when": 1}\n', "line 1 has no time; known are Mooncake"),
        ("t.jsonl", "{\n", "cannot be read"),
        ("t.json", '{"ttfts": [1]}', "--save-detailed"),
        ("t.json", '{"start_times": [1, true]}', "request 2 has the time True"),
        ("t.jsonl", "", "no times"),
    ],
)
def test_a_bad_published_trace_is_refused_with_its_row(tmp_path: Path, name: str, text: str, why: str) -> None:
    """No traceback: the row and what is wrong with it."""
    with pytest.raises(ConfigError, match=why):
        read_trace("arrival.trace", _write(tmp_path, text, name))


def test_stretching_and_thinning_give_the_rate(tmp_path: Path) -> None:
    """Stretching keeps all requests; thinning keeps the time that the trace lasts, and is the same for one seed."""
    path = _write(tmp_path, "\n".join(str(i / 20) for i in range(20_001)))
    stretched = _times(path, "stretch", 5.0)
    assert len(stretched) == 20_001
    assert stretched[-1] == pytest.approx(20_000 / 5)
    thinned = _times(path, "thin", 5.0, seed=3)
    assert len(thinned) / 1000 == pytest.approx(5, rel=0.05)  # 5 standard deviations of the number that is kept
    assert thinned == _times(path, "thin", 5.0, seed=3) != _times(path, "thin", 5.0, seed=4)
    with pytest.raises(ConfigError, match="at least 25 requests a second"):
        read_trace("k", path, "thin", 25.0)


def test_a_scale_needs_a_trace_and_a_rate(tmp_path: Path) -> None:
    """Whichever is missing is named."""
    path = _write(tmp_path, "\n".join(str(i / 20) for i in range(400)))
    trace = ["mix=solo", "arrival=trace", f"arrival.trace={path}"]
    spec = compose_spec([*trace, "arrival.scale=stretch", "arrival.rate=40"])
    assert spec.tenants[0].arrival.trace[-1] == pytest.approx(399 / 40)
    with pytest.raises(ConfigError, match=r"arrival\.rate=0\.0: allowed: a rate with arrival\.scale=thin"):
        compose_spec([*trace, "arrival.scale=thin"])
    with pytest.raises(ConfigError, match=r"arrival\.scale=thin: allowed: none with arrival=poisson"):
        compose_spec(["mix=solo", "arrival=poisson", "arrival.scale=thin"])


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("azure.csv", [(480, 10), (512, 20), (64, 30), (128, 5)]),
        ("azure_offset.csv", [(480, 10), (512, 20), (64, 30)]),
        ("burstgpt.csv", [(472, 18), (1087, 230), (417, 276)]),
        ("mooncake.jsonl", [(6955, 52), (6472, 26), (100, 7)]),
        ("aiperf.jsonl", [(100, 0), (550, 0)]),
        ("vllm.json", [(8, 4), (7, 4), (9, 4)]),
    ],
)
def test_the_tokens_of_a_published_trace_stay_with_their_request(name: str, tokens: list[tuple[int, int]]) -> None:
    """In the order of the arrivals; 0 = the trace does not say."""
    assert [request[1:] for request in read_trace("k", str(PUBLISHED / name))] == tokens


def test_tokens_of_a_table_stay_with_their_request(tmp_path: Path) -> None:
    """Columns input_tokens and output_tokens, in CSV and Parquet, also where requests are thinned out."""
    rows = [(i / 10, 1 + i, 2 * i) for i in range(1000)]
    text = "output_tokens,arrival_s,input_tokens\n" + "\n".join(f"{made},{time},{given}" for time, given, made in rows)
    path = _write(tmp_path, text)
    expected = [(time, given, max(1, made)) for time, given, made in rows]
    assert list(read_trace("k", path)) == expected
    names = ("arrival_s", "input_tokens", "output_tokens")
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), tmp_path / "t.parquet")
    assert list(read_trace("k", str(tmp_path / "t.parquet"))) == expected
    thinned = read_trace("k", path, "thin", 2.0)
    assert 100 < len(thinned) < 300
    assert all(request in expected for request in thinned)
    assert [r[1:] for r in read_trace("k", path, "stretch", 2.0)] == [r[1:] for r in expected]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2026-01-05 08:00:00,many,2\n"),
        ("t.csv", "arrival_s,input_tokens\n0,-1\n"),
        ("t.jsonl", '{"timestamp": 1, "input_length": 1.5}\n'),
        ("t.json", '{"start_times": [1], "input_lens": [true]}'),
        ("t.json", '{"start_times": [1], "output_lens": [1, 2]}'),
    ],
)
def test_what_is_no_number_of_tokens_is_refused(tmp_path: Path, name: str, text: str) -> None:
    """Words, negative numbers, halves, lists of another length."""
    with pytest.raises(ConfigError, match=r"no number of tokens|one for each"):
        read_trace("k", _write(tmp_path, text, name))

"""Published traces of requests, read as they are: arrival times in seconds after the first request, and tokens.

May touch: the one file it is given. A file is recognised by its columns or fields:

=========== ============================================ ============ ================================================
format      columns or fields                            time         tokens
=========== ============================================ ============ ================================================
Azure       CSV: TIMESTAMP, ContextTokens ...            date, time   ContextTokens, GeneratedTokens
BurstGPT    CSV: Timestamp, Request tokens ...           seconds      Request tokens, Response tokens
Mooncake    JSON lines: timestamp ...                    milliseconds input_length, output_length
aiperf      JSON lines: metadata.request_start_ns        nanoseconds  metrics.input_sequence_length.value, and output_
            (profile_export)
vLLM bench  JSON: start_times                            seconds      input_lens, output_lens
            (``--save-result --save-detailed``)
=========== ============================================ ============ ================================================

Requests may be in any order in the file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")
_NS_DIGITS = 9
JSON_FORMS = "Mooncake (timestamp), aiperf (metadata.request_start_ns), vLLM bench (start_times)"


MOST_TOKENS = 10_000_000
"""More than any request has."""


class Arrived(NamedTuple):
    """One request of a trace."""

    time_s: float
    input_tokens: int = 0
    """0 = the trace does not say."""
    output_tokens: int = 0


def read_published(file: Path) -> list[Arrived] | None:
    """Return the requests of ``file``, in seconds after the first one, in order; None for a CSV of another form.

    Raises:
        ValueError: A JSON file of no known form, or a time or a number of tokens that is none.
        OSError: It cannot be read.
    """
    if file.suffix == ".csv":
        found = _of_csv(file)
    elif file.suffix == ".jsonl":
        found = list(_of_lines(file))
    else:
        found = _of_json(file)
    if found is None:
        return None
    first = min((time_ns for time_ns, *_ in found), default=0)
    requests = [Arrived((time_ns - first) / 10**_NS_DIGITS, *counts) for time_ns, *counts in found]
    return sorted(requests, key=lambda request: request.time_s)


def _of_csv(file: Path) -> list[tuple[int, int, int]] | None:
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text)
        columns = set(rows.fieldnames or ())
        if columns >= set(_AZURE):
            return list(_of_rows(rows, _AZURE, _date_ns))
        if columns >= set(_BURSTGPT):
            return list(_of_rows(rows, _BURSTGPT, _seconds_ns))
    return None


def _of_rows(
    rows: Iterable[dict[str, str]], columns: tuple[str, str, str], read: Callable[[str], int]
) -> Iterator[tuple[int, int, int]]:
    for number, row in enumerate(rows, start=2):
        time, given, made = (row[name] for name in columns)
        try:
            time_ns = read(time or "")
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"row {number} has the time {str(time)[:40]}, which is none") from error
        yield time_ns, tokens(given, number), tokens(made, number)


def _of_lines(file: Path) -> Iterator[tuple[int, int, int]]:
    with file.open(encoding="utf-8") as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            entry = json.loads(line)
            entry = entry if isinstance(entry, dict) else {}
            start_ns = _at(entry, "metadata", "request_start_ns")
            if "timestamp" in entry:
                time_ns = _number(entry["timestamp"], number, 6)
                counts = entry.get("input_length"), entry.get("output_length")
            elif start_ns is not None:
                time_ns = _number(start_ns, number, 0)
                counts = (
                    _at(entry, "metrics", "input_sequence_length", "value"),
                    _at(entry, "metrics", "output_sequence_length", "value"),
                )
            else:
                raise ValueError(f"line {number} has no time; known are {JSON_FORMS}")
            yield time_ns, tokens(counts[0], number), tokens(counts[1], number)


def _at(entry: Any, *names: str) -> Any:
    for name in names:
        entry = entry.get(name) if isinstance(entry, dict) else None
    return entry


def _of_json(file: Path) -> list[tuple[int, int, int]]:
    with file.open(encoding="utf-8") as text:
        found = json.load(text)
    starts = found.get("start_times") if isinstance(found, dict) else None
    if not isinstance(starts, list):
        raise ValueError(
            "it has no start_times: save vLLM's benchmark with --save-result --save-detailed. "
            f"JSON that is known: {JSON_FORMS}"
        )
    counts = []
    for name in ("input_lens", "output_lens"):
        values = found.get(name) or [None] * len(starts)
        if not isinstance(values, list) or len(values) != len(starts):
            raise ValueError(f"{name} is no list of {len(starts)} numbers, one for each of start_times")
        counts.append(values)
    return [
        (_number(start, number, _NS_DIGITS), tokens(given, number), tokens(made, number))
        for number, (start, given, made) in enumerate(zip(starts, *counts, strict=True), start=1)
    ]


def tokens(value: Any, number: int) -> int:
    """A number of tokens: 0 for one that is absent, at least 1 for one that is there.

    Raises:
        ValueError: It is none; the message names request ``number``.
    """
    if value is None or value == "":
        return 0
    try:
        count = float(value)
    except (TypeError, ValueError):
        count = -1.0
    if isinstance(value, bool) or not 0 <= count <= MOST_TOKENS or count != int(count):
        raise ValueError(f"request {number} has {str(value)[:40]} tokens, which is no number of tokens")
    return max(1, int(count))


def _date_ns(value: str) -> int:
    """Nanoseconds since 1970 of ``2023-11-16 18:17:03.9799600``, with or without an offset from UTC."""
    text = value.strip().replace("T", " ")
    whole, point, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    moment = datetime.fromisoformat(whole + rest[digits:])
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    fraction = int(rest[:digits].ljust(_NS_DIGITS, "0")[:_NS_DIGITS]) if point and digits else 0
    whole_ns: int = int(moment.timestamp()) * 10**_NS_DIGITS
    return whole_ns + fraction


def _seconds_ns(value: str) -> int:
    time_ns: int = round(float(value) * 10**_NS_DIGITS)
    return time_ns


def _number(value: Any, number: int, digits: int) -> int:
    """Nanoseconds of ``value``, which has ``digits`` decimal digits to go to them."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:
        raise ValueError(f"request {number} has the time {str(value)[:40]}, which is none")
    time_ns: int = round(value * 10**digits)
    return time_ns

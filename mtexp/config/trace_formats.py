"""Published traces of requests, read as they are: arrival times in seconds after the first request.

May touch: the one file it is given. A file is recognised by its columns or fields:

=========== ========================================================== ====================
format      columns or fields                                          time
=========== ========================================================== ====================
Azure       CSV: TIMESTAMP, ContextTokens, GeneratedTokens             date and time
BurstGPT    CSV: Timestamp, Model, Request tokens, Response tokens ... seconds
Mooncake    JSON lines: timestamp, input_length, output_length ...     milliseconds
aiperf      JSON lines: metadata.request_start_ns (profile_export)     nanoseconds
vLLM bench  JSON: start_times (``--save-result --save-detailed``)      seconds
=========== ========================================================== ====================

Requests may be in any order in the file. The number of tokens of a request is not used: a tenant's requests are all of
one size.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_AZURE = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}
_BURSTGPT = {"Timestamp", "Request tokens", "Response tokens"}
_NS_DIGITS = 9
JSON_FORMS = "Mooncake (timestamp), aiperf (metadata.request_start_ns), vLLM bench (start_times)"


def read_published(file: Path) -> list[float] | None:
    """Return the arrivals of ``file``, in seconds after the first one, in order; None for a CSV of another form.

    Raises:
        ValueError: A JSON file of no known form, or a time that is none.
        OSError: It cannot be read.
    """
    if file.suffix == ".csv":
        times = _of_csv(file)
    elif file.suffix == ".jsonl":
        times = list(_of_lines(file))
    else:
        times = _of_json(file)
    if times is None:
        return None
    first = min(times, default=0)
    return sorted((time - first) / 10**_NS_DIGITS for time in times)


def _of_csv(file: Path) -> list[int] | None:
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text)
        columns = set(rows.fieldnames or ())
        if columns >= _AZURE:
            return _instants((row["TIMESTAMP"] for row in rows), _date_ns)
        if columns >= _BURSTGPT:
            return _instants((row["Timestamp"] for row in rows), _seconds_ns)
    return None


def _of_lines(file: Path) -> Iterator[int]:
    with file.open(encoding="utf-8") as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            entry = json.loads(line)
            entry = entry if isinstance(entry, dict) else {}
            metadata = entry.get("metadata")
            if "timestamp" in entry:
                yield _number(entry["timestamp"], number, 6)
            elif isinstance(metadata, dict) and "request_start_ns" in metadata:
                yield _number(metadata["request_start_ns"], number, 0)
            else:
                raise ValueError(f"line {number} has no time; known are {JSON_FORMS}")


def _of_json(file: Path) -> list[int]:
    with file.open(encoding="utf-8") as text:
        found = json.load(text)
    starts = found.get("start_times") if isinstance(found, dict) else None
    if not isinstance(starts, list):
        raise ValueError(
            "it has no start_times: save vLLM's benchmark with --save-result --save-detailed. "
            f"JSON that is known: {JSON_FORMS}"
        )
    return [_number(start, number, _NS_DIGITS) for number, start in enumerate(starts, start=1)]


def _instants(values: Iterable[str], read: Callable[[str], int]) -> list[int]:
    found = []
    for number, value in enumerate(values, start=2):
        try:
            found.append(read(value))
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"row {number} has the time {str(value)[:40]}, which is none") from error
    return found


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

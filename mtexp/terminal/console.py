"""What the terminal shows: a line per phase, the table of a run, the summary of a sweep. May touch: stdout.

Tables are made from the data of ``record.json``, so they look the same for a run of any process or host.
On a terminal they are drawn by rich; in a file or a pipe they are plain aligned lines.
"""

from __future__ import annotations

import itertools
import logging
import math
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from mtexp import output
from mtexp.metrics.churn_rows import churn_rows
from mtexp.records.keys import INTERVAL_TEXTS, OVER_ROUNDS, WITHIN_RUN
from mtexp.terminal.live import LiveLine
from mtexp.text_tables import ABSENT, filled, fitting, plain_table, without

if TYPE_CHECKING:
    from rich.console import Console

    from mtexp.metrics.finding import Finding

log = logging.getLogger(__name__)

_NUMBERS = {
    "mean ms",
    "alone ms",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "req/s",
    "slowdown",
    "service slowdown",
    "latency slowdown",
    "p50 alone",
    "p99 alone",
    "STP",
    "ANTT",
    "fairness",
} | {
    *("launch-bound %", "repetition", "runs"),
    *("asked/s", "goodput/s", "level ms", "within %", "requests"),
}
_PERCENTILES = ("p50", "p90", "p99")
_MOST_SLOWDOWNS = 8
_PASSING = ("starting ", "building ", "warming ", "measuring", "tracking")
"""Beginnings of the phases that a terminal shows in its live line only."""
_ALIKE = 3
_lines: list[LiveLine] = []


@cache
def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def say(text: str) -> None:
    """Print one line."""
    with _above_live_line():
        output.say(f"{text}\n")


def phase(text: str) -> None:
    """Print what a run is doing now; its ``mtexp.log`` gets the line with the time."""
    log.info("%s", text)
    status(text)
    if not (_lines and text.startswith(_PASSING)):
        say(f"  {text}")


def status(text: str) -> None:
    """Put ``text`` into the live line, where there is one; cheap enough to be called while tenants measure."""
    for line in _lines:
        line.show(text)


def has_live_line() -> bool:
    """Whether anybody would see what :func:`status` shows."""
    return bool(_lines)


def begin_point(number: int, total: int, label: str) -> None:
    """Announce run ``number`` (from 1) of ``total`` with what distinguishes it from the others."""
    for line in _lines:
        line.begin_run()
    if total > 1:
        say(f"[{number}/{total}] {label}".rstrip())


def results(record: Mapping[str, Any], *, verbose: bool = False) -> None:
    """Print the results of one run: a row a tenant, then STP, ANTT, fairness and the verdict with its reasons.

    Args:
        record: The record, as in ``record.json``.
        verbose: Findings in full, with what to do about each.
    """
    rows = [_tenant_row(tenant) for tenant in record["tenants"]]
    if events := churn_rows(record):
        _table(events)
    elif rows:
        if all(row["tenant"] == row["model"] for row in rows):
            rows = [without(row, {"model"}) for row in rows]
        _table(rows)
    for line in (*_summary_lines(record), *_verdict_lines(record, verbose=verbose)):
        say(line)


def summary(rows: Sequence[Mapping[str, str]]) -> None:
    """Print the summary of a sweep, one row a run (:func:`sweep_row`); which repetition it was, where they differ."""
    if rows:
        once = len({row.get("repetition") for row in rows}) == 1
        _table([without(row, {"repetition"}) for row in rows] if once else rows)


def sweep_row(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the row of one run in the summary of its sweep.

    Args:
        record: As in ``record.json``, or ``spec`` and ``status`` of a point that left none. A point that was measured
            before (``SKIPPED``) has the metrics and the verdict that it got then.
    """
    spec, metrics, status = record["spec"], record.get("metrics", {}), record["status"]
    precisions = sorted({tenant["precision"] for tenant in spec["tenants"]})
    verdict = record["verdict"] if status in ("FINISHED", "SKIPPED") else status
    return {
        "mix": spec["mix"],
        "precision": ",".join(precisions),
        "mps_settings": spec["sharing"]["mps"] if spec["sharing"]["mode"] == "processes" else spec["sharing"]["mode"],
        "tenants": str(len(spec["tenants"])),
        "repetition": str(spec["repetition"]),
        **_alone(record),
        "STP": _number(metrics.get("stp"), 3),
        "ANTT": _number(metrics.get("antt"), 3),
        "fairness": _number(metrics.get("fairness"), 3),
        "verdict": f"{verdict} before" if status == "SKIPPED" else verdict,
    }


def _alone(record: Mapping[str, Any]) -> dict[str, str]:
    """Latency and throughput of a mix of one tenant, which has no neighbour that the other columns could tell of."""
    metrics = record.get("metrics", {}) if len(record["spec"]["tenants"]) == 1 else {}
    tenant: Mapping[str, Any] = next(iter(record.get("tenants", ())), {}) if metrics else {}
    found = {f"{name} ms": _percentile(tenant, name) for name in _PERCENTILES}
    return found | {"req/s": _number(metrics.get("throughput_rps"), 4)}


def _percentile(tenant: Mapping[str, Any], name: str) -> str:
    """A percentile of latency; absent where it rests on too few requests."""
    key = f"latency_{name}_ms"
    known = tenant and key not in tenant["insufficient"]
    return _number(tenant["metrics"].get(key), 4) if known else ABSENT


@contextmanager
def live_line(runs: int) -> Iterator[None]:
    """Show a line that ticks (:mod:`mtexp.terminal.live`) where there is a terminal; ``runs`` = 0: not known."""
    if not sys.stdout.isatty():
        yield
        return
    with LiveLine(runs) as line:
        _lines.append(line)
        try:
            yield
        finally:
            _lines.remove(line)


def end_point() -> None:
    """Count one run of the sweep as done."""
    for line in _lines:
        line.end_run()


@contextmanager
def _above_live_line() -> Iterator[None]:
    if not _lines:
        yield
        return
    with _lines[-1].hidden():
        yield


# --- rows and lines ---------------------------------------------------------------------------------------------------


def _tenant_row(tenant: Mapping[str, Any]) -> dict[str, str]:
    metrics = tenant["metrics"]
    alone = metrics.get("alone_latency_mean_ms")
    if alone is None and "slowdown" in metrics and "service_mean_ms" not in metrics:  # its baseline has no queue
        alone = (tenant.get("baseline") or {}).get("latency_mean_ms")
    row = {
        "tenant": tenant["id"],
        "model": tenant["model"],
        "mean ms": _number(metrics.get("latency_mean_ms"), 4),
        "alone ms": _number(alone, 4),
        "slowdown": _number(metrics.get("slowdown"), 3),
        "service slowdown": _number(metrics.get("service_slowdown"), 3),
        "latency slowdown": _number(metrics.get("latency_slowdown"), 3),
    }
    row |= {f"{name} ms": _percentile(tenant, name) for name in _PERCENTILES}
    row |= {f"{name} alone": _number(metrics.get(f"alone_latency_{name}_ms"), 4) for name in ("p50", "p99")}
    row["req/s"] = _number(metrics.get("throughput_rps"), 4)
    row["launch-bound %"] = _number(metrics.get("launch_bound_pct"), 3)
    if tenant["status"] != "FINISHED":
        row["slowdown"] = tenant["status"]
    return row


def _summary_lines(record: Mapping[str, Any]) -> Iterator[str]:
    metrics, tenants = record["metrics"], len(record["tenants"])
    stp = _with_interval("STP", "stp", metrics) if "stp" in metrics else ""
    parts = [stp] if stp and tenants == 1 else []
    if stp and tenants > 1:
        yield f"{stp} of {tenants} (1 = in turns, {tenants} = undisturbed)"
    if "antt" in metrics:
        parts.append(f"{_with_interval('ANTT', 'antt', metrics)} (mean slowdown)")
    if "fairness" in metrics and tenants > 1:
        parts.append(f"{_with_interval('fairness', 'fairness', metrics)} (1 = all slowed alike)")
    if "overlap_pct" in metrics and tenants > 1:
        parts.append(f"overlap {metrics['overlap_pct']:.1f} %")
    yield from _joined(parts)
    yield from _lock_lines(record)
    if record["spec"]["measure"].get("design") == "crossover":
        yield from _crossover_lines(record)
    served = [t for t in record["tenants"] if "service_slowdown_ci_low" in t["metrics"]]
    for tenant in served[:_MOST_SLOWDOWNS]:
        figure = _with_interval(f"service slowdown of {tenant['id']}", "service_slowdown", tenant["metrics"])
        yield f"{figure}, without the wait in its own queue"
    if served or any("[" in part for part in (stp, *parts)):
        moved = any(block["cores"] for block in record.get("blocks", ()))
        yield f"  {INTERVAL_TEXTS[OVER_ROUNDS if moved else WITHIN_RUN]}"


def _joined(parts: Sequence[str]) -> Iterator[str]:
    """``parts`` in as few lines as the terminal is wide for; in a file or a pipe in one line."""
    most, line = _console().width if sys.stdout.isatty() else math.inf, ""
    for part in parts:
        if line and len(line) + 2 + len(part) > most:
            yield line
            line = ""
        line = f"{line}  {part}" if line else part
    if line:
        yield line


def _lock_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What tenants of one process wait for its interpreter lock."""
    waits = {t["id"]: t["metrics"]["lock_wait_pct"] for t in record["tenants"] if "lock_wait_pct" in t["metrics"]}
    if waits:
        said = ", ".join(f"{name} {_number(share, 2)} %" for name, share in list(waits.items())[:_MOST_SLOWDOWNS])
        yield f"waiting for Python's interpreter lock, as a share of latency: {said}"


def _crossover_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Lines such as ``slowdown of a 1.14 +- 0.03 after 24 rounds``, for the first tenants."""
    known = [t for t in record["tenants"] if "slowdown_ci_high" in t["metrics"]]
    for tenant in known[:_MOST_SLOWDOWNS]:
        metrics = tenant["metrics"]
        half = (metrics["slowdown_ci_high"] - metrics["slowdown_ci_low"]) / 2
        rounds = f"after {metrics['rounds']:.0f} rounds"
        yield f"slowdown of {tenant['id']} {metrics['slowdown']:.3f} +- {half:.3f} {rounds}, against alone in this mode"
    if len(known) > _MOST_SLOWDOWNS:
        yield f"and {len(known) - _MOST_SLOWDOWNS} more"


def _with_interval(label: str, key: str, metrics: Mapping[str, float]) -> str:
    text = f"{label} {_number(metrics[key], 3)}"
    low, high = metrics.get(f"{key}_ci_low"), metrics.get(f"{key}_ci_high")
    return text if low is None or high is None else f"{text} [{_number(low, 3)}, {_number(high, 3)}]"


def _verdict_lines(record: Mapping[str, Any], *, verbose: bool) -> Iterator[str]:
    from mtexp.metrics.finding import Finding, sentences

    failure = record["failure"]
    what, log_is, rest = failure.partition("; log: ")  # and then the end of the log
    said = failure if verbose else f"{what}{log_is}{rest.splitlines()[0] if rest else ''}"
    yield f"{record['status']}: {said}" if record["status"] != "FINISHED" else str(record["verdict"])
    # a failed run's other findings follow from the failure
    findings = [Finding(**f) for f in record["findings"] if not failure or f["level"] == "warning"]
    lines = sentences(findings) if verbose else _short(findings)
    yield from (f"  {line}" for line in lines)


def _short(findings: Iterable[Finding]) -> Iterator[str]:
    """Each finding as one line with its code; what to do follows only where the run is INVALID because of it."""
    by_code = itertools.groupby(findings, key=lambda finding: (finding.level, finding.code))
    for (level, code), alike in by_code:
        said = list(alike)
        for finding in said[:_ALIKE]:
            text = f"{level} {code}: {' '.join(finding.message.split()).removesuffix('.')}"
            yield text if level == "invalid" else _cut(text)
        if len(said) > _ALIKE:
            yield f"{level} {code}: {len(said) - _ALIKE} more like these; the record has them all"
        if level == "invalid" and said[0].remedy:
            yield f"  {said[0].remedy}"


def _cut(text: str) -> str:
    """``text`` on one line of the terminal, cut between words; whole in a file or a pipe."""
    most = _console().width - 2 if sys.stdout.isatty() else len(text)
    return text if len(text) <= most else textwrap.shorten(text, most, placeholder=" ...")


def _number(value: float | None, digits: int) -> str:
    """``value`` with so many significant digits, in plain notation; ``-`` where there is none."""
    if value is None or value != value:
        return ABSENT
    decimals = max(0, digits - len(str(int(abs(value)))))
    return f"{value:.{decimals}f}"


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[Mapping[str, str]]) -> None:
    rows = filled(rows)
    if not sys.stdout.isatty():
        say(plain_table(rows, _NUMBERS))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = fitting(rows, _console().width)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True)
    styles = {"VALID": "green", "INVALID": "yellow", "FAILED": "red"}
    for row in rows:
        table.add_row(*row.values(), style=styles.get(row.get("verdict", "").partition(" ")[0]))
    with _above_live_line():
        _console().print(table)

"""Slowdown, normalized progress, STP and ANTT once more, from the requests of a record or an export.

A check from outside: numpy for the arithmetic, pyarrow only to read the files, and no import of the project. It rests
on what docs/method.md and docs/analysis.md say of the files and the figures, not on the code that made them.

    python tests/outside/recompute.py FOLDER ...

A folder is a record (``record.json``, ``iterations.parquet``), an export (``tenants.parquet`` ...), or holds such.
Exit code 1 where a stored figure and the recomputed one are further apart than rounding explains.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

TOLERANCE_PCT = 0.2
"""Exports keep times to the microsecond; one request at the edge of a window may fall on its other side."""
FEWEST = 2
"""Requests of a block that count, from which on it counts."""


@dataclass
class Tenant:
    """The requests of one tenant, ms, and what was stored of it."""

    start: np.ndarray
    end: np.ndarray
    window: np.ndarray
    phase: np.ndarray
    rounds: np.ndarray
    stored: dict[str, float]
    baseline: str = ""


@dataclass
class Run:
    """One run."""

    name: str
    tenants: list[Tenant]
    stored: dict[str, float]
    closed: bool = True
    checked: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def in_rounds(self) -> bool:
        return all((t.phase == "alone").any() for t in self.tenants)

    def compare(self, what: str, stored: float | None, found: float, tolerance_pct: float) -> None:
        if stored is None or not np.isfinite(stored) or not np.isfinite(found):
            return
        self.checked += 1
        apart_pct = 100 * abs(found / stored - 1)
        if apart_pct > tolerance_pct:
            self.problems.append(f"{self.name}: {what} stored {stored:.6g}, recomputed {found:.6g} ({apart_pct:.2g} %)")


# --- figures ----------------------------------------------------------------------------------------------------------


def by_round(t: Tenant, phase: str) -> tuple[dict[int, float], dict[int, float]]:
    """Mean latency and mean cycle of each round; a cycle ends where the next request of the block starts."""
    latency, cycle = {}, {}
    for number in np.unique(t.rounds[t.phase == phase]):
        own = (t.phase == phase) & (t.rounds == number)
        start, end = t.start[own], t.end[own]
        if len(start) >= FEWEST:
            latency[int(number)] = float((end - start).mean())
            cycle[int(number)] = float((end[-1] - start[0]) / len(start))
    return latency, cycle


def crossover(t: Tenant) -> tuple[float, float]:
    """Slowdown and NP: exp of the mean over rounds of log(together / alone), of latency and of cycle."""
    logs = []
    for together, alone in zip(by_round(t, "measure"), by_round(t, "alone"), strict=True):
        both = sorted(set(together) & set(alone))
        logs.append(np.mean([np.log(together[n] / alone[n]) for n in both]) if both else np.nan)
    return float(np.exp(logs[0])), float(np.exp(-logs[1]))


def kept(t: Tenant) -> tuple[np.ndarray, np.ndarray]:
    return t.start[t.window], t.end[t.window]


def sustained(t: Tenant, alone: Tenant) -> tuple[float, float]:
    """Slowdown and NP against a run of its own: means of latency, means of cycle (last end - first start) / count."""
    (start, end), (start_alone, end_alone) = kept(t), kept(alone)
    cycle, cycle_alone = ((e[-1] - s[0]) / len(s) for s, e in ((start, end), (start_alone, end_alone)))
    return float((end - start).mean() / (end_alone - start_alone).mean()), float(cycle_alone / cycle)


def whole_requests(t: Tenant, alone: Tenant, tenants: list[Tenant]) -> float:
    """NP as older runs counted it: whole requests in the window that all tenants have in common, over its length."""
    rates = []
    for own, everyone in ((t, tenants), (alone, [alone])):
        opens, closes = max(o.start[0] for o in everyone), min(o.end[-1] for o in everyone)
        rates.append(own.window.sum() / (closes - opens))
    return float(rates[0] / rates[1])


def check(run: Run, alone: dict[str, Tenant]) -> None:
    figures = []
    for at, t in enumerate(run.tenants):
        if run.in_rounds:
            slowdown, progress = crossover(t)
        elif run.closed and t.baseline in alone and len(kept(t)[0]) > 1 and len(kept(alone[t.baseline])[0]) > 1:
            slowdown, progress = sustained(t, alone[t.baseline])
        else:
            return
        run.compare(f"slowdown of tenant {at}", t.stored.get("slowdown"), slowdown, TOLERANCE_PCT)
        run.compare(f"NP x slowdown of tenant {at}, less the gaps", 1.0, slowdown * progress / gaps(t, alone, run), 0.1)
        stored = t.stored.get("normalized_progress")
        older = progress if run.in_rounds else whole_requests(t, alone[t.baseline], run.tenants)
        if stored is not None and abs(older - stored) < abs(progress - stored):
            progress, request_pct = older, 100 / t.window.sum()
        else:
            request_pct = 0.0
        run.compare(f"NP of tenant {at}", stored, progress, TOLERANCE_PCT + request_pct)
        figures.append((slowdown, progress, request_pct))
    slowdowns, progresses, requests_pct = np.array(figures).T
    run.compare("STP", run.stored.get("stp"), float(progresses.sum()), TOLERANCE_PCT + float(requests_pct.max()))
    run.compare("ANTT", run.stored.get("antt"), float(slowdowns.mean()), TOLERANCE_PCT)


def gaps(t: Tenant, alone: dict[str, Tenant], run: Run) -> float:
    """What NP x slowdown is by the gaps between requests alone: (cycle / latency) alone over the same together."""
    if run.in_rounds:
        means = []
        for phase in ("alone", "measure"):
            latency, cycle = by_round(t, phase)
            means.append({n: np.log(cycle[n] / latency[n]) for n in cycle})
        both = sorted(set(means[0]) & set(means[1]))
        return float(np.exp(np.mean([means[0][n] - means[1][n] for n in both])))
    shares = []
    for own in (alone[t.baseline], t):
        start, end = kept(own)
        busy = (end - start).sum()
        shares.append(1 + (start[1:] - end[:-1]).sum() / busy)
    return float(shares[0] / shares[1])


# --- files ------------------------------------------------------------------------------------------------------------


def columns(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    return {name: np.array(table[name].to_pylist(), dtype=object) for name in table.column_names}


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def requests(table: dict[str, np.ndarray], own: np.ndarray) -> dict[str, np.ndarray]:
    """Start and end in ms, and where each request belongs."""
    count = int(own.sum())
    if "start_ns" in table:
        start, end = (table[name][own].astype(np.float64) / 1e6 for name in ("start_ns", "end_ns"))
    else:
        gap, service = (table[name][own].astype(np.int64) for name in ("gap_us", "service_us"))
        end = np.cumsum(gap + service) / 1e3
        start = end - service / 1e3
    plain = {"phase": np.full(count, "measure", dtype=object), "round": np.zeros(count, dtype=object)}
    phase, rounds = (table[name][own] if name in table else plain[name] for name in ("phase", "round"))
    window = table["in_window"][own].astype(bool) & (phase == "measure")
    return {"start": start, "end": end, "window": window, "phase": phase, "rounds": rounds}


def record(folder: Path) -> tuple[Run, dict[str, Tenant]]:
    found = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    table = columns(folder / "iterations.parquet")
    tenants = []
    for own in found["tenants"]:
        baseline = (own.get("baseline") or {}).get("record_id", "")
        tenants.append(
            Tenant(**requests(table, table["tenant"] == own["id"]), stored=own["metrics"], baseline=baseline)
        )
    closed = all(t.get("arrival", {}).get("kind", "closed") == "closed" for t in found["spec"]["tenants"])
    alone = {found["record_id"]: tenants[0]} if found["kind"] == "baseline" else {}
    return Run(folder.name, tenants, found["metrics"], closed), alone


def export(folder: Path) -> tuple[list[Run], dict[str, Tenant]]:
    table = columns(folder / "iterations.parquet")
    by_tenant: dict[tuple[str, str], list[int]] = {}
    for place, key in enumerate(zip(table["record_id"], table["tenant"], strict=True)):
        by_tenant.setdefault(key, []).append(place)
    stored = {row["record_id"]: row for row in rows(folder / "runs.parquet")}
    runs: dict[str, Run] = {}
    alone: dict[str, Tenant] = {}
    for row in rows(folder / "tenants.parquet"):
        name = row["record_id"]
        if (name, row["tenant"]) not in by_tenant:
            continue
        mask = np.zeros(len(table["tenant"]), dtype=bool)
        mask[by_tenant[name, row["tenant"]]] = True
        tenant = Tenant(**requests(table, mask), stored=row, baseline=row.get("baseline_record_id") or "")
        if row["run_kind"] == "baseline":
            alone[name] = tenant
        else:
            runs.setdefault(name, Run(name[:8], [], stored.get(name, {}))).tenants.append(tenant)
            runs[name].closed &= (row.get("arrival") or "closed") == "closed"
    return list(runs.values()), alone


def read(folder: Path) -> Iterator[tuple[list[Run], dict[str, Tenant]]]:
    exports = sorted(path.parent for path in folder.rglob("tenants.parquet"))
    yield from (export(path) for path in exports)
    records = [record(path.parent) for path in sorted(folder.rglob("record.json"))]
    alone = {name: tenant for _, own in records for name, tenant in own.items()}
    yield [run for run, own in records if not own], alone


def main(arguments: list[str]) -> int:
    runs: list[Run] = []
    alone: dict[str, Tenant] = {}
    for folder in map(Path, arguments):
        for found, own in read(folder):
            runs += found
            alone |= own
    for run in runs:
        check(run, alone)
    checked, problems = [run for run in runs if run.checked], [problem for run in runs for problem in run.problems]
    said = [
        *problems,
        f"{sum(run.checked for run in runs)} figures of {len(checked)} runs recomputed "
        f"({sum(run.in_rounds for run in checked)} in rounds), {len(problems)} disagree; "
        f"{len(runs) - len(checked)} runs have none to compare",
    ]
    sys.stdout.write("\n".join(said) + "\n")
    return int(bool(problems) or not checked)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

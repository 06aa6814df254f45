"""Slowdowns of mixes that were not measured: ``python -m analysis.predict MIX ... --records DIR``.

Lives here: the command; what a study gives a predictor (:mod:`analysis.predictor`), and how predictions look. May
touch: nothing beyond reading runs and the predictor's file. A prediction is never put into a table of measurements: its
columns are called ``predicted``, and its JSON has the kind ``prediction``.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mtexp.commands import command_line
from mtexp.errors import RecordError
from mtexp.output import enter

from .baseline_runs import Measured
from .dataset import DataError
from .frames import rows_of
from .options import add_source, read, refusing
from .pooling import Results, in_order, pool
from .predictor import (
    Cell,
    Lone,
    NotPredictable,
    Predicted,
    Predictor,
    learn_predictor,
    measure_next,
    mode_name,
    suspects,
)


def lone_models(results: Results) -> dict[str, Lone]:
    """Models alone by label, those whose launch-bound share is known; without stressors."""
    return {lone.label: lone for lone in _lone_by_group(results).values()}


_SAME = ("model", "workload", "execution", "precision", "batch_size", "seq_len", "attn_implementation")
"""What runs alone of one label agree in."""


def _lone_by_group(results: Results) -> dict[str, Lone]:
    """By group of runs alone (:class:`analysis.baseline_runs.Alone`); groups that differ in their protocol are one."""
    runs = results.alone.runs
    if runs.empty:
        return {}
    group_of: dict[Measured, str] = {m: name for name, own in results.alone.groups.items() for m in own}
    labels: dict[str, str] = {}
    for row in rows_of(results.tenants.reindex(columns=["label", "compared"])):
        for measured in (m for group in row["compared"] for m in group):
            name = group_of[measured]
            labels[name] = min(labels.get(name, row["label"]), row["label"], key=lambda label: (len(label), label))
    found: dict[str, Lone] = {}
    taken: set[str] = set()
    known = runs.reindex(columns=["group", "role", "latency_mean_ms", "launch_bound_pct", *_SAME])
    known = known[known["role"] != "stressor"]
    for _, own in known.groupby(list(_SAME), dropna=False, observed=True, sort=False):
        first, busy = rows_of(own)[0], own.dropna(subset=["launch_bound_pct"])
        if busy.empty:
            continue
        groups = list(map(str, own["group"].unique()))
        named = sorted({labels[name] for name in groups if name in labels}, key=lambda label: (len(label), label))
        label = named[0] if named else str(first["model"])
        if label in taken:
            label = f"{label} {first['workload']} {first['execution']} {first['precision']} {first['batch_size']}"
        taken.add(label)
        latency_ms = float(np.exp(np.log(own["latency_mean_ms"].astype(np.float64)).mean()))
        busy_ms = float(((1 - busy["launch_bound_pct"] / 100) * busy["latency_mean_ms"]).mean())
        one = Lone(label, latency_ms, min(busy_ms / latency_ms, 1.0), len(own), str(first["execution"]))
        found |= dict.fromkeys(groups, one)
    return found


def measured_cells(results: Results) -> list[Cell]:
    """Measured slowdowns of mixes in closed loop; one for each kind of tenant of a mix."""
    lone = _lone_by_group(results)
    group_of: dict[Measured, str] = {m: name for name, own in results.alone.groups.items() for m in own}
    by_point = dict(list(results.tenants.groupby("point", observed=True))) if len(results.tenants) else {}
    found = []
    for point in rows_of(results.points):
        if not point["closed"] or point["num_tenants"] < 2:
            continue
        rows = rows_of(by_point[point["point"]])
        known = [_lone_of(row, group_of, lone) for row in rows]
        slowdowns = [float(row.get("slowdown", np.nan)) for row in rows]
        if any(one is None for one in known) or not np.isfinite(slowdowns).all():
            continue
        models = [one for one in known if one is not None]
        mode = mode_name(str(point["sharing"]), "/".join(sorted({model.execution for model in models})))
        for place, victim in enumerate(models):
            if any(before.label == victim.label for before in models[:place]):
                continue
            logs = [math.log(s) for s, own in zip(slowdowns, models, strict=True) if own.label == victim.label]
            others = tuple(own for at, own in enumerate(models) if at != place)
            records = tuple(map(str, point["records"]))
            found.append(Cell(mode, str(point["mix"]), victim, others, float(np.mean(logs)), records))
    return found


def _lone_of(row: Mapping[str, Any], group_of: Mapping[Measured, str], lone: Mapping[str, Lone]) -> Lone | None:
    groups = {group_of[measured] for group in row["compared"] for measured in group}
    return lone.get(min(groups)) if groups else None


def predictor_of(results: Results) -> Predictor:
    """What the runs of one study say of mixes that were not measured."""
    device = str(results.data.runs["device"].iloc[0])
    return learn_predictor(measured_cells(results), lone_models(results), device)


# --- how it looks -----------------------------------------------------------------------------------------------------


def mix_labels(token: str, known: Sequence[str]) -> list[str]:
    """``bert_base*2+mistral_7b`` as labels of tenants.

    Raises:
        DataError: It is no mix.
    """
    found: list[str] = []
    for part in token.split("+"):
        label, star, count = (side.strip() for side in part.partition("*"))
        if not label or (star and not (count.isdecimal() and 0 < int(count) <= 64)):
            raise DataError(f"mix {token!r}: allowed: models with a count, e.g. bert_base*2+mistral_7b; known: "
                            f"{', '.join(sorted(known))}")  # fmt: skip
        found += [label] * (int(count) if star else 1)
    return found


def text(token: str, found: Mapping[str, Sequence[Predicted]], predictor: Predictor, *, width: int) -> str:
    """Predictions of one mix in all modes asked for, as text that fits into ``width`` columns."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False)
    console.print(f"{token} on {predictor.device}: predicted, not measured")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("mode", "tenant", "predicted slowdown [90 %]", "predicted ms"):
        table.add_column(head, overflow="fold")
    for mode, tenants in found.items():
        for place, one in enumerate(tenants):
            label = one.label if one.count == 1 else f"{one.label} x{one.count}"
            table.add_row(mode if not place else "", label, _interval(one), f"~{one.latency_ms:.3g}")
        low, middle, high = stp_ends(tenants)
        table.add_row("", "STP", f"~{middle:.2f} [{low:.2f}, {high:.2f}]", "")
    console.print(table)
    for mode, tenants in found.items():
        console.print(f"{mode} {rests_on(predictor, mode, tenants)}.")
    if there := [mode for mode in found if _measured(predictor, mode, found[mode])]:
        console.print(f"Measured already under {', '.join(there)}: what was measured counts, and is in the report.")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _measured(predictor: Predictor, mode: str, tenants: Sequence[Predicted]) -> bool:
    mix = sorted(one.label for one in tenants for _ in range(one.count))
    return mix in [sorted(own) for own in predictor.fits[mode].measured]


def stp_ends(tenants: Sequence[Predicted]) -> tuple[float, float, float]:
    """Least, predicted and most STP of a mix: the ends are those of all tenants at once."""
    return (
        sum(one.count / one.high for one in tenants),
        sum(one.count / one.slowdown for one in tenants),
        sum(one.count / one.low for one in tenants),
    )


def _interval(one: Predicted) -> str:
    if one.high == math.inf:
        return f"~{one.slowdown:.2f} [not known]"
    return f"~{one.slowdown:.2f} [{one.low:.2f}, {one.high:.2f}]"


def rests_on(predictor: Predictor, mode: str, tenants: Sequence[Predicted]) -> str:
    """What a prediction rests on, in words."""
    fit = predictor.fits[mode]
    alone = ", ".join(f"{one.label} ({predictor.lone[one.label].runs})" for one in tenants)
    new = [one.label for one in tenants if one.label not in fit.suffers]
    basis = f"{', '.join(new)} in no measured mix" if new else "every model in some measured mix"
    known = all(one.high < math.inf for one in tenants)
    unknown = "" if known else "; too few mixes like it were measured to know an interval"
    return f"rests on {fit.mixes} measured mixes and runs alone of {alone}; {basis}{unknown}"


def as_json(token: str, found: Mapping[str, Sequence[Predicted]], predictor: Predictor) -> dict[str, Any]:
    """Predictions of one mix for other programs; ends are null where no interval is known."""
    modes = []
    for mode, tenants in found.items():
        fit = predictor.fits[mode]
        low, middle, high = stp_ends(tenants)
        modes.append(
            {
                "mode": mode,
                "predicted_stp": middle,
                "predicted_stp_low": low,
                "predicted_stp_high": high,
                "tenants": [
                    {
                        "label": one.label,
                        "count": one.count,
                        "predicted_slowdown": one.slowdown,
                        "predicted_low": one.low if one.high < math.inf else None,
                        "predicted_high": one.high if one.high < math.inf else None,
                        "predicted_latency_ms": one.latency_ms,
                        "basis": one.basis,
                    }
                    for one in tenants
                ],
                "rests_on": {
                    "mixes": fit.mixes,
                    "runs_alone": {one.label: predictor.lone[one.label].runs for one in tenants},
                },
            }
        )
    return {"kind": "prediction", "mix": token, "device": predictor.device, "predictor": predictor.hash, "modes": modes}


# --- command ----------------------------------------------------------------------------------------------------------


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Predict mixes; exit code 2 where nothing can be said of one."""
    parser = argparse.ArgumentParser(prog=command_line("predict"), description="Slowdowns that were not measured.")
    parser.add_argument("mixes", nargs="*", metavar="MIX", help="e.g. bert_base*2+mistral_7b")
    parser.add_argument("--mode", action="append", default=[], help="sharing mode, e.g. MPS; default all measured")
    parser.add_argument("--next", type=int, default=0, metavar="N", help="the N pairs to measure next, in each mode")
    parser.add_argument("--suspects", action="store_true", help="measured points that lie far outside")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the predictor, frozen, with its hash")
    parser.add_argument("--predictor", type=Path, metavar="FILE", help="use one that was written; no runs are read")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_source(parser, positional=False)
    options = parser.parse_args(arguments)
    if not (options.mixes or options.next or options.suspects or options.save):
        raise DataError("nothing to do: name a mix, e.g. bert_base+mistral_7b, or give --next, --suspects or --save")
    if options.predictor is not None and (options.next or options.suspects):
        raise DataError(
            "--next and --suspects look at measured runs: leave --predictor out, and give --records or --sweep"
        )
    results = None if options.predictor is not None else pool(read(options, include_invalid=False), draws=1)
    predictor = _read(options.predictor) if results is None else predictor_of(results)
    _require_fits(predictor)
    if options.save is not None:
        _write(options.save, predictor)
    said: list[dict[str, Any]] = []
    width = shutil.get_terminal_size().columns
    for token in options.mixes:
        labels = mix_labels(token, list(predictor.lone))
        modes = options.mode or in_order([*predictor.fits])
        found = {mode: predictor.predict(labels, mode) for mode in modes}
        said.append(as_json(token, found, predictor))
        if not options.json:
            sys.stdout.write(text(token, found, predictor, width=width))
    extra = {} if results is None else _more(results, predictor, options)
    if options.json:
        sys.stdout.write(json.dumps({"predictor": predictor.hash, "predictions": said} | extra, indent=1) + "\n")
    else:
        sys.stdout.write(_more_text(extra) + f"Predictor {predictor.hash}.\n")
    return 0


def _require_fits(predictor: Predictor) -> None:
    if not predictor.fits:
        raise NotPredictable(
            f"nothing to learn from: {len(predictor.lone)} models have a run alone with a launch-bound share, and no "
            "sharing mode has two mixes of them. Measure some pairs: "
            f"{command_line('run')} -m +experiment=pairs"
        )


def _more(results: Results, predictor: Predictor, options: argparse.Namespace) -> dict[str, Any]:
    """What to measure next, and suspects."""
    by_mode: dict[str, list[Cell]] = {}
    for cell in measured_cells(results):
        by_mode.setdefault(cell.mode, []).append(cell)
    wanted = [mode for mode in options.mode or in_order([*predictor.fits]) if mode in by_mode]
    found: dict[str, Any] = {}
    if options.next:
        found["measure_next"] = {mode: _next(by_mode[mode], predictor, options.next) for mode in wanted}
    if options.suspects:
        found["suspects"] = [
            {
                "mode": cell.mode,
                "mix": cell.mix,
                "tenant": cell.victim.label,
                "slowdown": math.exp(cell.log),
                "predicted_slowdown": predicted,
                "runs": list(cell.records),
            }
            for mode in wanted
            for cell, predicted in suspects(by_mode[mode])
        ]
    return found


def _next(cells: Sequence[Cell], predictor: Predictor, count: int) -> list[str]:
    """Pairs of models that run as those of ``cells`` do."""
    executions = {cell.victim.execution for cell in cells}
    lone = {name: own for name, own in predictor.lone.items() if own.execution in executions}
    return ["+".join(pair) for pair in measure_next(cells, lone, count)]


def _more_text(extra: Mapping[str, Any]) -> str:
    lines = []
    for mode, pairs in extra.get("measure_next", {}).items():
        lines.append(f"Measure next under {mode}: {', '.join(pairs) or 'every pair is measured'}.")
    if "suspects" in extra:
        lines.append("Suspects, far outside what all other mixes predict; measure them again:")
        lines += [
            f"  {one['tenant']} in {one['mix']}, {one['mode']}: measured {one['slowdown']:.2f}, predicted "
            f"~{one['predicted_slowdown']:.2f}; runs {', '.join(one['runs'])}"
            for one in extra["suspects"]
        ] or ["  none"]
    return "\n".join(lines) + ("\n" if lines else "")


def _read(path: Path) -> Predictor:
    try:
        return Predictor.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(
            f"--predictor {path}: {getattr(error, 'strerror', None) or error}; --save FILE writes one"
        ) from error
    except NotPredictable as error:
        raise DataError(f"--predictor {path}: {error}; --save FILE writes one") from error


def _write(path: Path, predictor: Predictor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(predictor.to_json(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise RecordError(f"--save {path}: {error.strerror or error}. Choose another place") from error


if __name__ == "__main__":
    sys.exit(enter(main))

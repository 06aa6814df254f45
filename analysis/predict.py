"""Slowdowns of mixes that were not measured: ``python -m analysis.predict MIX ... --records DIR``.

Lives here: the command. May touch: nothing beyond reading runs, and files of predictors and predictions.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtexp.commands import command_line
from mtexp.output import enter
from mtexp.text_tables import counted

from .dataset import DataError
from .learning import measure_next, suspects
from .options import add_source, read, refusing, write_text
from .pooling import FEW_DRAWS, Results, in_order, pool
from .predictions import Frozen, as_json, kept, mix_labels, not_measured, read_kept, text
from .predictor import Cell, NotPredictable, Predicted, Predictor
from .predictor_data import measured_cells, predictor_of, with_runs_alone
from .rivals import Rival, rivals_of, utilisations_of
from .scoring import score


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Predict mixes; exit code 2 where one cannot be predicted."""
    options = _options(arguments)
    width = shutil.get_terminal_size().columns
    if options.check is not None:
        found = score(read_kept(options.check), read(options, include_invalid=False))
        sys.stdout.write(json.dumps(found.to_json(), indent=1) + "\n" if options.json else found.text(width))
        return 0
    predictor, results, frozen = _predictor(options)
    _require_fits(predictor)
    if options.save is not None:
        write_text("--save", options.save, _text(predictor.to_json()))
    rivals = {} if results is None else _rivals(results)
    modes = options.mode or in_order([*predictor.fits])
    said: list[dict[str, Any]] = []
    for token in options.mixes:
        predicted = _in_modes(mix_labels(token, list(predictor.lone)), modes, predictor, every=bool(options.mode))
        said.append(as_json(token, predicted, predictor, rivals))
        if not options.json:
            sys.stdout.write(text(token, predicted, predictor, width=width))
    if options.rest:
        for pair, where in not_measured(predictor, modes).items():
            predicted = {mode: predictor.predict(pair, mode) for mode in where}
            said.append(as_json("+".join(pair), predicted, predictor, rivals))
    if options.write is not None:
        write_text("--write", options.write, _text(kept(said, predictor, frozen)))
    extra = {} if results is None else _more(results, predictor, options)
    if options.json:
        sys.stdout.write(
            json.dumps({"predictor": predictor.hash} | frozen.to_json() | {"predictions": said} | extra, indent=1)
            + "\n"
        )
    else:
        written = f"{counted(len(said), 'mix')} predicted in {options.write}.\n" if options.write is not None else ""
        sys.stdout.write(_more_text(extra) + written + f"Predictor {predictor.hash}{frozen.text()}.\n")
    return 0


def _predictor(options: argparse.Namespace) -> tuple[Predictor, Results | None, Frozen]:
    """Learnt from runs, with those; or read from a file, where named runs add models alone."""
    if options.predictor is None:
        results = pool(read(options, include_invalid=False), draws=FEW_DRAWS)
        return predictor_of(results), results, Frozen()
    predictor, frozen = _read(options.predictor), Frozen()
    if options.query or options.sweep or options.records is not None:
        predictor, frozen = with_runs_alone(predictor, pool(read(options, include_invalid=False), draws=FEW_DRAWS))
    return predictor, None, frozen


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=command_line("predict"), description="Slowdowns that were not measured.")
    parser.add_argument("mixes", nargs="*", metavar="MIX", help="e.g. bert_base*2+mistral_7b")
    parser.add_argument("--mode", action="append", default=[], help="sharing mode, e.g. MPS; default all measured")
    parser.add_argument("--next", type=int, default=0, metavar="N", help="the N pairs to measure next, in each mode")
    parser.add_argument("--suspects", action="store_true", help="measured points that lie far outside")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the predictor, frozen, with its hash")
    parser.add_argument(
        "--predictor",
        type=Path,
        metavar="FILE",
        help="use one that was written; of runs that are named, only models alone are added",
    )
    parser.add_argument("--rest", action="store_true", help="predict every pair that was not measured; needs --write")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the predictions, with the predictor's hash")
    parser.add_argument("--check", type=Path, metavar="FILE", help="kept predictions against runs that started after")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_source(parser, positional=False)
    options = parser.parse_args(arguments)
    if options.next < 0:
        raise DataError(f"--next {options.next}: allowed: 0 or more")
    if not (options.mixes or options.next or options.suspects or options.save or options.rest or options.check):
        raise DataError("nothing to do: name a mix, e.g. bert_base+mistral_7b, or give --next, --suspects, --save, "
                        "--rest or --check")  # fmt: skip
    if options.predictor is not None and (options.next or options.suspects):
        raise DataError(
            "--next and --suspects look at measured runs: leave --predictor out, and give --records or --sweep"
        )
    if options.rest and options.write is None:
        raise DataError("--rest predicts many pairs: give --write FILE, where they are kept")
    if options.write is not None and not (options.mixes or options.rest):
        raise DataError(f"--write {options.write}: nothing to write: name mixes, or give --rest")
    return options


def _in_modes(
    labels: Sequence[str], modes: Sequence[str], predictor: Predictor, *, every: bool
) -> dict[str, list[Predicted]]:
    """Predictions by mode; ``every`` = a mode in which the mix cannot be predicted is an error."""
    found: dict[str, list[Predicted]] = {}
    for mode in modes:
        try:
            found[mode] = predictor.predict(labels, mode)
        except NotPredictable:
            if every or (mode == modes[-1] and not found):
                raise
    return found


def _rivals(results: Results) -> dict[str, dict[str, Rival]]:
    """Other predictors by mode and name."""
    utilisations = utilisations_of(results)
    return {mode: rivals_of(own, utilisations) for mode, own in _by_mode(results).items()}


def _by_mode(results: Results) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in measured_cells(results):
        if not cell.stressed:
            found.setdefault(cell.mode, []).append(cell)
    return found


def _require_fits(predictor: Predictor) -> None:
    if not predictor.fits:
        raise NotPredictable(
            f"nothing to learn from: {len(predictor.lone)} models have a run alone with a launch-bound share, and no "
            "sharing mode has two mixes of them. Measure some pairs: "
            f"{command_line('run')} -m +experiment=pairs"
        )


def _more(results: Results, predictor: Predictor, options: argparse.Namespace) -> dict[str, Any]:
    """What to measure next, and suspects."""
    by_mode = _by_mode(results)
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


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.exit(enter(main))

"""Which CUDA MPS percentages compute right results on this machine. Lives here: the command and its table.

    python -m mtexp.sharing.numerics [--percentages 50,33.33] [--models none] [--json FILE]

A CUDA MPS percentage lowers the number of SMs that a process sees. Libraries choose their kernels by it, and some
choose kernels whose results are wrong at some SM counts, silently and at plausible speed. This command computes the
matrix products of the models in ``conf/models``, and whole models, under each percentage and without MPS, and compares
them with float32. It needs a GPU, CUDA MPS and torch; no MLflow, no Hydra. ``docs/mps-numerics.md`` says more.

Exit code: 0 all right, 1 something is wrong, 2 it cannot be checked (usage, no GPU, no MPS),
130 or 143 interrupted. May touch: stdout, a file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mtexp.commands import command_line
from mtexp.errors import MtexpError
from mtexp.output import enter, say_interrupted
from mtexp.sharing.numerics_report import Options, Report, Row, model_specs
from mtexp.sharing.numerics_run import Checker, Target, serve
from mtexp.signals import ended_in_order

PRECISIONS = ("fp16", "bf16", "tf32", "fp32")
_MODELS = Path(__file__).resolve().parents[1] / "conf" / "models"
_LARGEST = 2**20
_NAME, _CELL = 38, 9


def main(argv: Sequence[str] | None = None, *, target: Target = serve, runtime: str = "gpu") -> int:
    """The command. ``target`` and ``runtime`` are for tests."""
    args = _parser().parse_args(argv)
    # SIGTERM: a time limit; the daemon is to be taken down
    return ended_in_order(lambda: _check(args, target, runtime), say_interrupted)


def _check(args: argparse.Namespace, target: Target, runtime: str) -> int:
    try:
        options = _options(args, runtime)
        save = _saver(Path(args.json)) if args.json else lambda report: None
        table = _Table(options.precisions)
        report = Checker(options, table.row, save, target).run()
    except MtexpError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(summary(report))
    return 0 if report.right else 1


# --- options ----------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_line("numerics"),
        description="Which CUDA MPS percentages compute right results on this machine.",
        epilog="Exit code: 0 all right, 1 something is wrong, 2 it cannot be checked.",
    )
    add = parser.add_argument
    add("--percentages", type=_percentages, default=(), help="e.g. 100,50,33.33; default: every other SM count")
    add("--models", default="all", help="whole models to run, by name; all (default) or none")
    add("--shapes", default="all", help="ROWSxINPUTSxOUTPUTS,... of linear layers; all (default): those of the models")
    add("--precisions", type=_precisions, default=PRECISIONS, help="default: fp16,bf16,tf32,fp32")
    add("--batch-size", type=_size, default=8)
    add("--seq-len", type=_size, default=128)
    add("--quick", action="store_true", help="six percentages, products only")
    add("--probe-workarounds", action="store_true", help="try settings that might help, at one wrong percentage")
    add("--probe-at", type=_percentage, default=0.0, help="that percentage; default: the one with most wrong products")
    add("--json", metavar="FILE", default="", help="write the results there, after each percentage")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0]
    add("--device", default=visible or "0", help="index or UUID of the GPU")
    add("--wait", type=float, default=0.0, help="seconds to wait for a GPU that mtexp measures on")
    return parser


def _percentage(text: str) -> float:
    value = float(text.strip().removesuffix("%"))
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text}: allowed: above 0 and at most 100")
    return value


def _percentages(text: str) -> tuple[float, ...]:
    return tuple(map(_percentage, text.split(",")))


def _precisions(text: str) -> tuple[str, ...]:
    given = tuple(text.split(","))
    if unknown := [name for name in given if name not in PRECISIONS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: allowed: {', '.join(PRECISIONS)}")
    return given


def _size(text: str) -> int:
    value = int(text)
    if not 1 <= value <= _LARGEST:
        raise argparse.ArgumentTypeError(f"{text}: allowed: 1 to {_LARGEST}")
    return value


def _products(text: str) -> tuple[tuple[int, int, int], ...]:
    products = []
    for part in text.split(","):
        try:
            rows, inputs, outputs = map(_size, part.split("x"))
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise MtexpError(f"--shapes {part}: allowed: ROWSxINPUTSxOUTPUTS, such as 1024x768x3072") from error
        products.append((rows, inputs, outputs))
    return tuple(products)


def _options(args: argparse.Namespace, runtime: str) -> Options:
    entries = _entries()
    return Options(
        percentages=args.percentages,
        models=() if args.quick and args.models == "all" else model_specs(_chosen(entries, args.models)),
        shapes_of=() if args.shapes != "all" else model_specs(list(entries.values())),
        products=() if args.shapes in ("all", "none") else _products(args.shapes),
        precisions=args.precisions,
        batch_size=args.batch_size,
        seq_len=args.seq_len,
        quick=args.quick,
        probe_workarounds=args.probe_workarounds,
        probe_at=args.probe_at,
        device=args.device,
        wait_s=args.wait,
        runtime=runtime,
    )


def _entries() -> dict[str, dict[str, Any]]:
    """The models of ``conf/models`` by name, in alphabetical order; stressors have no output to check."""
    found = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(_MODELS.glob("*.yaml"))]
    return {entry["name"]: entry for entry in found if entry["role"] != "stressor"}


def _chosen(entries: Mapping[str, dict[str, Any]], text: str) -> list[dict[str, Any]]:
    names = {"all": list(entries), "none": []}.get(text, text.split(","))
    if unknown := [name for name in names if name not in entries]:
        raise MtexpError(f"--models {', '.join(unknown)}: allowed: all, none, {', '.join(entries)}")
    return [entries[name] for name in names]


def _saver(path: Path) -> Callable[[Report], None]:
    """Writes the report beside ``path`` and renames it: a time limit leaves the last complete state.

    Raises:
        MtexpError: The file cannot be written; before anything has started.
    """

    def save(report: Report) -> None:
        aside = path.with_name(path.name + ".new")
        aside.write_text(json.dumps(report.to_json()) + "\n", encoding="utf-8")
        aside.replace(path)

    if not os.path.isdir(path.parent):
        raise MtexpError(f"--json {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise MtexpError(f"--json {path}: the folder {path.parent} cannot be written")
    return save


# --- what is shown ----------------------------------------------------------------------------------------------------


class _Table:
    """One line a row, as they come: wrong products of those checked, by precision; then wrong models."""

    def __init__(self, precisions: Sequence[str]) -> None:
        self._precisions = precisions
        self._begun = False

    def row(self, name: str, row: Row) -> None:
        """Show one row."""
        if not self._begun:
            self._begun = True
            cells = [f"{name:>{_CELL}}" for name in (*self._precisions, "models", "s")]
            sys.stdout.write(f"wrong of checked\n{'':<{_NAME}}{'SMs':>5}{''.join(cells)}\n")
        sys.stdout.write(f"{name:<{_NAME}}{row.sm_count or '?':>5}{self._cells(row)}\n")
        sys.stdout.flush()

    def _cells(self, row: Row) -> str:
        if row.same_as is not None:
            return f"  as {row.same_as:g} %"
        counts = [(row.wrong(precision), row.of(precision)) for precision in self._precisions]
        counts.append((sum(bool(m.get("wrong")) for m in row.models), sum("wrong" in m for m in row.models)))
        cells = [f"{f'{wrong}/{of}' if of else '-':>{_CELL}}" for wrong, of in counts]
        return "".join(cells) + f"{row.seconds:>{_CELL}.1f}" + (f"  {row.failure}" if row.failure else "")


def summary(report: Report) -> str:
    """What follows from all rows, in lines."""
    rows = [row for row in report.rows if row.percentage is not None and row.same_as is None]
    rows.sort(key=lambda row: -row.sm_count)
    right, wrong = ([r for r in rows if r.right is wanted] for wanted in (True, False))
    device, versions = report.device, report.device.get("versions", {})
    stack = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = ["", f"{device.get('device_name')}, {device.get('sm_count')} SMs, {stack}"]
    if not report.rows[0].right:
        lines.append("Wrong even without CUDA MPS: the reason is another one than the SM count.")
    lines += [f"Right: {_listed(right)}.", f"Wrong: {_listed(wrong)}."]
    if worst := _worst(wrong):
        lines.append(f"For example: {worst}.")
    if wrong:
        lines.append("Use a percentage that is right, or a precision without wrong products; see docs/mps-numerics.md.")
    unchecked = sum("unchecked" in found for row in rows for found in (*row.products, *row.models))
    if unchecked:
        lines.append(f"{unchecked} products or models could not be checked (memory).")
    return "\n".join(lines) + "\n"


def _listed(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.sm_count} SMs ({row.name})" for row in rows) or "none"


def _worst(rows: Sequence[Row]) -> str:
    for row in rows:
        for found in row.products:
            if found.get("wrong"):
                error = "not finite" if found["error"] is None else f"{found['error']:.2g}"
                return f"{found['name']} in {found['precision']} at {row.sm_count} SMs, relative error {error}"
    return ""


if __name__ == "__main__":
    sys.exit(enter(main))

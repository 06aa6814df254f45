"""What a point of a sweep costs beside its window, and how long help and a refusal take.

Sweeps are run as a user runs them, ``python run.py -m``. The overhead of a point is the time from the end of the point
before it to its own end, less its window; the first point is told apart, for it pays the imports. The floor is two
bare processes forked from a server that has imported torch: a context, a model, the warm-up, the end, and no harness.
The control of the commands is an interpreter that does nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import common, plain

RUN = (sys.executable, str(common.ROOT / "run.py"))


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=3, gpu=True)
    made.add_argument("--points", type=int, default=0, help="of each sweep; default 8, with --quick 3")
    return made


def main() -> None:
    options = arguments().parse_args()
    points = options.points or (3 if options.quick else 8)
    repeats = 1 if options.quick and not options.repeats else common.repeats_of(options)
    report = common.Report("point_overhead")
    with common.scratch() as folder:
        _sweeps(report, folder, points, repeats, gpu=options.gpu)
        _floor(report, folder, repeats * (points - 1), gpu=options.gpu)
        _commands(report, folder, 5 if options.quick else 15)
    report.show()


def _sweeps(report: common.Report, folder: Path, points: int, repeats: int, *, gpu: bool) -> None:
    sizes = ["runtime=gpu"] if gpu else list(common.SMALL)
    parts: dict[str, list[dict[str, float]]] = {"forkserver": [], "interpreter": []}
    first: dict[str, list[float]] = {launcher: [] for launcher in parts}
    for repeat in range(repeats):
        for launcher in parts:
            common.note(f"sweep {repeat + 1} of {repeats}, {launcher}")
            place = folder / f"{launcher}-{repeat}"
            place.mkdir()
            flags = [
                f"runtime.launcher={launcher}",
                "measure.design=sustained",
                "baseline=skip",
                f"repetitions={points}",
                "mix=bert_base*2",
            ]
            wall_s = common.command_s([*RUN, "-m", *sizes, *flags], place)
            found = [_parts(*pair) for pair in _pairs(place)]
            parts[launcher] += found
            first[launcher].append(wall_s - sum(p["overhead"] + p["window"] for p in found))
    for launcher, found in parts.items():
        target = "<= 1.0 on an H200" if launcher == "forkserver" else ""
        report.add(f"{launcher}: later point, overhead", [p["overhead"] for p in found], "s", target)
        for part in ("start, build, warm-up", "stop, teardown", "record, MLflow, Hydra"):
            report.add(f"{launcher}: ... {part}", [p[part] for p in found], "s")
        report.add(f"{launcher}: first point with the start and end of the command", first[launcher], "s")
    medians = {launcher: statistics.median(p["overhead"] for p in found) for launcher, found in parts.items()}
    report.add("interpreter / forkserver", medians["interpreter"] / medians["forkserver"], "x", ">= 5 on the CPU")


def _floor(report: common.Report, folder: Path, repeats: int, *, gpu: bool) -> None:
    spec, _ = common.spec_of(["mix=bert_base*2"], gpu=gpu)
    common.Tenants(folder)  # what they are forked from imports torch, once
    floors_s = []
    for repeat in range(repeats + 1):
        common.note(f"floor, {repeat} of {repeats}")
        begin = time.perf_counter()
        stamps = plain.run(spec, method="forkserver")
        wall_s = time.perf_counter() - begin
        floors_s.append(wall_s - (max(s[-1][1] for s in stamps) - min(s[0][0] for s in stamps)) / 1e9)
    report.add("floor: two bare forked processes, start to end less their loops", floors_s[1:], "s")


def _pairs(place: Path) -> list[tuple[Path, Path]]:
    """Folders of the points that follow each other."""
    folders = sorted((path.parent for path in place.glob("multirun/*/*/job.json")), key=lambda path: int(path.name))
    return list(itertools.pairwise(folders))


def _parts(before: Path, folder: Path) -> dict[str, float]:
    """Where the time between the end of the point before and the end of this one went, seconds."""
    record: dict[str, Any] = json.loads((folder / "record.json").read_text())
    wall_s = (folder / "job.json").stat().st_mtime - (before / "job.json").stat().st_mtime
    (begin_ns, _), (end_ns, _) = record["clock"][0], record["clock"][-1]
    t0_ns, t1_ns = record["window"]["t0_ns"], record["window"]["t1_ns"]
    return {
        "window": (t1_ns - t0_ns) / 1e9,
        "overhead": wall_s - (t1_ns - t0_ns) / 1e9,
        "start, build, warm-up": (t0_ns - begin_ns) / 1e9,
        "stop, teardown": (end_ns - t1_ns) / 1e9,
        "record, MLflow, Hydra": wall_s - (end_ns - begin_ns) / 1e9,
    }


def _commands(report: common.Report, folder: Path, repeats: int) -> None:
    found = common.interleaved(
        {
            "run.py -h": lambda: common.command_s([*RUN, "-h"], folder),
            "refused": lambda: common.command_s([*RUN, "mix.tenants.a.batchsize=4"], folder, code=2),
            "refused sweep": lambda: common.command_s([*RUN, "-m", "mix=pair,misspelt"], folder, code=2),
            "control: python -c pass": lambda: common.command_s([sys.executable, "-c", "pass"], folder),
        },
        repeats,
    )
    targets = {"run.py -h": "<= 1.0", "refused": "<= 1.5", "refused sweep": "<= 1.5"}
    for name, values in found.items():
        report.add(name, values, "s", targets.get(name, ""))


if __name__ == "__main__":
    main()

"""What every benchmark shares: interleaved repeats, medians with their spread, one table, one JSON line.

A benchmark is run from the repository's root, ``python -m benchmarks.perturbation --quick``, and writes nowhere but to
a scratch folder. Machines are shared and noisy, so a figure is never read alone: cases take turns within one run, each
repeat in another order, and a **control** (the same case once more, or a fixed piece of work) says how large a
difference has to be before it means anything. Heavy imports are inside functions: tenants that are forked or spawned
import the module that started them again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mtexp.host import Device
    from mtexp.running.measured import Measurement
    from mtexp.spec import RunSpec

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("runtime=cpu", "precision=fp32", "workload.batch_size=1", "workload.seq_len=16")
"""A request of some milliseconds on the CPU."""
_PACKAGES = ("torch", "transformers", "mlflow", "numpy", "pandas")


# --- command line -----------------------------------------------------------------------------------------------------


def parser(doc: str, *, repeats: int, gpu: bool = False) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes; ``doc`` is its module docstring."""
    made = argparse.ArgumentParser(description=doc.strip().partition("\n")[0])
    made.add_argument("--quick", action="store_true", help="a smoke run: few repeats, small sizes")
    made.add_argument("--repeats", type=int, default=0, metavar="N", help=f"default {repeats}, with --quick 2")
    if gpu:
        made.add_argument("--gpu", action="store_true", help="full models on the first GPU; default: small, on the CPU")
    made.set_defaults(all_repeats=repeats)
    return made


def repeats_of(options: argparse.Namespace) -> int:
    """How often every case is run."""
    return int(options.repeats or (2 if options.quick else options.all_repeats))


# --- measuring --------------------------------------------------------------------------------------------------------


def interleaved(
    cases: Mapping[str, Callable[[], T]], repeats: int, *, within_s: float = math.inf
) -> dict[str, list[T]]:
    """Run every case ``repeats`` times, taking turns, each round in another order; results by case.

    Figures are noted as they come: what is cut off before its table has not measured for nothing. After two rounds no
    other is begun that would end later than ``within_s`` from now, if it takes as long as they did.
    """
    results: dict[str, list[T]] = {name: [] for name in cases}
    names, began = list(cases), time.perf_counter()
    for repeat in range(repeats):
        if repeat > 1 and (time.perf_counter() - began) * (repeat + 1) / repeat > within_s:
            break
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            note(f"round {repeat + 1} of {repeats}: {name}")
            result = cases[name]()
            results[name].append(result)
            if isinstance(result, Mapping):
                note(f"  {result}")
    return results


def seconds(action: Callable[[], object]) -> float:
    """How long ``action`` takes, in seconds."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def fixed_work_s() -> float:
    """The control of figures in seconds: the same work every time, so its spread is the machine's."""
    import numpy as np

    def work() -> None:
        values = np.random.default_rng(0).random(2_000_000)
        values.sort()
        sum(i * i for i in range(500_000))

    return seconds(work)


def memory_mib(key: str = "VmHWM") -> float:
    """Peak (``VmHWM``) or present (``VmRSS``) resident memory of this process, MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(key))


def in_child(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what ``function``, a function of a module, returns in a fresh interpreter of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def command_s(argv: Sequence[str], folder: Path, *, code: int = 0) -> float:
    """Seconds a command takes in ``folder``.

    Raises:
        RuntimeError: Its exit code is another than ``code``.
    """
    begin = time.perf_counter()
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    took_s = time.perf_counter() - begin
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return took_s


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards; nothing of the environment reaches MLflow or the device lease."""
    with tempfile.TemporaryDirectory(prefix="mtexp-bench-", ignore_cleanup_errors=True) as name:
        for variable in [v for v in os.environ if v.startswith("MLFLOW_TRACKING")]:
            del os.environ[variable]
        os.environ["MTEXP_LEASE_DIR"] = str(Path(name) / "lease")
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        yield Path(name)


# --- tenants ----------------------------------------------------------------------------------------------------------


def spec_of(overrides: Sequence[str], *, gpu: bool) -> tuple[RunSpec, Device]:
    """The run that ``overrides`` describe and the device it runs on; on the CPU with :data:`SMALL` before them."""
    from mtexp.config import compose_spec
    from mtexp.host import cpu_device
    from mtexp.telemetry import find_devices

    overrides = ["measure.design=sustained", *overrides]  # what is compared here is requests side by side throughout
    if not gpu:
        return compose_spec([*SMALL, *overrides]), cpu_device()
    devices = find_devices()
    if not devices:
        raise SystemExit("no CUDA GPU is visible; without --gpu this runs on the CPU")
    return compose_spec(["runtime=gpu", *overrides], devices[0]), devices[0]


class Tenants:
    """Runs measured as mtexp measures them, one after another, from one forkserver.

    Args:
        folder: Where they keep their files.
        starter: Starts the tenant processes; mtexp's own by default.
    """

    def __init__(self, folder: Path, starter: Any = None) -> None:
        from mtexp.launch import ForkserverStarter

        self._starter = starter or ForkserverStarter()
        self._folder = folder
        self._count = 0

    def measure(self, spec: RunSpec, device: Device) -> Measurement:
        """Measure one run.

        Raises:
            MtexpError: It failed.
        """
        from mtexp.running.measured import Setup
        from mtexp.running.measurement import measure

        self._count += 1
        measured = measure(spec, self._folder / f"run-{self._count}", Setup(device, self._starter))
        if measured.failure is not None:
            raise measured.failure
        return measured


def latency_figures(latency_ms: Any) -> dict[str, float]:
    """mean, p50 and p99 (ms) of the latencies of one tenant, shape (n,)."""
    import numpy as np

    p50, p99 = np.percentile(latency_ms, [50, 99])
    return {"mean": float(np.mean(latency_ms)), "p50": float(p50), "p99": float(p99)}


# --- telling ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of a table: a figure in every repeat, or a single one."""

    name: str
    values: Sequence[float]
    unit: str
    target: str = ""
    """What the figure should be; empty = it is there to compare with."""

    @property
    def median(self) -> float:
        """Over the repeats."""
        return statistics.median(self.values)


@dataclass
class Report:
    """The table of one benchmark and its JSON line."""

    benchmark: str
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, name: str, values: Sequence[float] | float, unit: str, target: str = "") -> None:
        """Add a figure: one value a repeat, or one."""
        self.rows.append(Row(name, [values] if isinstance(values, int | float) else list(values), unit, target))

    def ratio(self, name: str, values: Sequence[float], against: Sequence[float], target: str = "") -> None:
        """Add a ratio, taken within each repeat, so that what disturbs both cancels."""
        self.add(name, [value / base for value, base in zip(values, against, strict=True)], "x", target)

    def show(self) -> None:
        """Print the table, then the JSON line."""
        about = hardware()
        print(f"\n{self.benchmark}, {about['cpu']} ({about['cores']} cores), GPU {about['gpu']}, {about['commit']}\n")
        print("| figure | median | lowest | highest | unit | target |")
        print("|---|---|---|---|---|---|")
        for row in self.rows:
            shown = [f"{value:.4g}" for value in (row.median, min(row.values), max(row.values))]
            print(f"| {row.name} | {' | '.join(shown)} | {row.unit} | {row.target} |")
        for remark in self.remarks:
            print(f"\n{remark}")
        figures = [
            {"name": r.name, "unit": r.unit, "median": r.median, "values": list(r.values), "target": r.target}
            for r in self.rows
        ]
        print("\n" + json.dumps({"benchmark": self.benchmark, **about, "figures": figures, "remarks": self.remarks}))


def note(text: str) -> None:
    """Say on stderr what is going on."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


def hardware() -> dict[str, Any]:
    """What the figures were measured on."""
    from mtexp.host import cpu_device, environment
    from mtexp.telemetry import find_devices

    known = environment(cpu_device())
    return {
        "cpu": known.get("cpu_model", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "gpu": ", ".join(device.name for device in find_devices() if device.kind == "gpu") or "none",
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (
        "+" if git("status", "--porcelain", "--", "mtexp", "analysis") else ""
    )

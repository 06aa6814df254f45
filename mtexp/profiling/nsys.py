"""The Nsight Systems pass: finds nsys, builds its command, runs it and collects the capture. May touch: subprocess.

One session traces all tenants on one clock: ``nsys profile ... python -m ENTRY``. The entry starts the tenants as fresh
interpreters (processes forked from a forkserver are invisible to nsys, measured) and marks them with NVTX ranges
``tenant=<id>|phase=measure`` and ``tenant=<id>|iteration=<n>``. A CUDA MPS daemon is started outside the session: nsys
waits for every process in it to end.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mtexp.errors import ProfilerError
from mtexp.profiling.process import explain, run_bounded

OLDEST = (2023, 1)
"""The first version whose exports have the columns that the analysis reads."""
_OLDEST_TEXT = ".".join(map(str, OLDEST))

_INSTALLED_UNDER = (Path("/opt/nvidia"), Path("/usr/local/cuda"), Path("/usr/lib"))
_IN_NSIGHT_SYSTEMS = (
    "nsight-systems*/**/target-linux-*/nsys",
    "nsight-systems*/bin/nsys",
    "nsight-systems*/*/bin/nsys",
)
_IN_NSIGHT_COMPUTE = ("nsight-compute*/**/host/target-linux-*/nsys",)
_PROBE_S = 60.0
_EXPORT_S = 600.0


def find_nsys(environ: Mapping[str, str] = os.environ, installed_under: Sequence[Path] = _INSTALLED_UNDER) -> Path:
    """The first usable nsys of: ``$NSYS``, the PATH, Nsight Systems installations, beside Nsight Compute.

    Raises:
        ProfilerError: None is usable; the message says what was found and why each is not.
    """
    reasons = []
    for path in _candidates(environ, installed_under):
        try:
            _check(path)
            return path
        except ProfilerError as error:
            if environ.get("NSYS"):
                remedy = f"Set NSYS to an nsys of {_OLDEST_TEXT} or later, or unset it to search for one."
                raise ProfilerError(f"{error} {remedy}") from error
            reasons.append(str(error))
    found = " ".join(reasons) or "None was found on the PATH, under /opt/nvidia, or next to Nsight Compute."
    raise ProfilerError(
        f"profiler=nsys needs Nsight Systems {_OLDEST_TEXT} or later. {found} Install nsight-systems-cli, set NSYS to "
        "an nsys, or use profiler=torch."
    )


def _candidates(environ: Mapping[str, str], installed_under: Sequence[Path]) -> Iterator[Path]:
    if environ.get("NSYS"):
        yield Path(environ["NSYS"])
        return
    if on_path := shutil.which("nsys", path=environ.get("PATH")):
        yield Path(on_path)
    yield from _globbed(installed_under, _IN_NSIGHT_SYSTEMS)
    if ncu := shutil.which("ncu", path=environ.get("PATH")):
        for parent in Path(ncu).resolve().parents[:3]:
            yield from sorted(parent.glob("host/target-linux-*/nsys"))
    yield from _globbed(installed_under, _IN_NSIGHT_COMPUTE)


def _globbed(roots: Sequence[Path], patterns: Sequence[str]) -> Iterator[Path]:
    """Matches, newest version first."""
    matches = {path for root in roots if root.is_dir() for pattern in patterns for path in root.glob(pattern)}
    yield from sorted(matches, reverse=True)


def _check(path: Path) -> None:
    """Raise ProfilerError unless this nsys can be used."""
    with tempfile.TemporaryDirectory(prefix="mtexp-nsys-") as folder:
        _, output = run_bounded([str(path), "--version"], timeout_s=_PROBE_S, log=Path(folder, "version.log"))
    match = re.search(r"version (\d+(?:\.\d+)+)", output)
    if not match:
        raise ProfilerError(f"{path} does not run: {explain(output) or output.strip()[-300:] or 'no output'}.")
    if tuple(int(part) for part in match[1].split(".")) < OLDEST:
        raise ProfilerError(f"{path} is version {match[1]}, too old.")
    if not _has_importer(path):
        _probe(path)


def _has_importer(path: Path) -> bool:
    """Whether a QdstrmImporter lies where installations keep it, beside the folder of nsys."""
    home = path.resolve().parent.parent
    return any(home.glob("host-linux-*/QdstrmImporter")) or any(home.glob("*linux-desktop*/QdstrmImporter"))


def _probe(path: Path) -> None:
    """Trace a program that does nothing, and check that a report is written.

    Raises:
        ProfilerError: It does not; target-only installations leave a ``.qdstrm``.
    """
    with tempfile.TemporaryDirectory(prefix="mtexp-nsys-") as folder:
        out = Path(folder, "probe")
        argv = [str(path), "profile", "-t", "nvtx", "--sample=none", "--cpuctxsw=none", "-o", str(out), "/bin/true"]
        _, output = run_bounded(argv, timeout_s=_PROBE_S, log=Path(folder, "probe.log"))
        if not report_path(out).exists():
            why = explain(output) or "a trial capture left no .nsys-rep: " + output.strip()[-300:]
            raise ProfilerError(f"{path} cannot be used: {why}.")


def report_path(out: Path) -> Path:
    """The report that ``-o out`` leaves."""
    return out.with_name(out.name + ".nsys-rep")


def profile_command(tool: Path, inner: Sequence[str], out: Path, *, gpu_metrics_hz: int = 0) -> list[str]:
    """The argv that traces ``inner`` and everything it starts into ``report_path(out)``.

    Args:
        tool: From :func:`find_nsys`.
        inner: Command of the supervisor that starts the tenants.
        out: Report path without suffix.
        gpu_metrics_hz: Also sample whole-GPU metrics at this rate (10 to 200000; needs root, nothing else may hold the
            counters); 0 = no.
    """
    command = [
        str(tool),
        "profile",
        "--trace=cuda,nvtx",
        "--sample=none",
        "--cpuctxsw=none",
        "--cuda-graph-trace=node",
        "--cuda-memory-usage=false",
        "--cuda-event-trace=false",
        "--wait=all",
        "--kill=none",
        "--stats=false",
        "--force-overwrite=true",
        f"--output={str(out).replace('%', '%%')}",
    ]
    if gpu_metrics_hz:
        command += ["--gpu-metrics-devices=0", f"--gpu-metrics-frequency={gpu_metrics_hz}"]
    return command + list(inner)


def export_command(tool: Path, report: Path, sqlite: Path) -> list[str]:
    """The argv that exports ``report`` to ``sqlite``."""
    return [
        str(tool),
        "export",
        "--type=sqlite",
        "--force-overwrite=true",
        f"--output={sqlite}",
        str(report),
    ]


def capture(
    tool: Path,
    command: Sequence[str],
    out: Path,
    *,
    timeout_s: float,
    log: Path,
) -> Path:
    """Run ``command`` (of :func:`profile_command`, with the same ``out``) and return its report.

    Raises:
        ProfilerError: The traced program failed, no report came, or the deadline passed; the message has the remedy
            where the cause is known, and the log's path.
    """
    code, output = run_bounded(command, timeout_s=timeout_s, log=log)
    report = report_path(out)
    if code == 0 and report.is_file():
        return report
    why = explain(output) or ("the traced program failed" if code else "no report was written")
    tail = "\n".join(f"  | {line}" for line in output.strip().splitlines()[-10:])
    raise ProfilerError(f"{tool} gave no usable capture (exit code {code}): {why}; log: {log}\n{tail}")


def export(tool: Path, report: Path, sqlite: Path, *, log: Path) -> Path:
    """Export ``report`` to ``sqlite`` and return it.

    Raises:
        ProfilerError: The export failed.
    """
    code, output = run_bounded(export_command(tool, report, sqlite), timeout_s=_EXPORT_S, log=log)
    if code or not sqlite.is_file():
        why = explain(output) or output.strip()[-300:]
        raise ProfilerError(f"{report} could not be exported (exit code {code}): {why}; log: {log}")
    return sqlite

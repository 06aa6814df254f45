import os
import stat
from pathlib import Path

import pytest

from mtexp.errors import ProfilerError
from mtexp.profiling import nsys
from mtexp.profiling.kernels import read_nsys_sqlite
from mtexp.profiling.nsys import find_nsys, profile_command, report_path
from mtexp.profiling.process import explain, run_bounded
from mtexp.profiling.result import analyse, collect, kernel_table

DATA = Path(__file__).parents[1] / "data" / "nsys"
MS = 1_000_000


def script(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def version(number):
    return f'echo "NVIDIA Nsight Systems version {number}-253235982083v0"'


def install(folder, number="2025.3.2.367", importer=True):
    """A fake installation with the layout of Nsight Systems."""
    if importer:
        script(folder / "host-linux-x64" / "QdstrmImporter", "true")
    return script(folder / "target-linux-x64" / "nsys", version(number))


def environment(tmp_path, **more):
    return {"PATH": str(tmp_path / "no-such-folder"), **more}


@pytest.fixture
def tool():
    return Path("/opt/nvidia/nsight-systems/2025.3.2/target-linux-x64/nsys")


def test_the_command_is_pinned(tool):
    """Every flag is a decision: a change to it is a change of this file."""
    out = Path("/runs/1/50%/profile")
    inner = ["python", "-m", "entry", "job.json"]
    plain = profile_command(tool, inner, out)
    full = profile_command(tool, inner, out, gpu_metrics_hz=1000)
    exported = nsys.export_command(tool, report_path(out), Path("/runs/1/capture.sqlite"))
    text = "\n\n".join("\n".join(command) for command in (plain, full, exported)) + "\n"
    assert text == (DATA / "nsys-argv.txt").read_text()


def test_nsys_is_found_on_the_path(tmp_path):
    """And its version read."""
    path = install(tmp_path / "nsight-systems")
    assert find_nsys({"PATH": str(path.parent)}, ()) == path


def test_nsys_is_found_among_installations_newest_first(tmp_path):
    """Two versions side by side under one root."""
    install(tmp_path / "opt" / "nsight-systems" / "2024.1.1", "2024.1.1.59")
    newest = install(tmp_path / "opt" / "nsight-systems" / "2025.3.2")
    assert find_nsys(environment(tmp_path), [tmp_path / "opt"]) == newest


def test_nsys_is_found_beside_nsight_compute(tmp_path):
    """The CUDA toolkit's containers have ncu on the PATH and nsys only inside its installation."""
    root = tmp_path / "elsewhere" / "nsight-compute" / "2025.3.1"
    ncu = script(root / "ncu", "true")
    path = script(root / "host" / "target-linux-x64" / "nsys", version("2025.3.2.0"))
    script(root / "host" / "linux-desktop-glibc_2_11_3-x64" / "QdstrmImporter", "true")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ncu").symlink_to(ncu)
    assert find_nsys({"PATH": str(tmp_path / "bin")}, ()) == path
    assert find_nsys(environment(tmp_path), [tmp_path / "elsewhere"]) == path


def test_the_variable_wins_and_is_not_replaced_in_silence(tmp_path):
    """NSYS names the one to use; if that one is unusable, the user hears of it."""
    good, old = install(tmp_path / "good"), install(tmp_path / "old", "2022.4.2.1")
    assert find_nsys(environment(tmp_path, NSYS=str(good)), ()) == good
    for path, why in ((old, r"version 2022\.4\.2\.1, too old"), (tmp_path / "absent", "No such file")):
        with pytest.raises(ProfilerError, match=rf"{why}.* Set NSYS to an nsys of 2023\.1 or later, or unset it"):
            find_nsys({"PATH": str(good.parent), "NSYS": str(path)}, ())


def test_nsys_missing_says_where_was_looked_and_what_to_do(tmp_path):
    """The message has the remedy."""
    with pytest.raises(ProfilerError, match=r"PATH.*Install nsight-systems-cli.*profiler=torch"):
        find_nsys(environment(tmp_path), [tmp_path])


def test_an_unusable_nsys_is_passed_over_for_a_usable_one(tmp_path):
    """Too old on the PATH, new under the root; with only the old one, its reason is told."""
    old = install(tmp_path / "old", "2021.5.2.1")
    with pytest.raises(ProfilerError, match=r"2021\.5\.2\.1, too old.*Install"):
        find_nsys({"PATH": str(old.parent)}, ())
    new = install(tmp_path / "opt" / "nsight-systems" / "2025.3.2")
    assert find_nsys({"PATH": str(old.parent)}, [tmp_path / "opt"]) == new


def test_a_missing_library_is_named_with_its_package(tmp_path):
    """The loader's complaint, as the image of a GPU host gives it."""
    body = 'echo "nsys: error while loading shared libraries: libdw.so.1: cannot open shared object file" >&2; exit 127'
    path = script(tmp_path / "nsys", body)
    with pytest.raises(ProfilerError, match=r"lacks the shared library libdw\.so\.1.*libdw1 libelf1"):
        find_nsys(environment(tmp_path, NSYS=str(path)), ())


def test_an_installation_without_importer_is_probed(tmp_path):
    """Target-only packages leave a .qdstrm that nothing here can read."""
    body = f'case "$1" in --version) {version("2025.3.2.0")};; *) echo "Importer error status: not found";; esac'
    path = script(tmp_path / "nsys", body)
    with pytest.raises(ProfilerError, match="no QdstrmImporter"):
        find_nsys(environment(tmp_path, NSYS=str(path)), ())
    leave_report = 'while [ "$1" != -o ]; do shift; done; touch "$2.nsys-rep"'
    body = f'case "$1" in --version) {version("2025.3.2.0")};; *) {leave_report};; esac'
    assert find_nsys(environment(tmp_path, NSYS=str(script(path, body))), ()) == path


def test_what_is_no_nsys_is_no_nsys(tmp_path):
    """Another program of that name, a file that is not executable, none at all."""
    for path in (script(tmp_path / "other", "echo hello"), tmp_path / "absent"):
        with pytest.raises(ProfilerError, match=path.name):
            find_nsys(environment(tmp_path, NSYS=str(path)), ())


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission", "NVreg_RestrictProfilingToAdminUsers=0"),
        ("==ERROR== Profiling failed because a driver resource was unavailable.", "dcgmi profile --pause"),
        ("CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED", "Do not nest profilers"),
        ("Illegal --gpu-metrics-devices argument: insufficient privilege, requires root", "gpu_metrics=false"),
    ],
)
def test_known_complaints_come_with_their_remedy(output, remedy):
    """What profilers print is for their authors; what we print is for the user."""
    assert remedy in explain(output)


def test_an_unknown_complaint_is_not_guessed_at():
    """Nothing is said then but the tool's own words."""
    assert explain("something else went wrong") == ""


def test_a_capture_returns_its_report_or_the_reason(tmp_path):
    """A failing program, and one that leaves no report: message with log and last lines."""
    tool = script(tmp_path / "nsys", 'touch "$2"')
    out, log = tmp_path / "profile", tmp_path / "nsys.log"
    report = nsys.capture(tool, [str(tool), "-o", f"{out}.nsys-rep"], out, timeout_s=20, log=log)
    assert report == report_path(out)
    report.unlink()
    with pytest.raises(ProfilerError, match=rf"no report was written; log: {log}"):
        nsys.capture(tool, ["/bin/true"], out, timeout_s=20, log=log)
    with pytest.raises(ProfilerError, match=r"(?s)exit code 3.*failed.*\| tenant a died"):
        nsys.capture(tool, ["/bin/sh", "-c", "echo tenant a died; exit 3"], out, timeout_s=20, log=log)


@pytest.mark.process
def test_a_profiler_that_hangs_is_stopped_with_all_it_started(tmp_path):
    """Deadline met, descendants gone, log named."""
    pids = tmp_path / "pids"
    body = f"sleep 600 & echo $! > {pids}; wait"
    with pytest.raises(ProfilerError, match=r"did not end within 0\.5 s"):
        run_bounded(["/bin/sh", "-c", body], timeout_s=0.5, log=tmp_path / "log")
    pid = int(pids.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_collect_exports_analyses_and_names_tenants(export, tmp_path):
    """From a report to metrics and files; the export itself is not kept."""
    made = export.write([(0, 10 * MS, 7, 1), (5 * MS, 20 * MS, 9, 2)], strings=[(1, "gemm"), (2, "softmax")])
    body = f'for a; do case "$a" in --output=*) cp {made} "${{a#--output=}}";; esac; done'
    tool = script(tmp_path / "nsys", body)
    folder = tmp_path / "out"
    folder.mkdir()
    report = tmp_path / "profile.nsys-rep"
    result = collect(tool, report, folder, time_slicing=False, tenants={7: "bert", 9: "llama"})
    assert result.metrics == {"kernel_overlap_pct": 100.0, "gpu_idle_pct": 0.0}
    assert result.tenants["bert"] == {"busy_ms": 10.0, "kernels": 1.0, "busy_pct": 100.0, "kernel_overlap_pct": 100.0}
    assert [p.name for p in result.artifacts] == [
        report.name,
        "overlap.json",
        "kernels.parquet",
        "kernels.csv",
        "lanes.html",
    ]
    assert all(p.is_file() for p in result.artifacts[1:])
    assert not (folder / "capture.sqlite").exists()
    assert result.findings == ()


def test_an_export_that_fails_says_why(tmp_path):
    """Exit code and the tool's words."""
    tool = script(tmp_path / "nsys", "echo broken report; exit 1")
    with pytest.raises(ProfilerError, match=r"could not be exported \(exit code 1\): broken report"):
        nsys.export(tool, tmp_path / "r.nsys-rep", tmp_path / "c.sqlite", log=tmp_path / "log")


def test_tenants_that_never_met_and_time_slicing_are_findings(export, tmp_path):
    """A profile whose overlap means nothing says so in the record."""
    kernels = read_nsys_sqlite(export.write([(0, 10, 7, 1), (50, 60, 9, 1)]))
    result = analyse(kernels, tmp_path, time_slicing=True)
    assert [f.code for f in result.findings] == ["overlap-not-concurrency", "profile-no-window"]
    assert result.metrics == {}
    assert list(result.tenants) == ["pid 7", "pid 9"]


def test_the_kernel_table_sums_to_the_tenants_kernel_time(export):
    """Shares are of the tenant's kernel time, most first."""
    kernels = read_nsys_sqlite(
        export.write([(0, 30, 7, 1), (40, 50, 7, 2), (60, 90, 7, 1)], strings=[(1, "a"), (2, "b")])
    )
    table = kernel_table(kernels)
    assert [(r["kernel"], r["count"], r["total_ms"]) for r in table] == [("a", 2, 60e-6), ("b", 1, 10e-6)]
    assert sum(r["time_pct"] for r in table) == pytest.approx(100)

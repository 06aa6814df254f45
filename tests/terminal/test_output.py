"""Output that goes nowhere costs lines, and nothing else: readers that end, closed streams, other encodings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtexp.output import folded

ROOT = Path(__file__).parents[2]
RUN = ROOT / "run.py"
NOT_FOR_USERS = {
    "mtexp/tenant/__main__.py",
    "mtexp/tenant/counting.py",
    "mtexp/testing/mps.py",
    "mtexp/testing/toy_server.py",
    "mtexp/launch/server_guardian.py",
    "mtexp/running/profile_session.py",
    "mtexp/sharing/guardian.py",
}
PROGRAMS = {
    "run.py": (["mix=nothere"], 2),
    "mtexp/__main__.py": ([], 2),
    "mtexp/tracking/upload.py": (["nothere"], 2),
    "mtexp/tracking/ui.py": ([], 2),
    "mtexp/profiling/overlap.py": (["nothere"], 1),
    "mtexp/sharing/numerics.py": (["-h"], 0),
    "analysis/fetch.py": ([], 2),
    "analysis/report.py": ([], 2),
    "analysis/export.py": (["folder"], 2),
    "analysis/advise.py": (["--models=bert_base", "--slo-ms=bert_base=3"], 2),
    "analysis/compare.py": ([], 2),
    "analysis/tables_command.py": ([], 2),
    "analysis/sms.py": (["nothere"], 2),
    "analysis/churn.py": (["nothere"], 2),
    "analysis/split.py": (["--nothing-like-that"], 2),
    "mtexp/tracking/sweeps.py": (["--nothing-like-that"], 2),
    "analysis/pack.py": (["--nothing-like-that"], 2),
    "analysis/predict.py": ([], 2),
    "analysis/roofline.py": (["nothere", "--device=NVIDIA H200"], 2),
}
"""What a user can start: arguments that end soon, and the exit code."""
COMMAND = """
import sys, warnings
from mtexp.output import enter
def main():
    warnings.warn("from a library")
    for i in range(3000):
        sys.stdout.write(f"{i} ms ± 1 µs\\n")
        sys.stderr.write(f"{i} ± \\n")
    sys.stdout.flush()
    open("done", "w").close()
    return 7
if __name__ == "__main__":
    sys.exit(enter(main))
"""
EVERY_PROGRAM = """
import gc, importlib, json, os, runpy, sys
gc.disable()
import mlflow
programs = json.loads(sys.argv[1])
for module in programs:  # imported once, then forked: the imports take each of them a second
    importlib.import_module(module)
gc.freeze()
gc.enable()
codes = {}
for module, arguments in programs.items():
    pid = os.fork()
    if not pid:
        os.dup2(os.open(module, os.O_CREAT | os.O_WRONLY), 2)
        os.close(0)
        del sys.modules[module]
        sys.argv[1:] = arguments
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        os._exit(99)  # it did not end by itself
    codes[module] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
json.dump(codes, open("codes", "w"))
"""


HOMELESS = """
import pwd, runpy
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
runpy.run_module("analysis.fetch", run_name="__main__", alter_sys=True)
"""


def _gone() -> int:
    """The writing end of a pipe that nobody reads."""
    theirs, ours = os.pipe()
    os.close(theirs)
    return ours


def _run(folder: Path, **streams: object) -> subprocess.CompletedProcess[bytes]:
    (folder / "command.py").write_text(COMMAND)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error"}
    command = [sys.executable, "command.py"]
    return subprocess.run(command, cwd=folder, env=environment, check=False, timeout=60, **streams)  # type: ignore[call-overload]


def test_every_command_is_entered_with_its_output_protected() -> None:
    """Whatever a user can start by name."""
    files = [RUN, *ROOT.glob("mtexp/**/*.py"), *ROOT.glob("analysis/**/*.py")]
    commands = {str(f.relative_to(ROOT)): f.read_text() for f in files if 'if __name__ == "__main__"' in f.read_text()}
    assert {"run.py", "mtexp/tracking/upload.py", "analysis/fetch.py"} <= set(commands)
    bare = {name for name, text in commands.items() if "sys.exit(enter(main))" not in text}
    assert bare == NOT_FOR_USERS
    assert set(PROGRAMS) == set(commands) - bare


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and stderr of every program, started as ``| head -0 <&-`` without HOME, for a narrow ASCII terminal."""
    folder = tmp_path_factory.mktemp("programs")
    arguments = {name.removesuffix(".py").replace("/", "."): own for name, (own, _) in PROGRAMS.items()}
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "COLUMNS": "40",
    }
    command = [sys.executable, "-c", EVERY_PROGRAM, json.dumps(arguments)]
    subprocess.run(command, cwd=folder, env=environment, stdout=_gone(), check=True, timeout=240)
    codes = json.loads((folder / "codes").read_text())
    return {module: (code, (folder / module).read_text()) for module, code in codes.items()}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ends_with_its_own_exit_code_where_nothing_is_as_usual(
    ended: dict[str, tuple[int, str]], name: str
) -> None:
    """No traceback, also at the interpreter's end."""
    code, said = ended[name.removesuffix(".py").replace("/", ".")]
    assert code == PROGRAMS[name][1], said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_has_gone_costs_lines_only(tmp_path: Path, both: bool) -> None:
    """``command | head -0``, with and without ``2>&1``: its own exit code, and no word about it."""
    pipe = _gone()
    ran = _run(tmp_path, stdout=pipe, stderr=pipe if both else subprocess.PIPE)
    assert ran.returncode == 7
    assert (tmp_path / "done").exists()
    if not both:
        assert b"Error" not in ran.stderr
        assert ran.stderr.count(b"ms") == 0
        assert ran.stderr.count(b"\\xb1") == 3000


def test_a_full_disk_behind_the_output_costs_lines_only(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ran = _run(tmp_path, stdout=full, stderr=full)
    assert ran.returncode == 7
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """``>&-``: nothing that is opened later may take the place of the output."""

    def close() -> None:
        for fd in closed:
            os.close(fd)

    ran = _run(tmp_path, preexec_fn=close)
    assert ran.returncode == 7
    assert (tmp_path / "done").read_bytes() == b""


def test_a_terminal_that_knows_ascii_only(tmp_path: Path) -> None:
    """Also with PYTHONWARNINGS=error, under which a warning of a library would be a traceback."""
    ran = _run(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert ran.returncode == 7
    assert ran.stdout.splitlines()[0] == rb"0 ms \xb1 1 \xb5s"


def test_a_user_without_a_home_and_without_an_entry_in_passwd(tmp_path: Path, made_store: bytes) -> None:
    """A container that runs with a bare uid: MLflow asks for the home as it is imported."""
    (tmp_path / "mlflow.db").write_bytes(made_store)
    environment = {name: value for name, value in os.environ.items() if name != "HOME"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOMELESS]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, check=False, timeout=120, capture_output=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith(b"no experiment mtexp in ")
    assert not (tmp_path / "~").exists()


def test_prose_breaks_between_words_and_commands_stay_whole():
    command = "python run.py -m mix=bert_base*2+mistral_7b mps_settings=default repetitions=3"
    text = (
        "Serve them as mix bert_base+mistral_7b under MPS.\n"
        f"  bert_base: p90 4.9 ms [4.7, 5.7] against 20 ms\n{command}\n"
    )
    assert folded(text, 40) == (
        "Serve them as mix bert_base+mistral_7b\nunder MPS.\n"
        f"  bert_base: p90 4.9 ms [4.7, 5.7]\n    against 20 ms\n{command}\n"
    )

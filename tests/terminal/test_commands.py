"""The console command ``mtexp`` and how messages write a command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mtexp.tracking.upload
from mtexp.__main__ import console, main
from mtexp.commands import COMMANDS, command_line

ROOT = Path(__file__).parents[2]
_PROBE = """
import sys
from mtexp.__main__ import console, main
code = main(["-h"])
heavy = {"hydra", "numpy", "pandas", "mlflow", "torch", "rich"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else code)
"""


def test_help_lists_every_command_and_imports_nothing_that_takes_time():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert all(f"  {name} " in ran.stdout for name in COMMANDS)


def test_python_m_mtexp_is_the_command():
    command = [sys.executable, "-m", "mtexp", "--version"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("mtexp ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_by_the_name_it_was_called_by(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mtexp", name, "-h"])
    try:
        code = main([name, "-h"])
    except SystemExit as end:
        code = end.code
    assert not code
    assert f"mtexp {name}" in capsys.readouterr().out


def test_arguments_and_exit_codes_are_those_of_the_command(monkeypatch):
    seen = []
    monkeypatch.setattr(mtexp.tracking.upload, "main", lambda arguments: seen.extend(arguments) or 7)
    assert main(["upload", "DIR", "--ended"]) == 7
    assert seen == ["DIR", "--ended"]


def test_an_interrupted_command_ends_with_130(monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(mtexp.tracking.upload, "main", interrupted)
    monkeypatch.setattr(sys, "argv", ["mtexp", "upload", "DIR"])
    assert console() == 130


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["reprot"], "mtexp report"),
        (["mix=pair"], "mtexp run mix=pair"),
        (["-m", "mix=a,b"], "mtexp run"),
        ([], "usage"),
    ],
)
def test_an_unknown_command_is_refused_with_a_hint(arguments, hint, capsys):
    assert main(arguments) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("started", "command"),
    [
        ("/home/me/.venv/bin/mtexp", "mtexp upload"),
        ("/home/me/site-packages/mtexp/__main__.py", "python -m mtexp upload"),
        ("run.py", "python -m mtexp.tracking.upload"),
    ],
)
def test_a_command_is_written_as_the_user_types_it(started, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started])
    assert command_line("upload") == command


def test_without_a_checkout_a_command_is_that_of_the_package(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["-c"])
    monkeypatch.setattr("mtexp.commands._in_checkout", lambda: False)
    assert command_line("run") == "mtexp run"

"""The commands of mtexp, by name, and how the reader of a message types them. Pure: no import that takes time.

A new command is one line in :data:`COMMANDS`; its module has ``main(arguments) -> exit code``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Command:
    """What ``mtexp NAME`` runs."""

    module: str
    """Module with ``main(arguments) -> exit code``."""
    checkout: str
    """What does the same in a checkout, where nothing needs to be installed as a command."""
    summary: str
    """One line for ``mtexp -h``."""


COMMANDS = {
    "run": Command("mtexp.terminal.early", "python run.py", "measure a mix, or with -m sweep over several"),
    "report": Command("mtexp.analysis.report", "python -m analysis.report", "write an HTML report of runs"),
    "fetch": Command("mtexp.analysis.fetch", "python -m analysis.fetch", "print runs as a table"),
    "tables": Command("mtexp.analysis.tables_command", "python -m analysis.tables_command", "print a table of a study"),
    "sweeps": Command("mtexp.tracking.sweeps", "python -m mtexp.tracking.sweeps", "list, rename or delete sweeps"),
    "advise": Command("mtexp.analysis.advise", "python -m analysis.advise", "say what may share a GPU"),
    "compare": Command("mtexp.analysis.compare", "python -m analysis.compare", "say what changed between two sweeps"),
    "predict": Command("mtexp.analysis.predict", "python -m analysis.predict", "predict mixes that were not measured"),
    "pack": Command("mtexp.analysis.pack", "python -m analysis.pack", "place a demand on as few GPUs as serve it"),
    "split": Command("mtexp.analysis.split", "python -m analysis.split", "say which SMs each tenant should get"),
    "sms": Command("mtexp.analysis.sms", "python -m analysis.sms", "show which SMs each tenant ran on"),
    "churn": Command("mtexp.analysis.churn", "python -m analysis.churn", "compare what a neighbour's life does"),
    "export": Command("mtexp.analysis.export", "python -m analysis.export", "write runs as a few small files"),
    "upload": Command("mtexp.tracking.upload", "python -m mtexp.tracking.upload", "send records to MLflow"),
    "numerics": Command(
        "mtexp.sharing.numerics",
        "python -m mtexp.sharing.numerics",
        "find MPS percentages that compute wrong results",
    ),
    "ui": Command("mtexp.tracking.ui", "python -m mtexp.tracking.ui", "open the MLflow UI on the runs"),
}


def command_line(name: str) -> str:
    """Return how to type the command ``name`` here, e.g. ``python run.py`` or ``mtexp run``.

    Users read back the form that they use: the console command, ``python -m mtexp``, or the scripts of a checkout.
    """
    started = Path(sys.argv[0])
    if started.name == "mtexp":
        return f"mtexp {name}"
    if started.parts[-2:] == ("mtexp", "__main__.py"):
        return f"python -m mtexp {name}"
    return COMMANDS[name].checkout if _in_checkout() else f"mtexp {name}"


def _in_checkout() -> bool:
    root = Path(__file__).resolve().parents[1]
    return (root / "run.py").is_file() and (root / "pyproject.toml").is_file()

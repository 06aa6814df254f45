"""The console command ``mtexp COMMAND ...``, also ``python -m mtexp``. Imports a command's module when it is asked for.

Exit codes are those of the command; 2 also where there is no such command, 130 after Ctrl-C.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from mtexp import __version__
from mtexp.collector import collector_off
from mtexp.commands import COMMANDS
from mtexp.output import enter

REFUSED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mtexp COMMAND ...`` and return its exit code."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or [""]
    if name in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    if name == "--version":
        sys.stdout.write(f"mtexp {__version__}\n")
        return 0
    if name not in COMMANDS:
        sys.stderr.write(_unknown(name) if name else usage())
        return REFUSED
    with collector_off():
        command = importlib.import_module(COMMANDS[name].module)
    code: int = command.main(rest)
    return code


def console() -> int:
    """The entry point of the installed command."""
    return enter(main)


def usage() -> str:
    """Return the text of ``mtexp -h``."""
    lines = [f"  {name:<9} {command.summary}" for name, command in COMMANDS.items()]
    return (
        "mtexp measures what several transformer models do to each other on one GPU.\n\n"
        "usage: mtexp COMMAND ...\n\n" + "\n".join(lines) + "\n\n"
        "mtexp COMMAND -h explains one. For example: mtexp run mix=bert_base*2+llama_3_2_1b\n"
    )


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" Did you mean mtexp {near[0]}?" if near else ""
    if name.startswith(("-", "+")) or "=" in name:
        hint = f" To measure: mtexp run {name} ..."
    return f"mtexp: {name} is not a command. Commands: {', '.join(COMMANDS)}.{hint}\n"


if __name__ == "__main__":
    sys.exit(enter(main))

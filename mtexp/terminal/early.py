"""The start of ``mtexp run``: torch is imported, in the forkserver, while the command line is still read and checked.

Both take seconds, on two cores side by side. The server ends with this process, also where the command line is refused.
May touch: the forkserver.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence

from mtexp.collector import collector_off
from mtexp.output import say_interrupted
from mtexp.processes import PRELOADED, start_forkserver
from mtexp.signals import ended_in_order

_NO_RUN = ("-h", "--help", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
_NO_FORKSERVER = ("dry_run=", "launcher=", "hydra/launcher=")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (:func:`mtexp.terminal.cli.main`) and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return ended_in_order(lambda: _main(given), say_interrupted)  # from here on there is a process to end in order


def _main(arguments: list[str]) -> int:
    if starts_tenants(arguments):
        multiprocessing.set_forkserver_preload(PRELOADED)
        start_forkserver()
    with collector_off():
        from mtexp.terminal import cli
    return cli.main(arguments)


def starts_tenants(arguments: Sequence[str]) -> bool:
    """Whether a command line, if it is not refused, runs tenants from the forkserver of this process."""
    return not any(argument in _NO_RUN or argument.lstrip("+").startswith(_NO_FORKSERVER) for argument in arguments)

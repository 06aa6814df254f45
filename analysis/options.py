"""Shared parts of the ``analysis`` commands: choosing runs, and error messages.

Lives here: :func:`add_source`, :func:`read`, :func:`refusing`. May touch: what :func:`analysis.data.load` does, stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mtexp.errors import MtexpError, RecordError
from mtexp.output import say

from .data import load
from .dataset import DataError, Dataset

REFUSED = 2


def add_source(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    """Add the arguments that choose the runs: a query (as ``--query`` unless ``positional``), a sweep or a folder."""
    text = "MLflow filter, e.g. \"params.mix = 'mixed'\"; default all"
    if positional:
        parser.add_argument("query", nargs="?", default="", help=text)
    else:
        parser.add_argument("--query", default="", help=text)
    parser.add_argument("--sweep", default="", metavar="NAME", help="runs of one sweep; latest = the newest")
    parser.add_argument("--records", type=Path, metavar="DIR", help="an export, or a folder of records; no MLflow")
    parser.add_argument("--uri", help="MLflow; default: MLFLOW_TRACKING_URI, else mlflow.db here")
    parser.add_argument("--experiment", default="mtexp", help="MLflow experiment (default: mtexp)")


def read(options: argparse.Namespace, *, include_invalid: bool, churn_alone: bool = False) -> Dataset:
    """Return the runs that the arguments of :func:`add_source` choose; raises like :func:`analysis.data.load`."""
    return load(
        options.query,
        sweep=options.sweep,
        records=options.records,
        uri=options.uri,
        experiment=options.experiment,
        include_invalid=include_invalid,
        churn_alone=churn_alone,
    )


def said_apart(options: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """Within it, what runs print goes to stderr where another program reads the table (``--csv``, ``--json`` ...)."""
    return contextlib.redirect_stdout(sys.stderr) if options.format else contextlib.nullcontext()


def numbers(option: str, text: str, allowed: str) -> dict[str, float]:
    """``bert_base=20,mistral_7b=100`` as a mapping.

    Args:
        option: That it is the value of.
        text: What was given.
        allowed: For the message.

    Raises:
        DataError: It is not that.
    """
    found: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, value = (side.strip() for side in part.partition("="))
        if name in found:
            raise DataError(f"{option} {part}: {name} has a value already, {found[name]:g}")
        found[name] = number(f"{option} {part}", value, allowed)
    return found


def number(what: str, text: str, allowed: str) -> float:
    """A number of the command line; raises :class:`DataError` with ``what`` was given and what is ``allowed``."""
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{what}: allowed: {allowed}") from None


def write_text(option: str, path: Path, text: str) -> None:
    """Write the file that ``option`` asks for, and make its folder.

    Raises:
        RecordError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{option} {path}: {error.strerror or error}. Choose another place") from error


def refusing(command: Callable[..., int]) -> Callable[..., int]:
    """Report a user's error as one message with exit code 2."""

    @functools.wraps(command)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return command(arguments)
        except MtexpError as error:
            say(f"{error}\n", error=True)
            return REFUSED

    return run

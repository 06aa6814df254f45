"""What may share a GPU: ``python -m analysis.advise --models bert_base,gpt2 --slo-ms bert_base=20,gpt2=100``.

Lives here: the command; what it says is computed in :mod:`analysis.advice`. May touch: what :func:`analysis.data.load`
does, standard output; with ``--confirm`` it runs what would confirm the advice.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mtexp.commands import COMMANDS, command_line
from mtexp.output import enter, say

from .advice import Advice, advise
from .dataset import DataError
from .formats import add_formats, formatted
from .objective import Objective, read_targets, weights_of
from .options import add_source, number, numbers, read, refusing, said_apart
from .pooling import FEW_DRAWS, pool

__all__ = ["Advice", "advise", "candidates_frame", "main"]


def candidates_frame(advice: Advice) -> pd.DataFrame:
    """One row a tenant of each mix that was considered, the chosen one first."""
    rows = []
    for candidate in (*([advice.best] if advice.best else []), *advice.others):
        for level in candidate.levels:
            at = level.latency_ms
            ends = {"latency_ms": at.value, "latency_ms_ci_low": at.low, "latency_ms_ci_high": at.high} if at else {}
            rows.append(
                {
                    "chosen": candidate is advice.best,
                    "mix": candidate.mix,
                    "sharing": candidate.sharing,
                    "state": candidate.state,
                    "score": candidate.score,
                    "throughput_rps": candidate.throughput_rps,
                    "tenant": level.label,
                    "slo_ms": level.slo_ms,
                    "percentile": advice.percentile,
                    **ends,
                    "tenant_state": level.state,
                    "requests": level.requests,
                }
            )
    return pd.DataFrame(rows)


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the advice; exit code 1 if no measured mix keeps every level, 2 if no advice is possible."""
    parser = argparse.ArgumentParser(prog=command_line("advise"), description="Which mix to serve, and how.")
    parser.add_argument("--models", default="", help="comma-separated, e.g. bert_base,mistral_7b")
    parser.add_argument("--slo-ms", default="", metavar="MODEL=MS,...", help="service level of each model")
    parser.add_argument("--targets", type=Path, metavar="FILE", help="YAML or JSON with levels, weights, percentile")
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="MODEL=W",
        help="value of a request; default progress",
    )
    parser.add_argument("--tokens", action="store_true", help="count tokens, not requests; weights are then of tokens")
    parser.add_argument("--cost-per-hour", default="0", metavar="C", help="of the device: says the cost of a million")
    add_formats(parser)
    parser.add_argument("--percentile", metavar="P", help="of latency, to judge by, e.g. 99; default what is supported")
    parser.add_argument("--include-invalid", action="store_true", help="also INVALID runs; the answer says so")
    parser.add_argument("--confirm", action="store_true", help="run what would confirm the advice; needs the GPU")
    add_source(parser, positional=False)
    options = parser.parse_args(arguments)
    levels, weights, percentile = read_targets(options.targets) if options.targets else ({}, {}, None)
    models = [name.strip() for name in options.models.split(",") if name.strip()] or list(levels)
    if not models:
        raise DataError("--models is empty; name models that were measured, e.g. bert_base,mistral_7b")
    given = numbers("--slo-ms", options.slo_ms, "MODEL=MILLISECONDS above 0, e.g. bert_base=20,gpt2=100")
    levels, weights = levels | given, weights | weights_of(options.weight)
    cost = number(f"--cost-per-hour {options.cost_per_hour}", options.cost_per_hour, "a number, e.g. 2.5")
    if not 0 <= cost < math.inf:
        raise DataError(f"--cost-per-hour {cost:g}: allowed: 0 or above")
    objective = Objective(weights, options.tokens, cost)
    if options.percentile is not None:
        percentile = number(f"--percentile {options.percentile}", options.percentile, "a number, e.g. 99")
    data = read(options, include_invalid=options.include_invalid)
    advice = advise(pool(data, draws=FEW_DRAWS), models, levels, percentile=percentile, objective=objective)
    if options.format:
        sys.stdout.write(formatted(candidates_frame(advice), options.format))
        sys.stdout.flush()
    else:
        say(f"{advice}\n")
    if options.confirm:
        with said_apart(options):
            return _confirm(advice)
    return 0 if advice.best else 1


def _confirm(advice: Advice) -> int:
    """Measure what would confirm the advice, as a sweep of its own; the exit code is that of the sweep.

    Raises:
        DataError: There is nothing to measure.
    """
    if advice.confirm is None:
        raise DataError("--confirm: no mix keeps every level, measured or predicted, so there is nothing to confirm")
    code: int = importlib.import_module(COMMANDS["run"].module).main(["-m", *advice.confirm])
    return code


if __name__ == "__main__":
    sys.exit(enter(main))

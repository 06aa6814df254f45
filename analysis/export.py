"""Measured runs as a few small files that can be committed: ``python -m analysis.export QUERY DIR``.

Lives here: the command; :mod:`analysis.export_files` has the format.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtexp.commands import command_line
from mtexp.output import enter

from .export_files import write_export
from .options import add_source, read, refusing


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Export runs; the exit code is 2 when there is nothing to export."""
    parser = argparse.ArgumentParser(prog=command_line("export"), description="Runs as small committed files.")
    add_source(parser)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write")
    options = parser.parse_args(arguments)
    data = read(options, include_invalid=True)
    sizes = write_export(data, options.folder)
    total_mib = sum(sizes.values()) / 2**20
    sys.stdout.write(
        f"{options.folder}: runs {len(data.runs)}, iterations {len(data.iterations)}, {total_mib:.1f} MiB\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))

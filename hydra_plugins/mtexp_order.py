"""Hydra's side of ``sweep_order=random``: the basic sweeper, whose points run in an order drawn from the seed.

Hydra accepts sweepers from the package ``hydra_plugins`` only. A point keeps the folder of its place in the written
order, so that the same command line finds it there again.
"""

from __future__ import annotations

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from mtexp.config.composer import folders_are_numbered
from mtexp.config.order import random_order


class RandomOrderSweeper(BasicSweeper):
    """All points of the sweep, in random order."""

    def split_arguments(  # type: ignore[override]  # the basic sweeper's is static, but called on the object
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Return batches of points in the order in which they run."""
        assert self.config is not None  # set up before it sweeps
        (points,) = BasicSweeper.split_arguments(overrides, None)
        numbered = folders_are_numbered(self.config)
        ordered = [
            [*points[number], *([f"hydra.sweep.subdir={number}"] if numbered else [])]
            for number in random_order(points, self.config.seed)
        ]
        return list(self.split_overrides_to_chunks(ordered, max_batch_size)) if ordered else [[]]

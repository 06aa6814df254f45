"""The Hydra sweeper of ``experiment=capacity``, which chooses each point from the results so far.

Hydra accepts sweepers from the package ``hydra_plugins`` only. The outer points are those of the basic sweeper; each
has its own search. A batch is the next probe of every search that is not over, so a launcher that runs jobs side by
side (joblib on several GPUs) runs searches side by side. Results come from the records in the folders of the probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig

from mtexp.config import plan
from mtexp.config.capacity import search_rule
from mtexp.config.composer import compose_job
from mtexp.config.convert import to_spec
from mtexp.config.hardware import Hardware
from mtexp.config.schema import Config
from mtexp.running import capacity_search
from mtexp.spec import content_hash, spec_hash
from mtexp.terminal import console

_MEASURE = ("rerun_invalid=false", "resume=false")
"""What is there already is looked at here: a job that is launched measures."""


class CapacitySweeper(BasicSweeper):
    """A search for every point of the sweep."""

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size, params)
        self._configs: dict[str, Config] = {}
        self._launched: set[Path] = set()

    @property
    def _sweep(self) -> DictConfig:
        """The configuration of the sweep, which Hydra sets before it asks for anything."""
        assert self.config is not None
        return self.config

    def is_done(self) -> bool:
        """Read the results of the last batch; true if no search needs another probe."""
        for search in self._searches:
            self._advance(search)
        capacity_search.save(self._folder, self._sweep.sweep, self._searches)
        return all(search.next_value is None for search in self._searches)

    def get_job_batch(self) -> Sequence[Sequence[str]]:
        """Return the next probe of every unfinished search."""
        batch = []
        for search in self._searches:
            if (value := search.next_value) is not None:
                folder = self._place(search, value)[0]
                self._launched.add(folder)
                own = (f"arrival.{search.rule.by}={value!r}", f"capacity.search='{search.name}'")
                batch.append([*search.overrides, *own, f"hydra.sweep.subdir={folder.name}", *_MEASURE])
        return batch

    @cached_property
    def _searches(self) -> list[capacity_search.Search]:
        return [self._search(point) for batch in self.overrides or () for point in batch]

    @cached_property
    def _hardware(self) -> Hardware:
        return plan.hardware_for(self._sweep.hydra.launcher._target_)

    @cached_property
    def _folder(self) -> Path:
        return Path(self._sweep.hydra.sweep.dir)

    def _search(self, point: Sequence[str]) -> capacity_search.Search:
        assert self.hydra_context is not None
        config = compose_job(self.hydra_context.config_loader, self._sweep, point)
        spec = to_spec(config, self._hardware)
        name = content_hash([config.sweep, config.capacity.by.name, spec_hash(spec)])
        self._configs[name] = config
        return capacity_search.Search.of(name, search_rule(config, spec), spec, point)

    def _advance(self, search: capacity_search.Search) -> None:
        """Read the existing probes: those of this process, and with ``resume`` those of earlier ones."""
        while (value := search.next_value) is not None:
            folder, name = self._place(search, value)
            fresh = folder in self._launched
            if not fresh and not self._settled(folder, name):
                return
            console.phase(search.take(value, folder) + ("" if fresh else ", measured before"))

    def _place(self, search: capacity_search.Search, value: float) -> tuple[Path, str]:
        """Folder and spec hash of a probe: what is measured names its folder, so that it is found again."""
        config = self._configs[search.name]
        arrival = copy(config.arrival)
        setattr(arrival, search.rule.by, value)
        name = spec_hash(to_spec(replace(config, arrival=arrival), self._hardware))
        return self._folder / f"{search.rule.by}-{value:g}-{name[:8]}", name

    def _settled(self, folder: Path, name: str) -> bool:
        """Whether an earlier process has left a record of the next probe."""
        record = capacity_search.find_record(folder) if self._sweep.resume else None
        if record is None or record.status != "FINISHED" or record.spec_hash != name:
            return False
        return record.verdict == "VALID" or not self._sweep.rerun_invalid

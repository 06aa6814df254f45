"""Composes the points of a long sweep section by section, which is faster than composing each point in full.

Hydra takes about a tenth of a second to compose a configuration. Its top-level sections (``mix``, ``precision``,
``measure`` ...) do not depend on each other, so a section is equal in all points with the same overrides of that
section. Hydra composes each section once for every distinct set of its overrides, and a point is assembled from its
sections. Overrides that affect other sections (an experiment, an interpolation) are detected by comparison and
composed in full. The result is always what Hydra would have composed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields

from omegaconf import DictConfig, OmegaConf

from mtexp.config.composer import Composer, apply_values, to_config
from mtexp.config.schema import Config

_SECTIONS = frozenset(field.name for field in fields(Config))
_Texts = tuple[str, ...]


class SectionedComposer:
    """Composes many points that share most of their overrides."""

    def __init__(self, composer: Composer) -> None:
        self._composer = composer
        self._wide: set[str] = set()
        self._composed: dict[_Texts, tuple[DictConfig, Config, bool]] = {}
        self._scratch: dict[_Texts, DictConfig] = {}
        self._values: dict[tuple[_Texts, str, _Texts], object] = {}

    def config(self, overrides: Sequence[str]) -> Config:
        """Return the configuration of one point, the same as composing ``overrides`` in full.

        The sections of different points are shared: do not write to them.

        Raises:
            HydraException, OmegaConfBaseException: It cannot be composed.
        """
        while True:
            common, by_section = self._by_section(overrides)
            _, base, independent = self._full(common)
            if not independent:
                return self._full(tuple(overrides))[1]
            point = copy.copy(base)
            for section, texts in by_section.items():
                groups = tuple(t for t in texts if self._is_group(t))
                if not self._stays_inside(section, common, groups):
                    self._wide.update(groups)
                    break
                setattr(point, section, self._section(section, common + groups, texts))
            else:
                return point

    def _by_section(self, overrides: Sequence[str]) -> tuple[_Texts, dict[str, list[str]]]:
        """Split into overrides that affect everything and overrides of one section."""
        common: list[str] = []
        by_section: dict[str, list[str]] = {}
        for text in overrides:
            override = self._composer.parse(text)
            section = (override.package or override.key_or_group).partition(".")[0]
            narrow = section in _SECTIONS and "$" not in text and text not in self._wide
            if narrow and not (override.is_delete() and section == override.key_or_group):
                by_section.setdefault(section, []).append(text)
            elif not override.is_hydra_override() or override.key_or_group == "hydra.searchpath":
                common.append(text)
        return tuple(common), by_section

    def _is_group(self, text: str) -> bool:
        return self._composer.is_group(self._composer.parse(text).key_or_group)

    def _full(self, overrides: _Texts) -> tuple[DictConfig, Config, bool]:
        """Compose in full, once; the flag says that no section refers to another."""
        if overrides not in self._composed:
            composed, _ = self._composer.load(overrides)
            independent = "${" not in OmegaConf.to_yaml(composed)
            self._composed[overrides] = composed, to_config(composed), independent
        return self._composed[overrides]

    def _stays_inside(self, section: str, common: _Texts, groups: _Texts) -> bool:
        """Whether ``groups`` change nothing but ``section``."""
        if not groups:
            return True
        _, base, _ = self._full(common)
        _, changed, independent = self._full(common + groups)
        others = _SECTIONS - {section}
        return independent and all(getattr(base, name) == getattr(changed, name) for name in others)

    def _section(self, section: str, context: _Texts, texts: list[str]) -> object:
        """Return one section: composed from its groups, with its values applied as Hydra applies them."""
        values = tuple(text for text in texts if not self._is_group(text))
        composed, config, _ = self._full(context)
        if not values:
            return getattr(config, section)
        key = (context, section, values)
        if key not in self._values:
            part = self._part(composed, context, section)
            apply_values([self._composer.parse(text) for text in values], part)
            value = part[section]
            self._values[key] = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
        return self._values[key]

    def _part(self, composed: DictConfig, context: _Texts, section: str) -> DictConfig:
        """Return a writable configuration with the ``section`` of ``composed``."""
        if OmegaConf.is_config(composed[section]):
            part = OmegaConf.masked_copy(composed, section)
            OmegaConf.set_struct(part, True)
            return part
        if context not in self._scratch:  # a single value: its type stays with the root, and it is only ever replaced
            self._scratch[context] = copy.deepcopy(composed)
        return self._scratch[context]

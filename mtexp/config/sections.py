"""Composes the points of a long sweep section by section, which is faster than composing each point in full.

Hydra takes about a tenth of a second to compose a configuration. Its top-level sections (``mix``, ``precision``,
``measure`` ...) do not depend on each other, so a section is equal in all points with the same overrides of that
section. Hydra composes what all points have in common, and each section once for every distinct set of its other
overrides; a point is assembled from its sections. Overrides that affect other sections (an experiment, an
interpolation) are detected by comparison and composed in full. The result is always what Hydra would have composed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtexp.config.composer import Composer, apply_values, to_config
from mtexp.config.schema import Config

_SECTIONS = frozenset(field.name for field in fields(Config))
_Texts = tuple[str, ...]


class SectionedComposer:
    """Composes many points that share most of their overrides."""

    def __init__(self, composer: Composer, fixed: Sequence[str] = (), composed: DictConfig | None = None) -> None:
        """Begin with what the points have in common.

        Args:
            composer: Composes.
            fixed: Overrides that all points have.
            composed: What Hydra makes of ``fixed``, if that is known already.
        """
        self._composer = composer
        self._fixed = tuple(text for text in fixed if self._is_read(text))
        self._wide: set[str] = set()
        self._composed: dict[_Texts, tuple[DictConfig, Config, bool]] = {}
        self._scratch: dict[_Texts, DictConfig] = {}
        self._values: dict[tuple[_Texts, str, _Texts], object] = {}
        if composed is not None:
            self._keep(self._fixed, composed)

    def config(self, overrides: Sequence[str]) -> Config:
        """Return the configuration of one point, the same as composing ``overrides`` in full.

        The sections of different points are shared: do not write to them.

        Raises:
            HydraException, OmegaConfBaseException: It cannot be composed.
        """
        texts = tuple(text for text in overrides if self._is_read(text))
        while True:
            sections = {text: self._section_of(text) for text in texts}
            common = tuple(text for text in texts if not sections[text] or text in self._fixed)
            try:
                _, base, independent = self._full(common)
            except (HydraException, OmegaConfBaseException):  # what it needs may be in a section: a tenant of the mix
                return self._full(tuple(overrides))[1]
            if not independent:
                return self._full(tuple(overrides))[1]
            point = copy.copy(base)
            for section in dict.fromkeys(sections[text] for text in texts if text not in common):
                own = [text for text in texts if sections[text] == section]
                groups = [text for text in own if self._is_group(text)]
                context = tuple(t for t in texts if t in groups or (t in common and t not in own))
                if not self._stays_inside(section, common, context):
                    self._wide.update(groups or own)
                    break
                setattr(point, section, self._section(section, context, own))
            else:
                return point

    def _is_read(self, text: str) -> bool:
        """Whether a configuration depends on this override; those of Hydra itself are not in it."""
        override = self._composer.parse(text)
        return not override.is_hydra_override() or override.key_or_group == "hydra.searchpath"

    def _section_of(self, text: str) -> str:
        """Return the only section that this override affects, as far as is known; none: it may affect everything."""
        override = self._composer.parse(text)
        section = (override.package or override.key_or_group).partition(".")[0]
        narrow = section in _SECTIONS and "$" not in text and text not in self._wide
        return section if narrow and not (override.is_delete() and section == override.key_or_group) else ""

    def _is_group(self, text: str) -> bool:
        return self._composer.is_group(self._composer.parse(text).key_or_group)

    def _full(self, overrides: _Texts) -> tuple[DictConfig, Config, bool]:
        """Compose in full, once; the flag says that no section refers to another."""
        if overrides not in self._composed:
            self._keep(overrides, self._composer.load(overrides)[0])
        return self._composed[overrides]

    def _keep(self, overrides: _Texts, composed: DictConfig) -> None:
        independent = "${" not in str(OmegaConf.to_container(composed, resolve=False))
        self._composed[overrides] = composed, to_config(composed), independent

    def _stays_inside(self, section: str, common: _Texts, context: _Texts) -> bool:
        """Whether ``context`` differs from ``common`` in nothing but ``section``."""
        _, base, _ = self._full(common)
        _, changed, independent = self._full(context)
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

"""transformers, imported without two detours that take half a second. May touch: transformers, while it is imported.

As it is imported, transformers reads the files of all its models to learn what they define, and then reads them again;
here the second time has the answer of the first. And it loads ``scipy.optimize`` for the losses of object detectors;
here they load it when one is called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from mtexp.collector import collector_off

__all__ = ["AutoConfig", "EncoderDecoderCache", "StaticCache", "modeling_auto", "transformers"]

_OPTIMIZE = "scipy.optimize"
_MODELS = "models"


class _Later(ModuleType):
    """Stands for a module of functions: each loads the real one when it is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **named: Any) -> Any:
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **named)

        return call


@contextmanager
def loaded_when_called(name: str) -> Iterator[None]:
    """Give what is imported from the module ``name`` functions that load it when they are called."""
    if name in sys.modules:
        yield
        return
    stand_in = sys.modules[name] = _Later(name)
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


@contextmanager
def models_read_once() -> Iterator[None]:
    """Answer the second question for what the files of transformers' models define, as the first was answered.

    A release of transformers that asks in another way gets its answer from the files.
    """
    from transformers.utils import import_utils

    define = import_utils.define_import_structure
    folder = Path(transformers.__file__).parent / _MODELS

    def known(module_path: str, prefix: str | None = None) -> Any:
        if prefix is not None or Path(module_path) != folder / "__init__.py":
            return define(module_path, prefix)
        return without_prefix(define(folder, prefix=_MODELS))

    import_utils.define_import_structure = known
    try:
        yield
    finally:
        import_utils.define_import_structure = define


def without_prefix(found: Any) -> dict[Any, dict[str, Any]]:
    """What transformers found in its models by their names within the package, made of that with ``models.`` before."""
    start = f"{_MODELS}."
    return {
        backends: {name.removeprefix(start): defined for name, defined in modules.items() if name.startswith(start)}
        for backends, modules in found.items()
    }


with collector_off(), loaded_when_called(_OPTIMIZE):
    import transformers

    with suppress(ImportError, AttributeError), models_read_once():
        import transformers.models
    import transformers.modeling_utils
    from transformers import AutoConfig, EncoderDecoderCache, StaticCache
    from transformers.models.auto import modeling_auto

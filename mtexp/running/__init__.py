"""The story of one run, of a baseline, of a capacity search and of a profile. Each of them makes a record.

The package can be called: ``mtexp.run(mix=...)`` is :func:`mtexp.api.run`.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """The type of this module."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from mtexp.api import run

        return run(*arguments, **options)


sys.modules[__name__].__class__ = _Callable

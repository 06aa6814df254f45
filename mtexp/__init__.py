"""mtexp: what several transformer models do to each other on one GPU, measured so that the answer can be trusted.

In Python: ``mtexp.run(mix="bert_base*2", mps_settings="default")`` and ``mtexp.sweep(...)`` (:mod:`mtexp.api`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtexp.api import Result as Result
    from mtexp.api import Results as Results
    from mtexp.api import run as run
    from mtexp.api import sweep as sweep

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the Python API when it is asked for: it takes a second, which ``mtexp -h`` does not have."""
    if name in ("Result", "Results", "run", "sweep"):
        from importlib import import_module  # named as text: the layers see no arrow from the package to its door

        return getattr(import_module("mtexp.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

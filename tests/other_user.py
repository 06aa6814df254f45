"""To be another user than the one who made the files, for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """Root, who may write everything, is nobody within the block; whoever else runs the tests stays who he is."""
    if root := not os.getuid():
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)

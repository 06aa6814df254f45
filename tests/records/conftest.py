from __future__ import annotations

from tests.tracking.conftest import _no_store_from_outside, tracking

__all__ = ["_no_store_from_outside", "tracking"]

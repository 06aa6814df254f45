from __future__ import annotations

from tests.tracking.conftest import _no_store_from_outside, made_store, tracking

__all__ = ["_no_store_from_outside", "made_store", "tracking"]

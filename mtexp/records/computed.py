"""What a tenant computed with: its seed, its weights, its inputs. Lives here: their name in a record.

May touch: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def computed_with(seed: int, facts: Mapping[str, Any]) -> str:
    """``seed:weights:inputs``, the checksums from a tenant's facts; empty where they were not taken (older records)."""
    weights, inputs = facts.get("weights_checksum", ""), facts.get("inputs_checksum", "")
    return f"{seed}:{weights}:{inputs}" if weights and inputs else ""


def differs(mine: str, other: str) -> bool:
    """True when two tenants of one seed computed with different weights or inputs."""
    same_seed = mine.partition(":")[0] == other.partition(":")[0]
    return bool(mine and other and same_seed and mine != other)

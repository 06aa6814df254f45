"""What the report says of a sharing mode whose runs were measured side by side with time slicing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd

from analysis.modes import with_its_price

MPS = {"runtime": "gpu", "sharing": "processes", "mps_settings": "default"}


def results(*ratios: float) -> Any:
    ends = [
        {"stp_whole_ratio": r, "stp_whole_ratio_ci_low": r - 0.02, "stp_whole_ratio_ci_high": r + 0.02} for r in ratios
    ]
    return SimpleNamespace(data=SimpleNamespace(runs=pd.DataFrame([MPS | own for own in ends] or [MPS])))


def test_the_gain_with_the_price_in_it_is_said() -> None:
    """Of one run with its interval, of several their range; of runs that were by themselves nothing."""
    assert "1.10 [1.08, 1.12]" in with_its_price(results(1.1), "MPS")
    assert "1.000 to 1.210 in 2 runs" in with_its_price(results(1.0, 1.21), "MPS")
    assert with_its_price(results(), "MPS") == ""
    assert with_its_price(results(1.1), "streams") == ""

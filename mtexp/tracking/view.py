"""How MLflow's UI shows the runs at once: the shared view, stored as a tag of the experiment. Pure.

MLflow keeps the columns a person chose in that person's browser. A shared view is how everybody sees mtexp's own.
"""

from __future__ import annotations

import json

VIEW = "mtexp"
_COLUMNS = {
    "attributes": ("Created",),
    "params": ("mix", "mps_settings", "sharing", "precision", "num_tenants"),
    "metrics": ("stp", "antt", "fairness", "throughput_rps"),
    "tags": ("mtexp.verdict", "mtexp.kind"),
}


def experiment_tags() -> dict[str, str]:
    """Tags of a new experiment: runs rather than traces come first, and the shared view."""
    columns = [f"{where}.`{name}`" for where, names in _COLUMNS.items() for name in names]
    view = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "FIRST_20_RUNS",
        "runsVisibilityMap": {},
        "groupsExpanded": {},
        "hideEmptyCharts": True,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }

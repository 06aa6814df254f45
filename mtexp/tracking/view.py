"""How MLflow's UI shows the runs at once: the shared view, stored as a tag of the experiment. Pure.

MLflow keeps the columns a person chose in that person's browser. A shared view is how everybody sees mtexp's own.
"""

from __future__ import annotations

import json

VIEW = "mtexp"
NOTE = "mlflow.note.content"
_COLUMNS = {
    "attributes": ("Description",),
    "metrics": ("stp", "slowdown", "latency_p50_ms", "latency_p99_ms"),
    "params": ("mix", "sharing", "mps_settings", "model", "batch_size", "seq_len", "load"),
    "tags": ("mtexp.verdict",),
}
"""Columns of a run: STP, mix, sharing, what is swept most, verdict; of its tenants: model, percentiles, slowdown.

MLflow sorts the columns of a kind by name and shows attributes first. A description begins with the verdict and the
main figures, so that they are seen in a narrow window, where the other columns lie beyond the edge.
"""
_DESCRIPTION = """What several models do to each other on one device, measured by mtexp.

Each run is a mix of models under one sharing mode; the plus in front of it opens a row per tenant. **stp** is the \
work done together in units of what each model does alone: 1 = no better than taking turns, the number of tenants = no \
interference. **slowdown** of a tenant is its mean latency shared / alone. A run whose **mtexp.verdict** is INVALID \
says why in its description. Runs called *baseline* are one model alone.

`mtexp report --sweep latest` makes a report of a sweep; `mtexp fetch` prints runs as a table."""
_CHARTS = (
    ("stp", "Work done together (STP)"),
    ("slowdown", "Slowdown of each tenant"),
    ("latency_p50_ms", "Median latency (ms)"),
    ("throughput_rps", "Requests a second"),
)
_SECTION = "mtexp-first"


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
        "compareRunSections": [
            {"uuid": _SECTION, "name": "mtexp", "display": True, "isReordered": True, "deleted": False}
        ],
        "compareRunCharts": [_chart(metric, title) for metric, title in _CHARTS],
        "isAccordionReordered": True,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        NOTE: _DESCRIPTION,
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }


def _chart(metric: str, title: str) -> dict[str, object]:
    """A bar chart of a metric, as MLflow's own script writes it."""
    return {
        "type": "BAR",
        "uuid": f"mtexp-{metric}",
        "metricKey": metric,
        "runsCountToCompare": 20,
        "metricSectionId": _SECTION,
        "deleted": False,
        "isGenerated": False,
        "displayName": title,
    }

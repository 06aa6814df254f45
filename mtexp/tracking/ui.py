"""The MLflow UI of what was run: the columns that matter, and ``python -m mtexp.tracking.ui``. May touch: MLflow.

MLflow keeps the columns a person chose in that person's browser. A shared view, stored as a tag of the experiment, is
how everybody sees mtexp's own at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from mtexp.commands import command_line
from mtexp.errors import TrackingError
from mtexp.output import enter
from mtexp.spec import TrackingSpec

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


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: RET503  execve does not return
    """Print the address of the runs and become ``mlflow ui``; exit code 2 when nothing was tracked."""
    from mtexp.tracking.store import open_store
    from mtexp.tracking.uri import full, is_server, resolve_uri

    parser = argparse.ArgumentParser(prog=command_line("ui"), description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--uri", default="", help="default: MLFLOW_TRACKING_URI, else mlflow.db here")
    parser.add_argument("--experiment", default="mtexp")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 shows it to your network")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)
    tracking = TrackingSpec(uri=options.uri, experiment=options.experiment)
    try:
        with open_store(tracking, write=False) as store:
            page = f"#/experiments/{store.experiment_id}/runs?viewStateShareKey={VIEW}"
    except TrackingError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    uri = resolve_uri(tracking)
    if is_server(uri):
        sys.stdout.write(f"The runs are on the server: {uri.rstrip('/')}/{page}\n")
        return 0
    sys.stdout.write(f"The runs: http://{options.host}:{options.port}/{page}\n")
    sys.stdout.flush()
    command = ["mlflow", "ui", "--host", options.host, "--port", str(options.port)]
    # the URI may hold a password: an environment is the user's own, a command line is everybody's (ps)
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": full(tracking), "PYTHONSAFEPATH": "1"}
    # safe: the current folder may have a module by the name of one of MLflow's
    os.execve(sys.executable, [sys.executable, "-m", *command], environment)


if __name__ == "__main__":
    sys.exit(enter(main))

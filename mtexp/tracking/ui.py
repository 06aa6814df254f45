"""The MLflow UI of what was run: ``mtexp ui``, ``python -m mtexp.tracking.ui``. May touch: MLflow."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mtexp.commands import command_line
from mtexp.errors import TrackingError
from mtexp.output import enter
from mtexp.spec import TrackingSpec
from mtexp.tracking.store import open_store
from mtexp.tracking.uri import full, is_server, resolve_uri
from mtexp.tracking.view import VIEW


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: RET503  execve does not return
    """Print the address of the runs and become ``mlflow ui``; exit code 2 when nothing was tracked."""
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

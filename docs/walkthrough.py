"""From runs to answers, step by step: run it as a script, or cell by cell in an editor that knows ``# %%``.

``python docs/walkthrough.py`` reads MLflow (``mlflow.db`` in the current directory, or MLFLOW_TRACKING_URI);
``python docs/walkthrough.py DIR`` reads exported records or the output folders of runs instead.
"""

# %% What to analyse: a query, a sweep, or a folder. What cannot be compared is refused here.
import sys
from pathlib import Path

from analysis import advise, findings, plots, tables
from analysis.data import load
from analysis.join import with_telemetry
from analysis.pooling import pool


def show(*things: object) -> None:
    """Print."""
    sys.stdout.write("\n".join(map(str, things)) + "\n\n")


folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
data = load(records=folder) if folder else load(sweep="latest")

# %% Plain DataFrames: a row a run, a row a tenant, a row a request. Columns are MLflow's names.
show(data.runs[["mix", "mps_settings", "num_tenants", "verdict", "throughput_rps"]])
show(data.iterations.groupby(["record_id", "tenant"], observed=True)["latency_ms"].describe().round(2))

# %% What went on meanwhile: beside each request the SM clock, and which neighbours had one in flight when it began.
beside = with_telemetry(data.iterations, data.telemetry)
show(beside.groupby(["record_id", "tenant", "neighbours"], observed=True)["latency_ms"].describe().round(2))

# %% Repetitions of one point put together, every figure with its 95 % interval.
results = pool(data)
show(tables.overview(results).round(3))

# %% Which combinations pay, by the lower end of STP, and who pays for it.
show(tables.combinations(results)[["mix", "sharing", "stp", "worst", "worst_slowdown", "pays"]].round(2))

# %% Who slows whom: the row pays, the column costs.
for sharing, rows in tables.pairs(results).groupby("sharing"):
    show(sharing, rows.pivot_table(index="victim", columns="neighbour", values="slowdown").round(2))

# %% What the data say to the questions of the study; what they do not settle is not claimed.
for answer in findings.findings(results):
    show(answer.question, f"  {answer.text}")

# %% Figures: plotly objects, or None where there is nothing to draw. In a notebook, let one be a cell's last line.
figure = plots.stp_by_mix(results)
if figure is not None:
    show(f"STP of {len(figure.data)} sharing modes and panels; figure.show() opens it")

# %% What may share the device, with every model within its level.
models = sorted(set(results.points.iloc[-1]["models"]))
show(advise.advise(results, models, dict.fromkeys(models, 500.0)))

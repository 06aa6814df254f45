"""From runs to answers: what MLflow and the records hold, as DataFrames, tables, plots, reports.

Lives here: :mod:`analysis.fetch` (a run query in, tidy DataFrames out) and what is made of them. May touch: MLflow and
records (reading; reports are logged beside their runs). Metrics are defined in :mod:`mtexp.metrics` and only there.
"""

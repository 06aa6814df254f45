"""What is kept of a run: the key registry, the record on disk, and MLflow.

Lives here: :mod:`~mtexp.records.keys` (every name MLflow holds), :mod:`~mtexp.records.record` (the record, written
first), :mod:`~mtexp.records.samples_file` (its samples as Parquet), :mod:`~mtexp.tracking.mlflow_writer` and
:mod:`~mtexp.tracking.upload` (record to MLflow), :mod:`~mtexp.tracking.ledger` (what has been measured already).
May touch: files of a record, MLflow, which nothing else writes to. Importing it imports neither MLflow nor pandas.
"""

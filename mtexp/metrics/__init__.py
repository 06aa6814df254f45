"""What the measured iterations mean: window, latency, interference, intervals, drift, verdict, summary.

Pure: the standard library and numpy only. The single definition of every figure, used by the runner, by what MLflow
holds and by ``analysis``, which defines none itself.
"""

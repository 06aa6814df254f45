"""Profiling passes, each its own run after the timed one: nsys, ncu, torch traces, kernel overlap, rooflines.

May touch: subprocess, sqlite3, numpy; pyarrow and plotly inside the functions that write artifacts. Profiling never
runs while a timed run measures.
"""

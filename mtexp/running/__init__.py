"""Runs a mix, a baseline, a capacity search or a profiling pass, step by step. Each of them makes a record."""

"""Fakes that ship: what tests of mtexp, and of what is built on it, put in the place of a GPU.

A fake refuses what it does not know and passes the same contract tests as the real thing.
"""

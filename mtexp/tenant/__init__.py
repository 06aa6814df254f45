"""The child process: models, workloads, arrivals, the measuring loop. The only importer of torch and transformers.

``job`` and ``buffers`` are what parent and child share, and import neither.
"""
